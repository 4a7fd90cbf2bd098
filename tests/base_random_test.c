#include "base/random.h"

#include "tests/test.h"

/* splitmix64's first outputs for seed 0, and xoshiro256**'s for the state {1, 2, 3, 4}, as their
 * authors' reference code gives them. */
TEST(the_stream_is_the_published_one) {
    struct random random;
    random_init(&random, 0);
    CHECK(random.state[0] == 0xe220a8397b1dcdafu && random.state[1] == 0x6e789e6aa1b965f4u);
    CHECK(random.state[2] == 0x06c45d188009454fu && random.state[3] == 0xf88bb8a8724c81ecu);
    random = (struct random){{1, 2, 3, 4}};
    static const uint64_t wanted[] = {11520u, 0u, 1509978240u, 1215971899390074240u};
    for (int i = 0; i < 4; i++) CHECK(random_u64(&random) == wanted[i]);
}

TEST(a_seed_decides_the_stream) {
    struct random a, b, c;
    random_init(&a, 7);
    random_init(&b, 7);
    random_init(&c, 8);
    unsigned same = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t value = random_u64(&a);
        CHECK(value == random_u64(&b));
        same += value == random_u64(&c);
    }
    CHECK_EQUAL(same, 0);
}

TEST(below_a_limit_is_uniform) {
    struct random random;
    unsigned counts[7] = {0};
    random_init(&random, 1);
    for (int i = 0; i < 70000; i++) counts[random_below(&random, 7)]++;
    for (int i = 0; i < 7; i++) CHECK_NEAR(counts[i], 10000, 500); /* five sigma */
    for (int i = 0; i < 100; i++) CHECK_EQUAL(random_below(&random, 1), 0);
    /* With a limit of 3/4 of the range, modulo bias would put twice as many into the lower third.
     */
    unsigned low = 0;
    for (int i = 0; i < 30000; i++) low += random_below(&random, 3ull << 62) < 1ull << 62;
    CHECK_NEAR(low, 10000, 500);
}

TEST(the_unit_interval_is_half_open_with_the_right_mean) {
    struct random random;
    double sum = 0;
    random_init(&random, 2);
    for (int i = 0; i < 100000; i++) {
        double value = random_unit(&random);
        CHECK(value >= 0 && value < 1);
        sum += value;
    }
    CHECK_NEAR(sum / 100000, 0.5, 0.005);
}

TEST(the_hash_depends_on_seed_and_position_in_every_bit) {
    CHECK(random_hash(1, 2) == random_hash(1, 2));
    double flipped = 0;
    for (uint64_t i = 0; i < 4096; i++) {
        flipped += __builtin_popcountll(random_hash(9, i) ^ random_hash(9, i + 1));
        flipped += __builtin_popcountll(random_hash(i, 9) ^ random_hash(i ^ 1u << (i % 32), 9));
    }
    CHECK_NEAR(flipped / 8192, 32, 0.5);
}

TEST(the_systems_randomness_is_no_repetition) {
    uint8_t a[64] = {0}, b[64] = {0};
    random_system(a, sizeof a);
    random_system(b, sizeof b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    random_system(a, 0);
}
TEST_EXPECTED_TO(CRASH, below_nothing_asserts) {
    struct random random;
    random_init(&random, 1);
    random_below(&random, 0);
}
