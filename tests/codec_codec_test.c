/* What holds for every codec: round trips, error feedback, merging, refusals; and golden digests,
 * so that a change of one bit of any message, on any compiler or machine, is seen. */
#include "codec/codec.h"

#include "base/memory.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "tests/test.h"

static const enum codec all[] = {CODEC_FP32, CODEC_BF16,     CODEC_INT8,
                                 CODEC_FP4,  CODEC_TOPK2_64, CODEC_TOPK2_128};
static const size_t sizes[] = {0, 1, 31, 127, 128, 129, 4095, 4096, 4097, 1000003};

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

static float *normals(size_t count, uint64_t seed, float scale) {
    struct random random;
    random_init(&random, seed);
    float *x = xmalloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++) {
        double sum = -6;
        for (int term = 0; term < 12; term++) sum += random_unit(&random);
        x[i] = scale * (float)sum;
    }
    return x;
}

static float *zeroes(size_t count) { return xcalloc(count + 1, sizeof(float)); }

static struct buffer encoded(enum codec codec, const float *base, const float *local, float *e,
                             size_t count) {
    struct error error = {0};
    struct codec_encoder *encoder = NULL;
    struct buffer out = {0};
    CHECK_OK(codec_encoder_create(codec, count, &encoder, &error));
    CHECK_OK(codec_encode(encoder, base, local, e, &out, &error));
    CHECK(out.size <= codec_bound(codec, count));
    if (!codec_is_sparse(codec)) CHECK_EQUAL(out.size, codec_bound(codec, count));
    codec_encoder_destroy(encoder);
    return out;
}

static uint64_t digest_of(const void *data, size_t size) { /* FNV-1a, 64 bit */
    uint64_t digest = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3ull;
    return digest;
}

TEST(names_go_both_ways_and_others_are_refused) {
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        enum codec codec = CODEC_FP32;
        CHECK_OK(codec_parse(codec_name(all[c]), &codec, &error));
        CHECK_EQUAL(codec, all[c]);
        CHECK(codec_is_known((int)codec));
    }
    enum codec codec;
    CHECK_STATUS(codec_parse("topk2", &codec, &error), INVALID);
    CHECK_CONTAINS(error.message, "topk2-64");
    CHECK(!codec_is_known(0) && !codec_is_known(7));
    struct codec_encoder *encoder = NULL;
    CHECK_STATUS(codec_encoder_create((enum codec)9, 4, &encoder, &error), INVALID);
    CHECK_STATUS(codec_encoder_create(CODEC_TOPK2_64, SIZE_MAX, &encoder, &error), INVALID);
}

TEST(every_codec_keeps_its_error_bound_at_every_size) {
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        for (size_t s = 0; s < COUNT_OF(sizes); s++) {
            size_t count = sizes[s];
            float *x = normals(count, s, 1e-3f), *out = zeroes(count);
            struct buffer message = encoded(all[c], x, NULL, NULL, count);
            CHECK_OK(codec_check(all[c], buffer_bytes(&message), count, &error));
            CHECK_OK(codec_decode(all[c], buffer_bytes(&message), count, out, &error));
            for (size_t block = 0; block < count; block += CODEC_BLOCK) {
                size_t end = MIN(block + CODEC_BLOCK, count);
                float largest = 0;
                for (size_t i = block; i < end; i++) largest = fmaxf(largest, fabsf(x[i]));
                for (size_t i = block; i < end; i++) {
                    float off = fabsf(out[i] - x[i]);
                    if (all[c] == CODEC_FP32) CHECK(off == 0);
                    if (all[c] == CODEC_BF16) CHECK(off <= fabsf(x[i]) / 256);
                    if (all[c] == CODEC_INT8) CHECK(off <= largest / 127);
                    if (all[c] == CODEC_FP4) CHECK(off <= fmaxf(fabsf(x[i]) / 3, largest / 64));
                    if (codec_is_sparse(all[c])) CHECK(off <= fabsf(x[i]) + 1e-3f);
                }
            }
            buffer_deinit(&message);
            free(x);
            free(out);
        }
    }
}

TEST(dense_codecs_meet_their_targets_of_bits_a_parameter) {
    const size_t count = 1300000;
    CHECK(8 * codec_bound(CODEC_BF16, count) <= count * 16 + 8 * 12);
    CHECK((double)codec_bound(CODEC_INT8, count) * 8 / (double)count <= 8.1);
    CHECK((double)codec_bound(CODEC_FP4, count) * 8 / (double)count <= 4.1);
    CHECK((double)codec_bound(CODEC_TOPK2_64, count) * 8 / (double)count <= 0.165);
}

/* What error feedback promises, to the bit: e after = (0.95·e + (base − local)) − decoded, each
 * operation rounded once. */
/* Dense codecs to the bit, topk2 within 4 % for deltas that are about normal. */
TEST(messages_take_the_bits_per_parameter_that_are_told) {
    enum { COUNT = 64 * 4096 };
    struct error error = {0};
    struct random random;
    random_init(&random, 11);
    float *delta = xmalloc(COUNT * sizeof *delta), *feedback = xmalloc(COUNT * sizeof *feedback);
    for (size_t i = 0; i < COUNT; i++) {
        double sum = -6;
        for (int j = 0; j < 12; j++) sum += random_unit(&random);
        delta[i] = (float)sum;
    }
    for (enum codec codec = CODEC_FP32; codec <= CODEC_TOPK2_128; codec++) {
        struct codec_encoder *encoder = NULL;
        struct buffer out = {0};
        memset(feedback, 0, COUNT * sizeof *feedback);
        CHECK_OK(codec_encoder_create(codec, COUNT, &encoder, &error));
        CHECK_OK(codec_encode(encoder, delta, NULL, feedback, &out, &error));
        double bits = 8 * (double)(out.size - CODEC_HEADER_SIZE) / COUNT;
        CHECK_NEAR(bits, codec_bits(codec), codec_is_sparse(codec) ? 0.04 * codec_bits(codec) : 0);
        codec_encoder_destroy(encoder);
        buffer_deinit(&out);
    }
    free(delta);
    free(feedback);
}

TEST(error_feedback_keeps_exactly_what_was_not_sent) {
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        for (size_t s = 0; s < COUNT_OF(sizes) - 1; s++) {
            size_t count = sizes[s];
            float *base = normals(count, s, 1), *local = normals(count, s + 50, 1),
                  *e = normals(count, s + 100, 0.1f);
            float *wanted = zeroes(count), *delta = zeroes(count), *out = zeroes(count);
            elementwise_copy(wanted, e, count);
            elementwise_subtract(delta, base, local, count);
            elementwise_feedback(wanted, delta, 0.95f, count);
            struct buffer message = encoded(all[c], base, local, e, count);
            CHECK_OK(codec_decode(all[c], buffer_bytes(&message), count, out, &error));
            elementwise_subtract(wanted, wanted, out, count);
            CHECK_MEMORY(e, wanted, count * sizeof *e);
            buffer_deinit(&message);
            free(base), free(local), free(e), free(wanted), free(delta), free(out);
        }
    }
}

/* Σ 0.95^(R−r)·q_r + e_R = Σ 0.95^(R−r)·delta_r over R rounds: what is not sent now is sent later,
 * or still held. */
TEST(no_mass_is_lost_over_many_rounds) {
    enum { COUNT = 9000, ROUNDS = 40 };
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        float *e = zeroes(COUNT), *out = zeroes(COUNT);
        double *in_total = xcalloc(COUNT, sizeof *in_total),
               *sent_total = xcalloc(COUNT, sizeof *sent_total);
        for (uint64_t round = 0; round < ROUNDS; round++) {
            float *delta = normals(COUNT, 1000 + round, 1e-3f);
            struct buffer message = encoded(all[c], delta, NULL, e, COUNT);
            CHECK_OK(codec_decode(all[c], buffer_bytes(&message), COUNT, out, &error));
            for (size_t i = 0; i < COUNT; i++) {
                in_total[i] = 0.95 * in_total[i] + (double)delta[i];
                sent_total[i] = 0.95 * sent_total[i] + (double)out[i];
            }
            buffer_deinit(&message);
            free(delta);
        }
        for (size_t i = 0; i < COUNT; i++)
            CHECK_NEAR(sent_total[i] + (double)e[i], in_total[i], 2e-8);
        free(e), free(out), free(in_total), free(sent_total);
    }
}

TEST(a_refused_message_goes_back_into_the_feedback) {
    enum { COUNT = 5000 };
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        float *x = normals(COUNT, 3, 1), *e = zeroes(COUNT);
        struct buffer message = encoded(all[c], x, NULL, e, COUNT);
        CHECK_OK(codec_restore(all[c], buffer_bytes(&message), COUNT, e, &error));
        for (size_t i = 0; i < COUNT; i++) CHECK_NEAR(e[i], x[i], 1e-6);
        buffer_deinit(&message);
        free(x), free(e);
    }
}

struct visited {
    uint64_t next;
    float *out;
    uint16_t *senders;
};

static void collect(void *context, const uint64_t *index, const float *value, size_t count) {
    struct visited *visited = context;
    for (size_t j = 0; j < count; j++) {
        CHECK(index[j] >= visited->next);
        visited->next = index[j] + 1;
        visited->out[index[j]] = value[j];
        visited->senders[index[j]]++;
    }
}

TEST(decoding_restoring_visiting_and_the_norm_agree) {
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        for (size_t s = 0; s < COUNT_OF(sizes) - 1; s++) {
            size_t count = sizes[s];
            float *x = normals(count, s + 7, 1), *out = zeroes(count), *sum = zeroes(count),
                  *seen = zeroes(count);
            uint16_t *visits = xcalloc(count + 1, sizeof *visits);
            struct buffer message = encoded(all[c], x, NULL, NULL, count);
            struct bytes bytes = buffer_bytes(&message);
            struct visited visited = {0, seen, visits};
            double norm = -1;
            CHECK_OK(codec_decode(all[c], bytes, count, out, &error));
            CHECK_OK(codec_restore(all[c], bytes, count, sum, &error));
            CHECK_OK(codec_visit(all[c], bytes, count, collect, &visited, &error));
            CHECK_OK(codec_walk(all[c], bytes, count, &norm, NULL, &error));
            CHECK(norm == elementwise_norm_squared(out, count));
            for (size_t i = 0; i < count; i++) {
                CHECK(sum[i] == out[i] && seen[i] == out[i]);
                if (!codec_is_sparse(all[c])) CHECK_EQUAL(visits[i], 1);
                if (out[i] != 0) CHECK_EQUAL(visits[i], 1);
            }
            buffer_deinit(&message);
            free(x), free(out), free(sum), free(seen), free(visits);
        }
    }
}

TEST(a_delta_that_is_not_finite_is_refused_and_nothing_has_changed) {
    enum { COUNT = 10000 };
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        for (size_t kind = 0; kind < 5; kind++) {
            float *base = normals(COUNT, 1, 1), *local = normals(COUNT, 2, 1),
                  *e = normals(COUNT, 3, 1), *before = zeroes(COUNT);
            size_t at = kind * 2499;
            if (kind == 0) base[at] = NAN;
            if (kind == 1) local[at] = INFINITY;
            if (kind == 2) e[at] = -INFINITY;
            if (kind == 3) base[at] = 3e38f, local[at] = -3e38f; /* the difference overflows */
            if (kind == 4) base[at] = 3e38f, e[at] = 3e38f;      /* the sum does */
            elementwise_copy(before, e, COUNT);
            struct codec_encoder *encoder = NULL;
            struct buffer out = {0};
            buffer_u8(&out, 77);
            CHECK_OK(codec_encoder_create(all[c], COUNT, &encoder, &error));
            CHECK_STATUS(codec_encode(encoder, base, local, e, &out, &error), INVALID);
            char wanted[64];
            snprintf(wanted, sizeof wanted, "element %zu ", at);
            CHECK_CONTAINS(error.message, wanted);
            CHECK_EQUAL(out.size, 1);
            CHECK_MEMORY(e, before, COUNT * sizeof *e);
            /* and the encoder is none the worse for it */
            base[at] = local[at] = e[at] = 0;
            CHECK_OK(codec_encode(encoder, base, local, e, &out, &error));
            CHECK_OK(codec_check(all[c], bytes_of(out.data + 1, out.size - 1), COUNT, &error));
            codec_encoder_destroy(encoder);
            buffer_deinit(&out);
            free(base), free(local), free(e), free(before);
        }
    }
}

TEST(special_values_come_through_finite) {
    const float special[] = {
        0.0f,           -0.0f,         1e-45f,         -1e-45f, 5.877472e-39f /* 2^-127 */,
        1.1754944e-38f, 3.4028235e38f, -3.4028235e38f, 1.0f,    -1.5f,
        3.0f,           127.5f,        2.3693558e-38f, 1e30f};
    struct error error = {0};
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        for (size_t trial = 0; trial < 200; trial++) {
            struct random random;
            random_init(&random, trial);
            size_t count = 1 + random_below(&random, 400),
                   kinds = 1 + random_below(&random, COUNT_OF(special));
            size_t from = random_below(&random, COUNT_OF(special) - kinds + 1);
            float *x = zeroes(count), *out = zeroes(count);
            for (size_t i = 0; i < count; i++) x[i] = special[from + random_below(&random, kinds)];
            struct buffer message = encoded(all[c], x, NULL, NULL, count);
            CHECK_OK(codec_decode(all[c], buffer_bytes(&message), count, out, &error));
            CHECK(elementwise_is_finite(out, count)); /* and every decoder refuses what is not */
            if (!codec_is_sparse(all[c])) { /* what was decoded encodes to the same bytes */
                struct buffer again = encoded(all[c], out, NULL, NULL, count);
                CHECK_EQUAL(again.size, message.size);
                CHECK_MEMORY(again.data, message.data, message.size);
                buffer_deinit(&again);
            }
            buffer_deinit(&message);
            free(x), free(out);
        }
    }
}

TEST(int8_and_fp4_round_as_documented) {
    struct error error = {0};
    const float ints[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.49f, -126.51f};
    const float ints_wanted[] = {127, 0, 2, 2, 0, -2, 126, -127};
    float out[8];
    struct buffer message = encoded(CODEC_INT8, ints, NULL, NULL, 8);
    CHECK_OK(codec_decode(CODEC_INT8, buffer_bytes(&message), 8, out, &error));
    for (size_t i = 0; i < 8; i++) CHECK_NEAR(out[i], ints_wanted[i], 0);
    buffer_deinit(&message);
    const float powers[] = {64, 47.9f, 48, 1.4f, 1.5f, 0.5f, 0.49f, -95};
    const float powers_wanted[] = {64, 32, 64, 1, 2, 1, 0, -64};
    message = encoded(CODEC_FP4, powers, NULL, NULL, 8);
    CHECK_OK(codec_decode(CODEC_FP4, buffer_bytes(&message), 8, out, &error));
    for (size_t i = 0; i < 8; i++) CHECK_NEAR(out[i], powers_wanted[i], 0);
    buffer_deinit(&message);
    const float up = 127.5f; /* would round to 128, so the scale is the next one */
    message = encoded(CODEC_INT8, &up, NULL, NULL, 1);
    CHECK_OK(codec_decode(CODEC_INT8, buffer_bytes(&message), 1, out, &error));
    CHECK_NEAR(out[0], 128, 0);
    buffer_deinit(&message);
}

TEST(messages_cut_anywhere_or_lengthened_are_refused) {
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        for (size_t s = 0; s < 6; s++) {
            size_t count = sizes[s];
            float *x = normals(count, s, 1), *out = zeroes(count);
            struct buffer message = encoded(all[c], x, NULL, NULL, count);
            for (size_t size = 0; size <= message.size + 3; size++) {
                if (size == message.size) continue;
                /* so that a sanitizer sees a read past the end */
                uint8_t *exact = xcalloc(size, 1);
                memcpy(exact, message.data, MIN(size, message.size));
                CHECK_STATUS(codec_decode(all[c], bytes_of(exact, size), count, out, NULL),
                             INVALID);
                free(exact);
            }
            /* nothing was written */
            for (size_t i = 0; i < count; i++) CHECK_EQUAL(bits_of(out[i]), 0);
            buffer_deinit(&message);
            free(x), free(out);
        }
    }
}

TEST(a_message_of_another_codec_count_or_version_is_refused_by_name) {
    struct error error = {0};
    float x[200] = {1, 2, 3}, out[200];
    struct buffer message = encoded(CODEC_INT8, x, NULL, NULL, 200);
    struct bytes bytes = buffer_bytes(&message);
    CHECK_STATUS(codec_decode(CODEC_FP4, bytes, 200, out, &error), INVALID);
    CHECK_CONTAINS(error.message, "codec 3, wanted fp4");
    CHECK_STATUS(codec_decode(CODEC_INT8, bytes, 199, out, &error), INVALID);
    CHECK_CONTAINS(error.message, "has 200 elements, wanted 199");
    CHECK_STATUS(codec_decode((enum codec)200, bytes, 200, out, &error), INVALID);
    CHECK_STATUS(codec_decode(CODEC_INT8, bytes, SIZE_MAX, out, &error), INVALID);
    message.data[1] = 2;
    CHECK_STATUS(codec_decode(CODEC_INT8, bytes, 200, out, &error), INVALID);
    CHECK_CONTAINS(error.message, "version 2");
    message.data[1] = 1, message.data[3] = 1;
    CHECK_STATUS(codec_decode(CODEC_INT8, bytes, 200, out, &error), INVALID);
    CHECK_CONTAINS(error.message, "reserved");
    buffer_deinit(&message);
}

TEST(broken_rules_of_the_dense_codecs_are_named) {
    struct error error = {0};
    const float x[3] = {100, -3, 0};
    float out[3];
    const struct {
        enum codec codec;
        size_t at;
        uint8_t value;
        const char *why;
    } broken[] = {
        {CODEC_FP32, 12 + 3, 0x7F, NULL}, /* 100 is 0x42C80000: 0x7FC80000 is NaN */
        {CODEC_BF16, 12 + 1, 0x7F, NULL},
        {CODEC_INT8, 12, 249, "scale 249 is out of range"},
        {CODEC_INT8, 12, 0, "block 0: largest code"},
        {CODEC_INT8, 12 + 1, 0x80, "largest code 128"},
        {CODEC_INT8, 12 + 1, 50, "largest code 50"},
        {CODEC_FP4, 12, 249, "scale 249 is out of range"},
        {CODEC_FP4, 12, 0, "block 0: largest code"},
        {CODEC_FP4, 12 + 1, 0x06, "largest code 6"},
        {CODEC_FP4, 12 + 2, 0x08, "element 2 is a negative zero"},
        {CODEC_FP4, 12 + 2, 0x10, "padding"},
    };
    for (size_t b = 0; b < COUNT_OF(broken); b++) {
        struct buffer message = encoded(broken[b].codec, x, NULL, NULL, 3);
        message.data[broken[b].at] = broken[b].value;
        CHECK_STATUS(codec_decode(broken[b].codec, buffer_bytes(&message), 3, out, &error),
                     INVALID);
        CHECK_CONTAINS(error.message, broken[b].why ? broken[b].why : "element 0 is not finite");
        buffer_deinit(&message);
    }
}

TEST(what_a_flipped_bit_makes_of_a_dense_message_is_refused_or_canonical) {
    for (size_t c = 0; c < 4; c++) {
        for (size_t s = 0; s < 6; s++) {
            size_t count = sizes[s], accepted = 0, refused = 0;
            float *x = normals(count, s, 1e-38f * (s % 2 ? 1.0f : 1e36f)), *out = zeroes(count);
            struct buffer message = encoded(all[c], x, NULL, NULL, count);
            for (size_t bit = 0; bit < 8 * message.size; bit++) {
                message.data[bit / 8] = (uint8_t)(message.data[bit / 8] ^ 1u << bit % 8);
                if (codec_decode(all[c], buffer_bytes(&message), count, out, NULL) == OK) {
                    struct buffer again = encoded(all[c], out, NULL, NULL, count);
                    CHECK_EQUAL(again.size, message.size);
                    CHECK_MEMORY(again.data, message.data, message.size);
                    buffer_deinit(&again);
                    accepted++;
                } else {
                    refused++;
                }
                message.data[bit / 8] = (uint8_t)(message.data[bit / 8] ^ 1u << bit % 8);
            }
            /* all of the header; some of the payload */
            CHECK(refused >= 96 && (count == 0 || accepted > 0));
            buffer_deinit(&message);
            free(x), free(out);
        }
    }
}

TEST(an_encoder_used_again_gives_the_same_message) {
    float *x = normals(9000, 4, 1), *y = normals(9000, 5, 1e-4f);
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        struct error error = {0};
        struct codec_encoder *encoder = NULL;
        struct buffer first = {0}, second = {0}, other = {0};
        CHECK_OK(codec_encoder_create(all[c], 9000, &encoder, &error));
        CHECK_OK(codec_encode(encoder, x, NULL, NULL, &first, &error));
        CHECK_OK(codec_encode(encoder, y, NULL, NULL, &other, &error));
        CHECK_OK(codec_encode(encoder, x, NULL, NULL, &second, &error));
        CHECK_EQUAL(first.size, second.size);
        CHECK_MEMORY(first.data, second.data, first.size);
        codec_encoder_destroy(encoder);
        buffer_deinit(&first), buffer_deinit(&second), buffer_deinit(&other);
    }
    free(x), free(y);
}

/* The constants were written by gcc at -O0 on x86-64; every other build must arrive at them. */
TEST(messages_have_the_same_bits_everywhere) {
    static const uint64_t wanted[][2] = {
        {0xf906ff98be3f5996, 0x44b0135f0e0c9695}, {0x4c6a7adbe65e8d3b, 0x6ded4dece9714314},
        {0xeec1caffbae387d7, 0x9fa343a9d7aa8d8a}, {0x01e312a3446ca009, 0xf2053647c3df2cea},
        {0xe447dc22b25febab, 0x43bf7cf4bd618808}, {0x9936189399665abd, 0xddf9334d596d5cb4},
    };
    enum { COUNT = 100003 };
    for (size_t c = 0; c < COUNT_OF(all); c++) {
        float *x = normals(COUNT, 77, 1e-3f), *e = zeroes(COUNT);
        struct random random;
        random_init(&random, 78);
        for (size_t i = 0; i < COUNT; i++)
            x[i] *=
                float_from((100 + (uint32_t)(i / 9000)) << 23) * (random_below(&random, 9) ? 1 : 8);
        for (int round = 0; round < 3; round++) {
            struct buffer message = encoded(all[c], x, NULL, e, COUNT);
            if (round == 2) {
                uint64_t message_digest = digest_of(message.data, message.size),
                         e_digest = digest_of(e, COUNT * sizeof *e);
                if (message_digest != wanted[c][0] || e_digest != wanted[c][1]) {
                    test_failed(__FILE__, __LINE__, "%s: {0x%016llx, 0x%016llx}",
                                codec_name(all[c]), (unsigned long long)message_digest,
                                (unsigned long long)e_digest);
                }
            }
            buffer_deinit(&message);
        }
        free(x), free(e);
    }
}
