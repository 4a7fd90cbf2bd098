/* atollctl: the run's admin at a terminal. One file a noun; this is what they share.
 *
 * Commands that act on a running coordinator go over mTLS with the admin's certificate (client.c);
 * those that read or make a data directory need no coordinator. Results on stdout, as text for
 * people or with --format json as one JSON value; what went wrong on stderr. Exit codes: 0 done, 1
 * failed (the message says why), 2 wrong usage, 4 the check found damage.
 */
#ifndef COORDINATOR_ATOLLCTL_H
#define COORDINATOR_ATOLLCTL_H

#include "base/json.h"
#include "base/options.h"
#include "proto/messages.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_DAMAGED = 4 };

enum output_format { FORMAT_TEXT = 0, FORMAT_JSON = 1 };

struct ctl_settings {
    enum output_format format;
    const char *keys;   /* directory with ca.pem, admin.pem, admin.key */
    const char *server; /* HOST:PORT */
    const char *proxy;  /* rpc/proxy.h's setting; NULL: as the environment says. Secret */
    uint64_t timeout_ms;
    /* of single commands */
    const char *directory, *manifest, *name, *address, *reason, *output, *version;
    const char *source, *layout, *base; /* what a run begins from */
    const char *key, *value;            /* run set */
    uint32_t role;                      /* site invite: enum site_role */
    const char *withdraw;
    uint64_t expires_ms, token_budget, watch_ms, from, shard_size;
    bool dry_run, ready;
};

/* Sends the order, in the newest protocol, and waits; while the coordinator is busy, again and
 * again, as long as --timeout says. The reply lives in *arena, which the caller ends with
 * arena_deinit (also after a failure). REFUSED (UNAVAILABLE: still busy) with the coordinator's
 * words where its code is not OK. */
MUST_USE enum status client_ask(const struct ctl_settings *settings,
                                const struct admin_request *request, struct arena *arena,
                                struct admin_reply *out, struct error *error);
/* The same for an order with nothing to show, then print_done with `done`; the exit code. `detail`
 * NULL: the version that the reply names. */
int client_order(const struct ctl_settings *settings, const struct admin_request *request,
                 const char *done, const char *detail);

/* Prints "atollctl: message" on stderr; the exit code for it. */
int report_failure(const struct error *error);
/* Writes the buffer to stdout, with a line end. */
void print_buffer(const struct buffer *buffer);
/* {"done": what, ...}: the answer of a command that has nothing to show. */
void print_done(const struct ctl_settings *settings, const char *what, const char *detail);

/* "12.3 MB", "4.5 min", ...: for people. Each returns its argument `out`. */
enum { HUMAN_SIZE = 32 };
char *human_bytes(uint64_t bytes, char out[static HUMAN_SIZE]);
char *human_duration(uint64_t duration_ms, char out[static HUMAN_SIZE]);
char *human_count(double count, char out[static HUMAN_SIZE]);

extern const struct command run_command, site_command, model_command, ledger_command;

#endif
