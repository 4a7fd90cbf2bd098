/* Reads a model directory (model/checkpoint.h): config.json, then the tensors of one file or of
 * those that the index names. Every name in an index is checked before a file is opened. */
#include "model/checkpoint.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/config_file.h"
#include "model/safetensors.h"

enum status checkpoint_config(const char *directory, struct model_config *out,
                              struct error *error) {
    char *path = file_join(directory, "config.json");
    struct buffer text = {0};
    enum status status = file_read(path, 1 << 20, &text, error);
    if (status == OK) {
        status = config_file_decode(buffer_bytes(&text), out, error);
        if (status != OK) status = error_wrap(error, status, "%s", path);
    }
    buffer_deinit(&text);
    free(path);
    return status;
}

/* --- an index and its files ------------------------------------------------------------------- */

struct files {                               /* the distinct names of a weight_map */
    const char *names[CHECKPOINT_FILES_MAX]; /* lent by the index */
    uint32_t count;
};

static bool is_plain_name(const char *name) {
    size_t size = strlen(name), suffix = strlen(".safetensors");
    return size > suffix && strcmp(name + size - suffix, ".safetensors") == 0 &&
           !strchr(name, '/') && name[0] != '.';
}

static enum status files_add(struct files *files, const char *name, struct error *error) {
    for (uint32_t i = 0; i < files->count; i++)
        if (strcmp(files->names[i], name) == 0) return OK;
    if (!is_plain_name(name))
        return error_set(error, INVALID,
                         "\"%.100s\" is not the name of a .safetensors file in this directory",
                         name);
    if (files->count == CHECKPOINT_FILES_MAX)
        return error_set(error, INVALID, "more than %d files", CHECKPOINT_FILES_MAX);
    files->names[files->count++] = name;
    return OK;
}

static bool is_tied_head(const struct layout *layout, const char *name) {
    return layout->built_in && layout->config.tied && strcmp(name, "lm_head.weight") == 0;
}

static enum status check_map(const struct layout *layout, const struct json_value *map,
                             struct error *error) {
    for (size_t i = 0; i < map->count; i++) {
        const char *name = map->items[i].key;
        if (map->items[i].type != JSON_STRING)
            return error_set(error, INVALID,
                             "tensor \"%.100s\" is mapped to something that is not a file name",
                             name);
        if (layout->built_in && safetensors_is_derived(name)) continue;
        if (!layout_find(layout, name) && !layout_find_other(layout, name) &&
            !is_tied_head(layout, name))
            return error_set(error, INVALID, "tensor \"%.100s\" is not in this model", name);
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++)
        if (!json_object_get(map, layout->tensors[i].name))
            return error_set(error, INVALID, "tensor \"%s\" is missing", layout->tensors[i].name);
    return OK;
}

static enum status collect_files(const struct layout *layout, const struct json_value *map,
                                 struct files *files, struct error *error) {
    TRY(check_map(layout, map, error));
    for (size_t i = 0; i < map->count; i++) TRY(files_add(files, map->items[i].text, error));
    return OK;
}

/* The slots of `held`: tensors, others, and the head of a tied built-in model. */
static const char *slot_name(const struct layout *layout, uint32_t slot) {
    if (slot < layout->tensor_count) return layout->tensors[slot].name;
    slot -= layout->tensor_count;
    return slot < layout->other_count ? layout->others[slot].name : "lm_head.weight";
}

/* Each tensor was in the file that the index says. */
static enum status check_held(const struct layout *layout, const struct json_value *map,
                              const struct files *files, const uint32_t *held,
                              struct error *error) {
    uint32_t slots = layout->tensor_count + layout->other_count;
    for (uint32_t i = 0; i <= slots; i++) {
        const char *name = slot_name(layout, i);
        const struct json_value *file =
            i < slots || is_tied_head(layout, name) ? json_object_get(map, name) : NULL;
        if (!file && !held[i]) continue; /* one that needs not be there */
        if (!file || !held[i] || strcmp(files->names[held[i] - 1], file->text) != 0)
            return error_set(error, INVALID,
                             "tensor \"%s\" is not in the file that the index names", name);
    }
    return OK;
}

static enum status read_files(const char *directory, const struct layout *layout,
                              const struct json_value *map, float *parameters,
                              struct error *error) {
    struct files *files = xcalloc(1, sizeof *files);
    uint32_t *held = xcalloc((size_t)layout->tensor_count + layout->other_count + 1, sizeof *held);
    enum status status = collect_files(layout, map, files, error);
    for (uint32_t i = 0; i < files->count && status == OK; i++) {
        char *path = file_join(directory, files->names[i]);
        status = safetensors_read_part(path, layout, parameters, i + 1, held, error);
        free(path);
    }
    if (status == OK) status = check_held(layout, map, files, held, error);
    for (uint32_t i = 0; i < files->count && status == OK; i++) {
        char *path = file_join(directory, files->names[i]);
        status = safetensors_check_ties(path, layout, parameters, error);
        free(path);
    }
    free(held);
    free(files);
    return status;
}

/* *map is lent by *json. */
static enum status open_index(const char *path, struct buffer *text, struct json **json,
                              const struct json_value **map, struct error *error) {
    const struct json_limits limits = {.size = CHECKPOINT_INDEX_MAX, .depth = 8};
    TRY(file_read(path, CHECKPOINT_INDEX_MAX, text, error));
    TRY(json_parse(buffer_bytes(text), &limits, json, error));
    enum status status = json_get_object(json_root(*json), "weight_map", map, error);
    return status == NOT_FOUND ? error_set(error, INVALID, "it has no \"weight_map\"") : status;
}

static enum status read_index(const char *directory, const char *path, const struct layout *layout,
                              float *parameters, struct error *error) {
    struct buffer text = {0};
    struct json *json = NULL;
    const struct json_value *map;
    enum status status = open_index(path, &text, &json, &map, error);
    if (status == OK) status = read_files(directory, layout, map, parameters, error);
    if (status != OK) error_wrap(error, status, "%s", path);
    json_close(json);
    buffer_deinit(&text);
    return status;
}

bool checkpoint_is_adapter(const char *path) {
    char *name = file_join(path, CHECKPOINT_ADAPTER);
    bool there = file_exists(name);
    free(name);
    return there;
}

/* The one file of a checkpoint's tensors: itself, or a directory's. NULL: there is none. */
static char *single_file(const char *path) {
    static const char *const names[] = {"model.safetensors", CHECKPOINT_ADAPTER};
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode)) return xstrdup(path);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char *name = file_join(path, names[i]);
        if (file_exists(name)) return name;
        free(name);
    }
    return NULL;
}

static enum status no_tensors(const char *path, struct error *error) {
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set(error, NOT_FOUND, "%s: there is no such file or directory", path);
    char *old = file_join(path, "pytorch_model.bin");
    bool pickled = file_exists(old);
    free(old);
    return error_set(error, NOT_FOUND,
                     "%s has neither model.safetensors nor model.safetensors.index.json%s", path,
                     pickled ? "; pytorch_model.bin is not read: save the model with "
                               "save_pretrained(DIR, safe_serialization=True)"
                             : "");
}

enum status checkpoint_read(const char *path, const struct layout *layout, float *parameters,
                            struct error *error) {
    char *whole = single_file(path), *index = file_join(path, CHECKPOINT_INDEX);
    enum status status;
    if (whole)
        status = safetensors_read(whole, layout, parameters, error);
    else if (file_exists(index))
        status = read_index(path, index, layout, parameters, error);
    else
        status = no_tensors(path, error);
    free(whole);
    free(index);
    return status;
}

/* --- whatever a checkpoint holds -------------------------------------------------------------- */

static enum status list_file(struct checkpoint_listing *listing, char *path, struct error *error) {
    struct safetensors_entry *entries;
    uint32_t count;
    listing->files[listing->file_count++] = path;
    TRY(safetensors_list(path, &entries, &count, error));
    size_t all = (size_t)listing->count + count;
    if (all > CHECKPOINT_TENSORS_MAX) {
        free(entries);
        return error_set(error, INVALID, "more than %d tensors", CHECKPOINT_TENSORS_MAX);
    }
    listing->tensors = xrealloc(listing->tensors, MAX(all, (size_t)1) * sizeof *listing->tensors);
    for (uint32_t i = 0; i < count; i++)
        listing->tensors[listing->count++] =
            (struct checkpoint_tensor){.entry = entries[i], .file = listing->file_count - 1};
    free(entries);
    return OK;
}

/* What the index says of each tensor, and that it says nothing else. */
static enum status check_listing(const struct checkpoint_listing *listing,
                                 const struct json_value *map, const struct files *files,
                                 struct error *error) {
    for (uint32_t i = 0; i < listing->count; i++) {
        const struct checkpoint_tensor *tensor = &listing->tensors[i];
        const struct json_value *file = json_object_get(map, tensor->entry.name);
        if (!file)
            return error_set(error, INVALID, "tensor \"%s\" of %s is not in the index",
                             tensor->entry.name, files->names[tensor->file]);
        if (strcmp(file->text, files->names[tensor->file]) != 0)
            return error_set(error, INVALID,
                             "tensor \"%s\" is not in the file that the index names, or in "
                             "another as well",
                             tensor->entry.name);
    }
    if (listing->count == map->count) return OK;
    for (size_t i = 0; i < map->count; i++) {
        bool there = false;
        for (uint32_t t = 0; t < listing->count && !there; t++)
            there = strcmp(listing->tensors[t].entry.name, map->items[i].key) == 0;
        if (!there)
            return error_set(error, INVALID,
                             "tensor \"%.100s\" is not in the file that the index names",
                             map->items[i].key);
    }
    return OK;
}

static enum status list_map(const char *directory, const struct json_value *map,
                            struct checkpoint_listing *listing, struct error *error) {
    struct files *files = xcalloc(1, sizeof *files);
    enum status status = OK;
    for (size_t i = 0; i < map->count && status == OK; i++)
        status = map->items[i].type == JSON_STRING
                     ? files_add(files, map->items[i].text, error)
                     : error_set(error, INVALID,
                                 "tensor \"%.100s\" is mapped to something that is not a file name",
                                 map->items[i].key);
    listing->files = xcalloc((size_t)files->count + 1, sizeof *listing->files);
    for (uint32_t i = 0; i < files->count && status == OK; i++)
        status = list_file(listing, file_join(directory, files->names[i]), error);
    if (status == OK) status = check_listing(listing, map, files, error);
    free(files);
    return status;
}

static enum status list_index(const char *directory, const char *path,
                              struct checkpoint_listing *listing, struct error *error) {
    struct buffer text = {0};
    struct json *json = NULL;
    const struct json_value *map;
    enum status status = open_index(path, &text, &json, &map, error);
    if (status == OK) status = list_map(directory, map, listing, error);
    if (status != OK) error_wrap(error, status, "%s", path);
    json_close(json);
    buffer_deinit(&text);
    return status;
}

void checkpoint_listing_deinit(struct checkpoint_listing *listing) {
    for (uint32_t i = 0; i < listing->file_count; i++) free(listing->files[i]);
    free(listing->files);
    free(listing->tensors);
    *listing = (struct checkpoint_listing){0};
}

enum status checkpoint_list(const char *path, struct checkpoint_listing *out, struct error *error) {
    struct checkpoint_listing listing = {0};
    char *whole = single_file(path), *index = file_join(path, CHECKPOINT_INDEX);
    enum status status;
    if (whole) {
        listing.files = xcalloc(1, sizeof *listing.files);
        status = list_file(&listing, whole, error);
    } else if (file_exists(index)) {
        status = list_index(path, index, &listing, error);
    } else {
        status = no_tensors(path, error);
    }
    free(index);
    if (status == OK)
        *out = listing;
    else
        checkpoint_listing_deinit(&listing);
    return status;
}

enum status checkpoint_load(const char *directory, struct layout *layout, float **parameters,
                            struct error *error) {
    struct model_config config;
    TRY(checkpoint_config(directory, &config, error));
    struct layout read = {0};
    void *values = NULL;
    enum status status = layout_init(&config, &read, error);
    if (status == OK) status = memory_try(read.count, sizeof(float), &values, error);
    if (status == OK) status = checkpoint_read(directory, &read, values, error);
    if (status != OK) {
        free(values);
        layout_deinit(&read);
        return status;
    }
    *layout = read;
    *parameters = values;
    return OK;
}
