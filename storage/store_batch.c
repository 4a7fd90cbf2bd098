/* A batch of writes as bytes (storage/store.h): operations one after another in a buffer, which
 * the writer thread takes and plays into one transaction. Filled by any one thread, then handed
 * over. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "storage/store_writer.h"

struct store_batch *store_batch_create(const struct store *store) {
    struct store_batch *batch = xcalloc(1, sizeof *batch);
    batch->store = store;
    return batch;
}

void store_batch_destroy(struct store_batch *batch) {
    if (!batch) return;
    buffer_deinit(&batch->operations);
    free(batch);
}

/* The digest is made here, on the thread that fills the batch, and not on the one writer. */
static void append(struct store_batch *batch, enum batch_kind kind, unsigned table,
                   struct bytes key, struct bytes value) {
    if (batch->wrong.status != OK) return;
    if (table >= batch->store->options.table_count) {
        error_set(&batch->wrong, INVALID, "table %u of %zu", table,
                  batch->store->options.table_count);
        return;
    }
    const char *name = batch->store->options.tables[table];
    if (key.size < 1 || key.size > STORE_KEY_SIZE_MAX) {
        error_set(&batch->wrong, INVALID, "a key of %zu bytes for table %s: 1 to %d", key.size,
                  name, STORE_KEY_SIZE_MAX);
        return;
    }
    if (value.size > STORE_VALUE_SIZE_MAX) {
        error_set(&batch->wrong, INVALID, "a value of %zu bytes for table %s, more than %d",
                  value.size, name, STORE_VALUE_SIZE_MAX);
        return;
    }
    struct buffer *out = &batch->operations;
    buffer_u8(out, (uint8_t)kind);
    buffer_u8(out, (uint8_t)table);
    buffer_u16(out, (uint16_t)key.size);
    buffer_u32(out, (uint32_t)(kind == BATCH_PUT ? RECORD_CHECK_SIZE + value.size : 0));
    buffer_append(out, key.data, key.size);
    if (kind == BATCH_PUT) {
        uint8_t check[RECORD_CHECK_SIZE];
        record_check(batch->store, table, key, value, check);
        buffer_append(out, check, sizeof check);
        if (value.size > 0) buffer_append(out, value.data, value.size);
    }
    batch->count++;
}

void store_batch_put(struct store_batch *batch, unsigned table, struct bytes key,
                     struct bytes value) {
    append(batch, BATCH_PUT, table, key, value);
}

void store_batch_delete(struct store_batch *batch, unsigned table, struct bytes key) {
    append(batch, BATCH_DELETE, table, key, bytes_of(NULL, 0));
}

size_t store_batch_count(const struct store_batch *batch) { return batch->count; }
size_t store_batch_size(const struct store_batch *batch) { return batch->operations.size; }

bool batch_next(const struct store_batch *batch, size_t *at, struct batch_operation *out) {
    if (*at >= batch->operations.size) return false;
    struct reader reader =
        reader_of(bytes_of(batch->operations.data + *at, batch->operations.size - *at));
    out->kind = (enum batch_kind)reader_u8(&reader);
    out->table = reader_u8(&reader);
    uint16_t key_size = reader_u16(&reader);
    uint32_t stored_size = reader_u32(&reader);
    out->key = reader_take(&reader, key_size);
    out->stored = reader_take(&reader, stored_size);
    ASSERT(!reader.failed); /* we wrote it */
    *at += reader.at;
    return true;
}
