/* Opens and reads a run's directory (coordinator/directory.h): keys, store, blobs, and the model
 * by snapshot and replay. Making one is in directory_create.c. */
#include "coordinator/directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "crypto/digest.h"
#include "crypto/key_file.h"
#include "model/layout_text.h"
#include "run/run_model.h"

static const char *const table_names[TABLE_COUNT] = {"ledger", "snapshots"};
static const struct storage_digest sha256 = {sizeof(struct digest), digest_pieces, digest_init,
                                             digest_update, digest_final};

static enum status open_pieces(const char *directory, bool read_only,
                               void (*on_fatal)(void *context, const struct error *error),
                               void *context, struct directory *out, struct error *error) {
    struct directory data = {0};
    char *store_directory = file_join(directory, "store");
    struct store_options options = {.directory = store_directory,
                                    .tables = table_names,
                                    .table_count = TABLE_COUNT,
                                    .digest = &sha256,
                                    .read_only = read_only,
                                    .on_fatal = on_fatal,
                                    .fatal_context = context};
    enum status status = OK;
    if (!file_exists(store_directory)) {
        status =
            error_set(error, NOT_FOUND, "%s has no run: make one with `atollctl run create %s`",
                      directory, directory);
    }
    if (status == OK) status = store_open(&options, &data.store, error);
    if (status == OK) {
        status = read_only ? blob_store_open_reading(directory, &sha256, &data.blobs, error)
                           : blob_store_open(directory, &sha256, &data.blobs, error);
    }
    free(store_directory);
    if (status != OK) {
        store_close(data.store);
        return status;
    }
    data.directory = xstrdup(directory);
    *out = data;
    return OK;
}

/* LMDB would make a store where there is none, and the run would look like one without a ledger. */
static enum status check_has_ledger(const char *directory, struct error *error) {
    char *store = file_join(directory, "store"), *path = file_join(store, "data.mdb");
    struct stat file;
    enum status status = OK;
    if (file_exists(store) && (stat(path, &file) != 0 ? errno == ENOENT : file.st_size == 0))
        status = error_set(
            error, CORRUPT,
            "%s is %s: the run's ledger is gone; put a copy of the run's directory in its place",
            path, file_exists(path) ? "empty" : "not there");
    free(path);
    free(store);
    return status;
}

enum status directory_open(const char *directory, bool read_only,
                           void (*on_fatal)(void *context, const struct error *error),
                           void *context, struct directory *out, struct error *error) {
    char *mark = file_join(directory, DIRECTORY_UNFINISHED);
    bool unfinished = file_exists(mark);
    free(mark);
    if (unfinished)
        return error_set(error, NOT_FOUND,
                         "%s has no complete run: creating it was interrupted, or is still going "
                         "on; `atollctl run create %s` begins it anew",
                         directory, directory);
    TRY(check_has_ledger(directory, error));
    return open_pieces(directory, read_only, on_fatal, context, out, error);
}

enum status directory_open_unfinished(const char *directory, struct directory *out,
                                      struct error *error) {
    return open_pieces(directory, false, NULL, NULL, out, error);
}

void directory_close(struct directory *data) {
    store_close(data->store);
    blob_store_close(data->blobs);
    free(data->directory);
    *data = (struct directory){0};
}

/* ---- keys ------------------------------------------------------------------------------------ */

static enum status read_text(const char *directory, const char *name, struct buffer *out,
                             struct error *error) {
    char *path = xformat("%s/keys/%s", directory, name);
    enum status status = file_read(path, 64 * 1024, out, error);
    free(path);
    return status;
}

static enum status load_key(const char *directory, const char *name, struct key_pair **out,
                            struct error *error) {
    char *path = xformat("%s/keys/%s", directory, name);
    enum status status = key_file_load(path, out, error);
    free(path);
    return status;
}

/* For TLS; zero-terminated after the size. */
static enum status read_key(const char *directory, const char *name, struct buffer *out,
                            struct error *error) {
    char *path = xformat("%s/keys/%s", directory, name);
    enum status status = key_file_read(path, false, out, error);
    free(path);
    if (status != OK) return status;
    buffer_u8(out, 0);
    out->size--;
    return OK;
}

/* With another key every site that joins would get a certificate that nobody takes, and its
 * invitation would be used up. */
static enum status check_authority(const char *directory, const struct directory_keys *keys,
                                   struct error *error) {
    struct certificate_info info;
    enum status status = certificate_parse(buffer_bytes(&keys->authority_pem), &info, error);
    if (status != OK) return error_wrap(error, status, "%s/keys/ca.pem", directory);
    if (memcmp(info.public_key, key_pair_public(keys->authority), PUBLIC_KEY_SIZE) == 0) return OK;
    return error_set(error, CORRUPT,
                     "%s/keys: ca.key is not the key of ca.pem; put a copy of both in their place",
                     directory);
}

enum status directory_keys_open(const char *directory, struct directory_keys *out,
                                struct error *error) {
    struct directory_keys keys = {0};
    char *folder = file_join(directory, "keys");
    enum status status = load_key(directory, "ca.key", &keys.authority, error);
    if (status == OK) status = file_check_private_directory(directory, error);
    if (status == OK) status = file_check_private_directory(folder, error);
    free(folder);
    if (status == OK) status = load_key(directory, "coordinator.key", &keys.coordinator, error);
    if (status == OK) status = read_text(directory, "ca.pem", &keys.authority_pem, error);
    if (status == OK) status = read_text(directory, "server.pem", &keys.server_pem, error);
    if (status == OK) status = read_key(directory, "server.key", &keys.server_key_pem, error);
    if (status == OK) status = check_authority(directory, &keys, error);
    if (status != OK) {
        directory_keys_close(&keys);
        return status;
    }
    *out = keys;
    return OK;
}

void directory_keys_close(struct directory_keys *keys) {
    key_pair_destroy(keys->authority);
    key_pair_destroy(keys->coordinator);
    buffer_deinit(&keys->authority_pem);
    buffer_deinit(&keys->server_pem);
    free_clearing(keys->server_key_pem.data, keys->server_key_pem.capacity);
    *keys = (struct directory_keys){0};
}

/* ---- version 0 ------------------------------------------------------------------------------- */

enum status directory_layout(const char *directory, const struct manifest *manifest,
                             struct layout *out, struct buffer *text, struct error *error) {
    struct buffer own = {0}, *into = text ? text : &own;
    char *path = file_join(directory, DIRECTORY_LAYOUT);
    enum status status = OK;
    if (run_model_has_layout(manifest)) {
        status = file_read(path, LAYOUT_TEXT_MAX, into, error);
        if (status == OK) status = run_model_layout(manifest, buffer_bytes(into), out, error);
        if (status != OK)
            status = error_wrap(error, CORRUPT,
                                "%s, the list of the run's tensors: put a copy in its place, "
                                "any site's directory has one",
                                path);
    } else {
        status = run_model_layout(manifest, bytes_of(NULL, 0), out, error);
    }
    free(path);
    buffer_deinit(&own);
    return status;
}

static enum status initialise(void *context, const struct manifest *manifest, uint64_t parameters,
                              float *theta, struct error *error) {
    const struct directory_start *start = context;
    struct layout layout = {0};
    bool named = run_model_has_root(manifest);
    if (named && !start->from)
        return error_set(error, INVALID,
                         "no snapshot of this run can be read, and the run began from a "
                         "checkpoint: give it with --from, and everything is replayed from there");
    TRY(directory_layout(start->directory, manifest, &layout, NULL, error));
    enum status status = OK;
    if (layout.count != parameters)
        status = error_set(error, CORRUPT,
                           "entry 0 of the ledger speaks of %llu parameters, its manifest of %llu",
                           (unsigned long long)parameters, (unsigned long long)layout.count);
    if (status == OK)
        status = run_model_initialise(manifest, &layout, named ? start->from : NULL, theta, error);
    layout_deinit(&layout);
    return status;
}

struct directory_initial directory_initial(const struct directory_start *start) {
    return (struct directory_initial){.initialise = initialise,
                                      .context = (void *)(uintptr_t)start};
}
