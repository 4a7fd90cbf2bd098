/* The inside of the loop, shared by its files:
 *
 *     loop.c       the queue, the clock, and the steps
 *     loop_act.c   what the state machine says is to be done
 *     loop_admin.c an admin's questions, and the answers to orders
 *     loop_waits.c what holds the run up and needs a person
 */
#ifndef COORDINATOR_LOOP_INTERNAL_H
#define COORDINATOR_LOOP_INTERNAL_H

#include "base/queue.h"
#include "base/thread.h"
#include "coordinator/loop.h"

struct site_report { /* what a site said last */
    bool heard;
    struct heldout_status heldout; /* an observer's, as far as it can be true */
    bool rises;                    /* as last said of that */
    struct heartbeat_request last; /* without its texts, which are: */
    char device[WIRE_DEVICE_LIMIT + 1], software[WIRE_SOFTWARE_LIMIT + 1];
};

struct loop {
    struct loop_options options;
    struct queue *queue;
    struct thread *thread;
    struct coordinator_state *state;
    struct site_report *reports; /* [SITES_LIMIT + 1], by number */
    uint64_t started_ms;
    uint64_t timer_ms;      /* when the state machine is to be woken; UINT64_MAX: not */
    uint64_t head_size;     /* of the head last handed to the publisher; 0: none yet */
    char waits[512];        /* the sentence of the last status */
    bool clock_is_off;      /* as last said */
    uint64_t clock_said_ms; /* when */
    uint32_t sites;         /* whose keys the calls know */
};

/* --- loop_act.c --- */
void loop_act_all(struct loop *loop, struct coordinator_actions *actions); /* and clears them */
/* Followers may see that many entries. */
void loop_publish(struct loop *loop, uint64_t size);

/* --- loop_admin.c --- */
void loop_answer(struct loop *loop, struct call *call, enum admin_verb verb, uint32_t first_site);
/* The state machine carried an order out, or said why not. */
void loop_order_done(struct loop *loop, const struct coordinator_action *action);

/* --- loop_waits.c --- */
/* For the status: "" if nothing does. Valid until the next call. */
const char *loop_waits(struct loop *loop, int64_t *clock_ahead_ms);
/* A site has told its time: whether ours is off is said in the log, at once and then once a minute.
 */
void loop_hear_clock(struct loop *loop);

#endif
