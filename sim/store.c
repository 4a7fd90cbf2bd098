/* storage/store.h over the coordinator's simulated disk: the ledger is the disk's entries, the
 * snapshots' names are kept beside it. */
#include "storage/store.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "coordinator/directory.h"
#include "sim/storage_internal.h"

struct operation {
    bool is_delete;
    unsigned table;
    uint64_t key;
    struct buffer value;
};

struct store_batch {
    struct operation *items; /* [count] */
    size_t count, size;
};

/* ---- batches --------------------------------------------------------------------------------- */

struct store_batch *store_batch_create(const struct store *store) {
    (void)store;
    return xcalloc(1, sizeof(struct store_batch));
}

void store_batch_destroy(struct store_batch *batch) {
    if (!batch) return;
    for (size_t i = 0; i < batch->count; i++) buffer_deinit(&batch->items[i].value);
    free(batch->items);
    free(batch);
}

static struct operation *add(struct store_batch *batch, unsigned table, struct bytes key) {
    batch->items = xrealloc(batch->items, (batch->count + 1) * sizeof batch->items[0]);
    struct operation *operation = &batch->items[batch->count++];
    *operation = (struct operation){.table = table};
    MUST(store_key_u64_read(key, &operation->key, NULL));
    batch->size += key.size;
    return operation;
}

void store_batch_put(struct store_batch *batch, unsigned table, struct bytes key,
                     struct bytes value) {
    struct operation *operation = add(batch, table, key);
    buffer_append(&operation->value, value.data, value.size);
    batch->size += value.size;
}

void store_batch_delete(struct store_batch *batch, unsigned table, struct bytes key) {
    add(batch, table, key)->is_delete = true;
}

size_t store_batch_size(const struct store_batch *batch) { return batch->size; }

/* ---- writing --------------------------------------------------------------------------------- */

static void remove_name(struct store *store, uint64_t version) {
    for (size_t i = 0; i < store->name_count; i++) {
        if (store->names[i].version != version) continue;
        buffer_deinit(&store->names[i].header);
        store->name_count--;
        memmove(&store->names[i], &store->names[i + 1],
                (store->name_count - i) * sizeof store->names[0]);
        return;
    }
}

static void put_name(struct store *store, uint64_t version, struct bytes header) {
    size_t at = 0;
    remove_name(store, version);
    store->names = xrealloc(store->names, (store->name_count + 1) * sizeof store->names[0]);
    while (at < store->name_count && store->names[at].version < version) at++;
    memmove(&store->names[at + 1], &store->names[at],
            (store->name_count++ - at) * sizeof store->names[0]);
    store->names[at] = (struct snapshot_name){.version = version};
    buffer_append(&store->names[at].header, header.data, header.size);
}

static enum status append_entries(struct store *store, const struct store_batch *batch) {
    struct disk *disk = store->setup.disk;
    struct buffer raw = {0};
    for (size_t i = 0; i < batch->count; i++) {
        const struct operation *operation = &batch->items[i];
        ASSERT(operation->table == TABLE_LEDGER && !operation->is_delete);
        if (operation->key != disk->entry_count + i)
            world_fail(store->setup.world, "store", "entry %llu is put where there are %llu",
                       (unsigned long long)operation->key,
                       (unsigned long long)(disk->entry_count + i));
        buffer_u32(&raw, (uint32_t)operation->value.size);
        buffer_append(&raw, operation->value.data, operation->value.size);
    }
    enum status status = disk_append(disk, buffer_bytes(&raw));
    buffer_deinit(&raw);
    return status;
}

static enum status change_names(struct store *store, const struct store_batch *batch) {
    enum status status = disk_write(store->setup.disk);
    if (status == CANCELLED || status == FULL) return status;
    /* else it is there, but nobody may count on it */
    if (status == FAILED && world_luck(store->setup.world, 0.5)) return status;
    for (size_t i = 0; i < batch->count; i++) {
        const struct operation *operation = &batch->items[i];
        ASSERT(operation->table == TABLE_SNAPSHOTS);
        if (operation->is_delete)
            remove_name(store, operation->key);
        else
            put_name(store, operation->key, buffer_bytes(&operation->value));
    }
    return status;
}

static enum status refusal(const struct store *store, struct error *error) {
    if (process_is_doomed(store->setup.world, store->setup.process))
        return error_set(error, CANCELLED, "the process ends");
    if (store->failed) return error_set(error, FAILED, "a sync has failed");
    if (store->full) return error_set(error, FULL, "no room on the disk");
    return OK;
}

static enum status write_batch(struct store *store, const struct store_batch *batch,
                               struct error *error) {
    TRY(refusal(store, error));
    bool ledger = batch->count > 0 && batch->items[0].table == TABLE_LEDGER;
    enum status status = ledger ? append_entries(store, batch) : change_names(store, batch);
    store->full |= status == FULL;
    store->failed |= status == FAILED;
    if (ledger && status != CANCELLED) store->setup.grown(store->setup.context);
    if (status == FAILED) store->setup.fatal(store->setup.context, "a sync of the store failed");
    return status == OK
               ? OK
               : error_set(error, status, "a commit of the store: %s", status_name(status));
}

static void write_waiting(struct store *store) {
    struct waiting_batch *waiting = store->waiting;
    size_t count = store->waiting_count;
    store->waiting = NULL;
    store->waiting_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct error error = {0};
        enum status status = write_batch(store, waiting[i].batch, &error);
        if (waiting[i].done)
            waiting[i].done(waiting[i].context, status, status == OK ? NULL : &error);
        store_batch_destroy(waiting[i].batch);
    }
    free(waiting);
}

static void on_written(void *context, struct event *event) {
    (void)event;
    write_waiting(context);
}

enum status store_commit(struct store *store, struct store_batch *batch, store_done *done,
                         void *context, struct error *error) {
    const struct storage_setup *setup = &store->setup;
    TRY(refusal(store, error));
    store->waiting =
        xrealloc(store->waiting, (store->waiting_count + 1) * sizeof store->waiting[0]);
    store->waiting[store->waiting_count++] = (struct waiting_batch){batch, done, context};
    if (store->waiting_count == 1)
        world_post(setup->world, world_heavy_tail(setup->world, setup->commit_us), setup->process,
                   on_written, store, NULL);
    return OK;
}

enum status store_commit_wait(struct store *store, struct store_batch *batch, struct error *error) {
    write_waiting(store);
    enum status status = write_batch(store, batch, error);
    store_batch_destroy(batch);
    return status;
}

void store_resume(struct store *store) { store->full = false; }

void store_crash(struct store *store) {
    struct error error = {0};
    (void)!error_set(&error, CANCELLED, "the process ends");
    for (size_t i = 0; i < store->waiting_count; i++) {
        if (store->waiting[i].done)
            store->waiting[i].done(store->waiting[i].context, CANCELLED, &error);
        store_batch_destroy(store->waiting[i].batch);
    }
    free(store->waiting);
    store->waiting = NULL;
    store->waiting_count = 0;
    store->full = store->failed = false;
}

/* ---- reading --------------------------------------------------------------------------------- */

enum status store_get(struct store *store, unsigned table, struct bytes key, struct buffer *out,
                      struct error *error) {
    const struct disk *disk = store->setup.disk;
    uint64_t index;
    ASSERT(table == TABLE_LEDGER);
    TRY(store_key_u64_read(key, &index, error));
    out->size = 0;
    return disk_source(store->setup.disk).entry((void *)disk, index, out, error);
}

enum status store_has(struct store *store, unsigned table, struct bytes key, struct error *error) {
    uint64_t index;
    ASSERT(table == TABLE_LEDGER);
    TRY(store_key_u64_read(key, &index, error));
    return index < store->setup.disk->entry_count ? OK
                                                  : error_set(error, NOT_FOUND, "no such entry");
}

enum status store_count(struct store *store, unsigned table, uint64_t *out, struct error *error) {
    (void)error;
    *out = table == TABLE_LEDGER ? store->setup.disk->entry_count : store->name_count;
    return OK;
}

struct store_scan {
    struct store *store;
    unsigned table;
    uint64_t from, to; /* what is left, from <= key < to */
    enum store_order order;
    uint8_t key[STORE_KEY_U64_SIZE];
    struct buffer value;
};

struct store_scan *store_scan_open(struct store *store, unsigned table, struct bytes from,
                                   struct bytes to, enum store_order order) {
    struct store_scan *scan = xcalloc(1, sizeof *scan);
    *scan = (struct store_scan){.store = store, .table = table, .to = UINT64_MAX, .order = order};
    if (from.size > 0) MUST(store_key_u64_read(from, &scan->from, NULL));
    if (to.size > 0) MUST(store_key_u64_read(to, &scan->to, NULL));
    return scan;
}

static uint64_t key_at(const struct store_scan *scan, uint64_t at) {
    return scan->table == TABLE_LEDGER ? at : scan->store->names[at].version;
}

/* The next key of what is left; false: there is none. What was deleted meanwhile is not met. */
static bool seek(const struct store_scan *scan, uint64_t *at) {
    const struct store *store = scan->store;
    uint64_t count =
        scan->table == TABLE_LEDGER ? store->setup.disk->entry_count : store->name_count;
    for (uint64_t i = 0; i < count; i++) {
        *at = scan->order == STORE_ASCENDING ? i : count - 1 - i;
        uint64_t key = key_at(scan, *at);
        if (key >= scan->from && key < scan->to) return true;
        if (scan->table == TABLE_LEDGER && scan->order == STORE_ASCENDING && key < scan->from)
            i = MIN(scan->from, count) - 1; /* a ledger is long */
    }
    return false;
}

enum status store_scan_next(struct store_scan *scan, struct bytes *key, struct bytes *value,
                            struct error *error) {
    struct store *store = scan->store;
    uint64_t at;
    if (!seek(scan, &at)) return error_set(error, NOT_FOUND, "the end of the table");
    uint64_t found = key_at(scan, at);
    store_key_u64(found, scan->key);
    scan->value.size = 0;
    if (scan->table == TABLE_LEDGER)
        TRY(store_get(store, TABLE_LEDGER, bytes_of(scan->key, sizeof scan->key), &scan->value,
                      error));
    else
        buffer_append(&scan->value, store->names[at].header.data, store->names[at].header.size);
    if (scan->order == STORE_ASCENDING)
        scan->from = found + 1;
    else
        scan->to = found;
    *key = bytes_of(scan->key, sizeof scan->key);
    *value = buffer_bytes(&scan->value);
    return OK;
}

void store_scan_close(struct store_scan *scan) {
    if (!scan) return;
    buffer_deinit(&scan->value);
    free(scan);
}
