/* The program's diary: logfmt on stderr, one line an event, stable event names.
 *
 *     info 2026-01-01T00:00:00.123Z update_applied run=demo site=eu-1 staleness=2
 *
 * error = a person must act; warn = degraded; info = a change of state; debug = the rest. A call
 * site that repeats is limited to 20 lines in 10 s; what was dropped is counted and said at the
 * next line; at level debug nothing is dropped. Any thread; one write(2) a line. Never log a secret
 * or a model value. Values with spaces, quotes or '=' are quoted when written with log_quote.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_NONE };

struct log_site { /* one per call site, static, zeroed */
    uint64_t window_start_ms;
    uint32_t in_window, dropped;
};

void log_set_level(enum log_level level); /* default LOG_INFO, or what ATOLL_LOG names */
bool log_is_on(enum log_level level);
/* INVALID names the levels there are. */
MUST_USE enum status log_level_parse(const char *text, enum log_level *out, struct error *error);
/* `key=value` pairs put after every line, such as "run=demo site=eu-1"; copied. NULL removes them.
 */
void log_set_context(const char *pairs);
void log_write(struct log_site *site, enum log_level level, const char *event, const char *format,
               ...) PRINTF_LIKE(4, 5);

#define log_at(level, event, ...)                                                                  \
    do {                                                                                           \
        static struct log_site log_site_;                                                          \
        if (log_is_on(level)) log_write(&log_site_, (level), (event), __VA_ARGS__);                \
    } while (0)

/* The format may be "" where the event says it all. */
#define log_error(event, ...) log_at(LOG_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_at(LOG_WARN, event, __VA_ARGS__)
#define log_info(event, ...) log_at(LOG_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_at(LOG_DEBUG, event, __VA_ARGS__)

/* Writes text as a logfmt value into out (terminated, cut where it does not fit) and returns out:
 * quoted and escaped where needed, so that what a peer sent cannot forge a line. */
char *log_quote(const char *text, char *out, size_t size);

#endif
