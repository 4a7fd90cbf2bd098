/* The thread that receives: the ledger and its payloads (Follow), the offer and the content of a
 * snapshot of the run.
 *
 * It does one thing at a time, as the core orders: connect (and ask for the offer, or follow),
 * follow, fetch. Of a frame, entries are put in order, stubs of our own contributions are made
 * whole from the journal, pieces of payload are appended to an upload of the blob store and, when
 * complete, checked against the digest in their contribution's header. An entry is told to the
 * core only when it is durable in our copy, its payload is too, and so are all entries before it.
 * While the core has many entries waiting for a step, nothing more is read: flow control stops the
 * coordinator.
 *
 * A stub or payload that we should have and have not (a lost file) is asked for in full. A frame
 * that breaks the protocol ends the link: LINK_DOWN, and the core tries again later. What the
 * entries say is the core's to judge, except the first one: it must be of the run that we joined,
 * or nothing is stored.
 */
#ifndef NODE_DOWNLINK_H
#define NODE_DOWNLINK_H

#include "node/journal.h"
#include "node/node_state.h"
#include "node/site.h"
#include "node/stream.h"
#include "node/trouble.h"

struct downlink;

struct downlink_options {
    uint64_t instance; /* of this process */
    bool restored; /* a person says so: the ledger may have contributions of ours that were not made
                      here */
    const struct site *site; /* borrowed, as all of these */
    struct journal *journal;
    struct traffic *traffic;
    struct rpc_channel *channel;
    uint32_t timeout_ms;               /* to connect, and without progress of a snapshot */
    uint64_t payload_limit;            /* bytes: the codec's bound of the largest fragment */
    uint64_t nominal_payload;          /* bytes that an outer step brings down */
    bool lacks_model;                  /* a snapshot of the run is asked for, whatever it costs */
    uint8_t initial_root[DIGEST_SIZE]; /* of version 0, where the manifest names it; else zero */
    uint64_t snapshot_size;            /* bytes of a snapshot's content */
    uint32_t backlog_limit;
    uint64_t (*backlog)(void *context); /* node_state_backlog, as last known */
    /* appends an encoded one: the first call of a link */
    void (*heartbeat)(void *context, struct buffer *request);
    enum status (*check_genesis)(void *context, const struct ledger_entry *entry,
                                 struct error *error);
    /* its content is in journal_payloads now */
    void (*load)(void *context, const struct snapshot_header *header);
    /* on this thread; copies what it keeps */
    void (*tell)(void *context, const struct node_event *event);
    struct troubles *troubles; /* a full disk is told there and waited out: the link is down
                                  meanwhile. NULL: it is not */
    void *context;
};

MUST_USE enum status downlink_start(const struct downlink_options *options, struct downlink **out,
                                    struct error *error);
/* Core's thread. Each is answered by LINK_UP, OFFER, SNAPSHOT_LOADED or LINK_DOWN. */
/* sequence: the newest that is known to be ours. */
void downlink_connect(struct downlink *downlink, bool ask_offer, uint64_t index,
                      uint64_t payloads_from, uint64_t sequence);
void downlink_follow(struct downlink *downlink, uint64_t index, uint64_t payloads_from,
                     uint64_t sequence);
void downlink_fetch(struct downlink *downlink); /* what was offered last */
void downlink_stop(struct downlink *downlink);
void downlink_destroy(struct downlink *downlink); /* NULL is a no-op */

#endif
