/* The inside of the simulated storage: store.c (records), blob.c (contents and uploads), storage.c
 * (both together, and what befalls snapshots). */
#ifndef SIM_STORAGE_INTERNAL_H
#define SIM_STORAGE_INTERNAL_H

#include "sim/storage.h"

struct snapshot_name { /* a record of the table of snapshots */
    uint64_t version;
    struct buffer header;
};

struct waiting_batch {
    struct store_batch *batch;
    store_done *done;
    void *context;
};

struct store {
    struct storage_setup setup;
    struct snapshot_name *names; /* [name_count], by rising version */
    size_t name_count;
    struct waiting_batch *waiting; /* [waiting_count], in order */
    size_t waiting_count;
    bool full, failed;
};

struct partial_upload {
    char name[BLOB_UPLOAD_NAME_MAX];
    struct buffer bytes;
    size_t synced;
    uint64_t written_at; /* us */
    bool open;
};

struct blob_store {
    struct storage_setup setup;
    struct disk contents;             /* of snapshots: what befalls payloads does not befall them */
    struct partial_upload **partials; /* [partial_count] */
    size_t partial_count;
};

void store_crash(struct store *store);
void blob_crash(struct blob_store *blobs);

#endif
