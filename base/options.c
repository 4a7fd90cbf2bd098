/* Reading: arguments (options_arguments.c) choose the command and set flags; then environment and
 * file fill in what no flag gave. A state an option remembers the strongest source so far, so the
 * order of reading does not matter; the weaker value is still checked. */
#include "base/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/options_internal.h"
#include "base/suggest.h"

/* Variables with our prefix that are read in other places than an option table. */
static const char *const always_known[] = {"ATOLL_LOG",       "ATOLL_CACHE", "ATOLL_KERNELS",
                                           "ATOLL_ATTENTION", "ATOLL_ROOT",  "ATOLL_BIN",
                                           "ATOLL_TEST_*",    NULL};

char *option_flag(const char *name, char out[static FLAG_SIZE]) {
    snprintf(out, FLAG_SIZE, "--%s", name);
    for (char *c = out; *c; c++) {
        if (*c == '.') *c = '-';
    }
    return out;
}

char *option_variable(const char *name, char out[static FLAG_SIZE]) {
    snprintf(out, FLAG_SIZE, "ATOLL_%s", name);
    for (char *c = out; *c; c++) {
        if (*c == '.' || *c == '-') *c = '_';
        if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    }
    return out;
}

char *option_key(const char *name, char out[static OPTION_NAME_SIZE]) {
    snprintf(out, OPTION_NAME_SIZE, "%s", name);
    for (char *c = out; *c; c++) {
        if (*c == '-') *c = '_';
    }
    return out;
}

const void *option_field(const struct options *options, const struct setting *option) {
    return (const char *)options->values + option->offset;
}

/* --- the tables --- */

static size_t field_size(enum setting_kind kind) {
    switch (kind) {
    case SETTING_BOOL: return sizeof(bool);
    case SETTING_COUNT:
    case SETTING_SIZE:
    case SETTING_DURATION:
    case SETTING_RATE: return sizeof(uint64_t);
    case SETTING_NUMBER:
    case SETTING_SHARE: return sizeof(double);
    case SETTING_TEXT:
    case SETTING_PATH: return sizeof(const char *);
    case SETTING_CHOICE: return sizeof(int);
    case SETTING_LIST: return sizeof(struct setting_list);
    case SETTING_CHARS:
    case SETTING_HEX: break; /* no program has such an option */
    }
    return 0;
}

static void check_option(const struct setting *option) {
    ASSERT(option->name[0] >= 'a' && option->name[0] <= 'z' &&
           strlen(option->name) < FLAG_SIZE - 8);
    ASSERT(strspn(option->name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == strlen(option->name));
    ASSERT(strncmp(option->name, "no-", 3) != 0); /* --no-x unsets x */
    ASSERT(option->size > 0 && option->size == field_size(option->kind) && option->help);
    ASSERT((option->kind == SETTING_CHOICE) == (option->choices != NULL));
    ASSERT(!(option->kind == SETTING_LIST && option->fallback));
    ASSERT(!option->check || option->kind == SETTING_TEXT || option->kind == SETTING_PATH ||
           option->kind == SETTING_LIST);
    for (size_t i = 0; option_built_in[i]; i++)
        ASSERT(strcmp(option->name, option_built_in[i]) != 0);
    struct error error = {0};
    char room[16];
    bool is_quantity = option->kind >= SETTING_COUNT && option->kind <= SETTING_RATE;
    if (is_quantity && option->min) MUST(setting_parse(option, option->min, room, NULL));
    if (is_quantity && option->max) MUST(setting_parse(option, option->max, room, NULL));
    if (option->fallback && setting_parse(option, option->fallback, room, &error) != OK) {
        fprintf(stderr, "option %s: default %s\n", option->name, error.message);
        assert_failed("the default of an option is valid", __FILE__, __LINE__);
    }
}

static void check_command(const struct command *command, size_t depth) {
    ASSERT(command->name && command->summary && depth < COMMAND_DEPTH);
    for (const struct setting *option = command->options; option && option->name; option++) {
        check_option(option);
        ASSERT(!((option->flags & OPTION_POSITIONAL) && command->children));
    }
    for (size_t i = 0; command->children && command->children[i]; i++)
        check_command(command->children[i], depth + 1);
}

static struct option_state *find_state(const struct options *options, const char *name) {
    for (size_t i = 0; i < options->state_count; i++) {
        if (strcmp(options->states[i].option->name, name) == 0) return &options->states[i];
    }
    return NULL;
}

struct option_state *option_spelt(const struct options *options, option_spelling *spell,
                                  const char *text, unsigned without) {
    char spelt[FLAG_SIZE];
    for (size_t i = 0; i < options->state_count; i++) {
        const struct setting *option = options->states[i].option;
        if (!(option->flags & without) && strcmp(spell(option->name, spelt), text) == 0)
            return &options->states[i];
    }
    return NULL;
}

static void store(struct options *options, const struct setting *option, const void *value) {
    memcpy((char *)options->values + option->offset, value, option->size);
}

void option_add_command(struct options *options, const struct command *command) {
    ASSERT(options->depth < COMMAND_DEPTH);
    options->chain[options->depth++] = command;
    for (const struct setting *option = command->options; option && option->name; option++) {
        ASSERT(!find_state(options, option->name));
        options->states =
            xrealloc(options->states, (options->state_count + 1) * sizeof *options->states);
        options->states[options->state_count++] = (struct option_state){.option = option};
        unsigned char value[sizeof(struct setting_list)] = {0};
        if (option->fallback) MUST(setting_parse(option, option->fallback, value, NULL));
        store(options, option, value);
    }
}

struct options *options_create(const struct command *program, void *values) {
    check_command(program, 0);
    struct options *options = xcalloc(1, sizeof *options);
    options->program = program;
    options->values = values;
    option_add_command(options, program);
    return options;
}

static void free_items(char **items, size_t count) {
    for (size_t i = 0; i < count; i++) free(items[i]);
    free(items);
}

void options_destroy(struct options *options) {
    if (!options) return;
    for (size_t i = 0; i < options->state_count; i++) {
        struct option_state *state = &options->states[i];
        bool secret = state->text && (state->option->flags & SETTING_SECRET);
        if (secret) clear(state->text, strlen(state->text));
        free(state->text);
        free(state->where);
        free_items(state->items, state->item_count);
    }
    free(options->states);
    free(options->config_path);
    free(options);
}

/* --- one value from one source --- */

static void remember(struct option_state *state, enum option_source source, const char *where) {
    state->source = source;
    free(state->where);
    state->where = xstrdup(where);
}

static void append_item(struct options *options, struct option_state *state, const char *text) {
    state->items = xrealloc(state->items, (state->item_count + 1) * sizeof *state->items);
    state->items[state->item_count++] = xstrdup(text);
    struct setting_list list = {(const char *const *)state->items, state->item_count};
    store(options, state->option, &list);
}

static void clear_items(struct options *options, struct option_state *state) {
    free_items(state->items, state->item_count);
    state->items = NULL;
    state->item_count = 0;
    store(options, state->option, &(struct setting_list){0});
}

/* A stronger source replaces a list as a whole; the same source goes on with it. */
static void add_to_list(struct options *options, struct option_state *state,
                        enum option_source source, const char *text, const char *where) {
    if (source < state->source) return;
    if (source > state->source) {
        clear_items(options, state);
        remember(state, source, where);
    }
    if (text) append_item(options, state, text);
}

enum status option_set(struct options *options, struct option_state *state,
                       enum option_source source, const char *text, const char *where,
                       struct error *error) {
    const struct setting *option = state->option;
    if (option->kind == SETTING_LIST) {
        enum status checked = text && option->check ? option->check(text, error) : OK;
        if (checked != OK) return error_wrap(error, checked, "%s", where);
        add_to_list(options, state, source, text, where);
        return OK;
    }
    unsigned char value[sizeof(struct setting_list)] = {0};
    enum status status = setting_parse(option, text, value, error);
    if (status != OK) return error_wrap(error, status, "%s", where);
    if (source < state->source) return OK;
    if (option->kind == SETTING_TEXT || option->kind == SETTING_PATH) {
        char *copy = xstrdup(text);
        free(state->text);
        state->text = copy;
        store(options, option, &copy);
    } else {
        store(options, option, value);
    }
    remember(state, source, where);
    return OK;
}

const char *option_command_words(const struct options *options, char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < options->depth && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? " " : "",
                                 options->chain[i]->name);
    }
    return out;
}

/* --- environment --- */

/* Whether some command of the program has the option that `matches` says; it may belong to another
 * command than the chosen. */
static bool known_anywhere(const struct command *command, const char *name, option_spelling *spell,
                           struct suggestion *near, char (*names)[FLAG_SIZE], size_t *used,
                           size_t limit) {
    for (const struct setting *option = command->options; option && option->name; option++) {
        if ((option->flags & NOT_IN_FILES) || *used >= limit) continue;
        char *spelt = spell(option->name, names[(*used)++]);
        if (strcmp(spelt, name) == 0) return true;
        if (!(option->flags & OPTION_HIDDEN)) suggest_offer(near, spelt);
    }
    for (size_t i = 0; command->children && command->children[i]; i++) {
        if (known_anywhere(command->children[i], name, spell, near, names, used, limit))
            return true;
    }
    return false;
}

enum { NAMES_MAX = 1024 };

/* OK if another command of the program knows it, else INVALID with the nearest. */
static enum status refuse_unknown(const struct options *options, const char *what, const char *name,
                                  option_spelling *spell, const char *const *more,
                                  struct error *error) {
    struct suggestion near;
    suggest_init(&near, name);
    char(*names)[FLAG_SIZE] = xcalloc(NAMES_MAX, FLAG_SIZE);
    size_t used = 0;
    enum status status = OK;
    if (!known_anywhere(options->program, name, spell, &near, names, &used, NAMES_MAX)) {
        for (size_t i = 0; more && more[i]; i++) suggest_offer(&near, more[i]);
        char otherwise[96];
        snprintf(otherwise, sizeof otherwise, "see '%s --help' for those there are",
                 options->program->name);
        status = suggest_refuse(what, name, near.best, otherwise, error);
    }
    free(names);
    return status;
}

static bool is_listed(const char *name, const char *const *list) {
    for (size_t i = 0; list && list[i]; i++) {
        size_t size = strlen(list[i]);
        bool prefix = size > 0 && list[i][size - 1] == '*';
        if (prefix ? strncmp(name, list[i], size - 1) == 0 : strcmp(name, list[i]) == 0)
            return true;
    }
    return false;
}

static bool ends_with(const char *text, size_t size, const char *end) {
    size_t length = strlen(end);
    return size >= length && memcmp(text + size - length, end, length) == 0;
}

static bool has_protocol(const char *text) {
    return strncmp(text, "tcp://", 6) == 0 || strncmp(text, "udp://", 6) == 0 ||
           strncmp(text, "sctp://", 7) == 0;
}

/* What Kubernetes puts into every container of a namespace that has a Service named `atoll` or
 * `atoll-...`; nobody meant it for us. With NAME for its name in capitals: NAME_SERVICE_HOST,
 * NAME_SERVICE_PORT, NAME_SERVICE_PORT_HTTP for a port that has a name,
 * NAME_PORT=tcp://10.0.0.1:80, NAME_PORT_80_TCP, and this with _PROTO, _PORT, _ADDR after it. */
static bool is_of_a_service(const char *name, const char *value) {
    size_t size = strlen(name);
    if (name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] != 0) return false;
    if (ends_with(name, size, "_SERVICE_HOST") || ends_with(name, size, "_SERVICE_PORT"))
        return true;
    const char *named = strstr(name, "_SERVICE_PORT_");
    if (named && named[strlen("_SERVICE_PORT_")]) return true;
    if (ends_with(name, size, "_PORT") && has_protocol(value)) return true;
    static const char *const parts[] = {"_PROTO", "_PORT", "_ADDR"}, *const protocols[] = {
                                                                         "_TCP", "_UDP", "_SCTP"};
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        if (!ends_with(name, size, parts[i])) continue;
        size -= strlen(parts[i]);
        break;
    }
    for (size_t i = 0; i < COUNT_OF(protocols); i++) {
        if (!ends_with(name, size, protocols[i])) continue;
        size_t end = size - strlen(protocols[i]), digits = 0;
        while (digits < end && name[end - digits - 1] >= '0' && name[end - digits - 1] <= '9')
            digits++;
        return digits > 0 && ends_with(name, end - digits, "_PORT_");
    }
    return false;
}

static enum status set_from_environment(struct options *options, struct option_state *state,
                                        const char *name, const char *value, struct error *error) {
    if (state->option->kind != SETTING_LIST)
        return option_set(options, state, OPTION_FROM_ENVIRONMENT, value, name, error);
    add_to_list(options, state, OPTION_FROM_ENVIRONMENT, NULL, name);
    while (*value) {
        size_t size = strcspn(value, ",");
        char *item = xformat("%.*s", (int)size, value);
        enum status status =
            size > 0 ? option_set(options, state, OPTION_FROM_ENVIRONMENT, item, name, error) : OK;
        free(item);
        TRY(status);
        value += size + (value[size] == ',');
    }
    return OK;
}

static enum status read_variable(struct options *options, const char *name, const char *value,
                                 const char *const *known_variables, struct error *error) {
    if (is_listed(name, always_known) || is_listed(name, known_variables)) return OK;
    if (options->has_file && strcmp(name, "ATOLL_CONFIG") == 0) {
        if (options->config_path) return OK;
        options->config_path = xstrdup(value);
        options->config_source = OPTION_FROM_ENVIRONMENT;
        return OK;
    }
    struct option_state *state = option_spelt(options, option_variable, name, NOT_IN_FILES);
    if (state) return set_from_environment(options, state, name, value, error);
    if (is_of_a_service(name, value)) return OK;
    return refuse_unknown(options, "environment variable", name, option_variable, always_known,
                          error);
}

enum status options_read_environment(struct options *options, char **environment,
                                     const char *const *known_variables, struct error *error) {
    for (char **entry = environment; entry && *entry; entry++) {
        const char *equals = strchr(*entry, '=');
        if (!equals || strncmp(*entry, "ATOLL_", 6) != 0) continue;
        char *name = xformat("%.*s", (int)(equals - *entry), *entry);
        enum status status = read_variable(options, name, equals + 1, known_variables, error);
        free(name);
        if (status != OK) return status;
    }
    return OK;
}

/* --- file --- */

enum status options_set_from_file(struct options *options, const char *key, const char *text,
                                  const char *where, struct error *error) {
    char name[FLAG_SIZE];
    const char *bracket = strchr(key, '[');
    size_t size = bracket ? (size_t)(bracket - key) : strlen(key);
    snprintf(name, sizeof name, "%.*s", (int)MIN(size, sizeof name - 1), key);
    struct option_state *state =
        size < sizeof name ? option_spelt(options, option_key, name, NOT_IN_FILES) : NULL;
    if (!state) {
        enum status status = refuse_unknown(options, "key", size < sizeof name ? name : key,
                                            option_key, NULL, error);
        return status == OK ? OK : error_wrap(error, status, "%s", where);
    }
    if (state->option->kind == SETTING_LIST) {
        if (bracket && bracket[1 + strspn(bracket + 1, "0123456789")] != ']') bracket = NULL;
        bool is_item = bracket && strcmp(strchr(bracket, ']'), "]") == 0;
        if (strchr(key, '[') && !is_item)
            return error_set(error, INVALID, "%s: %s takes a list of plain texts", where, name);
        if (text) return option_set(options, state, OPTION_FROM_FILE, text, where, error);
        add_to_list(options, state, OPTION_FROM_FILE, NULL, where);
        return OK;
    }
    if (bracket || !text)
        return error_set(error, INVALID, "%s: %s takes one value, not a list", where, name);
    char *place = xformat("%s: %s", where, name);
    enum status status = option_set(options, state, OPTION_FROM_FILE, text, place, error);
    free(place);
    if (status == OK && state->source == OPTION_FROM_FILE) remember(state, OPTION_FROM_FILE, where);
    return status;
}

/* --- all of it --- */

enum status options_finish(struct options *options, struct error *error) {
    const struct command *command = options->chain[options->depth - 1];
    char words[128], flag[FLAG_SIZE], variable[FLAG_SIZE], key[FLAG_SIZE];
    option_command_words(options, words, sizeof words);
    if (command->children)
        return error_set(error, INVALID, "'%s' needs a command after it; see '%s --help'", words,
                         words);
    for (size_t i = 0; i < options->state_count; i++) {
        const struct setting *option = options->states[i].option;
        if (!(option->flags & OPTION_REQUIRED) || options->states[i].source != OPTION_FROM_DEFAULT)
            continue;
        if (option->flags & OPTION_POSITIONAL) {
            return error_set(error, INVALID, "the argument %s is missing; see '%s --help'",
                             option->name, words);
        }
        if (option->flags & OPTION_FLAG_ONLY)
            return error_set(error, INVALID, "%s is required", option_flag(option->name, flag));
        return error_set(error, INVALID, "%s is required: give %s, %s%s%s%s", option->name,
                         option_flag(option->name, flag), option_variable(option->name, variable),
                         options->has_file ? " or '" : "",
                         options->has_file ? option_key(option->name, key) : "",
                         options->has_file ? ":' in the config file" : "");
    }
    return OK;
}

static void answer(struct options *options, struct buffer *out) {
    if (options->wants_help)
        options_help(options, out);
    else if (options->wants_version)
        buffer_append_text(out, "%s %s\n", options->program->name, options->program->version);
    else if (options->wants_example)
        options_example(options, out);
    else if (options->wants_manual)
        options_manual(options, out);
    else if (options->wants_completion)
        options_completion(options, out);
    else
        options_print(options, out);
}

enum status options_read(struct options *options, const struct options_setup *setup,
                         struct buffer *out, bool *answered, struct error *error) {
    *answered = false;
    options->has_file = setup->load_file != NULL;
    TRY(options_read_arguments(options, setup->argc, setup->argv, error));
    /* Help must come also where the environment or the file is what is broken. */
    bool early = options->wants_help || options->wants_version || options->wants_example ||
                 options->wants_manual || options->wants_completion;
    if (!early) {
        TRY(options_read_environment(options, setup->environment, setup->known_variables, error));
        if (options->config_path && setup->load_file)
            TRY(setup->load_file(options, options->config_path, error));
        /* --print-config shows also an unfinished configuration: that is when it is needed. */
        if (!options->wants_print) return options_finish(options, error);
    }
    answer(options, out);
    *answered = true;
    return OK;
}

int options_start(struct options *options, const struct options_setup *setup) {
    struct error error = {0};
    struct buffer out = {0};
    bool answered = false;
    int code = OPTIONS_GO_ON;
    if (options_read(options, setup, &out, &answered, &error) != OK) {
        fprintf(stderr, "%s: %s\n", options->program->name, error.message);
        code = OPTIONS_EXIT_USAGE;
    } else if (answered) {
        fwrite(out.data, 1, out.size, stdout);
        fflush(stdout);
        code = OPTIONS_EXIT_DONE;
    }
    buffer_deinit(&out);
    return code;
}

const struct command *options_command(const struct options *options) {
    return options->chain[options->depth - 1];
}

enum status options_refuse_idle(const struct options *options, const char *name, bool idle,
                                const char *why, struct error *error) {
    if (!idle || options_source(options, name, NULL) != OPTION_FROM_FLAG) return OK;
    return error_set(error, INVALID, "--%s has no effect %s", name, why);
}

enum option_source options_source(const struct options *options, const char *name,
                                  const char **where) {
    const struct option_state *state = find_state(options, name);
    ASSERT(state);
    if (where) *where = state->where ? state->where : "default";
    return state->source;
}
