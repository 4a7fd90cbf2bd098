/* Opens and closes a store (storage/store.h): options, the lock of the one writer, format and
 * tables. Reading is in store_read.c, the writer thread in store_writer.c, batches in
 * store_batch.c. */
#include "storage/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "storage/lmdb_env.h"
#include "storage/store_writer.h"

/* A table of our own that says how to read the others. Its name cannot be a caller's: those do not
 * begin with '_'. */
#define FORMAT_TABLE "_format"
#define FORMAT_TEXT "atoll store 1"

enum {
    LOCK_FILE_SIZE = 8192, /* what LMDB makes of STORE_READERS; it takes a larger one as it is */
    FIRST_PAGES_SIZE = 128 * 1024
};

static enum status check_options(const struct store_options *options, struct error *error) {
    if (options->table_count < 1 || options->table_count > STORE_TABLES_MAX) {
        return error_set(error, INVALID, "a store of %zu tables: 1 to %d", options->table_count,
                         STORE_TABLES_MAX);
    }
    for (size_t i = 0; i < options->table_count; i++) {
        const char *name = options->tables[i];
        size_t size = strlen(name);
        if (size < 1 || size > STORE_TABLE_NAME_MAX || *name == '_' ||
            strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != size) {
            return error_set(error, INVALID, "table %zu: its name must be 1 to %d of [a-z0-9_]", i,
                             STORE_TABLE_NAME_MAX);
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(name, options->tables[j]) == 0)
                return error_set(error, INVALID, "two tables are named %s", name);
        }
    }
    return OK;
}

/* Who asks for the store's use (store_use_of) has the lock for a moment. */
enum { LOCK_TRIES = 10, LOCK_AGAIN_MS = 5 };

static bool lock_soon(int descriptor) {
    for (int tries = 1; flock(descriptor, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (errno != EWOULDBLOCK || tries == LOCK_TRIES) return false;
        clock_sleep_ms(LOCK_AGAIN_MS);
    }
    return true;
}

enum store_use store_use_of(const char *directory) {
    char *path = file_join(directory, "writer.lock");
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    bool none = descriptor < 0 && errno == ENOENT;
    free(path);
    if (descriptor < 0) return none ? STORE_FREE : STORE_UNKNOWN;
    bool free_now = flock(descriptor, LOCK_SH | LOCK_NB) == 0, held = errno == EWOULDBLOCK;
    close(descriptor);
    return free_now ? STORE_FREE : held ? STORE_IN_USE : STORE_UNKNOWN;
}

/* flock belongs to the open file, so a second open in this process is refused as well, which LMDB
 * would not survive. The kernel lets go when the process ends, however it ends. */
static enum status take_lock(struct store *store, struct error *error) {
    char *path = file_join(store->directory, "writer.lock");
    enum status status = OK;
    store->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->lock < 0) {
        status =
            error_set(error, errno == ENOSPC ? FULL : FAILED, "open %s: %s", path, strerror(errno));
    } else if (!lock_soon(store->lock)) {
        char pid[24] = {0};
        ssize_t got = pread(store->lock, pid, sizeof pid - 1, 0);
        pid[got > 0 ? strspn(pid, "0123456789") : 0] = 0;
        status = errno == EWOULDBLOCK || got >= 0
                     ? error_set(error, UNAVAILABLE,
                                 "store %s is in use by process %s: only one may write",
                                 store->directory, *pid ? pid : "?")
                     : error_set(error, FAILED, "lock %s: %s", path, strerror(errno));
    } else {
        char pid[24];
        int size = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
        /* For people only: a full disk must not keep the store from opening. */
        if (ftruncate(store->lock, 0) != 0 || pwrite(store->lock, pid, (size_t)size, 0) != size)
            errno = 0;
    }
    free(path);
    return status;
}

/* The map ends where the file ends only if no page is missing; LMDB would find out with a SIGBUS.
 */
static enum status check_length(struct store *store, struct error *error) {
    int descriptor = -1;
    struct stat file;
    MDB_envinfo info;
    MDB_stat pages;
    mdb_env_get_fd(store->env, &descriptor);
    mdb_env_info(store->env, &info);
    mdb_env_stat(store->env, &pages);
    if (fstat(descriptor, &file) != 0)
        return error_set(error, FAILED, "stat data.mdb: %s", strerror(errno));
    uint64_t wanted = (uint64_t)(info.me_last_pgno + 1) * pages.ms_psize;
    if ((uint64_t)file.st_size < wanted) {
        return error_set(error, CORRUPT, "store %s: data.mdb is cut to %lld of %llu bytes",
                         store->directory, (long long)file.st_size, (unsigned long long)wanted);
    }
    return OK;
}

/* A reader that may write LMDB's lock file is entered in it; any other reads without (store.h). On
 * a read-only mount LMDB would leave the lock file out as well, but would not say so. */
static bool may_be_listed(const struct store *store) {
    char *path = file_join(store->directory, "lock.mdb");
    bool may = faccessat(AT_FDCWD, path, R_OK | W_OK, AT_EACCESS) == 0;
    free(path);
    return may;
}

/* LMDB's code. A failed open leaves an environment that can only be closed. */
static int open_once(struct store *store, bool *prepared) {
    const struct store_options *options = &store->options;
    unsigned flags =
        MDB_NOTLS | (options->read_only ? MDB_RDONLY : 0u) | (store->unlisted ? MDB_NOLOCK : 0u);
    int code = mdb_env_create(&store->env);
    if (code == MDB_SUCCESS) code = mdb_env_set_assert(store->env, lmdb_asserted);
    if (code == MDB_SUCCESS) code = mdb_env_set_maxreaders(store->env, STORE_READERS);
    if (code == MDB_SUCCESS)
        code = mdb_env_set_maxdbs(store->env, (MDB_dbi)options->table_count + 1);
    if (code == MDB_SUCCESS) code = mdb_env_set_mapsize(store->env, options->map_size);
    *prepared = code == MDB_SUCCESS;
    return *prepared ? mdb_env_open(store->env, store->directory, flags, 0600) : code;
}

static enum status reserve(const struct store *store, const char *name, int how, off_t size,
                           struct error *error) {
    char *path = file_join(store->directory, name);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    enum status status = OK;
    if (file < 0)
        status =
            error_set(error, errno == ENOSPC ? FULL : FAILED, "open %s: %s", path, strerror(errno));
    /* some file systems have none of it */
    else if (fallocate(file, how, 0, size) != 0 && errno == ENOSPC)
        status = error_set(error, FULL, "reserve room for %s: %s", path, strerror(errno));
    if (file >= 0) close(file);
    free(path);
    return status;
}

/* LMDB's lock file is a map too: where the disk has no room for it, the first look at it would be a
 * SIGBUS. And of a new store's first pages it may write a part, which is none. */
static enum status reserve_first(const struct store *store, struct error *error) {
    struct stat file;
    char *path = file_join(store->directory, "data.mdb");
    bool is_new = stat(path, &file) != 0 || file.st_size == 0;
    free(path);
    TRY(reserve(store, "lock.mdb", 0, LOCK_FILE_SIZE, error));
    return is_new ? reserve(store, "data.mdb", FALLOC_FL_KEEP_SIZE, FIRST_PAGES_SIZE, error) : OK;
}

static enum status open_environment(struct store *store, struct error *error) {
    bool prepared;
    if (!store->options.read_only) TRY(reserve_first(store, error));
    store->unlisted = store->options.read_only && !may_be_listed(store);
    int code = open_once(store, &prepared);
    bool refused = code == EACCES || code == EPERM || code == EROFS;
    if (prepared && refused && store->options.read_only &&
        !store->unlisted) { /* such as a file that is immutable */
        mdb_env_close(store->env);
        store->unlisted = true;
        code = open_once(store, &prepared);
    }
    if (!prepared) return lmdb_failed(store, error, code, "prepare the environment");
    if (code == ENOENT)
        return error_set(error, NOT_FOUND, "there is no store in %s", store->directory);
    if (code == ENOMEM || code == EINVAL) { /* mmap's: the size that its first pages ask for */
        return error_set(error, CORRUPT,
                         "store %s: the map that data.mdb asks for cannot be made (%s): it is "
                         "damaged, unless the address space "
                         "is limited (ulimit -v)",
                         store->directory, strerror(code));
    }
    if (code ==
        ENOSPC) /* of an environment that is not open LMDB has no figures, and crashes for them */
        return error_set(error, FULL, "store %s: open the environment: %s", store->directory,
                         strerror(code));
    if (code != MDB_SUCCESS) return lmdb_failed(store, error, code, "open the environment");
    TRY(check_length(store, error));
    int dead = 0;
    /* readers of processes that were killed would keep old pages for good */
    code = mdb_reader_check(store->env, &dead);
    return code == MDB_SUCCESS ? OK : lmdb_failed(store, error, code, "check for dead readers");
}

/* "atoll store " and a decimal number. Only a whole other number is another version's; anything
 * else is damage. */
static enum status check_format_text(const struct store *store, struct bytes text,
                                     struct error *error) {
    const size_t head = sizeof FORMAT_TEXT - 2;
    if (text.size == sizeof FORMAT_TEXT - 1 && memcmp(text.data, FORMAT_TEXT, text.size) == 0)
        return OK;
    bool numbered =
        text.size > head && text.size <= head + 9 && memcmp(text.data, FORMAT_TEXT, head) == 0;
    for (size_t i = head; numbered && i < text.size; i++)
        numbered = text.data[i] >= '0' && text.data[i] <= '9';
    if (!numbered)
        return error_set(error, CORRUPT, "store %s: its format record is damaged",
                         store->directory);
    return error_set(error, INVALID,
                     "store %s has format \"%.*s\", not \"%s\": it was made by another version",
                     store->directory, (int)text.size, (const char *)text.data, FORMAT_TEXT);
}

static enum status check_format(struct store *store, MDB_txn *txn, struct error *error) {
    MDB_dbi table;
    bool writing = !store->options.read_only;
    int code = mdb_dbi_open(txn, FORMAT_TABLE, writing ? MDB_CREATE : 0, &table);
    MDB_val key = {6, (void *)(uintptr_t) "format"}, value;
    if (code == MDB_SUCCESS) code = mdb_get(txn, table, &key, &value);
    if (code == MDB_NOTFOUND && writing) {
        MDB_stat stat;
        MDB_dbi names;
        code = mdb_dbi_open(txn, NULL, 0, &names);
        if (code == MDB_SUCCESS) code = mdb_stat(txn, names, &stat);
        if (code == MDB_SUCCESS && stat.ms_entries > 1) {
            return error_set(error, CORRUPT,
                             "store %s holds tables, but does not say in which format",
                             store->directory);
        }
        value = (MDB_val){strlen(FORMAT_TEXT), (void *)(uintptr_t)FORMAT_TEXT};
        if (code == MDB_SUCCESS) code = mdb_put(txn, table, &key, &value, 0);
    }
    if (code != MDB_SUCCESS) return lmdb_failed(store, error, code, "find out the format");
    return check_format_text(store, bytes_of(value.mv_data, value.mv_size), error);
}

static enum status open_tables_in(struct store *store, MDB_txn *txn, struct error *error) {
    TRY(check_format(store, txn, error));
    for (size_t i = 0; i < store->options.table_count; i++) {
        int code = mdb_dbi_open(txn, store->options.tables[i],
                                store->options.read_only ? 0 : MDB_CREATE, &store->tables[i]);
        if (code == MDB_NOTFOUND) {
            return error_set(error, NOT_FOUND, "store %s has no table %s", store->directory,
                             store->options.tables[i]);
        }
        if (code != MDB_SUCCESS) return lmdb_failed(store, error, code, "open a table");
    }
    return OK;
}

static enum status open_tables(struct store *store, struct error *error) {
    MDB_txn *txn = NULL;
    int code;
    for (unsigned attempts = 0; store->options.read_only; attempts++) {
        TRY(read_again(store, attempts, error));
        TRY(read_begin(store, &txn, error));
        enum status status = open_tables_in(store, txn, error);
        bool whole = read_is_whole(store, txn);
        /* Handles opened in a transaction live on only if it commits. */
        code = whole && status == OK ? mdb_txn_commit(txn) : (mdb_txn_abort(txn), MDB_SUCCESS);
        pthread_rwlock_unlock(&store->map_lock);
        if (!whole) continue;
        return status != OK          ? status
               : code == MDB_SUCCESS ? OK
                                     : lmdb_failed(store, error, code, "open the tables");
    }
    code = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (code != MDB_SUCCESS) return lmdb_failed(store, error, code, "begin writing");
    enum status status = open_tables_in(store, txn, error);
    if (status != OK) {
        mdb_txn_abort(txn);
        return status;
    }
    code = mdb_txn_commit(txn);
    return code == MDB_SUCCESS ? OK : lmdb_failed(store, error, code, "make the tables");
}

static size_t or_default(size_t value, size_t otherwise) { return value ? value : otherwise; }

enum status store_open(const struct store_options *options, struct store **out,
                       struct error *error) {
    TRY(check_options(options, error));
    struct store *store = xcalloc(1, sizeof *store);
    store->options = *options;
    store->directory = xstrdup(options->directory);
    store->lock = -1;
    store->options.map_limit = or_default(options->map_limit, (size_t)256 << 30);
    store->options.map_size =
        MIN(or_default(options->map_size, (size_t)64 << 20), store->options.map_limit);
    store->options.queue_batches = or_default(options->queue_batches, 1024);
    store->options.queue_bytes = or_default(options->queue_bytes, (size_t)64 << 20);
    pthread_rwlockattr_t attributes; /* a waiting writer goes first, else steady readers could keep
                                        the map from growing */
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&store->map_lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);

    enum status status = OK;
    if (!options->read_only) {
        status = file_make_directory(store->directory, 0700, error);
        if (status == OK) status = take_lock(store, error);
    }
    if (status == OK) status = open_environment(store, error);
    if (status == OK) status = open_tables(store, error);
    if (status == OK && !options->read_only) status = writer_start(store, &store->writer, error);
    if (status == OK)
        *out = store;
    else
        store_close(store);
    return status;
}

void store_close(struct store *store) {
    if (!store) return;
    writer_stop(store->writer);
    if (store->env) mdb_env_close(store->env);
    if (store->lock >= 0) close(store->lock); /* only now may the next one come */
    pthread_rwlock_destroy(&store->map_lock);
    free(store->directory);
    free(store);
}
