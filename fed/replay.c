/* Replay (fed/replay.h): one entry or a whole ledger, with payloads read through a port and
 * checked. A failure names the entry. */
#include "fed/replay.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/run_internal.h"

/* --- payloads --------------------------------------------------------------------------------- */
enum status replay_payload(const struct ledger_source *source, const struct payload_terms *terms,
                           struct verified_payload **out, bool *lost, struct error *error) {
    struct buffer bytes = {0};
    *lost = true;
    enum status status =
        source->payload(source->context, terms->digest, terms->size, &bytes, error);
    if (status == OK) {
        status = payload_verify(terms, &bytes, out, error);
        *lost = status == CORRUPT;
    }
    buffer_deinit(&bytes);
    return *lost || status == OK ? status : error_restate(error, CORRUPT, "the payload");
}

/* The norm that a header tells decides its scale, so nobody takes it on trust. */
static enum status check_norm(const struct contribution *c, const struct verified_payload *payload,
                              struct error *error) {
    double norm = payload_norm(payload);
    if (norm == c->norm) return OK;
    return error_set(error, CORRUPT, "the header tells a norm of %.17g, the payload has %.17g",
                     c->norm, norm);
}

static enum status read_payload(const struct ledger_source *source, const struct run_state *run,
                                const struct contribution *c, struct verified_payload **out,
                                bool *lost, struct error *error) {
    struct payload_terms terms = payload_terms_of(&run->manifest, run->parameters, c);
    TRY(replay_payload(source, &terms, out, lost, error));
    enum status status = check_norm(c, *out, error);
    if (status == OK) return OK;
    payload_destroy(*out);
    *out = NULL;
    return status;
}

/* --- one step --------------------------------------------------------------------------------- */
static const struct contribution *part_of(const struct run_state *run,
                                          const struct ledger_entry *step, uint32_t part) {
    int64_t at = run_pending_at(run, step->step.fragment, step->step.parts[part].index);
    ASSERT(at >= 0); /* the step was checked */
    return &run->fragments[step->step.fragment].pending[at].pending.contribution;
}

struct culprit {    /* the contribution that an error is about */
    uint64_t index; /* UINT64_MAX: none */
    bool lost;      /* its payload is not there, or is not the one that was signed */
};

static enum status gather(const struct ledger_source *source, const struct run_state *run,
                          const struct ledger_entry *step, struct verified_payload **out,
                          struct culprit *culprit, struct error *error) {
    for (uint32_t i = 0; i < step->step.count; i++) {
        bool lost = false;
        enum status status =
            read_payload(source, run, part_of(run, step, i), &out[i], &lost, error);
        if (status == OK) continue;
        *culprit = (struct culprit){step->step.parts[i].index, lost};
        return error_wrap(error, status, "payload of ledger entry %llu",
                          (unsigned long long)culprit->index);
    }
    return OK;
}

/* root NULL: an own store is read back, and no root is computed. */
static enum status step_model(const struct ledger_source *source, const struct run_state *run,
                              const struct ledger_entry *step, struct model_state *model,
                              uint8_t *root, struct culprit *culprit, struct error *error) {
    struct verified_payload **payloads = xcalloc(step->step.count, sizeof *payloads);
    struct step_input *inputs = xcalloc(step->step.count, sizeof *inputs);
    bool wants_root = root && step->step.version % run->manifest.root_interval == 0;
    if (root) memset(root, 0, DIGEST_SIZE);
    enum status status = gather(source, run, step, payloads, culprit, error);
    if (status != OK) goto out;
    for (uint32_t i = 0; i < step->step.count; i++)
        inputs[i] = (struct step_input){payloads[i], step->step.parts[i].scale};
    const struct step_rules rules = {step->step.rate, step->step.period};
    status = model_state_step(model, step->step.fragment, step->step.version, &rules,
                              step->step.count, inputs, wants_root ? root : NULL, error);
    if (status != OK) goto out;
    if (root && step->step.has_root && memcmp(root, step->step.root, DIGEST_SIZE) != 0)
        status =
            error_set(error, CORRUPT,
                      "version %llu: the parameters have another state root than the ledger names",
                      (unsigned long long)step->step.version);
out:
    for (uint32_t i = 0; i < step->step.count; i++) payload_destroy(payloads[i]);
    free(payloads);
    free(inputs);
    return status;
}

enum status replay_step(const struct ledger_source *source, const struct run_state *run,
                        const struct ledger_entry *step, struct model_state *model,
                        uint8_t root[static DIGEST_SIZE], uint64_t *lost, struct error *error) {
    struct culprit culprit = {.index = UINT64_MAX};
    if (lost) *lost = UINT64_MAX;
    if (step->kind != LEDGER_STEP)
        return error_set(error, INVALID, "expected a step entry, got %s",
                         ledger_kind_name(step->kind));
    /* A step that is being planned has no root yet: the one it will carry is what the caller is
     * here for. */
    struct ledger_entry planned = *step;
    if (run->has_genesis && !planned.step.has_root)
        planned.step.has_root = step->step.version % run->manifest.root_interval == 0;
    struct contribution unused;
    TRY(run_check(run, &planned, true, &unused, error));
    enum status status = step_model(source, run, step, model, root, &culprit, error);
    if (lost && culprit.lost) *lost = culprit.index;
    return status;
}

/* --- the whole -------------------------------------------------------------------------------- */
struct unread { /* a payload that was not there, or not whole */
    uint64_t index;
    struct error why;
};

struct replay { /* one call of replay_run */
    const struct ledger_source *source;
    const struct replay_options *options;
    struct run_state *run;
    struct model_state *model;
    struct replay_report *report;
    struct buffer raw;
    struct ledger_entry entry;
    struct contribution contribution;
    struct unread *unread; /* [unread_count] */
    size_t unread_count;
};

static enum status check_shape(const struct manifest *manifest, uint64_t parameters,
                               const struct model_state *model, struct error *error) {
    if (model->parameters == parameters && model->fragments == manifest->fragments &&
        model->mode == manifest->outer.mode)
        return OK;
    return error_set(
        error, INVALID,
        "the ledger's model has %llu parameters in %u fragments, the one here %llu in %u%s",
        (unsigned long long)parameters, manifest->fragments, (unsigned long long)model->parameters,
        model->fragments, model->mode == manifest->outer.mode ? "" : ", and another outer mode");
}

static enum status compare_root(struct replay *replay, const uint8_t wanted[static DIGEST_SIZE],
                                const char *what, struct error *error) {
    uint8_t root[DIGEST_SIZE];
    model_state_root(replay->model, root);
    if (memcmp(root, wanted, DIGEST_SIZE) != 0)
        return error_set(error, CORRUPT,
                         "the %s parameters here have another state root than the ledger names",
                         what);
    replay->report->roots_checked++;
    return OK;
}

static enum status replay_genesis(struct replay *replay, struct error *error) {
    if (!replay->model) return OK;
    struct manifest manifest;
    TRY(manifest_parse(replay->entry.genesis.manifest, &manifest, error));
    TRY(check_shape(&manifest, replay->entry.genesis.parameters, replay->model, error));
    if (replay->options->tensors_from != 0 || replay->model->version != 0) return OK;
    return compare_root(replay, replay->entry.genesis.initial_root, "initial", error);
}

static enum status replay_contribution(struct replay *replay, struct error *error) {
    replay->report->contributions++;
    if (!replay->options->every_payload) return OK;
    struct error why = {0};
    struct verified_payload *payload = NULL;
    bool lost = false;
    enum status status =
        read_payload(replay->source, replay->run, &replay->contribution, &payload, &lost, &why);
    payload_destroy(payload);
    if (status == OK) return OK;
    if (!lost) {
        if (error) *error = why;
        return status;
    }
    /* It may have been given up by a later entry: judged at the end. */
    replay->unread = xrealloc(replay->unread, (replay->unread_count + 1) * sizeof *replay->unread);
    replay->unread[replay->unread_count++] = (struct unread){replay->run->size, why};
    return OK;
}

static enum status replay_model_step(struct replay *replay, struct error *error) {
    const struct ledger_entry *step = &replay->entry;
    uint64_t version = step->step.version;
    replay->report->steps++;
    if (!replay->model) return OK;
    if (version > replay->options->tensors_from) {
        uint8_t root[DIGEST_SIZE];
        bool trusted = replay->options->trusted;
        struct culprit culprit = {.index = UINT64_MAX};
        enum status status = step_model(replay->source, replay->run, step, replay->model,
                                        trusted ? NULL : root, &culprit, error);
        if (status != OK) {
            replay->report->failed_entry = culprit.index;
            replay->report->lost_payload = culprit.lost;
            return status;
        }
        replay->report->roots_checked += step->step.has_root && !trusted;
        return OK;
    }
    if (version < replay->options->tensors_from || !step->step.has_root ||
        replay->model->version != version)
        return OK;
    return compare_root(replay, step->step.root, "snapshot's", error);
}

/* Checked, then the tensors, then entered: the run never gets ahead of the model. */
static enum status replay_entry(struct replay *replay, uint64_t index, struct error *error) {
    TRY(ledger_entry_decode(buffer_bytes(&replay->raw), &replay->entry, error));
    TRY(run_check(replay->run, &replay->entry, replay->options->trusted, &replay->contribution,
                  error));
    switch (replay->entry.kind) {
    case LEDGER_GENESIS: TRY(replay_genesis(replay, error)); break;
    case LEDGER_CONTRIBUTION: TRY(replay_contribution(replay, error)); break;
    case LEDGER_STEP: TRY(replay_model_step(replay, error)); break;
    default: break;
    }
    run_commit(replay->run, &replay->entry, &replay->contribution, buffer_bytes(&replay->raw));
    replay->report->entries++;
    replay->report->version = replay->run->version;
    if (replay->options->progress)
        replay->options->progress(replay->options->context, index, &replay->entry);
    return OK;
}

static enum status replay_all(struct replay *replay, struct error *error) {
    while (replay->run->size < replay->options->until) {
        uint64_t index = replay->run->size;
        replay->raw.size = 0;
        enum status status =
            replay->source->entry(replay->source->context, index, &replay->raw, error);
        if (status == NOT_FOUND) {
            if (!replay->model || replay->run->version >= replay->options->tensors_from) return OK;
            return error_set(error, CORRUPT,
                             "the ledger ends at version %llu, the snapshot is of version %llu",
                             (unsigned long long)replay->run->version,
                             (unsigned long long)replay->options->tensors_from);
        }
        if (status == OK) status = replay_entry(replay, index, error);
        if (status == OK) continue;
        if (replay->report->failed_entry == UINT64_MAX) replay->report->failed_entry = index;
        return error_wrap(error, status, "replay stops at entry %llu", (unsigned long long)index);
    }
    return OK;
}

/* The newest root there is, if the model stands where it was taken: a difference anywhere before it
 * shows in it too. */
static enum status check_last_root(struct replay *replay, struct error *error) {
    uint8_t root[DIGEST_SIZE];
    uint64_t version;
    if (!replay->run->has_genesis) return OK;
    run_state_root(replay->run, &version, root);
    return replay->model->version == version ? compare_root(replay, root, "replayed", error) : OK;
}

static enum status check_unread(struct replay *replay, struct error *error) {
    for (size_t i = 0; i < replay->unread_count; i++) {
        const struct unread *unread = &replay->unread[i];
        if (run_state_dropped(replay->run, unread->index)) continue;
        replay->report->failed_entry = unread->index;
        replay->report->lost_payload = true;
        if (error) *error = unread->why;
        return error_wrap(error, unread->why.status, "replay stops at entry %llu",
                          (unsigned long long)unread->index);
    }
    return OK;
}

enum status replay_run(const struct ledger_source *source, const struct replay_options *options,
                       struct run_state *run, struct model_state *model,
                       struct replay_report *report, struct error *error) {
    struct replay_report unread;
    struct replay *replay = xcalloc(1, sizeof *replay);
    replay->source = source;
    replay->options = options;
    replay->run = run;
    replay->model = model;
    if (model) model_state_changed(model); /* the caller has filled it */
    replay->report = report ? report : &unread;
    *replay->report = (struct replay_report){.failed_entry = UINT64_MAX, .version = run->version};
    enum status status = OK;
    if (model && run->has_genesis)
        status = check_shape(&run->manifest, run->parameters, model, error);
    if (status == OK && model && options->tensors_from > model->version)
        status = error_set(
            error, INVALID, "the model is at version %llu, not at the snapshot's %llu",
            (unsigned long long)model->version, (unsigned long long)options->tensors_from);
    if (status == OK) status = replay_all(replay, error);
    if (status == OK && model && options->trusted) status = check_last_root(replay, error);
    if (status == OK) status = check_unread(replay, error);
    buffer_deinit(&replay->raw);
    free(replay->unread);
    free(replay);
    return status;
}
