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

struct files { /* the distinct names of a weight_map; the embedding's file comes first, for the sake
                  of a tied head elsewhere */
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

static enum status check_map(const struct layout *layout, const struct json_value *map,
                             struct error *error) {
    for (size_t i = 0; i < map->count; i++) {
        const char *name = map->items[i].key;
        if (map->items[i].type != JSON_STRING)
            return error_set(error, INVALID,
                             "tensor \"%.100s\" is mapped to something that is not a file name",
                             name);
        if (safetensors_is_derived(name)) continue;
        if (!layout_find(layout, name) &&
            !(layout->config.tied && strcmp(name, "lm_head.weight") == 0))
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
    TRY(files_add(files, json_object_get(map, layout->tensors[0].name)->text, error));
    for (size_t i = 0; i < map->count; i++) TRY(files_add(files, map->items[i].text, error));
    return OK;
}

/* Each tensor was in the file that the index says. */
static enum status check_held(const struct layout *layout, const struct json_value *map,
                              const struct files *files, const uint32_t *held,
                              struct error *error) {
    for (uint32_t i = 0; i <= layout->tensor_count; i++) {
        const char *name = i < layout->tensor_count ? layout->tensors[i].name : "lm_head.weight";
        const struct json_value *file =
            i < layout->tensor_count || layout->config.tied ? json_object_get(map, name) : NULL;
        if (!file && !held[i]) continue; /* the head of a tied model, which needs not be there */
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
    uint32_t *held = xcalloc(layout->tensor_count + 1, sizeof *held);
    enum status status = collect_files(layout, map, files, error);
    for (uint32_t i = 0; i < files->count && status == OK; i++) {
        char *path = file_join(directory, files->names[i]);
        status = safetensors_read_part(path, layout, parameters, i + 1, held, error);
        free(path);
    }
    if (status == OK) status = check_held(layout, map, files, held, error);
    free(held);
    free(files);
    return status;
}

static enum status read_index(const char *directory, const char *path, const struct layout *layout,
                              float *parameters, struct error *error) {
    struct buffer text = {0};
    struct json *json = NULL;
    const struct json_value *map;
    const struct json_limits limits = {.size = CHECKPOINT_INDEX_MAX, .depth = 8};
    enum status status = file_read(path, CHECKPOINT_INDEX_MAX, &text, error);
    if (status == OK) status = json_parse(buffer_bytes(&text), &limits, &json, error);
    if (status == OK) status = json_get_object(json_root(json), "weight_map", &map, error);
    if (status == NOT_FOUND) status = error_set(error, INVALID, "it has no \"weight_map\"");
    if (status == OK) status = read_files(directory, layout, map, parameters, error);
    if (status != OK) error_wrap(error, status, "%s", path);
    json_close(json);
    buffer_deinit(&text);
    return status;
}

enum status checkpoint_read(const char *path, const struct layout *layout, float *parameters,
                            struct error *error) {
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return safetensors_read(path, layout, parameters, error);
    char *whole = file_join(path, "model.safetensors"),
         *index = file_join(path, "model.safetensors.index.json");
    enum status status;
    if (file_exists(whole))
        status = safetensors_read(whole, layout, parameters, error);
    else if (file_exists(index))
        status = read_index(path, index, layout, parameters, error);
    else
        status =
            error_set(error, NOT_FOUND,
                      "%s has neither model.safetensors nor model.safetensors.index.json", path);
    free(whole);
    free(index);
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
