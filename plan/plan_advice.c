/* Advice: candidates around what was asked for, each simulated for a while, and the best of those
 * that keep sites busy. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/plan_internal.h"

enum { ROUNDS_WANTED = 40 };

/* What failures and joining leave: the same whatever the settings. */
static double possible(const struct plan_result *result) {
    double lost = plan_share(result, PLAN_REPAIR) + plan_share(result, PLAN_RESTART) +
                  plan_share(result, PLAN_START) + plan_share(result, PLAN_REWORK);
    return 1 - lost;
}

static bool reaches(const struct plan_result *result, double most, double stretch) {
    return result->busy >= 0.99 * most && stretch <= 1.1 && result->versions > 0 &&
           result->starved_sites == 0;
}

static double stretch_of(const struct plan_result *result) {
    return result->effective_inner_steps > 0
               ? result->effective_inner_steps / result->wanted_inner_steps
               : INFINITY;
}

/* `own`: the plan as things are. */
static void try_one(const struct topology *topology, uint64_t seed, enum codec codec,
                    double inner_steps, double fragments, const struct plan_result *own,
                    struct plan_advice *out) {
    struct topology *other = topology_copy(topology);
    double slowest = 0;
    for (uint32_t i = 0; i < other->group_count; i++)
        slowest = fmax(slowest, other->groups[i].step);
    other->run.codec = codec;
    other->run.bits = codec == topology->run.codec ? topology->run.bits : NAN;
    other->run.mode = codec_is_sparse(codec) ? OUTER_SPARSE : OUTER_DENSE;
    other->run.inner_steps = inner_steps;
    other->run.fragments = fragments;
    /* Long enough for rounds to settle, short enough to try two dozen; many sites get fewer rounds.
     */
    double rounds = other->site_count > 200 ? 8 : ROUNDS_WANTED;
    other->duration =
        fmin(topology->duration,
             fmax(rounds * fmax(inner_steps, own->effective_inner_steps / 2) * slowest, 600));
    struct plan_result result;
    plan_run_coarse(other, NULL, 0, seed, own->quantum, &result);
    struct plan_candidate *candidate = &out->candidates[out->count++];
    double scale = topology->duration / other->duration;
    *candidate = (struct plan_candidate){.inner_steps = inner_steps,
                                         .fragments = fragments,
                                         .codec = codec,
                                         .busy = result.busy,
                                         .stretch = stretch_of(&result),
                                         .up_bytes = result.up_bytes * scale,
                                         .down_bytes = result.down_bytes * scale,
                                         .staleness_p99 = (double)plan_staleness(&result, 0.99)};
    candidate->starved_sites = result.starved_sites;
    candidate->reaches = reaches(&result, possible(&result), candidate->stretch);
    plan_result_deinit(&result);
    topology_destroy(other);
}

void plan_advise(const struct topology *topology, uint64_t seed, const struct plan_result *result,
                 struct plan_advice *out) {
    static const double factors[] = {0.5, 1, 2, 5, 10};
    enum codec own = topology->run.codec;
    enum codec other = own == CODEC_TOPK2_64 ? CODEC_INT8 : CODEC_TOPK2_64;
    *out = (struct plan_advice){.best = -1, .possible = possible(result)};
    out->fine = reaches(result, out->possible, stretch_of(result));
    for (size_t codec = 0; codec < 2; codec++) {
        for (size_t i = 0; i < COUNT_OF(factors); i++) {
            double inner_steps = fmax(1, round(topology->run.inner_steps * factors[i]));
            try_one(topology, seed, codec ? other : own, inner_steps, topology->run.fragments,
                    result, out);
            if (topology->run.fragments < 4 && factors[i] >= 1 && factors[i] <= 5)
                try_one(topology, seed, codec ? other : own, inner_steps, 4, result, out);
        }
    }
    for (size_t i = 0; i < out->count; i++) { /* short rounds learn better; then fewer bytes */
        const struct plan_candidate *candidate = &out->candidates[i];
        if (!candidate->reaches) continue;
        const struct plan_candidate *best = out->best >= 0 ? &out->candidates[out->best] : NULL;
        if (!best || candidate->inner_steps < best->inner_steps ||
            (candidate->inner_steps == best->inner_steps &&
             candidate->up_bytes + candidate->down_bytes < best->up_bytes + best->down_bytes))
            out->best = (int)i;
    }
}
