/* LMDB for the other files of the store (storage/lmdb_env.h): its errors as statuses, the check at
 * the end of each record, growth of the map, and reads without a place in the table of readers. */
#include "storage/lmdb_env.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "base/memory.h"

/* of a reader that a writer overtakes: it takes two commits within one reading to do so */
enum { ATTEMPTS = 1000 };

enum status lmdb_status(int code) {
    switch (code) {
    case MDB_SUCCESS: return OK;
    case MDB_NOTFOUND: return NOT_FOUND;
    case MDB_MAP_FULL:
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return FULL;
    case MDB_PAGE_NOTFOUND:
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
    /* Only pages that lie give these: nobody else writes, nor changes the map, and keys are far
     * from a page's size. */
    case MDB_MAP_RESIZED:
    case MDB_PAGE_FULL:
    case MDB_CURSOR_FULL:
    case MDB_BAD_DBI: return CORRUPT;
    case MDB_READERS_FULL:
    case EAGAIN:
    case EBUSY: return UNAVAILABLE;
    case MDB_BAD_VALSIZE: return INVALID;
    default: return FAILED;
    }
}

enum status lmdb_failed(const struct store *store, struct error *error, int code,
                        const char *doing) {
    enum status status = lmdb_status(code);
    if (status != FULL)
        return error_set(error, status, "store %s: %s: %s", store->directory, doing,
                         mdb_strerror(code));
    struct statvfs disk = {0};
    MDB_envinfo info = {0};
    char reason[FILE_REASON_SIZE];
    if (store->env) mdb_env_info(store->env, &info);
    statvfs(store->directory, &disk);
    return error_set(
        error, FULL, "store %s: %s: %s (%llu MiB free on disk, map %zu of at most %zu MiB)",
        store->directory, doing, code > 0 ? file_reason(code, reason) : mdb_strerror(code),
        (unsigned long long)disk.f_bavail * disk.f_frsize >> 20, info.me_mapsize >> 20,
        store->options.map_limit >> 20);
}

void record_check(const struct store *store, unsigned table, struct bytes key, struct bytes value,
                  uint8_t out[static RECORD_CHECK_SIZE]) {
    const char *name = store->options.tables[table];
    const uint8_t key_size[4] = {(uint8_t)key.size, (uint8_t)(key.size >> 8), 0, 0};
    const struct bytes pieces[4] = {bytes_of(name, strlen(name) + 1),
                                    bytes_of(key_size, sizeof key_size), key, value};
    uint8_t digest[STORAGE_DIGEST_SIZE];
    store->options.digest->pieces(pieces, COUNT_OF(pieces), digest);
    memcpy(out, digest, RECORD_CHECK_SIZE);
}

const char *key_text(struct bytes key, char out[static KEY_TEXT_SIZE]) {
    bool text = key.size > 0 && key.size <= 80;
    for (size_t i = 0; text && i < key.size; i++) text = key.data[i] > ' ' && key.data[i] < 0x7f;
    if (text) {
        memcpy(out, key.data, key.size);
        out[key.size] = 0;
        return out;
    }
    size_t shown = MIN(key.size, 40);
    hex_encode(key.data, shown, out);
    if (shown < key.size) snprintf(out + 2 * shown, KEY_TEXT_SIZE - 2 * shown, "...");
    return out;
}

enum status record_open(const struct store *store, unsigned table, struct bytes key,
                        struct bytes stored, struct bytes *value, struct error *error) {
    char text[KEY_TEXT_SIZE];
    const char *name = store->options.tables[table];
    if (stored.size < RECORD_CHECK_SIZE || stored.size > RECORD_CHECK_SIZE + STORE_VALUE_SIZE_MAX) {
        return error_set(error, CORRUPT, "store %s: table %s, key %s: a record of %zu bytes",
                         store->directory, name, key_text(key, text), stored.size);
    }
    struct bytes body = bytes_of(stored.data + RECORD_CHECK_SIZE, stored.size - RECORD_CHECK_SIZE);
    uint8_t check[RECORD_CHECK_SIZE];
    record_check(store, table, key, body, check);
    if (memcmp(check, stored.data, sizeof check) != 0) {
        return error_set(error, CORRUPT,
                         "store %s: table %s, key %s: the record disagrees with its digest",
                         store->directory, name, key_text(key, text));
    }
    *value = body;
    return OK;
}

enum status read_begin(struct store *store, MDB_txn **out, struct error *error) {
    for (unsigned attempt = 0;; attempt++) {
        pthread_rwlock_rdlock(&store->map_lock);
        int code = mdb_txn_begin(store->env, NULL, MDB_RDONLY, out);
        if (code == MDB_SUCCESS) return OK;
        pthread_rwlock_unlock(&store->map_lock);
        /* The writing process has grown the map: take over its size. It may do so again before we
         * are back. */
        if (code != MDB_MAP_RESIZED || attempt == 100)
            return lmdb_failed(store, error, code, "begin reading");
        TRY(map_resize(store, 0, error));
    }
}

bool read_is_whole(struct store *store, MDB_txn *txn) {
    if (!store->unlisted) return true;
    MDB_envinfo info;
    /* The map is another process's to change: neither the compiler nor the processor may ask it
     * before all has been read. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    mdb_env_info(store->env, &info);
    return info.me_last_txnid <= mdb_txn_id(txn) + 1;
}

bool read_end(struct store *store, MDB_txn *txn) {
    bool whole = read_is_whole(store, txn);
    mdb_txn_abort(txn);
    pthread_rwlock_unlock(&store->map_lock);
    return whole;
}

enum status read_again(const struct store *store, unsigned attempts, struct error *error) {
    if (attempts < ATTEMPTS) return OK;
    return error_set(error, UNAVAILABLE,
                     "store %s changes faster than it can be read without write access to its "
                     "lock.mdb: try again, read a copy, "
                     "or read as its owner",
                     store->directory);
}

enum status map_resize(struct store *store, size_t size, struct error *error) {
    pthread_rwlock_wrlock(&store->map_lock);
    int code = mdb_env_set_mapsize(store->env, size);
    pthread_rwlock_unlock(&store->map_lock);
    return code == MDB_SUCCESS ? OK : lmdb_failed(store, error, code, "grow the map");
}
