/* Writes a model directory that transformers opens (model/export.h). config.json comes last, so a
 * directory without it is not an export; every file is written whole or not at all. */
#include "model/export.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/beside.h"
#include "model/checkpoint.h"
#include "model/config_file.h"

static enum status write_text(const char *directory, const char *name, struct buffer *text,
                              struct error *error) {
    char *path = file_join(directory, name);
    buffer_u8(text, '\n');
    enum status status = file_write(path, buffer_bytes(text), 0644, error);
    free(path);
    buffer_deinit(text);
    return status;
}

/* config.json of the checkpoint that the model comes from, to *out; nothing where there is none. */
static enum status read_origin(const struct export_options *options, struct buffer *out,
                               struct error *error) {
    if (!options->beside) return OK;
    char *path = beside_path(options->beside, "config.json");
    enum status status = file_read(path, CONFIG_FILE_MAX, out, error);
    free(path);
    return status == NOT_FOUND ? OK : status;
}

static enum status write_config(const char *directory, const struct model_config *config,
                                enum tensor_dtype dtype, const struct buffer *origin,
                                struct error *error) {
    static const char *const names[] = {
        [DTYPE_F32] = "float32", [DTYPE_BF16] = "bfloat16", [DTYPE_F16] = "float16"};
    struct buffer text = {0};
    TRY(config_file_encode_onto(config, names[dtype], buffer_bytes(origin), &text, error));
    return write_text(directory, "config.json", &text, error);
}

/* The character that stands for a byte in byte-level BPE files (GPT-2's table): itself where
 * printable, else from U+0100 on. */
static uint32_t byte_character(uint32_t byte) {
    uint32_t moved = 0;
    for (uint32_t b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte) return printable ? b : 256 + moved;
        if (!printable) moved++;
    }
    return 0;
}

static void write_vocabulary(struct json_writer *w) {
    json_begin_object(w);
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t c = byte_character(byte);
        char utf8[3] = {(char)c, 0, 0};
        if (c >= 0x80) {
            utf8[0] = (char)(0xc0 | c >> 6);
            utf8[1] = (char)(0x80 | (c & 0x3f));
        }
        json_put_u64(w, utf8, byte);
    }
    json_end_object(w);
}

static void write_byte_level(struct json_writer *w, const char *key) {
    json_key(w, key);
    json_begin_object(w);
    json_put_text(w, "type", "ByteLevel");
    json_put_bool(w, "add_prefix_space", false);
    json_put_bool(w, "trim_offsets", true);
    json_put_bool(w, "use_regex", false);
    json_end_object(w);
}

/* A byte-level BPE without merges: every byte is its own token, and its number. */
static enum status write_tokenizer(const char *directory, const struct model_config *c,
                                   struct error *error) {
    struct buffer text = {0};
    struct json_writer w = json_writer_of(&text, true);
    json_begin_object(&w);
    json_put_text(&w, "version", "1.0");
    json_key(&w, "added_tokens");
    json_begin_array(&w);
    json_end_array(&w);
    write_byte_level(&w, "pre_tokenizer");
    write_byte_level(&w, "decoder");
    json_key(&w, "model");
    json_begin_object(&w);
    json_put_text(&w, "type", "BPE");
    json_key(&w, "vocab");
    write_vocabulary(&w);
    json_key(&w, "merges");
    json_begin_array(&w);
    json_end_array(&w);
    json_end_object(&w);
    json_end_object(&w);
    TRY(write_text(directory, "tokenizer.json", &text, error));
    w = json_writer_of(&text, true);
    json_begin_object(&w);
    json_put_text(&w, "tokenizer_class", "PreTrainedTokenizerFast");
    json_put_u64(&w, "model_max_length", c->context);
    json_key(&w, "model_input_names"); /* what generate() takes: no token_type_ids */
    json_begin_array(&w);
    json_text(&w, "input_ids");
    json_text(&w, "attention_mask");
    json_end_array(&w);
    json_put_bool(&w, "clean_up_tokenization_spaces", false);
    json_end_object(&w);
    return write_text(directory, "tokenizer_config.json", &text, error);
}

/* transformers looks here, and only here, for the tokens that end a text: those of config.json
 * stand here too. */
static enum status write_generation(const char *directory, const struct buffer *origin,
                                    struct error *error) {
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    struct buffer text = {0};
    struct json *json = NULL;
    const struct json_limits limits = {.size = CONFIG_FILE_MAX, .depth = 16};
    if (origin->size) TRY(json_parse(buffer_bytes(origin), &limits, &json, error));
    struct json_writer w = json_writer_of(&text, true);
    json_begin_object(&w);
    json_put_bool(&w, "do_sample", true);
    for (size_t i = 0; json && i < COUNT_OF(ids); i++) {
        const struct json_value *value = json_object_get(json_root(json), ids[i]);
        if (!value || value->type == JSON_NULL) continue;
        json_key(&w, ids[i]);
        json_copy(&w, value);
    }
    json_end_object(&w);
    json_close(json);
    return write_text(directory, "generation_config.json", &text, error);
}

/* --- the tensors, in one file or several ------------------------------------------------------ */

static enum status remove_file(const char *directory, const char *name, struct error *error) {
    char *path = file_join(directory, name);
    enum status status = OK;
    if (unlink(path) != 0 && errno != ENOENT)
        status = error_set(error, FAILED, "remove %s: %s", path, strerror(errno));
    free(path);
    return status;
}

/* What is stored: every tensor, under all of its names. */
struct stored_items {
    uint32_t *items; /* [count], owned */
    uint32_t count;
    uint64_t size; /* bytes of all */
};

static bool is_frozen(const struct layout *layout, uint32_t item) {
    return item >= layout->tensor_count &&
           layout->others[item - layout->tensor_count].tied == LAYOUT_FROZEN;
}

static struct stored_items items_of(const struct layout *layout, const struct export_options *o) {
    struct stored_items stored = {0};
    uint32_t all = layout->tensor_count + layout->other_count;
    stored.items = xcalloc(all, sizeof *stored.items);
    for (uint32_t i = 0; i < all; i++) {
        if (is_frozen(layout, i) && !o->frozen) continue;
        stored.items[stored.count++] = i;
        stored.size += safetensors_item_size(layout, i, o->dtype);
    }
    return stored;
}

static uint64_t stored_size(const struct layout *layout, const struct export_options *options) {
    struct stored_items stored = items_of(layout, options);
    free(stored.items);
    return stored.size;
}

static const char *item_name(const struct layout *layout, uint32_t item) {
    return item < layout->tensor_count ? layout->tensors[item].name
                                       : layout->others[item - layout->tensor_count].name;
}

/* How many items from the first-th on go into one file. */
static uint32_t items_in_shard(const struct layout *layout, const struct stored_items *stored,
                               uint32_t first, const struct export_options *o) {
    uint64_t limit = o->shard_size ? o->shard_size : EXPORT_SHARD_SIZE, size = 0;
    uint32_t count = 0;
    for (; first + count < stored->count; count++) {
        size += safetensors_item_size(layout, stored->items[first + count], o->dtype);
        if (count > 0 && size > limit) break;
    }
    return count;
}

static char *shard_name(uint32_t number, uint32_t shards) {
    return xformat("model-%05u-of-%05u.safetensors", number + 1, shards);
}

static enum status write_index(const char *directory, const struct layout *layout,
                               const struct stored_items *stored, const struct export_options *o,
                               uint32_t shards, struct error *error) {
    struct buffer text = {0};
    struct json_writer w = json_writer_of(&text, true);
    json_begin_object(&w);
    json_key(&w, "metadata");
    json_begin_object(&w);
    json_put_u64(&w, "total_size", stored->size);
    json_end_object(&w);
    json_key(&w, "weight_map");
    json_begin_object(&w);
    for (uint32_t first = 0, shard = 0; first < stored->count; shard++) {
        char *name = shard_name(shard, shards);
        for (uint32_t count = items_in_shard(layout, stored, first, o); count > 0; count--)
            json_put_text(&w, item_name(layout, stored->items[first++]), name);
        free(name);
    }
    json_end_object(&w);
    json_end_object(&w);
    return write_text(directory, CHECKPOINT_INDEX, &text, error);
}

static bool is_adapter(const struct export_options *options) {
    char *path = options->beside ? beside_path(options->beside, "adapter_config.json") : NULL;
    bool there = path && file_exists(path);
    free(path);
    return there;
}

static enum status write_shards(const char *directory, const struct layout *layout,
                                const float *parameters, const struct stored_items *stored,
                                const struct export_options *o, struct error *error) {
    bool adapter = is_adapter(o); /* which has one file, however large */
    uint32_t shards = 0;
    for (uint32_t first = 0; first < stored->count; shards++)
        first += items_in_shard(layout, stored, first, o);
    if (adapter) shards = 1;
    for (uint32_t first = 0, shard = 0; first < stored->count; shard++) {
        const struct safetensors_part part = {
            .items = stored->items + first,
            .count = adapter ? stored->count : items_in_shard(layout, stored, first, o),
            .dtype = o->dtype,
            .frozen = o->frozen,
            .version = o->version};
        char *name = adapter       ? xstrdup(CHECKPOINT_ADAPTER)
                     : shards == 1 ? xstrdup("model.safetensors")
                                   : shard_name(shard, shards),
             *path = file_join(directory, name);
        enum status status = safetensors_write_part(path, layout, parameters, &part, error);
        free(path);
        free(name);
        TRY(status);
        first += part.count;
    }
    /* Of an older export in this directory, nothing may be left that a reader would prefer. */
    if (shards == 1) return remove_file(directory, CHECKPOINT_INDEX, error);
    TRY(remove_file(directory, "model.safetensors", error));
    return write_index(directory, layout, stored, o, shards, error);
}

/* What training has brought beyond a 16-bit type is stored as F32: the model as it is. Returns the
 * tensors, the caller's; NULL: all fit. */
static struct layout_tensor *widen(const char *directory, const struct layout *layout,
                                   const float *parameters) {
    struct layout_tensor *wide = NULL;
    size_t size = layout->tensor_count * sizeof *wide;
    uint32_t others = 0, first = 0;
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *tensor = &layout->tensors[i];
        if (safetensors_fit(parameters + tensor->offset, tensor->count, tensor->dtype)) continue;
        if (wide) others++;
        if (!wide) {
            wide = xmalloc(size);
            memcpy(wide, layout->tensors, size);
            first = i;
        }
        wide[i].dtype = DTYPE_F32;
    }
    if (wide)
        log_warn("stored_as_f32",
                 "dir=\"%s\" tensor=\"%s\" type=%s others=%u message=\"it has values beyond what "
                 "its type holds: load the export in float32 or bfloat16\"",
                 directory, layout->tensors[first].name,
                 tensor_dtype_name(layout->tensors[first].dtype), others);
    return wide;
}

static enum status write_tensors(const char *directory, const struct layout *of,
                                 const float *parameters, const struct export_options *o,
                                 struct error *error) {
    struct layout wide = *of, *layout = &wide;
    struct layout_tensor *tensors = o->dtype ? NULL : widen(directory, of, parameters);
    if (tensors) wide.tensors = tensors;
    struct stored_items stored = items_of(layout, o);
    if (stored.count < layout->tensor_count + layout->other_count)
        log_warn("frozen_left_out",
                 "dir=\"%s\" message=\"what this model began from is not here: its frozen tensors "
                 "are not in the export\"",
                 directory);
    enum status status = write_shards(directory, layout, parameters, &stored, o, error);
    free(stored.items);
    free(tensors);
    return status;
}

/* --- the small files -------------------------------------------------------------------------- */

static bool exists_beside(const char *checkpoint, const char *name) {
    char *path = checkpoint ? beside_path(checkpoint, name) : NULL;
    bool there = path && file_exists(path);
    free(path);
    return there;
}

/* Another architecture's: as they came. */
static enum status write_foreign_files(const char *directory, const struct export_options *options,
                                       const struct buffer *origin, struct error *error) {
    bool tokenizer;
    if (options->beside) TRY(beside_copy(options->beside, directory, false, &tokenizer, error));
    if (!origin->size) {
        if (!is_adapter(options))
            log_warn("no_config",
                     "dir=\"%s\" message=\"what this model began from is not here: there are its "
                     "tensors, without config.json\"",
                     directory);
        return OK;
    }
    char *path = file_join(directory, "config.json");
    enum status status = file_write(path, buffer_bytes(origin), 0644, error);
    free(path);
    return status;
}

/* The checkpoint's own small files; where it has no tokenizer, the byte tokenizer's, unless
 * somebody's own stands there. */
static enum status write_small_files(const char *directory, const struct layout *layout,
                                     const struct export_options *options,
                                     const struct buffer *origin, struct error *error) {
    bool tokenizer = false;
    if (!layout->built_in) return write_foreign_files(directory, options, origin, error);
    if (options->beside) TRY(beside_copy(options->beside, directory, false, &tokenizer, error));
    if (!tokenizer && options->byte_tokenizer) {
        if (beside_tokens(directory) == DATA_TOKENS_EXTERNAL)
            log_warn("tokenizer_kept",
                     "dir=\"%s\" message=\"its tokenizer is not of bytes, as this model's is\"",
                     directory);
        else
            TRY(write_tokenizer(directory, &layout->config, error));
    }
    if (!origin->size || !exists_beside(options->beside, "generation_config.json"))
        TRY(write_generation(directory, origin, error));
    return write_config(directory, &layout->config,
                        options->dtype ? *options->dtype : layout->tensors[0].dtype, origin, error);
}

/* --- whose directory it is -------------------------------------------------------------------- */

static bool is_part(const char *name) {
    size_t size = strlen(name), suffix = strlen(".safetensors");
    return size > suffix && strcmp(name + size - suffix, ".safetensors") == 0;
}

static bool is_written_here(const char *name) {
    static const char *const names[] = {"config.json", "generation_config.json", CHECKPOINT_INDEX};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0) return true;
    return is_part(name);
}

static enum status check_owner(const char *directory, struct error *error) {
    DIR *listing = opendir(directory);
    if (!listing)
        return error_set(error, FAILED, "open directory %s: %s", directory, strerror(errno));
    char *mark = file_join(directory, EXPORT_MARK);
    enum status status = OK;
    bool ours = file_exists(mark);
    for (struct dirent *entry; status == OK && (entry = readdir(listing));) {
        if (ours && strstr(entry->d_name, ".safetensors.tmp."))
            unlinkat(dirfd(listing), entry->d_name, 0); /* a killed export's */
        if (!ours && is_written_here(entry->d_name))
            status = error_set(
                error, INVALID,
                "%s holds %.60s, which no export of this program wrote: name another directory",
                directory, entry->d_name);
    }
    free(mark);
    closedir(listing);
    return status;
}

static enum status claim_directory(const char *directory, uint64_t size, struct output **out,
                                   struct error *error) {
    struct output *output;
    TRY(output_claim_directory(directory, size, &output, error));
    enum status status = check_owner(directory, error);
    if (status == OK)
        *out = output;
    else
        output_release(output);
    return status;
}

enum status export_claim(const char *directory, const struct layout *layout,
                         const struct export_options *options, struct output **out,
                         struct error *error) {
    return claim_directory(directory, stored_size(layout, options), out, error);
}

enum status export_check(const char *directory, struct error *error) {
    struct output *output;
    TRY(claim_directory(directory, 0, &output, error));
    output_release(output);
    return OK;
}

static enum status write_all(const char *directory, const struct layout *layout,
                             const float *parameters, const struct export_options *options,
                             struct error *error) {
    struct buffer origin = {0}, mark = {0};
    buffer_append_text(
        &mark, "A model that Atoll exported. What is here is written over by the next export.");
    /* first: it may be the one that is replaced */
    enum status status = read_origin(options, &origin, error);
    if (status == OK) status = write_text(directory, EXPORT_MARK, &mark, error);
    if (status == OK)
        status = remove_file(directory, "config.json",
                             error); /* until all is written, this is not an export */
    if (status == OK) status = write_tensors(directory, layout, parameters, options, error);
    if (status == OK) status = write_small_files(directory, layout, options, &origin, error);
    buffer_deinit(&mark);
    buffer_deinit(&origin);
    return status;
}

enum status export_model_as(const char *directory, const struct layout *layout,
                            const float *parameters, const struct export_options *options,
                            struct error *error) {
    struct output *output = NULL;
    if (layout->built_in && options->byte_tokenizer && layout->config.vocabulary < 256)
        return error_set(error, INVALID, "a vocabulary of %u has no byte tokenizer",
                         layout->config.vocabulary);
    if (!options->claimed) TRY(export_claim(directory, layout, options, &output, error));
    enum status status = write_all(directory, layout, parameters, options, error);
    output_release(output);
    return status;
}

enum status export_model(const char *directory, const struct layout *layout,
                         const float *parameters, int64_t version, bool byte_tokenizer,
                         struct error *error) {
    const struct export_options options = {.version = version, .byte_tokenizer = byte_tokenizer};
    return export_model_as(directory, layout, parameters, &options, error);
}
