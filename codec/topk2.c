/* topk2: the few largest elements of every chunk, their places Rice-coded, their values in two
 * bits.
 *
 * Payload: the table, four fp32; a byte, the runs' Rice parameter; one stream of bits
 * (codec/bits.h), padded with zeroes to a byte. A chunk of n elements sends at most k' = ceil(n · k
 * / 4096) of them, zeroes never, and is written as
 *
 *     1                               k' elements follow, gaps with the usual Rice parameter |
 *                                     whichever is shorter,
 *     0  rice:4  sent:7 (8 if k=128)  any number, any parameter | the first on a tie
 *     shift       Elias gamma of 1 + zigzag(difference to the last chunk's), absent in the first
 *                 chunk that is not empty
 *     sent times  gap >> rice in unary (zeroes, then a one) · the gap's low `rice` bits ·
 *                 negative:1
 *     runs        of elements that are not large, Rice-coded: one before each large element and one
 *                 to the end of those sent
 *
 * where shift and runs are absent if none is sent. A gap counts the elements skipped. An element's
 * value is table[code] · 2^shift with code = negative << 1 | large; it is large if its magnitude,
 * divided by its chunk's 2^shift, is at least LARGE standard deviations of all those sent: with 1.5
 * that is a four-level uniform quantiser over six sigma. The table holds the mean of each of the
 * four bins. Few elements are large, so that runs take about half of the bit that a flag would;
 * with parameter 0 they are such flags.
 *
 * The shift makes one table serve a fragment of many tensors: a chunk's mean magnitude over the
 * fragment's, to the nearest power of two, counted from the first chunk's, whose scale goes into
 * the table. Where all chunks are alike it costs a bit each.
 *
 * Rice's parameter is the cheapest for the chunk's gaps, or the message's runs, the smallest on a
 * tie. A decoder learns the gaps and runs, so it can demand that. All sums are in double: within a
 * chunk by increasing index, then over the chunks from left to right.
 */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/format.h"
#include "codec/select.h"

static const double LARGE_SQUARED = 1.5 * 1.5;
static const double SQRT_2 = 1.41421356237309504880;

enum {
    RICE_BITS = 4,
    GAMMA_BITS_MAX = 17,
    KEEP_MAX = 128,
    TABLE_SIZE = 4 * TABLE_COUNT,
    PREFIX_SIZE = TABLE_SIZE + 1
};

struct shape {
    unsigned keep; /* of a whole chunk */
    unsigned usual_rice, sent_bits;
};

static struct shape shape_of(enum codec codec) {
    return codec == CODEC_TOPK2_64 ? (struct shape){64, 5, 7} : (struct shape){128, 4, 8};
}

static size_t keep_of(struct shape shape, size_t size) {
    return (size * shape.keep + CODEC_CHUNK - 1) / CODEC_CHUNK;
}

static size_t entry_count(struct shape shape, size_t count) {
    return count / CODEC_CHUNK * shape.keep + keep_of(shape, count % CODEC_CHUNK);
}

static size_t chunk_count(size_t count) { return count / CODEC_CHUNK + (count % CODEC_CHUNK != 0); }

/* The gaps of a chunk add up to less than 4096, so the unary parts have at most 4096 >> rice
 * zeroes; a chunk that takes the long form is no longer than it would be with the usual parameter.
 * Runs take no more than a bit per element and one to end with. */
size_t topk2_payload_bound(enum codec codec, size_t count) {
    struct shape shape = shape_of(codec);
    size_t a_chunk =
        1 + 1 + RICE_BITS + shape.sent_bits + GAMMA_BITS_MAX + (CODEC_CHUNK >> shape.usual_rice);
    size_t bits =
        chunk_count(count) * a_chunk + entry_count(shape, count) * (1 + shape.usual_rice + 2);
    return PREFIX_SIZE + (bits + 7) / 8;
}

/* --- what encoder and decoder both work out --- */

/* Gaps of a chunk add up to less than 4096, so 16 bits hold their sum. */
static size_t rice_cost(const uint16_t *gap, size_t sent, unsigned rice) {
    uint16_t zeroes = 0;
    for (size_t j = 0; j < sent; j++) zeroes = (uint16_t)(zeroes + (gap[j] >> rice));
    return sent * (1 + rice) + zeroes;
}

struct form {
    bool usual;
    unsigned rice;
};

/* From one parameter to the next a gap loses half of its zeroes, rounded up: less each time. So the
 * cost is convex in the parameter, and a walk downhill from anywhere ends at the cheapest. */
static struct form best_form(struct shape shape, const uint16_t *gap, size_t sent, size_t keep) {
    if (sent == 0) return (struct form){false, 0};
    unsigned rice = shape.usual_rice;
    size_t usual = rice_cost(gap, sent, rice), least = usual, cost;
    while (rice > 0 && (cost = rice_cost(gap, sent, rice - 1)) <= least) least = cost, rice--;
    while (rice < RICE_MAX && (cost = rice_cost(gap, sent, rice + 1)) < least) least = cost, rice++;
    if (sent == keep && usual <= RICE_BITS + shape.sent_bits + least)
        return (struct form){true, shape.usual_rice};
    return (struct form){false, rice};
}

/* Adds what a run would cost with each parameter. */
static void add_run_cost(size_t run, uint64_t *cost) {
    for (unsigned rice = 0; rice <= RUN_RICE_MAX; rice++) cost[rice] += 1 + rice + (run >> rice);
}

static void add_run_costs(const uint8_t *code, size_t sent, uint64_t *cost) {
    size_t run = 0;
    for (size_t j = 0; j < sent; j++) {
        if (!(code[j] & 1)) {
            run++;
            continue;
        }
        add_run_cost(run, cost);
        run = 0;
    }
    if (sent > 0) add_run_cost(run, cost);
}

static unsigned cheapest(const uint64_t *cost) {
    unsigned best = 0;
    for (unsigned rice = 1; rice <= RUN_RICE_MAX; rice++)
        best = cost[rice] < cost[best] ? rice : best;
    return best;
}

/* --- encoding --- */

struct chunk {
    double magnitude; /* Σ |x| over those sent */
    uint16_t sent;
    int16_t shift;
};

struct topk2_encoder {
    struct shape shape;
    enum codec codec;
    size_t count;        /* elements */
    struct chunk *chunk; /* [chunk_count] */
    uint16_t *index; /* [entry_count], within the chunk; each chunk has room for all it may send */
    float *value;    /* [entry_count], likewise */
    uint8_t *code;   /* [entry_count], likewise */
    uint32_t table[TABLE_COUNT]; /* of the last message */
};

enum status topk2_encoder_create(enum codec codec, size_t count, struct topk2_encoder **out,
                                 struct error *error) {
    struct topk2_encoder *encoder = xcalloc(1, sizeof *encoder);
    encoder->shape = shape_of(codec);
    encoder->codec = codec;
    encoder->count = count;
    size_t entries = entry_count(encoder->shape, count);
    void *chunk = NULL, *index = NULL, *value = NULL, *code = NULL;
    enum status status =
        memory_try(MAX(chunk_count(count), 1u), sizeof *encoder->chunk, &chunk, error);
    if (status == OK) status = memory_try(MAX(entries, 1u), sizeof *encoder->index, &index, error);
    if (status == OK) status = memory_try(MAX(entries, 1u), sizeof *encoder->value, &value, error);
    if (status == OK) status = memory_try(MAX(entries, 1u), sizeof *encoder->code, &code, error);
    encoder->chunk = chunk;
    encoder->index = index;
    encoder->value = value;
    encoder->code = code;
    if (status != OK) {
        topk2_encoder_destroy(encoder);
        return error_wrap(error, status, "%s encoder for %zu elements", codec_name(codec), count);
    }
    *out = encoder;
    return OK;
}

void topk2_encoder_destroy(struct topk2_encoder *encoder) {
    if (!encoder) return;
    free(encoder->chunk);
    free(encoder->index);
    free(encoder->value);
    free(encoder->code);
    free(encoder);
}

void topk2_select(struct topk2_encoder *encoder, size_t first, const float *x, size_t size,
                  uint32_t *hint) {
    ASSERT(size <= CODEC_CHUNK && first % CODEC_CHUNK == 0 && size <= encoder->count - first);
    size_t at = first / CODEC_CHUNK, room = at * encoder->shape.keep;
    uint16_t *index = encoder->index + room;
    float *value = encoder->value + room;
    size_t sent = select_largest(x, size, keep_of(encoder->shape, size), hint, index);
    double magnitude = 0;
    for (size_t j = 0; j < sent; j++) {
        value[j] = x[index[j]];
        magnitude += value[j] < 0 ? -(double)value[j] : (double)value[j];
    }
    encoder->chunk[at] = (struct chunk){.magnitude = magnitude, .sent = (uint16_t)sent};
}

/* log2, to the nearest integer; positive and normal. */
static int nearest_log2(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFull) | 1023ull << 52;
    memcpy(&value, &bits, sizeof value);
    return exponent + (value >= SQRT_2);
}

/* Returns the largest shift, which is at least 0 because the first chunk's is. */
static int choose_shifts(struct chunk *chunk, size_t chunks, size_t entries) {
    double total = 0;
    for (size_t c = 0; c < chunks; c++) total += chunk[c].magnitude;
    double mean = entries > 0 ? total / (double)entries : 0;
    bool known = false;
    int first = 0, largest = 0;
    for (size_t c = 0; c < chunks; c++) {
        if (chunk[c].sent == 0) continue;
        int shift = nearest_log2(chunk[c].magnitude / chunk[c].sent / mean);
        if (!known) first = shift, known = true;
        shift = MAX(MIN(shift - first, SHIFT_MAX), -SHIFT_MAX);
        chunk[c].shift = (int16_t)shift;
        largest = MAX(largest, shift);
    }
    return largest;
}

/* Both codes and table are worked out from this, an element over its chunk's scale; exact. */
static double normalised(float value, int shift) {
    return (double)value * (double)power_of_two(-shift);
}

struct quantiser {
    double entries, squares; /* how many; Σ normalised² */
    uint32_t table[TABLE_COUNT];
    unsigned run_rice;
};

static uint8_t code_of(const struct quantiser *quantiser, double x) {
    return (uint8_t)((x < 0) << 1 |
                     (x * x * quantiser->entries >= LARGE_SQUARED * quantiser->squares));
}

static void sum_squares(const struct topk2_encoder *encoder, size_t chunks, size_t entries,
                        struct quantiser *out) {
    const float *value = encoder->value;
    *out = (struct quantiser){.entries = (double)entries};
    for (size_t c = 0; c < chunks; value += encoder->shape.keep, c++) {
        double part = 0;
        for (size_t j = 0; j < encoder->chunk[c].sent; j++) {
            double x = normalised(value[j], encoder->chunk[c].shift);
            part += x * x;
        }
        out->squares += part;
    }
}

/* Codes, what their runs ask for, and the table: the mean of each bin; 0 for one that no element is
 * in. Magnitudes are held within what makes every value finite and no mean zero, which matters to
 * values at the very ends of fp32 only. */
static void fill_bins(struct topk2_encoder *encoder, size_t chunks, int largest_shift,
                      struct quantiser *quantiser) {
    const float *value = encoder->value;
    uint8_t *code_at = encoder->code;
    uint64_t run_cost[RUN_RICE_MAX + 1] = {0};
    double sum[TABLE_COUNT] = {0}, members[TABLE_COUNT] = {0};
    for (size_t c = 0; c < chunks;
         value += encoder->shape.keep, code_at += encoder->shape.keep, c++) {
        double part[TABLE_COUNT] = {0};
        for (size_t j = 0; j < encoder->chunk[c].sent; j++) {
            double x = normalised(value[j], encoder->chunk[c].shift);
            unsigned code = code_at[j] = code_of(quantiser, x);
            part[code] += x < 0 ? -x : x;
            members[code] += 1;
        }
        for (unsigned code = 0; code < TABLE_COUNT; code++) sum[code] += part[code];
        add_run_costs(code_at, encoder->chunk[c].sent, run_cost);
    }
    quantiser->run_rice = cheapest(run_cost);
    double most = (double)FLT_MAX * (double)power_of_two(-largest_shift), least = FLT_MIN;
    for (unsigned code = 0; code < TABLE_COUNT; code++) {
        if (members[code] <= 0) continue;
        double mean = MIN(MAX(sum[code] / members[code], least), most);
        quantiser->table[code] = float_bits((float)mean) | code >> 1 << 31;
    }
}

static void put_shift(struct bit_writer *bits, int difference) {
    uint32_t value = 1 + (uint32_t)(difference < 0 ? -2 * difference - 1 : 2 * difference);
    unsigned width = 31 - (unsigned)__builtin_clz(value);
    bits_put_unary(bits, width);
    bits_put(bits, value & ((1u << width) - 1), width);
}

static void put_head(struct bit_writer *bits, struct shape shape, struct form form, size_t sent) {
    bits_put(bits, form.usual, 1);
    if (form.usual) return;
    bits_put(bits, form.rice, RICE_BITS);
    bits_put(bits, (uint32_t)sent, shape.sent_bits);
}

static void put_elements(struct bit_writer *bits, unsigned rice, const uint16_t *gap,
                         const uint8_t *code, size_t sent) {
    for (size_t j = 0; j < sent; j++) {
        bits_put_unary(bits, (uint32_t)gap[j] >> rice);
        bits_put(bits, (gap[j] & ((1u << rice) - 1)) | (uint32_t)code[j] >> 1 << rice, rice + 1);
    }
}

static void put_runs(struct bit_writer *bits, unsigned rice, const uint8_t *code, size_t sent) {
    uint32_t run = 0;
    for (size_t j = 0; j <= sent; j++) {
        if (j < sent && !(code[j] & 1)) {
            run++;
            continue;
        }
        bits_put_unary(bits, run >> rice);
        bits_put(bits, run & ((1u << rice) - 1), rice);
        run = 0;
    }
}

size_t topk2_finish(struct topk2_encoder *encoder, uint8_t *payload) {
    size_t chunks = chunk_count(encoder->count), entries = 0;
    for (size_t c = 0; c < chunks; c++) entries += encoder->chunk[c].sent;
    int largest_shift = choose_shifts(encoder->chunk, chunks, entries);
    struct quantiser quantiser;
    sum_squares(encoder, chunks, entries, &quantiser);
    fill_bins(encoder, chunks, largest_shift, &quantiser);
    for (unsigned byte = 0; byte < TABLE_SIZE; byte++)
        payload[byte] = (uint8_t)(quantiser.table[byte / 4] >> 8 * (byte % 4));
    payload[TABLE_SIZE] = (uint8_t)quantiser.run_rice;

    struct bit_writer bits = {.out = payload + PREFIX_SIZE};
    bool shift_known = false;
    int shift = 0;
    for (size_t c = 0; c < chunks; c++) {
        const struct chunk *chunk = &encoder->chunk[c];
        const uint16_t *index = encoder->index + c * encoder->shape.keep;
        const uint8_t *code = encoder->code + c * encoder->shape.keep;
        size_t first = c * CODEC_CHUNK, size = MIN((size_t)CODEC_CHUNK, encoder->count - first);
        uint16_t gap[KEEP_MAX];
        for (size_t j = 0; j < chunk->sent; j++)
            gap[j] = (uint16_t)(index[j] - (j > 0 ? index[j - 1] + 1 : 0));
        struct form form =
            best_form(encoder->shape, gap, chunk->sent, keep_of(encoder->shape, size));
        put_head(&bits, encoder->shape, form, chunk->sent);
        if (chunk->sent == 0) continue;
        if (shift_known) put_shift(&bits, chunk->shift - shift);
        shift = chunk->shift;
        shift_known = true;
        put_elements(&bits, form.rice, gap, code, chunk->sent);
        put_runs(&bits, quantiser.run_rice, code, chunk->sent);
    }
    memcpy(encoder->table, quantiser.table, sizeof encoder->table);
    return PREFIX_SIZE + bits_finish(&bits);
}

void topk2_subtract(const struct topk2_encoder *encoder, size_t first, float *e) {
    const struct chunk *chunk = &encoder->chunk[first / CODEC_CHUNK];
    const uint16_t *index = encoder->index + first / CODEC_CHUNK * encoder->shape.keep;
    const uint8_t *code = encoder->code + first / CODEC_CHUNK * encoder->shape.keep;
    float scale = power_of_two(chunk->shift);
    for (size_t j = 0; j < chunk->sent; j++)
        e[index[j]] = e[index[j]] - float_of(encoder->table[code[j]]) * scale;
}

/* --- decoding --- */

enum status topk2_begin_decoding(struct cursor *cursor, struct error *error) {
    const char *name = codec_name(cursor->codec);
    struct reader reader = reader_of(cursor->payload);
    for (unsigned code = 0; code < TABLE_COUNT; code++) cursor->table[code] = reader_u32(&reader);
    cursor->run_rice = reader_u8(&reader);
    if (reader.failed) return error_set(error, INVALID, "%s message: truncated in its table", name);
    if (cursor->run_rice > RUN_RICE_MAX)
        return error_set(error, INVALID, "%s message: the runs' Rice parameter is out of range",
                         name);
    size_t most = topk2_payload_bound(cursor->codec, cursor->count);
    if (cursor->payload.size > most) {
        return error_set(error, INVALID,
                         "%s message: payload is %zu bytes, at most %zu are possible", name,
                         cursor->payload.size, most);
    }
    for (unsigned code = 0; code < TABLE_COUNT; code++) {
        if (!bits_are_finite(cursor->table[code])) {
            return error_set(error, INVALID, "%s message: table entry %u is not finite", name,
                             code);
        }
        if (cursor->table[code] != 0 &&
            (cursor->table[code] >> 31 != code >> 1 || cursor->table[code] << 1 == 0)) {
            return error_set(error, INVALID, "%s message: table entry %u has the wrong sign", name,
                             code);
        }
    }
    size_t left = reader_left(&reader);
    struct bytes bits = reader_take(&reader, left);
    cursor->bits = (struct bit_reader){.data = bits.data, .size = bits.size};
    return OK;
}

static enum status chunk_invalid(const struct cursor *cursor, const char *what,
                                 struct error *error) {
    return error_set(error, INVALID, "%s message: chunk %zu: %s", codec_name(cursor->codec),
                     cursor->at / CODEC_CHUNK, what);
}

static enum status get_head(struct cursor *cursor, struct shape shape, size_t keep,
                            struct form *form, size_t *sent, struct error *error) {
    *form = (struct form){true, shape.usual_rice};
    *sent = keep;
    if (bits_get(&cursor->bits, 1) == 0) {
        *form = (struct form){false, bits_get(&cursor->bits, RICE_BITS)};
        *sent = bits_get(&cursor->bits, shape.sent_bits);
    }
    if (cursor->bits.failed) return chunk_invalid(cursor, "truncated", error);
    if (form->rice > RICE_MAX)
        return chunk_invalid(cursor, "Rice parameter is out of range", error);
    if (*sent > keep) return chunk_invalid(cursor, "sends more elements than it may", error);
    return OK;
}

static enum status get_shift(struct cursor *cursor, struct error *error) {
    if (cursor->shift_known) {
        unsigned width = bits_get_unary(&cursor->bits, 9);
        uint32_t value = (1u << width) + bits_get(&cursor->bits, width) - 1;
        if (cursor->bits.failed)
            return chunk_invalid(cursor, "truncated or wrong in its shift", error);
        cursor->shift += value % 2 ? -(int)(value / 2) - 1 : (int)(value / 2);
    }
    cursor->shift_known = true;
    if (cursor->shift > SHIFT_MAX || cursor->shift < -SHIFT_MAX)
        return chunk_invalid(cursor, "shift is out of range", error);
    cursor->largest_shift = MAX(cursor->largest_shift, cursor->shift);
    return OK;
}

static enum status get_elements(struct cursor *cursor, unsigned rice, size_t sent,
                                struct piece *out, uint16_t *gaps, uint8_t *code,
                                struct error *error) {
    uint32_t next = 0, size = (uint32_t)out->size;
    for (size_t j = 0; j < sent; j++) {
        uint32_t rest, gap = bits_get_rice(&cursor->bits, size >> rice, rice + 1, &rest) << rice;
        gap |= rest & ((1u << rice) - 1);
        if (cursor->bits.failed)
            return chunk_invalid(cursor, "truncated, or a gap is longer than the chunk", error);
        if (gap >= size - next) return chunk_invalid(cursor, "an index is beyond its end", error);
        out->index[j] = (uint16_t)(next + gap);
        gaps[j] = (uint16_t)gap;
        code[j] = (uint8_t)(rest >> rice << 1);
        next += gap + 1;
    }
    return OK;
}

static enum status get_runs(struct cursor *cursor, size_t sent, uint8_t *code,
                            struct error *error) {
    unsigned rice = cursor->run_rice;
    for (size_t at = 0;; at++) {
        uint32_t rest;
        size_t run = (size_t)bits_get_rice(&cursor->bits, KEEP_MAX, rice, &rest) << rice | rest;
        if (cursor->bits.failed || run > sent - at)
            return chunk_invalid(cursor, "truncated, or a run is too long", error);
        add_run_cost(run, cursor->run_cost);
        at += run;
        if (at == sent) return OK;
        code[at] |= 1;
    }
}

enum status topk2_next(struct cursor *cursor, struct piece *out, struct error *error) {
    struct shape shape = shape_of(cursor->codec);
    struct form form;
    uint16_t gap[KEEP_MAX];
    uint8_t code[KEEP_MAX];
    size_t keep = keep_of(shape, out->size), sent;
    out->sent = 0;
    TRY(get_head(cursor, shape, keep, &form, &sent, error));
    if (sent > 0) {
        TRY(get_shift(cursor, error));
        TRY(get_elements(cursor, form.rice, sent, out, gap, code, error));
        TRY(get_runs(cursor, sent, code, error));
    }
    if (!cursor->is_checked) {
        struct form best = best_form(shape, gap, sent, keep);
        if (best.usual != form.usual || best.rice != form.rice)
            return chunk_invalid(cursor, "is not in its shortest form", error);
    }
    float scale = power_of_two(cursor->shift), value[TABLE_COUNT];
    for (unsigned at = 0; at < TABLE_COUNT; at++) value[at] = float_of(cursor->table[at]) * scale;
    for (size_t j = 0; j < sent; j++) {
        out->value[j] = value[code[j]];
        cursor->codes_used |= 1u << code[j];
    }
    out->sent = sent;
    return OK;
}

/* The bit in the stream; from MARK_SHIFT_AT on the last chunk's shift, counted from -SHIFT_MAX; and
 * whether there was one. */
enum { MARK_SHIFT_AT = 48, MARK_KNOWN_AT = 63, MARK_SHIFT_MASK = 0xFF };

uint64_t topk2_mark(const struct cursor *cursor) {
    uint64_t bit = 8 * (uint64_t)cursor->bits.at - cursor->bits.count;
    return bit | (uint64_t)(cursor->shift + SHIFT_MAX) << MARK_SHIFT_AT |
           (uint64_t)cursor->shift_known << MARK_KNOWN_AT;
}

void topk2_seek(struct cursor *cursor, uint64_t mark) {
    bits_seek(&cursor->bits, mark & ((UINT64_C(1) << MARK_SHIFT_AT) - 1));
    cursor->shift = (int)(mark >> MARK_SHIFT_AT & MARK_SHIFT_MASK) - SHIFT_MAX;
    cursor->shift_known = mark >> MARK_KNOWN_AT != 0;
}

enum status topk2_end(const struct cursor *cursor, struct error *error) {
    const char *name = codec_name(cursor->codec);
    if (!bits_at_end(&cursor->bits)) {
        return error_set(error, INVALID,
                         "%s message: bytes or nonzero padding after the last chunk", name);
    }
    if (cheapest(cursor->run_cost) != cursor->run_rice) {
        return error_set(error, INVALID, "%s message: the runs' Rice parameter is not the cheapest",
                         name);
    }
    for (unsigned code = 0; code < TABLE_COUNT; code++) {
        bool used = cursor->codes_used >> code & 1;
        if (used != (cursor->table[code] != 0)) {
            return error_set(error, INVALID, "%s message: table entry %u is %s", name, code,
                             used ? "zero but used" : "not zero but unused");
        }
        float value = float_of(cursor->table[code]) * power_of_two(cursor->largest_shift);
        if (!bits_are_finite(float_bits(value))) {
            return error_set(error, INVALID,
                             "%s message: table entry %u is not finite once shifted", name, code);
        }
    }
    for (unsigned code = 0; code < TABLE_COUNT; code += 2) {
        uint32_t small = cursor->table[code], large = cursor->table[code + 1];
        if (small != 0 && large != 0 && small > large) {
            return error_set(error, INVALID, "%s message: table entry %u is larger than entry %u",
                             name, code, code + 1);
        }
    }
    return OK;
}
