/* The writer thread of a store. Inside storage/ only; its essay is in store_writer.c. */
#ifndef STORAGE_STORE_WRITER_H
#define STORAGE_STORE_WRITER_H

#include "storage/lmdb_env.h"

MUST_USE enum status writer_start(struct store *store, struct store_writer **out,
                                  struct error *error);
void writer_stop(struct store_writer *writer); /* commits what waits first; NULL is a no-op */

/* --- what a batch is made of --- */
struct store_batch {
    struct store_batch *next; /* in the writer's queue */
    const struct store *store;
    struct buffer operations; /* one after the other: u8 kind, u8 table, u16 key size, u32 value
                                 size, key, value with check */
    size_t count;
    struct error wrong; /* the first wrong put */
    store_done *done;
    void *context;
};
enum batch_kind { BATCH_PUT = 1, BATCH_DELETE = 2 };
struct batch_operation {
    enum batch_kind kind;
    unsigned table;
    struct bytes key, stored; /* borrowed from the batch */
};
/* Walks the operations: *at begins with 0. False at the end. */
bool batch_next(const struct store_batch *batch, size_t *at, struct batch_operation *out);

#endif
