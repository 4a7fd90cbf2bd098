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
    uint64_t leaves = state_pieces(parameters) * (DIGEST_SIZE + sizeof(bool));
    if (manifest->outer.mode == OUTER_DENSE) return parameters * 3 * sizeof(float) + leaves;
    return parameters * (2 * sizeof(float) + sizeof(uint16_t)) + leaves;
}

static enum status floats_try(uint64_t count, float **out, struct error *error) {
    void *memory = NULL;
    TRY(memory_try((size_t)count, sizeof(float), &memory, error));
    *out = memory;
    return OK;
}

static enum status allocate(struct model_state *state, struct error *error) {
    TRY(floats_try(state->parameters, &state->theta, error));
    TRY(floats_try(state->parameters, &state->accumulated, error));
    if (state->mode == OUTER_DENSE) {
        TRY(floats_try(state->parameters, &state->momentum, error));
    } else {
        void *senders = NULL;
        TRY(memory_try((size_t)state->parameters, sizeof(uint16_t), &senders, error));
        state->senders = senders;
    }
    size_t pieces = (size_t)state_pieces(state->parameters);
    state->leaves = xcalloc(pieces, sizeof *state->leaves);
    state->leaf_known = xcalloc(pieces, sizeof *state->leaf_known);
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
    free(state->senders);
    free(state->leaves);
    free(state->leaf_known);
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

/* Lengths take a pass over the fragment, so bounds on them are kept from step to step, and the pass
 * is made where these do not suffice. What is refused is the same: bounds only grow with what they
 * are computed from, and BOUND_SLACK is more than the roundings of a part, which are eight at most,
 * of 2^-24 each. */
#define BOUND_SLACK 0x1p-20

struct rules { /* the outer optimizer's constants, as fp32: what the kernels are given */
    float rate, momentum, period;
};

/* What a part of the step meets. */
struct turn {
    struct rules rules;
    bool ends; /* D, or the round, is cleared after it */
};

/* The next contribution comes into D: whether it is the last one before D is cleared. `next`: the
 * period from when D is cleared on. */
static bool takes_one(struct model_sum *sum, uint32_t next) {
    if (sum->count == 0) sum->period = next;
    if (++sum->count < sum->period) return false;
    sum->count = 0;
    return true;
}

static struct turn turn_of(const struct model_state *state, const struct step_rules *step,
                           struct model_sum *sum) {
    struct turn turn = {.ends = takes_one(sum, step->period)};
    turn.rules =
        (struct rules){step->rate, (float)state->manifest.outer.momentum, (float)sum->period};
    return turn;
}

/* One step, while it is computed. */
struct step {
    struct model_state *state;
    uint32_t fragment, count; /* of parts */
    uint64_t start;           /* the fragment's parameters */
    size_t size;
    float rate;
    struct turn *turns; /* [count] */
    double *norms;      /* [count], scaled */
    const struct step_input *inputs;
    float (*scratch)[CODEC_STRETCH]; /* [threads], dense only */
};

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

/* ---- lengths */

struct blocks {
    const float *values;
    size_t count;
    double *sums; /* one of each block */
};

enum { BLOCKS_PER_JOB = CODEC_STRETCH / ELEMENTWISE_BLOCK };

static void sum_blocks(void *context, uint64_t job, uint32_t worker) {
    const struct blocks *blocks = context;
    (void)worker;
    size_t first = (size_t)job * BLOCKS_PER_JOB;
    for (size_t block = first; block < first + BLOCKS_PER_JOB; block++) {
        size_t at = block * ELEMENTWISE_BLOCK;
        if (at >= blocks->count) return;
        blocks->sums[block] = elementwise_norm_squared(
            blocks->values + at, MIN((size_t)ELEMENTWISE_BLOCK, blocks->count - at));
    }
}

static double length_of(const struct step *step, const float *values) {
    if (!values) return 0;
    size_t count = (step->size + ELEMENTWISE_BLOCK - 1) / ELEMENTWISE_BLOCK;
    struct blocks blocks = {values + step->start, step->size, xcalloc(count, sizeof *blocks.sums)};
    thread_pool_run(step->state->pool, codec_stretches(step->size), sum_blocks, &blocks);
    double sum = 0;
    for (size_t block = 0; block < count; block++) sum += blocks.sums[block];
    free(blocks.sums);
    return sqrt(sum);
}

static struct model_bounds lengths_of(const struct step *step) {
    const struct model_state *state = step->state;
    return (struct model_bounds){.known = true,
                                 .theta = length_of(step, state->theta),
                                 .momentum = length_of(step, state->momentum),
                                 .accumulated = length_of(step, state->accumulated)};
}

/* ---- what a step could make of them */

/* Bounds on |theta|, |m| and |D| as the step's contributions come one after the other. */
static double advance_dense(struct model_bounds *b, const struct turn *turn, double g) {
    double rate = (double)turn->rules.rate, beta = (double)turn->rules.momentum,
           period = (double)turn->rules.period;
    b->accumulated += g;
    double reached = g + b->accumulated, update = g / period;
    if (turn->ends) {
        b->momentum = beta * b->momentum + b->accumulated / period;
        reached += b->momentum;
        update += beta * b->momentum;
        b->accumulated = 0;
    }
    b->theta += rate * update;
    return reached + update +
           b->theta; /* a sum, where the largest would do, because a sum keeps a NaN */
}

/* A mean is no longer than the sum, before and after. */
static double advance_sparse(struct model_bounds *b, const struct turn *turn, double q) {
    b->accumulated += q;
    b->theta += (double)turn->rules.rate * 2 * b->accumulated;
    double reached = b->accumulated + b->theta;
    if (turn->ends) b->accumulated = 0;
    return reached;
}

/* The first part, from 0, with which values could leave the finite numbers; `count`: none. */
static uint32_t first_beyond(const struct step *step, struct model_bounds *bounds,
                             double *reached) {
    bool sparse = step->state->mode == OUTER_SPARSE;
    for (uint32_t i = 0; i < step->count; i++) {
        *reached = sparse ? advance_sparse(bounds, &step->turns[i], step->norms[i])
                          : advance_dense(bounds, &step->turns[i], step->norms[i]);
        if (!(*reached <= VALUE_LIMIT)) return i; /* nor is NaN within it */
    }
    return step->count;
}

static enum status check_step(const struct step *step, struct error *error) {
    struct model_bounds *kept = &step->state->bounds[step->fragment];
    for (uint32_t i = 0; i < step->count; i++)
        TRY(check_input(step->state, i, &step->inputs[i], step->size, &step->norms[i], error));
    struct model_bounds bounds = kept->known ? *kept : lengths_of(step);
    double reached;
    uint32_t beyond = first_beyond(step, &bounds, &reached);
    if (beyond < step->count && kept->known) {
        bounds = lengths_of(step);
        beyond = first_beyond(step, &bounds, &reached);
    }
    if (beyond < step->count) {
        step->state->nonfinite_part = beyond + 1;
        return error_set(error, CORRUPT, "part %u: values could grow to %g and cease to be finite",
                         beyond, reached);
    }
    double slack = 1 + step->count * BOUND_SLACK;
    bounds.theta *= slack;
    bounds.momentum *= slack;
    bounds.accumulated *= slack;
    *kept = bounds;
    return OK;
}

/* ---- the step itself */

static void move_dense(const struct step *step, uint32_t part, struct codec_stretch stretch,
                       float *g) {
    const struct model_state *state = step->state;
    const struct verified_payload *payload = step->inputs[part].payload;
    const struct turn *turn = &step->turns[part];
    const struct rules *rules = &turn->rules;
    uint64_t at = step->start + stretch.first;
    codec_decode_stretch(payload_terms(payload)->codec, payload_bytes(payload), step->size, stretch,
                         g);
    elementwise_scale(g, g, step->inputs[part].scale, stretch.size);
    if (turn->ends)
        elementwise_nesterov_end(state->theta + at, state->momentum + at, state->accumulated + at,
                                 g, rules->rate, rules->momentum, rules->period, stretch.size);
    else
        elementwise_nesterov_between(state->theta + at, state->accumulated + at, g, rules->rate,
                                     rules->period, stretch.size);
}

static void move_sparse(const struct step *step, uint32_t part, struct codec_stretch stretch) {
    const struct model_state *state = step->state;
    const struct verified_payload *payload = step->inputs[part].payload;
    const struct codec_round round = {state->theta + step->start, state->accumulated + step->start,
                                      state->senders + step->start};
    codec_merge_stretch(payload_terms(payload)->codec, payload_bytes(payload), step->size, stretch,
                        step->inputs[part].scale, step->rate, &round);
    if (!step->turns[part].ends) return;
    memset(round.sum + stretch.first, 0, stretch.size * sizeof *round.sum);
    memset(round.senders + stretch.first, 0, stretch.size * sizeof *round.senders);
}

static void move_stretch(void *context, uint64_t job, uint32_t worker) {
    const struct step *step = context;
    for (uint32_t part = 0; part < step->count; part++) {
        struct codec_stretch stretch = payload_stretch(step->inputs[part].payload, (size_t)job);
        if (step->scratch)
            move_dense(step, part, stretch, step->scratch[worker]);
        else
            move_sparse(step, part, stretch);
    }
}

static enum status move_fragment(struct step *step, const struct step_rules *rules,
                                 struct error *error) {
    struct model_state *state = step->state;
    struct model_sum sum = state->sums[step->fragment];
    for (uint32_t i = 0; i < step->count; i++) step->turns[i] = turn_of(state, rules, &sum);
    TRY(check_step(step, error));
    thread_pool_run(state->pool, codec_stretches(step->size), move_stretch, step);
    state->sums[step->fragment] = sum;
    for (uint64_t piece = step->start / STATE_PIECE; piece * STATE_PIECE < step->start + step->size;
         piece++)
        state->leaf_known[piece] = false;
    return OK;
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
    state->nonfinite_part = 0;
    struct step step = {.state = state,
                        .fragment = fragment,
                        .count = count,
                        .start = start,
                        .size = (size_t)size,
                        .rate = rules->rate,
                        .turns = xcalloc(count, sizeof *step.turns),
                        .norms = xcalloc(count, sizeof *step.norms),
                        .inputs = inputs};
    if (state->mode == OUTER_DENSE)
        step.scratch = xcalloc(thread_pool_workers(state->pool), sizeof *step.scratch);
    enum status status = move_fragment(&step, rules, error);
    free(step.turns);
    free(step.norms);
    free(step.scratch);
    if (status != OK) return status;
    state->version = version;
    if (root) model_state_root(state, root);
    return OK;
}

/* ---- the root -------------------------------------------------------------------------------- */

void model_state_changed(struct model_state *state) {
    memset(state->bounds, 0, sizeof state->bounds);
    memset(state->leaf_known, 0, (size_t)state_pieces(state->parameters));
}

static void hash_piece(void *context, uint64_t piece, uint32_t worker) {
    struct model_state *state = context;
    (void)worker;
    if (state->leaf_known[piece]) return;
    state_leaf(state->theta, state->parameters, piece, state->leaves[piece]);
    state->leaf_known[piece] = true;
}

void model_state_root(struct model_state *state, uint8_t out[static DIGEST_SIZE]) {
    uint64_t pieces = state_pieces(state->parameters);
    thread_pool_run(state->pool, pieces, hash_piece, state);
    state_root_of((const uint8_t(*)[DIGEST_SIZE])state->leaves, pieces, out);
}
