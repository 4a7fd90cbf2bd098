/* The trainer's step. Four rounds of jobs over the pool, each with one join:
 *   pack      the matrices' two packed copies, from the master parameters (the caller may have
 *             changed them)
 *   shards    forward and backward of each shard's sequences, into the shard's own gradient
 *   sum       gradients summed in the order of shards, block by block, with each block's sum of
 *             squares
 *   update    AdamW, block by block, once the norm of the whole is known
 * Shards, micro-batches and blocks are cut by sizes in the options alone, and sums over them are
 * taken in their order by one thread: hence the same bits for any number of threads.
 */
#include "model/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/memory.h"
#include "base/thread.h"
#include "kernels/elementwise.h"
#include "model/trainer_internal.h"

enum {
    SHARDS_LEAST = 4,
    SHARDS_MOST = 64,
    SHARD_TOKENS = 1024,
    SHARDS_GRADIENTS = 1 << 28, /* floats */
    UPDATE_PIECE = 2048,        /* moments that are widened at a time */
    MICRO_ROWS = 256, /* tokens that go through the model at once: enough for the matrix products,
                         few enough for the cache */
    BLOCK = 1 << 16,  /* floats a job of sum and update */
    SEQUENCES_MAX = 1 << 16,
};

enum status trainer_check(const struct trainer_options *o, struct error *error) {
    TRY(model_config_check(&o->model, error));
    TRY(adamw_check(&o->adamw, error));
    TRY(schedule_check(&o->schedule, error));
    const struct kernels *kernels;
    TRY(kernels_find(o->kernels, &kernels, error));
    if (o->length < 1 || o->length > o->model.context)
        return error_set(error, INVALID, "sequence length is %u; it must be in 1..%u, the context",
                         o->length, o->model.context);
    if (o->sequences < 1 || o->sequences > SEQUENCES_MAX)
        return error_set(error, INVALID, "batch is %u sequences; it must be in 1..%d", o->sequences,
                         SEQUENCES_MAX);
    if (o->accumulation < 1 || o->accumulation > SEQUENCES_MAX)
        return error_set(error, INVALID, "accumulation is %u; it must be in 1..%d", o->accumulation,
                         SEQUENCES_MAX);
    if (o->shards > o->sequences * (uint64_t)o->accumulation)
        return error_set(error, INVALID, "shards is %u; there are only %llu sequences per step",
                         o->shards, (unsigned long long)o->sequences * o->accumulation);
    if (o->shards > 1024 || o->threads > 1024)
        return error_set(error, INVALID, "shards is %u and threads %u; 1024 is the most", o->shards,
                         o->threads);
    return OK;
}

static uint32_t shards_of(const struct trainer_options *o, uint64_t parameter_count) {
    uint64_t total = o->sequences * (uint64_t)o->accumulation;
    uint64_t shards =
        MAX(MIN(total * o->length / SHARD_TOKENS, (uint64_t)SHARDS_MOST), (uint64_t)SHARDS_LEAST);
    while (shards > SHARDS_LEAST && shards * parameter_count > SHARDS_GRADIENTS)
        shards = MAX(shards / 2, (uint64_t)SHARDS_LEAST);
    return o->shards ? o->shards : (uint32_t)MIN(shards, total);
}

uint32_t trainer_shards(const struct trainer_options *options) {
    struct layout layout;
    if (layout_init(&options->model, &layout, NULL) != OK) return 0;
    uint32_t shards = shards_of(options, layout.count);
    layout_deinit(&layout);
    return shards;
}

/* Takes everything model-sized from the arena: measured by trainer_memory, placed by
 * trainer_create. */
static void trainer_plan(struct trainer *t, struct tensor_arena *arena) {
    const struct trainer_options *o = &t->options;
    uint64_t count = t->layout.count;
    t->total = o->sequences * (uint64_t)o->accumulation;
    t->shards = shards_of(o, count);
    t->workers = MIN(o->threads ? o->threads : thread_processor_count(), t->shards);
    uint64_t in_shard = (t->total + t->shards - 1) / t->shards;
    t->micro = (uint32_t)MIN(in_shard, (uint64_t)MAX(MICRO_ROWS / o->length, 1u));
    t->blocks = (count + BLOCK - 1) / BLOCK;
    /* which is not made yet where memory is only measured */
    bool device = t->device || o->device == DEVICE_CUDA;
    if (device) t->workers = 1;
    if (!device)
        transformer_plan(&t->transformer, &t->layout, t->kernels, o->length, !o->forward_only,
                         o->recompute, arena);
    t->workspaces = tensor_arena_take(arena, t->workers, sizeof *t->workspaces);
    for (uint32_t i = 0; i < t->workers && !device; i++) {
        struct workspace workspace;
        workspace_plan(&workspace, &t->transformer, t->micro, arena);
        if (t->workspaces) t->workspaces[i] = workspace;
    }
    t->parameters = tensor_arena_floats(arena, count);
    t->tokens = tensor_arena_take(arena, t->total * (o->length + 1), sizeof *t->tokens);
    t->losses = tensor_arena_take(arena, MAX(t->total, t->blocks), sizeof *t->losses);
    if (o->forward_only) return;
    moments_plan(&t->m, count, o->bf16_moments, arena);
    moments_plan(&t->v, count, o->bf16_moments, arena);
    if (device) {
        t->other_parameters = tensor_arena_floats(arena, count);
        moments_plan(&t->other_m, count, o->bf16_moments, arena);
        moments_plan(&t->other_v, count, o->bf16_moments, arena);
        t->ahead_tokens =
            tensor_arena_take(arena, t->total * (o->length + 1), sizeof *t->ahead_tokens);
        return;
    }
    t->gradients = tensor_arena_take(arena, t->shards, sizeof *t->gradients);
    for (uint32_t i = 0; i < t->shards; i++) {
        float *gradient = tensor_arena_floats(arena, count);
        if (t->gradients) t->gradients[i] = gradient;
    }
}

uint64_t trainer_memory(const struct trainer_options *options) {
    struct trainer trainer = {.options = *options};
    struct tensor_arena arena = {0};
    if (kernels_find(options->kernels, &trainer.kernels, NULL) != OK) return 0;
    if (layout_init(&options->model, &trainer.layout, NULL) != OK) return 0;
    trainer_plan(&trainer, &arena);
    layout_deinit(&trainer.layout);
    return arena.used;
}

/* All of a trainer's memory, zeroed; freed with free(). It begins at, and asks for, large pages: a
 * matrix product walks more rows at once than a processor has entries for small pages, and in a
 * virtual machine each miss is dear. The wish costs nothing where it is not granted. FULL. */
static enum status memory_take(uint64_t size, void **out, struct error *error) {
    const uint64_t large = 2 << 20;
    if (size < large) return memory_try(size, 1, out, error);
    void *memory =
        size <= SIZE_MAX - large ? aligned_alloc(large, (size + large - 1) / large * large) : NULL;
    if (!memory)
        return error_set(error, FULL, "cannot allocate %llu bytes", (unsigned long long)size);
    madvise(memory, size / large * large, MADV_HUGEPAGE);
    memset(memory, 0, size);
    *out = memory;
    return OK;
}

enum status trainer_create(const struct trainer_options *options, struct trainer **out,
                           struct error *error) {
    TRY(trainer_check(options, error));
    struct trainer *t = xcalloc(1, sizeof *t);
    t->options = *options;
    struct tensor_arena arena = {0};
    enum status status = kernels_find(options->kernels, &t->kernels, error);
    if (status == OK) status = layout_init(&options->model, &t->layout, error);
    if (status == OK) status = trainer_device_start(t, error);
    if (status == OK) trainer_plan(t, &arena);
    if (status == OK) status = memory_take(arena.used, &t->memory, error);
    if (status != OK) goto out;
    arena = (struct tensor_arena){.base = t->memory};
    trainer_plan(t, &arena);
    status = thread_pool_create("train", t->workers, &t->pool, error);
    if (status == OK) status = trainer_device_read_ahead(t, error);
out:
    if (status != OK) {
        trainer_destroy(t);
        return status;
    }
    *out = t;
    return OK;
}

void trainer_destroy(struct trainer *t) {
    if (!t) return;
    thread_pool_destroy(t->pool);
    trainer_device_stop(t);
    layout_deinit(&t->layout);
    free(t->memory);
    free(t);
}

const struct layout *trainer_layout(const struct trainer *t) { return &t->layout; }
float *trainer_parameters_to_change(struct trainer *t) {
    trainer_device_pull(t);
    trainer_device_changed(t);
    return t->parameters;
}
void trainer_rebase(struct trainer *t, uint64_t start, uint64_t count, const float *fresh,
                    const float *origin) {
    ASSERT(start <= t->layout.count && count <= t->layout.count - start);
    elementwise_rebase(t->parameters + start, fresh, origin, (size_t)count);
    trainer_device_rebase(t, start, count, fresh, origin);
}
struct trainer_counters trainer_counters(const struct trainer *t) {
    return t->counters;
}
const char *trainer_kernels(const struct trainer *t) {
    return t->device ? "cuda" : t->kernels->name;
}

/* --- jobs ------------------------------------------------------------------------------------- */

static void job_pack(void *context, uint64_t job, uint32_t worker) {
    struct trainer *t = context;
    (void)worker;
    transformer_pack(&t->transformer, t->parameters, (uint32_t)job);
}

static void pack_all(struct trainer *t) {
    if (!t->device) thread_pool_run(t->pool, transformer_pack_jobs(&t->transformer), job_pack, t);
}

static void job_shard(void *context, uint64_t shard, uint32_t worker) {
    struct trainer *t = context;
    uint32_t length = t->options.length;
    uint64_t from = t->total * shard / t->shards, end = t->total * (shard + 1) / t->shards;
    float scale = (float)(1.0 / (double)(t->total * length));
    double loss = 0;
    for (uint64_t at = from; at < end; at += t->micro)
        loss += transformer_run(&t->transformer, &t->workspaces[worker], t->parameters,
                                t->tokens + at * (length + 1),
                                (uint32_t)MIN(end - at, (uint64_t)t->micro), length, scale,
                                t->gradients[shard], at == from);
    t->losses[shard] = loss;
}

static void job_sum(void *context, uint64_t block, uint32_t worker) {
    struct trainer *t = context;
    (void)worker;
    uint64_t from = block * BLOCK, count = MIN(t->layout.count - from, (uint64_t)BLOCK);
    t->losses[block] = t->kernels->gradient_sum(
        count, t->shards, (const float *const *)t->gradients, from, t->gradients[0] + from);
}

/* The tensor that holds float number `at`. */
static const struct layout_tensor *tensor_at(const struct layout *layout, uint64_t at) {
    uint32_t low = 0, high = layout->tensor_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (layout->tensors[middle].offset <= at)
            low = middle;
        else
            high = middle;
    }
    return &layout->tensors[low];
}

/* Moments in bfloat16, a piece at a time through the kernel's fp32. */
static void update_narrow(struct trainer *t, const struct adamw_step *step, uint64_t at,
                          uint64_t count) {
    float m[UPDATE_PIECE], v[UPDATE_PIECE];
    for (uint64_t end = at + count; at < end; at += UPDATE_PIECE) {
        uint64_t here = MIN(end - at, (uint64_t)UPDATE_PIECE);
        moments_read(&t->m, at, here, m);
        moments_read(&t->v, at, here, v);
        t->kernels->adamw(here, step, t->gradients[0] + at, t->parameters + at, m, v);
        moments_write(&t->m, at, here, m, 2 * t->optimizer_steps);
        moments_write(&t->v, at, here, v, 2 * t->optimizer_steps + 1);
    }
}

static void job_update(void *context, uint64_t block, uint32_t worker) {
    struct trainer *t = context;
    (void)worker;
    uint64_t at = block * BLOCK, end = MIN(at + BLOCK, t->layout.count);
    for (const struct layout_tensor *tensor = tensor_at(&t->layout, at); at < end; tensor++) {
        struct adamw_step step = t->update;
        if (!tensor->decays) step.decay = 0.0f;
        uint64_t count = MIN(end, tensor->offset + tensor->count) - at;
        if (t->options.bf16_moments)
            update_narrow(t, &step, at, count);
        else
            t->kernels->adamw(count, &step, t->gradients[0] + at, t->parameters + at,
                              t->m.wide + at, t->v.wide + at);
        at += count;
    }
}

static double sum_in_order(const double *values, uint64_t count) {
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) sum += values[i];
    return sum;
}

/* --- a step ----------------------------------------------------------------------------------- */

static struct adamw_step update_constants(const struct trainer *t, float rate, double norm) {
    const struct adamw_options *o = &t->options.adamw;
    double steps = (double)(t->optimizer_steps + 1);
    double scale = o->clip > 0.0f ? fmin(1.0, (double)o->clip / (norm + 1e-6)) : 1.0;
    return (struct adamw_step){.learning_rate = rate,
                               .beta1 = o->beta1,
                               .beta2 = o->beta2,
                               .epsilon = o->epsilon,
                               .decay = o->decay,
                               .gradient_scale = (float)scale,
                               .correction1 = (float)(1.0 / (1.0 - pow((double)o->beta1, steps))),
                               .correction2 = (float)(1.0 / (1.0 - pow((double)o->beta2, steps)))};
}

enum status trainer_gather(const struct trainer *t, const struct data *data,
                           struct data_position *position, uint32_t *tokens, struct error *error) {
    for (uint64_t i = 0; i < t->total; i++)
        TRY(data_next(data, position, t->options.length, tokens + i * (t->options.length + 1),
                      error));
    for (uint64_t i = 0; i < t->total * (t->options.length + 1); i++)
        if (tokens[i] >= t->options.model.vocabulary)
            return error_set(
                error, INVALID,
                "token %u is beyond the model's vocabulary of %u: the data were opened for another",
                tokens[i], t->options.model.vocabulary);
    return OK;
}

/* Mean loss of a step's sequences and the norm of its gradient, which is left for the update. */
static enum status pool_step(struct trainer *t, const struct data *data, double *loss, double *norm,
                             struct error *error) {
    struct data_position position = t->counters.position;
    TRY(trainer_gather(t, data, &position, t->tokens, error));
    t->counters.position = position;
    pack_all(t);
    thread_pool_run(t->pool, t->shards, job_shard, t);
    *loss = sum_in_order(t->losses, t->shards) / (double)(t->total * t->options.length);
    thread_pool_run(t->pool, t->blocks, job_sum, t);
    *norm = sqrt(sum_in_order(t->losses, t->blocks));
    return OK;
}

enum status trainer_set_schedule(struct trainer *t, const struct schedule *schedule,
                                 struct error *error) {
    TRY(schedule_check(schedule, error));
    t->options.schedule = *schedule;
    return OK;
}

enum status trainer_step(struct trainer *t, const struct data *data, uint64_t run_tokens,
                         struct trainer_result *result, struct error *error) {
    ASSERT(!t->options.forward_only);
    uint64_t tokens = t->total * t->options.length;
    float rate = schedule_at(&t->options.schedule, run_tokens);
    double loss = 0, norm = 0;
    t->update = update_constants(t, rate, 0.0);
    if (t->device)
        TRY(trainer_device_step(t, data, &t->update, &loss, &norm, error));
    else
        TRY(pool_step(t, data, &loss, &norm, error));
    if (!isfinite(loss) || !isfinite(norm))
        return error_set(error, CORRUPT, "step %llu is not finite (loss %g, gradient norm %g)",
                         (unsigned long long)t->counters.steps + 1, loss, norm);
    t->update = update_constants(t, rate, norm);
    if (!t->device) thread_pool_run(t->pool, t->blocks, job_update, t);
    t->optimizer_steps++;
    t->counters.steps++;
    t->counters.tokens += tokens;
    if (result) *result = (struct trainer_result){loss, norm, rate, tokens};
    return OK;
}

void trainer_reset_optimizer(struct trainer *t) {
    trainer_device_pull(t);
    moments_clear(&t->m);
    moments_clear(&t->v);
    t->optimizer_steps = 0;
    trainer_device_changed(t);
}

/* --- evaluation ------------------------------------------------------------------------------- */

struct evaluation {
    struct trainer *t;
    const uint32_t *tokens;
    uint64_t count;
};

static void job_evaluate(void *context, uint64_t job, uint32_t worker) {
    const struct evaluation *e = context;
    struct trainer *t = e->t;
    uint64_t from = job * t->micro;
    t->losses[job] = transformer_run(&t->transformer, &t->workspaces[worker], t->parameters,
                                     e->tokens + from * (t->options.length + 1),
                                     (uint32_t)MIN(e->count - from, (uint64_t)t->micro),
                                     t->options.length, 0.0f, NULL, false);
}

/* Sum of losses of count sequences, at most t->total at a time; the matrices must be packed. */
static enum status evaluate_sum(struct trainer *t, const uint32_t *tokens, uint64_t count,
                                double *out, struct error *error) {
    double sum = 0;
    if (t->device) return trainer_device_evaluate(t, tokens, count, out, error);
    for (uint64_t from = 0; from < count; from += t->total) {
        struct evaluation part = {t, tokens + from * (t->options.length + 1),
                                  MIN(count - from, t->total)};
        uint64_t jobs = (part.count + t->micro - 1) / t->micro;
        thread_pool_run(t->pool, jobs, job_evaluate, &part);
        sum += sum_in_order(t->losses, jobs);
    }
    *out = sum;
    return OK;
}

enum status trainer_evaluate_tokens(struct trainer *t, const uint32_t *tokens, uint64_t count,
                                    double *nats, struct error *error) {
    uint64_t length = t->options.length;
    if (count == 0) return error_set(error, INVALID, "no sequences to evaluate");
    for (uint64_t i = 0; i < count * (length + 1); i++)
        if (tokens[i] >= t->options.model.vocabulary)
            return error_set(error, INVALID, "token %u is beyond the vocabulary of %u", tokens[i],
                             t->options.model.vocabulary);
    double sum = 0;
    pack_all(t);
    TRY(evaluate_sum(t, tokens, count, &sum, error));
    *nats = sum / (double)(count * length);
    return OK;
}

enum status trainer_evaluate(struct trainer *t, const struct data *data, uint64_t max_windows,
                             double *nats, struct error *error) {
    uint64_t length = t->options.length, there = data_heldout_count(data, t->options.length);
    uint64_t count = max_windows ? MIN(max_windows, there) : there;
    if (count == 0)
        return error_set(error, NOT_FOUND,
                         "the held-out data is shorter than one window (%llu tokens)",
                         (unsigned long long)length + 1);
    pack_all(t);
    double sum = 0, part = 0;
    for (uint64_t from = 0; from < count; from += t->total) {
        if (t->options.cancelled && t->options.cancelled())
            return error_set(error, CANCELLED, "evaluation was ended");
        uint64_t here = MIN(count - from, t->total);
        for (uint64_t i = 0; i < here; i++) {
            uint64_t window = (uint64_t)((unsigned __int128)(from + i) * there / count);
            TRY(data_heldout(data, window, t->options.length, t->tokens + i * (length + 1), error));
        }
        for (uint64_t i = 0; i < here * (length + 1); i++)
            if (t->tokens[i] >= t->options.model.vocabulary)
                return error_set(error, INVALID, "token %u is beyond the vocabulary of %u",
                                 t->tokens[i], t->options.model.vocabulary);
        TRY(evaluate_sum(t, t->tokens, here, &part, error));
        sum += part;
    }
    *nats = sum / (double)(count * length);
    return OK;
}
