/* A series never moves, and the lists only grow, so handles stay good and updates need no lock: the
 * lock guards only the list. Values are doubles kept as their bits in a 64-bit atomic; adding is a
 * compare-and-swap loop. */
#include "base/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

enum kind { COUNTER, GAUGE };

struct family { /* all series of one name */
    char *name, *help;
    enum kind kind;
    struct metric *first, *last;
    struct family *next;
};

struct metric {
    struct family *family;
    char *labels; /* `site="eu-1",kind="x"`, common ones first; "" if none */
    struct metric *next;
    _Atomic uint64_t value; /* the bits of a double */
};

struct metrics {
    pthread_mutex_t lock;
    struct buffer common;
    struct family *first, *last;
    size_t count;
    struct metric *overflow[2]; /* by kind: where updates of what did not fit go */
    struct metric *dropped;
};

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* --- names and labels --- */

static void check_name(const char *name, bool total) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    size_t size = strlen(name);
    ASSERT(strncmp(name, "atoll_", 6) == 0 && strspn(name, allowed) == size);
    ASSERT((size > 6 && strcmp(name + size - 6, "_total") == 0) == total);
    ASSERT(!strstr(name, "_ms") && !strstr(name, "_millis")); /* base units */
}

static void append_escaped(struct buffer *out, const char *text, bool quotes) {
    for (const char *c = text; *c; c++) {
        if (*c == '\n')
            buffer_append(out, "\\n", 2);
        else if (*c == '\\' || (quotes && *c == '"'))
            buffer_append_text(out, "\\%c", *c);
        else
            buffer_u8(out, (uint8_t)*c);
    }
}

static void append_labels(struct buffer *out, const struct metric_label *labels, size_t count) {
    ASSERT(count <= METRIC_LABELS_MAX);
    for (size_t i = 0; i < count; i++) {
        ASSERT(labels[i].name[0] &&
               strspn(labels[i].name, "abcdefghijklmnopqrstuvwxyz0123456789_") ==
                   strlen(labels[i].name));
        buffer_append_text(out, "%s%s=\"", out->size ? "," : "", labels[i].name);
        append_escaped(out, labels[i].value, true);
        buffer_u8(out, '"');
    }
}

/* --- the registry --- */

static struct family *find_family(struct metrics *metrics, const char *name) {
    for (struct family *family = metrics->first; family; family = family->next) {
        if (strcmp(family->name, name) == 0) return family;
    }
    return NULL;
}

static struct family *family_create(enum kind kind, const char *name, const char *help) {
    struct family *family = xcalloc(1, sizeof *family);
    family->name = xstrdup(name);
    family->help = xstrdup(help);
    family->kind = kind;
    return family;
}

static struct metric *metric_create(struct family *family, const char *labels) {
    struct metric *metric = xcalloc(1, sizeof *metric);
    metric->family = family;
    metric->labels = xstrdup(labels);
    return metric;
}

static struct metric *find_or_add(struct metrics *metrics, struct family *family,
                                  const char *labels) {
    for (struct metric *metric = family->first; metric; metric = metric->next) {
        if (strcmp(metric->labels, labels) == 0) return metric;
    }
    if (metrics->count >= METRICS_LIMIT) {
        metric_increment(metrics->dropped);
        if (!metrics->overflow[family->kind]) {
            struct family *hidden = family_create(family->kind, "overflow", "");
            metrics->overflow[family->kind] = metric_create(hidden, "");
        }
        return metrics->overflow[family->kind];
    }
    struct metric *metric = metric_create(family, labels);
    if (family->last)
        family->last->next = metric;
    else
        family->first = metric;
    family->last = metric;
    metrics->count++;
    return metric;
}

static struct metric *metrics_register(struct metrics *metrics, enum kind kind, const char *name,
                                       const char *help, const struct metric_label *labels,
                                       size_t label_count) {
    check_name(name, kind == COUNTER);
    struct buffer text = {0};
    pthread_mutex_lock(&metrics->lock);
    buffer_append(&text, metrics->common.data, metrics->common.size);
    append_labels(&text, labels, label_count);
    buffer_u8(&text, 0);
    struct family *family = find_family(metrics, name);
    if (!family) {
        family = family_create(kind, name, help);
        if (metrics->last)
            metrics->last->next = family;
        else
            metrics->first = family;
        metrics->last = family;
    }
    ASSERT(family->kind == kind);
    struct metric *metric = find_or_add(metrics, family, (const char *)text.data);
    pthread_mutex_unlock(&metrics->lock);
    buffer_deinit(&text);
    return metric;
}

struct metrics *metrics_create(const struct metric_label *common, size_t common_count) {
    struct metrics *metrics = xcalloc(1, sizeof *metrics);
    pthread_mutex_init(&metrics->lock, NULL);
    append_labels(&metrics->common, common, common_count);
    metrics->dropped = metrics_counter(metrics, "atoll_metrics_dropped_total",
                                       "Series that did not fit into the registry.", NULL, 0);
    return metrics;
}

static void metric_destroy(struct metric *metric) {
    free(metric->labels);
    free(metric);
}

static void family_destroy(struct family *family) {
    for (struct metric *metric = family->first; metric;) {
        struct metric *next = metric->next;
        metric_destroy(metric);
        metric = next;
    }
    free(family->name);
    free(family->help);
    free(family);
}

void metrics_destroy(struct metrics *metrics) {
    if (!metrics) return;
    for (struct family *family = metrics->first; family;) {
        struct family *next = family->next;
        family_destroy(family);
        family = next;
    }
    for (size_t i = 0; i < COUNT_OF(metrics->overflow); i++) {
        if (!metrics->overflow[i]) continue;
        family_destroy(metrics->overflow[i]->family);
        metric_destroy(metrics->overflow[i]);
    }
    buffer_deinit(&metrics->common);
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

struct metric *metrics_counter(struct metrics *metrics, const char *name, const char *help,
                               const struct metric_label *labels, size_t label_count) {
    return metrics_register(metrics, COUNTER, name, help, labels, label_count);
}

struct metric *metrics_gauge(struct metrics *metrics, const char *name, const char *help,
                             const struct metric_label *labels, size_t label_count) {
    return metrics_register(metrics, GAUGE, name, help, labels, label_count);
}

/* --- updates --- */

static void add_bits(_Atomic uint64_t *bits, double by) {
    uint64_t old = atomic_load_explicit(bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(bits, &old, bits_of(double_of(old) + by),
                                                  memory_order_relaxed, memory_order_relaxed)) {}
}

void metric_add(struct metric *metric, double by) {
    if (!metric) return;
    if (metric->family->kind == COUNTER && !(by >= 0 && by - by == 0)) return;
    add_bits(&metric->value, by);
}

void metric_increment(struct metric *metric) { metric_add(metric, 1); }

void metric_set(struct metric *metric, double value) {
    if (!metric) return;
    ASSERT(metric->family->kind == GAUGE);
    atomic_store_explicit(&metric->value, bits_of(value), memory_order_relaxed);
}

double metric_value(const struct metric *metric) {
    return metric ? double_of(atomic_load_explicit(&metric->value, memory_order_relaxed)) : 0;
}

/* --- the page --- */

static const char *number_text(double value, char out[static F64_TEXT_SIZE]) {
    if (value != value) return "NaN";
    if (value - value != 0) return value > 0 ? "+Inf" : "-Inf";
    return f64_format(value, out);
}

static void write_plain(const struct metric *metric, struct buffer *out) {
    char text[F64_TEXT_SIZE];
    const char *open = *metric->labels ? "{" : "", *close = *metric->labels ? "}" : "";
    buffer_append_text(out, "%s%s%s%s %s\n", metric->family->name, open, metric->labels, close,
                       number_text(metric_value(metric), text));
}

void metrics_write(struct metrics *metrics, struct buffer *out) {
    static const char *const kinds[] = {"counter", "gauge"};
    pthread_mutex_lock(&metrics->lock);
    for (const struct family *family = metrics->first; family; family = family->next) {
        if (!family->first) continue;
        if (family->first == metrics->dropped && !(metric_value(metrics->dropped) > 0)) continue;
        buffer_append_text(out, "# HELP %s ", family->name);
        append_escaped(out, family->help, false);
        buffer_append_text(out, "\n# TYPE %s %s\n", family->name, kinds[family->kind]);
        for (const struct metric *metric = family->first; metric; metric = metric->next) {
            write_plain(metric, out);
        }
    }
    pthread_mutex_unlock(&metrics->lock);
}
