/* The ledger's way to the disk.
 *
 * The brain's entries gather here, in order, and go to the store as one batch: all that gathered while the one before was being
 * written. At most one batch is out, so neither a thousand orders in one moment nor a disk that stands still can fill the
 * store's queue; what gathers is bounded by the brain, which answers BUSY beyond COMMITS_LIMIT.
 *
 * A full disk is waited out. The store gives the batch back (FULL) and takes nothing more until it is told to go on; the entries
 * are still here, so the same ones are tried again every RETRY_MS until there is room. Nobody is told that they are durable
 * before they are. Any other failure of the store is the end: what the disk holds is then unknown.
 *
 * Threads: the queue is the brain's. `durable`, `full` and `ended` are guarded by `lock`, for the model thread, which names a
 * snapshot only once the ledger on disk reaches that far.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "coordinator/server_internal.h"

enum { RETRY_MS = 1000, BATCH_BYTES = 8 << 20 };

struct gathered { /* one COMMIT of the brain's */
    uint64_t number, first_index;
    struct buffer bytes; /* entries, each u32 length || bytes */
};

struct ledger_queue {
    struct gathered *items; /* [count], in order */
    size_t count, capacity;
    size_t sent;       /* of the first items, in the store's hands; 0: none are */
    uint64_t retry_at; /* after a full disk; 0: it is not */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t durable; /* ledger size */
    bool full;        /* the store gave a batch back, and has taken none since */
    bool ended;
};

void ledger_open(struct server *server, uint64_t durable) {
    struct ledger_queue *queue = xcalloc(1, sizeof *queue);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->changed, NULL);
    queue->durable = durable;
    server->ledger = queue;
}

void ledger_close(struct server *server) {
    struct ledger_queue *queue = server->ledger;
    if (!queue) return;
    for (size_t i = 0; i < queue->count; i++) buffer_deinit(&queue->items[i].bytes);
    free(queue->items);
    pthread_cond_destroy(&queue->changed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
    server->ledger = NULL;
}

/* ---- to the store ------------------------------------------------------------------------------------------------------- */

static void note_durable(struct ledger_queue *queue, uint64_t size) {
    pthread_mutex_lock(&queue->lock);
    queue->durable = MAX(queue->durable, size);
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

bool ledger_await(void *context, uint64_t size) {
    struct server *server = context;
    struct ledger_queue *queue = server->ledger;
    pthread_mutex_lock(&queue->lock);
    while (queue->durable < size && !queue->ended && !queue->full) pthread_cond_wait(&queue->changed, &queue->lock);
    bool reached = queue->durable >= size;
    pthread_mutex_unlock(&queue->lock);
    return reached;
}

struct writing { /* carried through the store's writer */
    struct server *server;
    uint64_t end; /* ledger size once it is durable */
};

static void on_durable(void *context, enum status status, const struct error *error) {
    struct writing *writing = context;
    struct server *server = writing->server;
    if (status == OK) note_durable(server->ledger, writing->end);
    struct brain_item *item = brain_item_create(BRAIN_DURABLE, NULL);
    item->status = status;
    if (error) snprintf(item->message, sizeof item->message, "%s", error->message);
    brain_push(server, item);
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

static void wait_for_room(struct server *server, const char *message) {
    disk_waits(server->disk, DISK_LEDGER, message);
    set_full(server->ledger, true);
    server->ledger->retry_at = clock_monotonic_ms() + RETRY_MS;
}

/* All that has gathered from item `from` on, as far as one batch goes. */
static void send_batch(struct server *server, size_t from) {
    struct ledger_queue *queue = server->ledger;
    struct store_batch *batch = store_batch_create(server->data.store);
    struct writing *writing = xmalloc(sizeof *writing);
    size_t sent = from;
    *writing = (struct writing){.server = server};
    while (sent < queue->count && store_batch_size(batch) < BATCH_BYTES) writing->end = put_entries(batch, &queue->items[sent++]);
    struct error error = {0};
    enum status status = store_commit(server->data.store, batch, on_durable, writing, &error);
    if (status == OK) {
        queue->sent = sent;
        return;
    }
    store_batch_destroy(batch);
    free(writing);
    if (status == FULL)
        wait_for_room(server, error.message);
    else
        server_break(server, "the ledger cannot be written: %.200s", error.message);
}

void ledger_add(struct server *server, const struct coordinator_action *action) {
    struct ledger_queue *queue = server->ledger;
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 64;
        queue->items = xrealloc(queue->items, queue->capacity * sizeof *queue->items);
    }
    struct gathered *item = &queue->items[queue->count++];
    *item = (struct gathered){.number = action->commit, .first_index = action->first_index};
    buffer_append(&item->bytes, action->bytes.data, action->bytes.size);
}

void ledger_flush(struct server *server) {
    struct ledger_queue *queue = server->ledger;
    if (queue->count > 0 && queue->sent == 0 && queue->retry_at == 0) send_batch(server, 0);
}

uint64_t ledger_retry_at(const struct server *server) { return server->ledger->retry_at ? server->ledger->retry_at : UINT64_MAX; }

void ledger_retry(struct server *server) {
    server->ledger->retry_at = 0;
    store_resume(server->data.store);
    ledger_flush(server);
}

uint64_t ledger_taken(struct server *server, enum status status, const char *message) {
    struct ledger_queue *queue = server->ledger;
    size_t sent = queue->sent;
    queue->sent = 0;
    if (status == FULL) {
        wait_for_room(server, message);
        return 0;
    }
    uint64_t number = sent > 0 ? queue->items[sent - 1].number : 0;
    if (status != OK) return number;
    disk_has_room(server->disk, DISK_LEDGER);
    set_full(queue, false);
    for (size_t i = 0; i < sent; i++) buffer_deinit(&queue->items[i].bytes);
    queue->count -= sent;
    memmove(queue->items, queue->items + sent, queue->count * sizeof *queue->items);
    return number;
}

void ledger_end(struct server *server) {
    struct ledger_queue *queue = server->ledger;
    while (queue->retry_at == 0 && queue->sent < queue->count) { /* after what is out: the store keeps the order */
        size_t before = queue->sent;
        send_batch(server, before);
        if (queue->sent == before) break;
    }
    pthread_mutex_lock(&queue->lock);
    queue->ended = true;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}
