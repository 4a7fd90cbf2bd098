/* The intake: payloads from the first chunk to the verdict. Its thread owns every upload that is
 * open.
 *
 * An upload's name holds site, fragment, sequence and the payload's digest, so a transfer that
 * broke is found again by a call that sends the same bytes, and never by anybody else. A call has
 * at most one chunk here at a time: its next read is asked for only when this one is in the file,
 * so memory is bounded by the number of calls.
 *
 * The disk is bounded by the table of transfers: the last one of each site and fragment. What it
 * left, a part of an upload or a whole payload that the ledger does not name, is deleted when the
 * next one begins. A payload is `fresh` while nobody else can have a claim to it: this process put
 * it there, and no entry names it. Only such a one is ever deleted, because a site that follows the
 * ledger knows the digests of other sites' payloads and may name them in a header that is refused.
 * What lies there from an earlier start of the process and is not named went at the start
 * (directory_sweep).
 *
 * Messages are done in the order they were posted: a CLOSE that was posted before an ADMIT has let
 * go of its upload by then. It stops when its queue is empty.
 */
#ifndef COORDINATOR_INTAKE_H
#define COORDINATOR_INTAKE_H

#include "coordinator/call.h"
#include "coordinator/coordinator_state.h"
#include "coordinator/disk_watch.h"
#include "storage/blob.h"

struct intake;

struct intake_options {
    struct blob_store *blobs; /* borrowed, all of them */
    const struct manifest *manifest;
    uint64_t parameters;
    uint32_t chunk_limit; /* bytes that a site may send in a chunk */
    struct disk_watch *disk;
    /* UPLOADED and CHECKED. On the intake's thread; copies what it keeps. */
    void (*tell)(void *context, const struct coordinator_event *event);
    /* A payload cannot be made durable: the process must end. */
    void (*broken)(void *context, const char *message);
    void *context;
};

enum intake_message_kind {
    INTAKE_ADMIT =
        1,        /* open the upload and give credit, or say UPLOADED where the payload is there */
    INTAKE_CHUNK, /* one that credit was given for */
    INTAKE_HALF_CLOSE, /* the site has said all: a payload that is not whole by now never will be */
    INTAKE_CLOSE,      /* the call is over; what came so far is kept: the site goes on from there */
    INTAKE_CHECK,      /* read the payload back and say CHECKED */
    INTAKE_KEEP        /* the ledger names that payload: it is never deleted again */
};

struct intake_message {
    enum intake_message_kind kind;
    struct call *call; /* ADMIT, CHUNK, HALF_CLOSE, CLOSE; a reference is taken while it waits */
    union {
        struct {
            struct contribution contribution;
            bool supply; /* of a payload that was lost */
        } admit;
        struct {
            uint64_t offset;       /* in the payload */
            struct buffer message; /* taken */
            size_t head_size;      /* of the message; the chunk is what follows */
        } chunk;
        struct {
            uint64_t number; /* of the call that is told */
            struct contribution contribution;
        } check;
        struct {
            uint8_t digest[DIGEST_SIZE];
        } keep;
    };
};

/* Deletes old uploads first. FULL without the memory that checks need: one fragment's floats. */
MUST_USE enum status intake_start(const struct intake_options *options, struct intake **out,
                                  struct error *error);
/* From any thread; waits where the queue is full. */
void intake_post(struct intake *intake, const struct intake_message *message);
/* Does what was posted, ends and frees it. NULL is a no-op. */
void intake_stop(struct intake *intake);

#endif
