/* What options.c (reading) and options_text.c (printing) share; nobody else includes this. */
#ifndef BASE_OPTIONS_INTERNAL_H
#define BASE_OPTIONS_INTERNAL_H

#include "base/options.h"

enum { COMMAND_DEPTH = 6, FLAG_SIZE = 96 };

struct option_state { /* one an option of the chosen chain of commands */
    const struct option *option;
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
    bool wants_help, wants_version, wants_print, wants_example;
};

/* "--upload-rate-limit" and "ATOLL_UPLOAD_RATE_LIMIT" of "upload.rate-limit". Return out. */
char *option_flag(const char *name, char out[static FLAG_SIZE]);
char *option_variable(const char *name, char out[static FLAG_SIZE]);
const void *option_field(const struct options *options, const struct option *option);

#endif
