#include "base/metrics.h"

#include "base/memory.h"
#include "base/thread.h"
#include "tests/test.h"

static const struct metric_label common[] = {{"run_id", "demo"}, {"site_id", "eu-1"}};

static char *page_of(struct metrics *metrics) {
    struct buffer page = {0};
    metrics_write(metrics, &page);
    buffer_u8(&page, 0);
    return (char *)page.data;
}

TEST(counters_and_gauges_appear_with_their_labels) {
    struct metrics *metrics = metrics_create(common, 2);
    struct metric *tokens =
        metrics_counter(metrics, "atoll_node_tokens_total", "Tokens trained on.", NULL, 0);
    struct metric *lag = metrics_gauge(metrics, "atoll_node_lag_versions", "Steps\nbehind \\.",
                                       &(struct metric_label){"who", "a\"b\\c\nd"}, 1);
    metric_add(tokens, 4096);
    metric_increment(tokens);
    metric_set(lag, 3);
    metric_add(lag, -0.5);
    char *page = page_of(metrics);
    CHECK_CONTAINS(page, "# HELP atoll_node_tokens_total Tokens trained on.\n# TYPE "
                         "atoll_node_tokens_total counter\n"
                         "atoll_node_tokens_total{run_id=\"demo\",site_id=\"eu-1\"} 4097\n");
    CHECK_CONTAINS(
        page,
        "# HELP atoll_node_lag_versions Steps\\nbehind \\\\.\n# TYPE atoll_node_lag_versions "
        "gauge\n"
        "atoll_node_lag_versions{run_id=\"demo\",site_id=\"eu-1\",who=\"a\\\"b\\\\c\\nd\"} 2.5\n");
    free(page);
    metrics_destroy(metrics);
}

TEST(the_same_name_and_labels_give_the_same_series_and_one_header) {
    struct metrics *metrics = metrics_create(NULL, 0);
    struct metric *a =
        metrics_counter(metrics, "atoll_x_total", "h", &(struct metric_label){"site", "a"}, 1);
    struct metric *b =
        metrics_counter(metrics, "atoll_x_total", "h", &(struct metric_label){"site", "b"}, 1);
    CHECK(a != b && a == metrics_counter(metrics, "atoll_x_total", "h",
                                         &(struct metric_label){"site", "a"}, 1));
    char *page = page_of(metrics);
    char *header = strstr(page, "# TYPE atoll_x_total");
    CHECK(header && !strstr(header + 1, "# TYPE atoll_x_total"));
    free(page);
    metrics_destroy(metrics);
}

TEST(a_counter_never_falls_and_ignores_what_is_no_number) {
    struct metrics *metrics = metrics_create(NULL, 0);
    struct metric *counter = metrics_counter(metrics, "atoll_x_total", "h", NULL, 0);
    metric_add(counter, 5);
    metric_add(counter, -1);
    metric_add(counter, NAN);
    metric_add(counter, INFINITY);
    CHECK_NEAR(metric_value(counter), 5, 0);
    metric_add(NULL, 1);
    metric_set(NULL, 1);
    CHECK_NEAR(metric_value(NULL), 0, 0);
    metrics_destroy(metrics);
    metrics_destroy(NULL);
}

TEST(series_past_the_limit_are_dropped_and_counted) {
    struct metrics *metrics = metrics_create(NULL, 0);
    char name[64];
    for (int i = 0; i < METRICS_LIMIT / 200; i++) {
        snprintf(name, sizeof name, "atoll_x%d_total", i);
        for (int j = 0; j < 201; j++) {
            char value[16];
            snprintf(value, sizeof value, "%d", j);
            metric_increment(
                metrics_counter(metrics, name, "h", &(struct metric_label){"j", value}, 1));
        }
    }
    char *page = page_of(metrics);
    CHECK_CONTAINS(
        page, "atoll_metrics_dropped_total 101\n"); /* the limit holds that counter itself too */
    CHECK(!strstr(page, "overflow"));
    free(page);
    metrics_destroy(metrics);
}

enum { UPDATES = 20000, THREADS = 4 };
struct shared {
    struct metrics *metrics;
    struct metric *counter;
};
static void update(void *context) {
    struct shared *shared = context;
    for (int i = 0; i < UPDATES; i++) {
        metric_increment(shared->counter);
        if (i % 5000 == 0)
            metrics_gauge(shared->metrics, "atoll_late", "registered meanwhile", NULL, 0);
    }
}
TEST(no_update_is_lost_between_threads) {
    struct shared shared = {.metrics = metrics_create(NULL, 0)};
    struct error error = {0};
    shared.counter = metrics_counter(shared.metrics, "atoll_x_total", "h", NULL, 0);
    struct thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK_OK(thread_start("updater", update, &shared, &threads[i], &error));
    for (int i = 0; i < 20; i++) free(page_of(shared.metrics));
    for (int i = 0; i < THREADS; i++) CHECK_EQUAL(thread_join(threads[i], UINT64_MAX), OK);
    CHECK_NEAR(metric_value(shared.counter), UPDATES * THREADS, 0);
    metrics_destroy(shared.metrics);
}

TEST_EXPECTED_TO(CRASH, a_counter_without_total_asserts) {
    metrics_counter(metrics_create(NULL, 0), "atoll_x", "h", NULL, 0);
}
TEST_EXPECTED_TO(CRASH, milliseconds_assert) {
    metrics_gauge(metrics_create(NULL, 0), "atoll_x_ms", "h", NULL, 0);
}
