#include "model/schedule.h"

#include "tests/test.h"

TEST(warmup_rises_in_a_line_and_reaches_the_peak_at_its_last_token) {
    const struct schedule s = {.shape = SCHEDULE_CONSTANT, .peak = 1.0f, .warmup_tokens = 1000};
    CHECK_NEAR(schedule_at(&s, 0), 0.001, 1e-6);
    CHECK_NEAR(schedule_at(&s, 500), 0.5005, 1e-4);
    CHECK(schedule_at(&s, 1000) == 1.0f);
    CHECK(schedule_at(&s, UINT64_MAX) == 1.0f);
}

TEST(cosine_and_line_fall_to_the_floor_and_stay_there) {
    struct schedule s = {.shape = SCHEDULE_COSINE,
                         .peak = 1.0f,
                         .floor = 0.1f,
                         .warmup_tokens = 100,
                         .total_tokens = 1100};
    CHECK(schedule_at(&s, 100) == 1.0f);
    CHECK_NEAR(schedule_at(&s, 600), 0.55, 1e-6);
    CHECK_NEAR(schedule_at(&s, 350), 0.1 + 0.9 * 0.5 * (1 + sqrt(0.5)), 1e-6);
    CHECK(schedule_at(&s, 1100) == 0.1f);
    CHECK(schedule_at(&s, UINT64_MAX) == 0.1f);
    s.shape = SCHEDULE_LINEAR;
    CHECK_NEAR(schedule_at(&s, 350), 0.775, 1e-6);
    CHECK(schedule_at(&s, 5000) == 0.1f);
}
