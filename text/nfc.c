/* Unicode's NFC (text/nfc.h), over the tables in nfc_table.h, which scripts/unicode-table writes.
 */
#include "text/nfc.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/nfc_table.h"
#include "text/pattern.h"

enum { /* Hangul syllables are arithmetic (The Unicode Standard, section 3.12) */
       S_BASE = 0xac00,
       L_BASE = 0x1100,
       V_BASE = 0x1161,
       T_BASE = 0x11a7,
       L_COUNT = 19,
       V_COUNT = 21,
       T_COUNT = 28,
       S_COUNT = L_COUNT * V_COUNT * T_COUNT,
       FIRST = 0x300 /* below it nothing changes, moves or composes with what is before */
};

/* ---- the table ------------------------------------------------------------------------------- */

static uint32_t class_of(uint32_t point) {
    size_t low = 0, high = COUNT_OF(nfc_classes);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (nfc_classes[middle] >> 8 <= point)
            low = middle;
        else
            high = middle;
    }
    return nfc_classes[low] & 0xff;
}

/* The parts of a character, one step; NULL: it has none. */
static const uint32_t *parts_of(uint32_t point) {
    size_t low = 0, high = COUNT_OF(nfc_parts);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nfc_parts[middle][0] < point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < COUNT_OF(nfc_parts) && nfc_parts[low][0] == point ? nfc_parts[low] : NULL;
}

/* What two make together; 0: nothing. */
static uint32_t compose_two(uint32_t a, uint32_t b) {
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT)
        return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b - T_BASE - 1 < T_COUNT - 1)
        return a + (b - T_BASE);
    size_t low = 0, high = COUNT_OF(nfc_pairs);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint32_t *pair = nfc_pairs[middle];
        if (pair[0] < a || (pair[0] == a && pair[1] < b))
            low = middle + 1;
        else
            high = middle;
    }
    return low < COUNT_OF(nfc_pairs) && nfc_pairs[low][0] == a && nfc_pairs[low][1] == b
               ? nfc_pairs[low][2]
               : 0;
}

/* NFC_Quick_Check is not "yes": it is made of parts that do not compose to it again, or it may
 * compose with what is before. */
static bool is_doubtful(uint32_t point) {
    if (point - V_BASE < V_COUNT || point - T_BASE - 1 < T_COUNT - 1) return true;
    const uint32_t *parts = parts_of(point);
    if (parts && (parts[2] == 0 || compose_two(parts[1], parts[2]) != point)) return true;
    size_t low = 0, high = COUNT_OF(nfc_seconds);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nfc_seconds[middle] < point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < COUNT_OF(nfc_seconds) && nfc_seconds[low] == point;
}

/* ---- a stretch ------------------------------------------------------------------------------- */

struct stretch {
    uint32_t *points;
    size_t count, capacity;
};

static void push(struct stretch *s, uint32_t point) {
    if (s->count == s->capacity) {
        s->capacity = MAX(s->capacity * 2, (size_t)64);
        s->points = xrealloc(s->points, s->capacity * sizeof *s->points);
    }
    s->points[s->count++] = point;
}

static void decompose(struct stretch *s, uint32_t point) { /* as deep as the table: four steps */
    if (point - S_BASE < S_COUNT) {
        uint32_t index = point - S_BASE, tail = index % T_COUNT;
        push(s, L_BASE + index / (V_COUNT * T_COUNT));
        push(s, V_BASE + index % (V_COUNT * T_COUNT) / T_COUNT);
        if (tail) push(s, T_BASE + tail);
        return;
    }
    const uint32_t *parts = parts_of(point);
    if (!parts) {
        push(s, point);
        return;
    }
    decompose(s, parts[1]);
    if (parts[2]) decompose(s, parts[2]);
}

/* Marks after a base by their class, those of one class as they came. A class at a time, so that a
 * long run of marks costs no more than classes times its length. */
static void order_marks(uint32_t *points, size_t count) {
    uint32_t *ordered = xmalloc(count * sizeof *ordered), next;
    size_t at = 0;
    for (uint32_t now = 0; at < count; now = next) {
        next = UINT32_MAX;
        for (size_t i = 0; i < count; i++) {
            uint32_t class = class_of(points[i]);
            if (class == now) ordered[at++] = points[i];
            if (class > now) next = MIN(next, class);
        }
    }
    memcpy(points, ordered, count * sizeof *ordered);
    free(ordered);
}

static void order(struct stretch *s) {
    for (size_t from = 0; from < s->count;) {
        size_t end = from;
        bool disordered = false;
        for (uint32_t last = 0, class; end < s->count && (class = class_of(s->points[end])) != 0;
             end++, last = class)
            disordered = disordered || class < last;
        if (disordered) order_marks(s->points + from, end - from);
        from = end + (end == from);
    }
}

static void compose(struct stretch *s) {
    size_t count = 0, base = SIZE_MAX;
    uint32_t last = 0; /* class of the last that was kept */
    for (size_t i = 0; i < s->count; i++) {
        uint32_t point = s->points[i], class = class_of(point);
        bool reaches = base != SIZE_MAX && (count - 1 == base || (last != 0 && last < class));
        uint32_t both = reaches ? compose_two(s->points[base], point) : 0;
        if (both) {
            s->points[base] = both;
            continue;
        }
        if (class == 0) base = count;
        s->points[count++] = point;
        last = class;
    }
    s->count = count;
}

static void put_point(uint32_t point, struct buffer *out) {
    uint8_t text[4];
    size_t size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = size; i-- > 1; point >>= 6) text[i] = (uint8_t)(0x80 | (point & 0x3f));
    static const uint8_t heads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    text[0] = (uint8_t)(heads[size] | point);
    buffer_append(out, text, size);
}

/* ---- a text ---------------------------------------------------------------------------------- */

/* From `from` to the next character that begins anew: which neither changes nor moves nor composes
 * with what is before. */
static size_t stretch_end(struct bytes text, size_t from) {
    size_t at = from;
    utf8_next(text, &at);
    while (at < text.size) {
        size_t here = at;
        uint32_t point = utf8_next(text, &at);
        if (point < FIRST || (class_of(point) == 0 && !is_doubtful(point))) return here;
    }
    return text.size;
}

/* The first stretch from `from` on that NFC may change: where it begins; text.size if there is
 * none. */
static size_t next_doubt(struct bytes text, size_t from) {
    size_t begin = from;
    uint32_t last = 0;
    for (size_t at = from; at < text.size;) {
        size_t here = at;
        uint32_t point = utf8_next(text, &at), class = point < FIRST ? 0 : class_of(point);
        if (class == 0 && (point < FIRST || !is_doubtful(point)))
            begin = here;
        else if ((class != 0 && class < last) || is_doubtful(point))
            return begin;
        last = class;
    }
    return text.size;
}

bool nfc_changes(struct bytes text, struct buffer *out) {
    size_t start = out->size, copied = 0;
    struct stretch s = {0};
    for (size_t at = 0; (at = next_doubt(text, at)) < text.size;) {
        size_t end = stretch_end(text, at);
        s.count = 0;
        for (size_t i = at; i < end;) decompose(&s, utf8_next(text, &i));
        order(&s);
        compose(&s);
        buffer_append(out, text.data + copied, at - copied);
        for (size_t i = 0; i < s.count; i++) put_point(s.points[i], out);
        copied = at = end;
    }
    free(s.points);
    if (copied == 0) return false;
    buffer_append(out, text.data + copied, text.size - copied);
    if (!bytes_equal(bytes_of(out->data + start, out->size - start), text)) return true;
    out->size = start;
    return false;
}
