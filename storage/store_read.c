/* Reads and scans (storage/store.h). Each record's check is compared; a scan copies a portion at a
 * time, so that no read transaction stays open between two calls. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "storage/lmdb_env.h"

enum { PORTION_RECORDS = 256, PORTION_SIZE = 1 << 20 };

static void replace(struct buffer *out, struct bytes content) {
    out->size = 0;
    buffer_append(out, content.data, content.size);
}

static enum status check_key(const struct store *store, unsigned table, struct bytes key,
                             struct error *error) {
    ASSERT(table < store->options.table_count);
    if (key.size >= 1 && key.size <= STORE_KEY_SIZE_MAX) return OK;
    return error_set(error, INVALID, "a key of %zu bytes for table %s: 1 to %d", key.size,
                     store->options.tables[table], STORE_KEY_SIZE_MAX);
}

static enum status not_found(const struct store *store, unsigned table, struct bytes key,
                             struct error *error) {
    char text[KEY_TEXT_SIZE];
    return error_set(error, NOT_FOUND, "store %s: table %s has no %s", store->directory,
                     store->options.tables[table], key_text(key, text));
}

static enum status get_in(struct store *store, MDB_txn *txn, unsigned table, struct bytes key,
                          struct buffer *out, struct error *error) {
    MDB_val wanted = value_of(key), found;
    int code = mdb_get(txn, store->tables[table], &wanted, &found);
    enum status status;
    if (code == MDB_NOTFOUND) {
        status = not_found(store, table, key, error);
    } else if (code != MDB_SUCCESS) {
        status = lmdb_failed(store, error, code, "read a record");
    } else {
        struct bytes value;
        status = record_open(store, table, key, bytes_of_value(found), &value, error);
        if (status == OK) replace(out, value);
    }
    return status;
}

enum status store_get(struct store *store, unsigned table, struct bytes key, struct buffer *out,
                      struct error *error) {
    TRY(check_key(store, table, key, error));
    for (unsigned attempts = 0;; attempts++) {
        MDB_txn *txn = NULL;
        struct buffer found = {0};
        TRY(read_again(store, attempts, error));
        TRY(read_begin(store, &txn, error));
        enum status status = get_in(store, txn, table, key, &found, error);
        bool whole = read_end(store, txn);
        if (whole && status == OK) replace(out, buffer_bytes(&found));
        buffer_deinit(&found);
        if (whole) return status;
    }
}

enum status store_has(struct store *store, unsigned table, struct bytes key, struct error *error) {
    TRY(check_key(store, table, key, error));
    int code = MDB_SUCCESS;
    bool whole = false;
    for (unsigned attempts = 0; !whole; attempts++) {
        MDB_txn *txn = NULL;
        TRY(read_again(store, attempts, error));
        TRY(read_begin(store, &txn, error));
        MDB_val wanted = value_of(key), found;
        code = mdb_get(txn, store->tables[table], &wanted, &found);
        whole = read_end(store, txn);
    }
    if (code == MDB_NOTFOUND) return not_found(store, table, key, error);
    return code == MDB_SUCCESS ? OK : lmdb_failed(store, error, code, "look for a record");
}

enum status store_count(struct store *store, unsigned table, uint64_t *out, struct error *error) {
    ASSERT(table < store->options.table_count);
    MDB_stat stat = {0};
    int code = MDB_SUCCESS;
    bool whole = false;
    for (unsigned attempts = 0; !whole; attempts++) {
        MDB_txn *txn = NULL;
        TRY(read_again(store, attempts, error));
        TRY(read_begin(store, &txn, error));
        code = mdb_stat(txn, store->tables[table], &stat);
        whole = read_end(store, txn);
    }
    if (code != MDB_SUCCESS) return lmdb_failed(store, error, code, "count a table");
    *out = stat.ms_entries;
    return OK;
}

enum status store_last(struct store *store, unsigned table, struct buffer *key,
                       struct buffer *value, struct error *error) {
    struct bytes none = bytes_of(NULL, 0), last_key, last_value;
    struct store_scan *scan = store_scan_open(store, table, none, none, STORE_DESCENDING);
    enum status status = store_scan_next(scan, &last_key, &last_value, error);
    if (status == OK) {
        replace(key, last_key);
        if (value) replace(value, last_value);
    }
    store_scan_close(scan);
    return status;
}

/* --- scans --- */

struct store_scan {
    struct store *store;
    unsigned table;
    enum store_order order;
    struct buffer from, to; /* size 0: no bound */
    struct buffer portion;  /* u32 key size, u32 value size, key, value; one after the other */
    size_t at;              /* in portion */
    struct buffer last;     /* the last key that was copied or passed; size 0 before the first */
    size_t portion_records; /* how many the next portion may have: grows, so that store_last does
                               not copy 256 */
    bool ended;
};

struct store_scan *store_scan_open(struct store *store, unsigned table, struct bytes from,
                                   struct bytes to, enum store_order order) {
    ASSERT(table < store->options.table_count);
    struct store_scan *scan = xcalloc(1, sizeof *scan);
    scan->store = store;
    scan->table = table;
    scan->order = order;
    scan->portion_records = 1;
    buffer_append(&scan->from, from.data, from.size);
    buffer_append(&scan->to, to.data, to.size);
    return scan;
}

void store_scan_close(struct store_scan *scan) {
    if (!scan) return;
    buffer_deinit(&scan->from);
    buffer_deinit(&scan->to);
    buffer_deinit(&scan->portion);
    buffer_deinit(&scan->last);
    free(scan);
}

static int compare(struct bytes a, struct bytes b) {
    size_t shared = MIN(a.size, b.size);
    int order = shared ? memcmp(a.data, b.data, shared) : 0;
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

/* The first record after scan->last, or the first of all in the scan's order. */
static int seek(const struct store_scan *scan, MDB_cursor *cursor, MDB_val *key, MDB_val *value) {
    bool up = scan->order == STORE_ASCENDING, begun = scan->last.size > 0;
    const struct buffer *start = begun ? &scan->last : up ? &scan->from : &scan->to;
    if (start->size == 0) return mdb_cursor_get(cursor, key, value, up ? MDB_FIRST : MDB_LAST);
    /* A bound may be longer than any key, and LMDB would refuse it. Cut off, it sorts right before
     * what it was. */
    bool cut = start->size > STORE_KEY_SIZE_MAX;
    struct bytes sought = bytes_of(start->data, MIN(start->size, STORE_KEY_SIZE_MAX));
    *key = value_of(sought);
    int code = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    bool same = code == MDB_SUCCESS && compare(bytes_of_value(*key), sought) == 0;
    if (up) return same && (begun || cut) ? mdb_cursor_get(cursor, key, value, MDB_NEXT) : code;
    if (code == MDB_NOTFOUND) return mdb_cursor_get(cursor, key, value, MDB_LAST);
    return code == MDB_SUCCESS && !(same && cut) ? mdb_cursor_get(cursor, key, value, MDB_PREV)
                                                 : code;
}

static bool beyond(const struct store_scan *scan, struct bytes key) {
    if (scan->order == STORE_ASCENDING)
        return scan->to.size > 0 && compare(key, buffer_bytes(&scan->to)) >= 0;
    return scan->from.size > 0 && compare(key, buffer_bytes(&scan->from)) < 0;
}

static enum status copy_record(struct store_scan *scan, MDB_val key, MDB_val stored,
                               struct error *error) {
    struct bytes key_bytes = bytes_of_value(key), value;
    if (key.mv_size < 1 || key.mv_size > STORE_KEY_SIZE_MAX) {
        scan->ended = true;
        return error_set(error, CORRUPT, "store %s: table %s has a key of %zu bytes",
                         scan->store->directory, scan->store->options.tables[scan->table],
                         key.mv_size);
    }
    /* A damaged page may lead in a circle. */
    int order = scan->last.size > 0 ? compare(key_bytes, buffer_bytes(&scan->last)) : 0;
    if (scan->last.size > 0 && !(scan->order == STORE_ASCENDING ? order > 0 : order < 0)) {
        char text[KEY_TEXT_SIZE];
        scan->ended = true;
        return error_set(error, CORRUPT, "store %s: table %s, key %s: out of order",
                         scan->store->directory, scan->store->options.tables[scan->table],
                         key_text(key_bytes, text));
    }
    enum status status =
        record_open(scan->store, scan->table, key_bytes, bytes_of_value(stored), &value, error);
    /* first what was good; then it comes again, as the first */
    if (status == CORRUPT && scan->portion.size > 0) return CORRUPT;
    replace(&scan->last, key_bytes);
    TRY(status);
    buffer_u32(&scan->portion, (uint32_t)key_bytes.size);
    buffer_u32(&scan->portion, (uint32_t)value.size);
    buffer_append(&scan->portion, key_bytes.data, key_bytes.size);
    buffer_append(&scan->portion, value.data, value.size);
    return OK;
}

static enum status fill(struct store_scan *scan, MDB_cursor *cursor, struct error *error) {
    MDB_val key, stored;
    int code = seek(scan, cursor, &key, &stored);
    for (size_t records = 0; code == MDB_SUCCESS; records++) {
        if (records == scan->portion_records || scan->portion.size >= PORTION_SIZE) return OK;
        if (beyond(scan, bytes_of_value(key))) break;
        enum status status = copy_record(scan, key, stored, error);
        if (status != OK) return scan->portion.size > 0 && !scan->ended ? OK : status;
        code = mdb_cursor_get(cursor, &key, &stored,
                              scan->order == STORE_ASCENDING ? MDB_NEXT : MDB_PREV);
    }
    scan->ended = true;
    /* what LMDB says of a transaction in which it has met a damaged page */
    if (code == MDB_BAD_TXN) code = MDB_CORRUPTED;
    return code == MDB_SUCCESS || code == MDB_NOTFOUND
               ? OK
               : lmdb_failed(scan->store, error, code, "read on");
}

static enum status refill(struct store_scan *scan, struct error *error) {
    struct buffer last = {0}; /* where to begin again if a writer overtakes us */
    bool whole = false;
    enum status status = OK;
    buffer_append(&last, scan->last.data, scan->last.size);
    for (unsigned attempts = 0; status == OK && !whole; attempts++) {
        MDB_txn *txn = NULL;
        MDB_cursor *cursor = NULL;
        scan->portion.size = scan->at = 0;
        status = read_again(scan->store, attempts, error);
        if (status == OK) status = read_begin(scan->store, &txn, error);
        if (status != OK) break;
        int code = mdb_cursor_open(txn, scan->store->tables[scan->table], &cursor);
        status = code == MDB_SUCCESS ? fill(scan, cursor, error)
                                     : lmdb_failed(scan->store, error, code, "open a cursor");
        if (cursor) mdb_cursor_close(cursor);
        whole = read_end(scan->store, txn);
        if (whole) break;
        status = OK;
        scan->ended = false;
        /* less at a time is read in less time */
        scan->portion_records = 1 + scan->portion_records / 2;
        replace(&scan->last, buffer_bytes(&last));
    }
    buffer_deinit(&last);
    scan->portion_records = MIN(scan->portion_records * 8, PORTION_RECORDS);
    return status;
}

enum status store_scan_next(struct store_scan *scan, struct bytes *key, struct bytes *value,
                            struct error *error) {
    if (scan->at == scan->portion.size && !scan->ended) TRY(refill(scan, error));
    if (scan->at == scan->portion.size) {
        return error_set(error, NOT_FOUND, "store %s: table %s: no more records",
                         scan->store->directory, scan->store->options.tables[scan->table]);
    }
    struct reader reader =
        reader_of(bytes_of(scan->portion.data + scan->at, scan->portion.size - scan->at));
    uint32_t key_size = reader_u32(&reader), value_size = reader_u32(&reader);
    *key = reader_take(&reader, key_size);
    *value = reader_take(&reader, value_size);
    scan->at += reader.at;
    return OK;
}

/* --- all of it --- */

static uint64_t last_transaction(struct store *store) {
    MDB_envinfo info;
    pthread_rwlock_rdlock(&store->map_lock);
    mdb_env_info(store->env, &info);
    pthread_rwlock_unlock(&store->map_lock);
    return info.me_last_txnid;
}

enum status store_check(struct store *store, uint64_t *records, struct error *error) {
    uint64_t total = 0;
    for (unsigned table = 0; table < store->options.table_count; table++) {
        uint64_t before = last_transaction(store), promised = 0, seen = 0;
        TRY(store_count(store, table, &promised, error));
        struct bytes none = bytes_of(NULL, 0), key, value;
        struct store_scan *scan = store_scan_open(store, table, none, none, STORE_ASCENDING);
        enum status status;
        while ((status = store_scan_next(scan, &key, &value, error)) == OK) {
            seen++;
            /* A damaged branch page may lead a walk right and a look-up wrong. */
            status = store_has(store, table, key, error);
            if (status == NOT_FOUND && last_transaction(store) == before) {
                char text[KEY_TEXT_SIZE];
                status =
                    error_set(error, CORRUPT,
                              "store %s: table %s, key %s: it is there but cannot be looked up",
                              store->directory, store->options.tables[table], key_text(key, text));
            }
            if (status != OK && status != NOT_FOUND) break;
        }
        store_scan_close(scan);
        if (status != NOT_FOUND) return status;
        /* Records that a damaged page no longer leads to; only sure while nobody wrote. */
        if (seen != promised && last_transaction(store) == before) {
            return error_set(error, CORRUPT,
                             "store %s: table %s has %llu records, but %llu are found",
                             store->directory, store->options.tables[table],
                             (unsigned long long)promised, (unsigned long long)seen);
        }
        total += seen;
    }
    if (records) *records = total;
    return OK;
}
