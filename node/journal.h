/* What a site keeps on disk, and what of it comes back after kill -9.
 *
 *     entries     the copy of the ledger
 *     payloads    by digest: of contributions, our own and others', until nobody has a claim
 *                 (node/claims.h)
 *     rounds      per fragment, the record of its last message
 *     sent        header and signature of messages of ours whose round is not over
 *     checkpoint  the last one, and what it and the rounds name: replica, trainer, bases,
 *                 snapshots, error feedback
 *
 * This header is a port. node/journal.c keeps all of it in a directory (node/journal_files.h); the
 * simulator links sim/journal.c instead, on a disk of its own that fails and forgets. The keeper
 * and the restore know nothing but this.
 *
 * A checkpoint holds the replica at a version, the trainer (parameters, optimizer, data position),
 * and each fragment's base and, where a message is in flight, its snapshot: all as they were
 * between two inner steps. A round's record is written BEFORE its upload starts and holds what the
 * message changed: header and signature, payload, the error feedback after it, theta_s and (with
 * one fragment) the optimizer and data position of that moment. When the round is over, the record
 * says so, with the feedback as it is then.
 *
 * After a crash (node/restore.h does it):
 *     replica      checkpoint + replay of the stored entries: exact, always
 *     feedback e   from the rounds' records: exact. A message is in its record or was never sent;
 *                  nothing is in neither place
 *     in flight    the recorded bytes are sent again; theta_local goes on from the checkpoint, if
 *                  it is younger than the record, else from theta_s: what was trained between
 *                  theta_s and the crash is lost
 *     not in flight  theta_local = replica + what the checkpoint had that no message has carried
 *                    since; nothing if it is older
 *                  than the last merge
 *     counts       steps, tokens and loss that no message has counted yet, as the tensors they
 *                  belong to: of the checkpoint
 *     receipt      of a message in flight: its record. What the snapshot of the run had, and so
 *                  need not be fetched: the checkpoint
 *     data         the position belongs to the trainer state that was taken: what was trained and
 *                  survived is not met again (with several fragments: except the steps between the
 *                  checkpoint and a later round of one of them)
 * So a crash costs inner progress since the last checkpoint or round, whichever is later, and never
 * mass.
 *
 * Entries are synced before they take effect. What a power cut could lose of the payloads is found
 * by replay, by digest. Threads: the keeper owns rounds and checkpoints; entries, sent and payloads
 * may be read and appended by the downlink beside it. FULL: the disk is; nothing was changed, and
 * after journal_resume the same call may be made again. CORRUPT names the record or blob. FAILED
 * from a sync: stop the process.
 */
#ifndef NODE_JOURNAL_H
#define NODE_JOURNAL_H

#include "fed/replay.h"
#include "node/round_progress.h"

struct journal;

struct journal_blob { /* what a record names; size 0: none */
    uint64_t size;
    uint8_t digest[DIGEST_SIZE];
};

struct journal_round {
    uint32_t fragment;
    bool in_flight; /* else it is over: merged, or refused */
    bool refused;   /* how it ended */
    uint64_t sequence;
    uint64_t base_version;  /* in flight: of the message; over: the base it was rebased to */
    uint64_t trainer_steps; /* trainer_counters().steps at the snapshot */
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    uint64_t payload_size;
    uint8_t payload_digest[DIGEST_SIZE];
    struct journal_blob feedback, snapshot, optimizer;
    struct { /* what the receipt said of the ledger; size 0: none was recorded */
        uint32_t epoch;
        uint64_t size;
        uint8_t root[DIGEST_SIZE];
    } accepted;
};

struct journal_checkpoint {
    uint64_t version;          /* of the replica */
    uint8_t root[DIGEST_SIZE]; /* state root of the replica */
    uint64_t trainer_steps;
    /* of the snapshot of the run that the replica once came from; 0: none */
    uint64_t payloads_from;
    uint32_t fragments;
    struct {
        uint64_t base_version;
        uint64_t in_flight; /* sequence whose snapshot is in `snapshot`; 0: none */
        uint64_t over;      /* the last sequence that was over; 0: none */
        bool baseless;      /* what `base` has of it is not the base of that version */
        struct round_progress progress;
    } fragment[FRAGMENTS_LIMIT];
    struct journal_blob global, trainer, base, snapshot;
};

void journal_close(struct journal *journal); /* NULL is a no-op */
/* After FULL, before the next try: the records' store takes nothing until it is told to. */
void journal_resume(struct journal *journal);

/* --- the ledger's copy: any thread reads, one appends --- */
uint64_t journal_size(const struct journal *journal); /* entries */
/* Entries journal_size, +1, ...: durable when it returns. */
MUST_USE enum status journal_append(struct journal *journal, const struct bytes *entries,
                                    size_t count, struct error *error);
/* Entries and payloads, for fed/replay.h. Lent as long as the journal is open. */
struct ledger_source journal_source(struct journal *journal);
/* Header and signature of a contribution of ours whose round is not over: to send it, and to expand
 * its stub. NOT_FOUND. */
MUST_USE enum status journal_sent(struct journal *journal, uint64_t sequence,
                                  uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                                  uint8_t signature[static SIGNATURE_SIZE], struct error *error);
/* An entry that is a contribution of ours, as it travels: the rest is in the journal. */
struct journal_stub {
    uint64_t sequence, time_ms;
    uint32_t epoch, header; /* the first bytes of the header's digest; 0: not known */
};
/* Appends the entry to *raw. NOT_FOUND: its round is over, or after a restore of an old backup we
 * have made another contribution of that number than the ledger has. */
MUST_USE enum status journal_expand(struct journal *journal, const struct journal_stub *stub,
                                    struct buffer *raw, struct error *error);
/* Header and signature of the contribution that entry `index` is, and what it says. CORRUPT: it is
 * something else. */
MUST_USE enum status journal_contribution(struct journal *journal, uint64_t index,
                                          struct ledger_entry *entry, struct contribution *out,
                                          struct error *error);

/* --- payloads. Where they come and go a piece at a time: node/journal_files.h --- */
/* Replaces *out's content. NOT_FOUND; CORRUPT; INVALID: larger than limit. */
MUST_USE enum status journal_payload_read(struct journal *journal,
                                          const uint8_t digest[static DIGEST_SIZE], size_t limit,
                                          struct buffer *out, struct error *error);
/* A claim to the payload beside those of the ledger's copy and of the rounds (node/claims.h), for
 * as long as an entry is on its way there: taken before one looks whether the file is there, ended
 * once the entry is in our copy. Claims count. */
void journal_payload_hold(struct journal *journal, const uint8_t digest[static DIGEST_SIZE]);
void journal_payload_unhold(struct journal *journal, const uint8_t digest[static DIGEST_SIZE]);
/* Deletes it unless somebody has a claim to it. The keeper's. */
MUST_USE enum status journal_payload_drop(struct journal *journal,
                                          const uint8_t digest[static DIGEST_SIZE],
                                          struct error *error);

/* --- rounds: the keeper --- */
/* The fragment's last round; NULL: none yet. Lent until the next change. */
const struct journal_round *journal_round(const struct journal *journal, uint32_t fragment);
struct journal_round_contents { /* empty where there is none */
    struct bytes payload, feedback, snapshot, optimizer;
};
/* Takes the round as in flight. Payload size and digest in `round` are the caller's; blobs' are
 * filled in here. */
MUST_USE enum status journal_round_begin(struct journal *journal, const struct journal_round *round,
                                         const struct journal_round_contents *contents,
                                         struct error *error);
/* The receipt has come: a restart need not ask for another. Nothing where that message is not in
 * flight any more. */
MUST_USE enum status journal_round_accept(struct journal *journal, uint32_t fragment,
                                          uint64_t sequence, const struct ledger_head *head,
                                          struct error *error);
/* It is over. `feedback` is empty where it has not changed since. */
MUST_USE enum status journal_round_end(struct journal *journal, uint32_t fragment,
                                       uint64_t base_version, bool refused, struct bytes feedback,
                                       struct error *error);

/* --- checkpoints: the keeper --- */
/* NULL: none yet */
const struct journal_checkpoint *journal_checkpoint(const struct journal *journal);
struct journal_checkpoint_contents {
    struct bytes global, trainer, base, snapshot; /* snapshot empty where nothing is in flight */
};
/* Replaces the last one; then payloads that only steps at or before its version read are deleted.
 */
MUST_USE enum status journal_checkpoint_write(struct journal *journal,
                                              const struct journal_checkpoint *checkpoint,
                                              const struct journal_checkpoint_contents *contents,
                                              struct error *error);
/* Replaces *out's content. INVALID for a blob of size 0. */
MUST_USE enum status journal_blob_read(struct journal *journal, const struct journal_blob *blob,
                                       struct buffer *out, struct error *error);

#endif
