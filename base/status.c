/* Names of statuses, and the text of `struct error` (base/status.h). assert_failed prints the
 * expression and its place, then aborts: a stack trace through it is a broken program, never bad
 * input. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *status_name(enum status status) {
    switch (status) {
    case OK: return "ok";
    case NOT_FOUND: return "not_found";
    case INVALID: return "invalid";
    case REFUSED: return "refused";
    case UNAVAILABLE: return "unavailable";
    case TIMEOUT: return "timeout";
    case FULL: return "full";
    case CORRUPT: return "corrupt";
    case CANCELLED: return "cancelled";
    case FAILED: return "failed";
    }
    return "unknown";
}

enum status error_set_at(struct error *error, enum status status, const char *file, int line,
                         const char *format, ...) {
    if (!error) return status;
    error->status = status;
    error->file = file;
    error->line = line;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    return status;
}

enum status error_wrap(struct error *error, enum status status, const char *format, ...) {
    if (!error) return status;
    char context[ERROR_MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int wrote = vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    size_t used = wrote < 0 ? 0 : (size_t)wrote;
    if (used + 3 < sizeof context) {
        snprintf(context + used, sizeof context - used, ": %s", error->message);
    }
    memcpy(error->message, context, sizeof context);
    error->message[sizeof error->message - 1] = 0;
    if (error->status == OK) error->status = status;
    return error->status;
}

void must_failed(enum status status, const char *call, const char *file, int line) {
    fprintf(stderr, "must succeed, but returned %s: %s at %s:%d\n", status_name(status), call, file,
            line);
    fflush(stderr);
    abort();
}

void assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "assertion failed: %s at %s:%d\n", condition, file, line);
    fflush(stderr);
    abort();
}
