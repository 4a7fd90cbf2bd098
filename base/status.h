/* What a call that can fail returns.
 *
 * There are few kinds, chosen by what the caller should do about them rather than by what broke.
 * The story of what broke travels beside the status in a `struct error`, which the caller owns and
 * passes last; it may be NULL when nobody will read it. There are no globals and no thread-locals:
 * a simulation runs many nodes on one thread.
 *
 *     struct error error = {0};
 *     if (store_open(path, &store, &error) != OK) log_error("store_open_failed", "%s",
 *         error.message);
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include <stddef.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_at, first_at) __attribute__((format(printf, format_at, first_at)))

enum status {
    OK = 0,
    NOT_FOUND,   /* what was asked for is not there: expected, decide */
    INVALID,     /* the input is wrong: fix it (or refuse the peer); trying again will not help */
    REFUSED,     /* the peer understood and said no: do what its code says */
    UNAVAILABLE, /* the peer, the network or a resource is away: try again later, with backoff */
    TIMEOUT,     /* no progress within the deadline: try again later */
    FULL,        /* a bounded queue, pool, quota or disk is full: try again later, or make room */
    CORRUPT, /* stored or received bytes disagree with their digest or structure: do not use them */
    CANCELLED, /* this side asked to stop */
    FAILED     /* the outside world broke in a way nobody can repair here: report and stop */
};

enum { ERROR_MESSAGE_SIZE = 512 };

struct error {
    enum status status;
    const char *file; /* static storage */
    int line;
    char message[ERROR_MESSAGE_SIZE]; /* always terminated; never holds a secret */
};

/* A short lower-case name such as "not_found". Static storage; never NULL. */
const char *status_name(enum status status);

/* Writes the story into *error (if there is one) and returns `status`: `return error_set(error,
 * INVALID, "port %d", port);` */
#define error_set(error, status, ...)                                                              \
    error_set_at((error), (status), __FILE__, __LINE__, __VA_ARGS__)
enum status error_set_at(struct error *error, enum status status, const char *file, int line,
                         const char *format, ...) PRINTF_LIKE(5, 6);

/* Puts context in front of the story already in *error: "open store /x" + "mdb_env_open: No such
 * file". Returns the status that *error holds, or `status` where error is NULL. */
enum status error_wrap(struct error *error, enum status status, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Leaves the function on failure. Only while nothing is held; with resources, `goto out`. */
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        enum status try_status_ = (expr);                                                          \
        if (try_status_ != OK) return try_status_;                                                 \
    } while (0)

/* For a broken program, never for broken input: stays on in release. A peer's bytes must never
 * reach one. */
#define ASSERT(condition) ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))
__attribute__((noreturn)) void assert_failed(const char *condition, const char *file, int line);

/* For a call that does work and can fail in a broken program only. An ASSERT contains no work, so
 * that a reader may pass over it (scripts/check-code). */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        enum status must_status_ = (call);                                                         \
        if (must_status_ != OK) must_failed(must_status_, #call, __FILE__, __LINE__);              \
    } while (0)
__attribute__((noreturn)) void must_failed(enum status status, const char *call, const char *file,
                                           int line);

#endif
