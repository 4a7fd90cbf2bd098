/* `atoll-node train|eval|generate` without a coordinator (node/alone.h): recognises them and hands
 * over to model/verbs.h. */
#include "node/alone.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/version.h"
#include "model/verbs.h"
#include "node/verbs.h"

/* A site's environment may name what only its other verbs know. */
static const char *const known_variables[] = {"ATOLL_*", NULL};
static const struct command program = {.name = "atoll-node",
                                       .summary =
                                           "trains and reads models alone, without a coordinator",
                                       .children = verb_commands,
                                       .version = atoll_version};

static bool is_given(int argc, char **argv, const char *flag) {
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], flag) == 0) return true;
    return false;
}

bool alone_is_meant(int argc, char **argv) {
    if (argc < 2) return false;
    if (strcmp(argv[1], "train") == 0 || strcmp(argv[1], "logits") == 0) return true;
    bool either = strcmp(argv[1], "eval") == 0 || strcmp(argv[1], "generate") == 0;
    return either && argc > 2 && argv[2][0] != '-';
}

int alone_main(int argc, char **argv) {
    if (strcmp(argv[1], "train") == 0 && !is_given(argc, argv, "--standalone") &&
        !is_given(argc, argv, "--help") && !is_given(argc, argv, "-h")) {
        fputs("atoll-node: to train without a coordinator, say so: atoll-node train --standalone "
              "FILE...\n"
              "A site of a run trains by `atoll-node join`, and later by `atoll-node run`.\n",
              stderr);
        return EXIT_USAGE;
    }
    return verbs_main(&program, argc, argv, known_variables);
}

/* ---- a word about them in the site's own help ------------------------------------------------ */

static int verb_elsewhere(struct options *options, void *values) {
    (void)options, (void)values;
    fputs("atoll-node: `train` and `logits` come first: atoll-node train --standalone FILE...\n",
          stderr);
    return EXIT_USAGE;
}

static const struct command train_command = {
    .name = "train",
    .summary = "trains one site alone, without a coordinator (--standalone)",
    .run = verb_elsewhere};
static const struct command logits_command = {
    .name = "logits", .summary = "the logits of an exported model", .run = verb_elsewhere};

const struct command *alone_extend(const struct command *node) {
    enum { CHILDREN_MAX = 16 };
    static const struct command *children[CHILDREN_MAX];
    static struct command extended;
    size_t count = 0;
    for (; node->children[count]; count++) {
        ASSERT(count + 3 < CHILDREN_MAX);
        children[count] = node->children[count];
    }
    children[count++] = &train_command;
    children[count++] = &logits_command;
    children[count] = NULL;
    extended = *node;
    extended.children = children;
    extended.description = "On an exported model, without a run: atoll-node eval MODEL FILE..., "
                           "atoll-node generate MODEL --prompt TEXT; "
                           "the model's directory comes right after the subcommand; `atoll-node "
                           "eval MODEL --help` tells more.";
    return &extended;
}
