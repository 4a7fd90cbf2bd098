/* Paths and file operations that the parts of the blob store share. Inside storage/ only. */
#ifndef STORAGE_BLOB_FILES_H
#define STORAGE_BLOB_FILES_H

#include "storage/blob.h"

enum {
    BLOB_NAME_SIZE = 72,     /* "ab/" and 62 digits, terminated */
    BLOB_TEMPORARY_SIZE = 64 /* ".tmp-PID-RANDOM", terminated */
};

struct blob_store {
    char *directory;
    const struct storage_digest *digest; /* borrowed */
    int blobs, uploads;                  /* directory descriptors */
};

/* "ab/cdef..." below blobs/ */
const char *blob_name(const uint8_t digest[static BLOB_DIGEST_SIZE],
                      char out[static BLOB_NAME_SIZE]);
/* errno, translated: NOT_FOUND, FULL with the space that is left, FAILED. */
enum status blob_failed(const struct blob_store *store, struct error *error, int code,
                        const char *doing, const char *name);
enum status blob_corrupt(const struct blob_store *store, struct error *error,
                         const uint8_t digest[static BLOB_DIGEST_SIZE], const char *what);

MUST_USE enum status blob_write_all(const struct blob_store *store, int descriptor,
                                    struct bytes content, const char *name, struct error *error);
/* A new file in uploads/, its name in `name`, filled but not synced. Nothing is left on failure. */
MUST_USE enum status blob_temporary(const struct blob_store *store, struct bytes content,
                                    int *descriptor, char name[static BLOB_TEMPORARY_SIZE],
                                    struct error *error);
/* uploads/from -> blobs/ab/...; read-only. The folder is not synced. */
MUST_USE enum status blob_place(const struct blob_store *store, const char *from,
                                const uint8_t digest[static BLOB_DIGEST_SIZE], struct error *error);
MUST_USE enum status blob_sync_folder(const struct blob_store *store, uint8_t first_byte,
                                      struct error *error);
/* Feeds the file from offset 0 to its end into a digest. */
MUST_USE enum status blob_digest_file(const struct blob_store *store, int descriptor,
                                      uint8_t out[static BLOB_DIGEST_SIZE], uint64_t *size,
                                      struct error *error);
/* Memory for store->digest's state, to be freed. */
struct digest *blob_digest_state(const struct blob_store *store);

#endif
