/* The entries that wait for the disk, and the batch that is out. */
#include "coordinator/ledger_queue.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "coordinator/directory.h"

enum { RETRY_MS = 1000, BATCH_BYTES = 8 << 20 };

struct gathered { /* one commit */
    uint64_t number, first_index;
    struct buffer bytes; /* entries, each u32 length || bytes */
};

struct ledger_queue {
    struct ledger_queue_options options;
    struct gathered *items; /* [count], in order */
    size_t count, capacity;
    size_t sent;       /* of the first items, in the store's hands; 0: none are */
    uint64_t retry_at; /* after a full disk; 0: it is not */

    pthread_mutex_t lock; /* of what follows, for those who await */
    pthread_cond_t changed;
    uint64_t durable; /* ledger size */
    bool full;        /* the store gave a batch back, and has taken none since */
    bool ended;
};

struct ledger_queue *ledger_queue_create(const struct ledger_queue_options *options) {
    struct ledger_queue *queue = xcalloc(1, sizeof *queue);
    queue->options = *options;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->changed, NULL);
    queue->durable = options->durable;
    return queue;
}

void ledger_queue_destroy(struct ledger_queue *queue) {
    if (!queue) return;
    for (size_t i = 0; i < queue->count; i++) buffer_deinit(&queue->items[i].bytes);
    free(queue->items);
    pthread_cond_destroy(&queue->changed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

/* ---- to the store ---------------------------------------------------------------------------- */

static void note_durable(struct ledger_queue *queue, uint64_t size) {
    pthread_mutex_lock(&queue->lock);
    queue->durable = MAX(queue->durable, size);
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

bool ledger_queue_await(struct ledger_queue *queue, uint64_t size) {
    pthread_mutex_lock(&queue->lock);
    while (queue->durable < size && !queue->ended && !queue->full)
        pthread_cond_wait(&queue->changed, &queue->lock);
    bool reached = queue->durable >= size;
    pthread_mutex_unlock(&queue->lock);
    return reached;
}

struct writing { /* carried through the store's writer */
    struct ledger_queue *queue;
    uint64_t end; /* ledger size once it is durable */
};

static void on_durable(void *context, enum status status, const struct error *error) {
    struct writing *writing = context;
    struct ledger_queue *queue = writing->queue;
    if (status == OK) note_durable(queue, writing->end);
    queue->options.written(queue->options.context, status, error ? error->message : "");
    free(writing);
}

static uint64_t put_entries(struct store_batch *batch, const struct gathered *item) {
    struct reader reader = reader_of(buffer_bytes(&item->bytes));
    uint64_t index = item->first_index;
    for (; reader_left(&reader) > 0; index++) {
        uint8_t key[STORE_KEY_U64_SIZE];
        uint32_t size = reader_u32(&reader);
        store_key_u64(index, key);
        store_batch_put(batch, TABLE_LEDGER, bytes_of(key, sizeof key), reader_take(&reader, size));
    }
    return index;
}

static void set_full(struct ledger_queue *queue, bool full) {
    pthread_mutex_lock(&queue->lock);
    queue->full = full;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

static void wait_for_room(struct ledger_queue *queue, const char *message, uint64_t now_ms) {
    queue->options.waits(queue->options.context, message);
    set_full(queue, true);
    queue->retry_at = now_ms + RETRY_MS;
}

static void fail(struct ledger_queue *queue, const struct error *error) {
    char message[256];
    snprintf(message, sizeof message, "the ledger cannot be written: %.200s", error->message);
    queue->options.broken(queue->options.context, message);
}

/* All that has gathered from item `from` on, as far as one batch goes. */
static void send_batch(struct ledger_queue *queue, size_t from, uint64_t now_ms) {
    struct store_batch *batch = store_batch_create(queue->options.store);
    struct writing *writing = xmalloc(sizeof *writing);
    size_t sent = from;
    *writing = (struct writing){.queue = queue};
    while (sent < queue->count && store_batch_size(batch) < BATCH_BYTES)
        writing->end = put_entries(batch, &queue->items[sent++]);
    struct error error = {0};
    enum status status = store_commit(queue->options.store, batch, on_durable, writing, &error);
    if (status == OK) {
        queue->sent = sent;
        return;
    }
    store_batch_destroy(batch);
    free(writing);
    if (status == FULL)
        wait_for_room(queue, error.message, now_ms);
    else
        fail(queue, &error);
}

void ledger_queue_add(struct ledger_queue *queue, uint64_t number, uint64_t first_index,
                      struct bytes entries) {
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 64;
        queue->items = xrealloc(queue->items, queue->capacity * sizeof *queue->items);
    }
    struct gathered *item = &queue->items[queue->count++];
    *item = (struct gathered){.number = number, .first_index = first_index};
    buffer_append(&item->bytes, entries.data, entries.size);
}

void ledger_queue_flush(struct ledger_queue *queue, uint64_t now_ms) {
    if (queue->count > 0 && queue->sent == 0 && queue->retry_at == 0) send_batch(queue, 0, now_ms);
}

uint64_t ledger_queue_retry_at(const struct ledger_queue *queue) {
    return queue->retry_at ? queue->retry_at : UINT64_MAX;
}

void ledger_queue_retry(struct ledger_queue *queue, uint64_t now_ms) {
    queue->retry_at = 0;
    store_resume(queue->options.store);
    ledger_queue_flush(queue, now_ms);
}

uint64_t ledger_queue_taken(struct ledger_queue *queue, enum status status, const char *message,
                            uint64_t now_ms) {
    size_t sent = queue->sent;
    queue->sent = 0;
    if (status == FULL) {
        wait_for_room(queue, message, now_ms);
        return 0;
    }
    uint64_t number = sent > 0 ? queue->items[sent - 1].number : 0;
    if (status != OK) return number;
    queue->options.has_room(queue->options.context);
    set_full(queue, false);
    for (size_t i = 0; i < sent; i++) buffer_deinit(&queue->items[i].bytes);
    queue->count -= sent;
    memmove(queue->items, queue->items + sent, queue->count * sizeof *queue->items);
    return number;
}

void ledger_queue_end(struct ledger_queue *queue, uint64_t now_ms) {
    while (queue->retry_at == 0 &&
           queue->sent < queue->count) { /* after what is out: the store keeps the order */
        size_t before = queue->sent;
        send_batch(queue, before, now_ms);
        if (queue->sent == before) break;
    }
    pthread_mutex_lock(&queue->lock);
    queue->ended = true;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}
