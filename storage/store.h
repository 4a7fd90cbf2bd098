/* Durable key/value tables (LMDB): small records that name things. Large things are blobs
 * (storage/blob.h).
 *
 * One store a directory, one writing process a directory, one writer thread a store. Any thread
 * fills a `struct store_batch` with puts and deletes and hands it over; the writer takes all
 * batches that wait, applies them in the order they came, commits them as one transaction with one
 * sync (group commit), and then calls each batch's callback. A batch is durable as a whole or not
 * at all, and never without all that were accepted before it. Tables are named by their index in
 * the list given at open.
 *
 * LMDB has no checksums, so each record carries 16 bytes of SHA-256 over its table, key and value,
 * checked at every read: CORRUPT names the table and the key. A table's or page's structure is
 * LMDB's; damage there is CORRUPT where LMDB sees it.
 *
 * When the disk or the map limit is full, the batches concerned fail with FULL, nothing of them is
 * stored, and from then on *every* commit is FULL until store_resume: nothing can slip in after a
 * batch that was lost. Any other failure of a commit (a failed sync first of all) is fatal: what is
 * on disk is then unknown, `on_fatal` is called and the program must stop, restart and read back.
 *
 * Reads copy out and hold a reader for as long as one copy takes; they never wait for the writer
 * but while the map grows. The process must not fork and go on using a store in the child.
 *
 * Reading needs no write access. Where LMDB's lock.mdb may be written, a reader is entered in its
 * table, and the writer keeps the pages that the reader sees. Where it may not (a read-only mount,
 * another user's directory, a copy without the file, which a reader never makes: it would belong to
 * the wrong user), a reader is in no table, and a writer may reuse its pages. LMDB keeps the pages
 * of the last two committed versions: a writer that works on version n + 2 touches none of n's, and
 * it can begin on n + 3 only when n + 2 is committed. So what was read in version n counts only if,
 * afterwards, the newest committed version is still n or n + 1; else it is read again. A record's
 * digest is compared besides. One danger is left: a reader that was stopped in the middle of a
 * look-up and goes on later may follow an overwritten page beyond the file's end, and dies by
 * SIGBUS. It has changed nothing, and may be started again.
 */
#ifndef STORAGE_STORE_H
#define STORAGE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "storage/digest.h"

enum {
    STORE_TABLES_MAX = 64,
    STORE_TABLE_NAME_MAX = 32, /* characters of [a-z0-9_] */
    STORE_KEY_SIZE_MAX = 511,  /* bytes, at least 1 */
    STORE_VALUE_SIZE_MAX = 4 << 20,
    STORE_KEY_U64_SIZE = 8
};

struct store;
struct store_batch;

struct store_options {     /* zeroes mean the default */
    const char *directory; /* made where missing, mode 0700 */
    const char *const
        *tables; /* [table_count]; made where missing. Borrowed while the store is open */
    size_t table_count;
    const struct storage_digest *digest; /* borrowed while the store is open */
    bool read_only;       /* looks beside a running writer: makes and changes nothing, commits are
                             INVALID; see below */
    size_t map_size;      /* bytes to begin with; default 64 MiB, doubled when full */
    size_t map_limit;     /* bytes it may grow to; default 256 GiB (address space, not memory) */
    size_t queue_batches; /* waiting at most; default 1024 */
    size_t queue_bytes;   /* of waiting batches at most, and so of one batch; default 64 MiB */
    /* Called once, on the writer thread, before the failed batches' callbacks. Must not call into
     * the store. */
    void (*on_fatal)(void *context, const struct error *error);
    void *fatal_context;
};

/* UNAVAILABLE if another process (or this one) has the directory open for writing: the message
 * names its pid. CORRUPT if the files are damaged or cut; INVALID for wrong options, NOT_FOUND when
 * read_only and there is no store or table. */
MUST_USE enum status store_open(const struct store_options *options, struct store **out,
                                struct error *error);
/* Who has the directory open for writing, by the lock that the kernel takes from a process that
 * ends: a process's number says less, it may be another's since, or another container's. UNKNOWN
 * where the lock may not be read. */
enum store_use { STORE_FREE, STORE_IN_USE, STORE_UNKNOWN };
enum store_use store_use_of(const char *directory);
/* Commits what waits, calls the callbacks, ends the thread, lets go of the directory. Nobody else
 * may be in a call. NULL is a no-op. */
void store_close(struct store *store);

/* --- writing --- */

/* Owned by one thread until committed. Never fails: the first wrong put is remembered and comes
 * back from the commit. */
struct store_batch *store_batch_create(const struct store *store);
void store_batch_destroy(struct store_batch *batch); /* NULL is a no-op */
/* Copies. The later of two puts to one key wins. */
void store_batch_put(struct store_batch *batch, unsigned table, struct bytes key,
                     struct bytes value);
/* A key that is not there is no error. */
void store_batch_delete(struct store_batch *batch, unsigned table, struct bytes key);
size_t store_batch_count(const struct store_batch *batch); /* puts and deletes */
size_t store_batch_size(const struct store_batch *batch);  /* bytes it holds */

/* On the writer thread, in the order of the commits, after all of the batch is durable (OK) or
 * known not to be stored (FULL), or when nothing is known (FAILED and whatever else). error lives
 * during the call, NULL when OK. Must be brief, must not wait for a commit. */
typedef void store_done(void *context, enum status status, const struct error *error);

/* Hands the batch over. OK: the store takes it and will call done (which may be NULL) exactly once.
 * On any failure the caller still owns it: FULL when the queue is (try again) or the disk is
 * (store_figures says full; see store_resume), INVALID if a put was wrong, else what made the store
 * fail. */
MUST_USE enum status store_commit(struct store *store, struct store_batch *batch, store_done *done,
                                  void *context, struct error *error);
/* Waits for room in the queue and then until durable. Takes the batch in any case. Not from a
 * callback. */
MUST_USE enum status store_commit_wait(struct store *store, struct store_batch *batch,
                                       struct error *error);
/* After FULL: try the disk again from here on. Call it once every batch that came back has been
 * dealt with. */
void store_resume(struct store *store);

/* --- reading: any thread --- */

/* Replaces *out's content. NOT_FOUND, CORRUPT. */
MUST_USE enum status store_get(struct store *store, unsigned table, struct bytes key,
                               struct buffer *out, struct error *error);
/* OK or NOT_FOUND; checks no digest. */
MUST_USE enum status store_has(struct store *store, unsigned table, struct bytes key,
                               struct error *error);
/* The record with the greatest key; NOT_FOUND if the table is empty. Replaces the content of *key
 * and *value; value may be NULL. */
MUST_USE enum status store_last(struct store *store, unsigned table, struct buffer *key,
                                struct buffer *value, struct error *error);
MUST_USE enum status store_count(struct store *store, unsigned table, uint64_t *out,
                                 struct error *error);

/* A walk over from <= key < to in key order (unsigned bytes, as memcmp). It copies up to 256
 * records or 1 MiB at a time and keeps no reader between: every such portion is consistent in
 * itself, the whole walk is not one snapshot. One thread at a time. */
struct store_scan;
enum store_order { STORE_ASCENDING, STORE_DESCENDING };
/* from and to are copied; size 0 means without bound. */
struct store_scan *store_scan_open(struct store *store, unsigned table, struct bytes from,
                                   struct bytes to, enum store_order order);
/* NOT_FOUND at the end. Key and value are lent until the next call on this scan. */
MUST_USE enum status store_scan_next(struct store_scan *scan, struct bytes *key,
                                     struct bytes *value, struct error *error);
void store_scan_close(struct store_scan *scan); /* NULL is a no-op */

/* Reads every record of every table. CORRUPT names the first bad one. *records may be NULL. */
MUST_USE enum status store_check(struct store *store, uint64_t *records, struct error *error);

/* --- keys that sort as numbers: 8 bytes, big-endian --- */
void store_key_u64(uint64_t value, uint8_t out[static STORE_KEY_U64_SIZE]);
/* CORRUPT if the key has another size. */
MUST_USE enum status store_key_u64_read(struct bytes key, uint64_t *out, struct error *error);

struct store_figures {
    uint64_t transactions, batches, records; /* committed since open; records = puts and deletes */
    uint64_t commit_ns_total, commit_ns_max; /* from begin to durable */
    uint64_t map_size, used_size;            /* bytes */
    uint64_t queued_batches, queued_bytes;
    bool full, failed;
};
void store_figures(struct store *store, struct store_figures *out);

#endif
