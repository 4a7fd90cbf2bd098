/* The index that scripts/prepare-data writes, read at a site. */
#include "run/run_shards.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "crypto/digest.h"
#include "fed/manifest.h"
#include "model/data_seen.h"

enum { INDEX_LIMIT = 64 << 20, HEADER_SIZE = 1024, PIECE = 1 << 20, TELL_MS = 5000 };

struct shard_index {
    struct json *json;
    char *path;                  /* of the index */
    const char *tokenizer;       /* "byte" or "tokenizer.json", lent by json */
    uint8_t digest[DIGEST_SIZE]; /* of tokenizer.json; zero for bytes */
    uint64_t vocabulary, token_bits;
    const struct json_value *shards; /* lent by json */
};

static const uint8_t none[DIGEST_SIZE];

static void index_close(struct shard_index *index) {
    json_close(index->json);
    free(index->path);
    *index = (struct shard_index){0};
}

static enum status read_digest(const struct json_value *object, const char *key,
                               uint8_t out[static DIGEST_SIZE], struct error *error) {
    const char *text;
    const struct json_value *value = json_object_get(object, key);
    memset(out, 0, DIGEST_SIZE);
    if (!value || value->type == JSON_NULL) return OK;
    TRY(json_get_text(object, key, &text, error));
    return hex_decode(text, out, DIGEST_SIZE, error);
}

/* NOT_FOUND: there is none in this directory. */
static enum status index_open(const char *directory, struct shard_index *out, struct error *error) {
    struct buffer text = {0};
    const struct json_limits limits = {.size = INDEX_LIMIT, .depth = 8};
    struct shard_index index = {.path = file_join(directory, SHARD_INDEX)};
    enum status status = file_read(index.path, INDEX_LIMIT, &text, error);
    if (status == NOT_FOUND) {
        free(index.path);
        return status;
    }
    if (status == OK) status = json_parse(buffer_bytes(&text), &limits, &index.json, error);
    const struct json_value *root = status == OK ? json_root(index.json) : NULL;
    if (status == OK) status = json_get_text(root, "tokenizer", &index.tokenizer, error);
    if (status == OK) status = json_get_u64(root, "vocabulary", &index.vocabulary, error);
    if (status == OK) status = json_get_u64(root, "token_bits", &index.token_bits, error);
    if (status == OK) status = json_get_array(root, "shards", &index.shards, error);
    if (status == OK) status = read_digest(root, "tokenizer_digest", index.digest, error);
    if (status != OK) { /* also where a member is NOT_FOUND: the index itself is there */
        error_wrap(error, status,
                   "%s is not the index that scripts/prepare-data writes: prepare the data again",
                   index.path);
        status = INVALID;
    }
    buffer_deinit(&text);
    if (status == OK)
        *out = index;
    else
        index_close(&index);
    return status;
}

/* The shard's entry, or NULL. */
static const struct json_value *index_find(const struct shard_index *index, const char *name) {
    const char *file;
    for (size_t i = 0; i < index->shards->count; i++)
        if (json_get_text(&index->shards->items[i], "file", &file, NULL) == OK &&
            strcmp(file, name) == 0)
            return &index->shards->items[i];
    return NULL;
}

/* ---- one shard ------------------------------------------------------------------------------- */

static enum status check_tokenizer(const struct manifest *manifest, const struct shard_index *index,
                                   const char *path, struct error *error) {
    char theirs[HEX32_SIZE], ours[HEX32_SIZE];
    bool byte = strcmp(index->tokenizer, "byte") == 0;
    if (manifest->tokenizer == TOKENIZER_BYTE && !byte)
        return error_set(error, INVALID,
                         "%s was made with a tokenizer (%s), and this run's tokens are bytes", path,
                         index->path);
    if (manifest->tokenizer == TOKENIZER_EXTERNAL && byte && manifest->model.vocabulary > 256)
        return error_set(
            error, INVALID,
            "%s holds bytes (%s), and this run's tokens are a tokenizer's: make shards with "
            "`scripts/prepare-data --tokenizer`",
            path, index->path);
    if (index->vocabulary > manifest->model.vocabulary)
        return error_set(
            error, INVALID,
            "%s was made with a tokenizer of %llu tokens (%s), and this run's vocabulary is %u",
            path, (unsigned long long)index->vocabulary, index->path, manifest->model.vocabulary);
    if (!digest_equal(manifest->tokenizer_digest, none) &&
        !digest_equal(manifest->tokenizer_digest, index->digest))
        return error_set(error, INVALID,
                         "%s was made with the tokenizer of SHA-256 %s (%s), and this run's is %s: "
                         "make shards with the run's own "
                         "tokenizer.json",
                         path, hex_encode(index->digest, DIGEST_SIZE, theirs), index->path,
                         hex_encode(manifest->tokenizer_digest, DIGEST_SIZE, ours));
    return OK;
}

/* Long reads say how far they are. */
static enum status digest_file(const char *path, int descriptor, uint64_t size,
                               uint8_t out[static DIGEST_SIZE], struct error *error) {
    struct digest digest;
    uint8_t *piece = xmalloc(PIECE);
    uint64_t done = 0, told_ms = clock_monotonic_ms();
    ssize_t got;
    digest_init(&digest);
    while ((got = read(descriptor, piece, PIECE)) > 0 || (got < 0 && errno == EINTR)) {
        if (got <= 0) continue;
        digest_update(&digest, piece, (size_t)got);
        done += (uint64_t)got;
        if (clock_monotonic_ms() - told_ms < TELL_MS) continue;
        told_ms = clock_monotonic_ms();
        log_info("checking_shard", "file=\"%s\" read_mb=%llu of_mb=%llu", path,
                 (unsigned long long)(done >> 20), (unsigned long long)(size >> 20));
    }
    enum status status =
        got == 0 ? OK : error_set(error, FAILED, "read %s: %s", path, strerror(errno));
    digest_final(&digest, out);
    free(piece);
    return status;
}

/* Once per file, if what was found is kept. What was written to while it was read is not kept. */
static enum status compare_digest(const struct shard_index *index, const char *path, int descriptor,
                                  uint64_t size, const uint8_t wanted[static DIGEST_SIZE],
                                  struct data_seen *seen, struct error *error) {
    struct data_fingerprint before, after;
    uint8_t got[DIGEST_SIZE];
    char hex[HEX32_SIZE], question[96];
    snprintf(question, sizeof question, "sha256-%.32s", hex_encode(wanted, DIGEST_SIZE, hex));
    TRY(data_fingerprint(descriptor, &before, error));
    if (data_seen_has(seen, &before, question)) return OK;
    TRY(digest_file(path, descriptor, size, got, error));
    if (!digest_equal(got, wanted))
        return error_set(error, INVALID,
                         "%s is damaged, or another shard of that name: its SHA-256 is not the one "
                         "in %s; copy both again",
                         path, index->path);
    TRY(data_fingerprint(descriptor, &after, error));
    if (data_fingerprint_equal(&before, &after)) data_seen_add(seen, &after, question, path);
    return OK;
}

/* The file is what the index says: as long, and with `read_it` to the byte. */
static enum status check_content(const struct shard_index *index, const struct json_value *entry,
                                 const char *path, bool read_it, struct data_seen *seen,
                                 struct error *error) {
    uint64_t tokens = 0;
    uint8_t wanted[DIGEST_SIZE];
    struct stat info;
    int descriptor;
    enum status status = json_get_u64(entry, "tokens", &tokens, error);
    if (status == OK) status = read_digest(entry, "sha256", wanted, error);
    if (status != OK) {
        error_wrap(error, status, "%s, of %s", index->path, path);
        return INVALID;
    }
    if (stat(path, &info) != 0)
        return error_set(error, errno == ENOENT ? NOT_FOUND : FAILED, "%s: %s", path,
                         strerror(errno));
    if ((uint64_t)info.st_size != HEADER_SIZE + tokens * index->token_bits / 8)
        return error_set(
            error, INVALID,
            "%s is %llu bytes, and %s promises %llu tokens of %llu bits: copy it again", path,
            (unsigned long long)info.st_size, index->path, (unsigned long long)tokens,
            (unsigned long long)index->token_bits);
    if (!read_it) return OK;
    TRY(file_open(path, &descriptor, NULL, error));
    status = compare_digest(index, path, descriptor, (uint64_t)info.st_size, wanted, seen, error);
    close(descriptor);
    return status;
}

static enum status check_shard(const struct manifest *manifest, const struct shard_index *index,
                               const char *path, const char *name, const struct run_shards *shards,
                               struct data_seen *seen, struct error *error) {
    const struct json_value *entry = index->json ? index_find(index, name) : NULL;
    if (entry) {
        TRY(check_tokenizer(manifest, index, path, error));
        return check_content(index, entry, path, shards->read_them, seen, error);
    }
    if (index->json)
        log_warn("shard_not_in_index",
                 "file=\"%s\" message=\"%s is of other shards: whether this one is of the same "
                 "tokenizer is not known\"",
                 path, index->path);
    if (digest_equal(manifest->tokenizer_digest, none) || shards->insisted) return OK;
    return error_set(error, INVALID,
                     "%s has no index (%s beside it) that names its tokenizer, and the run pins "
                     "one: make shards with "
                     "`scripts/prepare-data --tokenizer`; if they are of the run's tokenizer, say "
                     "with --data-format what they are",
                     path, SHARD_INDEX);
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* The directory of `path`, and its index if that is another one than *opened. NOT_FOUND: it has
 * none. */
static enum status open_beside(const char *path, char **opened, struct shard_index *index,
                               struct error *error) {
    const char *slash = strrchr(path, '/');
    char *directory = slash ? xstrdup(path) : xstrdup(".");
    enum status status = OK;
    if (slash) directory[slash == path ? 1 : slash - path] = 0;
    if (*opened && strcmp(*opened, directory) == 0) {
        free(directory);
        return OK;
    }
    index_close(index);
    free(*opened);
    *opened = directory;
    status = index_open(directory, index, error);
    return status == NOT_FOUND ? OK : status;
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool run_shards_vouched(const struct manifest *manifest, const struct run_shards *shards) {
    struct shard_index index = {0};
    char *opened = NULL; /* the directory of `index`; consecutive shards mostly share one */
    bool vouched = !digest_equal(manifest->tokenizer_digest, none);
    for (size_t i = 0; vouched && i < shards->count; i++)
        vouched = open_beside(shards->paths[i], &opened, &index, NULL) == OK && index.json &&
                  index_find(&index, name_of(shards->paths[i])) &&
                  digest_equal(index.digest, manifest->tokenizer_digest);
    index_close(&index);
    free(opened);
    return vouched;
}

enum status run_shards_check(const struct manifest *manifest, const struct run_shards *shards,
                             struct error *error) {
    struct shard_index index = {0};
    char *opened = NULL;
    struct data_seen *seen = data_seen_open(shards->seen);
    enum status status = OK;
    for (size_t i = 0; status == OK && i < shards->count; i++) {
        const char *path = shards->paths[i];
        status = open_beside(path, &opened, &index, error);
        if (status == OK)
            status = check_shard(manifest, &index, path, name_of(path), shards, seen, error);
    }
    data_seen_close(seen);
    index_close(&index);
    free(opened);
    return status;
}
