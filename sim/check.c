/* Holds the invariants against every process (sim/check.h), with books of its own, so that a
 * mistake in fed/ is not judged by fed/ alone. A failure goes to world_fail with its invariant's
 * name. */
#include "sim/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fed/weight.h"
#include "kernels/elementwise.h"
#include "sim/check_internal.h"

static unsigned long long llu(uint64_t value) { return (unsigned long long)value; }

static void note_version(struct check *check) {
    uint64_t version = check->model.version;
    check->versions = xrealloc(check->versions, (size_t)(version + 1) * sizeof check->versions[0]);
    struct check_version *truth = &check->versions[version];
    state_root(check->model.theta, check->model.parameters, truth->root);
    for (uint32_t f = 0; f < check->model.fragments; f++) {
        uint64_t start, count;
        fragment_range(check->model.parameters, check->model.fragments, f, &start, &count);
        digest_sha256(check->model.theta + start, (size_t)count * sizeof(float),
                      truth->fragments[f]);
    }
    if (!elementwise_is_finite(check->model.theta, (size_t)check->model.parameters))
        world_fail(check->world, "I7", "theta of version %llu is not finite", llu(version));
}

struct check *check_create(struct world *world, const struct scenario *scenario, struct disk *disk,
                           const float *initial) {
    struct check *check = xcalloc(1, sizeof *check);
    check->world = world;
    check->scenario = scenario;
    check->disk = disk;
    check->initial = initial;
    check->run = run_state_create();
    size_t size = (size_t)scenario->parameters * sizeof(float);
    MUST(model_state_init(&check->model, &scenario->manifest, scenario->parameters, NULL));
    memcpy(check->model.theta, initial, size);
    check->scratch = xcalloc(1, size);
    for (uint32_t i = 0; i < PROCESS_LIMIT; i++) {
        check->mass[i].feedback = xcalloc(1, size);
        check->mass[i].target = xcalloc(1, size);
        check->mass[i].copied_feedback = xcalloc(1, size);
    }
    note_version(check);
    return check;
}

void check_destroy(struct check *check) {
    if (!check) return;
    run_state_destroy(check->run);
    model_state_deinit(&check->model);
    for (uint32_t i = 0; i < PROCESS_LIMIT; i++) {
        free(check->mass[i].feedback);
        free(check->mass[i].target);
        free(check->mass[i].copied_feedback);
        free(check->mass[i].sent);
        for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) {
            buffer_deinit(&check->mass[i].message[f]);
            buffer_deinit(&check->mass[i].copied_message[f]);
        }
    }
    free(check->versions);
    free(check->entries);
    free(check->hostile_input);
    free(check->acknowledged);
    free(check->scratch);
    free(check);
}

const struct run_state *check_run(const struct check *check) { return check->run; }
uint64_t check_merged(const struct check *check, uint32_t site) {
    return site < CHECK_SITES ? check->merged[site] : 0;
}

uint32_t check_contributed(const struct check *check, uint32_t site, uint32_t fragment) {
    return site < CHECK_SITES ? check->contributed[site][fragment] : 0;
}
uint32_t check_presence_entries(const struct check *check, uint32_t site) {
    return site < CHECK_SITES ? check->presence_entries[site] : 0;
}

/* ---- entries --------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The plainest way to the median of the sites, for comparison with run_state's. */
static double norm_bound(const struct check *check, uint32_t fragment) {
    const struct manifest *manifest = &check->scenario->manifest;
    uint64_t start, count;
    fragment_range(check->scenario->parameters, manifest->fragments, fragment, &start, &count);
    if (manifest->admission.norm_bound > 0) return manifest->admission.norm_bound;
    return manifest->inner.learning_rate * check->inner_steps * sqrt((double)count);
}

/* As if it had had H inner steps; never less than it is. */
static double full_norm(const struct check *check, const struct contribution *c) {
    double most = check->inner_steps, made = fmin(fmax(c->inner_steps, 1), most);
    return c->norm * sqrt(most / made);
}

static double norm_limit(const struct check *check, uint32_t fragment) {
    double factor = check->scenario->manifest.admission.clip_factor,
           median = check->norms[fragment].median;
    if (!(factor > 0)) return (double)INFINITY;
    return median > 0 ? factor * median : norm_bound(check, fragment);
}

static void note_norm(struct check *check, const struct contribution *c, uint64_t time_ms) {
    struct check_norms *norms = &check->norms[c->fragment];
    norms->count++;
    if (!(c->norm > 0)) return;
    norms->norm[c->site] = full_norm(check, c);
    norms->time_ms[c->site] = time_ms;
}

static void move_median(struct check *check, uint32_t fragment, uint64_t time_ms) {
    const struct manifest *manifest = &check->scenario->manifest;
    struct check_norms *norms = &check->norms[fragment];
    double sorted[CHECK_SITES];
    size_t count = 0;
    for (size_t site = 1; site < CHECK_SITES; site++) {
        bool is_old = time_ms > norms->time_ms[site] &&
                      time_ms - norms->time_ms[site] > manifest->admission.voice_age_ms;
        if (norms->norm[site] > 0 && !check->revoked[site] && !is_old)
            sorted[count++] = norms->norm[site];
    }
    qsort(sorted, count, sizeof sorted[0], by_value);
    bool are_few = count < 3 && count < check->training;
    if (norms->count < manifest->admission.clip_minimum || count == 0 || are_few) return;
    double median = sorted[(count - 1) / 2], before = norms->median;
    if (before == 0) {
        norms->median = fmin(median, norm_bound(check, fragment));
        return;
    }
    if (median > 2 * before) median = 2 * before;
    if (median < before / 2) median = before / 2;
    if (median >= 0x1p-1000) norms->median = median;
}

/* K, counted one by one. */
static void check_present(const struct check *check) {
    uint32_t present = 0, told = run_state_present_sites(check->run);
    for (uint32_t i = 1; i <= run_state_site_count(check->run); i++) {
        const struct run_site *site = run_state_site(check->run, i);
        present += site->role == SITE_TRAINS && !site->revoked && site->presence == SITE_PRESENT;
    }
    if (present != told)
        world_fail(check->world, "presence", "%u sites count after entry %llu, and %u are there",
                   told, llu(check->size), present);
}

/* By the invitation that a site comes with. */
static bool trains(const struct check *check, const uint8_t secret_digest[static DIGEST_SIZE]) {
    const struct run_invitation *invitation = run_state_invitation(check->run, secret_digest);
    return !invitation || invitation->role == SITE_TRAINS;
}

static bool is_hostile_input(const struct check *check, const uint8_t digest[static DIGEST_SIZE]) {
    for (size_t i = 0; i < check->hostile_input_count; i++) {
        if (memcmp(check->hostile_input[i], digest, DIGEST_SIZE) == 0) return true;
    }
    return false;
}

static void take_contribution(struct check *check, const struct ledger_entry *entry,
                              struct check_contribution *record) {
    struct world *world = check->world;
    struct contribution c;
    uint8_t digest[DIGEST_SIZE];
    if (contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                            NULL) != OK ||
        c.site == 0 || c.site >= CHECK_SITES || c.fragment >= FRAGMENTS_LIMIT) {
        world_fail(world, "ledger", "entry %llu holds no contribution's header", llu(check->size));
        return;
    }
    contribution_digest(entry->contribution.header, digest);
    if (check->revoked[c.site])
        world_fail(world, "I5", "entry %llu is by site %u, which was revoked before",
                   llu(check->size), c.site);
    if (c.sequence <= check->last_sequence[c.site])
        world_fail(world, "I2", "entry %llu has sequence %llu of site %u, which has used %llu",
                   llu(check->size), llu(c.sequence), c.site, llu(check->last_sequence[c.site]));
    if (is_hostile_input(check, digest))
        world_fail(world, "admission", "entry %llu is a contribution that was malformed on purpose",
                   llu(check->size));
    if (!(c.norm <= 0x1p64))
        world_fail(world, "admission", "entry %llu has a norm of %g", llu(check->size), c.norm);
    if (!disk_blob_find(check->disk, c.payload_digest))
        world_fail(world, "I1", "entry %llu is durable and its payload is not", llu(check->size));
    check->last_sequence[c.site] = c.sequence;
    *record = (struct check_contribution){.site = c.site,
                                          .fragment = c.fragment,
                                          .sequence = c.sequence,
                                          .norm = full_norm(check, &c),
                                          .limit = norm_limit(check, c.fragment)};
    memcpy(record->digest, digest, DIGEST_SIZE);
    check->contributed[c.site][c.fragment]++;
    note_norm(check, &c, entry->time_ms);
    world->tally.contributions++;
}

/* Whatever the policy and whatever the sites tell: under `equal` no norm is above its limit, else
 * none is above WEIGHT_MOST limits; and what was not clipped counts no more than that, either. */
static void check_influence(struct check *check, const struct ledger_entry *entry,
                            const struct step_part *part, const struct check_contribution *merged) {
    double most = check->scenario->manifest.weights == WEIGHTS_EQUAL ? 1 : WEIGHT_MOST;
    double norm = (double)part->scale * merged->norm;
    if (!(norm <= most * merged->limit * (1 + 0x1p-50)))
        world_fail(check->world, "I7", "step %llu adds a norm of %g, the limit is %g",
                   llu(entry->step.version), norm, most * merged->limit);
    if (!((double)part->scale <= most))
        world_fail(check->world, "I7", "step %llu scales a part by %g", llu(entry->step.version),
                   (double)part->scale);
}

static void take_part(struct check *check, const struct ledger_entry *entry,
                      const struct step_part *part) {
    struct world *world = check->world;
    struct check_contribution *merged =
        part->index < check->size ? &check->entries[part->index] : NULL;
    if (!merged || merged->site == 0 || merged->fragment != entry->step.fragment) {
        world_fail(world, "ledger", "step %llu merges entry %llu, which is not such a contribution",
                   llu(entry->step.version), llu(part->index));
        return;
    }
    if (merged->merged)
        world_fail(world, "I2", "step %llu merges entry %llu for the second time",
                   llu(entry->step.version), llu(part->index));
    if (merged->dropped)
        world_fail(world, "I5", "step %llu merges entry %llu of a revoked site",
                   llu(entry->step.version), llu(part->index));
    check_influence(check, entry, part, merged);
    merged->merged = true;
    merged->version = entry->step.version;
    check->merged[merged->site]++;
}

static void take_step(struct check *check, const struct ledger_entry *entry) {
    struct error error = {0};
    struct ledger_source source = disk_truth(check->disk);
    uint8_t root[DIGEST_SIZE];
    for (uint16_t i = 0; i < entry->step.count; i++) take_part(check, entry, &entry->step.parts[i]);
    if (check->world->failed) return;
    if (replay_step(&source, check->run, entry, &check->model, root, NULL, &error) != OK) {
        world_fail(check->world, "I3", "entry %llu: %s", llu(check->size), error.message);
        return;
    }
    note_version(check);
    move_median(check, entry->step.fragment, entry->time_ms);
    if (entry->step.has_root &&
        memcmp(entry->step.root, check->versions[entry->step.version].root, DIGEST_SIZE) != 0)
        world_fail(check->world, "I3", "the ledger's root of version %llu is not replay's",
                   llu(entry->step.version));
    check->world->tally.steps++;
}

/* The newest word about a name in the ledger before its site's entry is that site's invitation: no
 * older one, none that was withdrawn or outlived a revocation. */
static void take_site(struct check *check, const struct ledger_entry *entry) {
    struct ledger_entry *earlier = xmalloc(sizeof *earlier);
    for (uint64_t i = check->size; i-- > 0;) {
        if (ledger_entry_decode(buffer_bytes(&check->disk->entries[i]), earlier, NULL) != OK) break;
        bool invited = earlier->kind == LEDGER_SITE_INVITED &&
                       strcmp(earlier->invited.name, entry->added.name) == 0;
        bool ended = (earlier->kind == LEDGER_SITE_UNINVITED &&
                      strcmp(earlier->uninvited.name, entry->added.name) == 0) ||
                     (earlier->kind == LEDGER_SITE_ADDED &&
                      strcmp(earlier->added.name, entry->added.name) == 0);
        if (!invited && !ended) continue;
        if (ended ||
            memcmp(earlier->invited.secret_digest, entry->added.secret_digest, DIGEST_SIZE) != 0)
            world_fail(check->world, "invitation",
                       "entry %llu enrols %s with an invitation that entry %llu had ended",
                       llu(check->size), entry->added.name, llu(i));
        break;
    }
    free(earlier);
}

static uint32_t count_members(const struct run_state *run) {
    uint32_t count = 0;
    for (uint32_t i = 1; i <= run_state_site_count(run); i++) {
        const struct run_site *site = run_state_site(run, i);
        count += !site->revoked && site->presence != SITE_LEFT && site->role != SITE_OBSERVES;
    }
    return count;
}

/* Honest sites train on thousands; a liar tells 2^50. */
static void check_tokens(struct check *check, enum ledger_kind kind) {
    const uint64_t plenty = UINT64_C(1) << 40;
    check->was_alone |= kind == LEDGER_CONTRIBUTION && count_members(check->run) == 1;
    bool may_be =
        check->was_alone || check->scenario->manifest.admission.voice_age_ms < UINT64_C(3600000);
    if (!may_be && !check->world->failed && run_state_tokens(check->run) > plenty)
        world_fail(check->world, "tokens", "entry %llu: %llu tokens count", llu(check->size),
                   llu(run_state_tokens(check->run)));
}

static void take_entry(struct check *check, struct bytes raw) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct error error = {0};
    if (check->size == check->entry_capacity) {
        check->entry_capacity = check->entry_capacity ? check->entry_capacity * 2 : 256;
        check->entries = xrealloc(check->entries, check->entry_capacity * sizeof check->entries[0]);
    }
    struct check_contribution *record = &check->entries[check->size];
    *record = (struct check_contribution){0};
    if (ledger_entry_decode(raw, entry, &error) != OK) {
        world_fail(check->world, "ledger", "entry %llu: %s", llu(check->size), error.message);
    } else if (entry->kind == LEDGER_CONTRIBUTION) {
        take_contribution(check, entry, record);
    } else if (entry->kind == LEDGER_STEP) {
        take_step(check, entry);
    } else if ((entry->kind == LEDGER_SITE_AWAY || entry->kind == LEDGER_SITE_BACK ||
                entry->kind == LEDGER_SITE_LEFT) &&
               entry->presence.site < CHECK_SITES) {
        check->presence_entries[entry->presence.site]++;
    } else if (entry->kind == LEDGER_GENESIS) {
        check->inner_steps = check->scenario->manifest.inner.inner_steps;
    } else if (entry->kind == LEDGER_RULE && strcmp(entry->rule.key, "inner.inner_steps") == 0) {
        check->inner_steps = (uint32_t)strtoul(entry->rule.value, NULL, 10);
    } else if (entry->kind == LEDGER_SITE_ADDED) {
        check->training += trains(check, entry->added.secret_digest);
        take_site(check, entry);
    } else if (entry->kind == LEDGER_DROPPED && entry->dropped.index < check->size) {
        check->entries[entry->dropped.index].dropped = true;
        check->world->tally.dropped++;
    } else if (entry->kind == LEDGER_SITE_REVOKED && entry->revoked.site < CHECK_SITES) {
        check->revoked[entry->revoked.site] = true;
        check->training -= run_state_site(check->run, entry->revoked.site)->role == SITE_TRAINS;
        for (uint64_t i = 0; i < check->size; i++)
            check->entries[i].dropped |=
                check->entries[i].site == entry->revoked.site && !check->entries[i].merged;
    }
    if (!check->world->failed && run_state_apply(check->run, raw, true, &error) != OK)
        world_fail(check->world, "ledger", "%s", error.message);
    check_present(check);
    check_tokens(check, entry->kind);
    free(entry);
    check->size++;
}

void check_ledger_grew(struct check *check) {
    while (check->size < check->disk->entry_count && !check->world->failed)
        take_entry(check, buffer_bytes(&check->disk->entries[check->size]));
}

void check_coordinator_restarted(struct check *check) {
    if (check->disk->entry_count < check->size)
        world_fail(check->world, "I4", "the ledger had %llu entries before the restart, now %llu",
                   llu(check->size), llu(check->disk->entry_count));
    for (size_t i = 0; i < check->acknowledged_count; i++) {
        const struct check_acknowledged *kept = &check->acknowledged[i];
        uint8_t leaf[DIGEST_SIZE];
        if (kept->index < check->disk->entry_count) {
            merkle_leaf(buffer_bytes(&check->disk->entries[kept->index]), leaf);
            if (memcmp(leaf, kept->leaf, DIGEST_SIZE) == 0) continue;
        }
        world_fail(check->world, "I1", "entry %llu was acknowledged and is not in the ledger",
                   llu(kept->index));
    }
}

void check_snapshot(struct check *check, uint64_t version, uint64_t ledger_size,
                    uint64_t payloads_from) {
    for (uint64_t i = 0; i < MIN(MIN(payloads_from, ledger_size), check->size); i++) {
        const struct check_contribution *c = &check->entries[i];
        if (c->site == 0 || c->dropped || (c->merged && c->version <= version)) continue;
        world_fail(check->world, "snapshot",
                   "a snapshot of version %llu says that no payload before entry %llu is needed, "
                   "and entry %llu waits to be merged",
                   llu(version), llu(payloads_from), llu(i));
        return;
    }
}

void check_root(struct check *check, const char *who, uint64_t version,
                const uint8_t root[static DIGEST_SIZE]) {
    if (version > check->model.version ||
        memcmp(check->versions[version].root, root, DIGEST_SIZE) == 0)
        return;
    world_fail(check->world, "I3", "%s has another root of version %llu than the ledger gives", who,
               llu(version));
}

void check_prefix(struct check *check, const char *who, const struct run_state *run) {
    uint64_t size = run_state_size(run);
    uint8_t own[DIGEST_SIZE], truth[DIGEST_SIZE];
    if (size > check->size) {
        world_fail(check->world, "I4", "%s holds %llu entries, %llu are durable at the coordinator",
                   who, llu(size), llu(check->size));
        return;
    }
    merkle_root(run_state_tree(run), size, own);
    merkle_root(run_state_tree(check->run), size, truth);
    if (memcmp(own, truth, DIGEST_SIZE) != 0)
        world_fail(check->world, "I4", "%s holds another prefix of %llu entries", who, llu(size));
}

/* ---- the end --------------------------------------------------------------------------------- */

void check_end(struct check *check) {
    struct error error = {0};
    struct ledger_source source = disk_truth(check->disk);
    struct replay_options options = {.trusted = false, .until = UINT64_MAX};
    struct replay_report report = {0};
    struct run_state *run = run_state_create();
    struct model_state model = {0};
    check_coordinator_restarted(check);
    MUST(model_state_init(&model, &check->scenario->manifest, check->scenario->parameters, NULL));
    memcpy(model.theta, check->initial, (size_t)check->scenario->parameters * sizeof(float));
    if (replay_run(&source, &options, run, &model, &report, &error) != OK) {
        world_fail(check->world, "I3", "the audit: %s", error.message);
    } else {
        uint8_t root[DIGEST_SIZE];
        state_root(model.theta, model.parameters, root);
        check_root(check, "the audit", model.version, root);
        if (model.version != check->model.version)
            world_fail(check->world, "I3", "the audit ends at version %llu, not %llu",
                       llu(model.version), llu(check->model.version));
    }
    run_state_destroy(run);
    model_state_deinit(&model);
}
