/* AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, alg. 2, as in
 * PyTorch), fp32 throughout:
 *     m = b1*m + (1-b1)*g;  v = b2*v + (1-b2)*g^2;  p -= lr*decay*p; p -= lr * (m/(1-b1^t)) /
 *                                                   (sqrt(v/(1-b2^t)) + eps)
 * The gradient is first scaled by min(1, clip / its global norm). No decay on norms
 * (layout_tensor.decays).
 */
#ifndef MODEL_ADAMW_H
#define MODEL_ADAMW_H

#include "base/status.h"

struct adamw_options {
    float beta1, beta2; /* 0.9, 0.95; in [0, 1) */
    float epsilon;      /* 1e-8; > 0 */
    float decay;        /* 0.1; >= 0 */
    float clip;         /* 1.0: largest global gradient norm; 0: no clipping */
};

#define ADAMW_DEFAULTS                                                                             \
    { .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .decay = 0.1f, .clip = 1.0f }

/* INVALID names the field. */
MUST_USE enum status adamw_check(const struct adamw_options *options, struct error *error);

#endif
