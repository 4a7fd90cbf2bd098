/* libyaml's events, flattened. The walk keeps a stack of the open mappings and sequences, each with
 * the length of the key so far, so that nothing recurses and no node of libyaml's outlives its
 * event. */
#include "config/yaml.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/memory.h"
#include "base/utf8.h"

enum {
    SIZE_DEFAULT = 1 << 20,
    ENTRIES_DEFAULT = 10000,
    DEPTH_DEFAULT = 16,
    DEPTH_MAX = 64,
    KEY_MAX = 256
};

struct yaml {
    struct yaml_entry *entries;
    size_t count, capacity;
    size_t *sorted; /* indices by key */
};

struct level {
    bool is_map, has_key; /* has_key: a value is due */
    size_t index;         /* items so far */
    size_t prefix;        /* length of `key` that names this level */
    unsigned line;
};

struct yaml_walk {
    struct yaml *yaml;
    const char *name;
    struct yaml_limits limits;
    struct level levels[DEPTH_MAX];
    unsigned depth, line;
    bool seen_document;
    char key[KEY_MAX];
    struct error *error;
};

static enum status complain(const struct yaml_walk *walk, const char *what) {
    return error_set(walk->error, INVALID, "%s:%u: %s", walk->name, walk->line, what);
}

/* --- keys --- */

/* Puts what names the next value after the level's own name: ".name" for a map (already there),
 * "[index]" for a sequence. */
static enum status name_value(struct yaml_walk *walk) {
    if (walk->depth == 0) return OK;
    struct level *level = &walk->levels[walk->depth - 1];
    if (level->is_map) {
        level->has_key = false;
        return OK;
    }
    int wrote =
        snprintf(walk->key + level->prefix, KEY_MAX - level->prefix, "[%zu]", level->index++);
    return level->prefix + (size_t)wrote < KEY_MAX ? OK : complain(walk, "the key is too long");
}

static enum status set_key(struct yaml_walk *walk, const char *text, size_t size) {
    struct level *level = &walk->levels[walk->depth - 1];
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+@";
    if (size == 0 || strspn(text, allowed) != size)
        return complain(walk, "a key must be a plain name of letters, digits, '-', '_' and '.'");
    int wrote = snprintf(walk->key + level->prefix, KEY_MAX - level->prefix, "%s%s",
                         level->prefix ? "." : "", text);
    if (level->prefix + (size_t)wrote >= KEY_MAX) return complain(walk, "the key is too long");
    level->has_key = true;
    level->index++;
    return OK;
}

/* --- entries --- */

static enum status add_entry(struct yaml_walk *walk, const char *text, enum yaml_kind kind,
                             bool quoted, unsigned line) {
    struct yaml *yaml = walk->yaml;
    if (yaml->count == walk->limits.entries) return complain(walk, "too many settings");
    if (yaml->count == yaml->capacity) {
        yaml->capacity = MAX(yaml->capacity * 2, (size_t)32);
        yaml->entries = xrealloc(yaml->entries, yaml->capacity * sizeof *yaml->entries);
    }
    yaml->entries[yaml->count++] = (struct yaml_entry){.key = xstrdup(walk->key),
                                                       .text = xstrdup(text),
                                                       .kind = kind,
                                                       .quoted = quoted,
                                                       .line = line};
    return OK;
}

static enum status on_scalar(struct yaml_walk *walk, const yaml_event_t *event) {
    const char *text = (const char *)event->data.scalar.value;
    size_t size = event->data.scalar.length;
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (event->data.scalar.anchor) return complain(walk, "anchors (&name) are not accepted");
    if (event->data.scalar.tag) return complain(walk, "tags (!name) are not accepted");
    if (memchr(text, 0, size)) return complain(walk, "a zero character is not accepted");
    if (walk->depth == 0) {
        if (size == 0 && plain) return OK; /* a document with nothing in it */
        return complain(walk, "the file must hold settings of the form 'key: value'");
    }
    struct level *level = &walk->levels[walk->depth - 1];
    if (level->is_map && !level->has_key) return set_key(walk, text, size);
    TRY(name_value(walk));
    return add_entry(walk, text, YAML_TEXT, !plain, walk->line);
}

static enum status open_level(struct yaml_walk *walk, bool is_map) {
    if (walk->depth > 0 && walk->levels[walk->depth - 1].is_map &&
        !walk->levels[walk->depth - 1].has_key) {
        return complain(walk, "a key must be a plain name");
    }
    if (walk->depth == 0 && !is_map)
        return complain(walk, "the file must hold settings of the form 'key: value', not a list");
    if (walk->depth == walk->limits.depth) return complain(walk, "nested too deeply");
    TRY(name_value(walk));
    size_t prefix = walk->depth ? strlen(walk->key) : 0;
    walk->levels[walk->depth++] =
        (struct level){.is_map = is_map, .prefix = prefix, .line = walk->line};
    return OK;
}

static enum status close_level(struct yaml_walk *walk) {
    struct level *level = &walk->levels[--walk->depth];
    walk->key[level->prefix] = 0;
    if (level->index > 0 || walk->depth == 0) return OK;
    return add_entry(walk, "", level->is_map ? YAML_EMPTY_MAP : YAML_EMPTY_LIST, false,
                     level->line);
}

static enum status on_event(struct yaml_walk *walk, const yaml_event_t *event) {
    walk->line = (unsigned)event->start_mark.line + 1;
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (walk->seen_document) return complain(walk, "a second document ('---') is not accepted");
        walk->seen_document = true;
        if (event->data.document_start.version_directive ||
            event->data.document_start.tag_directives.start !=
                event->data.document_start.tag_directives.end) {
            return complain(walk, "directives (%) are not accepted");
        }
        return OK;
    case YAML_ALIAS_EVENT: return complain(walk, "aliases (*name) are not accepted");
    case YAML_SCALAR_EVENT: return on_scalar(walk, event);
    case YAML_MAPPING_START_EVENT:
        if (event->data.mapping_start.anchor)
            return complain(walk, "anchors (&name) are not accepted");
        if (event->data.mapping_start.tag) return complain(walk, "tags (!name) are not accepted");
        return open_level(walk, true);
    case YAML_SEQUENCE_START_EVENT:
        if (event->data.sequence_start.anchor)
            return complain(walk, "anchors (&name) are not accepted");
        if (event->data.sequence_start.tag) return complain(walk, "tags (!name) are not accepted");
        return open_level(walk, false);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT: return close_level(walk);
    default: return OK;
    }
}

static enum status walk_events(struct yaml_walk *walk, yaml_parser_t *parser) {
    for (;;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            walk->line = (unsigned)parser->problem_mark.line + 1;
            if (parser->error == YAML_MEMORY_ERROR)
                return error_set(walk->error, FULL, "%s: no memory", walk->name);
            return complain(walk, parser->problem ? parser->problem : "this is not YAML");
        }
        bool last = event.type == YAML_STREAM_END_EVENT;
        enum status status = on_event(walk, &event);
        yaml_event_delete(&event);
        if (status != OK || last) return status;
    }
}

/* --- duplicates: over the flat keys, so that `a.b` and `a: {b: }` are seen as one --- */

static int compare_entries(const void *a, const void *b, void *entries) {
    const struct yaml_entry *all = entries;
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    int order = strcmp(all[i].key, all[j].key);
    return order ? order : i < j ? -1 : i > j;
}

static enum status refuse_duplicates(struct yaml_walk *walk) {
    struct yaml *yaml = walk->yaml;
    yaml->sorted = xcalloc(yaml->count, sizeof *yaml->sorted);
    for (size_t i = 0; i < yaml->count; i++) yaml->sorted[i] = i;
    qsort_r(yaml->sorted, yaml->count, sizeof *yaml->sorted, compare_entries, yaml->entries);
    for (size_t i = 1; i < yaml->count; i++) {
        const struct yaml_entry *before = &yaml->entries[yaml->sorted[i - 1]],
                                *entry = &yaml->entries[yaml->sorted[i]];
        if (strcmp(before->key, entry->key) != 0) continue;
        return error_set(walk->error, INVALID,
                         "%s:%u: the key %s is there twice (first in line %u)", walk->name,
                         entry->line, entry->key, before->line);
    }
    /* A key that has a value of its own and members too: `a: 1` beside `a.b: 2`, or the list `a:
     * [x]` beside a second one. */
    for (size_t i = 0; i < yaml->count; i++) {
        char outer[KEY_MAX];
        snprintf(outer, sizeof outer, "%s", yaml->entries[i].key);
        for (size_t end = strlen(outer); end > 0; end--) {
            if (outer[end] != '.' && outer[end] != '[') continue;
            outer[end] = 0;
            const struct yaml_entry *other = yaml_find(yaml, outer);
            if (!other) continue;
            return error_set(walk->error, INVALID,
                             "%s:%u: the key %s has a value and members (line %u)", walk->name,
                             other->line, outer, yaml->entries[i].line);
        }
    }
    return OK;
}

static enum status refuse_tabs(const struct yaml_walk *walk, struct bytes text) {
    unsigned line = 1;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '\n') line++;
        if (text.data[i] == '\t')
            return error_set(walk->error, INVALID, "%s:%u: a tab; indent with spaces", walk->name,
                             line);
    }
    return OK;
}

enum status yaml_read(struct bytes text, const char *name, const struct yaml_limits *limits,
                      struct yaml **out, struct error *error) {
    struct yaml_walk walk = {.name = name, .error = error, .line = 1};
    if (limits) walk.limits = *limits;
    if (!walk.limits.size) walk.limits.size = SIZE_DEFAULT;
    if (!walk.limits.entries) walk.limits.entries = ENTRIES_DEFAULT;
    if (!walk.limits.depth) walk.limits.depth = DEPTH_DEFAULT;
    walk.limits.depth = MIN(walk.limits.depth, (unsigned)DEPTH_MAX);
    if (text.size > walk.limits.size) {
        return error_set(error, INVALID, "%s: %zu bytes, more than the limit of %zu", name,
                         text.size, walk.limits.size);
    }
    if (utf16_mark(text.data, text.size))
        return error_set(error, INVALID, "%s: it is UTF-16 text; save it as UTF-8", name);
    size_t mark = utf8_mark(text.data, text.size);
    if (mark) text = bytes_of(text.data + mark, text.size - mark);
    TRY(refuse_tabs(&walk, text));
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return error_set(error, FULL, "%s: no memory", name);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, text.size ? text.data : (const uint8_t *)"", text.size);
    walk.yaml = xcalloc(1, sizeof *walk.yaml);
    enum status status = walk_events(&walk, &parser);
    yaml_parser_delete(&parser);
    if (status == OK) status = refuse_duplicates(&walk);
    if (status == OK)
        *out = walk.yaml;
    else
        yaml_close(walk.yaml);
    return status;
}

void yaml_close(struct yaml *yaml) {
    if (!yaml) return;
    for (size_t i = 0; i < yaml->count; i++) {
        free((char *)(uintptr_t)yaml->entries[i].key);
        free((char *)(uintptr_t)yaml->entries[i].text);
    }
    free(yaml->entries);
    free(yaml->sorted);
    free(yaml);
}

size_t yaml_count(const struct yaml *yaml) { return yaml->count; }

const struct yaml_entry *yaml_entry_at(const struct yaml *yaml, size_t index) {
    ASSERT(index < yaml->count);
    return &yaml->entries[index];
}

const struct yaml_entry *yaml_find(const struct yaml *yaml, const char *key) {
    size_t low = 0, high = yaml->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct yaml_entry *entry = &yaml->entries[yaml->sorted[middle]];
        int order = strcmp(key, entry->key);
        if (order == 0) return entry;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
