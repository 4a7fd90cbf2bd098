/* The k largest of a chunk (codec/select.h): counts from a guessed bound, then gathers. The answer
 * never depends on the guess. */
#include "codec/select.h"

#include <string.h>

#include "codec/codec.h"

enum {
    CANDIDATES_MAX = 1024,
    GROUP = 8,             /* elements that the gathering pass accepts or skips together */
    HINT_MARGIN = 1 << 20, /* an eighth of an octave below the last threshold: about half as many
                              again as wanted */
    KEY_MAX = 0x7F7FFFFF
};

struct candidates {
    size_t count;
    int32_t key[CANDIDATES_MAX];
    uint16_t index[CANDIDATES_MAX];
};

/* Keys are below 2^31: signed, because that is the comparison that every instruction set has. */
static size_t count_at_least(const int32_t *key, size_t count, int32_t bound) {
    int32_t total = 0;
    for (size_t i = 0; i < count; i++) total += key[i] >= bound;
    return (size_t)total;
}

/* The largest bound in [low, high] that at least k keys reach; at least k reach `low`. Stops early,
 * at any bound in between that between k and `enough` keys reach. */
static int32_t find_bound(const int32_t *key, size_t count, size_t k, size_t enough, int32_t low,
                          int32_t high) {
    while (low < high) {
        int32_t middle = low + (high - low) / 2 + 1;
        size_t reach = count_at_least(key, count, middle);
        if (reach < k) {
            high = middle - 1;
        } else {
            low = middle;
            if (reach <= enough) break;
        }
    }
    return low;
}

static void gather(const int32_t *key, size_t count, int32_t bound, struct candidates *out) {
    size_t found = 0;
    for (size_t base = 0; base < count; base += GROUP) {
        size_t end = base + GROUP < count ? base + GROUP : count;
        if (end - base == GROUP) {
            int32_t any = 0;
            for (size_t i = 0; i < GROUP; i++) any |= key[base + i] >= bound;
            if (!any) continue;
        }
        for (size_t i = base; i < end && found < CANDIDATES_MAX; i++) {
            out->key[found] = key[i];
            out->index[found] = (uint16_t)i;
            found += key[i] >= bound;
        }
    }
    out->count = found;
}

/* All keys above the bound and, from the lowest index on, as many of those equal to it as are still
 * wanted. */
static size_t take(const int32_t *key, const uint16_t *place, size_t count, int32_t bound, size_t k,
                   uint16_t *index) {
    size_t taken = 0, equal = k - count_at_least(key, count, bound + 1);
    for (size_t i = 0; i < count; i++) {
        if (key[i] < bound) continue;
        if (key[i] == bound) {
            if (equal == 0) continue;
            equal--;
        }
        index[taken++] = place ? place[i] : (uint16_t)i;
    }
    return taken;
}

size_t select_largest(const float *x, size_t count, size_t k, uint32_t *hint, uint16_t *index) {
    int32_t key[CODEC_CHUNK];
    memcpy(key, x, count * sizeof *key);
    for (size_t i = 0; i < count; i++) key[i] &= 0x7FFFFFFF;

    int32_t bound = *hint > HINT_MARGIN ? (int32_t)*hint - HINT_MARGIN : 1;
    size_t reach = count_at_least(key, count, bound);
    if (reach < k || reach > CANDIDATES_MAX) {
        if (bound > 1 && reach < k) bound = 1, reach = count_at_least(key, count, 1);
        if (reach < k) { /* fewer than k are not zero: all of them, and no threshold to remember */
            *hint = 0;
            return reach == 0 ? 0 : take(key, NULL, count, 1, count, index);
        }
        bound = find_bound(key, count, k, CANDIDATES_MAX, bound, KEY_MAX);
        reach = count_at_least(key, count, bound);
    }
    if (reach > CANDIDATES_MAX) { /* so many are equal that no bound tells them apart: then the
                                     bound is the k-th itself */
        *hint = (uint32_t)bound;
        return take(key, NULL, count, bound, k, index);
    }
    struct candidates candidates;
    gather(key, count, bound, &candidates);
    bound = find_bound(candidates.key, candidates.count, k, k, bound, KEY_MAX);
    *hint = (uint32_t)bound;
    return take(candidates.key, candidates.index, candidates.count, bound, k, index);
}
