/* atollctl: the tree of subcommands, and the exit code of the one that was chosen. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/address.h"
#include "base/ending.h"
#include "base/limits.h"
#include "base/secrecy.h"
#include "base/streams.h"
#include "base/version.h"
#include "config/config.h"
#include "coordinator/atollctl/atollctl.h"
#include "rpc/proxy.h"
#include "storage/store_guard.h"

static const char *const formats[] = {"text", "json", NULL};

static const struct setting table[] = {
    {.name = "format",
     .kind = SETTING_CHOICE,
     SETTING_FIELD(struct ctl_settings, format),
     .fallback = "text",
     .choices = formats,
     .help = "how results are written: text for people, json for programs (nothing else goes to "
             "stdout then)"},
    {.name = "keys",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, keys),
     .value_name = "DIR",
     .help = "directory with ca.pem, admin.pem and admin.key; `atollctl run create` puts them in "
             "RUN/keys"},
    {.name = "server",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, server),
     .fallback = "127.0.0.1:7400",
     .value_name = "HOST:PORT",
     .check = address_check_connect,
     .help = "the coordinator"},
    {.name = "proxy",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, proxy),
     .value_name = "URL",
     .check = rpc_proxy_check,
     .flags = SETTING_SECRET,
     .help = "forward proxy to the coordinator (HTTP CONNECT): http://[USER:PASSWORD@]HOST:PORT; "
             "none: without; unset: as "
             "grpc_proxy, https_proxy, http_proxy and no_proxy in the environment say"},
    {.name = "timeout",
     .kind = SETTING_DURATION,
     SETTING_FIELD(struct ctl_settings, timeout_ms),
     .fallback = "10s",
     .min = "100ms",
     .max = "10m",
     .help = "how long to wait for the coordinator"},
    {0}};

static const struct command *const nouns[] = {&run_command, &site_command, &model_command,
                                              &ledger_command, NULL};

static const struct command program = {
    .name = "atollctl",
    .summary = "makes runs, invites sites, watches them, exports and audits the model",
    .description = "A run lives in a data directory that a coordinator serves. Make one with `run "
                   "create`, start atoll-coordinator on it, "
                   "invite each site with `site invite` and paste the line it prints at the site.",
    .examples = "atollctl run example > run.yaml\n"
                "atollctl run create /srv/atoll/demo --manifest run.yaml\n"
                "atoll-coordinator --dir /srv/atoll/demo --listen 0.0.0.0:7400 &\n"
                "atollctl --keys /srv/atoll/demo/keys site invite --name eu-north --address "
                "coordinator.example:7400\n"
                "atollctl --keys /srv/atoll/demo/keys run status --watch 2s\n"
                "atollctl model export --dir /srv/atoll/demo --output ./model\n"
                "atollctl ledger verify --dir ./copy-of-demo",
    .options = table,
    .children = nouns,
    .version = atoll_version};

int main(int argc, char **argv) {
    secrecy_begin();
    streams_open();
    ending_begin(ENDING_BY_SIGNAL);
    store_guard(program.name, EXIT_DAMAGED, "put another copy of the run's directory in its place");
    (void)!limits_raise_descriptors(NULL, NULL);
    struct ctl_settings settings = {0};
    struct options *options = options_create(&program, &settings);
    struct options_setup setup = {
        .argc = argc, .argv = argv, .environment = environ, .load_file = config_load};
    int code = options_start(options, &setup);
    if (code == OPTIONS_GO_ON) code = options_command(options)->run(options, &settings);
    options_destroy(options);
    return streams_close(program.name, code);
}
