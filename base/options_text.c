/* The texts made of an option table: --help, --print-config and the example file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/options_internal.h"

enum { HELP_WIDTH = 100, HELP_INDENT = 6 };

/* Words of text, wrapped at HELP_WIDTH, each line after `prefix`. */
static void append_wrapped(struct buffer *out, const char *prefix, const char *text) {
    size_t column = 0;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column > 0 && column + 1 + word > HELP_WIDTH) {
            buffer_append_text(out, "\n");
            column = 0;
        }
        buffer_append_text(out, "%s%.*s", column ? " " : prefix, (int)word, text);
        column += (column ? 1 : strlen(prefix)) + word;
        text += word + strspn(text + word, " ");
    }
    buffer_append_text(out, "\n");
}

/* Lines as they are, each indented. */
static void append_lines(struct buffer *out, const char *text) {
    while (*text) {
        size_t line = strcspn(text, "\n");
        if (line) buffer_append_text(out, "  %.*s", (int)line, text);
        buffer_append_text(out, "\n");
        text += line + (text[line] == '\n');
    }
}

const char *option_value_name(const struct setting *option) {
    if (option->value_name) return option->value_name;
    switch (option->kind) {
    case SETTING_BOOL: return "";
    case SETTING_COUNT: return "COUNT";
    case SETTING_SIZE: return "SIZE";
    case SETTING_DURATION: return "DURATION";
    case SETTING_RATE: return "RATE";
    case SETTING_NUMBER:
    case SETTING_SHARE: return "NUMBER";
    case SETTING_PATH: return "PATH";
    case SETTING_CHOICE: return "NAME";
    case SETTING_TEXT:
    case SETTING_CHARS:
    case SETTING_HEX:
    case SETTING_LIST: return "TEXT";
    }
    return "";
}

/* "default 30s; 1s to 10m; one of a, b": whatever of it there is. */
static void append_facts(struct buffer *out, const struct setting *option) {
    const char *between = "";
    bool text = option->kind == SETTING_TEXT || option->kind == SETTING_PATH;
    if (option->flags & OPTION_REQUIRED) {
        buffer_append_text(out, "required");
        between = "; ";
    } else if (option->fallback && !(option->flags & SETTING_SECRET)) {
        buffer_append_text(out, "default %s", option->fallback);
        between = "; ";
    } else if (option->kind >= SETTING_COUNT && option->kind <= SETTING_RATE) {
        buffer_append_text(out, "default 0");
        between = "; ";
    }
    if (option->min || option->max) {
        buffer_append_text(out, "%s", between);
        setting_bounds(option, out);
        if (text) buffer_append_text(out, " characters");
        between = "; ";
    }
    for (int i = 0; option->choices && option->choices[i]; i++) {
        buffer_append_text(out, "%s%s", i ? ", " : between, i ? "" : "one of ");
        buffer_append_text(out, "%s", option->choices[i]);
    }
    if (option->choices) between = "; ";
    if (option->kind == SETTING_LIST && !(option->flags & OPTION_POSITIONAL))
        buffer_append_text(out, "%smay be repeated", between);
}

bool option_is_on_by_default(const struct setting *option) {
    return option->kind == SETTING_BOOL && option->fallback &&
           strcmp(option->fallback, "false") != 0 && strcmp(option->fallback, "no") != 0;
}

char *option_facts(const struct setting *option) {
    struct buffer facts = {0};
    append_facts(&facts, option);
    buffer_u8(&facts, 0);
    return (char *)facts.data;
}

static void help_option(struct buffer *out, const struct setting *option) {
    char flag[FLAG_SIZE];
    if (option->flags & OPTION_POSITIONAL) {
        buffer_append_text(out, "  %s%s\n", option->name,
                           option->kind == SETTING_LIST ? " ..." : "");
    } else if (option->flags & OPTION_NOT_FLAG) {
        buffer_append_text(out, "  %s, in the environment\n", option_variable(option->name, flag));
    } else if (option->kind == SETTING_BOOL) {
        option_flag(option->name, flag);
        buffer_append_text(out, "  %s%s\n", option_is_on_by_default(option) ? "--no-" : "--",
                           flag + 2);
    } else {
        buffer_append_text(out, "  %s %s\n", option_flag(option->name, flag),
                           option_value_name(option));
    }
    append_wrapped(out, "      ", option->help);
    char *facts = option_facts(option);
    if (*facts) buffer_append_text(out, "      [%s]\n", facts);
    free(facts);
}

static void help_usage(const struct options *options, struct buffer *out) {
    const struct command *command = options->chain[options->depth - 1];
    buffer_append_text(out, "Usage:");
    for (size_t i = 0; i < options->depth; i++)
        buffer_append_text(out, " %s", options->chain[i]->name);
    if (command->children) buffer_append_text(out, " COMMAND");
    buffer_append_text(out, " [options]");
    for (const struct setting *option = command->options; option && option->name; option++) {
        if (!(option->flags & OPTION_POSITIONAL)) continue;
        bool required = option->flags & OPTION_REQUIRED;
        buffer_append_text(out, " %s%s%s%s", required ? "" : "[", option->name,
                           option->kind == SETTING_LIST ? "..." : "", required ? "" : "]");
    }
    buffer_append_text(out, "\n\n%s %s.\n", command->name, command->summary);
    if (command->description) buffer_append_text(out, "\n%s\n", command->description);
}

static void help_commands(const struct command *command, struct buffer *out) {
    int width = 0;
    for (size_t i = 0; command->children[i]; i++)
        width = MAX(width, (int)strlen(command->children[i]->name));
    buffer_append_text(out, "\nCommands:\n");
    for (size_t i = 0; command->children[i]; i++) {
        buffer_append_text(out, "  %-*s  %s\n", width, command->children[i]->name,
                           command->children[i]->summary);
    }
}

static void help_options(const struct command *command, const char *title, unsigned positional,
                         struct buffer *out) {
    bool titled = false;
    for (const struct setting *option = command->options; option && option->name; option++) {
        if ((option->flags & OPTION_POSITIONAL) != positional || (option->flags & OPTION_HIDDEN))
            continue;
        if (!titled) buffer_append_text(out, "\n%s:\n", title);
        titled = true;
        help_option(out, option);
    }
}

void options_help(const struct options *options, struct buffer *out) {
    const struct command *command = options->chain[options->depth - 1];
    help_usage(options, out);
    if (command->children) help_commands(command, out);
    help_options(command, "Arguments", OPTION_POSITIONAL, out);
    help_options(command, "Options", 0, out);
    for (size_t i = options->depth - 1; i-- > 0;) {
        char title[64];
        snprintf(title, sizeof title, "Options of every %s command", options->chain[i]->name);
        help_options(options->chain[i], title, 0, out);
    }
    buffer_append_text(out, "\nAlways:\n");
    if (options->has_file)
        buffer_append_text(out, "  --config FILE     read settings from a YAML file\n");
    buffer_append_text(out,
                       "  --print-config    print every setting, its value and where it came from\n"
                       "  --example-config  print a config file with every setting explained\n");
    if (options->program->version)
        buffer_append_text(out, "  --version         print the version\n");
    buffer_append_text(out, "  --help            print this\n");
    if (command->examples) {
        buffer_append_text(out, "\nExamples:\n");
        append_lines(out, command->examples);
    }
    buffer_append_text(
        out,
        "\nEvery setting may also come from the environment (--some-name is ATOLL_SOME_NAME)%s.\n"
        "A flag outranks the environment, which outranks the file, which outranks the default.\n",
        options->has_file ? " or from the config file" : "");
}

static bool belongs_in_file(const struct setting *option) {
    return !(option->flags & (OPTION_POSITIONAL | OPTION_FLAG_ONLY));
}

static bool has_text(const struct options *options, const struct setting *option) {
    if (option->kind != SETTING_TEXT && option->kind != SETTING_PATH) return true;
    const char *text = NULL;
    memcpy(&text, option_field(options, option), sizeof text);
    return text != NULL;
}

void options_print(const struct options *options, struct buffer *out) {
    for (size_t i = 0; i < options->state_count; i++) {
        const struct option_state *state = &options->states[i];
        if (!belongs_in_file(state->option)) continue;
        char key[FLAG_SIZE];
        bool shown = has_text(options, state->option) && !(state->option->flags & SETTING_SECRET);
        size_t start = out->size;
        buffer_append_text(out, "%s%s: ", shown ? "" : "# ", option_key(state->option->name, key));
        if (shown)
            setting_format(state->option, option_field(options, state->option), out);
        else
            buffer_append_text(out, "%s",
                               has_text(options, state->option) ? "(secret)" : "(unset)");
        int written = (int)(out->size - start);
        buffer_append_text(out, "%*s# %s\n", MAX(1, 48 - written), "",
                           state->where ? state->where : "default");
    }
}

void options_example(const struct options *options, struct buffer *out) {
    buffer_append_text(
        out,
        "# Settings of %s, each at its default. Remove the '#' before a setting to change it.\n",
        options->program->name);
    for (size_t i = 0; i < options->state_count; i++) {
        const struct setting *option = options->states[i].option;
        if (!belongs_in_file(option) || (option->flags & OPTION_HIDDEN)) continue;
        buffer_append_text(out, "\n");
        append_wrapped(out, "# ", option->help);
        char *facts = option_facts(option);
        if (*facts) buffer_append_text(out, "# [%s]\n", facts);
        free(facts);
        char key[FLAG_SIZE];
        buffer_append_text(out, "#%s: ", option_key(option->name, key));
        bool text = option->kind == SETTING_TEXT || option->kind == SETTING_PATH;
        if (option->kind == SETTING_LIST)
            buffer_append_text(out, "[]");
        else if (option->flags & SETTING_SECRET)
            buffer_append_text(out, "...");
        else if (text && option->fallback)
            setting_quote(option->fallback, out);
        else if (option->fallback)
            buffer_append_text(out, "%s", option->fallback);
        else if (option->kind == SETTING_BOOL)
            buffer_append_text(out, "false");
        else if (option->kind == SETTING_CHOICE)
            buffer_append_text(out, "%s", option->choices[0]);
        else if (!text)
            buffer_append_text(out, "0");
        else
            buffer_append_text(out, "\"\"");
        buffer_append_text(out, "\n");
    }
}
