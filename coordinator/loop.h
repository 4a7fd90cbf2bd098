/* The coordinator's loop: one thread that steps the state machine with everything that happens, one
 * event after the other, and does what it answers. It commands intake, publisher, model thread,
 * calls and ledger queue; they know nothing of it, and what they tell is posted here. It never
 * waits for the disk.
 *
 * It owns coordinator_state, the sites' last reports, and the numbers of the calls that wait for an
 * answer.
 */
#ifndef COORDINATOR_LOOP_H
#define COORDINATOR_LOOP_H

#include "coordinator/calls.h"
#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"
#include "coordinator/disk_watch.h"
#include "coordinator/intake.h"
#include "coordinator/ledger_queue.h"
#include "coordinator/model_thread.h"
#include "coordinator/publisher.h"

struct loop;

struct loop_options {
    struct coordinator_state *state; /* borrowed, all of them; this thread's alone */
    const struct directory_keys *keys;
    const struct manifest *manifest;
    struct bytes layout; /* its text, for who joins; empty: the built-in trainer's */
    uint8_t run_id[RUN_ID_SIZE];
    uint64_t parameters;
    const char *advertise;  /* HOST:PORT as sites reach us from outside, or "" */
    uint32_t head_interval; /* entries between signed heads on Follow */
    struct disk_watch *disk;
    struct calls *calls;
    struct intake *intake;
    struct publisher *publisher;
    struct model_thread *model_thread;
    struct evaluator *evaluator; /* NULL: there is none */
    double heldout_margin;       /* nats above the best, of what observers tell */
    struct ledger_queue *ledger;
    /* The process is to end, as something is broken; `halt`: a restart would only meet it again. */
    void (*stop)(void *context, bool halt, const char *message);
    void *context;
};

enum loop_message_kind {
    LOOP_EVENT = 1, /* `event` is for the state machine */
    LOOP_REPORT,    /* a heartbeat: `event` is, and `report` is kept for the status */
    LOOP_QUESTION,  /* an admin's, which changes nothing */
    LOOP_WRITTEN    /* what the ledger queue's `written` said */
};

struct loop_message {
    enum loop_message_kind kind;
    struct call *call;              /* of calls' events; a reference is taken while it waits */
    struct coordinator_event event; /* what it borrows is copied */
    union {
        const struct heartbeat_request *report; /* copied */
        struct {
            enum admin_verb verb;
            uint32_t first_site;
        } question;
        struct {
            enum status status;
            const char *message; /* copied */
        } written;
    };
};

/* Takes messages from now on, and waits with them. */
struct loop *loop_create(void);
MUST_USE enum status loop_start(struct loop *loop, const struct loop_options *options,
                                struct error *error);
/* From any thread; waits where the queue is full. Dropped after loop_stop. */
void loop_post(struct loop *loop, const struct loop_message *message);
/* Takes what was posted before, hands what is not durable yet to the ledger queue, and ends. */
void loop_stop(struct loop *loop);
void loop_destroy(struct loop *loop); /* stopped, and nobody posts any more; NULL is a no-op */

#endif
