/* Reads a tokenizer.json (text/tokenizer.h): vocabulary, merges, pre-tokenizers, normalizer, added
 * tokens. Each part that is not understood is refused by name. Encoding is in tokenizer_encode.c.
 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "text/nfc.h"
#include "text/pattern.h"
#include "text/tokenizer_internal.h"

#define ELSE_TOKENS "; give tokens as numbers instead"
static const char GPT2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static const char *type_of(const struct json_value *value) {
    const struct json_value *type = json_object_get(value, "type");
    return type && type->type == JSON_STRING ? type->text : "?";
}

static bool is_null(const struct json_value *value) { return !value || value->type == JSON_NULL; }
static bool is_true(const struct json_value *object, const char *key) {
    const struct json_value *value = json_object_get(object, key);
    return value && value->type == JSON_BOOL && value->boolean;
}

/* ---- vocabulary and merges ------------------------------------------------------------------- */

uint32_t tokenizer_find(const struct tokenizer *t, struct bytes text) {
    for (uint64_t at = random_mix(text);; at++) {
        uint32_t slot = t->names[at & t->names_mask];
        if (slot == 0) return NO_TOKEN;
        if (bytes_equal(t->tokens[slot - 1], text)) return slot - 1;
    }
}

static void add_name(struct tokenizer *t, uint32_t token) {
    uint64_t at = random_mix(t->tokens[token]);
    while (t->names[at & t->names_mask]) at++;
    t->names[at & t->names_mask] = token + 1;
}

static enum status set_token(struct tokenizer *t, const struct json_value *number,
                             struct bytes text, struct error *error) {
    if (number->type != JSON_NUMBER || !number->is_u64 || number->integer >= TOKENS_MAX)
        return error_set(error, INVALID, "token \"%.40s\" has no number below %d",
                         (const char *)text.data, TOKENS_MAX);
    uint32_t token = (uint32_t)number->integer;
    if (token >= t->capacity) {
        uint32_t capacity = MAX(token + 1, t->capacity * 2);
        t->tokens = xrealloc(t->tokens, capacity * sizeof *t->tokens);
        memset(t->tokens + t->capacity, 0, (capacity - t->capacity) * sizeof *t->tokens);
        t->capacity = capacity;
    }
    if (t->tokens[token].data && !bytes_equal(t->tokens[token], text))
        return error_set(error, INVALID, "two tokens have the number %u", token);
    t->tokens[token] = text;
    t->count = MAX(t->count, token + 1);
    return OK;
}

static struct bytes text_of(const char *text) { return bytes_of(text, strlen(text)); }

static enum status read_vocabulary(struct tokenizer *t, const struct json_value *model,
                                   const struct json_value *added, struct error *error) {
    const struct json_value *vocabulary;
    TRY(json_get_object(model, "vocab", &vocabulary, error));
    for (size_t i = 0; i < vocabulary->count; i++)
        TRY(set_token(t, &vocabulary->items[i], text_of(vocabulary->items[i].key), error));
    for (size_t i = 0; added && i < added->count; i++) {
        const struct json_value *token = &added->items[i], *id = json_object_get(token, "id");
        const char *content;
        TRY(json_get_text(token, "content", &content, error));
        if (!*content || !id)
            return error_set(error, INVALID, "an added token has no text or no id");
        if (is_true(token, "single_word"))
            return error_set(
                error, INVALID,
                "added token \"%.40s\" is looked for between words only: not supported" ELSE_TOKENS,
                content);
        TRY(set_token(t, id, text_of(content), error));
        t->added = xrealloc(t->added, (t->added_count + 1) * sizeof *t->added);
        t->special = xrealloc(t->special, (t->added_count + 1) * sizeof *t->special);
        t->normalized = xrealloc(t->normalized, (t->added_count + 1) * sizeof *t->normalized);
        t->left = xrealloc(t->left, (t->added_count + 1) * sizeof *t->left);
        t->right = xrealloc(t->right, (t->added_count + 1) * sizeof *t->right);
        t->left[t->added_count] = is_true(token, "lstrip");
        t->right[t->added_count] = is_true(token, "rstrip");
        t->special[t->added_count] = is_true(token, "special");
        t->normalized[t->added_count] = is_true(token, "normalized");
        t->added[t->added_count++] = (uint32_t)id->integer;
        t->added_first[(uint8_t)content[0]] = true;
    }
    if (t->count == 0) return error_set(error, INVALID, "the vocabulary is empty");
    for (t->names_mask = 63; t->names_mask < 2 * (uint64_t)t->count;)
        t->names_mask = t->names_mask * 2 + 1;
    t->names = xcalloc((size_t)t->names_mask + 1, sizeof *t->names);
    for (uint32_t i = 0; i < t->count; i++)
        if (t->tokens[i].data) add_name(t, i);
    return OK;
}

/* "left right", or ["left", "right"]. */
static enum status split_merge(const struct json_value *merge, struct bytes *left,
                               struct bytes *right, struct error *error) {
    if (merge->type == JSON_STRING) {
        const char *blank = strchr(merge->text, ' ');
        if (!blank || strchr(blank + 1, ' '))
            return error_set(error, INVALID, "merge \"%.40s\" is not a pair", merge->text);
        *left = bytes_of(merge->text, (size_t)(blank - merge->text)), *right = text_of(blank + 1);
        return OK;
    }
    if (merge->type != JSON_ARRAY || merge->count != 2 || merge->items[0].type != JSON_STRING ||
        merge->items[1].type != JSON_STRING)
        return error_set(error, INVALID, "a merge is not a pair of texts");
    *left = text_of(merge->items[0].text), *right = text_of(merge->items[1].text);
    return OK;
}

static enum status add_merge(struct tokenizer *t, uint32_t rank, struct bytes left,
                             struct bytes right, struct error *error) {
    struct buffer joined = {0};
    buffer_append(&joined, left.data, left.size);
    buffer_append(&joined, right.data, right.size);
    struct merge merge = {tokenizer_find(t, left), tokenizer_find(t, right), rank,
                          tokenizer_find(t, buffer_bytes(&joined))};
    buffer_deinit(&joined);
    if (merge.left == NO_TOKEN || merge.right == NO_TOKEN || merge.to == NO_TOKEN)
        return error_set(error, INVALID,
                         "merge %u, \"%.*s\" and \"%.*s\", is not in the vocabulary", rank,
                         (int)MIN(left.size, (size_t)40), (const char *)left.data,
                         (int)MIN(right.size, (size_t)40), (const char *)right.data);
    uint64_t at = random_hash(merge.left, merge.right);
    for (; t->merges[at & t->merges_mask].used; at++) {
        struct merge *there = &t->merges[at & t->merges_mask].merge;
        if (there->left == merge.left && there->right == merge.right) {
            there->rank = rank; /* the last of two counts, as in a map that is filled in order */
            return OK;
        }
    }
    t->merges[at & t->merges_mask] = (struct merge_slot){merge, true};
    return OK;
}

static enum status read_merges(struct tokenizer *t, const struct json_value *model,
                               struct error *error) {
    const struct json_value *merges;
    TRY(json_get_array(model, "merges", &merges, error));
    for (t->merges_mask = 63; t->merges_mask < 2 * (uint64_t)merges->count;)
        t->merges_mask = t->merges_mask * 2 + 1;
    t->merges = xcalloc((size_t)t->merges_mask + 1, sizeof *t->merges);
    for (size_t i = 0; i < merges->count; i++) {
        struct bytes left = {0}, right = {0};
        TRY(split_merge(&merges->items[i], &left, &right, error));
        TRY(add_merge(t, (uint32_t)i, left, right, error));
    }
    return OK;
}

static enum status read_model(struct tokenizer *t, const struct json_value *model,
                              const struct json_value *added, struct error *error) {
    const char *type = type_of(model);
    const struct json_value *value = json_object_get(model, "type");
    if (value && strcmp(type, "BPE") != 0)
        return error_set(error, INVALID,
                         "it is of kind %.40s; byte-level BPE is what is supported" ELSE_TOKENS,
                         type);
    if (is_true(model, "byte_fallback"))
        return error_set(error, INVALID,
                         "it is BPE with byte fallback, as SentencePiece's; byte-level BPE is what "
                         "is supported" ELSE_TOKENS);
    static const char *const refused[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        value = json_object_get(model, refused[i]);
        if (!is_null(value) && !(value->type == JSON_STRING && value->size == 0))
            return error_set(error, INVALID, "its model has a %s: not supported" ELSE_TOKENS,
                             refused[i]);
    }
    t->ignore_merges = is_true(model, "ignore_merges");
    TRY(read_vocabulary(t, model, added, error));
    return read_merges(t, model, error);
}

/* ---- how text is cut ------------------------------------------------------------------------- */

static enum status add_pattern(struct tokenizer *t, const char *text, struct error *error) {
    if (t->pattern_count == TOKENIZER_PATTERNS_MAX)
        return error_set(error, INVALID, "it has too many pre-tokenizers");
    TRY(pattern_compile(text, &t->patterns[t->pattern_count], error));
    t->pattern_count++;
    return OK;
}

static enum status read_split(struct tokenizer *t, const struct json_value *split,
                              struct error *error) {
    const struct json_value *pattern;
    const char *behavior, *text;
    TRY(json_get_text(split, "behavior", &behavior, error));
    TRY(json_get_object(split, "pattern", &pattern, error));
    if (strcmp(behavior, "Isolated") != 0 || is_true(split, "invert"))
        return error_set(error, INVALID,
                         "it splits in a way that is not supported (%.40s)" ELSE_TOKENS, behavior);
    TRY(json_get_text(pattern, "Regex", &text, error));
    return add_pattern(t, text, error);
}

static enum status read_pre_tokenizer(struct tokenizer *t, const struct json_value *pre,
                                      struct error *error) {
    const char *type = type_of(pre);
    if (t->byte_level)
        return error_set(error, INVALID, "it cuts text after ByteLevel: not supported" ELSE_TOKENS);
    if (strcmp(type, "Split") == 0) return read_split(t, pre, error);
    if (strcmp(type, "Digits") == 0)
        return add_pattern(t, is_true(pre, "individual_digits") ? "\\p{N}" : "\\p{N}+", error);
    if (strcmp(type, "ByteLevel") != 0)
        return error_set(
            error, INVALID,
            "its pre-tokenizer is %.40s; ByteLevel, Split and Digits are supported" ELSE_TOKENS,
            type);
    const struct json_value *regex = json_object_get(pre, "use_regex");
    if (is_true(pre, "add_prefix_space"))
        return error_set(error, INVALID,
                         "it puts a blank before the text: not supported" ELSE_TOKENS);
    if (!regex || regex->type != JSON_BOOL || regex->boolean) TRY(add_pattern(t, GPT2, error));
    t->byte_level = true;
    return OK;
}

static enum status read_pre_tokenizers(struct tokenizer *t, const struct json_value *pre,
                                       struct error *error) {
    const struct json_value *all;
    if (!is_null(pre) && strcmp(type_of(pre), "Sequence") == 0) {
        TRY(json_get_array(pre, "pretokenizers", &all, error));
        for (size_t i = 0; i < all->count; i++) TRY(read_pre_tokenizer(t, &all->items[i], error));
    } else if (!is_null(pre)) {
        TRY(read_pre_tokenizer(t, pre, error));
    }
    return t->byte_level
               ? OK
               : error_set(error, INVALID, "its pre-tokenizer is not byte-level" ELSE_TOKENS);
}

static enum status read_normalizer(struct tokenizer *t, const struct json_value *normalizer,
                                   struct error *error) {
    if (is_null(normalizer)) return OK;
    const char *type = type_of(normalizer);
    if (strcmp(type, "Sequence") == 0) {
        const struct json_value *all;
        TRY(json_get_array(normalizer, "normalizers", &all, error));
        for (size_t i = 0; i < all->count; i++) {
            if (strcmp(type_of(&all->items[i]), "Sequence") == 0)
                return error_set(error, INVALID,
                                 "its normalizers are nested: not supported" ELSE_TOKENS);
            TRY(read_normalizer(t, &all->items[i], error));
        }
        return OK;
    }
    if (strcmp(type, "NFC") != 0)
        return error_set(error, INVALID,
                         "its normalizer is %.40s; none and NFC are supported" ELSE_TOKENS, type);
    t->nfc = true;
    return OK;
}

/* ---- what stands before a text --------------------------------------------------------------- */

static enum status read_template(struct tokenizer *t, const struct json_value *template,
                                 struct error *error) {
    const struct json_value *single;
    TRY(json_get_array(template, "single", &single, error));
    for (size_t i = 0; i < single->count && !json_object_get(&single->items[i], "Sequence"); i++) {
        const struct json_value *special = json_object_get(&single->items[i], "SpecialToken");
        const char *name;
        if (!special) return error_set(error, INVALID, "its template has a part of no known kind");
        TRY(json_get_text(special, "id", &name, error));
        uint32_t token = tokenizer_find(t, text_of(name));
        if (token == NO_TOKEN || t->prefix_count == TOKENIZER_PREFIX_MAX)
            return error_set(
                error, INVALID,
                "its template begins with \"%.40s\", which is not a token, or one too many", name);
        t->prefix[t->prefix_count++] = token;
    }
    return OK;
}

/* BERT's kinds: "cls" is [text, number] of what stands before a text. */
static enum status read_first(struct tokenizer *t, const struct json_value *processor,
                              struct error *error) {
    const struct json_value *first = json_object_get(processor, "cls");
    uint32_t token = NO_TOKEN;
    if (first && first->type == JSON_ARRAY && first->count == 2 &&
        first->items[0].type == JSON_STRING)
        token = tokenizer_find(t, text_of(first->items[0].text));
    if (token == NO_TOKEN || t->prefix_count == TOKENIZER_PREFIX_MAX)
        return error_set(error, INVALID, "its post-processor %.40s has no \"cls\" that is a token",
                         type_of(processor));
    t->prefix[t->prefix_count++] = token;
    return OK;
}

static enum status read_processor(struct tokenizer *t, const struct json_value *processor,
                                  struct error *error) {
    const char *type = type_of(processor);
    if (strcmp(type, "ByteLevel") == 0) return OK; /* offsets alone */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(t, processor, error);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_first(t, processor, error);
    return error_set(error, INVALID, "its post-processor is %.40s: not supported" ELSE_TOKENS,
                     type);
}

static enum status read_processors(struct tokenizer *t, const struct json_value *processor,
                                   struct error *error) {
    if (is_null(processor)) return OK;
    if (strcmp(type_of(processor), "Sequence") != 0) return read_processor(t, processor, error);
    const struct json_value *all;
    TRY(json_get_array(processor, "processors", &all, error));
    for (size_t i = 0; i < all->count; i++) TRY(read_processor(t, &all->items[i], error));
    return OK;
}

/* ---- bytes as characters (GPT-2's table) ----------------------------------------------------- */

static void fill_bytes(struct tokenizer *t) {
    uint32_t moved = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool itself =
            (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        uint32_t point = itself ? byte : 256 + moved++;
        uint8_t *text = t->byte_text[byte];
        t->byte_size[byte] = point < 0x80 ? 1 : 2;
        text[0] = (uint8_t)(point < 0x80 ? point : 0xc0 | point >> 6);
        text[1] = (uint8_t)(0x80 | (point & 0x3f));
        t->byte_of[point] = (int16_t)byte;
        t->byte_token[byte] = tokenizer_find(t, bytes_of(text, t->byte_size[byte]));
    }
}

void tokenizer_decode(const struct tokenizer *t, uint32_t token, struct buffer *text) {
    if (token >= t->count || !t->tokens[token].data) return;
    struct bytes name = t->tokens[token];
    size_t start = text->size;
    for (size_t at = 0; at < name.size;) {
        uint32_t point = utf8_next(name, &at);
        if (point >= COUNT_OF(t->byte_of) || t->byte_of[point] < 0) { /* a text as it stands */
            text->size = start;
            buffer_append(text, name.data, name.size);
            return;
        }
        buffer_u8(text, (uint8_t)t->byte_of[point]);
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

/* An added token that is looked for in normalized text must be in NFC itself, or it is never found.
 */
static enum status check_added(const struct tokenizer *t, struct error *error) {
    for (size_t i = 0; t->nfc && i < t->added_count; i++) {
        struct buffer other = {0};
        bool changes = t->normalized[i] && nfc_changes(t->tokens[t->added[i]], &other);
        buffer_deinit(&other);
        if (changes)
            return error_set(error, INVALID,
                             "added token %u is not in NFC: not supported" ELSE_TOKENS,
                             t->added[i]);
    }
    return OK;
}

/* What a file keeps of how somebody once called it. A text has all its tokens, no others, and the
 * same every time. */
static void pass_over(const struct json_value *root, const struct json_value *model) {
    const struct {
        const struct json_value *object;
        const char *key;
    } kept[] = {{root, "truncation"}, {root, "padding"}, {model, "dropout"}};
    for (size_t i = 0; i < COUNT_OF(kept); i++) {
        const struct json_value *value = json_object_get(kept[i].object, kept[i].key);
        if (!is_null(value) &&
            !(value->type == JSON_NUMBER && value->is_u64 && value->integer == 0))
            log_warn("tokenizer_option_ignored",
                     "option=%s message=\"texts are taken whole, as they are\"", kept[i].key);
    }
}

static enum status read_all(struct tokenizer *t, struct error *error) {
    const struct json_value *root = json_root(t->json), *model,
                            *added = json_object_get(root, "added_tokens");
    const struct json_value *decoder = json_object_get(root, "decoder");
    TRY(json_get_object(root, "model", &model, error));
    if (is_null(added))
        added = NULL;
    else if (added->type != JSON_ARRAY)
        return error_set(error, INVALID, "added_tokens is not an array");
    TRY(read_model(t, model, added, error));
    TRY(read_normalizer(t, json_object_get(root, "normalizer"), error));
    TRY(check_added(t, error));
    pass_over(root, model);
    TRY(read_pre_tokenizers(t, json_object_get(root, "pre_tokenizer"), error));
    TRY(read_processors(t, json_object_get(root, "post_processor"), error));
    if (!is_null(decoder) && strcmp(type_of(decoder), "ByteLevel") != 0)
        return error_set(error, INVALID, "its decoder is %.40s; ByteLevel is supported" ELSE_TOKENS,
                         type_of(decoder));
    fill_bytes(t);
    return OK;
}

enum status tokenizer_parse(struct bytes file, struct tokenizer **out, struct error *error) {
    struct tokenizer *t = xcalloc(1, sizeof *t);
    memset(t->byte_of, 0xff, sizeof t->byte_of);
    const struct json_limits limits = {.size = TOKENIZER_FILE_MAX};
    enum status status = json_parse(file, &limits, &t->json, error);
    if (status == OK) status = read_all(t, error);
    if (status == OK) {
        *out = t;
        return OK;
    }
    tokenizer_close(t);
    if (status != NOT_FOUND) return status;
    struct error missing = error ? *error : (struct error){0};
    return error_set(error, INVALID, "%.200s", missing.message);
}

enum status tokenizer_open(const char *directory, struct tokenizer **out, struct error *error) {
    char *path = file_join(directory, "tokenizer.json");
    struct buffer file = {0};
    enum status status = file_read(path, TOKENIZER_FILE_MAX, &file, error);
    if (status == OK) {
        status = tokenizer_parse(buffer_bytes(&file), out, error);
        if (status != OK) status = error_wrap(error, status, "%s", path);
    }
    buffer_deinit(&file);
    free(path);
    return status;
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    for (size_t i = 0; i < t->pattern_count; i++) pattern_free(t->patterns[i]);
    json_close(t->json);
    free(t->tokens);
    free(t->names);
    free(t->merges);
    free(t->added);
    free(t->special);
    free(t->normalized);
    free(t->left);
    free(t->right);
    free(t);
}
