/* One instruction set's table, named by KERNELS_TABLE and KERNELS_NAME, from the bodies above it.
 * LINEAR names the linear layers, for a set that has its own. */
#include "kernels/cpu/activation_body.h"
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/linear_body.h"
#include "kernels/cpu/loss_body.h"
#include "kernels/cpu/norm_body.h"
#include "kernels/cpu/optimizer_body.h"
#include "kernels/cpu/tables.h"

#ifndef LINEAR
#define LINEAR(function) function
#endif

const struct kernels KERNELS_TABLE = {
    .name = KERNELS_NAME,
    .linear_forward_size = LINEAR(linear_forward_size),
    .linear_backward_size = LINEAR(linear_backward_size),
    .linear_scratch_size = LINEAR(linear_scratch_size),
    .linear_pack_forward = LINEAR(linear_pack_forward),
    .linear_pack_backward = LINEAR(linear_pack_backward),
    .linear_forward = LINEAR(linear_forward),
    .linear_backward_input = LINEAR(linear_backward_input),
    .linear_backward_weight = LINEAR(linear_backward_weight),
    .norm_forward = norm_forward,
    .norm_again = norm_again,
    .norm_backward = norm_backward,
    .rope = rope,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .attention_scratch_size = attention_scratch_size,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .cross_entropy = cross_entropy,
    .gradient_sum = gradient_sum,
    .adamw = adamw,
};
