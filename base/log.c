/* logfmt on stderr (base/log.h). A line is built on the stack and written with one write(2), so
 * lines of several threads do not mix. A mutex guards the context and the counters of repeated
 * lines. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"

enum { LINE_SIZE = 2048, WINDOW_MS = 10000, WINDOW_LINES = 20, CONTEXT_SIZE = 256 };

/* The level and context are the process's own: they are set at start and only read afterwards. */
static _Atomic int log_level_now = -1;
static char log_context[CONTEXT_SIZE];
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_names[] = {"debug", "info", "warn", "error", "none"};

enum status log_level_parse(const char *text, enum log_level *out, struct error *error) {
    for (int i = 0; i <= LOG_NONE; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *out = (enum log_level)i;
            return OK;
        }
    }
    return error_set(error, INVALID, "log level '%s' is not one of debug, info, warn, error, none",
                     text);
}

void log_set_level(enum log_level level) { log_level_now = (int)level; }

bool log_is_on(enum log_level level) {
    if (log_level_now < 0) {
        enum log_level parsed = LOG_INFO;
        const char *named = getenv("ATOLL_LOG");
        if (named && log_level_parse(named, &parsed, NULL) != OK) parsed = LOG_INFO;
        log_level_now = (int)parsed;
    }
    return (int)level >= log_level_now;
}

void log_set_context(const char *pairs) {
    pthread_mutex_lock(&log_lock);
    snprintf(log_context, sizeof log_context, "%s", pairs ? pairs : "");
    pthread_mutex_unlock(&log_lock);
}

char *log_quote(const char *text, char *out, size_t size) {
    ASSERT(size >= 3);
    bool plain = *text != 0;
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == '"' || *c == '=' || *c == '\\' || *c == 127)
            plain = false;
    }
    size_t at = 0;
    if (!plain) out[at++] = '"';
    size_t left = strlen(text);
    for (const char *c = text; *c && at + 4 < size;) {
        size_t length = utf8_length((const uint8_t *)c, left);
        bool shown = utf8_shown_length((const uint8_t *)c, left) > 0 || length == 0;
        if (!plain && (*c == '"' || *c == '\\')) out[at++] = '\\';
        size_t step = shown ? 1 : length; /* of a longer one the rest comes in the next rounds */
        out[at++] = shown ? *c : '.';
        c += step, left -= step;
    }
    if (!plain) out[at++] = '"';
    out[at] = 0;
    return out;
}

/* Says how many lines of this call site were dropped before this one, or -1 if this one is to be
 * dropped too. */
static int64_t log_admit(struct log_site *site) {
    if (log_level_now == LOG_DEBUG)
        return 0; /* at debug nothing is left out: a test may count lines */
    uint64_t now = clock_monotonic_ms();
    if (site->window_start_ms == 0 || now - site->window_start_ms >= WINDOW_MS) {
        uint32_t dropped = site->dropped;
        *site = (struct log_site){.window_start_ms = now, .in_window = 1};
        return dropped;
    }
    if (site->in_window >= WINDOW_LINES) {
        site->dropped++;
        return -1;
    }
    site->in_window++;
    return 0;
}

static size_t append(char *line, size_t at, const char *format, ...) PRINTF_LIKE(3, 4);
static size_t append(char *line, size_t at, const char *format, ...) {
    if (at >= LINE_SIZE - 2) return at;
    va_list arguments;
    va_start(arguments, format);
    int wrote = vsnprintf(line + at, LINE_SIZE - 1 - at, format, arguments);
    va_end(arguments);
    size_t next = at + (wrote < 0 ? 0 : (size_t)wrote);
    return next > LINE_SIZE - 2 ? LINE_SIZE - 2 : next;
}

void log_write(struct log_site *site, enum log_level level, const char *event, const char *format,
               ...) {
    char line[LINE_SIZE];
    char body[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(body, sizeof body, format, arguments);
    va_end(arguments);
    for (char *c = body; *c; c++) {
        if (*c == '\n' || *c == '\r') *c = ' ';
    }
    uint64_t wall_ms = clock_wall_ms();
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);

    pthread_mutex_lock(&log_lock);
    int64_t dropped = log_admit(site);
    if (dropped < 0) {
        pthread_mutex_unlock(&log_lock);
        return;
    }
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    size_t at = append(line, 0, "%s %s.%03uZ %s", level_names[level], stamp,
                       (unsigned)(wall_ms % 1000), event);
    if (*log_context) at = append(line, at, " %s", log_context);
    if (*body) at = append(line, at, " %s", body);
    if (dropped > 0) at = append(line, at, " repeats_dropped=%lld", (long long)dropped);
    line[at++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, at);
    (void)ignored;
    pthread_mutex_unlock(&log_lock);
}
