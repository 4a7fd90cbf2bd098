/* AdamW's settings, checked (model/adamw.h). The arithmetic is a kernel: kernels/cpu and
 * kernels/cuda have it. */
#include "model/adamw.h"

enum status adamw_check(const struct adamw_options *options, struct error *error) {
    if (!(options->beta1 >= 0.0f && options->beta1 < 1.0f))
        return error_set(error, INVALID, "adamw beta1 is %g; it must be in [0, 1)",
                         (double)options->beta1);
    if (!(options->beta2 >= 0.0f && options->beta2 < 1.0f))
        return error_set(error, INVALID, "adamw beta2 is %g; it must be in [0, 1)",
                         (double)options->beta2);
    if (!(options->epsilon > 0.0f && options->epsilon <= 1.0f))
        return error_set(error, INVALID, "adamw epsilon is %g; it must be above 0 and at most 1",
                         (double)options->epsilon);
    if (!(options->decay >= 0.0f && options->decay <= 100.0f))
        return error_set(error, INVALID, "adamw decay is %g; it must be in 0..100",
                         (double)options->decay);
    if (!(options->clip >= 0.0f && options->clip <= 1e30f))
        return error_set(error, INVALID, "adamw clip is %g; it must be 0 (off) or positive",
                         (double)options->clip);
    return OK;
}
