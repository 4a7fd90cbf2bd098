/* Caps by base version, and how many sites were present since (fed/staleness.h). */
#include "fed/staleness.h"

#include <stdlib.h>

#include "base/memory.h"
#include "fed/outer_rate.h"

void presence_history_deinit(struct presence_history *history) {
    free(history->most);
    *history = (struct presence_history){0};
}

static uint64_t remembered(const struct presence_history *history) {
    return MIN(history->steps, (uint64_t)history->capacity);
}

void presence_history_reach(struct presence_history *history, uint32_t capacity) {
    if (capacity <= history->capacity) return;
    uint32_t *most = xcalloc(capacity, sizeof *most);
    for (uint64_t back = 1; back <= remembered(history); back++) {
        uint64_t step = history->steps - back;
        most[step % capacity] = history->most[step % history->capacity];
    }
    free(history->most);
    history->most = most;
    history->capacity = capacity;
}

void presence_history_note(struct presence_history *history, uint32_t present) {
    history->now = MAX(history->now, present);
}

void presence_history_step(struct presence_history *history, uint32_t present) {
    ASSERT(history->capacity > 0);
    history->most[history->steps++ % history->capacity] = history->now;
    history->now = present;
}

uint32_t presence_history_most(const struct presence_history *history, uint64_t missed) {
    uint32_t most = history->now;
    for (uint64_t i = 0; i < MIN(missed, remembered(history)); i++)
        most = MAX(most, history->most[(history->steps - 1 - i) % history->capacity]);
    return most;
}

void cap_changes_deinit(struct cap_changes *changes) {
    free(changes->items);
    *changes = (struct cap_changes){0};
}

void cap_changes_note(struct cap_changes *changes, uint64_t from, uint32_t cap) {
    changes->items = xrealloc(changes->items, (changes->count + 1) * sizeof *changes->items);
    changes->items[changes->count++] = (struct cap_change){from, cap};
}

uint32_t cap_changes_at(const struct cap_changes *changes, uint64_t base_version,
                        uint32_t most_present) {
    ASSERT(changes->count > 0);
    uint32_t at = changes->count;
    while (at > 1 && changes->items[at - 1].from > base_version) at--;
    return staleness_cap_of(changes->items[at - 1].cap, most_present);
}

uint32_t staleness_reach(uint32_t cap) {
    return (cap == MANIFEST_AUTO ? (uint32_t)STALENESS_LIMIT : cap) + 1;
}
