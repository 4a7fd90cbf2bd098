/* Transfers: payloads from the first chunk to the verdict.
 *
 * An upload's name holds site, fragment, sequence and the payload's digest, so a transfer that
 * broke is found again by a call that sends the same bytes, and never by anybody else.
 *
 * The disk is bounded by the table of transfers: the last one of each site and fragment. What it
 * left, a part of an upload or a whole payload that the ledger does not name, is deleted when the
 * next one begins. A payload is `fresh` while nobody else can have a claim to it: this process put
 * it there, and no entry names it. Only such a one is ever deleted, because a site that follows the
 * ledger knows the digests of other sites' payloads and may name them in a header that is refused.
 * What lies there from an earlier start of the process and is not named went at the start
 * (directory_sweep).
 *
 * No thread and no clock: coordinator/intake.c gives it both, the simulator's coordinator its own.
 * Nothing here waits. A call is known by its number, which is never used again.
 */
#ifndef COORDINATOR_TRANSFERS_H
#define COORDINATOR_TRANSFERS_H

#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"

struct transfers;

struct transfers_options {
    struct directory *data; /* borrowed, all of them */
    const struct manifest *manifest;
    uint64_t parameters;
    /* UPLOADED, CHECKED, and LOST for a damaged payload that the ledger names. Copies what it
     * keeps. */
    void (*tell)(void *context, const struct coordinator_event *event);
    /* A payload cannot be made durable: the process must end. */
    void (*broken)(void *context, const char *message);
    /* The disk has no room for payloads, and has again. */
    void (*waits)(void *context, const char *message);
    void (*has_room)(void *context);
    void *context;
};

enum transfer_next {
    TRANSFER_OVER,   /* UPLOADED was told */
    TRANSFER_CREDIT, /* the site may send, from *offset on */
    TRANSFER_MORE,   /* its next chunk */
    TRANSFER_STRAY   /* nobody gave it credit, or the upload is over */
};

/* Deletes old uploads first. */
MUST_USE enum status transfers_create(const struct transfers_options *options, uint64_t now_ms,
                                      struct transfers **out, struct error *error);
/* What came so far is kept. NULL is a no-op. */
void transfers_destroy(struct transfers *transfers);

/* Opens the upload, or says UPLOADED where the payload is there. supply: of one that was lost. */
enum transfer_next transfers_admit(struct transfers *transfers, uint64_t call,
                                   const struct contribution *contribution, bool supply,
                                   uint64_t now_ms, uint64_t *offset);
enum transfer_next transfers_chunk(struct transfers *transfers, uint64_t call, uint64_t offset,
                                   struct bytes content);
/* The site has said all: a payload that is not whole by now never will be. */
void transfers_half_close(struct transfers *transfers, uint64_t call);
/* The call is over; what came so far is kept: the site goes on from there. */
void transfers_close(struct transfers *transfers, uint64_t call);
/* Reads the payload back and says CHECKED. */
void transfers_check(struct transfers *transfers, uint64_t call,
                     const struct contribution *contribution);
/* The ledger names that payload: it is never deleted again. */
void transfers_keep(struct transfers *transfers, const uint8_t digest[static DIGEST_SIZE]);

#endif
