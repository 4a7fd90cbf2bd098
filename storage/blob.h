/* Content-addressed files: payloads, snapshots, frames. A blob's only name is the SHA-256 of its
 * bytes.
 *
 *     DIRECTORY/blobs/ab/cdef...    one finished blob: 64 hex digits, two of them the folder;
 *                                   read-only, never changed
 *     DIRECTORY/uploads/NAME        an upload in progress: its size is where the sender goes on
 *     DIRECTORY/uploads/.tmp-*      a write in progress
 *
 * A blob appears under its name only when its bytes are on disk: write, fdatasync, rename, fsync of
 * the folder. When a call that makes a blob returns OK, it is durable. Everything read through
 * blob_read and blob_reader_open is compared with the digest first: CORRUPT names it. A blob that
 * is written again replaces the file, which heals a damaged one.
 *
 * FULL: the disk is, with figures; nothing is left behind but uploads, which go on once there is
 * room. FAILED from a sync: stop the program, what the disk holds is unknown. Paths are made from
 * digests and checked names only, never from a peer's text. The struct is fixed once open: any
 * thread, also several processes. Batches, uploads and readers belong to one thread at a time.
 */
#ifndef STORAGE_BLOB_H
#define STORAGE_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "storage/digest.h"

enum { BLOB_DIGEST_SIZE = STORAGE_DIGEST_SIZE, BLOB_UPLOAD_NAME_MAX = 128 };

struct blob_store;
struct blob_batch;
struct blob_reader;
struct blob_upload;

/* Makes the folders where missing. digest is borrowed while open. */
MUST_USE enum status blob_store_open(const char *directory, const struct storage_digest *digest,
                                     struct blob_store **out, struct error *error);
/* For reading alone: makes nothing, needs no write access. In a folder that is missing there are no
 * blobs. */
MUST_USE enum status blob_store_open_reading(const char *directory,
                                             const struct storage_digest *digest,
                                             struct blob_store **out, struct error *error);
void blob_store_close(struct blob_store *store); /* NULL is a no-op */

/* --- whole blobs --- */

/* Durable when OK; its name goes to digest. */
MUST_USE enum status blob_write(struct blob_store *store, struct bytes content,
                                uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error);
/* Replaces *out's content. NOT_FOUND; INVALID if larger than limit; CORRUPT. */
MUST_USE enum status blob_read(struct blob_store *store,
                               const uint8_t digest[static BLOB_DIGEST_SIZE], size_t limit,
                               struct buffer *out, struct error *error);
/* Without comparing the digest: for callers that compare it themselves. */
MUST_USE enum status blob_read_unchecked(struct blob_store *store,
                                         const uint8_t digest[static BLOB_DIGEST_SIZE],
                                         size_t limit, struct buffer *out, struct error *error);
/* The size in bytes (out may be NULL), or NOT_FOUND. Does not look at the contents. */
MUST_USE enum status blob_size(struct blob_store *store,
                               const uint8_t digest[static BLOB_DIGEST_SIZE], uint64_t *out,
                               struct error *error);
bool blob_exists(struct blob_store *store, const uint8_t digest[static BLOB_DIGEST_SIZE]);
/* NOT_FOUND if there is none. After a crash a deleted blob may be back: deleting must be
 * repeatable. Open readers go on. */
MUST_USE enum status blob_delete(struct blob_store *store,
                                 const uint8_t digest[static BLOB_DIGEST_SIZE],
                                 struct error *error);
/* Compares the contents with the name: CORRUPT, NOT_FOUND. Constant memory. */
MUST_USE enum status blob_check(struct blob_store *store,
                                const uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error);

/* Called for each blob, in the order of digests; anything but OK ends the walk and is returned. */
typedef enum status blob_visit(void *context, const uint8_t *digest, uint64_t size,
                               struct error *error);
MUST_USE enum status blob_each(struct blob_store *store, blob_visit *visit, void *context,
                               struct error *error);
/* By a walk: not for every request. Either may be NULL. Finished blobs only. */
MUST_USE enum status blob_total(struct blob_store *store, uint64_t *count, uint64_t *size,
                                struct error *error);

/* --- several at once: one sync for all of them (3-4x as fast as one by one) --- */
struct blob_batch *blob_batch_create(struct blob_store *store);
/* Written, but not there under its name before blob_batch_sync. At most 4096 a batch (INVALID). */
MUST_USE enum status blob_batch_add(struct blob_batch *batch, struct bytes content,
                                    uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error);
/* All are durable when OK. On failure some may be there; none is half there. The batch is empty
 * afterwards. */
MUST_USE enum status blob_batch_sync(struct blob_batch *batch, struct error *error);
void blob_batch_destroy(struct blob_batch *batch); /* drops what was not synced; NULL is a no-op */

/* --- reading a piece at a time --- */

/* Reads and checks the whole blob first: NOT_FOUND, CORRUPT. Later damage on disk is not seen. */
MUST_USE enum status blob_reader_open(struct blob_store *store,
                                      const uint8_t digest[static BLOB_DIGEST_SIZE],
                                      struct blob_reader **out, struct error *error);
/* Without that pass: for sending to peers who compare the digest themselves. */
MUST_USE enum status blob_reader_open_unchecked(struct blob_store *store,
                                                const uint8_t digest[static BLOB_DIGEST_SIZE],
                                                struct blob_reader **out, struct error *error);
uint64_t blob_reader_size(const struct blob_reader *reader);
/* Exactly size bytes from offset into out. INVALID if that goes past the end; CORRUPT if the file
 * has become shorter. */
MUST_USE enum status blob_reader_read(struct blob_reader *reader, uint64_t offset, void *out,
                                      size_t size, struct error *error);
void blob_reader_close(struct blob_reader *reader); /* NULL is a no-op */

/* --- uploads that survive a restart --- */

/* Opens the upload of that name or begins it. name: 1 to BLOB_UPLOAD_NAME_MAX of [A-Za-z0-9_.-],
 * not beginning with a dot; INVALID if not. limit: bytes it may grow to. UNAVAILABLE while somebody
 * else has it open. */
MUST_USE enum status blob_upload_open(struct blob_store *store, const char *name, uint64_t limit,
                                      struct blob_upload **out, struct error *error);
uint64_t blob_upload_size(const struct blob_upload *upload); /* the offset to go on from */
/* INVALID unless offset is blob_upload_size, and if it would pass the limit. After FULL the size
 * tells how much was kept. */
MUST_USE enum status blob_upload_append(struct blob_upload *upload, uint64_t offset,
                                        struct bytes content, struct error *error);
/* Compares with the digest, syncs, moves it into place: durable when OK. CORRUPT: other bytes came;
 * the upload is emptied, so the sender starts again from 0. In every case the handle is still to be
 * closed. */
MUST_USE enum status blob_upload_finish(struct blob_upload *upload,
                                        const uint8_t digest[static BLOB_DIGEST_SIZE],
                                        struct error *error);
/* Keeps what has come so far (if it was not finished). NULL is a no-op. */
void blob_upload_close(struct blob_upload *upload);
/* Closes and deletes it. */
void blob_upload_discard(struct blob_upload *upload);
/* Deletes uploads and left-over temporary files that nobody has open and nobody wrote to for
 * age_ms. *removed may be NULL. */
MUST_USE enum status blob_upload_clean(struct blob_store *store, uint64_t age_ms, uint64_t *removed,
                                       struct error *error);
/* The same for names that begin with `prefix` (".tmp-": writes that a crash cut off), whatever
 * their age: for a start, when no other process can be writing here. */
MUST_USE enum status blob_upload_clean_named(struct blob_store *store, const char *prefix,
                                             uint64_t *removed, struct error *error);

#endif
