/* The tensor half of the state machine: theta and the outer optimizer's buffers, moved only by step
 * entries.
 *
 * Dense mode is delayed Nesterov (arXiv 2401.09135, algorithm 3, c = 0), one contribution g after
 * the other in ledger order:
 *     D += g;  if (t + 1 >= N) { m = beta*m + D/N;  theta -= eps*(beta*m + g/N);  D = 0, t = 0 }
 *              else            { theta -= eps*(g/N);  t += 1 }
 * where t counts the contributions in D, and eps and N are the step entry's. Another N than before
 * is in force once D is cleared next.
 * Sparse mode is outer SGD over rounds of N contributions, one after the other, too. By the end of
 * a round theta[i] has moved by -eps times the mean of q[i] over those of the round that sent i, as
 * if all had come at once; until then it stands where the mean so far puts it:
 *     before = S[i]/n[i] (0 where n[i] = 0);  S[i] += q[i];  n[i] += 1
 *     theta[i] -= eps*(S[i]/n[i] - before);   after the N-th contribution: S = 0, n = 0
 * (Added up without the mean, what K sites found out about one coordinate would count K times.)
 * g and q are multiplied by the part's scale first. Every operation is fp32, rounded one by one, in
 * index order of the parts, so that any machine gets the same bits; `state_root` of merkle.h names
 * theta's.
 *
 * A step goes stretch by stretch (codec/codec.h) across all its parts, and the root piece by piece,
 * shared by the threads of a pool: the same bits for any number of them. Pieces whose parameters
 * have not changed since the last root are not hashed again.
 *
 * Memory: dense 12 bytes per parameter (theta, m, D), sparse 10 (theta, S and n); 33 bytes per MiB
 * of theta for the root; in dense mode a stretch of 1 MiB for each thread while a step is applied.
 * One owner.
 */
#ifndef FED_MODEL_STATE_H
#define FED_MODEL_STATE_H

#include "base/thread_pool.h"
#include "fed/merkle.h"
#include "fed/outer_rate.h"
#include "fed/payload.h"
#include "fed/run_state.h"

struct model_state {
    uint64_t parameters;
    uint32_t fragments;
    enum outer_mode mode;
    uint64_t version;
    float *theta;        /* [parameters] */
    float *momentum;     /* [parameters], dense only, else NULL */
    float *accumulated;  /* [parameters]: D; S in sparse mode */
    uint16_t *senders;   /* [parameters], sparse only, else NULL: n */
    struct model_sum {   /* of each fragment's D or S */
        uint32_t count;  /* contributions in it */
        uint32_t period; /* N, in force since it was cleared */
    } sums[FRAGMENTS_LIMIT];
    struct thread_pool *pool; /* borrowed; NULL, as after model_state_init: the caller's thread */
    /* After a step that failed because values could cease to be finite: the number, from 1, of the
     * part that would bring them there. 0: it was something else. */
    uint32_t nonfinite_part;
    /* private */
    struct manifest manifest;
    struct model_bounds { /* not below the lengths of the fragment's theta, m and D or S */
        bool known;
        double theta, momentum, accumulated;
    } bounds[FRAGMENTS_LIMIT];
    uint8_t (*leaves)[DIGEST_SIZE]; /* [pieces] */
    bool *leaf_known;               /* [pieces] */
};

/* All zero at version 0: fill theta next. FULL if there is not that much memory. */
MUST_USE enum status model_state_init(struct model_state *state, const struct manifest *manifest,
                                      uint64_t parameters, struct error *error);
void model_state_deinit(struct model_state *state);
/* Theta or the optimizer's buffers were written by somebody else, once there has been a step. */
void model_state_changed(struct model_state *state);
/* state_root of theta. */
void model_state_root(struct model_state *state, uint8_t out[static DIGEST_SIZE]);
/* Bytes that model_state_init takes. */
uint64_t model_state_memory(const struct manifest *manifest, uint64_t parameters);

struct step_input {                         /* one part of the step, in the entry's order */
    const struct verified_payload *payload; /* borrowed */
    float scale;
};
/* Applies a step to `fragment`, making `version`, which must be the next one. CORRUPT (naming the
 * part) if a scale is invalid or values could grow beyond 2^120 (a bound from norms, computed
 * before anything is touched, so the same everywhere); the state is then as before. INVALID for
 * another fragment or version than may come, and for a payload of another codec or fragment. `root`
 * (may be NULL) gets the new state root. */
MUST_USE enum status model_state_step(struct model_state *state, uint32_t fragment,
                                      uint64_t version, const struct step_rules *rules,
                                      uint32_t count, const struct step_input inputs[],
                                      uint8_t *root, struct error *error);

/* --- snapshots: a descriptor that names its content by digest, and the content --- */
#define SNAPSHOT_TAG "atoll snapshot 1"
struct snapshot_header { /* what a coordinator signs about a snapshot */
    uint8_t run_id[RUN_ID_SIZE];
    uint32_t epoch;
    uint64_t version;
    uint64_t ledger_size; /* entries that are in it: the step that made `version` is the last */
    /* index of the oldest contribution still pending then; ledger_size if there was none: who
     * starts from this snapshot needs the payloads of the contributions from here on */
    uint64_t payloads_from;
    uint8_t root[DIGEST_SIZE];
    uint64_t content_size;
    uint8_t content_digest[DIGEST_SIZE]; /* SHA-256 of the content */
};
enum {
    SNAPSHOT_HEADER_SIZE =
        RUN_ID_SIZE + 4 + 8 + 8 + 8 + DIGEST_SIZE + 8 + DIGEST_SIZE + SIGNATURE_SIZE
};
/* Bytes of the content for this shape: counts, then theta, then (dense) momentum and D or (sparse)
 * S and n; little-endian. */
uint64_t snapshot_size(const struct model_state *state);
/* the same, before there is a state */
uint64_t snapshot_size_of(const struct manifest *manifest, uint64_t parameters);
/* Appends the content. */
void snapshot_write(const struct model_state *state, struct buffer *out);
/* CORRUPT unless the content has exactly the right size, is finite, and theta has the header's
 * root; the state is then unusable until the next successful read. */
MUST_USE enum status snapshot_read(struct model_state *state, const struct snapshot_header *header,
                                   struct bytes content, struct error *error);
void snapshot_header_sign(const struct snapshot_header *header, const struct key_pair *key,
                          uint8_t out[static SNAPSHOT_HEADER_SIZE]);
MUST_USE enum status snapshot_header_verify(struct bytes raw,
                                            const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                            struct snapshot_header *out, struct error *error);

#endif
