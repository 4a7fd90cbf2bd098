/* What options.c and options_arguments.c (reading) and options_text.c and options_manual.c
 * (printing) share; nobody else includes this. */
#ifndef BASE_OPTIONS_INTERNAL_H
#define BASE_OPTIONS_INTERNAL_H

#include "base/options.h"

enum { COMMAND_DEPTH = 6, FLAG_SIZE = OPTION_NAME_SIZE, OPTION_BUILT_INS = 7 };

struct option_state { /* one an option of the chosen chain of commands */
    const struct setting *option;
    enum option_source source;
    char *where;  /* owned; NULL for the default */
    char *text;   /* owned: what a TEXT or PATH field points to */
    char **items; /* owned: what a LIST field points to */
    size_t item_count;
};

struct options {
    const struct command *program;
    void *values;
    const struct command *chain[COMMAND_DEPTH]; /* from the root to the chosen command */
    size_t depth;
    struct option_state *states;
    size_t state_count;
    char *config_path; /* owned: from --config or ATOLL_CONFIG */
    enum option_source config_source;
    bool has_file; /* --config exists */
    bool wants_help, wants_version, wants_print, wants_example, wants_manual, wants_completion;
};

enum { NOT_IN_FILES = OPTION_POSITIONAL | OPTION_FLAG_ONLY }; /* nor in the environment */

/* option_key, option_flag, option_variable: each writes a name in its way and returns out. */
typedef char *option_spelling(const char *name, char out[static FLAG_SIZE]);
/* The option of the chosen commands that is spelt `text` that way, and has none of the flags
 * `without`; NULL: none is. */
struct option_state *option_spelt(const struct options *options, option_spelling *spell,
                                  const char *text, unsigned without);
/* "--upload-rate-limit" and "ATOLL_UPLOAD_RATE_LIMIT" of "upload.rate-limit". Return out. */
char *option_flag(const char *name, char out[static FLAG_SIZE]);
char *option_variable(const char *name, char out[static FLAG_SIZE]);
/* Takes a command's options into the table, at their defaults. */
void option_add_command(struct options *options, const struct command *command);
/* One value from one source, checked also where a stronger one has it; `where` opens the message.
 */
MUST_USE enum status option_set(struct options *options, struct option_state *state,
                                enum option_source source, const char *text, const char *where,
                                struct error *error);
/* "atollctl site invite". Returns out. */
const char *option_command_words(const struct options *options, char *out, size_t size);
extern const char *const option_built_in[OPTION_BUILT_INS + 1];
/* "FILE", "COUNT": what --help writes after the flag; "" for a BOOL. Lent. */
const char *option_value_name(const struct setting *option);
/* "default 30s; 1s to 10m; one of a, b": whatever of it there is; the caller frees it. */
char *option_facts(const struct setting *option);
/* A BOOL that is true unless something is said: its flag is shown as --no-name. */
bool option_is_on_by_default(const struct setting *option);
const void *option_field(const struct options *options, const struct setting *option);

#endif
