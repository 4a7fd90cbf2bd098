/* The model's arithmetic: forward, loss and backward of a few sequences, over one table of kernels.
 *
 * Llama as transformers computes it. For each layer, on rows of the residual stream x (one row a
 * token):
 *     q|k|v = norm(x) Wqkv^T; rotate q, k; x += attention(q, k, v) Wo^T;
 *     g|u = norm(x) Wgu^T;                 x += (silu(g) * u) Wdown^T
 * then logits = norm(x) Whead^T and the mean of -log p[next token]. There is never a
 * [rows][vocabulary] matrix: the head, the loss and their gradients go by LOSS_ROWS rows.
 *
 * A struct transformer holds what all threads share: the packed copies of the matrices, refreshed
 * by transformer_pack whenever the parameters have changed. A struct workspace holds what one
 * thread needs for `sequences` sequences. Neither allocates: both are planned over a caller's
 * arena. What the backward pass can recompute cheaply (norms, h) is not kept; with `recompute`, of
 * a layer only its input is kept and the backward pass runs the layer forward again: a third more
 * arithmetic, the same bits, and memory that hardly grows with the number of layers. Results are a
 * function of (table, shapes, parameters, tokens): the same bits each time, on any thread.
 */
#ifndef MODEL_TRANSFORMER_H
#define MODEL_TRANSFORMER_H

#include <stdbool.h>

#include "kernels/kernels.h"
#include "model/layout.h"
#include "model/tensor_arena.h"

enum { LOSS_ROWS = 128 };

struct matrix { /* one linear layer's weights, [out][in] at `offset` of the flat vector */
    uint64_t offset;
    uint32_t out, in;
    void *forward, *backward; /* packed copies; backward is NULL for inference */
};

struct transformer_layer {
    uint64_t norm1, norm2; /* offsets */
    struct matrix qkv, o, gate_up,
        down; /* q|k|v and gate|up are neighbours in the layout: one matrix each */
};

struct transformer {
    const struct layout *layout; /* borrowed */
    const struct kernels *kernels;
    uint32_t length; /* longest sequence */
    bool trains, recompute;
    struct transformer_layer *layers; /* [config.layers] */
    struct matrix head;
    uint64_t embedding, norm; /* offsets */
    float *cos, *sin;         /* [length][head size / 2] */
};

struct workspace_layer { /* kept from forward for backward; in inference all layers share one set */
    float *x;            /* [rows][hidden] what came in */
    float *rstd1, *rstd2;   /* [rows] */
    float *qkv;             /* [rows][qkv width], rotated */
    float *attention, *lse; /* [rows][hidden], [sequences][heads][length] */
    float *middle;          /* [rows][hidden] after attention */
    float *gate_up;         /* [rows][2 ffn]; its gradient after backward */
};

struct workspace {
    uint32_t sequences;
    struct workspace_layer *layers; /* [config.layers] */
    float *x, *normed, *rstd, *h;   /* [rows][hidden], same, [rows], [rows][ffn] */
    float *d_x, *d_normed, *d_wide; /* [rows][hidden] twice, [rows][max(qkv width, ffn)] */
    float *logits;                  /* [LOSS_ROWS][vocabulary] */
    uint32_t *targets;              /* [LOSS_ROWS] */
    void *scratch;                  /* what the kernels ask for */
};

/* Takes its arrays from the arena, and fills in what never changes if the arena has memory. Borrows
 * layout. */
void transformer_plan(struct transformer *transformer, const struct layout *layout,
                      const struct kernels *kernels, uint32_t length, bool trains, bool recompute,
                      struct tensor_arena *arena);
void workspace_plan(struct workspace *workspace, const struct transformer *transformer,
                    uint32_t sequences, struct tensor_arena *arena);

/* Packing is transformer_pack_jobs independent jobs, any thread each. */
uint32_t transformer_pack_jobs(const struct transformer *transformer);
void transformer_pack(struct transformer *transformer, const float *parameters, uint32_t job);

/* Sum over all tokens of -log p (nats) of `sequences` (<= workspace's) sequences: tokens is
 * [sequences][length + 1], all below the vocabulary. With a gradient ([layout->count]), adds to it
 * the gradient of scale * that sum, or with `fresh` writes it over what is there; NULL: the loss
 * alone. */
double transformer_run(const struct transformer *transformer, struct workspace *workspace,
                       const float *parameters, const uint32_t *tokens, uint32_t sequences,
                       uint32_t length, float scale, float *gradient, bool fresh);

#endif
