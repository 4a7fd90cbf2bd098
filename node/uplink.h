/* The thread that sends our contributions: Submit streams, one after another, in the background.
 *
 * What is sent is what the spool has: header and signature from the journal's `sent`, the payload
 * from its blob. The answer to the header is a credit with an offset: the coordinator may have part
 * of the payload from an earlier try. Chunks are at most what the credit allows and, where there is
 * a bandwidth cap, at most a second's worth; a few are in flight at a time. The cap is a token
 * bucket over everything this thread sends. Then comes a receipt or a coded refusal, at any time.
 *
 * The same thread brings payloads that the coordinator has lost, from whatever copy is here and
 * whole, and gets those that this disk has lost (node/refetch.h): content by digest, both.
 *
 * Every upload ends in exactly one event (RECEIPT, REFUSED or BROKEN), unless the uplink is
 * stopped. What to do about it is the core's business; nothing is retried here.
 */
#ifndef NODE_UPLINK_H
#define NODE_UPLINK_H

#include "node/journal.h"
#include "node/node_state.h"
#include "node/stream.h"

struct uplink;

struct uplink_options {
    struct journal *journal; /* borrowed */
    struct traffic *traffic; /* borrowed */
    uint64_t bandwidth;      /* bytes per second; 0: no cap */
    uint32_t timeout_ms;     /* without progress */
    uint64_t instance;       /* of this process */
    bool restored;           /* as the downlink tells it */
    bool waits;              /* training waits for what is sent: overlap is off */
    uint64_t payload_limit;  /* bytes: the codec's bound of the largest fragment */
    /* on this thread; copies what it keeps */
    void (*tell)(void *context, const struct node_event *event);
    void *context;
};

MUST_USE enum status uplink_start(const struct uplink_options *options, struct uplink **out,
                                  struct error *error);
/* Core's thread. The channel is borrowed until uplink_stop. */
void uplink_send(struct uplink *uplink, struct rpc_channel *channel, uint32_t fragment,
                 uint64_t sequence);
/* Likewise; NODE_SUPPLIED and NODE_REFETCHED follow. */
void uplink_supply(struct uplink *uplink, struct rpc_channel *channel, uint64_t index);
void uplink_refetch(struct uplink *uplink, struct rpc_channel *channel, uint64_t index,
                    const struct contribution *contribution);
/* Cuts what is under way, ends the thread. */
void uplink_stop(struct uplink *uplink);
void uplink_destroy(struct uplink *uplink); /* NULL is a no-op */

#endif
