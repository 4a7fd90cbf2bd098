/* How the ranks of a training job come to carry out an order after the same step, without a
 * collective of their own. Pure.
 *
 * An order is given for a step two or more beyond the furthest rank's report. A rank acknowledges
 * it in a step before that one, and carries it out at that step if all ranks have acknowledged it
 * (libatoll/wire.h says why all come to the same answer). Once every rank has reported that step,
 * its acknowledgement is final: either all have seen the order and carry it out, or none does, and
 * it is given again with twice the lead. Ids grow by one with each order given.
 *
 * Where ranks are on several hosts, they cannot see each other's acknowledgements in time, and the
 * node decides for all (agreement_decide): fixed once all have acknowledged, withdrawn once a rank
 * has come to the order's step without. The one excludes the other, because no rank acknowledges at
 * that step or after it.
 */
#ifndef ATTACH_AGREEMENT_H
#define ATTACH_AGREEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agreement_rank { /* as the rank reports itself; not to be trusted */
    uint64_t steps, seen, done;
};

struct agreement {
    uint64_t id;    /* of the last order; 0: none yet */
    uint64_t at;    /* the step after which it is due */
    uint64_t lead;  /* of the next one, beyond the furthest rank; 0: the least */
    uint64_t least; /* that is no less; 0: two */
};

enum agreement_answer { AGREEMENT_WAITS, AGREEMENT_DONE, AGREEMENT_MISSED, AGREEMENT_FIXED };

/* A new id, due `lead` steps beyond the furthest rank. */
void agreement_give(struct agreement *agreement, const struct agreement_rank *ranks, size_t count);
/* MISSED doubles the lead, DONE halves it again; both end this order. */
enum agreement_answer agreement_look(struct agreement *agreement,
                                     const struct agreement_rank *ranks, size_t count);
/* MISSED doubles the lead and ends this order; after FIXED comes agreement_look, until DONE. */
enum agreement_answer agreement_decide(struct agreement *agreement,
                                       const struct agreement_rank *ranks, size_t count);
/* The least lead where a word to a rank and its answer take round_trip_ms: the order, what ranks
 * say to it, and the decision are then with all before the step. */
uint64_t agreement_lead(double round_trip_ms, double step_ms);
/* Steps that every rank has reported. */
uint64_t agreement_steps(const struct agreement_rank *ranks, size_t count);

#endif
