/* What becomes of a job that attaches and says where it stands (node/stand.h). */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "attach/border.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "node/stand_internal.h"

_Static_assert((int)WIRE_FRAGMENTS_LIMIT >= (int)FRAGMENTS_LIMIT, "a state has all fragments");

/* ---- what the job stands on ------------------------------------------------------------------ */

/* The move that all ranks have carried out, and that the node had not come to. */
static void finish_move(const struct stand *stand, struct stand_view *view, uint32_t fragment) {
    struct stand_fragment *at = &view->header->fragment[fragment];
    struct training_mark mark = {.in_flight = at->in_flight, .over = at->over};
    struct replica moved = {.parameters = stand->replica->parameters,
                            .fragments = stand->replica->fragments,
                            .base = view->base,
                            .snapshot = view->snapshot,
                            .next = view->next,
                            .feedback = stand->replica->feedback};
    enum training_move why = (enum training_move)view->header->pending.why;
    training_mark_rebase(&mark, &moved, fragment, at->in_flight, why, NULL);
    at->in_flight = mark.in_flight;
    at->over = mark.over;
    at->kept = mark.kept;
}

/* Whether what the view says of the fragment is what the job's parameters stand on. */
static bool has_stand(const struct stand *stand, struct stand_view *view, uint32_t fragment,
                      const struct wire_state *state) {
    if (!view->memory || state->session == 0 || view->header->session != state->session)
        return false;
    struct stand_fragment *at = &view->header->fragment[fragment];
    uint64_t order = state->fragment[fragment].order;
    if (at->torn || at->repeats) return false;
    if (at->order == order) return true;
    if (order != view->header->pending.order || view->header->pending.fragment != fragment)
        return false;
    uint32_t why = view->header->pending.why;
    if (why > MOVE_LOADED || (why != 0 && !view->next)) return false;
    if (why != 0) finish_move(stand, view, fragment); /* else: it was published to nobody */
    at->order = order;
    return true;
}

/* Which of the two vectors, then and now, differ by what the run did meanwhile. False: neither. */
static bool match(const struct stand_fragment *then, const struct training_mark *now,
                  bool *from_snapshot, bool *to_snapshot) {
    uint64_t newest = MAX(now->in_flight, now->over);
    *from_snapshot = *to_snapshot = false;
    if (then->in_flight != 0) {
        if (newest < then->in_flight) return true; /* it came to nothing: all is to be sent */
        if (newest > then->in_flight) return false;
        *to_snapshot = now->in_flight != 0;
        *from_snapshot = *to_snapshot || !now->kept;
        return true;
    }
    if (newest > then->over) return false;
    /* a restart may know less: the message is in flight again */
    *to_snapshot = now->in_flight != 0 && !then->kept;
    return true;
}

/* ---- the plan -------------------------------------------------------------------------------- */

static void close_views(struct stand *stand) {
    for (size_t i = 0; i < COUNT_OF(stand->views); i++) stand_view_close(&stand->views[i]);
    memset(stand->from, 0, sizeof stand->from);
}

static void open_views(struct stand *stand, int passed) {
    stand_view_open(stand, passed, false, &stand->views[0]);
    for (size_t i = 0; i < 2; i++) {
        int descriptor = open(stand->files[i], O_RDONLY | O_CLOEXEC);
        stand_view_open(stand, descriptor, true, &stand->views[1 + i]);
        if (descriptor >= 0) close(descriptor);
    }
}

static bool find_stand(struct stand *stand, const struct wire_state *state, uint32_t fragment,
                       const struct training_mark *mark) {
    for (size_t i = 0; i < COUNT_OF(stand->views); i++) {
        struct stand_view *view = &stand->views[i];
        if (!has_stand(stand, view, fragment, state)) continue;
        if (!match(&view->header->fragment[fragment], mark, &stand->from_snapshot[fragment],
                   &stand->to_snapshot[fragment]))
            return false;
        stand->from[fragment] = view;
        return true;
    }
    return false;
}

static void plan_fragment(struct stand *stand, const struct wire_state *state, uint32_t fragment,
                          const struct training_mark *mark) {
    struct stand_plan *plan = &stand->plan;
    uint64_t bit = UINT64_C(1) << fragment;
    uint64_t steps = state->steps - MIN(state->fragment[fragment].steps, state->steps);
    uint64_t tokens = state->tokens - MIN(state->fragment[fragment].tokens, state->tokens);
    if (state->job == stand->job && mark->at > state->clock) {
        plan->ahead = MAX(plan->ahead, mark->at - state->clock);
        plan->reload |= bit;
    } else if (find_stand(stand, state, fragment, mark)) {
        plan->kept |= bit;
        plan->unsent_steps = MIN(plan->unsent_steps, steps);
        plan->unsent_tokens = MIN(plan->unsent_tokens, tokens);
    } else {
        plan->lost = MAX(plan->lost, steps);
    }
}

void stand_resume(struct stand *stand, const struct wire_state *state, int passed,
                  const struct training_mark *marks, uint64_t clock, struct stand_plan *out) {
    struct stand_plan *plan = &stand->plan;
    uint32_t fragments = stand->replica->fragments;
    close_views(stand);
    bool ours = state && state->fragments == fragments &&
                memcmp(state->site, stand->header->site, STAND_SITE_SIZE) == 0 &&
                (state->clock < clock || state->clock - clock <= UINT32_MAX);
    *plan = (struct stand_plan){.clock = clock, .lost = stand->lost};
    stand->lost = 0;
    if (ours) {
        open_views(stand, passed);
        *plan = (struct stand_plan){.steps = state->steps,
                                    .tokens = state->tokens,
                                    .clock = state->job == stand->job ? state->clock : clock,
                                    .unsent_steps = state->steps,
                                    .unsent_tokens = state->tokens};
        for (uint32_t i = 0; i < fragments; i++) plan_fragment(stand, state, i, &marks[i]);
        plan->job = state->job;
    } else {
        random_system(&plan->job, sizeof plan->job);
    }
    if (plan->kept != (fragments < 64 ? (UINT64_C(1) << fragments) - 1 : UINT64_MAX))
        plan->unsent_steps = plan->unsent_tokens = 0;
    stand_set_job(stand, plan->job);
    *out = *plan;
}

bool stand_load(struct stand *stand, uint32_t fragment, const struct training_mark *mark,
                float *out) {
    const struct replica *replica = stand->replica;
    const struct stand_view *view = stand->from[fragment];
    uint64_t start, count;
    fragment_range(replica->parameters, replica->fragments, fragment, &start, &count);
    if (!view) {
        const float *now = mark->in_flight != 0 ? replica->snapshot : replica->base;
        memcpy(out, now + start, (size_t)count * sizeof(float));
        return false;
    }
    const float *from = stand->from_snapshot[fragment] ? view->snapshot : view->base;
    const float *to = stand->to_snapshot[fragment] ? replica->snapshot : replica->base;
    elementwise_subtract(out, to + start, from + start, (size_t)count);
    return true;
}

const struct stand_plan *stand_plan(const struct stand *stand) { return &stand->plan; }
