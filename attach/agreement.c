/* When the order that was given is carried out, by what ranks report (attach/agreement.h). */
#include "attach/agreement.h"

#include "base/memory.h"

enum { LEAD_LEAST = 2, LEAD_MOST = 1 << 20, LOOKS_MS = 20 };

uint64_t agreement_steps(const struct agreement_rank *ranks, size_t count) {
    uint64_t steps = count > 0 ? ranks[0].steps : 0;
    for (size_t i = 1; i < count; i++) steps = MIN(steps, ranks[i].steps);
    return steps;
}

void agreement_give(struct agreement *agreement, const struct agreement_rank *ranks, size_t count) {
    uint64_t furthest = 0;
    for (size_t i = 0; i < count; i++) furthest = MAX(furthest, ranks[i].steps);
    agreement->lead = MAX(agreement->lead, MAX(agreement->least, (uint64_t)LEAD_LEAST));
    agreement->id++;
    agreement->at = furthest + agreement->lead;
}

enum agreement_answer agreement_look(struct agreement *agreement,
                                     const struct agreement_rank *ranks, size_t count) {
    bool all_seen = true, all_done = true;
    if (agreement_steps(ranks, count) < agreement->at) return AGREEMENT_WAITS;
    for (size_t i = 0; i < count; i++) {
        all_seen = all_seen && ranks[i].seen == agreement->id;
        all_done = all_done && ranks[i].done == agreement->id;
    }
    if (!all_seen) {
        agreement->lead = MIN(2 * agreement->lead, (uint64_t)LEAD_MOST);
        return AGREEMENT_MISSED;
    }
    if (!all_done) return AGREEMENT_WAITS;
    agreement->lead = MAX(agreement->lead / 2, (uint64_t)LEAD_LEAST);
    return AGREEMENT_DONE;
}

enum agreement_answer agreement_decide(struct agreement *agreement,
                                       const struct agreement_rank *ranks, size_t count) {
    bool all_seen = true, missed = false;
    for (size_t i = 0; i < count; i++) {
        bool seen = ranks[i].seen == agreement->id;
        all_seen = all_seen && seen;
        missed = missed || (!seen && ranks[i].steps >= agreement->at);
    }
    if (all_seen) return AGREEMENT_FIXED;
    if (!missed) return AGREEMENT_WAITS;
    agreement->lead = MIN(2 * agreement->lead, (uint64_t)LEAD_MOST);
    return AGREEMENT_MISSED;
}

/* A report is up to half a round trip old; the order, the answer and the decision take half a one
 * each; and on each way somebody has to look. */
uint64_t agreement_lead(double round_trip_ms, double step_ms) {
    double lead = (2.5 * round_trip_ms + LOOKS_MS) / MAX(step_ms, 0.01) + LEAD_LEAST + 1;
    return lead < (double)LEAD_MOST ? (uint64_t)lead : (uint64_t)LEAD_MOST;
}
