/* The learning rate as a function of TOKENS the whole run has seen, not of anybody's steps: sites
 * of different speed and batch then agree on it, and a site that joins late starts where the run
 * is. The schedule is group-wide, from the manifest. Pure; uses libm's cos, so it is the same on
 * one machine, not necessarily in the last bit on two.
 */
#ifndef MODEL_SCHEDULE_H
#define MODEL_SCHEDULE_H

#include <stdint.h>

#include "base/status.h"

enum schedule_shape { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR };

struct schedule {
    enum schedule_shape shape;
    float peak;             /* learning rate after warm-up */
    float floor;            /* the least, reached at total_tokens and kept: 0 <= floor <= peak */
    uint64_t warmup_tokens; /* linear from peak/1000 up; 0: none */
    uint64_t total_tokens; /* the run's budget; unused by SCHEDULE_CONSTANT, else > warmup_tokens */
};

/* INVALID names the field. */
MUST_USE enum status schedule_check(const struct schedule *schedule, struct error *error);
float schedule_at(const struct schedule *schedule, uint64_t tokens_seen);
/* "constant", "cosine", "linear"; INVALID names them. */

#endif
