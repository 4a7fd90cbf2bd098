/* The one thread that writes.
 *
 * It owns every write transaction. Other threads own a batch until they hand it over under `mutex`,
 * and get it back never: the writer destroys it after its callback. The queue is a list in the
 * order of the commits; the writer takes from its head as much as fits into one group, applies it
 * in that order in one transaction and commits, which costs one sync for all. While it syncs, the
 * next group gathers: under load the groups grow by themselves and nobody ever waits for a timer.
 *
 * What is promised about order: callbacks come in the order of the commits, and a batch becomes
 * durable only together with or after all batches before it. So when a group is lost (disk full),
 * everything after it is lost with it: the state changes to `full` under the mutex at the same
 * moment as the queue is emptied, and no later commit is accepted until somebody resumes.
 *
 * Disk full is met before LMDB sees it: blocks for the group are reserved in the data file with
 * fallocate. Where a file system cannot do that, the write itself fails, LMDB gives the transaction
 * up (its pages are copies: nothing that is reachable was touched), and the store goes on. If LMDB
 * has lost its meta page in the act, it says so at the next begin: that is fatal, as is every other
 * failure here.
 *
 * Stop: writer_stop sets `stopping`; the thread ends when the queue is empty, so that whatever was
 * accepted is committed.
 */
#include "storage/store_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/thread.h"

enum {
    GROUP_SIZE = 16 << 20,       /* bytes of batches in one transaction; one batch may be larger */
    RESERVE_STEP = 1 << 20,      /* bytes; so that most commits need no fallocate */
    RESERVE_PAGES_PER_RECORD = 3 /* a leaf and what leads there, copied on write */
};

struct store_writer {
    struct store *store;
    struct thread *thread;
    int data;             /* descriptor of data.mdb, for reserving blocks */
    uint64_t reserved_to; /* bytes of data.mdb that have blocks */
    bool cannot_reserve;  /* the file system has no fallocate */

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t work, room;
    pthread_t self;
    bool running, stopping, full, failed;
    struct error reason; /* of full or failed */
    struct store_batch *first, **last;
    size_t queued_batches, queued_bytes; /* those being committed count until they are done */
    struct store_figures figures;
};

/* --- one group, on the writer thread --- */

static uint64_t group_need(const struct store_batch *group, uint64_t page_size) {
    uint64_t need = RESERVE_STEP / 4;
    for (; group; group = group->next) {
        need += 2 * group->operations.size +
                MIN(group->count, 64) * RESERVE_PAGES_PER_RECORD * page_size;
    }
    return need;
}

static enum status reserve(struct store_writer *writer, const struct store_batch *group,
                           struct error *error) {
    if (writer->cannot_reserve) return OK;
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(writer->store->env, &info);
    mdb_env_stat(writer->store->env, &stat);
    uint64_t end = (info.me_last_pgno + 1) * stat.ms_psize + group_need(group, stat.ms_psize);
    if (end <= writer->reserved_to) return OK;
    end = (end + RESERVE_STEP - 1) / RESERVE_STEP * RESERVE_STEP;
    int code;
    do {
        code = fallocate(writer->data, FALLOC_FL_KEEP_SIZE, 0, (off_t)end) == 0 ? 0 : errno;
    } while (code == EINTR);
    if (code == EOPNOTSUPP || code == ENOSYS) {
        writer->cannot_reserve = true;
        return OK;
    }
    if (code) return lmdb_failed(writer->store, error, code, "reserve room in data.mdb");
    writer->reserved_to = end;
    return OK;
}

static int apply(struct store *store, MDB_txn *txn, const struct store_batch *batch) {
    struct batch_operation operation;
    for (size_t at = 0; batch_next(batch, &at, &operation);) {
        MDB_val key = value_of(operation.key), value = value_of(operation.stored);
        MDB_dbi table = store->tables[operation.table];
        int code = operation.kind == BATCH_PUT ? mdb_put(txn, table, &key, &value, 0)
                                               : mdb_del(txn, table, &key, NULL);
        if (code != MDB_SUCCESS && !(code == MDB_NOTFOUND && operation.kind == BATCH_DELETE))
            return code;
    }
    return MDB_SUCCESS;
}

/* A write cut short by a full disk is EIO in LMDB 0.9. Only believed where nothing could be
 * reserved. */
static bool disk_is_full(const struct store_writer *writer, const struct store_batch *group) {
    struct statvfs disk;
    return writer->cannot_reserve && statvfs(writer->store->directory, &disk) == 0 &&
           (uint64_t)disk.f_bavail * disk.f_frsize < group_need(group, 4096);
}

/* After a commit that failed for lack of room: does LMDB still stand? */
static enum status check_alive(struct store *store, struct error *error) {
    MDB_txn *txn = NULL;
    int code = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (code != MDB_SUCCESS) {
        lmdb_failed(store, error, code, "begin after a commit that found no room");
        return FAILED;
    }
    mdb_txn_abort(txn);
    return OK;
}

/* One try. *map_full is set where a larger map would help. */
static enum status try_group(struct store_writer *writer, const struct store_batch *group,
                             bool *map_full, struct error *error) {
    struct store *store = writer->store;
    MDB_txn *txn = NULL;
    TRY(reserve(writer, group, error));
    int code = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (code != MDB_SUCCESS) return lmdb_failed(store, error, code, "begin writing");
    for (const struct store_batch *batch = group; batch; batch = batch->next) {
        code = apply(store, txn, batch);
        if (code != MDB_SUCCESS) {
            mdb_txn_abort(txn);
            *map_full = code == MDB_MAP_FULL;
            return lmdb_failed(store, error, code, "write a record");
        }
    }
    code = mdb_txn_commit(txn);
    if (code == MDB_SUCCESS) return OK;
    if (code == EIO && disk_is_full(writer, group)) code = ENOSPC;
    *map_full = code == MDB_MAP_FULL;
    enum status status = lmdb_failed(store, error, code, "commit");
    return status == FULL && check_alive(store, error) != OK ? FAILED : status;
}

static enum status commit_group(struct store_writer *writer, const struct store_batch *group,
                                struct error *error) {
    for (;;) {
        bool map_full = false;
        enum status status = try_group(writer, group, &map_full, error);
        if (!map_full) return status;
        MDB_envinfo info;
        mdb_env_info(writer->store->env, &info);
        size_t limit = writer->store->options.map_limit;
        if (info.me_mapsize >= limit) return status;
        TRY(map_resize(writer->store, info.me_mapsize > limit / 2 ? limit : info.me_mapsize * 2,
                       error));
    }
}

static void finish_list(struct store_batch *list, enum status status, const struct error *error) {
    while (list) {
        struct store_batch *batch = list;
        list = batch->next;
        if (batch->done) batch->done(batch->context, status, error);
        store_batch_destroy(batch);
    }
}

/* --- the loop --- */

/* With the mutex held. Cuts the head of the queue off: a group, ended by NULL. */
static struct store_batch *take_group(struct store_writer *writer) {
    struct store_batch *group = writer->first, *end = group;
    size_t size = end->operations.size;
    while (end->next && size + end->next->operations.size <= GROUP_SIZE) {
        end = end->next;
        size += end->operations.size;
    }
    writer->first = end->next;
    if (!writer->first) writer->last = &writer->first;
    end->next = NULL;
    return group;
}

static void note_success(struct store_writer *writer, const struct store_batch *group,
                         uint64_t took_ns) {
    writer->figures.transactions++;
    writer->figures.commit_ns_total += took_ns;
    writer->figures.commit_ns_max = MAX(writer->figures.commit_ns_max, took_ns);
    for (; group; group = group->next) {
        writer->figures.batches++;
        writer->figures.records += group->count;
    }
}

/* With the mutex held: from here on every commit is refused, and what waits shares the fate of the
 * group. */
static struct store_batch *enter_failure(struct store_writer *writer, enum status status,
                                         const struct error *error) {
    writer->full = status == FULL;
    writer->failed = status != FULL;
    writer->reason = *error;
    writer->reason.status = status;
    struct store_batch *rest = writer->first;
    writer->first = NULL;
    writer->last = &writer->first;
    return rest;
}

static void run_group(struct store_writer *writer, struct store_batch *group) {
    struct error error = {0};
    uint64_t start = clock_monotonic_ns();
    enum status status = commit_group(writer, group, &error);
    if (status != OK && status != FULL) status = FAILED;
    uint64_t took_ns = clock_monotonic_ns() - start;
    struct store_batch *rest = NULL;
    size_t batches = 0, bytes = 0;

    pthread_mutex_lock(&writer->mutex);
    if (status == OK)
        note_success(writer, group, took_ns);
    else
        rest = enter_failure(writer, status, &error);
    pthread_mutex_unlock(&writer->mutex);

    for (const struct store_batch *batch = group; batch; batch = batch->next)
        batches++, bytes += batch->operations.size;
    for (const struct store_batch *batch = rest; batch; batch = batch->next)
        batches++, bytes += batch->operations.size;
    struct store_options *options = &writer->store->options;
    error.status = status;
    if (status == FAILED && options->on_fatal) options->on_fatal(options->fatal_context, &error);
    finish_list(group, status, status == OK ? NULL : &error);
    finish_list(rest, status, &error);

    pthread_mutex_lock(&writer->mutex);
    writer->queued_batches -= batches;
    writer->queued_bytes -= bytes;
    pthread_cond_broadcast(&writer->room);
    pthread_mutex_unlock(&writer->mutex);
}

static void writer_main(void *context) {
    struct store_writer *writer = context;
    pthread_mutex_lock(&writer->mutex);
    writer->self = pthread_self();
    writer->running = true;
    for (;;) {
        while (!writer->first && !writer->stopping)
            pthread_cond_wait(&writer->work, &writer->mutex);
        if (!writer->first) break;
        struct store_batch *group = take_group(writer);
        pthread_mutex_unlock(&writer->mutex);
        run_group(writer, group);
        pthread_mutex_lock(&writer->mutex);
    }
    writer->running = false;
    pthread_mutex_unlock(&writer->mutex);
}

enum status writer_start(struct store *store, struct store_writer **out, struct error *error) {
    char *path = file_join(store->directory, "data.mdb");
    int data = open(path, O_RDWR | O_CLOEXEC);
    int reason = errno;
    free(path);
    if (data < 0)
        return error_set(error, FAILED, "open %s/data.mdb: %s", store->directory, strerror(reason));
    struct store_writer *writer = xcalloc(1, sizeof *writer);
    writer->store = store;
    writer->data = data;
    writer->last = &writer->first;
    pthread_mutex_init(&writer->mutex, NULL);
    pthread_cond_init(&writer->work, NULL);
    pthread_cond_init(&writer->room, NULL);
    enum status status = thread_start("store-writer", writer_main, writer, &writer->thread, error);
    if (status == OK)
        *out = writer;
    else
        writer_stop(writer);
    return status;
}

void writer_stop(struct store_writer *writer) {
    if (!writer) return;
    pthread_mutex_lock(&writer->mutex);
    writer->stopping = true;
    pthread_cond_broadcast(&writer->work);
    pthread_mutex_unlock(&writer->mutex);
    enum status joined = thread_join(writer->thread, UINT64_MAX);
    MUST(joined);
    pthread_mutex_destroy(&writer->mutex);
    pthread_cond_destroy(&writer->work);
    pthread_cond_destroy(&writer->room);
    close(writer->data);
    free(writer);
}

/* --- what other threads call --- */

static enum status check_batch(const struct store *store, const struct store_batch *batch,
                               struct error *error) {
    ASSERT(batch->store == store);
    if (!store->writer)
        return error_set(error, INVALID, "store %s is open for reading only", store->directory);
    if (batch->wrong.status != OK) {
        return error_set(error, INVALID, "store %s: %s", store->directory, batch->wrong.message);
    }
    if (batch->operations.size > store->options.queue_bytes) {
        return error_set(error, INVALID,
                         "store %s: a batch of %zu bytes, more than the queue's %zu",
                         store->directory, batch->operations.size, store->options.queue_bytes);
    }
    return OK;
}

static bool has_room(const struct store_writer *writer, const struct store_batch *batch) {
    const struct store_options *options = &writer->store->options;
    return writer->queued_batches < options->queue_batches &&
           writer->queued_bytes + batch->operations.size <= options->queue_bytes;
}

/* With the mutex held. */
static enum status enqueue(struct store_writer *writer, struct store_batch *batch,
                           struct error *error) {
    ASSERT(!writer->stopping);
    if (writer->full || writer->failed) {
        return error_set(error, writer->reason.status, "%s; nothing is written any more",
                         writer->reason.message);
    }
    if (!has_room(writer, batch)) {
        return error_set(error, FULL, "store %s: %zu batches with %zu bytes wait to be written",
                         writer->store->directory, writer->queued_batches, writer->queued_bytes);
    }
    batch->next = NULL;
    *writer->last = batch;
    writer->last = &batch->next;
    writer->queued_batches++;
    writer->queued_bytes += batch->operations.size;
    pthread_cond_signal(&writer->work);
    return OK;
}

enum status store_commit(struct store *store, struct store_batch *batch, store_done *done,
                         void *context, struct error *error) {
    TRY(check_batch(store, batch, error));
    batch->done = done;
    batch->context = context;
    pthread_mutex_lock(&store->writer->mutex);
    enum status status = enqueue(store->writer, batch, error);
    pthread_mutex_unlock(&store->writer->mutex);
    return status;
}

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool done;
    enum status status;
    struct error *error;
};

static void wake(void *context, enum status status, const struct error *error) {
    struct waiter *waiter = context;
    pthread_mutex_lock(&waiter->mutex);
    waiter->done = true;
    waiter->status = status;
    if (error && waiter->error) *waiter->error = *error;
    pthread_cond_signal(&waiter->changed); /* under the mutex: afterwards the waiter may be gone */
    pthread_mutex_unlock(&waiter->mutex);
}

enum status store_commit_wait(struct store *store, struct store_batch *batch, struct error *error) {
    enum status status = check_batch(store, batch, error);
    if (status != OK) {
        store_batch_destroy(batch);
        return status;
    }
    struct waiter waiter = {.error = error};
    pthread_mutex_init(&waiter.mutex, NULL);
    pthread_cond_init(&waiter.changed, NULL);
    batch->done = wake;
    batch->context = &waiter;
    struct store_writer *writer = store->writer;
    pthread_mutex_lock(&writer->mutex);
    ASSERT(!writer->running || !pthread_equal(pthread_self(), writer->self));
    while (!writer->full && !writer->failed && !has_room(writer, batch))
        pthread_cond_wait(&writer->room, &writer->mutex);
    status = enqueue(writer, batch, error);
    pthread_mutex_unlock(&writer->mutex);
    if (status == OK) {
        pthread_mutex_lock(&waiter.mutex);
        while (!waiter.done) pthread_cond_wait(&waiter.changed, &waiter.mutex);
        status = waiter.status;
        pthread_mutex_unlock(&waiter.mutex);
    } else {
        store_batch_destroy(batch);
    }
    pthread_mutex_destroy(&waiter.mutex);
    pthread_cond_destroy(&waiter.changed);
    return status;
}

void store_resume(struct store *store) {
    if (!store->writer) return;
    pthread_mutex_lock(&store->writer->mutex);
    store->writer->full = false;
    pthread_mutex_unlock(&store->writer->mutex);
}

void store_figures(struct store *store, struct store_figures *out) {
    struct store_figures figures = {0};
    if (store->writer) {
        struct store_writer *writer = store->writer;
        pthread_mutex_lock(&writer->mutex);
        figures = writer->figures;
        figures.queued_batches = writer->queued_batches;
        figures.queued_bytes = writer->queued_bytes;
        figures.full = writer->full;
        figures.failed = writer->failed;
        pthread_mutex_unlock(&writer->mutex);
    }
    MDB_envinfo info;
    MDB_stat stat;
    pthread_rwlock_rdlock(&store->map_lock);
    mdb_env_info(store->env, &info);
    mdb_env_stat(store->env, &stat);
    pthread_rwlock_unlock(&store->map_lock);
    figures.map_size = info.me_mapsize;
    figures.used_size = (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize;
    *out = figures;
}
