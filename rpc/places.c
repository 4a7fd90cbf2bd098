/* Places shared by role (rpc/places.h). The table is small and searched from end to end; groups are
 * compared only when somebody has to go. */
#include "rpc/places.h"

#include <stdlib.h>

#include "base/memory.h"

void places_init(struct places *places, const struct places_limits *limits) {
    *places = (struct places){.limits = *limits};
}

void places_deinit(struct places *places) {
    free(places->items);
    *places = (struct places){0};
}

static struct place *find(const struct places *places, uint64_t id) {
    for (size_t i = 0; i < places->count; i++) {
        if (places->items[i].id == id) return &places->items[i];
    }
    return NULL;
}

const struct place *places_find(const struct places *places, uint64_t id) {
    return find(places, id);
}

static size_t count_of(const struct places *places, enum place_role role) {
    size_t count = 0;
    for (size_t i = 0; i < places->count; i++)
        count += places->items[i].role == role && !places->items[i].leaving;
    return count;
}

static size_t group_size(const struct places *places, enum place_role role, uint64_t group) {
    size_t count = 0;
    for (size_t i = 0; i < places->count; i++) {
        const struct place *place = &places->items[i];
        count += place->role == role && place->group == group && !place->leaving;
    }
    return count;
}

/* The oldest of the group; of admins, who are no groups, the oldest of all. */
static struct place *oldest(const struct places *places, enum place_role role, uint64_t group) {
    struct place *found = NULL;
    for (size_t i = 0; i < places->count; i++) {
        struct place *place = &places->items[i];
        if (place->role != role || place->leaving) continue;
        if (role != PLACE_ADMIN && place->group != group) continue;
        if (!found || place->since_ms < found->since_ms ||
            (place->since_ms == found->since_ms && place->id < found->id))
            found = place;
    }
    return found;
}

static int by_number(uint64_t left, uint64_t right) { return (left > right) - (left < right); }

/* Of a group the oldest first. */
static int by_group(const void *a, const void *b) {
    const struct place *left = *(const struct place *const *)a,
                       *right = *(const struct place *const *)b;
    int order = by_number(left->group, right->group);
    if (order == 0) order = by_number(left->since_ms, right->since_ms);
    return order ? order : by_number(left->id, right->id);
}

/* The group of that role that has most, and how many. Of equal ones it is the one whose oldest came
 * first: a number that its owner may choose, such as an address, decides nothing. */
static size_t largest_group(const struct places *places, enum place_role role, uint64_t *out) {
    const struct place **sorted = xcalloc(places->count + 1, sizeof(struct place *));
    size_t count = 0, most = 0;
    uint64_t first_ms = 0, first_id = 0;
    for (size_t i = 0; i < places->count; i++) {
        if (places->items[i].role == role && !places->items[i].leaving)
            sorted[count++] = &places->items[i];
    }
    qsort(sorted, count, sizeof(struct place *), by_group);
    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin; end < count && sorted[end]->group == sorted[begin]->group;) end++;
        const struct place *eldest = sorted[begin];
        bool is_older =
            eldest->since_ms < first_ms || (eldest->since_ms == first_ms && eldest->id < first_id);
        if (end - begin < most || (end - begin == most && !is_older)) continue;
        most = end - begin;
        first_ms = eldest->since_ms;
        first_id = eldest->id;
        *out = eldest->group;
    }
    free(sorted);
    return most;
}

/* The oldest of a source who has said nothing although it had the time; or where half of them say
 * nothing, without asking for the time. NULL: there is none. */
static struct place *silent(const struct places *places, uint64_t source, size_t size,
                            uint64_t now_ms) {
    struct place *found = NULL;
    size_t count = 0;
    for (size_t i = 0; places->limits.silent_ms && i < places->count; i++) {
        struct place *place = &places->items[i];
        if (place->role != PLACE_STRANGER || place->leaving || place->spoke) continue;
        if (place->group != source) continue;
        count++;
        if (!found || place->since_ms < found->since_ms) found = place;
    }
    if (!found || count * 2 >= size) return found;
    return now_ms - found->since_ms >= places->limits.silent_ms ? found : NULL;
}

static bool spare_stranger(struct places *places, uint64_t now_ms) {
    uint64_t source = 0;
    size_t size = largest_group(places, PLACE_STRANGER, &source);
    if (size == 0) return false;
    struct place *place = silent(places, source, size, now_ms);
    if (!place) place = oldest(places, PLACE_STRANGER, source);
    place->leaving = true;
    return true;
}

static bool spare_member(struct places *places, size_t at_least) {
    uint64_t group = 0;
    if (largest_group(places, PLACE_MEMBER, &group) < at_least) return false;
    oldest(places, PLACE_MEMBER, group)->leaving = true;
    return true;
}

static void come_in(struct places *places, uint64_t id, uint64_t source, uint64_t now_ms) {
    if (places->count == places->capacity) {
        places->capacity = places->capacity ? places->capacity * 2 : 64;
        places->items = xrealloc(places->items, places->capacity * sizeof *places->items);
    }
    places->items[places->count++] =
        (struct place){.id = id, .group = source, .since_ms = now_ms, .role = PLACE_STRANGER};
}

void places_enter_known(struct places *places, uint64_t id, enum place_role role, uint64_t group,
                        size_t group_limit, uint64_t now_ms) {
    come_in(places, id, 0, now_ms);
    places_claim(places, id, role, group, group_limit);
}

void places_enter(struct places *places, uint64_t id, uint64_t source, uint64_t now_ms) {
    come_in(places, id, source, now_ms);
    size_t limit = places->limits.strangers;
    if (limit && count_of(places, PLACE_STRANGER) > limit) spare_stranger(places, now_ms);
}

void places_claim(struct places *places, uint64_t id, enum place_role role, uint64_t group,
                  size_t group_limit) {
    struct place *place = find(places, id);
    if (!place || place->role != PLACE_STRANGER) return;
    place->role = role;
    place->group = group;
    if (place->leaving) return;
    if (role == PLACE_ADMIN) {
        if (places->limits.admins && count_of(places, role) > places->limits.admins)
            oldest(places, role, 0)->leaving = true;
        return;
    }
    if (group_limit && group_size(places, role, group) > group_limit)
        oldest(places, role, group)->leaving = true;
    if (places->limits.members && count_of(places, role) > places->limits.members)
        spare_member(places, 1);
}

void places_leave(struct places *places, uint64_t id) {
    struct place *place = find(places, id);
    if (place) *place = places->items[--places->count];
}

void places_expel(struct places *places, uint64_t id) {
    struct place *place = find(places, id);
    if (place) place->leaving = true;
}

bool places_spare(struct places *places, uint64_t now_ms) {
    return spare_stranger(places, now_ms) || spare_member(places, 2);
}

bool places_evict(struct places *places, uint64_t now_ms, uint64_t *id) {
    uint64_t limit_ms = places->limits.stranger_ms;
    for (size_t i = 0; i < places->count; i++) {
        struct place *place = &places->items[i];
        if (limit_ms && place->role == PLACE_STRANGER && now_ms - place->since_ms >= limit_ms)
            place->leaving = true;
        if (!place->leaving || place->told) continue;
        place->told = true;
        *id = place->id;
        return true;
    }
    return false;
}
