/* The inside of the daemon, shared by daemon.c (start, stop, main's loop), daemon_model.c
 * (what it trains), daemon_border.c (where a trainer attaches) and daemon_loop.c (events and
 * actions). */
#ifndef NODE_DAEMON_INTERNAL_H
#define NODE_DAEMON_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "attach/border.h"
#include "base/queue.h"
#include "base/thread.h"
#include "model/layout.h"
#include "node/daemon.h"
#include "node/downlink.h"
#include "node/report.h"
#include "node/restore.h"
#include "node/stand.h"
#include "node/training.h"
#include "node/uplink.h"
#include "node/worker.h"
#include "relay/gateway.h"
#include "run/evaluator.h"

enum { EVENTS_LIMIT = 4096, BACKLOG_LIMIT = 1024 };

struct daemon_message { /* an event on its way to the core, with what it borrows */
    struct node_event event;
    struct buffer bytes;
    char message[256];
};

struct daemon {
    const struct settings *settings;
    const struct site *site;
    struct layout layout;
    uint8_t layout_digest[DIGEST_SIZE], initial_root[DIGEST_SIZE];
    bool lacks_model;  /* version 0 is not here: the coordinator's newest snapshot is needed */
    bool from_initial; /* the replica started from the run's initial parameters: their root can be
                          checked */
    struct data *data; /* NULL, as the trainer: one attaches */
    struct trainer *trainer;
    struct border *border;   /* where it does; NULL: none may */
    struct gateway *gateway; /* for ranks of other hosts; NULL: none may */
    struct stand *stand;     /* likewise: where its jobs stand */
    struct coverage_tensor *tensors;
    float *scratch; /* [parameters], for the restore: theta_local is nowhere yet */
    struct replica replica;
    struct thread_pool *pool; /* shares what is done to the replica */
    struct journal *journal;
    struct restored restored;
    struct report *report;
    struct troubles *troubles;
    atomic_int_fast64_t
        coordinator_ms; /* its wall clock less our monotonic one, as last told; 0: not yet */
    /* The ledger may have contributions of ours that were not made here: a person says so, or there
     * is nothing here that could be merged twice, as the directory was emptied. A file there keeps
     * it until one is accepted, or a restart on the way would look like a copy's. */
    bool is_restored;
    uint64_t instance; /* of this process: a copy of the directory has all but this */
    char device[64];
    struct cuda_backend cuda; /* no operations: the CPU does all */
    struct traffic traffic;
    struct rpc_channel *channel;
    struct training *training;   /* of an observer: never told to train */
    struct evaluator *evaluator; /* an observer's */
    struct worker *worker;
    struct uplink *uplink;
    struct downlink *downlink;

    /* the core's */
    struct node_state *state;
    struct queue *events;
    struct thread *loop;
    uint64_t timer_at; /* monotonic ms; UINT64_MAX: none */
    uint64_t told_ledger_size;
    atomic_uint_fast64_t backlog;
    atomic_bool heartbeat_lost; /* a reply found the queue full */

    pthread_mutex_t lock; /* of the two below */
    bool ended;
    enum daemon_end end;
    struct error why;
};

enum { CLOCK_APART_MS = 60000 /* beyond it it is not a delay */ };
/* The first end counts; whether this is it. Any thread. */
bool daemon_end(struct daemon *daemon, enum daemon_end how, const char *message);
/* A contribution of this directory was accepted: the ledger has no others of ours that it lacks. */
void daemon_restored_is_over(struct daemon *daemon);
/* Copies the event; waits for room. Any thread but rpc/'s. */
void daemon_loop_post(void *context, const struct node_event *event);
/* The core's first step, with what was restored; on the starting thread, before any other. */
MUST_USE enum status daemon_loop_restore(struct daemon *daemon, struct error *error);
void daemon_loop_run(void *context);
/* daemon_model.c: the layout, the device, and the trainer or the border; then that the run's first
 * entry says what the manifest says here: of the journal at a start, and as it comes (a fault is
 * told to the loop). */
MUST_USE enum status daemon_open_model(struct daemon *daemon, struct error *error);
MUST_USE enum status daemon_compare_genesis(struct daemon *daemon, const struct ledger_entry *entry,
                                            struct error *error);
MUST_USE enum status daemon_check_genesis(void *context, const struct ledger_entry *entry,
                                          struct error *error);

/* Where a trainer attaches, with the run's tensors; before the replica is restored, and after. */
MUST_USE enum status daemon_border_open(struct daemon *daemon, struct error *error);
void daemon_border_restored(struct daemon *daemon);
/* Bytes that one outer step brings down, about: what a late joiner weighs against a snapshot. */
uint64_t daemon_nominal_payload(const struct daemon *daemon);

#endif
