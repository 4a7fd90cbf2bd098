/* atoll-trainer: the training engine alone, built from gcc and make. Its verbs are model/verbs.h;
 * without one it trains. */
#include <stdlib.h>
#include <string.h>

#include "base/ending.h"
#include "base/limits.h"
#include "base/memory.h"
#include "base/streams.h"
#include "base/version.h"
#include "model/verbs.h"

static const struct command program = {.name = "atoll-trainer",
                                       .summary =
                                           "trains a Llama-style model on one machine's processors",
                                       .children = verb_commands,
                                       .version = atoll_version};

/* Whether the first argument stands where a verb does. Training needs none. */
static bool has_verb(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "--version") == 0)
        return true;
    for (size_t i = 0; verb_commands[i]; i++)
        if (strcmp(argv[1], verb_commands[i]->name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    streams_open();
    ending_begin(ENDING_BY_SIGNAL);
    (void)!limits_raise_descriptors(NULL, NULL);
    char **arguments = xcalloc((size_t)argc + 2, sizeof *arguments), verb[] = "train";
    int count = argc > 0 ? 1 : 0, skip = count;
    if (count) arguments[0] = argv[0];
    if (!has_verb(argc, argv)) arguments[count++] = verb;
    for (int i = skip; i < argc; i++) arguments[count++] = argv[i];
    int code = verbs_main(&program, count, arguments);
    free(arguments);
    return streams_close(program.name, code);
}
