/* atoll-sim: many sites on one machine, on simulated clocks, networks and disks, with the real
 * state machines. Each verb is a file of its own (sim/verb_*.c). */
#include "base/ending.h"
#include "base/limits.h"
#include "base/options.h"
#include "base/streams.h"
#include "base/version.h"
#include "sim/verbs.h"

static const struct command *const verbs[] = {&verb_faults, &verb_plan, &verb_train, NULL};
static const struct command program = {.name = "atoll-sim",
                                       .summary = "simulates federations on one machine",
                                       .children = verbs,
                                       .version = atoll_version};

int main(int argc, char **argv) {
    streams_open();
    ending_begin(ENDING_BY_SIGNAL);
    (void)!limits_raise_descriptors(NULL, NULL);
    struct sim_settings settings = {0};
    struct options *options = options_create(&program, &settings);
    int code = options_start(options, &(struct options_setup){.argc = argc, .argv = argv});
    if (code == OPTIONS_GO_ON) code = options_command(options)->run(options, &settings);
    options_destroy(options);
    return streams_close(program.name, code);
}
