/* The inside of the coordinator's core, shared by its files, each of which is one subject:
 *
 *     coordinator_state.c    the ledger's next entry, what is said once it is durable, and the
 *                            order of it all
 *     coordinator_presence.c who is there, and what a heartbeat is told
 *     coordinator_places.c   one process of a site at a time
 *     coordinator_speed.c    how fast the sites train, and the inner steps that each is told
 *     coordinator_rate.c     how often a site may contribute
 *     coordinator_uploads.c  a contribution's way from its header to its entry
 *     coordinator_steps.c    when an outer step starts, and what becomes of it
 *     coordinator_orders.c   joining, and the admin's orders
 *     coordinator_lost.c     payloads that the disk lost, and how they are obtained again
 *     coordinator_invariants.c what holds between two events
 *
 * Two tables hold what is under way. `uploads` has an item for each admitted contribution until its
 * entry is made: by `id`, the call it was admitted with, which worker and blob store answer to; and
 * `call`, the one that gets the answer, which changes when a site comes back over a new connection
 * while its contribution is being checked or committed. `commits` has an item for each COMMIT that
 * is not durable yet, with what to say to whom once it is. Nobody else includes this.
 */
#ifndef COORDINATOR_COORDINATOR_STATE_INTERNAL_H
#define COORDINATOR_COORDINATOR_STATE_INTERNAL_H

#include "coordinator/coordinator_state.h"
#include "fed/merge_policy.h"

enum upload_phase { UPLOAD_RECEIVING, UPLOAD_CHECKING };

struct admitted {
    uint64_t id, call; /* call 0: nobody waits any more */
    enum upload_phase phase;
    uint32_t site;
    uint64_t instance;
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    struct contribution contribution;
};

enum answer { ANSWER_NOBODY, ANSWER_RECEIPT, ANSWER_JOINED, ANSWER_ADMIN };

struct commit {
    uint64_t number, end; /* end: ledger size once it is durable */
    enum answer answer;
    uint64_t call;
    uint32_t site;     /* JOINED; RECEIPT */
    uint64_t sequence; /* RECEIPT */
    uint64_t entry_time_ms;
    uint8_t header_digest[DIGEST_SIZE]; /* RECEIPT */
    char message[64];                   /* ADMIN */
};

struct presence { /* of site number i + 1 */
    uint64_t heard_ms;
    bool heard;
    uint32_t following; /* of `followed`: streams of the process that has the place */
    bool clock_told;
    bool is_leaving;  /* the process that has the place says that it goes */
    int64_t clock_ms; /* its wall clock less our monotonic one, as last heard */

    /* The place: one process of a site at a time. */
    uint64_t entries_ms; /* until then its entries of presence have used up their share of time */
    bool held;
    uint64_t holder;     /* the process that has it */
    uint64_t left_ms;    /* when its last Follow stream ended */
    uint64_t challenger; /* another one that asked for it and was refused; 0: none */
    uint64_t challenged_ms;
    uint32_t turn;   /* said to the process that has the place since the challenge */
    bool is_decided; /* the holder has said it again: both are alive, and the challenger is cut */
    uint32_t copies; /* that were cut */
    /* the process that was cut last because it lacked what is in the ledger; 0: none */
    uint64_t behind;
    bool is_restored;      /* of the holder: a person says that it may be behind */
    uint64_t own_sequence; /* of the holder: the newest that was accepted of it */
    uint64_t copy_ms;

    /* Its speed. Times are of the clock that stands still while the run is paused. */
    bool is_waiting; /* it does not train while a contribution of its own is under way (overlap
                        off), and one is ... */
    uint64_t waiting_since_ms, waited_ms; /* ... since then; and before, so long in all */
    bool waits_for_step;       /* one of its contributions is in the ledger and not merged */
    uint32_t uploading;        /* of `uploads` */
    uint64_t offered_sequence; /* its newest contribution, and when it was first offered */
    uint64_t offered_ms;       /* in the time in which it could train */
    uint64_t timed; /* bit f: it was present ever since the fragment's last contribution ... */
    uint64_t timed_from_ms[FRAGMENTS_LIMIT]; /* ... which was offered then, likewise */
    uint64_t idle_ms;                        /* nothing of it has been under way since */
    bool turned_away; /* there was no room for what it offered then: it waits to come again */
    double steps,
        steps_ms;  /* of its last contributions, older ones fading; steps_ms 0: not measured yet */
    double rounds; /* contributions that steps_ms is of, fading likewise */
    double share;  /* of the fastest's speed, as it was told last; 0: it was told nothing yet */

    /* How often it contributes (coordinator_rate.c). Times are of the same clock. */
    bool beats; /* it sends heartbeats */
    uint64_t came_ms;
    bool has_offered; /* since it came */
    uint64_t first_round_ms;
    /* ... of each fragment, the bits: its newest message, when that was offered first, and how long
       after the one before; 0: there was none */
    uint64_t offers, newest_offer[FRAGMENTS_LIMIT], offer_ms[FRAGMENTS_LIMIT],
        offer_apart_ms[FRAGMENTS_LIMIT];
    uint64_t offered_round_ms;             /* what the offers say of a round; 0: nothing yet */
    uint64_t offered_first_ms;             /* of its newest contribution */
    uint64_t accepted;                     /* bit f: a contribution of that fragment was, and ... */
    uint64_t accepted_ms[FRAGMENTS_LIMIT]; /* ... counts as of then */
};

struct followed { /* an open Follow stream of a process that has its site's place */
    uint64_t call;
    uint32_t site;
};

struct lost { /* a payload that is asked for */
    struct lost_payload payload;
    bool merged; /* no step waits for it, but replay does */
    uint64_t since_ms;
    uint64_t call; /* that brings it now; 0: none */
    uint32_t supplier;
};

struct coordinator_state {
    struct coordinator_options options;
    struct run_state *run;
    struct admitted *uploads; /* [uploads_limit] */
    size_t upload_count;
    struct commit *commits; /* grows to the commits under way, which uploads and admins bound */
    size_t commit_count, commit_capacity;
    struct presence *presence; /* [presence_count] */
    size_t presence_count;
    struct followed *followed; /* [followed_count], in no order */
    size_t followed_count, followed_capacity;
    uint64_t listening_ms;    /* since when silence counts: the start, or the end of a standstill */
    bool presence_changed;    /* somebody who is away was heard, or somebody leaves */
    uint64_t presence_due_ms; /* the first of the others is away then; UINT64_MAX: none */
    bool is_paused;
    uint64_t paused_since_ms, paused_ms; /* monotonic; all earlier pauses together */
    uint64_t next_commit, committed;
    bool applying, stopping;
    bool snapshot_wanted;         /* once the step being applied is in the ledger */
    uint64_t no_snapshot_ms;      /* when one was last begun because there is none; 0: never */
    struct ledger_entry step;     /* the one being applied */
    struct merge_windows windows; /* monotonic ms */
    uint64_t timer_ms;            /* the one asked for; UINT64_MAX: none */
    uint64_t refused[REFUSAL_COUNT];
    struct coordinator_event *deferred; /* revocations that came while a step was being applied */
    size_t deferred_count;
    char objection[160]; /* to the order that is being looked at */
    struct lost *lost;   /* [lost_count] */
    size_t lost_count;
    bool behind; /* the model is at an earlier version than the run: no step before it has caught up
                  */
    bool catching_up;   /* CATCH_UP was asked for */
    uint64_t behind_ms; /* when the last one ended without it */
};

/* coordinator_state.c */
struct coordinator_action *state_act(struct coordinator_actions *out,
                                     enum coordinator_action_kind kind, uint64_t call);
/* halt: what is wrong is on the disk, or in this program, and a restart would meet it again. */
void state_stop(struct coordinator_state *state, struct coordinator_actions *out, bool halt,
                const char *format, ...) PRINTF_LIKE(4, 5);
struct ledger_entry state_entry(const struct coordinator_state *state, enum ledger_kind kind,
                                struct instant now);
struct commit *state_append_if_legal(struct coordinator_state *state,
                                     const struct ledger_entry *entry, enum answer answer,
                                     uint64_t call, struct coordinator_actions *out,
                                     struct error *error);
struct commit *state_append(struct coordinator_state *state, const struct ledger_entry *entry,
                            enum answer answer, uint64_t call, struct coordinator_actions *out);
void state_sign_receipt(const struct coordinator_state *state, const struct run_site *site,
                        uint64_t size, struct buffer *out);

/* coordinator_invariants.c */
void invariants_check(const struct coordinator_state *state);
void invariants_check_place(const struct presence *presence);

/* coordinator_presence.c */
/* NULL: there is no such site */
struct presence *presence_of(struct coordinator_state *state, uint32_t site);
void presence_hear(struct coordinator_state *state, uint32_t site, struct instant now);
/* Enters in the ledger who is away, back or gone; never while a step is being computed, whose rules
 * depend on how many are present. */
void presence_enter(struct coordinator_state *state, struct instant now,
                    struct coordinator_actions *out);
/* Milliseconds in which the run was not paused. */
uint64_t presence_active_ms(const struct coordinator_state *state, struct instant now);
void presence_note_sleep(struct coordinator_state *state, struct instant now);
void presence_note_phase(struct coordinator_state *state, struct instant now);
void presence_heartbeat(struct coordinator_state *state, const struct coordinator_event *event,
                        struct instant now, struct coordinator_actions *out);

/* coordinator_places.c */
/* ACCEPTED: the process has the site's place, or takes it. HELD, COPY: another has it. REVOKED,
 * UNKNOWN_SITE: it has none. */
enum refusal places_take(struct coordinator_state *state, uint32_t site, uint64_t instance,
                         struct instant now);
/* The holder answered while another process of its site asks for the place: that one is cut. */
void places_decide(struct coordinator_state *state, uint32_t site, struct presence *presence,
                   struct instant now, struct coordinator_actions *out);
/* Of what is refused as an old sequence: SEQUENCE; or COPY where the ledger has another
 * contribution of that number, so that somebody else has the site's key; or HELD until that can be
 * told. */
enum refusal places_judge_sequence(struct coordinator_state *state,
                                   const struct contribution *contribution, uint64_t instance,
                                   struct instant now, struct coordinator_actions *out);
/* For a process that lacks the contributions of its site from `first` on. */
void places_behind_message(const struct coordinator_state *state, uint32_t site, uint64_t first,
                           char *out, size_t size);
void places_following(struct coordinator_state *state, const struct coordinator_event *event,
                      struct instant now, struct coordinator_actions *out);

/* coordinator_speed.c */
/* A contribution was admitted; `waits`: its site does not train until it is merged. */
void speed_offered(struct coordinator_state *state, const struct contribution *contribution,
                   bool waits, struct instant now);
/* after speed_offered: no room */
void speed_turned_away(struct coordinator_state *state, uint32_t site);
/* ... is in the ledger */
void speed_accepted(struct coordinator_state *state, const struct contribution *contribution);
/* an outer step was */
void speed_merged(struct coordinator_state *state, struct instant now);
/* What a site has under way is not held against it: its idle time begins anew. */
void speed_note_idle(struct coordinator_state *state, struct instant now);
/* The site's part of the fastest one's rate, 0 to 1, with hysteresis (dylu_share). */
double speed_share(const struct coordinator_state *state, uint32_t site, struct instant now);

/* coordinator_rate.c */
/* Milliseconds until the site may contribute to the fragment again. */
uint64_t rate_too_soon(struct coordinator_state *state, uint32_t site, uint32_t fragment,
                       struct instant now);
void rate_note_accepted(struct coordinator_state *state, uint32_t site, uint32_t fragment,
                        struct instant now);
void rate_note_offer(struct coordinator_state *state, const struct contribution *contribution,
                     struct instant now);

/* coordinator_steps.c */
void steps_consider(struct coordinator_state *state, struct instant now,
                    struct coordinator_actions *out);
void steps_applied(struct coordinator_state *state, const struct coordinator_event *event,
                   struct instant now, struct coordinator_actions *out);
void steps_snapshot(struct coordinator_state *state, struct coordinator_actions *out);
void steps_no_snapshot(struct coordinator_state *state, struct instant now,
                       struct coordinator_actions *out);

/* coordinator_uploads.c */
struct coordinator_action *uploads_refuse(struct coordinator_state *state, uint64_t call,
                                          enum refusal code, const char *message,
                                          struct coordinator_actions *out);
void uploads_submit_open(struct coordinator_state *state, const struct coordinator_event *event,
                         struct instant now, struct coordinator_actions *out);
void uploads_remove(struct coordinator_state *state, struct admitted *upload);
void uploads_received(struct coordinator_state *state, const struct coordinator_event *event,
                      struct coordinator_actions *out);
void uploads_checked(struct coordinator_state *state, const struct coordinator_event *event,
                     struct instant now, struct coordinator_actions *out);
void uploads_call_gone(struct coordinator_state *state, uint64_t call);

/* coordinator_lost.c */
void lost_missing(struct coordinator_state *state, const struct coordinator_event *event,
                  struct instant now);
/* What waited too long is dropped, and what nobody needs any more forgotten. The time at which to
 * look again, at most `wake`. */
uint64_t lost_age(struct coordinator_state *state, struct instant now, uint64_t wake,
                  struct coordinator_actions *out);
/* a step of it lacks a payload */
bool lost_holds(const struct coordinator_state *state, uint32_t fragment);
void lost_ask(const struct coordinator_state *state, uint32_t site, struct instant now,
              struct coordinator_action *reply);
void lost_supply_open(struct coordinator_state *state, const struct coordinator_event *event,
                      struct instant now, struct coordinator_actions *out);
/* False: that call brings no lost payload. */
bool lost_supply_uploaded(struct coordinator_state *state, const struct coordinator_event *event,
                          struct coordinator_actions *out);
/* That payload is here and was found right. */
void lost_found(struct coordinator_state *state, const struct contribution *contribution,
                struct coordinator_actions *out);
bool lost_supply_gone(struct coordinator_state *state, uint64_t call);
void lost_catch_up(struct coordinator_state *state, struct coordinator_actions *out);
/* Nobody may be able to bring what is lost: the disk is asked again now and then. */
void lost_catch_up_again(struct coordinator_state *state, struct instant now,
                         struct coordinator_actions *out);
void lost_caught_up(struct coordinator_state *state, const struct coordinator_event *event,
                    struct instant now, struct coordinator_actions *out);

/* coordinator_orders.c */
void orders_join(struct coordinator_state *state, const struct coordinator_event *event,
                 struct instant now, struct coordinator_actions *out);
void orders_admin(struct coordinator_state *state, const struct coordinator_event *event,
                  struct instant now, struct coordinator_actions *out);
void orders_take_deferred(struct coordinator_state *state, struct instant now,
                          struct coordinator_actions *out);

#endif
