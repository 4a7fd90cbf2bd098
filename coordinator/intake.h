/* The intake: its thread owns every upload that is open, from the first chunk to the verdict.
 *
 * What is done with a payload is coordinator/transfers.h; this gives it a thread, a clock and
 * calls. A call has at most one chunk here at a time: its next read is asked for only when this one
 * is in the file, so memory is bounded by the number of calls.
 *
 * Messages are done in the order they were posted: a CLOSE that was posted before an ADMIT has let
 * go of its upload by then. It stops when its queue is empty.
 */
#ifndef COORDINATOR_INTAKE_H
#define COORDINATOR_INTAKE_H

#include "coordinator/call.h"
#include "coordinator/disk_watch.h"
#include "coordinator/transfers.h"

struct intake;

struct intake_options {
    struct directory *data; /* borrowed, all of them */
    const struct manifest *manifest;
    uint64_t parameters;
    uint32_t chunk_limit; /* bytes that a site may send in a chunk */
    struct disk_watch *disk;
    /* UPLOADED, CHECKED and LOST. On the intake's thread; copies what it keeps. */
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

/* Deletes old uploads first. */
MUST_USE enum status intake_start(const struct intake_options *options, struct intake **out,
                                  struct error *error);
/* From any thread; waits where the queue is full. */
void intake_post(struct intake *intake, const struct intake_message *message);
/* Does what was posted, ends and frees it. NULL is a no-op. */
void intake_stop(struct intake *intake);

#endif
