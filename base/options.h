/* One table of options a program or command: it makes parsing, --help, --print-config and the
 * commented example file.
 *
 * An option is a setting (base/setting.h has the kinds and the units). Its name in the table is
 * kebab-case with dots; it is spelt `upload.rate_limit` in the config file, as all keys of files
 * are snake_case, --upload-rate-limit as a flag and ATOLL_UPLOAD_RATE_LIMIT as a variable. A value
 * given in several places is taken by precedence, flag > environment > file > default, whatever the
 * order of reading, and the place it came from is remembered. All of them are checked, also those
 * that lose. A flag, key or ATOLL_ variable that nobody knows refuses the start and names the
 * nearest known one: a misspelt setting that is silently ignored is found weeks later.
 *
 * Values land in a plain struct of the program's, at each option's offset; texts and lists there
 * are owned by `struct options` and live as long as it. A program with nouns and verbs (`atollctl
 * site invite --name eu-north`) is a tree of commands; the options of a command hold for everything
 * below it, and all write into the same struct.
 *
 *     static const struct setting node_options[] = {
 *         {"inner-steps", SETTING_COUNT, SETTING_FIELD(struct node_config, inner_steps),
 *          .fallback = "500", .min = "1", .max = "100000", .help = "inner steps per round"},
 *         {"upload.rate-limit", SETTING_RATE, SETTING_FIELD(struct node_config, rate_limit),
 *          .help = "0: none"},
 *         {0}};
 *     static const struct command node = {
 *         .name = "atoll-node", .summary = "trains at a site", .options = node_options};
 *
 *     struct node_config config = {0};
 *     struct options *options = options_create(&node, &config);
 *     int code = options_start(options, &(struct options_setup){
 *         .argc = argc, .argv = argv, .environment = environ, .load_file = config_load});
 *     if (code == OPTIONS_GO_ON) code = run(&config);
 *     options_destroy(options);
 *
 * A mistake in the table (a default out of bounds, a field of the wrong size, two options of one
 * name) is a broken program and asserts at options_create, in every build. One thread.
 */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/setting.h"
#include "base/status.h"

enum {                       /* flags of a setting in an option table, beside SETTING_SECRET */
       OPTION_REQUIRED = 64, /* options_finish refuses where nothing gave it */
       OPTION_POSITIONAL =
           128, /* an argument without dashes, in table order; a LIST takes all that are
                               left. Flag line only */
       OPTION_FLAG_ONLY =
           256, /* not in the config file, not in the environment: what is said once, not
                               configured (--force) */
       OPTION_HIDDEN = 512,   /* not in --help or the example file: for tests */
       OPTION_NOT_FLAG = 1024 /* never on the command line, which every user of a machine can read:
                                 a secret */
};

enum { OPTION_NAME_SIZE = 96 };

struct options;

struct command {
    const char *name;                      /* "atollctl", "site", "invite" */
    const char *summary;                   /* one line, no full stop */
    const char *description;               /* paragraphs for its --help; NULL: none */
    const char *examples;                  /* lines for its --help, without indent; NULL: none */
    const struct setting *options;         /* NULL: none */
    const struct command *const *children; /* ends with NULL; NULL: a command that runs */
    /* never called from here: see options_command. Returns the exit code */
    int (*run)(struct options *options, void *values);
    const char *version; /* of the program, for --version; read at the root only */
};

enum option_source {
    OPTION_FROM_DEFAULT,
    OPTION_FROM_FILE,
    OPTION_FROM_ENVIRONMENT,
    OPTION_FROM_FLAG
};

/* Reads a config file and hands its entries to options_set_from_file. config/config.h has one. */
typedef enum status options_load_file(struct options *options, const char *path,
                                      struct error *error);

struct options_setup {
    int argc;
    char **argv;        /* argv[0] is skipped */
    char **environment; /* environ; NULL: none is read */
    /* ATOLL_ names read elsewhere, "ATOLL_TEST_*" for a prefix; ends with NULL; NULL: none.
     * ATOLL_LOG, _KERNELS, _ATTENTION, _ROOT, _BIN and ATOLL_TEST_* are always known, and so is
     * what Kubernetes makes of a Service named atoll-... (options.c) */
    const char *const *known_variables;
    options_load_file *load_file; /* NULL: the program has no --config */
};

enum { OPTIONS_GO_ON = -1, OPTIONS_EXIT_DONE = 0, OPTIONS_EXIT_USAGE = 2 };

/* Sets the defaults of the root command in *values. `program` and `values` are borrowed for the
 * life of the result. */
struct options *options_create(const struct command *program, void *values);
/* NULL is a no-op; texts and lists in the values die with it */
void options_destroy(struct options *options);

/* All of it, as a main needs it: arguments, environment, file, checks; --help, --version,
 * --print-config and --example-config on stdout; what is wrong on stderr with what to do about it.
 * OPTIONS_GO_ON, or the exit code: 0 when something was printed as asked, 2 for wrong usage. */
int options_start(struct options *options, const struct options_setup *setup);
/* The same without printing, for tests and for those who print elsewhere. Answers to --help and the
 * like are appended to *out, and *answered set; then the values are not to be used. INVALID with a
 * message that says what to do; NOT_FOUND if the config file that was named is not there. */
MUST_USE enum status options_read(struct options *options, const struct options_setup *setup,
                                  struct buffer *out, bool *answered, struct error *error);

/* --- the steps of options_read, for those who need them one by one; arguments first: they choose
 * the command --- */
MUST_USE enum status options_read_arguments(struct options *options, int argc, char **argv,
                                            struct error *error);
MUST_USE enum status options_read_environment(struct options *options, char **environment,
                                              const char *const *known_variables,
                                              struct error *error);
/* One entry of a file. `where` ("node.yaml:12") opens the message and is remembered. Items of a
 * LIST come as "key[0]", "key[1]", ...; text NULL with the bare key: an empty list. Keys of sibling
 * commands are known and skipped, so that one file serves all. */
MUST_USE enum status options_set_from_file(struct options *options, const char *key,
                                           const char *text, const char *where,
                                           struct error *error);
/* Required options are there. */
MUST_USE enum status options_finish(struct options *options, struct error *error);

/* --- after reading --- */
/* The command the arguments chose; the root where there are no children. */
const struct command *options_command(const struct options *options);
/* Whether anything but the default gave it, and from where: *where (may be NULL) gets
 * "--inner-steps", "ATOLL_INNER_STEPS", "node.yaml:12" or "default", lent by options. ASSERTs that
 * the chosen command has the option. */
enum option_source options_source(const struct options *options, const char *name,
                                  const char **where);
/* For options that say something about another one: INVALID, "--name has no effect WHY", if `idle`
 * and its flag was given. What is silently ignored is found when the result is not what was asked
 * for. Files and environments may hold more than a command uses. */
MUST_USE enum status options_refuse_idle(const struct options *options, const char *name, bool idle,
                                         const char *why, struct error *error);

/* --- texts --- */
/* --help of the chosen command. */
void options_help(const struct options *options, struct buffer *out);
/* Every option of the chosen command that a file may hold, with its value and source: itself a
 * valid config file. */
void options_print(const struct options *options, struct buffer *out);
/* A file with every option commented out at its default, under its help and bounds. */
void options_example(const struct options *options, struct buffer *out);
/* The whole program, all its commands, as a manual page in man(7)'s macros, and as a script for
 * bash's completion. --man-page and --completion print them; `make install` puts them where they
 * belong. */
void options_manual(const struct options *options, struct buffer *out);
void options_completion(const struct options *options, struct buffer *out);
/* The key of an option in a file, "upload.rate_limit", from its name. Returns out. */
char *option_key(const char *name, char out[static OPTION_NAME_SIZE]);

#endif
