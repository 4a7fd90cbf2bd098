/* Counters and gauges, written as Prometheus text (exposition format 0.0.4).
 *
 * A metric is registered once, usually at start, and then updated through its handle from any
 * thread: an update is one or two relaxed atomic operations, no lock, no allocation, so the
 * training loop may count as it likes. Registering and writing take the registry's lock. Names
 * begin with `atoll_`, use base units (seconds, bytes, never milliseconds) and counters end in
 * `_total`: a name that breaks this asserts. Labels that every line carries (run_id, site_id) are
 * given to the registry.
 *
 * A value read while others write is at most one update old.
 */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct metrics; /* the registry */
struct metric;  /* one series: a name with its labels; lives as long as its registry */

struct metric_label {
    const char *name, *value; /* value: any text; it is escaped */
};

enum { METRICS_LIMIT = 20000, METRIC_LABELS_MAX = 8 };
#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* The common labels are copied. */
struct metrics *metrics_create(const struct metric_label *common, size_t common_count);
void metrics_destroy(struct metrics *metrics); /* nobody may update any more; NULL is a no-op */

/* All arguments are copied. The same name and labels again give the same handle; the same name as
 * another kind asserts. Past METRICS_LIMIT series the handle is a shared one that is never written,
 * and atoll_metrics_dropped_total says how many. */
struct metric *metrics_counter(struct metrics *metrics, const char *name, const char *help,
                               const struct metric_label *labels, size_t label_count);
struct metric *metrics_gauge(struct metrics *metrics, const char *name, const char *help,
                             const struct metric_label *labels, size_t label_count);
/* Any thread. NULL is a no-op, so that code without a registry (a simulated node) needs no second
 * path. */
void metric_add(struct metric *metric, double by);    /* counter (by >= 0; else ignored) or gauge */
void metric_increment(struct metric *metric);         /* by 1 */
void metric_set(struct metric *metric, double value); /* gauge */
double metric_value(const struct metric *metric);     /* 0 for NULL */

/* Appends the whole page; families in the order of registration. */
void metrics_write(struct metrics *metrics, struct buffer *out);

#endif
