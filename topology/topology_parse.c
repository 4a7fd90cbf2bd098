/* A topology's file: values with units, keys through the tables. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/suggest.h"
#include "config/yaml.h"
#include "model/layout.h"
#include "model/presets.h"
#include "topology/topology_table.h"

/* ---- one value ------------------------------------------------------------------------------- */

struct topology_unit {
    enum field_kind kind;
    const char *name;
    double factor;
};

static const struct topology_unit units[] = {
    {FIELD_COUNT, "", 1},          {FIELD_COUNT, "k", 1e3},       {FIELD_COUNT, "M", 1e6},
    {FIELD_COUNT, "B", 1e9},       {FIELD_COUNT, "G", 1e9},       {FIELD_COUNT, "T", 1e12},
    {FIELD_SIZE, "B", 1},          {FIELD_SIZE, "kB", 1e3},       {FIELD_SIZE, "MB", 1e6},
    {FIELD_SIZE, "GB", 1e9},       {FIELD_SIZE, "TB", 1e12},      {FIELD_SIZE, "PB", 1e15},
    {FIELD_SIZE, "KiB", 0x1p10},   {FIELD_SIZE, "MiB", 0x1p20},   {FIELD_SIZE, "GiB", 0x1p30},
    {FIELD_SIZE, "TiB", 0x1p40},   {FIELD_RATE, "bit/s", 1 / 8.}, {FIELD_RATE, "kbit/s", 125},
    {FIELD_RATE, "Mbit/s", 125e3}, {FIELD_RATE, "Gbit/s", 125e6}, {FIELD_RATE, "Tbit/s", 125e9},
    {FIELD_RATE, "B/s", 1},        {FIELD_RATE, "kB/s", 1e3},     {FIELD_RATE, "MB/s", 1e6},
    {FIELD_RATE, "GB/s", 1e9},     {FIELD_TIME, "ps", 1e-12},     {FIELD_TIME, "ns", 1e-9},
    {FIELD_TIME, "us", 1e-6},      {FIELD_TIME, "ms", 1e-3},      {FIELD_TIME, "s", 1},
    {FIELD_TIME, "m", 60},         {FIELD_TIME, "h", 3600},       {FIELD_TIME, "d", 86400},
    {FIELD_SHARE, "", 1},          {FIELD_SHARE, "%", 0.01},      {FIELD_MONEY, "", 1},
    {FIELD_PRICE, "", 1e-9}};

/* Digits, at most one point and an exponent; nothing else that strtod would take. */
static bool read_number(const char *text, double *out, const char **rest) {
    if (!isdigit((unsigned char)text[0])) return false;
    size_t at = strspn(text, "0123456789");
    if (text[at] == '.') at += 1 + strspn(text + at + 1, "0123456789");
    if (text[at] == 'e' || text[at] == 'E') {
        size_t sign = text[at + 1] == '-' || text[at + 1] == '+',
               digits = strspn(text + at + 1 + sign, "0123456789");
        if (digits) at += 1 + sign + digits;
    }
    char number[64];
    if (at >= sizeof number) return false;
    memcpy(number, text, at);
    number[at] = '\0';
    *out = strtod(number, NULL);
    while (text[at] == ' ') at++;
    *rest = text + at;
    return isfinite(*out);
}

static bool read_quantity(const struct field *field, const char *text, double *out) {
    if ((field->kind == FIELD_TIME && isinf(field->max) &&
         (strcmp(text, "never") == 0 || strcmp(text, "forever") == 0)) ||
        (field->kind == FIELD_RATE && strcmp(text, "unlimited") == 0)) {
        *out = INFINITY;
        return true;
    }
    double number;
    const char *unit;
    if (!read_number(text, &number, &unit)) return false;
    double value = NAN;
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (units[i].kind == field->kind && strcmp(units[i].name, unit) == 0)
            value = number * units[i].factor;
    }
    if (number == 0 && *unit == '\0') value = 0; /* nothing needs no unit */
    double scale = field->kind == FIELD_PRICE ? 1e-9 : 1;
    if (!(value >= field->min * scale && value <= field->max * scale)) return false;
    if (field->whole && value != floor(value)) return false;
    *out = value;
    return true;
}

static bool read_model(const char *text, double *out) {
    struct model_config config;
    if (preset_find(text, &config, NULL) != OK) return false;
    struct layout layout = {0};
    if (layout_init(&config, &layout, NULL) != OK) return false;
    *out = (double)layout.count;
    layout_deinit(&layout);
    return true;
}

static bool read_choice(const char *const *choices, const char *text, int *out) {
    for (int i = 0; choices[i]; i++) {
        if (strcmp(choices[i], text) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

static bool read_text(char *out, size_t size, const char *text) {
    if (strlen(text) >= size) return false;
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == '"' || *c == '\\' || *c == '<' || *c == '&')
            return false;
    }
    snprintf(out, size, "%s", text);
    return true;
}

static bool read_form(const struct field *field, const char *text, void *at) {
    switch (field->kind) {
    case FIELD_CHOICE: return read_choice(field->choices, text, at);
    case FIELD_BOOL: return read_choice((const char *const[]){"false", "true", NULL}, text, at);
    case FIELD_CODEC: return codec_parse(text, at, NULL) == OK;
    case FIELD_MODEL: return read_model(text, at);
    case FIELD_NAME: return text[0] && read_text(at, TOPOLOGY_NAME_SIZE, text);
    case FIELD_TEXT: return read_text(at, sizeof((struct topology *)0)->reported.source, text);
    case FIELD_GPU:
        for (int i = 0; topology_gpus[i].name; i++) {
            if (strcmp(topology_gpus[i].name, text) != 0) continue;
            *(int *)at = i;
            return true;
        }
        return false;
    default: return read_quantity(field, text, at);
    }
}

static const char *form_of(const struct field *field) {
    switch (field->kind) {
    case FIELD_COUNT:
        return field->whole ? "a whole number such as 12, 64k, 10B"
                            : "a number such as 12, 0.5, 64k, 10B, 1T";
    case FIELD_SIZE: return "a size with its unit, such as 64KiB or 2.5MB";
    case FIELD_RATE: return "a rate with its unit, such as 20Mbit/s or 1.5GB/s, or unlimited";
    case FIELD_TIME:
        return isinf(field->max) ? "a time with its unit, such as 30ms, 1.5s, 5m, 12h, 7d, or never"
                                 : "a time with its unit, such as 0.7ns, 30ms, 1.5s, 5m, 12h, 7d";
    case FIELD_SHARE: return "a share such as 0.02 or 2%";
    case FIELD_MONEY: return "a number";
    case FIELD_PRICE: return "a number: the price of a GB";
    case FIELD_BOOL: return "true or false";
    case FIELD_CODEC: return "fp32, bf16, int8, fp4, topk2-64 or topk2-128";
    case FIELD_MODEL: return "300k, 1m, 4m, 12m, 50m, 125m, 350m, 1b, 3b or 8b";
    case FIELD_NAME: return "a short name";
    case FIELD_TEXT: return "a short text without quotes, backslashes, < and &";
    case FIELD_CHOICE:
    case FIELD_GPU: break;
    }
    return "one of";
}

void field_range(const struct field *field, struct buffer *out) {
    buffer_append_text(out, "%s",
                       field->kind == FIELD_CHOICE || field->kind == FIELD_GPU ? "one of"
                                                                               : form_of(field));
    for (size_t i = 0; field->kind == FIELD_CHOICE && field->choices[i]; i++)
        buffer_append_text(out, " %s", field->choices[i]);
    for (size_t i = 0; field->kind == FIELD_GPU && topology_gpus[i].name; i++)
        buffer_append_text(out, " %s", topology_gpus[i].name);
    if (field->kind > FIELD_PRICE || !(field->max > field->min)) return;
    const char *unit = field->kind == FIELD_TIME   ? " s"
                       : field->kind == FIELD_SIZE ? " B"
                       : field->kind == FIELD_RATE ? " B/s"
                                                   : "";
    buffer_append_text(out, "; from %g%s", field->min, unit);
    if (isfinite(field->max)) buffer_append_text(out, " to %g%s", field->max, unit);
}

enum status field_read(const struct field *field, const char *text, void *base,
                       struct error *error) {
    if (read_form(field, text, (char *)base + field->offset)) return OK;
    struct buffer range = {0};
    field_range(field, &range);
    enum status status = error_set(error, INVALID, "invalid value \"%.60s\" for %s: write %.*s",
                                   text, field->key, (int)range.size, (const char *)range.data);
    buffer_deinit(&range);
    return status;
}

void fields_default(const struct field *fields, void *base) {
    for (const struct field *field = fields; field->key; field++) {
        void *at = (char *)base + field->offset;
        if (field->fallback) {
            bool is_valid = read_form(field, field->fallback, at);
            ASSERT(is_valid);
        } else if (field->kind == FIELD_CHOICE || field->kind == FIELD_GPU)
            *(int *)at = -1;
        else if (field->kind < FIELD_CHOICE)
            *(double *)at = NAN;
    }
}

/* ---- keys ------------------------------------------------------------------------------------ */

static const struct field *field_named(const struct field *fields, const char *key) {
    for (const struct field *field = fields; field->key; field++) {
        if (strcmp(field->key, key) == 0) return field;
    }
    return NULL;
}

/* `prefix` is what stands before `key` in the file: "sites[2]." */
static enum status unknown_key(const struct field *fields, const char *file,
                               const struct yaml_entry *entry, const char *key,
                               struct error *error) {
    struct suggestion near;
    suggest_init(&near, key);
    for (const struct field *field = fields; field->key; field++) suggest_offer(&near, field->key);
    if (fields == topology_fields) {
        suggest_offer(&near, "sites");
        suggest_offer(&near, "defaults");
    }
    int prefix = (int)(key - entry->key);
    return error_set(error, INVALID, "%s:%u: there is no key \"%s\"%s%.*s%s%s", file, entry->line,
                     entry->key, near.best ? "; did you mean \"" : "", near.best ? prefix : 0,
                     entry->key, near.best ? near.best : "",
                     near.best ? "\"?" : "; `atoll-sim plan --explain` lists them");
}

static enum status read_entry(const struct field *fields, const char *file,
                              const struct yaml_entry *entry, const char *key, void *base,
                              struct error *error) {
    const struct field *field = field_named(fields, key);
    if (!field) return unknown_key(fields, file, entry, key, error);
    if (entry->kind == YAML_EMPTY_MAP) return OK;
    if (entry->kind != YAML_TEXT)
        return error_set(error, INVALID, "%s:%u: %s needs a value", file, entry->line, entry->key);
    if (field_read(field, entry->text, base, error) == OK) return OK;
    return error_wrap(error, INVALID, "%s:%u", file, entry->line);
}

/* "sites[12].link.up": 12 and "link.up"; false where there is no such key. */
static bool site_key(const char *key, uint32_t *index, const char **rest) {
    unsigned at;
    int used = 0;
    if (sscanf(key, "sites[%u].%n", &at, &used) != 1 || used == 0) return false;
    *index = at;
    *rest = key + used;
    return true;
}

static enum status read_sites(const struct yaml *yaml, const char *file, struct topology *topology,
                              struct error *error) {
    struct topology_site defaults = {0};
    fields_default(topology_site_fields, &defaults);
    defaults.link.reset.lasts = 0;
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        if (strncmp(entry->key, "defaults.", 9) == 0)
            TRY(read_entry(topology_site_fields, file, entry, entry->key + 9, &defaults, error));
    }
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        uint32_t index;
        const char *key;
        if (!site_key(entry->key, &index, &key)) continue;
        if (index >= TOPOLOGY_GROUPS_LIMIT) {
            return error_set(error, INVALID, "%s:%u: more than %d kinds of sites; use count", file,
                             entry->line, TOPOLOGY_GROUPS_LIMIT);
        }
        while (topology->group_count <= index) topology->groups[topology->group_count++] = defaults;
        TRY(read_entry(topology_site_fields, file, entry, key, &topology->groups[index], error));
    }
    return OK;
}

static enum status read_all(const struct yaml *yaml, const char *file, struct topology *topology,
                            struct error *error) {
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        const struct yaml_entry *entry = yaml_entry_at(yaml, i);
        uint32_t index;
        const char *key;
        if (strncmp(entry->key, "defaults.", 9) == 0 || site_key(entry->key, &index, &key))
            continue;
        TRY(read_entry(topology_fields, file, entry, entry->key, topology, error));
    }
    if (yaml_find(yaml, "model.parameters") && yaml_find(yaml, "model.preset")) {
        return error_set(error, INVALID, "%s: give model.parameters or model.preset, not both",
                         file);
    }
    if (isnan(topology->model.parameters))
        return error_set(error, INVALID, "%s: model.parameters must be given", file);
    TRY(read_sites(yaml, file, topology, error));
    if (topology_settle(topology, error) != OK) return error_wrap(error, INVALID, "%s", file);
    return OK;
}

enum status topology_parse(struct bytes text, const char *name, struct topology **out,
                           struct error *error) {
    struct yaml *yaml = NULL;
    TRY(yaml_read(text, name, NULL, &yaml, error));
    struct topology *topology = xcalloc(1, sizeof *topology);
    topology->groups = xcalloc(TOPOLOGY_GROUPS_LIMIT, sizeof *topology->groups);
    fields_default(topology_fields, topology);
    enum status status = read_all(yaml, name, topology, error);
    yaml_close(yaml);
    if (status == OK)
        *out = topology;
    else
        topology_destroy(topology);
    return status;
}

/* ---- the manual ------------------------------------------------------------------------------ */

static void explain(const struct field *fields, const char *indent, struct buffer *out) {
    for (const struct field *field = fields; field->key; field++) {
        buffer_append_text(out, "%s# %s\n%s#   ", indent, field->help, indent);
        field_range(field, out);
        buffer_append_text(out, "\n%s# %s: %s\n", indent, field->key,
                           field->fallback ? field->fallback : "");
    }
}

void topology_explain(struct buffer *out) {
    buffer_append_text(out, "# A federation to be planned. Keys may be nested (`link: {up: ...}`) "
                            "or dotted (`link.up: ...`).\n");
    explain(topology_fields, "", out);
    buffer_append_text(out, "\n# Keys of a site may stand here for all sites:\n# defaults: "
                            "{}\n\nsites:\n  - name: example\n");
    explain(topology_site_fields, "    ", out);
}
