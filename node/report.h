/* What a site tells about itself: DIR/status.json for scripts and people, and the same figures in
 * each heartbeat.
 *
 * The file is rewritten about once a second, whole or not at all, without waiting for the disk: it
 * is not a record, but it survives a killed process, and so the totals in it go on over restarts.
 * After a crash, the time from the last status to the restart is booked as lost to `restart`, and
 * so is the time of the steps that have to be done again.
 *
 * Threads write their part (the core its view, the worker the roots), anybody may read; one lock,
 * held briefly.
 */
#ifndef NODE_REPORT_H
#define NODE_REPORT_H

#include "node/node_state.h"
#include "node/site.h"
#include "node/stream.h"
#include "node/training.h"
#include "node/trouble.h"

enum { REPORT_ROOTS = 64 };

struct report_totals { /* of all processes of this site before this one */
    uint64_t compute_ms, lost_ms[LOST_CAUSE_COUNT];
    uint64_t bytes_up, bytes_down;
    uint64_t refused[REFUSAL_COUNT];
    uint64_t trainer_steps; /* at the last status */
    uint64_t starts;
};

struct report_view { /* the core's, as of its last step */
    uint64_t version, ledger_size, run_tokens, staleness, accepted, own_tokens, sequence;
    uint32_t epoch, inner_steps, active_sites;
    uint32_t sites_present; /* as the coordinator last said; 0: not yet */
    enum run_phase phase;
    bool linked, has_run;
    uint32_t fragments;
    enum slot_phase slots[FRAGMENTS_LIMIT];
    uint64_t refused[REFUSAL_COUNT]; /* since the process started */
};

struct evaluator;
struct report;

struct report_options {
    uint64_t instance;       /* of this process */
    const struct site *site; /* borrowed, as these */
    struct traffic *traffic;
    struct troubles *troubles; /* NULL: none */
    const char *device;
    const char *metrics_file; /* NULL: none */
    uint64_t trainer_steps;   /* as restored */
};

/* Reads the last status, if there is one. */
struct report *report_create(const struct report_options *options);
void report_destroy(struct report *report); /* NULL is a no-op */

void report_set_view(struct report *report, const struct report_view *view);
void report_add_root(struct report *report, uint64_t version,
                     const uint8_t root[static DIGEST_SIZE]);
/* Share of its time that the site has trained, since it joined. training may be NULL. */
float report_compute_share(struct report *report, struct training *training);
/* `state`: "starting", "training", "waiting", "stopped", "halted", "finished"; NULL: from what is
 * known. */
void report_write(struct report *report, struct training *training, const char *state,
                  const char *message);
/* What the coordinator's last answer said: the turn, for the next heartbeat, and copies of this
 * site that were cut. */
void report_set_answer(struct report *report, uint32_t turn, uint32_t copies);
/* Heartbeats say from now on that the site goes (true), or that it does not. */
void report_set_leaving(struct report *report, bool leaving);
/* Appends an encoded heartbeat. */
void report_heartbeat(struct report *report, struct training *training, struct evaluator *evaluator,
                      struct buffer *out); /* evaluator: may be NULL */

#endif
