/* The publisher: everything that goes down to sites as a stream. Its thread owns the Follow and
 * Snapshot streams.
 *
 * A stream is a cursor into immutable things: the ledger and its payloads, or a snapshot's blob. It
 * is pumped while its call takes messages; when the call is full it waits for WRITABLE, when it has
 * sent all there is for the ledger to grow. So a slow site costs a cursor and a few frames, and
 * never holds up another.
 *
 * Entries are packed: small ones share a frame; a contribution's entry travels in the frame of its
 * payload's first piece. A contribution of the receiver's own comes as a stub without payload if it
 * asked for that: it has both.
 *
 * Messages are done in the order they were posted. It stops when its queue is empty.
 */
#ifndef COORDINATOR_PUBLISHER_H
#define COORDINATOR_PUBLISHER_H

#include "coordinator/call.h"
#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"
#include "proto/messages.h"

struct publisher;

struct publisher_options {
    struct directory *data; /* borrowed, all of them */
    const uint8_t *key;     /* [PUBLIC_KEY_SIZE], what snapshots are signed with */
    uint32_t chunk_limit;   /* bytes of payload in a frame, unless a site asks for less */
    uint64_t published;     /* entries that followers may see, at the start */
    /* FOLLOWING and LOST. On the publisher's thread; copies what it keeps. */
    void (*tell)(void *context, const struct coordinator_event *event);
    void *context;
};

enum publisher_message_kind {
    PUBLISHER_FOLLOW = 1,
    PUBLISHER_SNAPSHOT,
    PUBLISHER_WRITABLE, /* the call has room for another message */
    PUBLISHER_CLOSED,   /* the call is over */
    PUBLISHER_GROWN     /* publisher_grow posts it */
};

struct publisher_message {
    enum publisher_message_kind kind;
    struct call *call; /* all but GROWN; a reference is taken while it waits */
    union {
        struct follow_request follow;
        struct snapshot_request snapshot;
    };
};

MUST_USE enum status publisher_start(const struct publisher_options *options,
                                     struct publisher **out, struct error *error);
/* From any thread; waits where the queue is full. */
void publisher_post(struct publisher *publisher, const struct publisher_message *message);
/* Followers may see `published` entries. `head` (may be NULL: the last one still holds) is signed
 * over head_size of them. */
void publisher_grow(struct publisher *publisher, uint64_t published, const uint8_t *head,
                    uint64_t head_size);
/* The contributions that are never merged, as the run state has them now: their payloads are not
 * sent any more. Once before the first entry is published, and before an entry that adds one is. */
void publisher_drop(struct publisher *publisher, const struct run_state *run);
/* Does what was posted, ends and frees it. NULL is a no-op. */
void publisher_stop(struct publisher *publisher);

#endif
