/* Making a run: the one moment at which keys, certificates, ledger and version 0 come into being.
 *
 * All that can be wrong with manifest, checkpoint, memory and disk is found before anything is
 * made. Then a mark is made, under a lock that ends with the process, then everything else, and
 * deleting the mark is what makes it a run. A process that finds a mark whose lock is free may
 * delete what stands beside it under our names: none of them was there when the mark was made.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "coordinator/directory.h"
#include "crypto/certificate.h"
#include "crypto/key_file.h"
#include "fed/invitation.h"
#include "model/beside.h"
#include "model/fit.h"
#include "model/safetensors.h"
#include "run/run_model.h"

enum { YEAR_S = 31557600, AUTHORITY_YEARS = 20, CERTIFICATE_YEARS = 10, SMALL_THINGS = 2 << 20 };

static const char *const pieces[] = {
    "store", "keys", "blobs", "uploads", DIRECTORY_CHECKPOINT, DIRECTORY_LAYOUT, "manifest.yaml"};

struct making {
    const char *directory;
    bool made_directory;
    int mark; /* descriptor of DIR/unfinished, locked; -1: none */
    const struct run_source *source;
    struct manifest manifest; /* as the source completes it */
    struct run_start start;
    struct model_state model;
    uint8_t run_id[RUN_ID_SIZE];
    uint64_t now_s;
    struct key_pair *authority, *coordinator, *admin;
    struct buffer authority_pem;
};

static enum status save(const struct making *making, const char *name, struct bytes content,
                        mode_t mode, struct error *error) {
    char *path = file_join(making->directory, name);
    enum status status = file_write(path, content, mode, error);
    free(path);
    return status;
}

static enum status make_key(const struct making *making, const char *name, struct key_pair **out,
                            struct error *error) {
    char *path = file_join(making->directory, name);
    enum status status = key_pair_create(out, error);
    if (status == OK) status = key_file_save(path, *out, error);
    free(path);
    return status;
}

static enum status make_certificate(const struct making *making, const char *name,
                                    const struct key_pair *key,
                                    const struct certificate_terms *terms, struct error *error) {
    struct buffer request = {0}, certificate = {0};
    enum status status = certificate_request_create(key, CERTIFICATE_DER, &request, error);
    if (status == OK) {
        status =
            certificate_issue(buffer_bytes(&making->authority_pem), making->authority,
                              buffer_bytes(&request), terms, CERTIFICATE_PEM, &certificate, error);
    }
    if (status == OK) status = save(making, name, buffer_bytes(&certificate), 0644, error);
    buffer_deinit(&request);
    buffer_deinit(&certificate);
    return status;
}

static enum status make_server(const struct making *making, const struct certificate_terms *terms,
                               struct error *error) {
    struct buffer certificate = {0}, key = {0};
    enum status status = certificate_issue_server(
        buffer_bytes(&making->authority_pem), making->authority, terms, &certificate, &key, error);
    if (status == OK) status = save(making, "keys/server.key", buffer_bytes(&key), 0600, error);
    if (status == OK)
        status = save(making, "keys/server.pem", buffer_bytes(&certificate), 0644, error);
    buffer_deinit(&certificate);
    free_clearing(key.data, key.capacity);
    return status;
}

static enum status make_identities(struct making *making, struct error *error) {
    uint64_t from = CERTIFICATE_FROM_S, now = MAX(making->now_s, CERTIFICATE_NOW_LEAST_S);
    uint64_t end = now + (uint64_t)CERTIFICATE_YEARS * YEAR_S;
    TRY(make_key(making, "keys/ca.key", &making->authority, error));
    TRY(make_key(making, "keys/coordinator.key", &making->coordinator, error));
    TRY(make_key(making, "keys/admin.key", &making->admin, error));
    TRY(certificate_create_authority(making->authority, "Atoll federation root", from,
                                     now + (uint64_t)AUTHORITY_YEARS * YEAR_S, CERTIFICATE_PEM,
                                     &making->authority_pem, error));
    TRY(save(making, "keys/ca.pem", buffer_bytes(&making->authority_pem), 0644, error));
    struct certificate_terms server = {.common_name = "atoll-coordinator",
                                       .dns = {"atoll-coordinator"},
                                       .server = true,
                                       .not_before_s = from,
                                       .not_after_s = end};
    TRY(make_server(making, &server, error));
    struct identity identity = {.role = IDENTITY_ADMIN, .name = "root"};
    char uri[IDENTITY_URI_SIZE];
    memcpy(identity.run_id, making->run_id, RUN_ID_SIZE);
    identity_write(&identity, uri);
    struct certificate_terms admin = {.common_name = "root",
                                      .uri = uri,
                                      .client = true,
                                      .not_before_s = from,
                                      .not_after_s = end};
    return make_certificate(making, "keys/admin.pem", making->admin, &admin, error);
}

/* ---- what is asked before anything is made --------------------------------------------------- */

static enum status check_pieces(const char *directory, struct error *error) {
    enum status status = OK;
    for (size_t i = 0; status == OK && i < COUNT_OF(pieces); i++) {
        char *path = file_join(directory, pieces[i]);
        if (!file_exists(path))
            ;
        else if (i < 2)
            status = error_set(error, INVALID, "%s holds a run already: choose another directory",
                               directory);
        else
            status = error_set(
                error, INVALID,
                "%s is in the way: a run has one of its own there; choose another directory", path);
        free(path);
    }
    return status;
}

static enum status check_place(const char *directory, struct error *error) {
    char *mark = file_join(directory, DIRECTORY_UNFINISHED);
    bool unfinished = file_exists(mark);
    free(mark);
    return unfinished ? OK : check_pieces(directory, error);
}

/* Of the file system on which the directory is, or would be. */
static uint64_t disk_free(const char *directory) {
    char *path = xformat("%s/", directory);
    struct statvfs disk;
    uint64_t free_bytes = UINT64_MAX;
    while (statvfs(path, &disk) != 0) {
        char *slash = strrchr(path, '/');
        if (strcmp(path, ".") == 0 || strcmp(path, "/") == 0) goto out;
        if (!slash)
            strcpy(path, "."); /* a name has room for it */
        else if (slash == path)
            path[1] = 0;
        else
            *slash = 0;
    }
    free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
out:
    free(path);
    return free_bytes;
}

static enum status check_fits(const char *directory, const struct manifest *manifest,
                              uint64_t parameters, struct directory_needs *needs,
                              struct error *error) {
    char wanted[SIZE_TEXT_SIZE], there[SIZE_TEXT_SIZE];
    needs->parameters = parameters;
    needs->model_memory = model_state_memory(manifest, parameters);
    needs->snapshot_size = snapshot_size_of(manifest, parameters);
    needs->memory = needs->model_memory + needs->snapshot_size;
    needs->disk = 2 * needs->snapshot_size + SMALL_THINGS;
    needs->memory_free = memory_available();
    needs->disk_free = disk_free(directory);
    if (needs->memory > needs->memory_free)
        return error_set(error, FULL,
                         "the coordinator takes %s for this model, %s are free on this machine: a "
                         "smaller model, or a larger machine",
                         size_text(needs->memory, wanted), size_text(needs->memory_free, there));
    if (needs->disk > needs->disk_free)
        return error_set(error, FULL,
                         "%s needs %s for two snapshots of this model, and room for payloads; its "
                         "disk has %s left: another disk, or "
                         "a smaller model",
                         directory, size_text(needs->disk, wanted),
                         size_text(needs->disk_free, there));
    return OK;
}

/* With `keep`, version 0 is left in *making; without, only what can be wrong is looked at. */
static enum status prepare(struct making *making, bool keep, struct directory_needs *needs,
                           struct error *error) {
    struct model_state made = {0};
    TRY(check_place(making->directory, error));
    TRY(run_start_open(making->source, &making->manifest, &making->start, error));
    uint64_t count = making->start.layout.count;
    enum status status = check_fits(making->directory, &making->manifest, count, needs, error);
    bool initial = keep || making->source->from;
    if (status == OK && initial) status = model_state_init(&made, &making->manifest, count, error);
    if (status == OK && initial)
        status =
            run_start_values(making->source, &making->start, &making->manifest, made.theta, error);
    if (status == OK && keep)
        making->model = made;
    else
        model_state_deinit(&made);
    return status;
}

static struct making making_of(const char *directory, const struct manifest *manifest,
                               const struct run_source *source) {
    static const struct run_source nothing = {0};
    struct making making = {.directory = directory,
                            .manifest = *manifest,
                            .source = source ? source : &nothing,
                            .now_s = clock_wall_ms() / 1000,
                            .mark = -1};
    random_system(making.run_id, sizeof making.run_id);
    return making;
}

enum status directory_create_check(const char *directory, const struct manifest *manifest,
                                   const struct run_source *source, struct directory_needs *needs,
                                   struct error *error) {
    struct directory_needs own;
    struct making making = making_of(directory, manifest, source);
    enum status status = prepare(&making, false, needs ? needs : &own, error);
    run_start_deinit(&making.start);
    return status;
}

/* ---- the mark -------------------------------------------------------------------------------- */

static enum status remove_pieces(const char *directory, struct error *error) {
    enum status status = OK;
    for (size_t i = 0; status == OK && i < COUNT_OF(pieces); i++) {
        char *path = file_join(directory, pieces[i]);
        status = file_remove_tree(path, error);
        free(path);
    }
    return status;
}

/* The mark has words in it once its maker had the lock and saw that nothing stood beside it. */
static enum status lock_mark(struct making *making, bool *left_over, struct error *error) {
    struct stat info;
    if (flock(making->mark, LOCK_EX | LOCK_NB) != 0)
        return error_set(error, UNAVAILABLE, "another process is making a run in %s",
                         making->directory);
    if (fstat(making->mark, &info) != 0)
        return error_set(error, FAILED, "stat its mark: %s", strerror(errno));
    if (info.st_nlink == 0)
        return error_set(error, UNAVAILABLE, "another process has just made a run in %s",
                         making->directory);
    *left_over = info.st_size > 0;
    return *left_over ? OK : check_pieces(making->directory, error);
}

static enum status take_mark(struct making *making, struct error *error) {
    static const char text[] = "`atollctl run create` is making a run here, or was cut off. "
                               "Nothing here counts yet: give the command "
                               "again, and it begins anew.\n";
    char *path = file_join(making->directory, DIRECTORY_UNFINISHED);
    bool left_over = false;
    making->made_directory = !file_exists(making->directory);
    enum status status = file_make_directory(making->directory, 0700, error);
    if (status == OK) {
        making->mark = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (making->mark < 0)
            status = error_set(error, errno == ENOSPC ? FULL : FAILED, "make %s: %s", path,
                               strerror(errno));
        else
            status = lock_mark(making, &left_over, error);
        if (status != OK && making->mark >= 0) { /* what is there is another's */
            close(making->mark);
            making->mark = -1;
            if (status == INVALID) unlink(path); /* ours, beside a run that has come in between */
        }
    }
    if (status == OK && left_over) status = remove_pieces(making->directory, error);
    if (status == OK && !left_over)
        status = file_write_all(making->mark, text, sizeof text - 1, error);
    if (status == OK && fsync(making->mark) != 0)
        status = error_set(error, FAILED, "sync %s: %s", path, strerror(errno));
    if (status == OK) status = file_sync_directory(making->directory, error);
    free(path);
    return status;
}

/* Ends the making: of a run, or of nothing. */
static enum status drop_mark(struct making *making, enum status made, struct error *error) {
    char *path = file_join(making->directory, DIRECTORY_UNFINISHED);
    struct error cleaning = {0};
    enum status status = made;
    if (making->mark >= 0 && made != OK && remove_pieces(making->directory, &cleaning) != OK) {
        error_wrap(error, made,
                   "%s could not be cleaned up (%s), give the command again or delete it",
                   making->directory, cleaning.message);
        goto out; /* the mark stays, and says so */
    }
    if (making->mark >= 0 && unlink(path) != 0 && made == OK)
        status = error_set(error, FAILED, "remove %s: %s", path, strerror(errno));
    /* it is a run from here on */
    if (made == OK && status == OK) status = file_sync_directory(making->directory, error);
    if (made != OK && making->made_directory) rmdir(making->directory);
out:
    if (making->mark >= 0) close(making->mark);
    free(path);
    return status;
}

/* ---- making it ------------------------------------------------------------------------------- */

static enum status write_genesis(struct making *making, struct directory *data,
                                 struct error *error) {
    struct buffer canonical = {0}, raw = {0};
    struct ledger_entry entry = {.kind = LEDGER_GENESIS, .epoch = 1, .time_ms = clock_wall_ms()};
    uint8_t key[STORE_KEY_U64_SIZE];
    manifest_write(&making->manifest, &canonical);
    run_model_layout_digest(&making->start.layout, entry.genesis.layout_digest);
    memcpy(entry.genesis.run_id, making->run_id, RUN_ID_SIZE);
    memcpy(entry.genesis.coordinator_key, key_pair_public(making->coordinator), PUBLIC_KEY_SIZE);
    entry.genesis.parameters = making->model.parameters;
    state_root(making->model.theta, making->model.parameters, entry.genesis.initial_root);
    entry.genesis.manifest = buffer_bytes(&canonical);
    ledger_entry_encode(&entry, &raw);
    struct snapshot_header header = {.epoch = 1, .ledger_size = 1, .payloads_from = 1};
    memcpy(header.run_id, making->run_id, RUN_ID_SIZE);
    enum status status =
        directory_snapshot_write(data, &making->model, &header, making->coordinator, 1, error);
    if (status != OK) goto out;
    store_key_u64(0, key);
    struct store_batch *batch = store_batch_create(data->store);
    store_batch_put(batch, TABLE_LEDGER, bytes_of(key, sizeof key), buffer_bytes(&raw));
    status = store_commit_wait(data->store, batch, error);
    if (status == OK) status = save(making, "manifest.yaml", buffer_bytes(&canonical), 0644, error);
out:
    buffer_deinit(&canonical);
    buffer_deinit(&raw);
    return status;
}

/* Tensors that nobody trains, for exports. */
static enum status keep_frozen(const struct making *making, const char *directory,
                               struct error *error) {
    const struct layout *layout = &making->start.layout;
    uint32_t *items = xcalloc((size_t)layout->other_count + 1, sizeof *items), count = 0;
    for (uint32_t i = 0; i < layout->other_count; i++)
        if (layout->others[i].tied == LAYOUT_FROZEN) items[count++] = layout->tensor_count + i;
    const struct safetensors_part part = {
        .items = items, .count = count, .frozen = making->source->from, .version = -1};
    char *path = file_join(directory, DIRECTORY_FROZEN);
    enum status status =
        count ? safetensors_write_part(path, layout, making->model.theta, &part, error) : OK;
    free(path);
    free(items);
    return status;
}

/* What came beside the checkpoint, for exports: token ids, tokenizer and the like. */
static enum status keep_beside(const struct making *making, struct error *error) {
    const char *checkpoint = making->source->from;
    bool tokenizer;
    if (!checkpoint) return OK;
    char *path = file_join(making->directory, DIRECTORY_CHECKPOINT);
    enum status status = file_make_directory(path, 0755, error);
    if (status == OK) status = beside_copy(checkpoint, path, true, &tokenizer, error);
    if (status == OK) status = keep_frozen(making, path, error);
    free(path);
    return status;
}

static enum status make_all(struct making *making, struct error *error) {
    struct directory data = {0};
    char *keys = file_join(making->directory, "keys"),
         *store = file_join(making->directory, "store");
    enum status status = file_make_directory(keys, 0700, error);
    if (status == OK) status = file_make_directory(store, 0700, error);
    if (status == OK) status = make_identities(making, error);
    if (status == OK && making->start.text.size)
        status = save(making, DIRECTORY_LAYOUT, buffer_bytes(&making->start.text), 0644, error);
    if (status == OK) status = directory_open_unfinished(making->directory, &data, error);
    if (status == OK) {
        status = write_genesis(making, &data, error);
        directory_close(&data);
    }
    if (status == OK) status = keep_beside(making, error);
    free(keys);
    free(store);
    return status;
}

enum status directory_create(const char *directory, const struct manifest *manifest,
                             const struct run_source *source, struct directory_needs *needs,
                             struct error *error) {
    struct directory_needs own;
    struct making making = making_of(directory, manifest, source);
    enum status status = prepare(&making, true, needs ? needs : &own, error);
    if (status == OK) {
        status = take_mark(&making, error);
        if (status == OK) status = make_all(&making, error);
        status = drop_mark(&making, status, error);
    }
    run_start_deinit(&making.start);
    model_state_deinit(&making.model);
    key_pair_destroy(making.authority);
    key_pair_destroy(making.coordinator);
    key_pair_destroy(making.admin);
    buffer_deinit(&making.authority_pem);
    return status;
}
