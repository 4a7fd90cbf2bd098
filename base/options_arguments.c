/* The command line: words choose commands until one that runs, then fill positionals; flags may
 * stand anywhere after the command that has them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/options_internal.h"
#include "base/suggest.h"

/* Flags that every program has; tables may not use these names. */
const char *const option_built_in[OPTION_BUILT_INS + 1] = {
    "help", "version", "print-config", "example-config", "config", "man-page", "completion", NULL};

struct arguments {
    int count, at;
    char **texts;
    struct option_state *positional; /* the LIST that takes all that are left, once reached */
    size_t positionals;              /* how many have been given */
};

static enum status unknown_flag(const struct options *options, const char *flag,
                                struct error *error) {
    struct suggestion near;
    char(*flags)[FLAG_SIZE] = xcalloc(options->state_count + OPTION_BUILT_INS, FLAG_SIZE);
    size_t count = 0;
    suggest_init(&near, flag);
    for (size_t i = 0; i < options->state_count; i++) {
        if (options->states[i].option->flags &
            (OPTION_POSITIONAL | OPTION_HIDDEN | OPTION_NOT_FLAG))
            continue;
        suggest_offer(&near, option_flag(options->states[i].option->name, flags[count++]));
    }
    for (size_t i = 0; option_built_in[i]; i++)
        suggest_offer(&near, option_flag(option_built_in[i], flags[count++]));
    char words[128], otherwise[160];
    option_command_words(options, words, sizeof words);
    snprintf(otherwise, sizeof otherwise, "see '%s --help'", words);
    enum status status = suggest_refuse("flag", flag, near.best, otherwise, error);
    free(flags);
    return status;
}

/* The value after '=', or else the next argument. */
static enum status take_value(struct arguments *arguments, const char *flag,
                              const char *inline_value, const char **out, struct error *error) {
    if (inline_value) {
        *out = inline_value;
        return OK;
    }
    if (arguments->at >= arguments->count)
        return error_set(error, INVALID, "%s needs a value", flag);
    *out = arguments->texts[arguments->at++];
    return OK;
}

static enum status read_built_in(struct options *options, struct arguments *arguments,
                                 const char *flag, const char *inline_value, bool *taken,
                                 struct error *error) {
    *taken = true;
    if (strcmp(flag, "--help") == 0 || strcmp(flag, "-h") == 0)
        options->wants_help = true;
    else if (strcmp(flag, "--version") == 0 && options->program->version)
        options->wants_version = true;
    else if (strcmp(flag, "--print-config") == 0)
        options->wants_print = true;
    else if (strcmp(flag, "--example-config") == 0)
        options->wants_example = true;
    else if (strcmp(flag, "--man-page") == 0)
        options->wants_manual = true;
    else if (strcmp(flag, "--completion") == 0)
        options->wants_completion = true;
    else if (strcmp(flag, "--config") == 0 && options->has_file) {
        const char *path = NULL;
        TRY(take_value(arguments, flag, inline_value, &path, error));
        free(options->config_path);
        options->config_path = xstrdup(path);
        options->config_source = OPTION_FROM_FLAG;
        return OK;
    } else
        *taken = false;
    if (*taken && inline_value) return error_set(error, INVALID, "%s takes no value", flag);
    return OK;
}

static enum status read_flag(struct options *options, struct arguments *arguments, const char *text,
                             struct error *error) {
    char flag[FLAG_SIZE];
    const char *equals = strchr(text, '=');
    size_t size = equals ? (size_t)(equals - text) : strlen(text);
    if (size >= sizeof flag) return error_set(error, INVALID, "unknown flag %.40s...", text);
    memcpy(flag, text, size);
    flag[size] = 0;
    const char *inline_value = equals ? equals + 1 : NULL;
    bool taken = false;
    TRY(read_built_in(options, arguments, flag, inline_value, &taken, error));
    if (taken) return OK;
    struct option_state *state = option_spelt(options, option_flag, flag, OPTION_POSITIONAL);
    if (!state && strncmp(flag, "--no-", 5) == 0) {
        char positive[FLAG_SIZE];
        snprintf(positive, sizeof positive, "--%s", flag + 5);
        state = option_spelt(options, option_flag, positive, OPTION_POSITIONAL);
        if (state && state->option->kind == SETTING_BOOL) {
            if (inline_value) return error_set(error, INVALID, "%s takes no value", flag);
            return option_set(options, state, OPTION_FROM_FLAG, "false", flag, error);
        }
        state = NULL;
    }
    if (!state) return unknown_flag(options, flag, error);
    if (state->option->flags & OPTION_NOT_FLAG) {
        char variable[FLAG_SIZE];
        return error_set(error, INVALID,
                         "%s is not a flag: every user of this machine can read a command line, "
                         "and it is a secret; put it into the environment as %s",
                         flag, option_variable(state->option->name, variable));
    }
    if (state->option->kind == SETTING_BOOL) {
        return option_set(options, state, OPTION_FROM_FLAG, inline_value ? inline_value : "true",
                          flag, error);
    }
    const char *value = NULL;
    TRY(take_value(arguments, flag, inline_value, &value, error));
    return option_set(options, state, OPTION_FROM_FLAG, value, flag, error);
}

static enum status choose_child(struct options *options, const char *word, struct error *error) {
    const struct command *command = options->chain[options->depth - 1];
    struct suggestion near;
    suggest_init(&near, word);
    for (size_t i = 0; command->children[i]; i++) {
        if (strcmp(command->children[i]->name, word) == 0) {
            option_add_command(options, command->children[i]);
            return OK;
        }
        suggest_offer(&near, command->children[i]->name);
    }
    char words[128], name[256], nearest[256], otherwise[160];
    option_command_words(options, words, sizeof words);
    snprintf(name, sizeof name, "'%s %.100s'", words, word);
    snprintf(nearest, sizeof nearest, "'%s %.100s'", words, near.best ? near.best : "");
    snprintf(otherwise, sizeof otherwise, "see '%s --help'", words);
    return suggest_refuse("command", name, near.best ? nearest : NULL, otherwise, error);
}

static enum status read_positional(struct options *options, struct arguments *arguments,
                                   const char *text, struct error *error) {
    struct option_state *state = arguments->positional;
    size_t index = 0;
    for (size_t i = 0; !state && i < options->state_count; i++) {
        if (!(options->states[i].option->flags & OPTION_POSITIONAL)) continue;
        if (index++ == arguments->positionals) state = &options->states[i];
    }
    if (!state) {
        char words[128];
        return error_set(error, INVALID, "unexpected argument '%s'; see '%s --help'", text,
                         option_command_words(options, words, sizeof words));
    }
    if (state->option->kind == SETTING_LIST) arguments->positional = state;
    arguments->positionals++;
    return option_set(options, state, OPTION_FROM_FLAG, text, state->option->name, error);
}

enum status options_read_arguments(struct options *options, int argc, char **argv,
                                   struct error *error) {
    struct arguments arguments = {.count = argc, .at = 1, .texts = argv};
    bool only_positionals = false;
    while (arguments.at < argc) {
        const char *text = argv[arguments.at++];
        bool has_children = options->chain[options->depth - 1]->children != NULL;
        if (!only_positionals && strcmp(text, "--") == 0)
            only_positionals = true;
        else if (!only_positionals && text[0] == '-' && text[1])
            TRY(read_flag(options, &arguments, text, error));
        else if (has_children)
            TRY(choose_child(options, text, error));
        else
            TRY(read_positional(options, &arguments, text, error));
    }
    return OK;
}
