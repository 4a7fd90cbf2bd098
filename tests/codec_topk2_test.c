/* topk2 against a second implementation: selection by sorting, and a parser and a writer that go
 * bit by bit and know nothing of codec/'s. What the codec accepts, the second writer must write
 * again to the same bytes. */
#include "base/memory.h"
#include "base/random.h"
#include "codec/codec.h"
#include "tests/codec_whole.h"
#include "tests/test.h"

enum { CHUNK = 4096 };

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_from(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* About normal, without libm: the sum of twelve uniforms, so the same on every machine. */
static float normal(struct random *random) {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += random_unit(random);
    return (float)sum;
}

static float *normals(size_t count, uint64_t seed, float scale) {
    struct random random;
    random_init(&random, seed);
    float *x = xmalloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = scale * normal(&random);
    return x;
}

static struct buffer encoded(enum codec codec, const float *x, float *e, size_t count) {
    struct error error = {0};
    struct codec_encoder *encoder = NULL;
    struct buffer out = {0};
    CHECK_OK(codec_encoder_create(codec, count, &encoder, &error));
    CHECK_OK(codec_encode(encoder, x, NULL, e, &out, &error));
    CHECK(out.size <= codec_bound(codec, count));
    codec_encoder_destroy(encoder);
    return out;
}

/* --- the second implementation --- */

struct element {
    uint32_t key, index;
};

static int by_size_then_place(const void *a, const void *b) {
    const struct element *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* Marks what a chunk must send. */
static void mark_largest(const float *x, size_t size, size_t keep, uint8_t *marked) {
    struct element *all = xmalloc(size * sizeof *all);
    for (size_t i = 0; i < size; i++)
        all[i] = (struct element){bits_of(x[i]) & 0x7FFFFFFF, (uint32_t)i};
    qsort(all, size, sizeof *all, by_size_then_place);
    memset(marked, 0, size);
    for (size_t j = 0; j < keep && all[j].key != 0; j++) marked[all[j].index] = 1;
    free(all);
}

struct content { /* of one message */
    size_t count, entries;
    uint8_t table[16];
    struct {
        unsigned sent;
        int shift;
    } chunk[64];
    uint32_t index[8192];
    unsigned code[8192];
};

struct tape {
    uint8_t *data;
    size_t bits, at;
};

static unsigned tape_bit(struct tape *tape) {
    if (tape->at >= tape->bits)
        return 1; /* so that unary parts end; the comparison of bytes then fails */
    unsigned bit = (unsigned)tape->data[tape->at / 8] >> tape->at % 8 & 1u;
    tape->at++;
    return bit;
}

static unsigned tape_number(struct tape *tape, unsigned width) {
    unsigned value = 0;
    for (unsigned i = 0; i < width; i++) value |= tape_bit(tape) << i;
    return value;
}

static unsigned tape_unary(struct tape *tape) {
    unsigned zeroes = 0;
    while (!tape_bit(tape)) zeroes++;
    return zeroes;
}

static void tape_write(struct tape *tape, unsigned value, unsigned width) {
    for (unsigned i = 0; i < width; i++, tape->at++) {
        if (tape->at % 8 == 0) tape->data[tape->at / 8] = 0;
        tape->data[tape->at / 8] =
            (uint8_t)(tape->data[tape->at / 8] | (i < 32 ? value >> i & 1u : 0) << tape->at % 8);
    }
}

static unsigned usual_rice(enum codec codec) { return codec == CODEC_TOPK2_64 ? 5 : 4; }
static unsigned keep_whole(enum codec codec) { return codec == CODEC_TOPK2_64 ? 64 : 128; }
static size_t keep_for(enum codec codec, size_t size) {
    return (size * keep_whole(codec) + CHUNK - 1) / CHUNK;
}
static unsigned sent_width(enum codec codec) { return codec == CODEC_TOPK2_64 ? 7 : 8; }

/* Trusts the message: only for those that the codec has accepted. */
static void parse(enum codec codec, struct bytes message, size_t count, struct content *out) {
    struct tape tape = {(uint8_t *)xmalloc(message.size), (message.size - 29) * 8, 0};
    memcpy(tape.data, message.data + 29, message.size - 29);
    memcpy(out->table, message.data + 12, 16);
    out->count = count;
    out->entries = 0;
    int shift = 0;
    bool known = false;
    for (size_t first = 0; first < count; first += CHUNK) {
        size_t c = first / CHUNK, size = MIN((size_t)CHUNK, count - first);
        unsigned rice = usual_rice(codec), sent = (unsigned)keep_for(codec, size);
        if (!tape_bit(&tape))
            rice = tape_number(&tape, 4), sent = tape_number(&tape, sent_width(codec));
        if (sent > 0 && known) {
            unsigned width = tape_unary(&tape),
                     value = (1u << width) + tape_number(&tape, width) - 1;
            shift += value & 1 ? -(int)((value + 1) / 2) : (int)(value / 2);
        }
        if (sent > 0) known = true;
        out->chunk[c].sent = sent;
        out->chunk[c].shift = shift;
        uint32_t next = (uint32_t)first;
        for (unsigned j = 0; j < sent; j++) {
            unsigned gap = tape_unary(&tape) << rice;
            gap |= tape_number(&tape, rice);
            out->index[out->entries] = next + gap;
            out->code[out->entries++] = tape_bit(&tape) << 1;
            next += gap + 1;
        }
        for (unsigned at = 0, run_rice = message.data[28]; sent > 0; at++) {
            at += tape_unary(&tape) << run_rice;
            at += tape_number(&tape, run_rice);
            if (at >= sent) break;
            out->code[out->entries - sent + at] |= 1;
        }
    }
    free(tape.data);
}

static size_t gaps_cost(const uint32_t *index, unsigned sent, uint32_t first, unsigned rice) {
    size_t cost = 0;
    for (unsigned j = 0; j < sent; j++)
        cost += 1 + rice + ((index[j] - (j ? index[j - 1] + 1 : first)) >> rice);
    return cost;
}

/* The lengths of the runs of small elements in one chunk, one before each large element and the one
 * at the end. */
static unsigned runs_of(const unsigned *code, unsigned sent, unsigned *run) {
    unsigned runs = 0, length = 0;
    for (unsigned j = 0; j < sent; j++) {
        if (code[j] & 1) {
            run[runs++] = length;
            length = 0;
        } else {
            length++;
        }
    }
    run[runs++] = length;
    return runs;
}

static unsigned cheapest_for_runs(enum codec codec, const struct content *content) {
    size_t cost[8] = {0};
    const unsigned *code = content->code;
    for (size_t c = 0; c * CHUNK < content->count; code += content->chunk[c++].sent) {
        unsigned run[129], runs = runs_of(code, content->chunk[c].sent, run);
        CHECK(content->chunk[c].sent <= keep_whole(codec));
        if (content->chunk[c].sent == 0) continue;
        for (unsigned r = 0; r < 8; r++) {
            for (unsigned j = 0; j < runs; j++) cost[r] += (run[j] >> r) + 1 + r;
        }
    }
    unsigned best = 0;
    for (unsigned r = 1; r < 8; r++) {
        if (cost[r] < cost[best]) best = r;
    }
    return best;
}

static size_t write_again(enum codec codec, const struct content *content, uint8_t *out) {
    uint8_t header[12] = {(uint8_t)codec, 1};
    for (unsigned byte = 0; byte < 8; byte++)
        header[4 + byte] = (uint8_t)((uint64_t)content->count >> 8 * byte);
    memcpy(out, header, 12);
    memcpy(out + 12, content->table, 16);
    unsigned run_rice = cheapest_for_runs(codec, content);
    out[28] = (uint8_t)run_rice;
    struct tape tape = {out + 29, 0, 0};
    const uint32_t *index = content->index;
    const unsigned *code = content->code;
    int shift = 0;
    bool known = false;
    for (size_t first = 0; first < content->count; first += CHUNK) {
        size_t c = first / CHUNK, size = MIN((size_t)CHUNK, content->count - first);
        unsigned sent = content->chunk[c].sent, rice = 0;
        for (unsigned r = 1; r <= 12; r++) {
            if (gaps_cost(index, sent, (uint32_t)first, r) <
                gaps_cost(index, sent, (uint32_t)first, rice))
                rice = r;
        }
        size_t special = 5 + sent_width(codec) + gaps_cost(index, sent, (uint32_t)first, rice);
        if (sent == keep_for(codec, size) &&
            1 + gaps_cost(index, sent, (uint32_t)first, usual_rice(codec)) <= special) {
            rice = usual_rice(codec);
            tape_write(&tape, 1, 1);
        } else {
            tape_write(&tape, 0, 1);
            tape_write(&tape, rice, 4);
            tape_write(&tape, sent, sent_width(codec));
        }
        if (sent > 0 && known) {
            int difference = content->chunk[c].shift - shift;
            unsigned value = 1 + (difference < 0 ? (unsigned)(-2 * difference - 1)
                                                 : (unsigned)(2 * difference)),
                     width = 0;
            while (value >> (width + 1)) width++;
            tape_write(&tape, 0, width);
            tape_write(&tape, 1, 1);
            tape_write(&tape, value - (1u << width), width);
        }
        if (sent > 0) shift = content->chunk[c].shift, known = true;
        uint32_t next = (uint32_t)first;
        for (unsigned j = 0; j < sent; j++, next = index[j - 1] + 1) {
            unsigned gap = index[j] - next;
            for (unsigned zero = 0; zero < gap >> rice; zero++) tape_write(&tape, 0, 1);
            tape_write(&tape, 1, 1);
            tape_write(&tape, gap, rice);
            tape_write(&tape, code[j] >> 1, 1);
        }
        unsigned run[129], runs = sent > 0 ? runs_of(code, sent, run) : 0;
        for (unsigned j = 0; j < runs; j++) {
            tape_write(&tape, 0, run[j] >> run_rice);
            tape_write(&tape, 1, 1);
            tape_write(&tape, run[j], run_rice);
        }
        index += sent;
        code += sent;
    }
    return 29 + (tape.at + 7) / 8;
}

/* The codec accepted it, so the second implementation reads the same values out of it and writes
 * the same bytes. */
static void check_canonical(enum codec codec, struct bytes message, size_t count) {
    struct error error = {0};
    struct content *content = xcalloc(1, sizeof *content);
    parse(codec, message, count, content);
    uint8_t *again = xcalloc(1, codec_bound(codec, count) + 64);
    size_t size = write_again(codec, content, again);
    CHECK_EQUAL(size, message.size);
    CHECK_MEMORY(again, message.data, size);
    float *out = xcalloc(count + 1, sizeof *out), *wanted = xcalloc(count + 1, sizeof *wanted);
    CHECK_OK(codec_decode(codec, message, count, out, &error));
    for (size_t j = 0; j < content->entries; j++) {
        uint32_t raw;
        memcpy(&raw, content->table + 4 * content->code[j], 4);
        wanted[content->index[j]] =
            float_from(raw) * ldexpf(1, content->chunk[content->index[j] / CHUNK].shift);
    }
    CHECK_MEMORY(out, wanted, count * sizeof *out);
    free(content);
    free(again);
    free(out);
    free(wanted);
}

/* --- tests --- */

static const enum codec both[] = {CODEC_TOPK2_64, CODEC_TOPK2_128};

TEST(a_message_for_one_element_is_the_bytes_worked_out_by_hand) {
    const float two = 2.0f;
    struct buffer message = encoded(CODEC_TOPK2_64, &two, NULL, 1);
    /* header: codec 5, version 1, 0, count 1; table: 2.0 0 0 0; runs' Rice parameter 0;
     * bits: 1 (usual form), 1 (gap 0), 00000, 0 (positive), 01 (a run of one, to the end) */
    const uint8_t wanted[] = {5, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40,
                              0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 2};
    CHECK_EQUAL(message.size, sizeof wanted);
    CHECK_MEMORY(message.data, wanted, sizeof wanted);
    buffer_deinit(&message);
}

TEST(the_largest_are_sent_ties_go_to_the_lowest_index_and_zeroes_are_never_sent) {
    const size_t sizes[] = {1, 31, 63, 64, 65, 4095, 4096, 4097, 8192, 20000};
    for (size_t trial = 0; trial < 2 * COUNT_OF(sizes) * 6; trial++) {
        enum codec codec = both[trial % 2];
        size_t count = sizes[trial / 2 % COUNT_OF(sizes)], kind = trial / 2 / COUNT_OF(sizes);
        struct random random;
        random_init(&random, trial);
        float *x = normals(count, trial, 1e-3f);
        for (size_t i = 0; i < count; i++) {
            /* ties, zeroes */
            if (kind == 1) x[i] = (float)((int)random_below(&random, 5) - 2);
            if (kind == 2) x[i] = -1.0f; /* all equal */
                                         /* few, denormal */
            if (kind == 3) x[i] = random_below(&random, 400) ? -0.0f : 3e-42f;
            /* of any size */
            if (kind == 4) x[i] = float_from((uint32_t)random_u64(&random) & 0xBF7FFFFF);
            if (kind == 5) x[i] = 0.0f;
        }
        uint8_t *sent = xcalloc(count, 1);
        for (size_t first = 0; first < count; first += CHUNK) {
            size_t size = MIN((size_t)CHUNK, count - first);
            mark_largest(x + first, size, keep_for(codec, size), sent + first);
        }
        struct error error = {0};
        struct buffer message = encoded(codec, x, NULL, count);
        uint16_t *senders = xcalloc(count, sizeof *senders);
        float *sum = xcalloc(count, sizeof *sum);
        struct codec_round round = {xcalloc(count, sizeof(float)), sum, senders};
        CHECK_OK(codec_check(codec, buffer_bytes(&message), count, &error));
        codec_merge_whole(codec, buffer_bytes(&message), count, 1, 0.5f, &round);
        for (size_t i = 0; i < count; i++) {
            CHECK_EQUAL(senders[i], sent[i]);
            if (kind != 4 && sent[i]) CHECK(sum[i] != 0 && (sum[i] < 0) == (x[i] < 0));
            CHECK(round.theta[i] == -0.5f * sum[i]);
        }
        check_canonical(codec, buffer_bytes(&message), count);
        buffer_deinit(&message);
        free(x);
        free(sent);
        free(sum);
        free(senders);
        free(round.theta);
    }
}

static double bits_a_parameter(enum codec codec, const float *x, size_t count) {
    struct buffer message = encoded(codec, x, NULL, count);
    double bits = 8.0 * (double)message.size / (double)count;
    buffer_deinit(&message);
    return bits;
}

TEST(evenly_spread_deltas_meet_the_target_of_bits_a_parameter) {
    const size_t count = 1300000;
    float *x = normals(count, 1, 1e-3f);
    CHECK(bits_a_parameter(CODEC_TOPK2_64, x, count) <= 0.137);
    CHECK(bits_a_parameter(CODEC_TOPK2_128, x, count) <= 0.240);
    free(x);
}

/* Rows of 128 of very different sizes, as an embedding's: positions cluster and chunks differ in
 * scale. */
TEST(clustered_deltas_of_many_scales_meet_it_too) {
    const size_t count = 1300000;
    float *x = normals(count, 2, 1e-3f), *row = normals(count / 128 + 1, 3, 1.0f);
    for (size_t i = 0; i < count; i++)
        x[i] *= row[i / 128] * row[i / 128] * (float)(1 + i / 300000 * 7);
    CHECK(bits_a_parameter(CODEC_TOPK2_64, x, count) <= 0.145);
    CHECK(bits_a_parameter(CODEC_TOPK2_128, x, count) <= 0.255);
    /* one row in sixteen has it all */
    for (size_t i = 0; i < count; i++) x[i] = i / 128 % 16 ? x[i] * 1e-3f : x[i];
    CHECK(bits_a_parameter(CODEC_TOPK2_64, x, count) <= 0.130);
    free(x);
    free(row);
}

TEST(the_worst_case_stays_within_the_bound) {
    const size_t count = 40 * CHUNK;
    float *x = xcalloc(count, sizeof *x);
    for (size_t i = 0; i < count;
         i++) { /* the kept ones far apart in places, scales at both ends */
        bool kept = i % 64 == 63;
        x[i] = (kept ? 4.0f : 1.0f) * (i / CHUNK % 2 ? 1e30f : 1e-30f);
    }
    for (size_t j = 0; j < 2; j++) {
        struct buffer message = encoded(both[j], x, NULL, count);
        check_canonical(both[j], buffer_bytes(&message), count);
        buffer_deinit(&message);
    }
    free(x);
}

TEST(tensors_of_different_scale_are_decoded_each_at_its_own) {
    const size_t count = 8 * CHUNK;
    float *x = normals(count, 5, 1.0f), *out = xcalloc(count, sizeof *out);
    for (size_t i = 0; i < count; i++) x[i] *= i < 3 * CHUNK ? 1e-6f : 1.0f;
    struct error error = {0};
    struct buffer message = encoded(CODEC_TOPK2_64, x, NULL, count);
    CHECK_OK(codec_decode(CODEC_TOPK2_64, buffer_bytes(&message), count, out, &error));
    for (size_t i = 0; i < count; i++) {
        if (out[i] != 0) CHECK(out[i] / x[i] > 0.5f && out[i] / x[i] < 2.0f);
    }
    buffer_deinit(&message);
    free(x);
    free(out);
}

TEST(the_ends_of_fp32_are_encoded_to_finite_messages) {
    const float extremes[] = {3.4028235e38f, -3.4028235e38f, 1e-45f, -1e-45f, 1.1754944e-38f,
                              1e20f,         -1e-20f,        0.0f,   -0.0f};
    struct random random;
    random_init(&random, 11);
    for (size_t trial = 0; trial < 300; trial++) {
        size_t count = 1 + random_below(&random, 3 * CHUNK);
        float *x = xcalloc(count, sizeof *x), *e = xcalloc(count, sizeof *e);
        for (size_t i = 0; i < count; i++)
            x[i] = trial % 3 && random_below(&random, 100)
                       ? 0
                       : extremes[random_below(&random, COUNT_OF(extremes))];
        struct buffer message = encoded(both[trial % 2], x, e, count);
        check_canonical(both[trial % 2], buffer_bytes(&message), count);
        buffer_deinit(&message);
        free(x);
        free(e);
    }
}

TEST(what_a_flipped_bit_makes_of_a_message_is_refused_or_canonical) {
    for (size_t trial = 0; trial < 12; trial++) {
        enum codec codec = both[trial % 2];
        size_t count = (const size_t[]){1, 31, 200, 4095, 4097, 5000}[trial / 2];
        float *x = normals(count, trial, 1), *out = xcalloc(count, sizeof *out);
        for (size_t i = 0; i < count / 2; i++) x[i] *= 1e-4f;
        struct buffer message = encoded(codec, x, NULL, count);
        size_t accepted = 0;
        for (size_t bit = 0; bit < 8 * message.size; bit++) {
            message.data[bit / 8] = (uint8_t)(message.data[bit / 8] ^ 1u << bit % 8);
            if (codec_decode(codec, buffer_bytes(&message), count, out, NULL) == OK) {
                check_canonical(codec, buffer_bytes(&message), count);
                accepted++;
            }
            message.data[bit / 8] = (uint8_t)(message.data[bit / 8] ^ 1u << bit % 8);
        }
        CHECK(accepted >
              0); /* the table's mantissas at least: or the test has not looked at anything */
        buffer_deinit(&message);
        free(x);
        free(out);
    }
}

TEST_WITHIN(a_hundred_thousand_mutated_messages_are_refused_or_canonical, 120000) {
    struct random random;
    random_init(&random, 42);
    size_t accepted = 0;
    for (size_t start = 0; start < 100; start++) {
        enum codec codec = both[start % 2];
        size_t count = 1 + random_below(&random, start % 4 ? 600 : 9000);
        float *x = normals(count, start, 1), *out = xcalloc(count, sizeof *out);
        for (size_t i = 0; i < count; i++) x[i] = random_below(&random, 3) ? x[i] : 0;
        struct buffer message = encoded(codec, x, NULL, count);
        uint8_t *copy = xmalloc(message.size + 8);
        for (size_t mutation = 0; mutation < 1000; mutation++) {
            memcpy(copy, message.data, message.size);
            size_t size = message.size;
            for (size_t edits = 1 + random_below(&random, 4); edits > 0; edits--) {
                size_t from = random_below(&random, 4) ? 29 : 0,
                       at = from + random_below(&random, message.size - from);
                copy[at] = (uint8_t)random_u64(&random);
            }
            if (random_below(&random, 4) == 0) size = random_below(&random, size + 8);
            for (size_t at = message.size; at < size; at++) copy[at] = (uint8_t)random_u64(&random);
            uint8_t *exact = xmalloc(size); /* so that a sanitizer sees a read past the end */
            memcpy(exact, copy, size);
            if (codec_decode(codec, bytes_of(exact, size), count, out, NULL) == OK) {
                check_canonical(codec, bytes_of(exact, size), count);
                accepted++;
            }
            free(exact);
        }
        free(copy);
        free(x);
        free(out);
        buffer_deinit(&message);
    }
    CHECK(accepted > 100);
}

/* One refusal a rule, each with a message made for it. */
static void check_refused(const uint8_t *payload, size_t size, size_t count, const char *why) {
    struct error error = {0};
    struct buffer message = {0};
    const uint8_t head[4] = {CODEC_TOPK2_64, 1, 0, 0};
    buffer_append(&message, head, 4);
    buffer_u64(&message, count);
    buffer_append(&message, payload, size);
    CHECK_STATUS(codec_check(CODEC_TOPK2_64, buffer_bytes(&message), count, &error), INVALID);
    CHECK_CONTAINS(error.message, why);
    buffer_deinit(&message);
}

TEST(each_broken_rule_is_named) {
    enum { RUNS = 16, BITS = 17, SIZE = 19 };
    const uint8_t two[4] = {0, 0, 0, 0x40}, four[4] = {0, 0, 0x80, 0x40},
                  infinite[4] = {0, 0, 0x80, 0x7F};
    uint8_t payload[40] = {0}; /* as for one element of 2.0: 1, 1, 00000, 0, 01 */
    check_refused(payload, 16, 1, "truncated in its table");
    check_refused(payload, 17, 1, "chunk 0: truncated");
    memcpy(payload, two, 4);
    payload[BITS] = 3;
    payload[BITS + 1] = 2;
    check_refused(payload, SIZE - 1, 1, "truncated, or a run");
    check_refused(payload, SIZE + 1, 1, "after the last chunk");
    payload[BITS + 1] = 2 | 4; /* a padding bit */
    check_refused(payload, SIZE, 1, "padding");
    payload[BITS + 1] = 4; /* a run of two */
    check_refused(payload, SIZE, 1, "a run is too long");
    payload[BITS + 1] = 1 | 2; /* a run of none, a large element, a run of none */
    check_refused(payload, SIZE, 1, "table entry 0 is not zero but unused");
    payload[BITS + 1] = 2;
    payload[RUNS] = 8;
    check_refused(payload, SIZE, 1, "Rice parameter is out of range");
    payload[RUNS] = 1; /* a run of one is 1, 1 */
    payload[BITS + 1] = 3;
    check_refused(payload, SIZE, 1, "not the cheapest");
    payload[RUNS] = 0;
    payload[BITS + 1] = 2;
    memcpy(payload + 4, four, 4);
    check_refused(payload, SIZE, 1, "table entry 1 is not zero but unused");
    memset(payload + 4, 0, 4);
    memcpy(payload, infinite, 4);
    check_refused(payload, SIZE, 1, "table entry 0 is not finite");
    memset(payload, 0, 4);
    check_refused(payload, SIZE, 1, "table entry 0 is zero but used");
    memcpy(payload + 8, two, 4);
    check_refused(payload, SIZE, 1, "table entry 2 has the wrong sign");
    memset(payload, 0, sizeof payload);
    memcpy(payload, two, 4);
    payload[BITS] = 1 | 1 << 1 | 1 << 2; /* gap 1 in a chunk of one element */
    check_refused(payload, SIZE, 1, "an index is beyond its end");
    payload[BITS] = 0 | 15 << 1; /* Rice 15 */
    check_refused(payload, SIZE, 1, "Rice parameter");
    payload[BITS] = 0 | 0 << 1 | 2 << 5; /* sends two of one */
    check_refused(payload, SIZE, 1, "more elements than it may");
    payload[BITS] =
        0 | 0 << 1 |
        1 << 5; /* the long form of the usual: rice 0, sent 1 (bits 5 to 11), gap "1", 0, 01 */
    payload[BITS + 1] = 1 << 4 | 1 << 7;
    check_refused(payload, SIZE, 1, "not in its shortest form");
    payload[BITS] = 0 | 1 << 1; /* nothing sent, but a Rice parameter */
    payload[BITS + 1] = 0;
    check_refused(payload, SIZE, 1, "not in its shortest form");
}

TEST(a_delta_of_nothing_and_a_message_of_no_elements_round_trip) {
    struct error error = {0};
    for (size_t count = 0; count < 3 * CHUNK; count += CHUNK) {
        float *x = xcalloc(count + 1, sizeof *x), *out = xcalloc(count + 1, sizeof *out);
        struct buffer message = encoded(CODEC_TOPK2_64, x, NULL, count);
        CHECK(message.size <= 29 + 3);
        CHECK_OK(codec_decode(CODEC_TOPK2_64, buffer_bytes(&message), count, out, &error));
        CHECK_MEMORY(out, x, count * sizeof *x);
        buffer_deinit(&message);
        free(x);
        free(out);
    }
}

/* Messages that only the second writer can make: take a good one apart, break one thing, put it
 * together again. */
static void check_rewritten(const struct content *content, const char *why) {
    struct error error = {0};
    uint8_t *bytes = xcalloc(1, codec_bound(CODEC_TOPK2_64, content->count) + 64);
    size_t size = write_again(CODEC_TOPK2_64, content, bytes);
    enum status status = codec_check(CODEC_TOPK2_64, bytes_of(bytes, size), content->count, &error);
    if (why) {
        CHECK_EQUAL(status, INVALID);
        CHECK_CONTAINS(error.message, why);
    } else {
        CHECK_EQUAL(status, OK);
    }
    free(bytes);
}

TEST(shifts_and_tables_out_of_range_are_refused) {
    enum { COUNT = 2 * CHUNK };
    float *x = xcalloc(COUNT, sizeof *x);
    for (size_t i = 0; i < 20; i++) x[i] = x[CHUNK + i] = i == 7 ? 10.0f : 1.0f;
    struct buffer message = encoded(CODEC_TOPK2_64, x, NULL, COUNT);
    struct content *content = xcalloc(1, sizeof *content);
    parse(CODEC_TOPK2_64, buffer_bytes(&message), COUNT, content);
    CHECK(content->entries == 40 && content->code[0] == 0 && content->code[7] == 1 &&
          content->chunk[1].shift == 0);
    check_rewritten(content, NULL);
    for (int shift = 124; shift <= 129; shift++) {
        content->chunk[1].shift = -shift;
        check_rewritten(content, shift <= 126 ? NULL : "chunk 1: shift is out of range");
        content->chunk[1].shift =
            shift; /* the table has 1 and 10, and 10 · 2^124 is still finite */
        check_rewritten(content, shift <= 124   ? NULL
                                 : shift <= 126 ? "table entry 1 is not finite once shifted"
                                                : "shift is out of range");
    }
    content->chunk[1].shift = 0;
    uint8_t small[4];
    memcpy(small, content->table, 4);
    memcpy(content->table, content->table + 4, 4);
    check_rewritten(content, NULL); /* equal is allowed */
    memcpy(content->table + 4, small, 4);
    check_rewritten(content, "table entry 0 is larger than entry 1");
    memcpy(content->table, small, 4);
    const uint8_t minus_zero[4] = {0, 0, 0, 0x80};
    memcpy(content->table + 8, minus_zero, 4);
    content->code[3] = 2;
    check_rewritten(content, "table entry 2 has the wrong sign");
    buffer_deinit(&message);
    free(content);
    free(x);
}

TEST(an_index_that_repeats_or_goes_back_cannot_be_written) {
    struct error error = {0};
    float *x = normals(CHUNK, 9, 1);
    struct buffer message = encoded(CODEC_TOPK2_64, x, NULL, CHUNK);
    struct content *content = xcalloc(1, sizeof *content);
    parse(CODEC_TOPK2_64, buffer_bytes(&message), CHUNK, content);
    content->index[63] = CHUNK; /* the one way to leave the chunk: past its end */
    uint8_t *bytes = xcalloc(1, codec_bound(CODEC_TOPK2_64, CHUNK) + 64);
    size_t size = write_again(CODEC_TOPK2_64, content, bytes);
    CHECK_STATUS(codec_check(CODEC_TOPK2_64, bytes_of(bytes, size), CHUNK, &error), INVALID);
    CHECK_CONTAINS(error.message, "beyond its end");
    buffer_deinit(&message);
    free(bytes);
    free(content);
    free(x);
}
