/* atoll-wan-proxy: a WAN on one machine, told what to do on stdin. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/options.h"
#include "sim/wan_proxy.h"

struct settings {
    uint64_t seed;
};

static const struct option table[] = {
    {"seed", OPTION_U64, OPTION_FIELD(struct settings, seed), .fallback = "1", .help = "Of the draws of jitter and loss."}, {0}};
static const struct command program = {
    .name = "atoll-wan-proxy",
    .summary = "TCP links with delay, jitter, rate, loss, resets, corruption, half-close and blackholes",
    .description =
        "Reads commands from stdin, a line each, and answers each with a line, `ok ...` or `error ...`:\n\n"
        "    link NAME from HOST:PORT to HOST:PORT    set NAME KEY VALUE ...    target NAME HOST:PORT\n"
        "    reset NAME      stall NAME DURATION [up|down]     half-close NAME up|down     corrupt NAME up|down\n"
        "    show            quit\n\n"
        "NAME may be * for all links. Keys: rtt, reset; and delay, jitter, rate, queue, window, loss, corrupt, blackhole, "
        "with `up.` or `down.` before them for one way.",
    .examples = "printf 'link a from 127.0.0.1:0 to 127.0.0.1:7000\\nset a rtt 200ms up.rate 20mbit\\n' | cat - /dev/tty | "
                "atoll-wan-proxy",
    .options = table,
    .version = "1"};

static int run(const struct settings *settings) {
    struct wan_proxy *proxy = NULL;
    struct error error = {0};
    (void)signal(SIGPIPE, SIG_IGN);
    enum status status = wan_proxy_create(settings->seed, &proxy, &error);
    if (status == OK) status = wan_proxy_run(proxy, STDIN_FILENO, STDOUT_FILENO, &error);
    wan_proxy_destroy(proxy);
    if (status != OK) fprintf(stderr, "atoll-wan-proxy: %s\n", error.message);
    return status == OK ? 0 : 1;
}

int main(int argc, char **argv) {
    struct settings settings = {0};
    struct options *options = options_create(&program, &settings);
    int code = options_start(options, &(struct options_setup){.argc = argc, .argv = argv});
    if (code == OPTIONS_GO_ON) code = run(&settings);
    options_destroy(options);
    return code;
}
