/* The inside of the downlink, shared by downlink.c (orders, the link, snapshots) and
 * downlink_follow.c (frames). */
#ifndef NODE_DOWNLINK_INTERNAL_H
#define NODE_DOWNLINK_INTERNAL_H

#include <pthread.h>

#include "base/queue.h"
#include "base/thread.h"
#include "node/downlink.h"
#include "node/entry_payload.h"
#include "proto/messages.h"

enum { WAITING_LIMIT = 4096, PARTIAL_LIMIT = 16 };

struct waiting_entry { /* received, not durable yet */
    struct buffer raw;
    uint64_t index;
    struct entry_payload payload;
    bool needs_payload; /* it is due and not there yet */
    bool held;          /* the payload: journal_payload_hold */
};

struct partial { /* a payload coming in */
    uint64_t index, received, total;
    struct blob_upload *upload; /* NULL: it is not needed, its pieces are dropped */
    bool used;
};

struct follow {
    uint64_t from, payloads_from;
    uint64_t made_plus_1; /* 0 where the coordinator has let us in with what we said */
    bool omit_own;
    bool ask_again;                /* with omit_own off */
    bool begun;                    /* a frame with places has come */
    uint64_t next;                 /* index of the next place */
    struct waiting_entry *waiting; /* [WAITING_LIMIT], in order */
    size_t waiting_count;
    struct partial partials[PARTIAL_LIMIT];
};

struct downlink {
    struct downlink_options options;
    struct queue *queue;
    struct thread *thread;
    pthread_mutex_t lock; /* of stream and stopping */
    struct stream *stream;
    bool stopping;
    struct arena arena;
    struct snapshot_header offer;
};

bool downlink_is_stopping(struct downlink *downlink);
void downlink_tell(struct downlink *downlink, const struct node_event *event);
/* Opens a stream that downlink_stop can cut, and sends the one request. */
MUST_USE enum status downlink_open(struct downlink *downlink, enum service_method method,
                                   uint32_t timeout_ms, struct bytes request, struct stream **out,
                                   struct error *error);
void downlink_close(struct downlink *downlink, struct stream *stream);

/* Until the link breaks: says LINK_UP once it is open; the status and *error tell why it ended. */
MUST_USE enum status downlink_run_follow(struct downlink *downlink, uint64_t from,
                                         uint64_t payloads_from, uint64_t sequence,
                                         struct error *error);

#endif
