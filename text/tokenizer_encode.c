/* Text to tokens: added tokens are found first (those of raw text before normalization, the others
 * after it), what lies between them is cut by the patterns one after the other, and in each piece
 * the neighbours with the lowest rank are merged, leftmost first, until none can be. A heap of
 * candidates makes that O(n log n). */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "text/nfc.h"
#include "text/pattern.h"
#include "text/tokenizer_internal.h"

/* ---- merging --------------------------------------------------------------------------------- */

enum { NONE = -1 };

struct symbol { /* a linked list in the order of the text */
    uint32_t token;
    int32_t before, behind;
};

struct merge_candidate { /* stale once either of its symbols is another */
    uint32_t rank, to, left_token, right_token;
    int32_t left;
};

struct merge_heap {
    struct merge_candidate *items;
    size_t count, capacity;
};

static bool sooner(const struct merge_candidate *a, const struct merge_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void merge_heap_push(struct merge_heap *heap, struct merge_candidate item) {
    if (heap->count == heap->capacity) {
        heap->capacity = MAX(heap->capacity * 2, (size_t)32);
        heap->items = xrealloc(heap->items, heap->capacity * sizeof *heap->items);
    }
    size_t at = heap->count++;
    for (; at > 0 && sooner(&item, &heap->items[(at - 1) / 2]); at = (at - 1) / 2)
        heap->items[at] = heap->items[(at - 1) / 2];
    heap->items[at] = item;
}

static struct merge_candidate merge_heap_pop(struct merge_heap *heap) {
    struct merge_candidate top = heap->items[0], last = heap->items[--heap->count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap->count; at = child) {
        if (child + 1 < heap->count && sooner(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!sooner(&heap->items[child], &last)) break;
        heap->items[at] = heap->items[child];
    }
    heap->items[at] = last;
    return top;
}

static void consider(const struct tokenizer *t, const struct symbol *symbols, int32_t left,
                     struct merge_heap *heap) {
    if (left == NONE || symbols[left].behind == NONE) return;
    uint32_t a = symbols[left].token, b = symbols[symbols[left].behind].token;
    for (uint64_t at = random_hash(a, b); t->merges[at & t->merges_mask].used; at++) {
        const struct merge *merge = &t->merges[at & t->merges_mask].merge;
        if (merge->left != a || merge->right != b) continue;
        merge_heap_push(heap, (struct merge_candidate){merge->rank, merge->to, a, b, left});
        return;
    }
}

static void merge_all(const struct tokenizer *t, struct symbol *symbols, int32_t count) {
    struct merge_heap heap = {0};
    for (int32_t i = 0; i + 1 < count; i++) consider(t, symbols, i, &heap);
    while (heap.count > 0) {
        struct merge_candidate best = merge_heap_pop(&heap);
        struct symbol *left = &symbols[best.left];
        if (left->token != best.left_token || left->behind == NONE ||
            symbols[left->behind].token != best.right_token)
            continue;
        symbols[left->behind].token = NO_TOKEN; /* gone */
        left->token = best.to;
        left->behind = symbols[left->behind].behind;
        if (left->behind != NONE) symbols[left->behind].before = best.left;
        consider(t, symbols, left->before, &heap);
        consider(t, symbols, best.left, &heap);
    }
    free(heap.items);
}

static enum status encode_piece(const struct tokenizer *t, struct bytes piece,
                                struct buffer *tokens, struct error *error) {
    if (t->ignore_merges) { /* a piece that is a token needs no merging */
        struct buffer text = {0};
        for (size_t i = 0; i < piece.size; i++)
            buffer_append(&text, t->byte_text[piece.data[i]], t->byte_size[piece.data[i]]);
        uint32_t whole = tokenizer_find(t, buffer_bytes(&text));
        buffer_deinit(&text);
        if (whole != NO_TOKEN) {
            buffer_u32(tokens, whole);
            return OK;
        }
    }
    if (piece.size > INT32_MAX)
        return error_set(error, INVALID, "a text of %zu bytes is too long", piece.size);
    struct symbol *symbols = xmalloc(piece.size * sizeof *symbols);
    int32_t count = (int32_t)piece.size;
    enum status status = OK;
    for (int32_t i = 0; i < count && status == OK; i++) {
        symbols[i] =
            (struct symbol){t->byte_token[piece.data[i]], i - 1, i + 1 < count ? i + 1 : NONE};
        if (symbols[i].token == NO_TOKEN)
            status = error_set(error, INVALID, "the tokenizer has no token for the byte 0x%02x",
                               piece.data[i]);
    }
    if (status == OK) merge_all(t, symbols, count);
    for (int32_t i = 0; i != NONE && status == OK && count > 0; i = symbols[i].behind)
        buffer_u32(tokens, symbols[i].token);
    free(symbols);
    return status;
}

/* ---- cutting --------------------------------------------------------------------------------- */

static enum status cut(const struct tokenizer *t, size_t level, struct bytes text,
                       struct buffer *tokens, struct error *error) {
    if (text.size == 0) return OK;
    if (level == t->pattern_count) return encode_piece(t, text, tokens, error);
    for (size_t at = 0; at < text.size;) {
        size_t begin, end;
        TRY(pattern_find(t->patterns[level], text, at, &begin, &end, error));
        TRY(cut(t, level + 1, bytes_of(text.data + at, begin - at), tokens, error));
        TRY(cut(t, level + 1, bytes_of(text.data + begin, end - begin), tokens, error));
        at = end;
    }
    return OK;
}

enum { NO_ADDED = -1 };

/* The longest added token that stands here, of those that are looked for in normalized text or of
 * the others: its index, or NO_ADDED. Without `control`, those that are not text are passed over.
 */
static int added_at(const struct tokenizer *t, struct bytes text, size_t at, bool control,
                    bool normalized) {
    int best = NO_ADDED;
    if (!t->added_first[text.data[at]]) return best;
    for (size_t i = 0; i < t->added_count; i++) {
        struct bytes name = t->tokens[t->added[i]];
        if (t->normalized[i] != normalized || (t->special[i] && !control)) continue;
        if (name.size > text.size - at || memcmp(text.data + at, name.data, name.size) != 0)
            continue;
        if (best == NO_ADDED || name.size > t->tokens[t->added[best]].size) best = (int)i;
    }
    return best;
}

/* Where the blanks that end at `end` begin, not before `from`. */
static size_t blanks_before(struct bytes text, size_t from, size_t end) {
    while (end > from) {
        size_t begin = end - 1, at;
        while (begin > from && (text.data[begin] & 0xc0) == 0x80) begin--;
        at = begin;
        if (!unicode_is_space(utf8_next(text, &at))) break;
        end = begin;
    }
    return end;
}

static size_t blanks_after(struct bytes text, size_t from) {
    for (size_t at = from; at < text.size; from = at)
        if (!unicode_is_space(utf8_next(text, &at))) break;
    return from;
}

static enum status check_text(struct bytes text, struct error *error) {
    for (size_t at = 0, length; at < text.size; at += length)
        if ((length = utf8_length(text.data + at, text.size - at)) == 0)
            return error_set(error, INVALID, "the text is not UTF-8 at byte %zu", at);
    return OK;
}

static enum status encode(const struct tokenizer *t, struct bytes text, bool control,
                          bool normalized, struct buffer *tokens, struct error *error);

/* What lies between added tokens: normalized and searched for the others, and then cut. */
static enum status encode_between(const struct tokenizer *t, struct bytes text, bool control,
                                  bool normalized, struct buffer *tokens, struct error *error) {
    if (normalized) return cut(t, 0, text, tokens, error);
    struct buffer changed = {0};
    bool changes = t->nfc && nfc_changes(text, &changed);
    enum status status =
        encode(t, changes ? buffer_bytes(&changed) : text, control, true, tokens, error);
    buffer_deinit(&changed);
    return status;
}

static enum status encode(const struct tokenizer *t, struct bytes text, bool control,
                          bool normalized, struct buffer *tokens, struct error *error) {
    size_t from = 0, at = 0;
    while (at < text.size) {
        int added = added_at(t, text, at, control, normalized);
        if (added == NO_ADDED) {
            at++;
            continue;
        }
        size_t end = t->left[added] ? blanks_before(text, from, at) : at;
        TRY(encode_between(t, bytes_of(text.data + from, end - from), control, normalized, tokens,
                           error));
        buffer_u32(tokens, t->added[added]);
        at += t->tokens[t->added[added]].size;
        from = at = t->right[added] ? blanks_after(text, at) : at;
    }
    return encode_between(t, bytes_of(text.data + from, text.size - from), control, normalized,
                          tokens, error);
}

enum status tokenizer_encode(const struct tokenizer *t, struct bytes text, bool prefix,
                             struct buffer *tokens, struct error *error) {
    TRY(check_text(text, error));
    for (size_t i = 0; prefix && i < t->prefix_count; i++) buffer_u32(tokens, t->prefix[i]);
    return encode(t, text, true, false, tokens, error);
}

enum status tokenizer_encode_document(const struct tokenizer *t, struct bytes text,
                                      struct buffer *tokens, struct error *error) {
    TRY(check_text(text, error));
    return encode(t, text, false, false, tokens, error);
}

/* ---- whole characters ------------------------------------------------------------------------ */

/* Whether more bytes could make these one character. */
static bool may_grow(const uint8_t *held, size_t count) {
    static const uint8_t ends[][3] = {
        {0x80, 0x80, 0x80}, {0xbf, 0xbf, 0xbf}, {0x9f, 0x80, 0x80}, {0x8f, 0x80, 0x80}};
    uint8_t trial[4];
    size_t wanted = held[0] >= 0xf0 ? 4 : held[0] >= 0xe0 ? 3 : 2;
    if (held[0] < 0xc2 || count >= wanted) return false;
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        memcpy(trial, held, count);
        memcpy(trial + count, ends[i], wanted - count);
        if (utf8_length(trial, wanted) == wanted) return true;
    }
    return false;
}

void utf8_stream_push(struct utf8_stream *stream, struct bytes bytes, struct buffer *out) {
    for (size_t i = 0; i < bytes.size; i++) {
        stream->held[stream->count++] = bytes.data[i];
        if (utf8_length(stream->held, stream->count) == stream->count) {
            buffer_append(out, stream->held, stream->count);
            stream->count = 0;
        } else if (!may_grow(stream->held, stream->count)) {
            bool retry = stream->count > 1; /* the last byte may begin another */
            buffer_append_text(out, "\xef\xbf\xbd");
            stream->count = 0;
            if (retry) i--;
        }
    }
}

void utf8_stream_end(struct utf8_stream *stream, struct buffer *out) {
    if (stream->count) buffer_append_text(out, "\xef\xbf\xbd");
    stream->count = 0;
}
