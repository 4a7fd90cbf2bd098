/* What the parts of the store share: the environment, its tables, and how a record lies in it.
 * Inside storage/ only. */
#ifndef STORAGE_LMDB_ENV_H
#define STORAGE_LMDB_ENV_H

#include <lmdb.h>
#include <pthread.h>

#include "storage/store.h"

enum {
    RECORD_CHECK_SIZE = 16, /* first bytes of SHA-256(table name || 00 || key size as u32 || key ||
                               value), before the value */
    STORE_READERS = 126
};

struct store_writer;

struct store {
    struct store_options options;
    char *directory;
    int lock; /* descriptor of DIRECTORY/writer.lock, held with flock; -1 when read_only */
    MDB_env *env;
    bool unlisted; /* reads without a place in LMDB's table of readers: see store.h */
    MDB_dbi tables[STORE_TABLES_MAX];
    /* Readers hold it shared while a read transaction lives; it is held exclusively while the map
     * is replaced, since LMDB moves it under everybody's feet. */
    pthread_rwlock_t map_lock;
    struct store_writer *writer; /* NULL when read_only */
};

/* LMDB has found its pages to contradict each other (store_guard.c). */
void lmdb_asserted(MDB_env *env, const char *message);

/* LMDB's codes, and errno values that it passes through, translated in one place. FULL carries the
 * figures. */
enum status lmdb_failed(const struct store *store, struct error *error, int code,
                        const char *doing);
/* The same choice without a message. */
enum status lmdb_status(int code);

void record_check(const struct store *store, unsigned table, struct bytes key, struct bytes value,
                  uint8_t out[static RECORD_CHECK_SIZE]);
/* *stored is what LMDB holds; *value borrows the part after the check. CORRUPT names table and key.
 */
MUST_USE enum status record_open(const struct store *store, unsigned table, struct bytes key,
                                 struct bytes stored, struct bytes *value, struct error *error);
/* At most 80 characters of a key for a message: text as it is, anything else in hexadecimal. */
enum { KEY_TEXT_SIZE = 96 };
const char *key_text(struct bytes key, char out[static KEY_TEXT_SIZE]);

/* Begins a read transaction under the shared map lock; end it with read_end. Follows a map that
 * another process has grown. */
MUST_USE enum status read_begin(struct store *store, MDB_txn **out, struct error *error);
/* True if what was read between, a failure too, is of one version of the store. Else a writer may
 * have reused its pages: take nothing of it and read again. Always true for a reader in LMDB's
 * table. */
MUST_USE bool read_end(struct store *store, MDB_txn *txn);
/* The same question before the end. */
bool read_is_whole(struct store *store, MDB_txn *txn);
/* UNAVAILABLE once `attempts` readings in a row were overtaken. */
MUST_USE enum status read_again(const struct store *store, unsigned attempts, struct error *error);

/* Replaces the map by one of `size` bytes. Waits for readers. Not inside a transaction. */
MUST_USE enum status map_resize(struct store *store, size_t size, struct error *error);

static inline MDB_val value_of(struct bytes bytes) {
    return (MDB_val){bytes.size, (void *)(uintptr_t)bytes.data};
}
static inline struct bytes bytes_of_value(MDB_val value) {
    return bytes_of(value.mv_data, value.mv_size);
}

#endif
