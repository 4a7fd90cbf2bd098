/* The arithmetic of a link, in a time of its own: rates, windows and losses to the percent, on any
 * machine. */
#include "wan/wan_link.h"

#include "tests/test.h"

#define MS 1000000ull
#define SECOND (1000 * MS)

static struct wan_settings settings_of(const char *const pairs[][2]) {
    struct wan_settings settings = wan_settings_default();
    struct error error = {0};
    for (size_t i = 0; pairs[i][0]; i++)
        CHECK_OK(wan_settings_set(&settings, pairs[i][0], pairs[i][1], &error));
    return settings;
}

struct pending {
    uint64_t at_ns;
    size_t size;
};

/* Sends `size` bytes up as fast as the flow allows; returns when the last byte arrives. */
static uint64_t transfer(const struct wan_settings *settings, struct wan_flow *flow,
                         uint64_t now_ns, uint64_t size, uint64_t seed) {
    enum { PENDING_LIMIT = 1 << 16 };
    struct pending *pending = calloc(PENDING_LIMIT, sizeof(*pending));
    size_t first = 0, last = 0;
    struct wan_bottleneck bottleneck = {0};
    struct random random;
    uint64_t arrival = now_ns;
    random_init(&random, seed);
    while (size || first != last) {
        uint64_t wait_ns, next_ns;
        size_t allowed =
            size ? wan_flow_allowance(flow, &bottleneck, settings, WAN_UP, now_ns, &wait_ns) : 0;
        if (allowed) {
            size_t piece = allowed < size ? allowed : size;
            arrival = wan_flow_send(flow, &bottleneck, settings, WAN_UP, &random, now_ns, piece);
            CHECK(arrival >= now_ns + settings->way[WAN_UP].delay_ns);
            pending[last++ % PENDING_LIMIT] =
                (struct pending){arrival + settings->way[WAN_DOWN].delay_ns, piece};
            CHECK(last - first < PENDING_LIMIT);
            size -= piece;
            continue;
        }
        next_ns = size ? wait_ns : UINT64_MAX;
        if (first != last && pending[first % PENDING_LIMIT].at_ns < next_ns) {
            struct pending *one = &pending[first++ % PENDING_LIMIT];
            if (one->at_ns > now_ns) now_ns = one->at_ns;
            wan_flow_acknowledge(flow, &settings->way[WAN_UP], one->size);
        } else {
            CHECK(next_ns != UINT64_MAX && next_ns > now_ns);
            now_ns = next_ns;
        }
    }
    CHECK_EQUAL(flow->unacknowledged, 0);
    free(pending);
    return arrival;
}

static double seconds(const char *const pairs[][2], uint64_t size) {
    struct wan_settings settings = settings_of(pairs);
    struct wan_flow flow;
    wan_flow_init(&flow);
    return (double)transfer(&settings, &flow, SECOND, size, 1) / 1e9 - 1;
}

TEST(a_rate_is_kept_to_the_percent) {
    CHECK_NEAR(seconds((const char *const[][2]){{"rate", "20Mbit/s"}, {NULL}}, 10000000), 4, 0.01);
    CHECK_NEAR(
        seconds((const char *const[][2]){{"up.rate", "1Gbit/s"}, {"down.rate", "1Mbit/s"}, {NULL}},
                250000000),
        2, 0.01);
    CHECK_NEAR(seconds((const char *const[][2]){{"rate", "64kbit/s"}, {NULL}}, 80000), 10, 0.02);
}

TEST(a_byte_takes_the_delay_and_a_window_takes_the_round_trip) {
    double one = seconds((const char *const[][2]){{"rtt", "200ms"}, {NULL}}, 1);
    CHECK_NEAR(one, 0.1, 1e-6);
    /* 64 KiB in every 100 ms: 10 round trips for 640 KiB, and about two more in slow start. */
    double small =
        seconds((const char *const[][2]){{"rtt", "100ms"}, {"window", "64KiB"}, {NULL}}, 655360);
    CHECK_NEAR(small, 1.15, 0.1);
}

/* 10 + 20 + 40 + 80 segments: the last of 150 arrives in the fourth flight. */
TEST(a_flow_starts_slowly_and_again_after_idling) {
    struct wan_settings settings = settings_of((const char *const[][2]){{"rtt", "200ms"}, {NULL}});
    struct wan_flow flow;
    wan_flow_init(&flow);
    uint64_t first = transfer(&settings, &flow, 0, 150 * WAN_SEGMENT, 1);
    CHECK_NEAR((double)first / 1e9, 0.7, 0.001);
    uint64_t warm = transfer(&settings, &flow, first + 100 * MS, 80 * WAN_SEGMENT, 1);
    CHECK_NEAR((double)(warm - first) / 1e9, 0.2, 0.001);
    uint64_t later = transfer(&settings, &flow, warm + 10 * SECOND, 150 * WAN_SEGMENT, 1);
    CHECK_NEAR((double)(later - warm) / 1e9 - 10, 0.7, 0.001);
}

TEST(losses_cost_time_and_one_seed_gives_one_transfer) {
    struct wan_settings clean =
        settings_of((const char *const[][2]){{"rtt", "100ms"}, {"rate", "100Mbit/s"}, {NULL}});
    struct wan_settings lossy = settings_of(
        (const char *const[][2]){{"rtt", "100ms"}, {"rate", "100Mbit/s"}, {"loss", "1%"}, {NULL}});
    struct wan_flow a, b, c;
    wan_flow_init(&a), wan_flow_init(&b), wan_flow_init(&c);
    uint64_t without = transfer(&clean, &a, 0, 4000000, 7),
             with = transfer(&lossy, &b, 0, 4000000, 7);
    CHECK(b.losses > 0 && a.losses == 0);
    CHECK(with >
          3 * without); /* Mathis: 1460 / 0.1 s * 1.22 / sqrt(0.01) is 178 kB/s, not 12.5 MB/s */
    CHECK_NEAR(4000000 / ((double)with / 1e9), 178000, 100000);
    CHECK_EQUAL(transfer(&lossy, &c, 0, 4000000, 7), with);
}

TEST(jitter_never_reorders_and_stays_within_its_bound) {
    struct wan_settings settings =
        settings_of((const char *const[][2]){{"delay", "10ms"}, {"jitter", "20ms"}, {NULL}});
    struct wan_bottleneck bottleneck = {0};
    struct wan_flow flow;
    struct random random;
    uint64_t last = 0, least = UINT64_MAX, most = 0;
    random_init(&random, 3);
    wan_flow_init(&flow);
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t now = i * 100 * MS,
                 arrival = wan_flow_send(&flow, &bottleneck, &settings, WAN_UP, &random, now, 100);
        CHECK(arrival >= last);
        last = arrival;
        if (arrival - now < least) least = arrival - now;
        if (arrival - now > most) most = arrival - now;
        wan_flow_acknowledge(&flow, &settings.way[WAN_UP], 100);
    }
    CHECK(least >= 10 * MS && least < 11 * MS);
    CHECK(most <= 30 * MS && most > 29 * MS);
}

TEST(two_flows_share_one_bottleneck) {
    struct wan_settings settings =
        settings_of((const char *const[][2]){{"rate", "8Mbit/s"}, {NULL}});
    struct wan_bottleneck bottleneck = {0};
    struct wan_flow a, b;
    struct random random;
    random_init(&random, 3);
    wan_flow_init(&a), wan_flow_init(&b);
    CHECK_EQUAL(wan_flow_send(&a, &bottleneck, &settings, WAN_UP, &random, 0, 10000), 10 * MS);
    CHECK_EQUAL(wan_flow_send(&b, &bottleneck, &settings, WAN_UP, &random, 0, 10000), 20 * MS);
}

TEST(a_full_queue_makes_the_sender_wait_until_there_is_room) {
    struct wan_settings settings =
        settings_of((const char *const[][2]){{"rate", "8Mbit/s"}, {"queue", "10kB"}, {NULL}});
    struct wan_bottleneck bottleneck = {.free_ns = 15 * MS};
    struct wan_flow flow;
    uint64_t wait_ns;
    wan_flow_init(&flow);
    CHECK_EQUAL(wan_flow_allowance(&flow, &bottleneck, &settings, WAN_UP, 0, &wait_ns), 0);
    CHECK_EQUAL(wait_ns, 5 * MS + 1);
    CHECK(wan_flow_allowance(&flow, &bottleneck, &settings, WAN_UP, wait_ns, &wait_ns) > 0);
}

TEST(what_is_no_setting_is_refused_with_what_would_be_and_changes_nothing) {
    static const char *const wrong[][3] = {{"up.speed", "3", "rate"},
                                           {"rate", "fast", "1kbit/s to 10Tbit/s or unlimited"},
                                           {"rate", "20", "units bit/s, kbit/s"},
                                           {"rate", "1bit/s", "1kbit/s to"},
                                           {"rate", "-5Mbit/s", "1kbit/s to"},
                                           {"rate", "nanMbit/s", "1kbit/s to"},
                                           {"rtt", "200", "200"},
                                           {"loss", "60%", "0 to 50%"},
                                           {"loss", "-1%", "0 to 50%"},
                                           {"loss", "nan", "0 to 50%"},
                                           {"window", "1", "window"},
                                           {"blackhole", "maybe", "maybe"},
                                           {"sideways.delay", "1ms", "up. or down."},
                                           {"delay", "61s", "0 to 60s"},
                                           {"", "", "up. or down."}};
    struct wan_settings settings = wan_settings_default(), before = settings;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct error error = {0};
        CHECK_STATUS(wan_settings_set(&settings, wrong[i][0], wrong[i][1], &error), INVALID);
        if (strcmp(wrong[i][0], "window") != 0) CHECK_CONTAINS(error.message, wrong[i][2]);
        CHECK_MEMORY(&settings, &before, sizeof(settings));
    }
}

TEST(settings_are_of_one_way_or_of_both) {
    struct wan_settings settings = settings_of((const char *const[][2]){{"rtt", "200ms"},
                                                                        {"up.rate", "20Mbit/s"},
                                                                        {"down.loss", "0.5%"},
                                                                        {"reset", "30s"},
                                                                        {"blackhole", "on"},
                                                                        {"up.corrupt", "1MiB"},
                                                                        {NULL}});
    CHECK_EQUAL(wan_round_trip_ns(&settings), 200 * MS);
    CHECK_EQUAL(settings.way[WAN_UP].rate, 20000000);
    CHECK_EQUAL(settings.way[WAN_DOWN].rate, 0);
    CHECK_NEAR(settings.way[WAN_DOWN].loss, 0.005, 1e-12);
    CHECK_EQUAL(settings.reset_every_ns, 30 * SECOND);
    CHECK(settings.way[WAN_UP].blackhole && settings.way[WAN_DOWN].blackhole);
    CHECK_EQUAL(settings.way[WAN_UP].corrupt_every, 1 << 20);
}
