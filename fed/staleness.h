/* The staleness cap that a message is judged by: that of its base version, and where the manifest
 * leaves it to the federation (`auto`), by the most sites that were present at any time since
 * (fed/outer_rate.h). run_state, the planner and the workbench keep both here. Integers alone: the
 * same everywhere.
 */
#ifndef FED_STALENESS_H
#define FED_STALENESS_H

#include "fed/manifest.h"

struct presence_history { /* of a fragment; all zero: no step yet, nobody present */
    uint32_t *most;       /* [capacity], owned: of the time up to step s, at s % capacity */
    uint32_t capacity;    /* steps that are remembered */
    uint64_t steps;       /* ever made */
    uint32_t now;         /* the most since the last step */
};

void presence_history_deinit(struct presence_history *history);
/* Remembers at least so many steps from now on; what was forgotten stays forgotten. */
void presence_history_reach(struct presence_history *history, uint32_t capacity);
/* So many are present. */
void presence_history_note(struct presence_history *history, uint32_t present);
/* A step was made while so many are present. */
void presence_history_step(struct presence_history *history, uint32_t present);
/* The most that were present at once since a base that has missed so many steps, as far as is
 * remembered. */
uint32_t presence_history_most(const struct presence_history *history, uint64_t missed);

struct cap_changes {    /* of a run; all zero: none is known */
    struct cap_change { /* holds for messages with a base from that version on */
        uint64_t from;  /* ascending; the first is 0 */
        uint32_t cap;   /* as the manifest has it */
    } * items;          /* [count], owned */
    uint32_t count;
};

void cap_changes_deinit(struct cap_changes *changes);
void cap_changes_note(struct cap_changes *changes, uint64_t from, uint32_t cap);
/* Outer steps that a message with that base may have missed. */
uint32_t cap_changes_at(const struct cap_changes *changes, uint64_t base_version,
                        uint32_t most_present);
/* Steps to remember for a cap, so that a message within it is judged rightly. */
uint32_t staleness_reach(uint32_t cap);

#endif
