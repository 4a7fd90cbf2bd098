/* The site's daemon: the core's shell. It puts the threads together, and carries out what the
 * core says.
 *
 *     loop      node_state_step on one event after the other;
 *               never waits for disk, network or trainer
 *     trainer   inner steps (node/training.h)
 *     worker    replica and journal (node/worker.h)
 *     uplink    Submit (node/uplink.h)
 *     downlink  Follow, Snapshot (node/downlink.h)
 *     main      signals, and DIR/status.json once a second
 *
 * All tell the core through one bounded queue; who finds it full waits (the trainer too: what
 * fills the queue is local and short), except rpc/'s threads, which may not. The core's own orders
 * go into queues that its rule of one order a fragment keeps small.
 *
 * Start: identity, journal, model, restore (node/restore.h), core fed with the stored entries,
 * then the threads. Stop, in reverse and within a step's time: downlink and uplink are cut, the
 * trainer makes its last capture, the worker writes what it has, the core drains, the journal
 * closes. kill -9 at any moment costs what node/journal.h says and nothing else.
 */
#ifndef NODE_DAEMON_H
#define NODE_DAEMON_H

#include "node/settings.h"
#include "node/site.h"

enum daemon_end { DAEMON_STOPPED, DAEMON_FINISHED, DAEMON_HALTED, DAEMON_BROKEN };

/* Blocks SIGTERM and SIGINT for the process, and runs until one of them comes, the run is over, or
 * the core halts. *end is set on OK. What went wrong at the start, or why the core halted, is in
 * *error (the status is OK then). UNAVAILABLE too if the device that trains was lost: what there
 * was has been saved, and a restart goes on from it. */
MUST_USE enum status daemon_run(const struct settings *settings, const struct site *site,
                                enum daemon_end *end, struct error *error);

#endif
