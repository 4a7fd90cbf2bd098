/* atoll-wan-proxy: a WAN on one machine, told what to do on stdin. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/address.h"
#include "base/ending.h"
#include "base/limits.h"
#include "base/options.h"
#include "base/streams.h"
#include "base/version.h"
#include "wan/wan_proxy.h"
#include "wan/wan_topology.h"

struct wan_proxy_settings {
    uint64_t seed;
    const char *topology, *target;
    bool describe;
};

static const struct setting table[] = {
    {"seed", SETTING_COUNT, SETTING_FIELD(struct wan_proxy_settings, seed), .fallback = "1",
     .help = "Seed of jitter and loss."},
    {"wan", SETTING_PATH, SETTING_FIELD(struct wan_proxy_settings, topology), .value_name = "FILE",
     .help = "A federation's YAML file, as for atoll-sim plan: a link for each of its sites, named "
             "as the site."},
    {"to", SETTING_TEXT, SETTING_FIELD(struct wan_proxy_settings, target),
     .value_name = "HOST:PORT", .check = address_check_connect,
     .help = "Address that those links lead to."},
    {"describe", SETTING_BOOL, SETTING_FIELD(struct wan_proxy_settings, describe),
     .help = "Print that federation as JSON, and do nothing else."},
    {0}};
static const struct command program = {
    .name = "atoll-wan-proxy",
    .summary =
        "TCP links with delay, jitter, rate, loss, resets, corruption, half-close and blackholes",
    .description = "Reads commands from stdin, one per line, and answers each with one line, `ok "
                   "...` or `error ...`:\n\n"
                   "    link NAME from HOST:PORT to HOST:PORT    set NAME KEY VALUE ...    target "
                   "NAME HOST:PORT\n"
                   "    reset NAME      stall NAME DURATION [up|down]     half-close NAME up|down  "
                   "   corrupt NAME up|down\n"
                   "    show            quit\n\n"
                   "NAME may be * for all links. Keys: rtt, reset; and delay, jitter, rate, queue, "
                   "window, loss, corrupt, blackhole, "
                   "with `up.` or `down.` before them for one way.",
    .examples = "printf 'link a from 127.0.0.1:0 to 127.0.0.1:7000\\nset a rtt 200ms up.rate "
                "20Mbit/s\\n' | cat - /dev/tty | "
                "atoll-wan-proxy",
    .options = table,
    .version = atoll_version};

static enum status add_links(struct wan_proxy *proxy, const struct topology *topology,
                             const struct wan_proxy_settings *settings, struct error *error) {
    for (uint32_t i = 0; i < topology->site_count; i++) {
        struct topology_place place = topology_place(topology, i, settings->seed);
        struct wan_link_setup setup = {.name = place.name,
                                       .listen = "127.0.0.1:0",
                                       .target = settings->target,
                                       .settings =
                                           wan_settings_of(&topology->groups[place.group].link)};
        uint16_t port;
        TRY(wan_proxy_add(proxy, &setup, &port, error));
    }
    return OK;
}

static void describe(const struct topology *topology, uint64_t seed) {
    struct buffer text = {0};
    wan_describe(topology, seed, &text);
    printf("%.*s\n", (int)text.size, (const char *)text.data);
    buffer_deinit(&text);
}

static int run(const struct wan_proxy_settings *settings) {
    struct wan_proxy *proxy = NULL;
    struct topology *topology = NULL;
    struct error error = {0};
    enum status status = OK;
    (void)signal(SIGPIPE, SIG_IGN);
    if (!settings->topology && (settings->describe || settings->target))
        status = error_set(&error, INVALID, "--describe and --to need --wan FILE");
    else if (settings->topology && !settings->describe && !settings->target)
        status = error_set(&error, INVALID, "--wan needs --to HOST:PORT, or --describe");
    else if (settings->topology)
        status = topology_load(settings->topology, &topology, &error);
    if (status == OK && settings->describe) {
        describe(topology, settings->seed);
    } else if (status == OK) {
        status = wan_proxy_create(settings->seed, &proxy, &error);
        if (status == OK && topology) status = add_links(proxy, topology, settings, &error);
        if (status == OK) status = wan_proxy_run(proxy, STDIN_FILENO, STDOUT_FILENO, &error);
    }
    wan_proxy_destroy(proxy);
    topology_destroy(topology);
    if (status != OK) fprintf(stderr, "atoll-wan-proxy: %s\n", error.message);
    return status == OK ? 0 : 1;
}

int main(int argc, char **argv) {
    streams_open();
    ending_begin(ENDING_BY_SIGNAL);
    (void)!limits_raise_descriptors(NULL, NULL);
    struct wan_proxy_settings settings = {0};
    struct options *options = options_create(&program, &settings);
    int code = options_start(options, &(struct options_setup){.argc = argc, .argv = argv});
    if (code == OPTIONS_GO_ON) code = run(&settings);
    options_destroy(options);
    return streams_close(program.name, code);
}
