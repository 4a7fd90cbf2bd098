/* The second half of the border to the CUDA backend: what a training step on the device is made of.
 *
 * As in kernels/cuda_operations.h: one struct of functions, one exported symbol, a version that the
 * loader checks, no CUDA type; failures are texts, and struct cuda_operations tells their kind. All
 * work of a session is queued on one stream, in order, and nothing waits but upload, download and
 * wait: a whole step is queued and then waited for once. Between capture_begin and capture_end what
 * is queued is not run but recorded, and replay runs it again with the same addresses: whatever
 * changes from step to step is read from device memory.
 *
 * Numbers: activations and the copy of the weights that matrix products read are bfloat16 ("bf16"
 * below, 2 bytes, rounded to nearest even); sums, norms, softmax, gradients of parameters, the
 * parameters and AdamW are fp32. Formulas are those of kernels/kernels.h. Every operation is
 * deterministic: same device, same library, same matrix algorithms, same bits. No atomics.
 *
 * Shapes: rows are tokens; [rows][width] is dense row-major. Widths (hidden, ffn, qkv) are
 * multiples of 8, arrays are aligned to 16 bytes. Every function returns NULL, or a text that says
 * what failed; a failure leaves the session good for nothing but close.
 */
#ifndef KERNELS_CUDA_TRAINING_H
#define KERNELS_CUDA_TRAINING_H

#include "kernels/cuda_backend.h"
#include "kernels/cuda_operations.h"

enum {
    CUDA_TRAINING_VERSION = 3,
    CUDA_NORM_GROUPS = 256, /* partial sums of a norm's weight gradient */
    CUDA_SUM_BLOCKS = 1024, /* partial sums of the gradient's squares */
    CUDA_PIECE = 8192,      /* most elements of one struct cuda_piece */
    CUDA_MATMUL_WORKSPACE = 32 << 20,
    CUDA_WIDTH_MAX = 16384, /* hidden: a norm's row is summed in shared memory */
};

#define CUDA_TRAINING_SYMBOL "atoll_cuda_training"

struct cuda_session; /* a stream, cuBLASLt, its algorithms and the recorded step */

/* Of y = x W^T. FORWARD: y[rows][out] = x W^T (+ add). INPUT: dx[rows][in] = dy W. WEIGHT:
 * dw[out][in] = dy^T x (+ dw), fp32. */
enum cuda_linear { CUDA_LINEAR_FORWARD, CUDA_LINEAR_INPUT, CUDA_LINEAR_WEIGHT };

struct cuda_matmul {
    enum cuda_linear kind;
    uint32_t rows, out, in;
    uint32_t out_stride;            /* of y and dy, in elements: out, or more */
    uint32_t accumulate;            /* WEIGHT: add to dw; FORWARD: `add` is there */
    struct device_memory left;      /* FORWARD: x; INPUT and WEIGHT: dy; bf16 */
    struct device_memory right;     /* FORWARD and INPUT: W; WEIGHT: x; bf16 */
    struct device_memory add;       /* [rows][out] bf16, may be result */
    struct device_memory result;    /* bf16; WEIGHT: fp32 */
    struct device_memory workspace; /* CUDA_MATMUL_WORKSPACE bytes */
};

struct cuda_norm { /* y = x * rstd * w */
    uint32_t rows, width;
    float eps;
    struct device_memory x, w, y, rstd; /* bf16, fp32 [width], bf16, fp32 [rows] */
    struct device_memory dy, dx;        /* bf16; dx = gradient (+ what is there, with add) */
    struct device_memory dw, partials;  /* fp32 [width]; fp32 [CUDA_NORM_GROUPS][width] */
    uint32_t add, accumulate;           /* to dx; to dw */
};

/* One call does `sequences` sequences. Rotary positions are applied to q and k: forward takes what
 * is not rotated, and may leave it rotated, as backward then needs it. So qkv is made anew before
 * each forward, and nobody else reads it after. */
struct cuda_attention {
    uint32_t sequences, length, heads, kv_heads, head_size;
    struct device_memory qkv, out;     /* bf16 [rows][qkv width]; [rows][heads * head size] */
    struct device_memory lse;          /* fp32 [sequences][heads][length] */
    struct device_memory cos, sin;     /* fp32 [length][head size / 2] */
    struct device_memory d_out, d_qkv; /* bf16; d_qkv is the gradient of what was not rotated */
    struct device_memory delta;        /* fp32 [sequences][heads][length]: scratch of backward */
};

struct cuda_attention_measure { /* milliseconds of forward and backward; wgmma's are 0 where the
                                   device has none */
    float mma_ms[2], wgmma_ms[2];
    uint32_t
        sequences;   /* that were timed: as many as asked for, or what a moment's memory allows */
    double distance; /* of one way's results from the other's, as a part of their length: the
                        largest of all */
};

struct cuda_loss { /* rows [from, from + rows) of a batch; logits hold those rows alone */
    uint32_t from, rows, length, vocabulary, stride;
    float scale; /* of the gradient, which replaces the logits; 0: none */
    /* bf16 [rows][stride]; uint32 [sequences][length + 1]; fp32 [batch rows] */
    struct device_memory logits, tokens, losses;
};

struct cuda_piece { /* of the flat parameter vector, for AdamW: does not cross a tensor's end */
    uint64_t offset;
    uint32_t count, decays;
};

struct cuda_update { /* what changes from step to step; on the device */
    float learning_rate, correction1, correction2;
    uint32_t salt_m, salt_v; /* of rounding by chance, see model/moments.c */
};

struct cuda_outcome {  /* of a step; on the device */
    double loss, norm; /* sum of nats; of the gradient */
    float gradient_scale;
    uint32_t finite; /* 0: the update was not done */
};

struct cuda_adamw {
    uint64_t count;
    uint32_t piece_count, narrow; /* narrow: m and v are bf16, rounded by chance */
    float beta1, beta2, epsilon, decay;
    /* struct cuda_piece [piece_count], cuda_update, cuda_outcome */
    struct device_memory pieces, update, outcome;
    struct device_memory gradient, parameters, copy; /* fp32, fp32, bf16; all [count] */
    struct device_memory m, v;
};

struct cuda_training {
    uint32_t version, struct_size;

    /* --- session, and copies in its order; memory is struct cuda_operations' --- `cache` is a file
     * for the matrix algorithms found (NULL: none); unreadable or damaged, it is ignored and
     * written anew. */
    const char *(*open)(const char *cache, struct cuda_session **out);
    void (*close)(struct cuda_session *session); /* NULL is a no-op; memory is released first */
    const char *(*upload)(struct cuda_session *session, struct device_memory to, const void *from,
                          size_t size);
    const char *(*download)(struct cuda_session *session, void *to, struct device_memory from,
                            size_t size);
    /* From pinned memory, in the stream's order: `from` must stay until the stream has come by. */
    const char *(*send)(struct cuda_session *session, struct device_memory to, const void *pinned,
                        size_t size);
    /* The same beside the stream, which goes on: receive makes the stream wait for it and moves it
     * to its place. */
    const char *(*stage)(struct cuda_session *session, struct device_memory incoming,
                         const void *pinned, size_t size);
    const char *(*receive)(struct cuda_session *session, struct device_memory to,
                           struct device_memory incoming, size_t size);
    const char *(*zero)(struct cuda_session *session, struct device_memory memory, size_t size);
    const char *(*wait)(struct cuda_session *session);
    const char *(*capture_begin)(struct cuda_session *session);
    const char *(*capture_end)(struct cuda_session *session);
    const char *(*replay)(struct cuda_session *session);

    /* --- layers --- */
    /* Times the algorithms that there are for this product and keeps the fastest. Overwrites the
     * result. Not while recording. */
    const char *(*matmul_prepare)(struct cuda_session *session, const struct cuda_matmul *m);
    const char *(*matmul)(struct cuda_session *session, const struct cuda_matmul *m);
    /* x[rows][hidden] = table[token], both bf16; tokens is [rows / length][length + 1]. */
    const char *(*embed)(struct cuda_session *session, uint32_t rows, uint32_t length,
                         uint32_t hidden, struct device_memory tokens, struct device_memory table,
                         struct device_memory x);
    /* d_table[token] += dx rows, in the order given: order[first[token] .. first[token + 1]) are a
     * token's rows. */
    const char *(*embed_backward)(struct cuda_session *session, uint32_t vocabulary,
                                  uint32_t hidden, struct device_memory order,
                                  struct device_memory first, struct device_memory dx,
                                  struct device_memory d_table);
    const char *(*norm_forward)(struct cuda_session *session, const struct cuda_norm *n);
    const char *(*norm_backward)(struct cuda_session *session, const struct cuda_norm *n);
    /* Chooses between the ways that the device has for this shape (docs/gpu.md): the faster one, if
     * both give the same. Measured once, by a process of its own, kept in a file beside `cache`.
     * Before memory is taken; what was not prepared goes by mma.sync. */
    const char *(*attention_prepare)(struct cuda_session *session,
                                     const struct cuda_attention *shape);
    /* What the last prepare chose and why, one line; the session's. */
    const char *(*attention_line)(const struct cuda_session *session);
    /* Both ways over random numbers, in this process: a mistake may lose the device. */
    const char *(*attention_measure)(struct cuda_session *session,
                                     const struct cuda_attention *shape,
                                     struct cuda_attention_measure *out);
    const char *(*attention_forward)(struct cuda_session *session, const struct cuda_attention *a);
    const char *(*attention_backward)(struct cuda_session *session, const struct cuda_attention *a);
    /* h[rows][width] of gate_up[rows][2 width]; backward also writes h again, unless it is none,
     * and d_gate_up may be gate_up. */
    const char *(*swiglu_forward)(struct cuda_session *session, uint32_t rows, uint32_t width,
                                  struct device_memory gate_up, struct device_memory h);
    const char *(*swiglu_backward)(struct cuda_session *session, uint32_t rows, uint32_t width,
                                   struct device_memory gate_up, struct device_memory dh,
                                   struct device_memory h, struct device_memory d_gate_up);
    const char *(*cross_entropy)(struct cuda_session *session, const struct cuda_loss *l);

    /* --- over flat vectors --- */
    /* outcome.loss = sum of losses [count] (+ what is there). */
    const char *(*loss_sum)(struct cuda_session *session, struct device_memory losses,
                            uint32_t count, uint32_t accumulate, struct device_memory outcome);
    /* Sums the squares of gradient [count] and ends outcome: norm, finite, gradient_scale = min(1,
     * clip / (norm + 1e-6)), or 1 where clip is 0. partials: double [CUDA_SUM_BLOCKS]. */
    const char *(*judge)(struct cuda_session *session, uint64_t count,
                         struct device_memory gradient, struct device_memory partials, float clip,
                         struct device_memory outcome);
    const char *(*adamw)(struct cuda_session *session, const struct cuda_adamw *a);
    const char *(*to_bf16)(struct cuda_session *session, uint64_t count, struct device_memory from,
                           struct device_memory to);
    /* local = fresh + (local - origin), with elementwise_rebase's bits, and its bf16 copy; [count]
     * each. */
    const char *(*rebase)(struct cuda_session *session, uint64_t count, struct device_memory local,
                          struct device_memory copy, struct device_memory fresh,
                          struct device_memory origin);
};

/* The training functions of an open backend, lent until it is closed. INVALID where it has none or
 * those of another build. */
MUST_USE enum status cuda_training_find(const struct cuda_backend *backend,
                                        const struct cuda_training **out, struct error *error);

#endif
