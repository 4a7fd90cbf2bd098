/* The tensors of a site that take part in the exchange, and the arithmetic of a round. Pure: no
 * I/O.
 *
 *     global    the replica: theta (and m, D in dense mode) as the ledger has it, moved by step
 *               entries only
 *     base      theta_base: the global parameters that the fragment's running delta starts from
 *     snapshot  theta_s: the local parameters when the fragment's last round ended
 *     feedback  e: the part of past deltas that was not sent (sparse mode)
 *
 * Who may touch what, when: the worker owns `global` and `feedback`; `base` and `snapshot` of a
 * fragment are handed back and forth by the core's slot phases (the trainer writes snapshot in
 * SNAPSHOT and reads and writes both when it follows or rebases; the worker reads both in ENCODING
 * and writes `next` before a move), so no lock is needed. `local` below is the trainer's own
 * vector.
 *
 * Each operation one fp32 rounding. Follow: local = next + (local - base), snapshot likewise while
 * a message is in flight; base = next. Rebase: local = next + (local - snapshot); base = next.
 * After a refusal in sparse mode: feedback += decode(message), then the same. After one in dense
 * mode: local = next + (local - base), so that all progress since the base, wherever that has
 * moved, is kept and the next delta carries it.
 *
 * Where there is a CUDA device (replica_use_device) messages are made there, with the same bits:
 * base, snapshot and feedback go to it and the feedback comes back. The replica itself stays here.
 * A device that fails is given up and the message made on the CPU, so that a lost device costs
 * neither mass nor the round.
 *
 * Mass: with q = decode(message), e_before, delta: 0.95*e_before + delta == q + e_after up to one
 * rounding a coordinate, and a refusal makes it 0.95*e_before + delta == e_after. Nothing is ever
 * in neither place.
 */
#ifndef NODE_REPLICA_H
#define NODE_REPLICA_H

#include "codec/codec.h"
#include "fed/model_state.h"

struct cuda_operations;
struct device_encoder;

struct replica {
    struct model_state global;
    uint64_t parameters;
    uint32_t fragments;
    enum codec codec; /* of the last message, and of the first one to come at the start */
    const struct cuda_operations *cuda; /* NULL: no device */
    float *base;                        /* [parameters] */
    float *snapshot;                    /* [parameters] */
    float *next;                        /* [parameters]: the base a rebase goes to */
    float *feedback;                    /* [parameters]; NULL in dense mode */
    bool lent;                          /* base, snapshot and next are somebody else's */
    uint64_t base_version[FRAGMENTS_LIMIT];
    uint64_t next_version[FRAGMENTS_LIMIT];
    /* [fragments]: the last fragment may be longer */
    struct codec_encoder *encoders[FRAGMENTS_LIMIT];
    enum codec encoded[FRAGMENTS_LIMIT];            /* what they are for */
    struct device_encoder *device[FRAGMENTS_LIMIT]; /* NULL: the CPU encodes */
    struct error device_error; /* why the device was given up; OK: it was not */
};

MUST_USE enum status replica_init(struct replica *replica, const struct manifest *manifest,
                                  uint64_t parameters, struct error *error);
void replica_deinit(struct replica *replica);
/* Encodes on the device from now on, until it fails. cuda is borrowed until replica_deinit. FULL,
 * UNAVAILABLE: the CPU goes on. */
MUST_USE enum status replica_use_device(struct replica *replica, const struct cuda_operations *cuda,
                                        struct error *error);

/* Trainer, or start-up: base = global for every fragment, local = global. */
void replica_begin(struct replica *replica, float *local);
/* Trainer: theta_s of the fragment. local is the whole vector. */
void replica_snapshot(struct replica *replica, uint32_t fragment, const float *local);
/* Worker: appends the fragment's message to *payload and moves the feedback. Where the run's codec
 * is another one than before, the encoder is made anew: FULL without the memory for it. INVALID if
 * the delta is not finite. Nothing has changed in either case. *norm is the L2 norm that the header
 * tells. */
MUST_USE enum status replica_encode(struct replica *replica, uint32_t fragment, enum codec codec,
                                    struct buffer *payload, double *norm, struct error *error);
/* Worker: next = global, for the fragment. */
void replica_stage(struct replica *replica, uint32_t fragment);
/* Worker: a message of ours was refused; sparse: its mass goes back into the feedback. Then
 * replica_stage. */
MUST_USE enum status replica_restore(struct replica *replica, uint32_t fragment, enum codec codec,
                                     struct bytes payload, struct error *error);
enum rebase {
    REBASE_SENT, /* what was trained before the snapshot is in the message or the feedback: local -
                    snapshot is kept */
    REBASE_KEEP  /* nothing was sent: local - base is kept */
};
/* What a refusal asks for: REBASE_SENT in sparse mode, where replica_restore put the mass back;
 * REBASE_KEEP in dense mode. */
enum rebase replica_refused(const struct replica *replica);
/* Trainer, between two steps, after replica_stage: the base moves and takes with it what stands on
 * it, which is theta_s too where a message is in flight. */
void replica_follow(struct replica *replica, uint32_t fragment, float *local, bool in_flight);
/* Likewise: the message is over. In both, `local` may be NULL: it is in another process. */
void replica_rebase(struct replica *replica, uint32_t fragment, float *local, enum rebase what);

#endif
