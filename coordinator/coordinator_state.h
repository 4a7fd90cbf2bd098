/* The coordinator's core: a pure state machine. Events and the time go in, actions come out; no
 * I/O, no clock, no randomness, no threads. The shell (coordinator/server.h) and the simulator
 * (sim/) both run it.
 *
 * A contribution's way: SUBMIT_OPEN -> ADMIT (credit) -> UPLOADED -> CHECK -> CHECKED ->
 * COMMIT(entry) -> COMMITTED -> RECEIPT A step's way: enough pending -> APPLY -> APPLIED(root) ->
 * COMMIT(entry) -> COMMITTED -> PUBLISH
 *
 * What it guarantees, if the shell does what each action says:
 *   - a receipt is sent only after COMMITTED for its entry (I1), and only one entry per (site,
 *       sequence) is ever made (I2);
 *   - entries are committed in the order of their indices, and each was accepted by run_state_apply
 *   first, so what a restart
 *     reads back is always legal. The core's run_state runs ahead of the disk by the commits under
 *     way; a commit that fails
 *     is therefore the end (STOP): restart and replay;
 *   - one APPLY is under way at a time, so versions are given in the order of the ledger;
 *   - the memory it holds is bounded by the number of sites and `uploads_limit`.
 *
 * A payload in the ledger that cannot be read any more (a damaged disk) stops nothing but what
 * needs it. Sites that may have it are asked for it with the answers to heartbeats, its contributor
 * first, everybody a little later; it comes as a Submit that says so, and its digest says whether
 * it is the one. One that waits to be merged and is not obtained again within lost_ms is dropped by
 * an entry of its own, and its site takes the mass back. One that was merged is waited for: the
 * model of a restart needs it (CATCH_UP).
 *
 * When an outer step starts: pending contributions of a fragment >= quorum, or the grace window
 * since the first of them came has passed. During the first warmup_steps versions the quorum is the
 * number of connected sites and the window warmup_grace_ms: a site that died cannot hold the run up
 * for longer. After a restart windows start anew.
 */
#ifndef COORDINATOR_COORDINATOR_STATE_H
#define COORDINATOR_COORDINATOR_STATE_H

#include "base/clock.h"
#include "fed/run_state.h"

struct coordinator_state;

/* Entries that wait for the disk at once. Beyond it invitations and joins are BUSY, a little later
 * every order: what stops or saves a run comes through when the rest does not. */
enum { COMMITS_LIMIT = 4096, COMMITS_RESERVED = 64 };

struct coordinator_options {
    const struct key_pair *key; /* borrowed; signs receipts and heads */
    uint32_t uploads_limit;     /* admitted and not yet committed at once; more are BUSY */
    uint64_t payload_limit;     /* bytes: the codec's bound of the largest fragment */
    uint64_t presence_ms;       /* a site counts as connected this long after it was last heard */
    uint64_t retry_ms;          /* base of retry_after with BUSY and PAUSED */
    uint64_t lost_ms;  /* a waiting contribution whose payload is lost is dropped after this long */
    bool model_behind; /* the shell has not brought the model to the run's version: CATCH_UP comes
                          first */
    /* it takes over from another coordinator, which may still run: an EPOCH entry comes first, and
     * from then on neither that one's receipts nor what was made for it count (I6) */
    bool new_epoch;
};

/* A payload that the ledger names and that is not there, or not whole. */
struct lost_payload {
    uint64_t index; /* of the contribution's entry */
    struct contribution contribution;
};

enum { WANTED_LIMIT = 16 /* lost payloads asked for in one answer to a heartbeat */ };

/* --- events ----------------------------------------------------------------------------------- */
enum coordinator_event_kind {
    COORDINATOR_TIMER = 1,   /* the time last asked for has come; spurious ones are harmless */
    COORDINATOR_SUBMIT_OPEN, /* a site opened a Submit stream and sent its header */
    COORDINATOR_UPLOADED,    /* the payload of an admitted call is durable in the blob store, or it
                                failed: `code` */
    COORDINATOR_CHECKED,     /* a worker ran admission_payload: `code` */
    COORDINATOR_CALL_GONE,   /* the peer went away; its upload so far is kept */
    COORDINATOR_COMMITTED, /* a COMMIT is durable (status OK), and all before it; or failed for good
                            */
    COORDINATOR_APPLIED,   /* an APPLY was computed: status, root; or a CATCH_UP. Not OK with lost
                              payloads, or a part that is nonfinite: none was touched */
    COORDINATOR_LOST,      /* somebody found payloads lost, outside of a step: `applied.lost` */
    COORDINATOR_JOIN, /* an unauthenticated caller asks to join, its CSR's signature checked by the
                         shell */
    COORDINATOR_HEARTBEAT,   /* a site's report */
    COORDINATOR_FOLLOWING,   /* a site opened or closed its Follow stream: counts as heard */
    COORDINATOR_NO_SNAPSHOT, /* somebody asked for the newest snapshot, and none can be read */
    COORDINATOR_ADMIN        /* an admin's order */
};

enum admin_order {
    ORDER_PAUSE = 1,
    ORDER_RESUME,
    ORDER_STOP,
    ORDER_INVITE,
    ORDER_REVOKE,
    ORDER_SNAPSHOT,
    ORDER_UNINVITE,
    ORDER_RULE
};

/* What became of an order. NOTHING of one that is not DONE is in the ledger. */
enum order_outcome {
    ORDER_DONE,
    ORDER_NO_SUCH_SITE,
    ORDER_BAD_VALUE, /* an argument is out of its bounds */
    ORDER_CONFLICT,  /* not in this phase, or taken already */
    ORDER_BUSY       /* too much waits: again in a moment */
};

struct coordinator_event {
    enum coordinator_event_kind kind;
    uint64_t call; /* the shell's number for the call this is about; never reused within a process;
                      0: none */
    union {
        struct {
            uint32_t site; /* from the certificate; 0: it names none */
            bool waits;    /* the site does not train while this is under way (overlap off) */
            uint64_t instance;
            uint8_t header[CONTRIBUTION_HEADER_SIZE];
            uint8_t signature[SIGNATURE_SIZE];
            bool supply; /* the payload of an entry of the ledger, any site's: the header is that
                            entry's */
        } submit;
        struct {
            enum refusal code;   /* ACCEPTED, or SIZE, DIGEST, BUSY */
            const char *message; /* borrowed, may be NULL */
        } uploaded, checked;
        struct {
            uint64_t commit; /* the number given by the action: it and all before it */
            enum status status;
        } committed;
        struct {
            enum status status;
            uint64_t version;
            uint8_t root[DIGEST_SIZE];
            const char *message;             /* borrowed, of a failure */
            const struct lost_payload *lost; /* [lost_count], borrowed */
            size_t lost_count;
            uint64_t nonfinite; /* the entry whose part would make the model cease to be finite, so
                                   that none was touched; 0: none */
        } applied;
        struct {
            char name[SITE_NAME_SIZE];
            uint8_t secret_digest[DIGEST_SIZE];
            uint8_t public_key[PUBLIC_KEY_SIZE];
            bool look; /* answer as if, change nothing: DO_JOINED with site 0 */
        } join;
        struct {
            uint32_t site;
            uint64_t instance; /* of the site's process, drawn at its start */
            uint32_t turn;     /* of the last answer */
            uint64_t time_ms;  /* the site's wall clock; 0: not told */
            bool leaving;      /* it goes, and has nothing under way */
        } heartbeat;
        struct {
            uint32_t site;
            bool open;
            uint64_t instance;
            uint64_t made_plus_1; /* the newest sequence that the process knows of as its own, plus
                                     1; 0: not told */
            bool restored;        /* a person says that it may be behind */
        } following;
        struct {
            enum admin_order order;
            char name[SITE_NAME_SIZE];                       /* INVITE, UNINVITE, REVOKE */
            char reason[REASON_SIZE];                        /* PAUSE, STOP, REVOKE */
            uint8_t secret_digest[DIGEST_SIZE];              /* INVITE */
            uint64_t expires_ms;                             /* INVITE, wall clock */
            enum site_role role;                             /* INVITE */
            char key[RULE_KEY_SIZE], value[RULE_VALUE_SIZE]; /* RULE */
            uint64_t token_budget; /* RESUME: a larger one; 0: as it was */
        } admin;
    };
};

/* --- actions ---------------------------------------------------------------------------------- */
enum coordinator_action_kind {
    DO_ADMIT = 1, /* open the upload, answer with credit from where it stands; then UPLOADED. If the
                     blob is there: at once */
    DO_REFUSE,    /* end the Submit call with this code */
    DO_RECEIPT,   /* end the Submit call with this receipt */
    DO_DROP,      /* end the call without an answer: another call of the same site took its place */
    DO_CHECK,     /* run admission_payload on a worker; then CHECKED */
    DO_KEEP,      /* never delete the contribution's payload: an earlier entry names it */
    DO_COMMIT,  /* make these entries durable, in this order, after all earlier ones; then COMMITTED
                 */
    DO_PUBLISH, /* entries below `size` are durable: send them to followers, with a head now and
                   then */
    DO_APPLY, /* compute the step on the model with model_state_step; then APPLIED. One at a time */
    DO_CATCH_UP, /* bring the model to the run's version by replay; then APPLIED */
    DO_SNAPSHOT, /* write a snapshot of the model as it is after that version, before any later
                    APPLY */
    DO_JOINED,   /* answer the Join: code 0 and the site's number, or a refusal */
    DO_HEARTBEAT_REPLY, /* answer with this site's inner steps */
    DO_ADMIN_REPLY,     /* answer the admin: outcome, message, of a snapshot its version */
    DO_END,  /* end the Follow call: another process of the site has its place (code HELD), or it is
                cut (COPY) */
    DO_COPY, /* tell people that there are two of the site, and what was decided */
    DO_CUT,  /* a site was revoked: end all its calls and connections; message is the reason */
    DO_TIMER, /* send TIMER at this monotonic time; replaces the one asked for before */
    DO_STOP   /* stop the process: something is broken; message says what, `halt` whether a restart
                 would only meet it again */
};

struct coordinator_action {
    enum coordinator_action_kind kind;
    uint64_t call;
    enum refusal code;
    enum order_outcome outcome;               /* ADMIN_REPLY */
    uint64_t retry_after_ms, current_version; /* REFUSE */
    char message[192];
    bool halt;                        /* STOP */
    struct contribution contribution; /* ADMIT, CHECK */
    bool supply; /* ADMIT: it replaces what lies there; REFUSE: a lost payload came, the code is
                    DUPLICATE */
    uint64_t wanted[WANTED_LIMIT]; /* HEARTBEAT_REPLY: ledger indices of payloads that were lost,
                                      [wanted_count] */
    uint32_t wanted_count;
    /* COMMIT: number, index of its first entry; PUBLISH: size; SNAPSHOT: first_index is the
     * header's payloads_from, size its ledger_size */
    uint64_t commit, first_index, size;
    bool if_none;             /* SNAPSHOT: only where none is there when its turn comes */
    struct buffer bytes;      /* COMMIT: entries, each u32 length || bytes; RECEIPT and
                                 REFUSE(DUPLICATE): receipt */
    struct ledger_entry step; /* APPLY: without root; parts are pending in the run state */
    uint64_t version;     /* SNAPSHOT; ADMIN_REPLY to an order for one: the version it will be of */
    uint32_t site;        /* JOINED, HEARTBEAT_REPLY, CUT */
    enum site_role role;  /* JOINED with site 0: the invitation's */
    uint32_t inner_steps; /* HEARTBEAT_REPLY */
    uint32_t sites_present; /* HEARTBEAT_REPLY: K */
    bool has_left;          /* HEARTBEAT_REPLY: the ledger has it that the site has left */
    uint32_t turn, copies;  /* HEARTBEAT_REPLY; COPY: copies */
    uint64_t at_ms;         /* TIMER */
};

struct coordinator_actions { /* in the order they are to be done; owned by the caller, who clears it
                                after each step */
    struct coordinator_action *items;
    size_t count, capacity;
};
void coordinator_actions_clear(struct coordinator_actions *actions); /* frees what the items own */
void coordinator_actions_deinit(struct coordinator_actions *actions);

/* --- life ------------------------------------------------------------------------------------- */
/* `run` has the whole ledger applied (at least its genesis); taken. */
struct coordinator_state *coordinator_state_create(const struct coordinator_options *options,
                                                   struct run_state *run);
void coordinator_state_destroy(struct coordinator_state *state);
/* Once, before the first event: takes up pending contributions that a crash left unmerged. */
void coordinator_state_start(struct coordinator_state *state, struct instant now,
                             struct coordinator_actions *out);
void coordinator_state_step(struct coordinator_state *state, const struct coordinator_event *event,
                            struct instant now, struct coordinator_actions *out);

/* --- looking (valid until the next step) --- */
const struct run_state *coordinator_state_run(const struct coordinator_state *state);
/* entries known durable */
uint64_t coordinator_state_committed(const struct coordinator_state *state);
/* calls under way */
uint32_t coordinator_state_uploads(const struct coordinator_state *state);
/* since start */
uint64_t coordinator_state_refused(const struct coordinator_state *state, enum refusal code);
/* Enrolled, and following or heard within presence_ms: what people are shown, and whose rounds set
 * the others' rate. Who counts in K is the ledger's to say (run_state_is_present). */
bool coordinator_state_connected(const struct coordinator_state *state, uint32_t site,
                                 struct instant now);
/* Processes of the site that were cut because it ran twice, and how long ago the last was. */
uint32_t coordinator_state_copies(const struct coordinator_state *state, uint32_t site,
                                  struct instant now, uint64_t *ms_ago);
/* Whether that process of the site is the one that takes part. */
bool coordinator_state_has_place(const struct coordinator_state *state, uint32_t site,
                                 uint64_t instance);
/* Milliseconds since the site was last heard; UINT64_MAX: not since the start. */
uint64_t coordinator_state_silence(const struct coordinator_state *state, uint32_t site,
                                   struct instant now);
/* H_w (DyLU) = floor(H * rate / fastest) over the sites that are present, at least H / 8. */
uint32_t coordinator_state_inner_steps(const struct coordinator_state *state, uint32_t site,
                                       struct instant now);
/* True: our wall clock is off, say two sites or more and more than half of those that are present,
 * all in one direction. */
struct clock_off {
    int64_t ahead_ms;        /* at least: what the nearest of them says; negative: behind */
    uint32_t sites, present; /* that say so, of so many */
};
enum { CLOCK_APART_LIMIT_MS = 60 * 1000 };
bool coordinator_state_clock_off(const struct coordinator_state *state, struct instant now,
                                 struct clock_off *out);
/* Payloads of the ledger that are lost and not here again yet, and the entry of one of them. */
size_t coordinator_state_lost(const struct coordinator_state *state, uint64_t *index);
bool coordinator_state_asks_for(const struct coordinator_state *state,
                                const uint8_t digest[static DIGEST_SIZE]);
/* False while the model is behind the ledger. */
bool coordinator_state_has_model(const struct coordinator_state *state);
/* Signs a head over the durable entries. */
void coordinator_state_head(const struct coordinator_state *state, uint8_t out[static HEAD_SIZE]);

#endif
