/* The planner: closed forms, conservation, monotony, what faults cost, and that its output is what
 * it says. */
#include "plan/plan.h"

#include "base/json.h"
#include "base/memory.h"
#include "plan/plan_internal.h"
#include "tests/test.h"

static struct topology *read_plan(const char *text) {
    struct topology *topology = NULL;
    struct error error = {0};
    CHECK_OK(topology_parse(bytes_of(text, strlen(text)), "plan.yaml", &topology, &error));
    return topology;
}

static struct plan_result planned(const char *text) {
    struct topology *topology = read_plan(text);
    struct plan_result result;
    plan_run(topology, NULL, 0, 1, &result);
    topology_destroy(topology);
    return result;
}

static void close_to(double got, double wanted, double share) {
    if (!(fabs(got - wanted) <= share * fabs(wanted)))
        test_failed(__FILE__, __LINE__, "%.9g is not near %.9g", got, wanted);
}

#define STORM                                                                                      \
    "coordinator: {up: 400Mbit/s, down: 400Mbit/s, outages: {every: 2h, lasts: 3m}}\n"             \
    "defaults:\n  step: 1s\n  failures: {every: 3h, lasts: 4m}\n  link: {up: 30Mbit/s, down: "     \
    "80Mbit/s, rtt: 150ms, jitter: "                                                               \
    "30ms, "                                                                                       \
    "loss: 0.01%, outages: {every: 2h, lasts: 2m}, resets: {every: 10m}}\n"                        \
    "sites:\n  - {name: a, count: 3}\n  - {name: b, count: 4, spread: 30%, joins: 1h, leaves: "    \
    "9h}\n"

TEST(one_site_that_waits_takes_exactly_the_sum_of_its_parts) {
    struct plan_result result =
        planned("duration: 240h\nmodel: {parameters: 1B}\n"
                "run: {inner_steps: 100, overlap: false, bits: 0.16, warmup_steps: 0, "
                "snapshot_interval: 1M}\n"
                "coordinator: {disk_rate: 1GB/s, commit: 10ms, decode: 1ns, step: 2ns}\n"
                "sites:\n  - {name: a, step: 1s, encode: 4ns, decode: 1ns, copy: 0.2ns, link: {up: "
                "80Mbit/s, down: "
                "80Mbit/s, rtt: 100ms, window: 10MB}}\n");
    double payload = 0.16 / 8 * 1e9 + 12, rate = 10e6, rtt = 0.1;
    double slow_start = rtt * 0.5 * floor(log(rate * rtt / 14480) / log(2));
    double upload = rtt / 2 + rtt + slow_start + payload * WIRE_SHARE / rate;
    double intake = payload / 1e9 + 0.005 + 1, step = 2 + 1, commit = 0.01;
    double down = rtt / 2 + (WIRE_STEP + WIRE_PART) / rate, replay = 1 + 1;
    double cycle =
        100 + 0.2 + (4 + 0.008) - 0.2 + upload + intake + step + commit + down + replay + 0.2;
    close_to(result.busy, 100 / cycle, 1e-3);
    close_to((double)result.versions, floor(240 * 3600 / cycle), 1e-3);
    CHECK_EQUAL(result.contributions - result.versions <= 1, 1);
    CHECK_EQUAL(plan_staleness(&result, 1), 0);
    close_to(result.effective_inner_steps, 100, 1e-9);
    plan_result_deinit(&result);
}

TEST(every_second_of_every_site_has_one_cause) {
    static const char *const runs[] = {
        "run: {inner_steps: 60}\n",
        "run: {inner_steps: 60, overlap: false, quorum: 3, grace: 1m}\n",
        "run: {inner_steps: 200, codec: int8, fragments: 4}\n",
        "run: {inner_steps: 100, fragments: 3, overlap: false}\n"};
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        char text[2048];
        snprintf(text, sizeof text, "duration: 12h\nmodel: {parameters: 300M}\n%s%s", runs[i],
                 STORM);
        struct plan_result result = planned(text);
        for (uint32_t j = 0; j < result.site_count; j++) {
            double sum = 0;
            for (size_t cause = 0; cause < PLAN_CAUSES; cause++) {
                CHECK(result.sites[j].time[cause] >= -1e-6);
                sum += result.sites[j].time[cause];
            }
            close_to(sum, 12 * 3600, 1e-9);
            CHECK(result.sites[j].sent_lost >= 0 && result.sites[j].received_lost >= 0);
            CHECK(result.sites[j].sent > result.sites[j].sent_lost);
            /* int8 is too much for these links: who joins late may never catch up */
            CHECK(result.sites[j].merged > 0 || i == 2);
        }
        close_to(result.up_bytes, result.up_received + result.up_lost, 1e-12);
        close_to(result.down_bytes, result.down_received + result.down_lost, 1e-12);
        /* what is merged has arrived */
        CHECK(result.up_received >= (double)result.versions * result.round_bytes);
        CHECK(result.up_lost > 0 && result.down_lost > 0);
        plan_result_deinit(&result);
    }
}

TEST(with_overlap_on_no_link_ever_stops_training) {
    struct plan_result result =
        planned("duration: 24h\nmodel: {parameters: 1B}\nrun: {inner_steps: 30, codec: int8}\n"
                "coordinator: {outages: {at: 5h, at_lasts: 1h}}\n"
                "sites:\n  - {count: 4, step: 1s, link: {up: 10Mbit/s, rtt: 300ms, resets: {every: "
                "1m}}}\n");
    for (int cause = PLAN_WAIT_ENCODE; cause <= PLAN_WAIT_DOWN; cause++)
        CHECK(plan_share(&result, (enum plan_cause)cause) == 0);
    CHECK(result.busy > 0.99);
    CHECK(result.effective_inner_steps > 5 * result.wanted_inner_steps); /* rounds wait instead */
    CHECK_CONTAINS(result.binding, "uplinks");
    plan_result_deinit(&result);
}

TEST(an_outage_of_the_coordinator_is_booked_as_such) {
    struct plan_result result = planned(
        "duration: 6h\nmodel: {parameters: 100M}\nrun: {inner_steps: 60, overlap: false}\n"
        "coordinator: {outages: {at: 2h, at_lasts: 30m, regular: true}}\nsites:\n  - {step: 1s}\n");
    double lost = result.sites[0].time[PLAN_WAIT_OUTAGE];
    CHECK(lost > 28.5 * 60 && lost <= 30 * 60);
    plan_result_deinit(&result);
}

TEST(regular_failures_cost_repair_restart_and_rework_exactly) {
    struct plan_result result = planned(
        "duration: 11h\nmodel: {parameters: 100M}\nrun: {inner_steps: 100000, dylu: false}\n"
        "sites:\n  - {step: 1s, restart: 1m, checkpoint: 10m, failures: {every: 55m, lasts: 4m, "
        "regular: true}}\n");
    const struct plan_site *site = &result.sites[0];
    CHECK_EQUAL(site->crashes, 11); /* at 55 m, then each 59 m */
    close_to(site->time[PLAN_REPAIR], 11 * 240, 1e-9);
    close_to(site->time[PLAN_RESTART], 11 * 60, 1e-9);
    /* 55 and 54 of each 10 minutes */
    CHECK(site->time[PLAN_REWORK] > 11 * 3 * 60.0 && site->time[PLAN_REWORK] < 11 * 6 * 60.0);
    plan_result_deinit(&result);
}

/* The crash comes at every point of the 13 s of a round: often while what the other sent waits. */
TEST(a_site_that_dies_during_warm_up_is_waited_for_as_long_as_it_counts_as_present) {
    for (int second = 0; second < 13; second++) {
        char text[512];
        snprintf(text, sizeof text,
                 "duration: 2h\nmodel: {parameters: 10M}\n"
                 "run: {inner_steps: 10, warmup_steps: 1M, warmup_grace: 5h, dylu: false}\n"
                 "sites:\n  - {name: a, step: 1s}\n"
                 "  - {name: b, step: 1.3s, failures: {at: %ds, at_lasts: 3h}}\n",
                 3600 + second);
        struct plan_result result = planned(text);
        CHECK(result.versions >= 3600 / 14 + 3500 / 12); /* by both, then by one */
        plan_result_deinit(&result);
    }
}

TEST(a_faster_link_never_lowers_goodput_and_a_larger_h_never_raises_bytes) {
    double last = 0;
    for (int rate = 5; rate <= 1280; rate *= 4) {
        char text[512];
        snprintf(text, sizeof text,
                 "duration: 12h\nmodel: {parameters: 1B}\nrun: {inner_steps: 100, overlap: false}\n"
                 "sites:\n  - {count: 4, step: 1s, link: {up: %dMbit/s, down: %dMbit/s}}\n",
                 rate, rate);
        struct plan_result result = planned(text);
        CHECK(result.busy >= last);
        last = result.busy;
        plan_result_deinit(&result);
    }
    CHECK(last > 0.8);
    double bytes = INFINITY;
    for (int steps = 25; steps <= 1600; steps *= 2) {
        char text[512];
        snprintf(text, sizeof text,
                 "duration: 24h\nmodel: {parameters: 1B}\nrun: {inner_steps: %d}\nsites:\n  - "
                 "{count: 4, step: 1s}\n",
                 steps);
        struct plan_result result = planned(text);
        CHECK(result.up_bytes <= bytes);
        bytes = result.up_bytes;
        plan_result_deinit(&result);
    }
}

TEST(downlink_is_the_number_of_the_others_times_uplink) {
    struct plan_result result = planned("duration: 24h\nmodel: {parameters: 1B}\nrun: "
                                        "{inner_steps: 100}\nsites:\n  - {count: 4, step: 1s}\n");
    close_to(result.down_bytes / result.up_bytes, 3, 0.02); /* measured on real processes: 3.03 */
    close_to(result.uplink_bits, 0.1387, 0.03);             /* measured: 0.1387 */
    CHECK(plan_staleness(&result, 1) <= 6);
    plan_result_deinit(&result);
}

TEST(a_shared_link_is_shared_max_min) {
    double caps[] = {1, 5, 100};
    uint32_t counts[] = {2, 1, 3};
    CHECK(isinf(fair_level(caps, counts, 3, 307)));
    close_to(fair_level(caps, counts, 3, 37), 10, 1e-12);
    close_to(fair_level(caps, counts, 3, 3), 0.5, 1e-12);
    double level = fair_level(caps, counts, 3, 20), sum = 0;
    for (size_t i = 0; i < 3; i++) sum += counts[i] * fmin(caps[i], level);
    close_to(sum, 20, 1e-12);
    struct plan_result result =
        planned("duration: 12h\nmodel: {parameters: 1B}\nrun: {codec: int8, inner_steps: 200}\n"
                "coordinator: {up: 200Mbit/s}\nsites:\n  - {count: 8, step: 1s}\n");
    CHECK(result.peak_out <= 25e6 * 1.001 && result.peak_out > 24e6);
    CHECK(result.sites[0].behind > 0.5 * 12 * 3600);
    plan_result_deinit(&result);
}

TEST(contributions_older_than_the_cap_are_refused) {
    struct plan_result result = planned("duration: 12h\nmodel: {parameters: 300M}\nrun: "
                                        "{inner_steps: 20, staleness_cap: 2, dylu: false}\n"
                                        "sites:\n  - {name: fast, count: 6, step: 1s}\n  - {name: "
                                        "slow, step: 1s, link: {up: 1Mbit/s}}\n");
    CHECK(result.refused_stale > 0 && result.sites[6].refused_stale > 0);
    CHECK(plan_staleness(&result, 1) <= 2 + 6);
    CHECK(result.sites[0].merged > 100);
    plan_result_deinit(&result);
}

/* 300 M parameters in 5 MB at 0.125 MB/s: 41 s, in which six sites make some 12 steps. */
#define SLOW_UPLINK(cap)                                                                           \
    "duration: 6h\nmodel: {parameters: 300M}\nrun: {inner_steps: 20, staleness_cap: " cap          \
    ", dylu: false}\n"                                                                             \
    "sites:\n  - {name: fast, count: 6, step: 1s, spread: 20%}\n  - {name: slow, step: 1s, link: " \
    "{up: 1Mbit/s}}\n"

TEST(a_site_whose_uploads_outlast_the_cap_is_named_and_the_cap_that_would_do_suffices) {
    struct topology *topology = read_plan(SLOW_UPLINK("4"));
    struct plan_result result;
    struct plan_advice advice;
    struct buffer text = {0};
    char again[32];
    plan_run(topology, NULL, 0, 1, &result);
    CHECK(result.sites[6].merged < 10); /* in the warm-up, which waits for it */
    CHECK(result.sites[6].starved && !result.sites[0].starved);
    CHECK_EQUAL(result.starved_sites, 1);
    CHECK(result.cap_wanted > 4);
    CHECK_CONTAINS(result.binding, "the staleness cap of 4 against upload time: 1 site (slow)");
    plan_advise(topology, 1, &result, &advice);
    CHECK(!advice.fine);
    plan_text(topology, &result, &advice, &text);
    buffer_append(&text, "", 1);
    snprintf(again, sizeof again, "a staleness_cap of %llu", (unsigned long long)result.cap_wanted);
    CHECK_CONTAINS((const char *)text.data, again);
    topology->run.staleness_cap = (double)result.cap_wanted;
    plan_result_deinit(&result);
    plan_run(topology, NULL, 0, 1, &result);
    CHECK_EQUAL(result.starved_sites, 0);
    CHECK(result.sites[6].merged > 100);
    CHECK(strstr(result.binding, "staleness") == NULL);
    plan_result_deinit(&result);
    topology_destroy(topology);
    buffer_deinit(&text);
}

/* The same slow site; 2 of 20 others stay, and make some 40 steps in one of its uploads: within
 * twice 21, beyond the 16 that 3 sites have at least. */
TEST(a_cap_that_is_left_to_the_federation_is_by_the_sites_that_are_there) {
    struct plan_result result =
        planned("duration: 6h\nmodel: {parameters: 300M}\nrun: {inner_steps: 2, dylu: false}\n"
                "sites:\n  - {name: fast, count: 2, step: 1s}\n"
                "  - {name: slow, step: 1s, link: {up: 1Mbit/s}}\n"
                "  - {name: left, count: 18, step: 100s, leaves: 2h}\n");
    CHECK(result.sites[2].merged > 50); /* of some 170 */
    CHECK(result.sites[2].refused_stale > 50);
    CHECK_EQUAL(result.cap_most, 42);
    plan_result_deinit(&result);
}

static struct plan_result planned_with(const char *text, const char *const rules[], size_t count) {
    struct topology *topology = read_plan(text);
    struct rules_change *changes = NULL;
    struct manifest begin;
    struct error error = {0};
    struct plan_result result;
    plan_rules(topology, &begin);
    CHECK_OK(rules_changes(rules, count, &begin, "a plan", plan_ignores, &changes, &error));
    plan_run(topology, changes, count, 1, &result);
    free(changes);
    topology_destroy(topology);
    return result;
}

/* 6 sites without DyLU, each alone in its step; from the middle on a step waits for all of them. */
#define EVEN                                                                                       \
    "duration: 10h\nmodel: {parameters: 100M}\nrun: {inner_steps: 100, dylu: false, grace: "       \
    "forever, warmup_steps: 0}\nsites:\n  - {count: 6, step: 1s, spread: 10%}\n"

TEST(a_rule_that_changes_on_the_way_holds_from_then_on) {
    const char *const rules[] = {"5h merge.quorum 6"};
    struct plan_result plain = planned(EVEN), changed = planned_with(EVEN, rules, 1);
    double steps = (double)plain.versions;
    close_to(steps, (double)plain.contributions, 0.01);
    close_to((double)changed.versions, steps / 2 + steps / 12, 0.05);
    plan_result_deinit(&changed);
    plan_result_deinit(&plain);
    /* half of the rounds have ten times as many steps */
    const char *const longer[] = {"5h inner.inner_steps 1000"};
    changed = planned_with(EVEN, longer, 1);
    close_to((double)changed.versions, steps / 2 + steps / 20, 0.05);
    plan_result_deinit(&changed);
}

TEST(of_two_changes_at_one_time_the_later_text_holds) {
    const char *const one[] = {"1h merge.quorum 6", "0s merge.quorum 6", "0s merge.quorum 1"};
    const char *const six[] = {"0s merge.quorum 1", "0s merge.quorum 6"};
    struct plan_result plain = planned(EVEN), first = planned_with(EVEN, one + 1, 2),
                       second = planned_with(EVEN, six, 2), third = planned_with(EVEN, one, 3);
    CHECK_EQUAL(first.versions, plain.versions);
    close_to((double)second.versions, (double)plain.versions / 6, 0.15);
    /* by time, whatever their order */
    close_to((double)third.versions, (double)plain.versions * (0.1 + 0.9 / 6), 0.15);
    plan_result_deinit(&third);
    plan_result_deinit(&second);
    plan_result_deinit(&first);
    plan_result_deinit(&plain);
}

TEST(a_rule_that_a_plan_cannot_follow_is_refused) {
    struct topology *topology = read_plan(EVEN);
    struct manifest begin;
    struct rules_change *changes = NULL;
    const struct {
        const char *text, *why;
    } refused[] = {{"5h merge.quorum", "write a time, a key and a value"},
                   {"5x merge.quorum 3", "--rule \"5x merge.quorum 3\""},
                   {"5h merge.quorom 3", "did you mean merge.quorum"},
                   {"5h merge.quorum 0", "merge.quorum"},
                   {"5h fragments 2", "fragments holds for the whole run"},
                   {"5h outer.period 9", "outer.period cannot change in a plan"},
                   {"5h codec.kind topk2-128", "codec.kind cannot change in a plan"}};
    plan_rules(topology, &begin);
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        struct error error = {0};
        CHECK_STATUS(
            rules_changes(&refused[i].text, 1, &begin, "a plan", plan_ignores, &changes, &error),
            INVALID);
        CHECK_CONTAINS(error.message, refused[i].why);
        CHECK(changes == NULL);
    }
    topology_destroy(topology);
}

TEST(many_sites_are_planned_in_quanta_and_come_out_alike) {
    struct plan_result few = planned(
        "duration: 12h\nmodel: {parameters: 100M}\nrun: {inner_steps: 300, quorum: 16, grace: 1m}\n"
        "sites:\n  - {count: 64, step: 1s, spread: 20%}\n");
    struct plan_result many = planned(
        "duration: 12h\nmodel: {parameters: 100M}\nrun: {inner_steps: 300, quorum: 16, grace: 1m}\n"
        "sites:\n  - {count: 65, step: 1s, spread: 20%}\n");
    CHECK(few.quantum == 0 && many.quantum > 0);
    close_to(many.busy, few.busy, 0.01);
    close_to((double)many.contributions / 65, (double)few.contributions / 64, 0.02);
    close_to(many.effective_inner_steps, few.effective_inner_steps, 0.05);
    plan_result_deinit(&few);
    plan_result_deinit(&many);
}

static void all_output(uint64_t seed, struct buffer *json, struct buffer *svg,
                       struct buffer *text) {
    struct topology *topology = read_plan("duration: 6h\ntarget_tokens: 1B\nmodel: {parameters: "
                                          "300M}\nrun: {inner_steps: 60}\n" STORM);
    struct plan_result result;
    struct plan_advice advice;
    plan_run(topology, NULL, 0, seed, &result);
    plan_advise(topology, seed, &result, &advice);
    CHECK(advice.count > 5);
    plan_json(topology, &result, &advice, json);
    plan_svg(topology, &result, svg);
    plan_text(topology, &result, &advice, text);
    plan_result_deinit(&result);
    topology_destroy(topology);
}

/* Tags nest and close, attributes are quoted. */
static void check_xml(const struct buffer *svg) {
    int depth = 0;
    bool root = false;
    for (size_t at = 0; at < svg->size; at++) {
        if (svg->data[at] != '<') continue;
        size_t end = at, quotes = 0;
        while (end < svg->size && svg->data[end] != '>') quotes += svg->data[end++] == '"';
        CHECK(end < svg->size && quotes % 2 == 0);
        bool closes = svg->data[at + 1] == '/', alone = svg->data[end - 1] == '/';
        CHECK(closes || depth > 0 || !root);
        root = true;
        depth += closes ? -1 : alone ? 0 : 1;
        CHECK(depth >= 0);
        at = end;
    }
    CHECK_EQUAL(depth, 0);
}

TEST(output_is_the_same_bytes_for_a_seed_and_is_json_and_svg) {
    struct buffer out[9] = {{0}};
    for (size_t i = 0; i < 3; i++)
        all_output(i == 2 ? 8 : 7, &out[3 * i], &out[3 * i + 1], &out[3 * i + 2]);
    for (size_t i = 0; i < 3; i++) {
        CHECK(bytes_equal(buffer_bytes(&out[i]), buffer_bytes(&out[3 + i])));
        CHECK(!bytes_equal(buffer_bytes(&out[i]), buffer_bytes(&out[6 + i])));
    }
    struct json *json = NULL;
    struct error error = {0};
    CHECK_OK(json_parse(buffer_bytes(&out[0]), NULL, &json, &error));
    const struct json_value *sites = json_object_get(json_root(json), "sites");
    CHECK(sites && sites->count == 7);
    const struct json_value *seconds = json_object_get(json_array_get(sites, 2), "seconds");
    CHECK(seconds && seconds->count == PLAN_CAUSES);
    json_close(json);
    check_xml(&out[1]);
    for (size_t i = 0; i < 9; i++) buffer_deinit(&out[i]);
}

TEST(advice_finds_a_setting_that_keeps_sites_busy) {
    struct topology *topology =
        read_plan("duration: 24h\nmodel: {parameters: 10B}\nrun: {codec: int8, inner_steps: 30}\n"
                  "sites:\n  - {count: 4, step: 2s, encode: 0.1ns, decode: 0.05ns, copy: 0, link: "
                  "{up: 200Mbit/s, down: 1Gbit/s}}\n");
    struct plan_result result;
    struct plan_advice advice;
    plan_run(topology, NULL, 0, 1, &result);
    plan_advise(topology, 1, &result, &advice);
    CHECK(!advice.fine && advice.best >= 0);
    const struct plan_candidate *best = &advice.candidates[advice.best];
    CHECK(best->reaches && best->codec == CODEC_TOPK2_64 && best->stretch <= 1.1);
    plan_result_deinit(&result);
    topology_destroy(topology);
}

TEST(presets_come_near_what_was_reported) {
    for (size_t i = 0; topology_preset_names[i]; i++) {
        struct topology *topology = NULL;
        struct error error = {0};
        struct plan_result result;
        CHECK_OK(topology_preset(topology_preset_names[i], &topology, &error));
        topology->duration = fmin(topology->duration, 36 * 3600.0);
        plan_run(topology, NULL, 0, 1, &result);
        CHECK(result.versions > 0 && result.busy > 0.5 && result.busy <= 1);
        if (!isnan(topology->reported.busy))
            CHECK(fabs(result.busy - topology->reported.busy) < 0.08);
        plan_result_deinit(&result);
        topology_destroy(topology);
    }
}
