/* The manual page and the completion script, made of the same tables as --help: a setting is
 * documented once.
 *
 * A manual page is man(7)'s macros: NAME, SYNOPSIS, DESCRIPTION, a section per command with its
 * options, EXAMPLES. Text that comes from a table is escaped, so that a leading dot or a backslash
 * stays what it is. A completion script is one bash function: the words before the cursor choose a
 * command, and it offers that command's flags, its subcommands, and the choices of a flag. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/options_internal.h"
#include "base/version.h"

enum { WORDS_SIZE = 256 };

static bool is_shown(const struct setting *option) { return !(option->flags & OPTION_HIDDEN); }
static bool is_flag(const struct setting *option) {
    return is_shown(option) && !(option->flags & (OPTION_POSITIONAL | OPTION_NOT_FLAG));
}

/* --- the manual page --- */

/* troff's escapes; a '.' or ''' that opens a line is not a request. */
static void append_escaped(struct buffer *out, const char *text) {
    bool opens = true;
    for (; *text; text++) {
        if (opens && (*text == '.' || *text == '\'')) buffer_append_text(out, "\\&");
        if (*text == '\\')
            buffer_append_text(out, "\\e");
        else if (*text == '-')
            buffer_append_text(out, "\\-");
        else
            buffer_u8(out, (uint8_t)*text);
        opens = *text == '\n';
    }
}

static void append_line(struct buffer *out, const char *before, const char *text,
                        const char *after) {
    buffer_append_text(out, "%s", before);
    append_escaped(out, text);
    buffer_append_text(out, "%s\n", after);
}

static void manual_option(const struct setting *option, struct buffer *out) {
    char flag[FLAG_SIZE];
    buffer_append_text(out, ".TP\n");
    if (option->flags & OPTION_POSITIONAL) {
        append_line(out, ".I ", option->name, option->kind == SETTING_LIST ? " ..." : "");
    } else if (option->flags & OPTION_NOT_FLAG) {
        append_line(out, ".B ", option_variable(option->name, flag), ", in the environment");
    } else {
        bool on = option_is_on_by_default(option);
        option_flag(option->name, flag);
        buffer_append_text(out, ".BR ");
        append_escaped(out, on ? "--no-" : "--");
        append_escaped(out, flag + 2);
        const char *value = option_value_name(option);
        if (*value)
            append_line(out, " \" ", value, "\"");
        else
            buffer_append_text(out, "\n");
    }
    append_line(out, "", option->help, "");
    char *facts = option_facts(option);
    if (*facts) append_line(out, "[", facts, "]");
    free(facts);
}

static void manual_options(const struct setting *options, struct buffer *out) {
    for (const struct setting *option = options; option && option->name; option++)
        if (is_shown(option)) manual_option(option, out);
}

static void manual_examples(const char *examples, struct buffer *out) {
    if (!examples) return;
    append_line(out, ".PP\n.nf\n.RS 4\n", examples, "\n.RE\n.fi");
}

/* `words`: the program's name and the commands above and including this one. */
static void manual_command(const struct command *command, const char *words, struct buffer *out) {
    if (!command->children) {
        append_line(out, ".SS ", words, "");
        append_line(out, "", command->summary, ".");
        if (command->description) append_line(out, ".PP\n", command->description, "");
        manual_options(command->options, out);
        manual_examples(command->examples, out);
        return;
    }
    for (size_t i = 0; command->children[i]; i++) {
        char longer[WORDS_SIZE];
        snprintf(longer, sizeof longer, "%s %s", words, command->children[i]->name);
        manual_command(command->children[i], longer, out);
    }
}

void options_manual(const struct options *options, struct buffer *out) {
    const struct command *program = options->program;
    buffer_append_text(out, ".TH ");
    for (const char *c = program->name; *c; c++)
        buffer_u8(out, (uint8_t)(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c));
    buffer_append_text(out, " 1 \"\" \"Atoll %s\"\n.SH NAME\n", atoll_version);
    append_escaped(out, program->name);
    append_line(out, " \\- ", program->summary, "");
    append_line(out, ".SH SYNOPSIS\n.B ", program->name, "");
    buffer_append_text(out, "%s[\\fIoptions\\fR]\n", program->children ? "\\fICOMMAND\\fR " : "");
    buffer_append_text(out, ".SH DESCRIPTION\n");
    append_line(out, "", program->description ? program->description : program->summary,
                program->description ? "" : ".");
    if (program->options && program->options->name) {
        buffer_append_text(out, ".SH OPTIONS\n");
        manual_options(program->options, out);
    }
    if (program->children) {
        buffer_append_text(out, ".SH COMMANDS\n");
        manual_command(program, program->name, out);
    }
    buffer_append_text(
        out,
        ".SH ENVIRONMENT\n"
        "A setting may also come from the environment (\\-\\-some\\-name is ATOLL_SOME_NAME)%s.\n"
        "A flag outranks the environment, which outranks the file, which outranks the default.\n",
        options->has_file ? " or from the file that \\-\\-config names" : "");
    if (program->examples) {
        buffer_append_text(out, ".SH EXAMPLES\n");
        manual_examples(program->examples, out);
    }
}

/* --- bash's completion --- */

static void completion_flags(const struct setting *options, struct buffer *out) {
    char flag[FLAG_SIZE];
    for (const struct setting *option = options; option && option->name; option++) {
        if (!is_flag(option)) continue;
        option_flag(option->name, flag);
        buffer_append_text(out, " --%s%s", option_is_on_by_default(option) ? "no-" : "", flag + 2);
    }
}

/* The choices of flags that have some, and files for those that take a path: a case's arms. */
static void completion_values(const struct command *command, const char *path, struct buffer *out) {
    char flag[FLAG_SIZE];
    const char *below = command->children ? "*" : "";
    for (const struct setting *option = command->options; option && option->name; option++) {
        if (!is_flag(option)) continue;
        option_flag(option->name, flag);
        if (option->choices) {
            buffer_append_text(out, "        \"%s\"%s:%s) words=\"", path, below, flag);
            for (size_t i = 0; option->choices[i]; i++)
                buffer_append_text(out, "%s%s", i ? " " : "", option->choices[i]);
            buffer_append_text(out, "\" ;;\n");
        } else if (option->kind == SETTING_PATH) {
            buffer_append_text(out, "        \"%s\"%s:%s) words=''; files=1 ;;\n", path, below,
                               flag);
        }
    }
}

/* An arm per command: what can follow it. `path` has the commands' names with a blank between them.
 */
static void completion_command(const struct command *command, const char *path,
                               const struct buffer *inherited, struct buffer *words,
                               struct buffer *values) {
    struct buffer flags = {0};
    buffer_append(&flags, inherited->data, inherited->size);
    completion_flags(command->options, &flags);
    buffer_append_text(words, "        \"%s\") words=\"", path);
    for (size_t i = 0; command->children && command->children[i]; i++)
        buffer_append_text(words, "%s ", command->children[i]->name);
    buffer_append_text(words, "--help%.*s\"; files=%d ;;\n", (int)flags.size,
                       (const char *)flags.data, command->children ? 0 : 1);
    completion_values(command, path, values);
    for (size_t i = 0; command->children && command->children[i]; i++) {
        char longer[WORDS_SIZE];
        snprintf(longer, sizeof longer, "%s%s%s", path, *path ? " " : "",
                 command->children[i]->name);
        completion_command(command->children[i], longer, &flags, words, values);
    }
    buffer_deinit(&flags);
}

static void completion_children(const struct command *command, struct buffer *out) {
    for (size_t i = 0; command->children && command->children[i]; i++) {
        buffer_append_text(out, "|%s", command->children[i]->name);
        completion_children(command->children[i], out);
    }
}

void options_completion(const struct options *options, struct buffer *out) {
    struct buffer words = {0}, values = {0}, none = {0};
    char function[64];
    snprintf(function, sizeof function, "_%s", options->program->name);
    for (char *c = function; *c; c++)
        if (*c == '-') *c = '_';
    completion_command(options->program, "", &none, &words, &values);
    buffer_append_text(out, "# bash completion of %s\n%s() {\n", options->program->name, function);
    buffer_append_text(out, "    local words='' files=0 path='' i cur=${COMP_WORDS[COMP_CWORD]} "
                            "before=${COMP_WORDS[COMP_CWORD-1]}\n"
                            "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                            "        case ${COMP_WORDS[i]} in\n");
    buffer_append_text(out, "        ''");
    completion_children(options->program, out);
    buffer_append_text(out, ") path=\"${path:+$path }${COMP_WORDS[i]}\" ;;\n        esac\n    "
                            "done\n    case $path in\n");
    buffer_append(out, words.data, words.size);
    buffer_append_text(out, "    esac\n    case $path:$before in\n");
    buffer_append(out, values.data, values.size);
    buffer_append_text(out,
                       "        *:--config) words=''; files=1 ;;\n    esac\n"
                       "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                       "    [ \"$files\" = 0 ] || COMPREPLY+=($(compgen -f -- \"$cur\"))\n}\n"
                       "complete -o filenames -F %s %s\n",
                       function, options->program->name);
    buffer_deinit(&words);
    buffer_deinit(&values);
    buffer_deinit(&none);
}
