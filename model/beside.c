/* The small files beside a checkpoint: finding them, reading the two that matter here, and carrying
 * all of them along. */
#include "model/beside.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/config_file.h"
#include "text/tokenizer.h"

enum { SETTINGS_MAX = 1 << 20 };

struct beside {
    char *directory;
    char *prefix; /* of the names there; empty in a directory of one checkpoint */
};

static bool is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static char *path_in(const struct beside *place, const char *name) {
    return xformat("%s/%s%s", place->directory, place->prefix, name);
}

static struct beside place_of(const char *checkpoint) {
    struct beside place = {.directory = xstrdup(checkpoint), .prefix = xstrdup("")};
    if (!is_file(checkpoint)) return place;
    char *slash = strrchr(place.directory, '/'), *name = xstrdup(slash ? slash + 1 : checkpoint);
    free(place.prefix);
    if (ends_with(name, ".safetensors")) name[strlen(name) - strlen(".safetensors")] = 0;
    place.prefix = xformat("%s_", name);
    if (!slash) {
        free(place.directory);
        place.directory = xstrdup(".");
    } else {
        slash[slash == place.directory] = 0;
    }
    char *config = path_in(&place, "config.json");
    if (!is_file(config)) place.prefix[0] = 0;
    free(config);
    free(name);
    return place;
}

static void place_deinit(struct beside *place) {
    free(place->directory);
    free(place->prefix);
}

char *beside_path(const char *checkpoint, const char *name) {
    struct beside place = place_of(checkpoint);
    char *path = path_in(&place, name);
    place_deinit(&place);
    return path;
}

enum status beside_config(const char *checkpoint, struct model_config *out, struct error *error) {
    char *path = beside_path(checkpoint, "config.json");
    struct buffer text = {0};
    enum status status = file_read(path, CONFIG_FILE_MAX, &text, error);
    if (status == OK) {
        status = config_file_decode(buffer_bytes(&text), out, error);
        if (status != OK) error_wrap(error, status, "%s", path);
    }
    buffer_deinit(&text);
    free(path);
    return status;
}

/* ---- the tokenizer --------------------------------------------------------------------------- */

static bool is_byte_tokenizer(const struct tokenizer *tokenizer) {
    static const char text[] =
        "The quick brown fox, 0123456789!\n\tJ\xc3\xbcrgen ~{}  \xe4\xba\xba";
    struct buffer tokens = {0};
    bool same =
        tokenizer_encode(tokenizer, bytes_of(text, sizeof text - 1), false, &tokens, NULL) == OK &&
        tokens.size == 4 * (sizeof text - 1);
    for (size_t i = 0; same && i < sizeof text - 1; i++) {
        uint32_t token;
        memcpy(&token, tokens.data + 4 * i, sizeof token);
        same = token == (uint8_t)text[i];
    }
    buffer_deinit(&tokens);
    return same;
}

enum data_tokens beside_tokens(const char *checkpoint) {
    if (!checkpoint) return DATA_TOKENS_ANY;
    struct beside place = place_of(checkpoint);
    char *fast = path_in(&place, "tokenizer.json"), *slow = path_in(&place, "tokenizer.model");
    struct tokenizer *tokenizer = NULL;
    enum data_tokens tokens = DATA_TOKENS_ANY;
    /* also one that this program cannot read */
    if (is_file(fast) || is_file(slow)) tokens = DATA_TOKENS_EXTERNAL;
    /* Our own reader looks into directories; a prefixed one is another program's. */
    if (!*place.prefix && is_file(fast) &&
        tokenizer_open(place.directory, &tokenizer, NULL) == OK && is_byte_tokenizer(tokenizer))
        tokens = DATA_TOKENS_BYTE;
    tokenizer_close(tokenizer);
    free(fast);
    free(slow);
    place_deinit(&place);
    return tokens;
}

/* ---- carrying them along --------------------------------------------------------------------- */

static const char *const tokenizer_files[] = {"tokenizer.json", "tokenizer.model", "vocab.json",
                                              "vocab.txt", NULL};
static const char *const plain_names[] = {"merges.txt", "vocab.txt", "LICENSE", "NOTICE", NULL};
static const char *const beginnings[] = {"LICENSE.", "NOTICE.", "USE_POLICY.", NULL};
static const char *const not_carried[] = {"config.json", "prepare-data.json", NULL};

static bool is_listed(const char *const *list, const char *name) {
    for (; *list; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

/* Whether a name without its prefix is of what belongs to a checkpoint and is not its tensors. */
static bool is_carried(const char *name) {
    if (name[0] == '.' || is_listed(not_carried, name) || ends_with(name, ".index.json"))
        return false;
    for (const char *const *at = beginnings; *at; at++)
        if (strncmp(name, *at, strlen(*at)) == 0) return true;
    return is_listed(plain_names, name) || ends_with(name, ".json") || ends_with(name, ".model") ||
           ends_with(name, ".jinja");
}

static const char *const known_json[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",     "chat_template.json",    "generation_config.json",  NULL};

/* Other JSON files are a checkpoint's if they are small and one object, as settings are: documents
 * to train on are neither. */
static bool is_settings(const char *path, const char *name) {
    struct buffer text = {0};
    struct json *json = NULL;
    if (!ends_with(name, ".json") || is_listed(known_json, name)) return true;
    bool object = file_read(path, SETTINGS_MAX, &text, NULL) == OK &&
                  json_parse(buffer_bytes(&text), NULL, &json, NULL) == OK &&
                  json_root(json)->type == JSON_OBJECT;
    json_close(json);
    buffer_deinit(&text);
    return object;
}

static enum status copy_file(const struct beside *place, const char *name, const char *directory,
                             struct error *error) {
    char *source = path_in(place, name), *target = file_join(directory, name);
    struct buffer content = {0};
    enum status status = file_read(source, BESIDE_SIZE_MAX, &content, error);
    if (status == OK) status = file_write(target, buffer_bytes(&content), 0644, error);
    buffer_deinit(&content);
    free(source);
    free(target);
    return status;
}

static bool is_same_directory(const char *a, const char *b) {
    struct stat one, other;
    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

/* A file of its own: other checkpoints' lie there as NAME_..., and have a NAME_config.json. */
static bool is_own(const struct beside *place, const char *name) {
    size_t prefix = strlen(place->prefix);
    if (prefix) return strncmp(name, place->prefix, prefix) == 0 && is_carried(name + prefix);
    return is_carried(name);
}

static enum status copy_all(const struct beside *place, const char *directory, bool *tokenizer,
                            struct error *error) {
    size_t prefix = strlen(place->prefix), files = 0;
    enum status status = OK;
    DIR *stream = opendir(place->directory);
    if (!stream) return error_set(error, FAILED, "open %s: %s", place->directory, strerror(errno));
    for (struct dirent *entry; status == OK && (entry = readdir(stream));) {
        if (!is_own(place, entry->d_name)) continue;
        char *path = file_join(place->directory, entry->d_name);
        struct stat info;
        bool small = stat(path, &info) == 0 && S_ISREG(info.st_mode) &&
                     info.st_size <= BESIDE_SIZE_MAX && is_settings(path, entry->d_name + prefix);
        free(path);
        if (!small) continue;
        if (++files > BESIDE_FILES_MAX)
            status = error_set(
                error, INVALID,
                "%s holds more than %d small files: keep the checkpoint in a directory of its own",
                place->directory, BESIDE_FILES_MAX);
        else
            status = copy_file(place, entry->d_name + prefix, directory, error);
        if (status == OK && is_listed(tokenizer_files, entry->d_name + prefix)) *tokenizer = true;
    }
    closedir(stream);
    return status;
}

enum status beside_copy(const char *checkpoint, const char *directory, bool config, bool *tokenizer,
                        struct error *error) {
    struct beside place = place_of(checkpoint);
    char *own = path_in(&place, "config.json"), *fast = path_in(&place, "tokenizer.json");
    enum status status = OK;
    *tokenizer = false;
    if (is_same_directory(place.directory, directory)) {
        *tokenizer = is_file(fast); /* nothing to move */
    } else if (!is_file(checkpoint) || is_file(own)) {
        status = copy_all(&place, directory, tokenizer, error);
        if (status == OK && config && is_file(own))
            status = copy_file(&place, "config.json", directory, error);
    }
    free(own);
    free(fast);
    place_deinit(&place);
    return status;
}
