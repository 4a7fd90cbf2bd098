/* What holds of the coordinator's state between two events, whatever came before. A violation is a
 * fault of this program: it ends here, before an entry is made from a state that contradicts
 * itself. Nothing that a site or an admin sends can bring one about. */
#include "coordinator/coordinator_state_internal.h"

/* Each entry that is not durable yet has its commit, in order, and nothing else has one. */
static void check_commits(const struct coordinator_state *state) {
    ASSERT(state->commit_count <= state->commit_capacity);
    ASSERT(state->commit_count < state->next_commit);
    ASSERT(state->committed + state->commit_count == run_state_size(state->run));
    for (size_t i = 0; i < state->commit_count; i++) {
        const struct commit *commit = &state->commits[i];
        ASSERT(commit->number == state->next_commit - state->commit_count + i);
        ASSERT(commit->end == state->committed + i + 1);
        ASSERT(commit->answer == ANSWER_NOBODY ? commit->call == 0 : true);
    }
}

static void check_uploads(const struct coordinator_state *state) {
    ASSERT(state->upload_count <= state->options.uploads_limit);
    for (size_t i = 0; i < state->upload_count; i++) {
        const struct admitted *upload = &state->uploads[i];
        ASSERT(upload->id != 0);
        ASSERT(upload->site >= 1 && upload->site <= state->presence_count);
        ASSERT(upload->contribution.site == upload->site);
        ASSERT(upload->contribution.fragment < run_state_manifest(state->run)->fragments);
        /* a transfer without a caller is over; a check goes on */
        ASSERT(upload->phase == UPLOAD_RECEIVING ? upload->call != 0 : true);
        ASSERT(state->presence[upload->site - 1].uploading > 0);
    }
}

/* The step being applied is the next one, of contributions that still wait for it. */
static void check_step(const struct coordinator_state *state) {
    ASSERT(state->deferred_count == 0 || state->applying);
    ASSERT(!state->catching_up || state->behind);
    if (!state->applying) return;
    const struct ledger_entry *step = &state->step;
    ASSERT(!state->behind);
    ASSERT(step->kind == LEDGER_STEP);
    ASSERT(step->step.version == run_state_version(state->run) + 1);
    ASSERT(step->step.count >= 1);
    ASSERT(step->step.fragment < run_state_manifest(state->run)->fragments);
    ASSERT(step->step.count <= run_state_pending_count(state->run, step->step.fragment));
    for (uint16_t i = 0; i < step->step.count; i++)
        ASSERT(step->step.parts[i].index ==
               run_state_pending(state->run, step->step.fragment, i)->index);
}

static void check_lost(const struct coordinator_state *state) {
    for (size_t i = 0; i < state->lost_count; i++) {
        const struct lost *lost = &state->lost[i];
        ASSERT(lost->payload.index < run_state_size(state->run));
        ASSERT(lost->call == 0 || lost->supplier != 0);
    }
}

static void check_followed(const struct coordinator_state *state) {
    ASSERT(state->followed_count <= state->followed_capacity);
    for (size_t i = 0; i < state->followed_count; i++) {
        uint32_t site = state->followed[i].site;
        ASSERT(site >= 1 && site <= state->presence_count);
        ASSERT(state->presence[site - 1].following > 0);
    }
}

void invariants_check(const struct coordinator_state *state) {
    check_followed(state);
    check_commits(state);
    check_uploads(state);
    check_step(state);
    check_lost(state);
    ASSERT(state->presence_count <= run_state_site_count(state->run));
}

/* One process has a site's place at most, and only it follows. */
void invariants_check_place(const struct presence *presence) {
    ASSERT(presence->following == 0 || presence->held);
    ASSERT(presence->challenger == 0 || presence->challenger != presence->holder ||
           !presence->held);
    ASSERT(!presence->is_decided || presence->challenger != 0);
    ASSERT(!presence->is_decided || presence->copies > 0);
}
