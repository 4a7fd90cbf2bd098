/* The manifest (fed/manifest.h): defaults, checks across keys, the canonical text and its digest.
 * Single keys are in manifest_table.c, their values in base/setting.c. */
#include "fed/manifest.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "config/config.h"
#include "fed/manifest_table.h"

enum status name_check(const char *text, struct error *error) {
    size_t length = strlen(text);
    bool good = length >= 1 && length < SITE_NAME_SIZE && text[0] >= 'a' && text[0] <= 'z';
    for (size_t i = 0; good && i < length; i++)
        good = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= '0' && text[i] <= '9') ||
               text[i] == '-';
    if (good) return OK;
    return error_set(
        error, INVALID,
        "invalid name \"%.40s\": use 1-32 characters from a-z, 0-9 and '-', starting with a letter",
        text);
}

static void *field_of(const struct setting *setting, struct manifest *manifest) {
    return (char *)manifest + setting->offset;
}
static const void *field_in(const struct setting *setting, const struct manifest *manifest) {
    return (const char *)manifest + setting->offset;
}

static void fill_defaults(enum outer_mode mode, struct manifest *out) {
    *out = (struct manifest){0};
    for (const struct setting *at = manifest_settings; at->name; at++) {
        const char *text = manifest_fallback(at, mode);
        if (text) MUST(setting_parse(at, text, field_of(at, out), NULL));
    }
    out->outer.mode = mode;
}

void manifest_defaults(struct manifest *out) { fill_defaults(OUTER_SPARSE, out); }

/* --- checks that look at several keys; each says which one to change -------------------------- */
#define REFUSE(key_, ...)                                                                          \
    do {                                                                                           \
        *key = (key_);                                                                             \
        return error_set(error, INVALID, __VA_ARGS__);                                             \
    } while (0)

static enum status check_sizes(const struct manifest *m, const char **key, struct error *error) {
    if (m->model.hidden % m->model.heads != 0)
        REFUSE("model.heads", "%u heads do not divide model.hidden %u: write a divisor of it",
               m->model.heads, m->model.hidden);
    uint32_t head = m->model.hidden / m->model.heads;
    if (head % 2 != 0 || head > 1024)
        REFUSE("model.heads",
               "%u heads of %u make a head %u wide: it must be even, for rotary positions, and at "
               "most 1024",
               m->model.heads, m->model.hidden, head);
    if (m->model.kv_heads > m->model.heads || m->model.heads % m->model.kv_heads != 0)
        REFUSE("model.kv_heads", "%u does not divide model.heads %u: write a divisor of it",
               m->model.kv_heads, m->model.heads);
    if (m->tokenizer == TOKENIZER_BYTE && m->model.vocabulary < 256)
        REFUSE("model.vocabulary", "%u is too small for the byte tokenizer: write 256 or more",
               m->model.vocabulary);
    return OK;
}

static const uint8_t none[DIGEST_SIZE];

static enum status check_model(const struct manifest *m, const char **key, struct error *error) {
    /* another layout's model is not made from its sizes */
    if (digest_equal(m->layout, none)) TRY(check_sizes(m, key, error));
    if (digest_equal(m->layout, none) && !digest_equal(m->base, none))
        REFUSE("base", "only an adapter has a base: write none, or make the run with --from");
    if (m->tokenizer == TOKENIZER_BYTE && !digest_equal(m->tokenizer_digest, none))
        REFUSE("tokenizer_digest",
               "bytes have no tokenizer.json: write none, or tokenizer: external");
    return OK;
}

static enum status check_schedule(const struct manifest *m, const char **key, struct error *error) {
    if (m->inner.schedule == INNER_CONSTANT) {
        if (m->inner.decay_tokens != 0)
            REFUSE("inner.decay_tokens",
                   "a constant schedule does not decay: write 0, or choose linear or cosine");
        return OK;
    }
    uint64_t end = m->inner.decay_tokens ? m->inner.decay_tokens : m->token_budget;
    if (end == 0)
        REFUSE("inner.decay_tokens",
               "a schedule that decays needs an end: write it here, or set token_budget");
    if (end <= m->inner.warmup_tokens)
        REFUSE("inner.warmup_tokens",
               "%llu tokens of warmup reach beyond the end of the decay at %llu: write less",
               (unsigned long long)m->inner.warmup_tokens, (unsigned long long)end);
    return OK;
}

static enum status check_outer(const struct manifest *m, const char **key, struct error *error) {
    const char *codec = codec_name(m->codec.kind);
    bool sparse_codec = codec_is_sparse(m->codec.kind);
    if (m->outer.mode == OUTER_SPARSE) {
        if (m->outer.momentum != 0)
            REFUSE("outer.momentum",
                   "%g with sparse mode diverges, because error feedback already acts as momentum: "
                   "write 0",
                   m->outer.momentum);
        if (!sparse_codec)
            REFUSE("codec.kind",
                   "%s is for dense mode: write topk2-64 or topk2-128, or outer.mode: dense",
                   codec);
        if ((float)m->codec.decay != CODEC_FEEDBACK_DECAY || m->codec.decay != 0.95)
            REFUSE("codec.decay",
                   "%g: the error feedback of sparse mode decays by 0.95; write that",
                   m->codec.decay);
        return OK;
    }
    if (sparse_codec)
        REFUSE("codec.kind",
               "%s is for sparse mode: write int8, fp4, bf16 or fp32, or outer.mode: sparse",
               codec);
    if (m->codec.decay != 0)
        REFUSE("codec.decay",
               "%g: dense mode has no error feedback, which diverges under its momentum; write 0",
               m->codec.decay);
    return OK;
}

static enum status check_merge(const struct manifest *m, const char **key, struct error *error) {
    if (m->merge.staleness_exponent != 0.5 && m->merge.staleness_exponent != 1)
        REFUSE("merge.staleness_exponent", "%g: write 0.5 or 1, the ones that are exact everywhere",
               m->merge.staleness_exponent);
    if (m->admission.clip_factor != 0 && m->admission.clip_factor < 1)
        REFUSE("admission.clip_factor",
               "%g would scale down half of all contributions: write 0 (off) or 1 and more",
               m->admission.clip_factor);
    return OK;
}

/* *key is the one that the error is about. */
static enum status check_all(const struct manifest *m, const char **key, struct error *error) {
    for (const struct setting *at = manifest_settings; at->name; at++) {
        *key = at->name;
        TRY(setting_check(at, field_in(at, m), error));
    }
    TRY(check_model(m, key, error));
    TRY(check_schedule(m, key, error));
    TRY(check_outer(m, key, error));
    return check_merge(m, key, error);
}

enum status manifest_check(const struct manifest *manifest, struct error *error) {
    const char *key = "";
    enum status status = check_all(manifest, &key, error);
    return status == OK ? OK : error_wrap(error, status, "manifest: %s", key);
}

/* --- reading ---------------------------------------------------------------------------------- */
static const char share_prefix[] = "shares.";

static bool is_share(const struct yaml_entry *entry) {
    return strncmp(entry->key, share_prefix, sizeof share_prefix - 1) == 0;
}

static int by_key(const void *a, const void *b) {
    const struct yaml_entry *const *left = a, *const *right = b;
    return strcmp((*left)->key, (*right)->key);
}

/* A mapping of sites to numbers, in whatever order, is the text with the names in theirs. */
static enum status read_shares(const struct yaml *yaml, struct manifest *out, struct error *error) {
    const struct yaml_entry **shares = xcalloc(yaml_count(yaml) + 1, sizeof(shares[0]));
    struct buffer text = {0};
    size_t count = 0;
    unsigned line = 0;
    for (size_t i = 0; i < yaml_count(yaml); i++)
        if (is_share(yaml_entry_at(yaml, i))) shares[count++] = yaml_entry_at(yaml, i);
    if (count > 0) line = shares[0]->line;
    qsort(shares, count, sizeof(shares[0]), by_key);
    for (size_t i = 0; i < count; i++)
        buffer_append_text(&text, "%s%s=%s", i > 0 ? " " : "",
                           shares[i]->key + sizeof share_prefix - 1, shares[i]->text);
    buffer_u8(&text, 0);
    const struct setting *setting = setting_find(manifest_settings, "shares");
    enum status status = OK;
    if (count > 0)
        status = setting_parse(setting, (const char *)text.data, field_of(setting, out), error);
    free(shares);
    buffer_deinit(&text);
    return status == OK ? OK : error_wrap(error, status, "manifest:%u: shares", line);
}

static enum status read_document(const struct yaml *yaml, struct manifest *out,
                                 struct error *error) {
    const struct config_table table = {manifest_settings, "manifest",
                                       "docs/manifest.example.yaml lists all of them"};
    /* The mode decides what the other keys default to, so it is read first. */
    struct manifest mode = {.outer.mode = OUTER_SPARSE};
    const struct yaml_entry *entry = yaml_find(yaml, "outer.mode");
    if (entry) TRY(config_set(&table, entry, entry->key, &mode, error));
    fill_defaults(mode.outer.mode, out);
    TRY(read_shares(yaml, out, error));
    for (size_t i = 0; i < yaml_count(yaml); i++) {
        entry = yaml_entry_at(yaml, i);
        if (is_share(entry)) continue;
        TRY(config_set(&table, entry, entry->key, out, error));
    }
    for (const struct setting *at = manifest_settings; at->name; at++) {
        if (manifest_fallback(at, out->outer.mode) || yaml_find(yaml, at->name)) continue;
        struct buffer range = {0};
        setting_range(at, &range);
        enum status status = error_set(error, INVALID, "manifest: %s: must be given%s: write %.*s",
                                       at->name, at->fallback ? " in dense mode" : "",
                                       (int)range.size, (const char *)range.data);
        buffer_deinit(&range);
        return status;
    }
    const char *key = "";
    enum status status = check_all(out, &key, error);
    if (status == OK) return OK;
    entry = yaml_find(yaml, key);
    if (entry) return error_wrap(error, status, "manifest:%u: %s", entry->line, key);
    return error_wrap(error, status, "manifest: %s (by default)", key);
}

static const struct yaml_limits yaml_limits = {.size = MANIFEST_LIMIT, .entries = 256, .depth = 4};

enum status manifest_parse(struct bytes yaml, struct manifest *out, struct error *error) {
    struct yaml *document = NULL;
    TRY(yaml_read(yaml, "manifest", &yaml_limits, &document, error));
    struct manifest read;
    enum status status = read_document(document, &read, error);
    if (status == OK) *out = read;
    yaml_close(document);
    return status;
}

enum status manifest_check_count(const struct manifest *manifest, uint64_t parameters,
                                 struct error *error) {
    uint64_t least = manifest->fragments == 1 ? 1 : (uint64_t)manifest->fragments * CODEC_CHUNK;
    if (parameters >= least && parameters <= CODEC_COUNT_MAX) return OK;
    return error_set(error, INVALID,
                     "%llu parameters: with %u fragments, %llu to %llu are possible",
                     (unsigned long long)parameters, manifest->fragments, (unsigned long long)least,
                     (unsigned long long)CODEC_COUNT_MAX);
}

enum status manifest_set(struct manifest *manifest, const char *key, const char *value,
                         struct error *error) {
    const struct setting *setting = setting_find(manifest_settings, key);
    ASSERT(setting);
    return setting_parse(setting, value, field_of(setting, manifest), error);
}

bool manifest_gives(struct bytes yaml, const char *key) {
    struct yaml *document = NULL;
    if (yaml_read(yaml, "manifest", &yaml_limits, &document, NULL) != OK) return false;
    bool there = yaml_find(document, key) != NULL;
    yaml_close(document);
    return there;
}

/* --- changing --------------------------------------------------------------------------------- */

/* What everybody reads anew for every message, step or heartbeat. The rest is built into what sites
 * and coordinator made at their start: the model, the optimizer's moments. */
static bool is_changeable(const char *key) {
    static const char *const keys[] = {"inner.learning_rate",
                                       "inner.schedule",
                                       "inner.warmup_tokens",
                                       "inner.decay_tokens",
                                       "inner.floor",
                                       "inner.inner_steps",
                                       "inner.dylu",
                                       "outer.learning_rate",
                                       "outer.period",
                                       "codec.kind",
                                       "merge.quorum",
                                       "merge.grace",
                                       "merge.staleness_cap",
                                       "merge.warmup_steps",
                                       "merge.warmup_grace",
                                       "merge.away_after",
                                       "merge.staleness_weight",
                                       "merge.staleness_exponent",
                                       "weights",
                                       "shares",
                                       "admission.clip_factor",
                                       "admission.clip_minimum",
                                       "admission.norm_bound",
                                       "admission.voice_age",
                                       "admission.expiry",
                                       "token_budget"};
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (strcmp(keys[i], key) == 0) return true;
    return false;
}

enum status manifest_change(const struct manifest *now, const char *key, const char *value,
                            struct manifest *out, struct buffer *canonical, struct error *error) {
    const struct setting *setting = setting_find(manifest_settings, key);
    const char *nearest = setting ? NULL : setting_nearest(manifest_settings, key);
    if (!setting)
        return error_set(error, INVALID, "there is no key %.48s%s%s", key,
                         nearest ? "; did you mean " : "", nearest ? nearest : "");
    if (!is_changeable(key))
        return error_set(error, INVALID,
                         "%s holds for the whole run: atollctl run rules lists what can be changed",
                         key);
    struct manifest changed = *now;
    const char *about = key;
    enum status status = setting_parse(setting, value, field_of(setting, &changed), error);
    if (status == OK) status = check_all(&changed, &about, error);
    if (status != OK) return error_wrap(error, status, "%s", about);
    if (canonical) setting_format(setting, field_in(setting, &changed), canonical);
    *out = changed;
    return OK;
}

void manifest_write_rules(const struct manifest *manifest, struct buffer *out) {
    for (const struct setting *at = manifest_settings; at->name; at++) {
        if (!is_changeable(at->name)) continue;
        buffer_append_text(out, "%s: ", at->name);
        setting_format(at, field_in(at, manifest), out);
        buffer_u8(out, '\n');
    }
}

/* --- writing ---------------------------------------------------------------------------------- */
void manifest_write(const struct manifest *manifest, struct buffer *out) {
    for (const struct setting *at = manifest_settings; at->name; at++) {
        buffer_append_text(out, "%s: ", at->name);
        setting_format(at, field_in(at, manifest), out);
        buffer_u8(out, '\n');
    }
}

void manifest_digest(const struct manifest *manifest, uint8_t out[static DIGEST_SIZE]) {
    struct buffer text = {0};
    manifest_write(manifest, &text);
    digest_sha256(text.data, text.size, out);
    buffer_deinit(&text);
}

static bool same_section(const struct setting *a, const struct setting *b) {
    size_t length = strcspn(a->name, ".");
    return a->name[length] == '.' && strncmp(a->name, b->name, length + 1) == 0;
}

static bool is_by_mode(const struct setting *setting) {
    return manifest_fallback(setting, OUTER_DENSE) != manifest_fallback(setting, OUTER_SPARSE);
}

/* Whether every key of its section has another default in each mode: then the section is a comment
 * as a whole. */
static bool section_is_by_mode(const struct setting *setting) {
    for (const struct setting *at = manifest_settings; at->name; at++)
        if (same_section(at, setting) && !is_by_mode(at)) return false;
    return true;
}

/* Opens a section when the key's first part changes; returns the spaces the key stands behind. */
static const char *explain_section(const struct setting *setting, const struct setting *before,
                                   struct buffer *out) {
    const char *dot = strchr(setting->name, '.');
    if (before && dot && same_section(before, setting)) return "  ";
    buffer_u8(out, '\n');
    if (!dot) return "";
    buffer_append_text(out, "%s%.*s:\n", section_is_by_mode(setting) ? "#" : "",
                       (int)(dot - setting->name), setting->name);
    return "  ";
}

/* A key whose default depends on the mode is a comment: else who changes the mode alone would keep
 * the other one's value. */
void manifest_explain(struct buffer *out) {
    buffer_append_text(out, "# The manifest of a run: what all its sites must agree on. Every key "
                            "is here with its default; only `name` must be\n"
                            "# given. Keys whose default depends "
                            "on outer.mode are comments: remove the '#' (also\n"
                            "# before the section's name) to set one. Unknown keys are refused. "
                            "Durations carry units.\n");
    for (const struct setting *at = manifest_settings; at->name; at++) {
        const char *indent = explain_section(at, at > manifest_settings ? at - 1 : NULL, out);
        buffer_append_text(out, "%s# %s\n%s# ", indent, at->help, indent);
        setting_range(at, out);
        const char *dense = manifest_fallback(at, OUTER_DENSE), *dot = strchr(at->name, '.');
        if (is_by_mode(at))
            buffer_append_text(out, "; by default %s in sparse mode, %s in dense mode",
                               at->fallback, dense ? dense : "to be given");
        buffer_append_text(out, "\n%s%s%s: %s\n", is_by_mode(at) ? "#" : "", indent,
                           dot ? dot + 1 : at->name, at->fallback ? at->fallback : "my-run");
    }
}

/* --- what is legal and hardly meant ----------------------------------------------------------- */

static bool is_default(const struct manifest *m, const struct setting *setting) {
    struct manifest defaults;
    fill_defaults(m->outer.mode, &defaults);
    return memcmp(field_in(setting, m), field_in(setting, &defaults), setting->size) == 0;
}

static void has_no_effect(const struct manifest *m, const char *key, const char *because,
                          struct buffer *out) {
    const struct setting *setting = setting_find(manifest_settings, key);
    if (is_default(m, setting)) return;
    buffer_append_text(out, "%s: ", key);
    setting_format(setting, field_in(setting, m), out);
    buffer_append_text(out, " has no effect: %s\n", because);
}

void manifest_warnings(const struct manifest *m, struct buffer *out) {
    if (m->outer.mode == OUTER_DENSE) {
        if (m->outer.momentum == 0)
            buffer_append_text(out, "outer.momentum: 0 is sparse mode's; dense mode is delayed "
                                    "Nesterov, which needs about 0.9: without "
                                    "momentum a step is plain SGD and learns much less\n");
        if (m->outer.learning_rate >= 1) /* RATE_AUTO is not */
            buffer_append_text(out,
                               "outer.learning_rate: %g is sparse mode's; dense mode needs about "
                               "0.7: with momentum, 1 and more "
                               "may diverge\n",
                               m->outer.learning_rate);
        if (m->outer.period == 1)
            buffer_append_text(
                out, "outer.period: 1 is for a run of one site; dense mode needs once or twice the "
                     "number of sites: at 1 every single contribution moves the momentum\n");
    } else if (m->outer.period == 1) {
        buffer_append_text(out, "outer.period: 1 adds up what several sites found out about one "
                                "parameter; sparse mode needs the number of sites, which `auto` "
                                "is: at 1 and with 16 sites it diverges\n");
    }
    if (m->inner.schedule == INNER_CONSTANT)
        has_no_effect(m, "inner.floor", "inner.schedule is constant", out);
    if (m->merge.staleness_weight == STALENESS_NONE)
        has_no_effect(m, "merge.staleness_exponent", "merge.staleness_weight is none", out);
    if (m->weights != WEIGHTS_SHARES) has_no_effect(m, "shares", "weights is not shares", out);
    if (m->merge.warmup_steps == 0)
        has_no_effect(m, "merge.warmup_grace", "merge.warmup_steps is 0", out);
    if (m->admission.clip_factor == 0) {
        has_no_effect(m, "admission.clip_minimum", "admission.clip_factor is 0", out);
        has_no_effect(m, "admission.norm_bound", "admission.clip_factor is 0", out);
    }
}
