/* The coordinator as a process: the state machine's shell. It owns the sockets, the disk and the
 * model.
 *
 * Each thread is the only one to touch what it owns and is a handle of its own, with options,
 * messages that it is posted, and one function by which it tells what has happened. None of them
 * knows another: they tell the server, which knows whom it concerns.
 *
 *   rpc       (several, rpc/'s own) decode and bound what peers say, and identify them by their
 *             certificate (calls.h)
 *   loop      owns coordinator_state: steps it with all that happens and does what it answers;
 *             never waits for the disk (loop.h)
 *   intake    owns uploads: opens, appends, finishes and checks payloads (intake.h)
 *   model     owns the model_state: applies steps, writes snapshots (model_thread.h)
 *   evaluator (if there are held-out texts) owns a copy of theta, and measures it (evaluator.h)
 *   publisher owns the Follow and Snapshot streams: reads ledger and blobs, fills frames
 *   (publisher.h)
 *   writer    storage's: group commits of what the ledger queue hands it (ledger_queue.h)
 *
 * What a peer can queue is bounded: each call has at most one message in the server's hands, and
 * reads the next only when that one is dealt with. Stop order is the reverse of the start order:
 * rpc first, so that nothing new comes; then the loop, which has nobody left to answer; intake,
 * publisher, model; the store last, which commits what it was given.
 */
#ifndef COORDINATOR_SERVER_H
#define COORDINATOR_SERVER_H

#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"

struct server;

struct server_options {
    const char *directory;
    const char *const *addresses; /* "0.0.0.0:7400" */
    size_t address_count;
    const char *advertise; /* HOST:PORT as sites reach it from outside; "" or NULL: not known */
    uint32_t uploads_limit;
    const char *from; /* what the run began from, for a start without a readable snapshot; may
                               be NULL */
    uint64_t presence_ms, retry_ms;
    uint64_t lost_ms; /* how long a waiting contribution's lost payload is asked for before it is
                         dropped */
    uint32_t chunk_limit;   /* bytes in a chunk of payload, both ways */
    uint32_t head_interval; /* entries between signed heads on Follow */
    uint32_t snapshots_kept;
    uint32_t rpc_threads;
    uint32_t max_connections;   /* 0: rpc/'s default */
    const char *const *heldout; /* [heldout_count] files to evaluate versions on; 0: none */
    size_t heldout_count;
    double heldout_share, heldout_margin; /* run/evaluator.h */
    uint64_t heldout_every, heldout_windows;
    bool new_epoch; /* takes over from another coordinator: coordinator_state.h */
};

/* Restores the run, then listens. Statuses and messages for the operator. */
MUST_USE enum status server_start(const struct server_options *options, struct server **out,
                                  struct error *error);
uint16_t server_port(const struct server *server);
/* Waits until server_stop was called (OK), something broke that a restart may heal (FAILED, with
 * the reason), or something that a restart would only meet again (CORRUPT). */
MUST_USE enum status server_wait(struct server *server, struct error *error);
/* From any thread, and async-signal-safe: asks server_wait to return. */
void server_stop(struct server *server);
/* Everything durable, all threads joined. NULL is a no-op. */
void server_destroy(struct server *server);

#endif
