/* The inside of the site's core, shared by node_state.c (events, and what follows from them),
 * node_rounds.c (slots), node_messages.c (what is under way), node_link.c (the connection),
 * node_ledger.c (what the ledger says), node_payloads.c (payloads that were lost) and
 * node_invariants.c (what holds between two events). Nobody else includes it. */
#ifndef NODE_NODE_STATE_INTERNAL_H
#define NODE_NODE_STATE_INTERNAL_H

#include "node/node_state.h"

struct slot { /* a fragment's round */
    enum slot_phase phase;
    uint64_t sequence; /* of the message under way; 0: none */
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    uint8_t header_digest[DIGEST_SIZE];
    bool encoded; /* header, signature and digest are set, and the message is in the spool */
    bool resumed; /* round_steps is from before the restart */
    bool begun;   /* and a snapshot was taken before it */
    uint64_t round_steps;
    bool in_ledger; /* our entry is at `index` */
    uint64_t index;
    uint64_t base_version;
    bool again;     /* the message before was refused, and this one was made at once */
    bool caught_up; /* its base went forward since the last snapshot, from beyond the cap */
    bool baseless;  /* the base of the message in flight is gone: nothing to follow from */
    bool moving;    /* an order to go to another base is under way */
    enum node_action_kind owed; /* the order after it; 0: none */
    uint64_t followed_at;       /* the trainer's count when the base last moved */
    int64_t steps_mark; /* the trainer's count at the last snapshot (below 0 at first: staggered) */
    uint64_t tokens_unsent,
        tokens_in_flight; /* trained since what was sent last, and in what is under way */
    uint64_t steps_unsent, steps_in_flight;
    double loss_sum; /* over steps since the last snapshot */
    uint64_t loss_count;
    uint64_t retry_at; /* BACKOFF: when it is sent again; ACCEPTED and not in the ledger: when it is
                          asked for again */
    uint32_t attempts;
    uint32_t rejected; /* refusals in a row that say our own message was bad */
};

enum link_phase { LINK_DOWN, LINK_CONNECTING, LINK_FETCHING, LINK_OPENING, LINK_UP };

struct node_state {
    struct node_options options;
    struct random random;
    struct run_state *run;
    struct slot slots[FRAGMENTS_LIMIT];
    uint32_t fragments;
    bool started, halted, finishing;
    bool leaving, has_left; /* no round begins any more; and the ledger has it */
    bool catching_up; /* new here: training waits until the version of the first heartbeat's answer
                         has been reached */
    uint64_t caught_up_at; /* version to reach; UINT64_MAX: not known yet */
    uint64_t sequence;     /* the last one used, by us or according to the ledger */
    uint64_t foreign; /* the last one that the ledger has and that was not made here; 0: none */
    uint64_t replica_version;
    uint64_t steps, tokens; /* the trainer's counts */
    uint32_t inner_steps;   /* H_w as last told; 0: not told yet */
    uint32_t sites_present; /* likewise */
    uint64_t staleness;
    uint64_t refused[REFUSAL_COUNT];

    enum link_phase link;
    uint32_t link_attempts;
    uint64_t link_retry_at;
    uint64_t payloads_from;
    struct snapshot_header offer;
    bool lacks_model; /* until a snapshot of the run is loaded */
    bool fetch_owed;  /* FETCHING: once no delta is being made and no base moves */

    bool heartbeat_open;
    uint64_t heartbeat_at;
    uint64_t timer; /* the one asked for; UINT64_MAX: none */

    bool training;          /* as last told to the trainer */
    uint64_t until_steps;   /* likewise */
    enum node_wait waiting; /* likewise */

    struct buffer *queue; /* entries after a step, a ring [queue_capacity] */
    size_t queue_head, queue_count, queue_capacity;
    bool applying;
    uint64_t lost; /* the entry whose payload the step at the queue's head lacks; 0: none */
    bool refetching;
    uint64_t refetch_at;
    uint32_t refetch_attempts;
    uint64_t wanted[NODE_WANTED_LIMIT]; /* by the coordinator, [wanted_count], the first wanted_next
                                           of them dealt with */
    uint32_t wanted_count, wanted_next;
    bool supplying;

    struct ledger_head head; /* the newest head not checked yet; size 0: none */
};

struct node_action *node_act(struct node_actions *out, enum node_action_kind kind);
void node_halt(struct node_state *state, struct node_actions *out, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* node_invariants.c */
void node_check(const struct node_state *state);
/* The only place where a slot's phase changes; which may follow which stands there. */
void node_slot_enter(struct slot *slot, enum slot_phase phase);

/* node_ledger.c */
void node_ledger_entry(struct node_state *state, struct bytes raw, struct node_actions *out);
void node_ledger_applied(struct node_state *state, const struct node_event *event,
                         struct instant now, struct node_actions *out);
void node_ledger_head(struct node_state *state, struct bytes raw, struct node_actions *out);
/* Takes an entry of ours or another's into the run state, and what it means for our slots. */
enum status node_ledger_take(struct node_state *state, struct bytes raw, bool trusted,
                             struct error *error);

/* The step at the queue's head once more. */
void node_ledger_apply_again(struct node_state *state, struct node_actions *out);

/* node_payloads.c */
void node_payload_lost(struct node_state *state, uint64_t index, struct instant now);
void node_refetched(struct node_state *state, const struct node_event *event, struct instant now,
                    struct node_actions *out);
void node_wanted(struct node_state *state, const struct node_event *event);
void node_payloads_settle(struct node_state *state, struct instant now, struct node_actions *out);
uint64_t node_payloads_wake(const struct node_state *state);

/* node_rounds.c: what a slot does at an event ... */
void node_progress(struct node_state *state, const struct node_event *event);
void node_snapshotted(struct node_state *state, const struct node_event *event,
                      struct node_actions *out);
void node_trainer_lost(struct node_state *state);
void node_rebased(struct node_state *state, const struct node_event *event,
                  struct node_actions *out);
/* ... what becomes of its message: merged by a step that the run state and the replica have ... */
void node_slot_merged(struct node_state *state, uint32_t fragment, struct node_actions *out);
/* ... given up by an entry that is in the run state now, or refused: its mass comes back, due
 * at once if `due` ... */
void node_slot_dropped(struct node_state *state, uint32_t fragment, struct node_actions *out);
void node_slot_restore(struct node_state *state, uint32_t fragment, bool due,
                       struct node_actions *out);
/* ... as steps and tokens that the next message counts ... */
void node_slot_give_back(struct slot *slot);
/* ... when the run begins ... */
void node_rounds_stagger(struct node_state *state);
/* ... and after every event, in this order, after node_messages_retry. */
void node_rounds_catch_up(struct node_state *state, struct node_actions *out);
void node_rounds_begin(struct node_state *state, struct node_actions *out);
void node_rounds_follow(struct node_state *state, struct node_actions *out);
/* No slot is between the order of a snapshot and its message, and none goes to another base. */
bool node_rounds_at_rest(const struct node_state *state);
void node_train_or_wait(struct node_state *state, struct node_actions *out);
uint32_t node_inner_steps_now(const struct node_state *state);

/* node_messages.c: the header of a slot's next message, except what only its payload tells ... */
void node_message_header(const struct node_state *state, uint32_t fragment, const struct slot *slot,
                         uint64_t began, struct contribution *out);
/* ... what the keeper and the coordinator answer ... */
void node_encoded(struct node_state *state, const struct node_event *event, struct instant now,
                  struct node_actions *out);
void node_receipt(struct node_state *state, const struct node_event *event, struct instant now,
                  struct node_actions *out);
void node_refused(struct node_state *state, const struct node_event *event, struct instant now,
                  struct node_actions *out);
void node_upload_broken(struct node_state *state, const struct node_event *event,
                        struct instant now);
/* ... the link is up, a message was found in the spool at a start, an epoch begins ... */
void node_messages_link_up(struct node_state *state, struct instant now);
void node_messages_take_up(struct node_state *state, const struct node_spooled *spooled,
                           struct instant now, struct node_actions *out);
void node_messages_epoch_begins(struct node_state *state);
/* ... and what is due by now; node_messages_wake: when that is, UINT64_MAX: nothing is. */
void node_messages_retry(struct node_state *state, struct instant now, struct node_actions *out);
uint64_t node_messages_wake(const struct node_state *state);

/* node_link.c */
uint64_t node_backoff(struct node_state *state, uint32_t attempts);
void node_link_down(struct node_state *state, struct instant now);
void node_offer(struct node_state *state, const struct node_event *event, struct instant now,
                struct node_actions *out);
void node_snapshot_loaded(struct node_state *state, const struct node_event *event,
                          struct instant now, struct node_actions *out);
void node_heartbeat_reply(struct node_state *state, const struct node_event *event,
                          struct instant now, struct node_actions *out);
void node_link_up(struct node_state *state, struct instant now);
/* True once nothing of ours is under way that a receipt is waited for. */
bool node_rounds_drained(const struct node_state *state);
void node_link_settle(struct node_state *state, struct instant now, struct node_actions *out);

#endif
