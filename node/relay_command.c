/* atoll-node relay: the subcommand (relay/relay.h does the work). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "node/verbs.h"
#include "relay/relay.h"

static enum status read_secret(const char *path, uint8_t secret[TLS_SECRET_SIZE],
                               struct error *error) {
    char *token = NULL;
    TRY(settings_read_token_file(path, &token, error));
    bool fits = strlen(token) == (size_t)2 * TLS_SECRET_SIZE &&
                hex_decode(token, secret, TLS_SECRET_SIZE, NULL) == OK;
    free_clearing(token, strlen(token));
    if (fits) return OK;
    return error_set(error, INVALID,
                     "%s holds no relay's token of %d hexadecimal digits: it is relay.token in "
                     "the site's directory, where the node runs with --trainer-listen",
                     path, 2 * TLS_SECRET_SIZE);
}

/* The relay's own socket and token would take the place of the node's. */
static enum status check_directory(const char *directory, struct error *error) {
    char *site = file_join(directory, "site.json");
    enum status status = OK;
    if (file_exists(site))
        status = error_set(error, INVALID,
                           "%s is a site's directory: give the relay one of its own, on this host, "
                           "with --dir",
                           directory);
    free(site);
    return status == OK ? file_make_directory(directory, 0700, error) : status;
}

int verb_relay(struct options *options, void *values) {
    static const char *const used[] = {"dir", "attach-socket", NULL};
    const struct settings *settings = values;
    struct error error = {0};
    bool over = false;
    enum status status = settings_check_used(options, used, &error);
    struct relay_options relay = {.to = settings->relay_to};
    if (status == OK) status = read_secret(settings->token_file, relay.secret, &error);
    if (status == OK) status = check_directory(settings->directory, &error);
    if (status != OK) {
        fprintf(stderr, "atoll-node: relay: %s\n", error.message);
        return EXIT_USAGE;
    }
    char *socket = settings->attach_socket ? xstrdup(settings->attach_socket)
                                           : file_join(settings->directory, "attach.sock");
    char *token = file_join(settings->directory, "attach.token");
    relay.socket = socket;
    relay.token_file = token;
    ending_in_order(NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    status = relay_run(&relay, &over, &error);
    clear(relay.secret, sizeof relay.secret);
    free(socket);
    free(token);
    if (status == OK) {
        log_info("relay_ended", "why=\"%s\"", over ? "the run is over" : "it was stopped");
        return EXIT_DONE;
    }
    fprintf(stderr, "atoll-node: relay: %s\n", error.message);
    return EXIT_FAILED;
}
