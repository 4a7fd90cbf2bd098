/* The invariants I1 to I9 of docs/architecture.md, held against what the simulated processes do.
 *
 * The checker is told of every durable growth of the coordinator's ledger and follows it with a run
 * state and a model of its own, never crashed, so it knows the truth at every version: root, and a
 * digest of each fragment. Beside the rules that fed/ enforces it keeps its own simple books
 * (sequences, revocations, norms), so that a mistake in fed/ is not judged by itself. What sites do
 * is compared when they do it; what must hold at the end is asked for by check_end.
 *
 *   I1  a receipt's entry is in the durable ledger, byte for byte, when the receipt arrives and
 *       ever after
 *   I2  no (site, sequence) is entered twice, no contribution is merged twice; an honest site never
 *       sends two messages of one number
 *   I3  every root that anybody computes is that of the same version here; a full replay with all
 *       signatures ends at it too
 *   I4  every prefix that a site holds has the tree root of that prefix here; the coordinator's
 *       ledger only grows
 *   I5  no contribution after its site's revocation
 *   I6  no site takes a receipt of an epoch that is over (sim/site.c)
 *   I7  all values are finite; what a part adds is at most clip_factor times the running median
 *   I8  once faults have stopped, every honest site has another contribution merged within a
 *       bounded time (sim/federation.c)
 *   I9  training waits for no merge while overlap is on
 *   mass  0.95*e + delta == q + e' at each encoding, refusals put q back, crashes lose nothing; a
 *         delta starts at its header's base
 *   follow  theta_local and theta_s are their base and the site's own steps beyond it, whatever was
 *           followed, and no round is trained on a base that lacks what the replica has
 *           (sim/site_progress.c)
 */
#ifndef SIM_CHECK_H
#define SIM_CHECK_H

#include "fed/model_state.h"
#include "node/replica.h"
#include "sim/disk.h"
#include "sim/scenario.h"

struct check;

/* `disk` is the coordinator's; `initial` its theta of version 0, borrowed. */
struct check *check_create(struct world *world, const struct scenario *scenario, struct disk *disk,
                           const float *initial);
void check_destroy(struct check *check);

/* --- the coordinator --- */
void check_ledger_grew(struct check *check); /* the disk has more entries than before */
void check_coordinator_restarted(struct check *check);
/* A snapshot of that version and ledger is written: who loads it needs no payload before. */
void check_snapshot(struct check *check, uint64_t version, uint64_t ledger_size,
                    uint64_t payloads_from);
/* The coordinator (or a site: who) computed this root. */
void check_root(struct check *check, const char *who, uint64_t version,
                const uint8_t root[static DIGEST_SIZE]);

/* --- a site; `process` names it, `site` is its number in the ledger --- */
void check_prefix(struct check *check, const char *who, const struct run_state *run);
void check_receipt(struct check *check, uint32_t site,
                   const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                   const uint8_t signature[static SIGNATURE_SIZE], struct bytes receipt);
void check_sent(struct check *check, uint32_t process, uint64_t sequence,
                const uint8_t header[static CONTRIBUTION_HEADER_SIZE]);
/* Made on purpose by a faulty site: must never be in the ledger. */
void check_hostile_input(struct check *check,
                         const uint8_t header[static CONTRIBUTION_HEADER_SIZE]);
/* Around replica_encode: before it, and after it with its message. */
void check_before_encode(struct check *check, uint32_t process, const struct replica *replica,
                         uint32_t fragment, const struct contribution *contribution);
/* The header counts the steps that are in the message, each with so many tokens. */
void check_counts(struct check *check, uint32_t process, const struct contribution *contribution,
                  int64_t steps, uint64_t tokens_per_step);
void check_after_encode(struct check *check, uint32_t process, const struct replica *replica,
                        uint32_t fragment, struct bytes payload);
/* The message's record is durable: from now on its mass is in the message. */
void check_spooled(struct check *check, uint32_t process, uint32_t fragment, struct bytes payload);
/* The end of a round is durable. Refused: the mass of its message is in the feedback again. */
void check_round_over(struct check *check, uint32_t process, uint32_t fragment, bool refused);
/* The site's feedback, as restored from its disk. */
void check_feedback(struct check *check, uint32_t process, const struct replica *replica);
/* The books of a site whose disk is copied, put back from that copy, or lost. After the last two it
 * may use a number again. */
/* Its payload cannot be read any more, so its mass does not come back. */
void check_message_lost(struct check *check, uint32_t process, uint32_t fragment);
/* A site that is at a checkpoint of `version` has deleted a payload: no entry of its copy may name
 * it that a replay from there can merge. */
void check_payload_deleted(struct check *check, const char *who, const struct disk *disk,
                           uint64_t version, const uint8_t digest[static DIGEST_SIZE]);
/* An entry that none has given up comes into a site's copy: its payload is on its disk before. */
void check_payload_there(struct check *check, const char *who, const struct disk *disk,
                         uint64_t index, struct bytes raw);
void check_backed_up(struct check *check, uint32_t process);
void check_put_back(struct check *check, uint32_t process);
void check_wiped(struct check *check, uint32_t process);
/* The fragment's base in the replica is that of the version. */
void check_base(struct check *check, const char *who, const struct replica *replica,
                uint32_t fragment, uint64_t version);
/* The fragment has other parameters at one version than at the other. */
bool check_differ(const struct check *check, uint32_t fragment, uint64_t one, uint64_t other);
/* The site's base follows to that version while its message is in flight: no step up to there may
 * have merged it. */
void check_follows(struct check *check, const char *who,
                   const uint8_t header[static CONTRIBUTION_HEADER_SIZE], uint64_t version);
void check_waits(struct check *check, const char *who, bool overlap, bool waits_for_merge);

/* --- looking --- */
const struct run_state *check_run(const struct check *check); /* of the durable ledger */
/* contributions of the site in steps so far */
uint64_t check_merged(const struct check *check, uint32_t site);
/* its contributions of the fragment in the ledger, and its entries of coming and going */
uint32_t check_contributed(const struct check *check, uint32_t site, uint32_t fragment);
uint32_t check_presence_entries(const struct check *check, uint32_t site);
/* Replays the whole ledger with every signature and compares. */
void check_end(struct check *check);

#endif
