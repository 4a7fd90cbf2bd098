/* The site's core: a pure state machine. Events and the time go in, actions come out; no I/O, no
 * clock, no threads; the only randomness is jitter from the seed it was given. The shell
 * (node/daemon.h) and the simulator (sim/) both run it.
 *
 * It decides three things: when a round ends and what happens to its contribution; which ledger
 * entries are true and when the replica takes their steps; when to connect, retry and give up. The
 * tensors are node/replica.h's, moved by the shell's worker and trainer when an action says so.
 *
 * A fragment's way, one slot each; training goes on through all of it while overlap is on:
 *
 *     TRAINING --H_w steps since the last snapshot--> SNAPSHOT (trainer copies theta_s, between two
 *     steps)
 *       -> ENCODING (worker: delta, error feedback, encode, sign, durable spool) -> UPLOADING ->
 *       receipt -> ACCEPTED
 *       -> its entry does not come within inclusion_ms, or a new epoch begins before it ->
 *       UPLOADING again, the same bytes
 *       -> its STEP arrives by replay -> MERGING (worker copies the new base, trainer rebases
 *       between two steps) -> TRAINING
 *     refused for good -> RESTORING (mass back into e, or progress kept: replica.h) -> TRAINING
 *     with a new sequence
 *     refused for now, or the link broke -> UPLOADING again after a backoff with full jitter
 *
 * Entries come in order from Follow (a CONTRIBUTION only once its payload is on disk, or is our
 * own). A STEP is applied to the replica by the worker; entries after it wait in a bounded queue. A
 * root, rule, signature or head that does not agree ends the node (HALT): it would rather stop than
 * train on a model it cannot prove.
 *
 * A payload that a step needs and that the disk has lost is asked of the coordinator again
 * (REFETCH), and the step waits; one that the coordinator has lost is brought to it (SUPPLY), any
 * site's. A contribution of ours that it gave up (DROPPED) is taken back as after a refusal.
 *
 * A site follows: its base moves onto every version that the replica has reached and that changed
 * the fragment, between two inner steps, with all that stands on it: theta_local, and theta_s where
 * a message is in flight (ADVANCE). Several versions are taken in one move where they come faster
 * than `follow_interval`. A version that has our own part is no ADVANCE but a REBASE. A base does
 * not move from SNAPSHOT to the end of ENCODING, so that the delta is what its header says. Each
 * fragment has one order to move under way at most; another one is owed until it is done.
 *
 * A site sends one contribution after the other: the next fragment's is made once the last one's
 * entry is in the ledger, since each header names the header before it.
 *
 * After a crash the shell feeds back the stored entries (node_state_restore), the spooled messages
 * and the replica's version; what the ledger says about each spooled sequence decides how it goes
 * on, so nothing is sent twice with different bytes.
 */
#ifndef NODE_NODE_STATE_H
#define NODE_NODE_STATE_H

#include "base/clock.h"
#include "base/random.h"
#include "fed/model_state.h"
#include "fed/run_state.h"
#include "node/round_progress.h"

struct node_state;

struct node_options {
    uint32_t site;          /* our number */
    uint64_t seed;          /* of the jitter */
    uint64_t last_sequence; /* the highest that a message of ours ever had, recorded or not; a
                               refused one's is not in the ledger; 0: none */
    bool overlap; /* off: training waits from snapshot to rebase (the synchronous reference) */
    /* inner steps between two moves onto newer versions, at least; a site that waits needs none */
    uint32_t follow_interval;
    uint64_t heartbeat_ms; /* between heartbeats */
    /* first retry; doubles up to backoff_limit_ms; a random part of it is waited */
    uint64_t backoff_ms;
    uint64_t backoff_limit_ms;
    uint64_t inclusion_ms; /* an accepted contribution whose entry has not come after this long is
                              asked for again */
    /* entries waiting for a step; at the limit the shell stops reading Follow */
    uint32_t queue_limit;
    /* bytes of a usual contribution: what a missed step costs to replay */
    uint64_t nominal_payload;
    /* of the snapshot of the run that the replica once came from; 0: none */
    uint64_t payloads_from;
    /* version 0 is not known here: a snapshot of the run is needed, whatever it costs */
    bool lacks_model;
    bool restored; /* a person says: from an older backup, so the ledger may have what was not made
                      here */
};

enum { NODE_WANTED_LIMIT = 16 };

/* A message that was spooled and whose end is not known. */
struct node_spooled {
    uint32_t fragment;
    uint64_t sequence;
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    /* what its receipt said of the ledger; size 0: no receipt was recorded */
    struct ledger_head accepted;
    uint64_t base_version; /* of the base in the replica: the header's, or as moved since */
    bool baseless;         /* that did not come back: nothing can follow until the merge */
};

/* --- events ----------------------------------------------------------------------------------- */
enum node_event_kind {
    NODE_TIMER = 1,
    NODE_PROGRESS,       /* the trainer finished an inner step */
    NODE_SNAPSHOTTED,    /* SNAPSHOT done: theta_s holds the fragment; or the trainer is gone that
                            was to make it: status */
    NODE_TRAINER_LOST,   /* with what it trained since its last snapshots */
    NODE_ENCODED,        /* ENCODE done and durable: header and signature */
    NODE_UPLOAD_RECEIPT, /* the coordinator's receipt (unverified bytes) */
    NODE_UPLOAD_REFUSED, /* a coded refusal */
    NODE_UPLOAD_BROKEN, /* the stream ended without an answer, or no progress within the deadline */
    NODE_LINK_UP,       /* CONNECT succeeded: Follow is open */
    NODE_LINK_DOWN,     /* Follow ended or could not be opened: status, message */
    NODE_OFFER, /* the coordinator's newest snapshot header (verified), or none: version 0 */
    NODE_SNAPSHOT_LOADED, /* FETCH done: the replica is at that version; or it failed: status */
    NODE_ENTRY,     /* the next ledger entry, durable in our copy, its payload too if it has one */
    NODE_HEAD,      /* a signed head (unverified bytes) */
    NODE_APPLIED,   /* APPLY done: status, root */
    NODE_REBASED,   /* REBASE, RESTORE, ADVANCE or FETCH moved the fragment: its base is
                       base_version */
    NODE_REFETCHED, /* REFETCH done: status */
    NODE_SUPPLIED,  /* SUPPLY done, well or not */
    NODE_LEAVE,     /* the operator takes the site out: what is under way is sent, then LEFT */
    NODE_HEARTBEAT_REPLY, /* inner steps for us; or it failed (then nothing) */
    NODE_FAULT            /* the shell's worker, trainer or disk failed: status, message */
};

struct node_event {
    enum node_event_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    enum status status;
    const char *message; /* borrowed; may be NULL */
    struct bytes bytes;  /* RECEIPT, REFUSED (a receipt with DUPLICATE), ENTRY, HEAD; borrowed */
    union {
        struct {
            uint64_t steps, tokens; /* of this process since its start */
            double loss;            /* of the last step */
        } progress;
        struct {
            uint64_t steps,
                tokens;     /* NODE_SNAPSHOTTED: the trainer's count at the copy; ENCODED: unused */
            uint64_t began; /* the base version at which the oldest of its steps began */
        } snapshotted;
        struct {
            uint8_t header[CONTRIBUTION_HEADER_SIZE];
            uint8_t signature[SIGNATURE_SIZE];
        } encoded;
        struct {
            enum refusal code;
            uint64_t retry_after_ms, current_version;
        } refused;
        struct {
            struct snapshot_header header;
            bool exists;
        } offer;
        struct {
            uint64_t version;
            uint8_t root[DIGEST_SIZE];
            uint64_t lost; /* not OK: the entry whose payload is not there or damaged; nothing was
                              touched. 0: it is not that */
        } applied;
        struct {
            uint64_t base_version;
        } rebased;
        struct {
            uint32_t inner_steps;
            enum run_phase phase;
            uint64_t version; /* the coordinator's */
            uint32_t sites_present;
            bool has_left; /* the ledger has it that we have left */
            uint32_t wanted_count;
            /* ledger indices: payloads that the coordinator has lost */
            uint64_t wanted[NODE_WANTED_LIMIT];
        } heartbeat;
    };
};

/* --- actions ---------------------------------------------------------------------------------- */
enum node_action_kind {
    NODE_DO_CONNECT =
        1, /* open the channel, ask for the snapshot offer if ask_offer, then Follow from `index` */
    NODE_DO_FETCH,    /* fetch and load the offered snapshot (resumable), then SNAPSHOT_LOADED */
    NODE_DO_FOLLOW,   /* (re)open Follow from `index`; payloads of contributions below payloads_from
                         are not needed */
    NODE_DO_SNAPSHOT, /* the trainer copies theta_s of the fragment between two steps; then
                         SNAPSHOTTED */
    NODE_DO_ENCODE,   /* worker: replica_encode, sign `contribution` (payload fields, norm, loss
                         filled by it), spool; ENCODED */
    NODE_DO_ACCEPTED, /* worker: record what the receipt said (`head`); nothing follows */
    NODE_DO_UPLOAD,   /* send the spooled message of (fragment, sequence), in the background */
    NODE_DO_APPLY,    /* worker: replay_step of this entry on the replica; then APPLIED */
    NODE_DO_REBASE,   /* worker copies the newest base, trainer rebases between two steps; then
                         REBASED. The spooled message is over */
    NODE_DO_RESTORE,  /* the same after a refusal: replica_restore first; then REBASED. The spooled
                         message is over */
    NODE_DO_ADVANCE,  /* worker: replica_stage; trainer: replica_follow; then REBASED. No message is
                         over */
    NODE_DO_TRAIN,    /* training may go on (on) or must wait (off), with the cause to book the time
                         under */
    NODE_DO_REFETCH,  /* get the payload of entry `index` from the coordinator into our disk; then
                         REFETCHED */
    NODE_DO_SUPPLY,   /* bring the payload of entry `index` to the coordinator, if it is here and
                         whole; then SUPPLIED */
    NODE_DO_HEARTBEAT, /* send one; then HEARTBEAT_REPLY */
    NODE_DO_TIMER,     /* send TIMER at this monotonic time; replaces the one asked for before */
    NODE_DO_FINISH,    /* the run has stopped and everything of ours is merged or refused: save,
                          export, exit 0 */
    NODE_DO_LEFT,      /* the site asked to leave, and the ledger says that it has: save, exit 0 */
    NODE_DO_HALT       /* stop with this message; exit code is not 0 */
};

enum node_wait { NODE_WAIT_NONE = 0, NODE_WAIT_MERGE, NODE_WAIT_PAUSED, NODE_WAIT_START };

struct node_action {
    enum node_action_kind kind;
    uint32_t fragment;
    uint64_t sequence;
    uint64_t index, payloads_from; /* FOLLOW, REFETCH, SUPPLY: ledger indices */
    bool ask_offer;                /* CONNECT */
    bool leaving;                  /* HEARTBEAT: we go, and nothing of ours is under way */
    bool train;                    /* TRAIN */
    uint64_t until_steps; /* TRAIN: wait for more orders at this count of inner steps (overlap off);
                             UINT64_MAX: none */
    enum node_wait wait;  /* TRAIN: why not */
    uint64_t at_ms;       /* TIMER */
    /* ENCODE: all but payload_size, payload_digest, norm, loss, compute_share, signed_at. REFETCH:
     * that of entry `index` */
    struct contribution contribution;
    struct ledger_head head; /* ACCEPTED */
    struct buffer bytes;     /* APPLY: the STEP entry */
    char message[256];       /* HALT */
};

struct node_actions {
    struct node_action *items;
    size_t count, capacity;
};
void node_actions_clear(struct node_actions *actions);
void node_actions_deinit(struct node_actions *actions);

/* --- life ------------------------------------------------------------------------------------- */
struct node_state *node_state_create(const struct node_options *options);
void node_state_destroy(struct node_state *state);

/* Start-up, in this order: every stored entry from 0; then start with the replica's version and the
 * spool. */
MUST_USE enum status node_state_restore(struct node_state *state, struct bytes entry,
                                        struct error *error);
/* Before the start: how far the fragment's round is, by what the disk brought back. Without it, it
 * begins anew. */
void node_state_resume(struct node_state *state, uint32_t fragment,
                       const struct round_progress *progress);
/* replica_version: version the replica is at. Entries of steps beyond it must be applied to it by
 * the shell (replay) before. */
void node_state_start(struct node_state *state, uint64_t replica_version,
                      const struct node_spooled *spooled, size_t spooled_count, struct instant now,
                      struct node_actions *out);
void node_state_step(struct node_state *state, const struct node_event *event, struct instant now,
                     struct node_actions *out);

/* --- looking (valid until the next step) --- */
enum slot_phase {
    SLOT_TRAINING = 0,
    SLOT_SNAPSHOT,
    SLOT_ENCODING,
    SLOT_UPLOADING,
    SLOT_BACKOFF,
    SLOT_ACCEPTED,
    SLOT_MERGING,
    SLOT_RESTORING
};
const struct run_state *node_state_run(const struct node_state *state);
enum slot_phase node_state_slot(const struct node_state *state, uint32_t fragment);
uint64_t node_state_backlog(const struct node_state *state);  /* entries waiting for a step */
uint64_t node_state_sequence(const struct node_state *state); /* the last one used */
/* Inner steps since the fragment's last snapshot, as its round counts them; below 0 while the first
 * round is staggered. */
int64_t node_state_round_steps(const struct node_state *state, uint32_t fragment);
uint32_t node_state_inner_steps(const struct node_state *state);
/* as the coordinator last said; 0: not yet */
uint32_t node_state_sites_present(const struct node_state *state);
uint64_t node_state_refused(const struct node_state *state, enum refusal code);
/* the entry whose payload is asked for again; 0: none is */
uint64_t node_state_lost(const struct node_state *state);
uint64_t node_state_staleness(const struct node_state *state); /* of our last merged contribution */
bool node_state_linked(const struct node_state *state);

#endif
