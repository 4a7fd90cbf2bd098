/* The tensors, moved by step entries (fed/model_state.h): checks everything of a step first, then
 * applies it, so a step happens whole or not at all. Same bits on every machine. */
#include "fed/model_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "kernels/elementwise.h"

uint64_t model_state_memory(const struct manifest *manifest, uint64_t parameters) {
    uint64_t largest = fragment_largest(parameters, manifest->fragments);
    if (manifest->outer.mode == OUTER_DENSE)
        return parameters * 3 * sizeof(float) + largest * sizeof(float);
    return parameters * (2 * sizeof(float) + sizeof(uint16_t));
}

static enum status floats_try(uint64_t count, float **out, struct error *error) {
    void *memory = NULL;
    TRY(memory_try((size_t)count, sizeof(float), &memory, error));
    *out = memory;
    return OK;
}

static enum status allocate(struct model_state *state, struct error *error) {
    uint64_t largest = fragment_largest(state->parameters, state->manifest.fragments);
    TRY(floats_try(state->parameters, &state->theta, error));
    TRY(floats_try(state->parameters, &state->accumulated, error));
    if (state->mode == OUTER_DENSE) {
        TRY(floats_try(state->parameters, &state->momentum, error));
        return floats_try(largest, &state->scratch, error);
    }
    void *senders = NULL;
    TRY(memory_try((size_t)state->parameters, sizeof(uint16_t), &senders, error));
    state->senders = senders;
    return OK;
}

enum status model_state_init(struct model_state *state, const struct manifest *manifest,
                             uint64_t parameters, struct error *error) {
    if (parameters == 0 || parameters > CODEC_COUNT_MAX)
        return error_set(error, INVALID, "a model of %llu parameters",
                         (unsigned long long)parameters);
    *state = (struct model_state){.parameters = parameters,
                                  .fragments = manifest->fragments,
                                  .mode = manifest->outer.mode,
                                  .manifest = *manifest};
    enum status status = allocate(state, error);
    if (status != OK) model_state_deinit(state);
    return status;
}

void model_state_deinit(struct model_state *state) {
    free(state->theta);
    free(state->momentum);
    free(state->accumulated);
    free(state->scratch);
    free(state->senders);
    *state = (struct model_state){0};
}

/* --- a step --------------------------------------------------------------------------------------
 * Nothing is touched before everything is known to be good. That the messages are, their type says
 * (fed/payload.h). That no value will leave the finite numbers follows from norms, which bound
 * every element: the largest magnitude that any intermediate can reach is bounded in double, with
 * the same recurrences as the step itself, and refused above VALUE_LIMIT, which leaves a factor of
 * 256 to the largest float for the roundings that the bound ignores. The bound is deterministic, so
 * all agree on what is refused. No honest model is within thirty orders of magnitude of it. */
#define VALUE_LIMIT 0x1p120

struct rules { /* the outer optimizer's constants, as fp32: what the kernels are given */
    float rate, momentum, period;
};

/* The next contribution comes into D: whether it is the last one before D is cleared. `next`: the
 * period from when D is cleared on. */
static bool takes_one(struct model_sum *sum, uint32_t next) {
    if (sum->count == 0) sum->period = next;
    if (++sum->count < sum->period) return false;
    sum->count = 0;
    return true;
}

static struct rules rules_of(const struct model_state *state, const struct step_rules *step,
                             const struct model_sum *sum) {
    return (struct rules){step->rate, (float)state->manifest.outer.momentum, (float)sum->period};
}

static double length_of(const float *values, uint64_t count) {
    return sqrt(elementwise_norm_squared(values, (size_t)count));
}

static enum status check_input(const struct model_state *state, uint32_t part,
                               const struct step_input *input, uint64_t count, double *scaled_norm,
                               struct error *error) {
    const struct payload_terms *terms = payload_terms(input->payload);
    bool sparse = state->mode == OUTER_SPARSE;
    if (codec_is_sparse(terms->codec) != sparse || terms->count != count)
        return error_set(error, INVALID, "part %u: a payload of %llu parameters in %s", part,
                         (unsigned long long)terms->count, codec_name(terms->codec));
    if (!(input->scale >= 0) || !isfinite(input->scale))
        return error_set(error, CORRUPT, "part %u: its scale is invalid", part);
    *scaled_norm = (double)input->scale * payload_norm(input->payload);
    return OK;
}

static enum status within_limit(double bound, uint32_t part, uint32_t *nonfinite,
                                struct error *error) {
    if (bound <= VALUE_LIMIT) return OK; /* NaN is not */
    *nonfinite = part + 1;
    return error_set(error, CORRUPT, "part %u: values could grow to %g and cease to be finite",
                     part, bound);
}

/* Bounds on |theta|, |m| and |D| as the step's contributions come one after the other. */
struct bounds {
    double theta, momentum, accumulated;
};

static double bounds_advance(struct bounds *b, const struct rules *rules, bool ends, double g) {
    double rate = (double)rules->rate, beta = (double)rules->momentum,
           period = (double)rules->period;
    b->accumulated += g;
    double reached = g + b->accumulated, update = g / period;
    if (ends) {
        b->momentum = beta * b->momentum + b->accumulated / period;
        reached += b->momentum;
        update += beta * b->momentum;
        b->accumulated = 0;
    }
    b->theta += rate * update;
    return reached + update +
           b->theta; /* a sum, where the largest would do, because a sum keeps a NaN */
}

static enum status check_dense(const struct model_state *state, uint32_t fragment, uint64_t start,
                               uint64_t count, const struct step_rules *step, uint32_t parts,
                               const struct step_input inputs[], uint32_t *nonfinite,
                               struct error *error) {
    struct model_sum sum = state->sums[fragment];
    struct bounds bounds = {length_of(state->theta + start, count),
                            length_of(state->momentum + start, count),
                            length_of(state->accumulated + start, count)};
    for (uint32_t i = 0; i < parts; i++) {
        double norm;
        TRY(check_input(state, i, &inputs[i], count, &norm, error));
        bool ends = takes_one(&sum, step->period);
        struct rules rules = rules_of(state, step, &sum);
        TRY(within_limit(bounds_advance(&bounds, &rules, ends, norm), i, nonfinite, error));
    }
    return OK;
}

/* A mean is no longer than the sum, before and after. */
static enum status check_sparse(const struct model_state *state, uint32_t fragment, uint64_t start,
                                uint64_t count, const struct step_rules *step, uint32_t parts,
                                const struct step_input inputs[], uint32_t *nonfinite,
                                struct error *error) {
    struct model_sum round = state->sums[fragment];
    double sum = length_of(state->accumulated + start, count),
           theta = length_of(state->theta + start, count), rate = (double)step->rate;
    for (uint32_t i = 0; i < parts; i++) {
        double norm;
        TRY(check_input(state, i, &inputs[i], count, &norm, error));
        sum += norm;
        theta += rate * 2 * sum;
        TRY(within_limit(sum + theta, i, nonfinite, error));
        if (takes_one(&round, step->period)) sum = 0;
    }
    return OK;
}

static void step_dense(struct model_state *state, uint32_t fragment, uint64_t start, size_t count,
                       const struct step_rules *step, uint32_t parts,
                       const struct step_input inputs[]) {
    struct model_sum *sum = &state->sums[fragment];
    float *theta = state->theta + start, *momentum = state->momentum + start,
          *accumulated = state->accumulated + start;
    for (uint32_t i = 0; i < parts; i++) {
        float *g = state->scratch;
        codec_decode_checked(payload_terms(inputs[i].payload)->codec,
                             payload_bytes(inputs[i].payload), count, g);
        elementwise_scale(g, g, inputs[i].scale, count);
        bool ends = takes_one(sum, step->period);
        struct rules rules = rules_of(state, step, sum);
        if (ends)
            elementwise_nesterov_end(theta, momentum, accumulated, g, rules.rate, rules.momentum,
                                     rules.period, count);
        else
            elementwise_nesterov_between(theta, accumulated, g, rules.rate, rules.period, count);
    }
}

static void step_sparse(struct model_state *state, uint32_t fragment, uint64_t start, size_t count,
                        const struct step_rules *step, uint32_t parts,
                        const struct step_input inputs[]) {
    const struct codec_round round = {state->theta + start, state->accumulated + start,
                                      state->senders + start};
    for (uint32_t i = 0; i < parts; i++) {
        codec_merge_checked(payload_terms(inputs[i].payload)->codec,
                            payload_bytes(inputs[i].payload), count, inputs[i].scale, step->rate,
                            &round);
        if (!takes_one(&state->sums[fragment], step->period)) continue;
        memset(round.sum, 0, count * sizeof *round.sum);
        memset(round.senders, 0, count * sizeof *round.senders);
    }
}

enum status model_state_step(struct model_state *state, uint32_t fragment, uint64_t version,
                             const struct step_rules *rules, uint32_t count,
                             const struct step_input inputs[], uint8_t *root, struct error *error) {
    if (fragment >= state->fragments)
        return error_set(error, INVALID, "fragment %u of %u", fragment, state->fragments);
    if (version != state->version + 1)
        return error_set(error, INVALID, "a step to version %llu for a model at version %llu",
                         (unsigned long long)version, (unsigned long long)state->version);
    if (count < 1 || count > STEP_CONTRIBUTIONS_LIMIT)
        return error_set(error, INVALID, "a step of %u contributions", count);
    uint64_t start, size;
    fragment_range(state->parameters, state->fragments, fragment, &start, &size);
    uint32_t *nonfinite = &state->nonfinite_part;
    *nonfinite = 0;
    if (state->mode == OUTER_DENSE) {
        TRY(check_dense(state, fragment, start, size, rules, count, inputs, nonfinite, error));
        step_dense(state, fragment, start, (size_t)size, rules, count, inputs);
    } else {
        TRY(check_sparse(state, fragment, start, size, rules, count, inputs, nonfinite, error));
        step_sparse(state, fragment, start, (size_t)size, rules, count, inputs);
    }
    state->version = version;
    if (root) state_root(state->theta, state->parameters, root);
    return OK;
}
