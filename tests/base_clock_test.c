#include "base/clock.h"

#include "tests/test.h"

TEST(time_goes_on_and_a_sleep_is_no_shorter_than_asked) {
    uint64_t ns = clock_monotonic_ns(), ms = clock_monotonic_ms();
    clock_sleep_ms(25);
    CHECK(clock_monotonic_ns() - ns >= 25000000);
    CHECK(clock_monotonic_ms() - ms >= 24);
    clock_sleep_ms(0);
}

TEST(monotonic_time_never_goes_back) {
    uint64_t last = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_monotonic_ns();
        CHECK(now >= last);
        last = now;
    }
}

TEST(the_wall_clock_counts_milliseconds_since_1970) {
    CHECK(clock_wall_ms() > 1700000000000u && clock_wall_ms() < 10000000000000u);
}
