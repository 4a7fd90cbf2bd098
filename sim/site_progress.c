/* The checker's books of a site's own progress, by value: what its inner steps did to theta_local
 * and theta_s since their base. They know nothing of how vectors are moved, so a move that leaves
 * one behind, takes a part of ours twice or starts from another version than it says is found at
 * once: local == base + own progress, and theta_s likewise while a message is in flight, up to the
 * rounding of one move. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "node/restore.h"
#include "sim/site_internal.h"

struct site_range {
    uint64_t start, count;
};

static struct site_range piece_of_site(const struct simulated_site *site, uint32_t fragment) {
    struct site_range range;
    fragment_range(site->setup.scenario->parameters, site->setup.scenario->manifest.fragments,
                   fragment, &range.start, &range.count);
    return range;
}

static size_t vector_size(const struct simulated_site *site) {
    return (size_t)site->setup.scenario->parameters * sizeof(double);
}

void site_progress_init(struct simulated_site *site) {
    struct site_progress *own = &site->own;
    double **vectors[] = {&own->local,         &own->snapshot, &own->kept_local,
                          &own->kept_snapshot, &own->sent,     &own->copied_sent};
    for (size_t i = 0; i < COUNT_OF(vectors); i++) *vectors[i] = xcalloc(1, vector_size(site));
}

void site_progress_deinit(struct simulated_site *site) {
    struct site_progress *own = &site->own;
    free(own->local);
    free(own->snapshot);
    free(own->kept_local);
    free(own->kept_snapshot);
    free(own->sent);
    free(own->copied_sent);
}

void site_progress_clear(struct simulated_site *site) {
    memset(site->own.local, 0, vector_size(site));
    memset(site->own.snapshot, 0, vector_size(site));
    memset(site->own.lacking, 0, sizeof site->own.lacking);
    memset(site->own.baseless, 0, sizeof site->own.baseless);
}

void site_progress_changed(struct simulated_site *site, uint64_t at, float before) {
    site->own.local[at] += (double)site->local[at] - (double)before;
}

/* One move rounds twice, at the magnitude of what is added. */
static bool is_near(double got, double wanted, double magnitude) {
    return fabs(got - wanted) <= 0x1p-20 * fmax(1, magnitude);
}

static void compare_progress(struct simulated_site *site, uint32_t fragment, const char *what,
                             const float *vector, double *own, const char *after) {
    struct site_range range = piece_of_site(site, fragment);
    const float *base = site->replica.base;
    for (uint64_t i = range.start; i < range.start + range.count; i++) {
        double progress = (double)vector[i] - (double)base[i];
        double magnitude = fabs((double)vector[i]) + fabs((double)base[i]) + fabs(own[i]);
        if (!is_near(progress, own[i], magnitude)) {
            world_fail(site->world, "follow",
                       "%s, fragment %u, coordinate %llu, after %s: %s is %.9g beyond its base, "
                       "the site's own steps made %.9g",
                       site->name, fragment, (unsigned long long)i, after, what, progress, own[i]);
            return;
        }
        own[i] = progress; /* so that no rounding adds up here */
    }
}

static void check_progress(struct simulated_site *site, uint32_t fragment, const char *after) {
    if (site->own.baseless[fragment] || site->lacks_model) return;
    check_base(site->setup.check, site->name, &site->replica, fragment,
               site->replica.base_version[fragment]);
    compare_progress(site, fragment, "theta_local", site->local, site->own.local, after);
    if (site->marks[fragment].in_flight)
        compare_progress(site, fragment, "theta_s", site->replica.snapshot, site->own.snapshot,
                         after);
}

void site_progress_snapshot(struct simulated_site *site, uint32_t fragment) {
    struct site_range range = piece_of_site(site, fragment);
    memcpy(site->own.snapshot + range.start, site->own.local + range.start,
           (size_t)range.count * sizeof(double));
    check_progress(site, fragment, "a snapshot");
}

void site_progress_spooled(struct simulated_site *site, uint32_t fragment) {
    struct site_range range = piece_of_site(site, fragment);
    memcpy(site->own.sent + range.start, site->own.snapshot + range.start,
           (size_t)range.count * sizeof(double));
}

static void sent_is_gone(struct simulated_site *site, uint32_t fragment) {
    struct site_range range = piece_of_site(site, fragment);
    for (uint64_t i = range.start; i < range.start + range.count; i++)
        site->own.local[i] -= site->own.snapshot[i];
}

static void take_as_it_is(struct simulated_site *site, uint32_t fragment) {
    struct site_range range = piece_of_site(site, fragment);
    for (uint64_t i = range.start; i < range.start + range.count; i++)
        site->own.local[i] = (double)site->local[i] - (double)site->replica.base[i];
}

void site_progress_moved(struct simulated_site *site, uint32_t fragment, enum training_move why) {
    static const char *const moves[] = {[MOVE_MERGED] = "a merge",
                                        [MOVE_REFUSED] = "a refusal",
                                        [MOVE_ADVANCED] = "following",
                                        [MOVE_LOADED] = "a loaded snapshot"};
    bool ends = why == MOVE_MERGED || why == MOVE_REFUSED,
         keeps = why == MOVE_REFUSED && replica_refused(&site->replica) == REBASE_KEEP;
    const struct journal_round *round = journal_round(site->journal, fragment);
    uint64_t in_flight = site->marks[fragment].in_flight;
    /* in dense mode it was rebuilt, except for rounding */
    if (!ends && site->own.baseless[fragment] && site->replica.feedback)
        world_fail(site->world, "follow", "%s, fragment %u: there is no base to follow from",
                   site->name, fragment);
    if (!ends && round && round->in_flight && round->sequence == in_flight)
        check_follows(site->setup.check, site->name, round->header,
                      site->replica.base_version[fragment]);
    if (ends && !keeps) sent_is_gone(site, fragment);
    if (ends && keeps && site->own.baseless[fragment]) take_as_it_is(site, fragment);
    if (ends) site->own.baseless[fragment] = false;
    site->own.lacking[fragment] = 0;
    check_progress(site, fragment, moves[why]);
}

/* ---- a trainer's state ----------------------------------------------------------------------- */

void site_progress_save(const struct simulated_site *site, struct buffer *out) {
    buffer_append(out, site->own.local, vector_size(site));
    buffer_append(out, site->own.snapshot, vector_size(site));
}

void site_progress_load(struct simulated_site *site, struct reader *reader) {
    struct bytes local = reader_take(reader, vector_size(site));
    struct bytes snapshot = reader_take(reader, vector_size(site));
    if (reader->failed) return;
    memcpy(site->own.kept_local, local.data, local.size);
    memcpy(site->own.kept_snapshot, snapshot.data, snapshot.size);
}

/* By the table in node/restore.h: whether the base of a message in flight can come back. */
static bool base_is_gone(const struct simulated_site *site, const struct journal_round *round,
                         bool kept) {
    const struct journal_checkpoint *checkpoint = journal_checkpoint(site->journal);
    uint64_t from = checkpoint ? checkpoint->version : 0;
    if (kept) return site->own.kept_baseless[round->fragment];
    if (checkpoint && !site->own.kept_baseless[round->fragment] &&
        checkpoint->fragment[round->fragment].base_version == round->base_version)
        return false;
    return round->base_version < from || round->base_version > site->replica.global.version;
}

void site_progress_restored(struct simulated_site *site, uint32_t fragment) {
    const struct journal_round *round = journal_round(site->journal, fragment);
    const struct journal_checkpoint *checkpoint = journal_checkpoint(site->journal);
    struct site_progress *own = &site->own;
    struct site_range range = piece_of_site(site, fragment);
    uint64_t last = round ? round->sequence : 0;
    bool in_flight = round && round->in_flight,
         kept = checkpoint && checkpoint->fragment[fragment].in_flight == last &&
                checkpoint->snapshot.size > 0,
         idle = checkpoint && checkpoint->fragment[fragment].over == last,
         back = round && round->refused && !site->replica.feedback;
    for (uint64_t i = range.start; i < range.start + range.count; i++) {
        own->snapshot[i] = kept ? own->kept_snapshot[i] : own->sent[i];
        own->local[i] = 0;
        if (in_flight) own->local[i] = kept ? own->kept_local[i] : own->sent[i];
        if (!in_flight && (idle || kept)) own->local[i] = own->kept_local[i];
        if (!in_flight && !idle && kept && !back) own->local[i] -= own->kept_snapshot[i];
    }
    /* what was refused is kept beside a base that had been rebuilt from it, except for rounding */
    if (!in_flight && !idle && kept && back && own->kept_baseless[fragment])
        take_as_it_is(site, fragment);
    own->baseless[fragment] = in_flight && base_is_gone(site, round, kept);
    check_progress(site, fragment, "a restart");
}

/* ---- a disk ---------------------------------------------------------------------------------- */

void site_progress_copy(struct simulated_site *site, bool back) {
    double *to = back ? site->own.sent : site->own.copied_sent;
    memcpy(to, back ? site->own.copied_sent : site->own.sent, vector_size(site));
}

/* ---- following ------------------------------------------------------------------------------- */

/* What its worker does meanwhile, or waits for, keeps a site where it is. */
static bool may_follow(const struct simulated_site *site, uint32_t fragment) {
    enum slot_phase phase = node_state_slot(site->state, fragment);
    return !site->full && site->down != DOWN_FETCHING && !site->own.baseless[fragment] &&
           !site->is_staged[fragment] &&
           (phase == SLOT_TRAINING || phase == SLOT_UPLOADING || phase == SLOT_BACKOFF ||
            phase == SLOT_ACCEPTED) &&
           run_state_version(node_state_run(site->state)) == site->replica.global.version &&
           site->job_count == 0;
}

void site_progress_step(struct simulated_site *site) {
    uint64_t limit = node_state_inner_steps(site->state) + site->setup.scenario->follow_interval;
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        bool lacks = check_differ(site->setup.check, f, site->replica.base_version[f],
                                  site->replica.global.version);
        if (!lacks) site->own.lacking[f] = 0;
        if (!lacks || !may_follow(site, f) || ++site->own.lacking[f] <= limit) continue;
        world_fail(site->world, "follow",
                   "%s, fragment %u: a round of training on version %llu, while its replica has "
                   "been beyond it",
                   site->name, f, (unsigned long long)site->replica.base_version[f]);
    }
}
