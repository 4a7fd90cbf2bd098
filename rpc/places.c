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

static int by_group(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* The group of that role that has most, and how many. */
static size_t largest_group(const struct places *places, enum place_role role, uint64_t *out) {
    uint64_t *groups = xcalloc(places->count + 1, sizeof *groups);
    size_t count = 0, most = 0;
    for (size_t i = 0; i < places->count; i++) {
        if (places->items[i].role == role && !places->items[i].leaving)
            groups[count++] = places->items[i].group;
    }
    qsort(groups, count, sizeof *groups, by_group);
    for (size_t i = 0, begin = 0; i < count; i++) {
        if (groups[i] != groups[begin]) begin = i;
        if (i - begin + 1 <= most) continue;
        most = i - begin + 1;
        *out = groups[i];
    }
    free(groups);
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

void places_enter(struct places *places, uint64_t id, uint64_t source, uint64_t now_ms) {
    if (places->count == places->capacity) {
        places->capacity = places->capacity ? places->capacity * 2 : 64;
        places->items = xrealloc(places->items, places->capacity * sizeof *places->items);
    }
    places->items[places->count++] =
        (struct place){.id = id, .group = source, .since_ms = now_ms, .role = PLACE_STRANGER};
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
