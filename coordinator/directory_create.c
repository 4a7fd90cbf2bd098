/* Making a run: the one moment at which keys, certificates, ledger and version 0 come into being. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "coordinator/directory.h"
#include "crypto/certificate.h"
#include "crypto/key_file.h"
#include "fed/invitation.h"
#include "run/run_model.h"

enum { YEAR_S = 31557600, AUTHORITY_YEARS = 20, CERTIFICATE_YEARS = 10 };

struct making {
    const char *directory;
    uint8_t run_id[RUN_ID_SIZE];
    uint64_t now_s;
    struct key_pair *authority, *coordinator, *admin;
    struct buffer authority_pem;
};

static enum status save(const struct making *making, const char *name, struct bytes content, mode_t mode, struct error *error) {
    char *path = file_join(making->directory, name);
    enum status status = file_write(path, content, mode, error);
    free(path);
    return status;
}

static enum status make_key(const struct making *making, const char *name, struct key_pair **out, struct error *error) {
    char *path = file_join(making->directory, name);
    enum status status = key_pair_create(out, error);
    if (status == OK) status = key_file_save(path, *out, error);
    free(path);
    return status;
}

static enum status make_certificate(const struct making *making, const char *name, const struct key_pair *key,
                                    const struct certificate_terms *terms, struct error *error) {
    struct buffer request = {0}, certificate = {0};
    enum status status = certificate_request_create(key, CERTIFICATE_DER, &request, error);
    if (status == OK) {
        status = certificate_issue(buffer_bytes(&making->authority_pem), making->authority, buffer_bytes(&request), terms,
                                   CERTIFICATE_PEM, &certificate, error);
    }
    if (status == OK) status = save(making, name, buffer_bytes(&certificate), 0644, error);
    buffer_deinit(&request);
    buffer_deinit(&certificate);
    return status;
}

static enum status make_identities(struct making *making, struct error *error) {
    uint64_t from = making->now_s - 3600, end = making->now_s + (uint64_t)CERTIFICATE_YEARS * YEAR_S;
    TRY(make_key(making, "keys/ca.key", &making->authority, error));
    TRY(make_key(making, "keys/coordinator.key", &making->coordinator, error));
    TRY(make_key(making, "keys/admin.key", &making->admin, error));
    TRY(certificate_create_authority(making->authority, "Atoll federation root", from,
                                     making->now_s + (uint64_t)AUTHORITY_YEARS * YEAR_S, CERTIFICATE_PEM, &making->authority_pem,
                                     error));
    TRY(save(making, "keys/ca.pem", buffer_bytes(&making->authority_pem), 0644, error));
    struct certificate_terms server = {.common_name = "atoll-coordinator",
                                       .dns = {"atoll-coordinator"},
                                       .server = true,
                                       .not_before_s = from,
                                       .not_after_s = end};
    TRY(make_certificate(making, "keys/coordinator.pem", making->coordinator, &server, error));
    struct identity identity = {.role = IDENTITY_ADMIN, .name = "root"};
    char uri[IDENTITY_URI_SIZE];
    memcpy(identity.run_id, making->run_id, RUN_ID_SIZE);
    identity_write(&identity, uri);
    struct certificate_terms admin = {
        .common_name = "root", .uri = uri, .client = true, .not_before_s = from, .not_after_s = end};
    return make_certificate(making, "keys/admin.pem", making->admin, &admin, error);
}

/* Asked before anything is made. */
static enum status check_checkpoint(const struct manifest *manifest, const char *checkpoint, struct error *error) {
    static const uint8_t none[DIGEST_SIZE];
    bool wanted = !digest_equal(manifest->initial.checkpoint_digest, none);
    if (wanted == (checkpoint != NULL)) return OK;
    return error_set(error, INVALID,
                     wanted ? "the manifest names a checkpoint by digest: give its file with --checkpoint"
                            : "--checkpoint is given, but the manifest has no initial.checkpoint_digest");
}

static enum status write_genesis(struct making *making, struct directory *data, const struct manifest *manifest,
                                 const char *checkpoint, struct error *error) {
    struct layout layout = {0};
    struct model_state model = {0};
    struct buffer canonical = {0}, raw = {0};
    struct ledger_entry entry = {.kind = LEDGER_GENESIS, .epoch = 1, .time_ms = clock_wall_ms()};
    uint8_t key[STORE_KEY_U64_SIZE];
    enum status status = run_model_layout(manifest, &layout, error);
    if (status != OK) return status;
    run_model_layout_digest(&layout, entry.genesis.layout_digest);
    status = model_state_init(&model, manifest, layout.count, error);
    if (status == OK) status = run_model_initialise(manifest, &layout, checkpoint, model.theta, error);
    if (status != OK) goto out;
    manifest_write(manifest, &canonical);
    memcpy(entry.genesis.run_id, making->run_id, RUN_ID_SIZE);
    memcpy(entry.genesis.coordinator_key, key_pair_public(making->coordinator), PUBLIC_KEY_SIZE);
    entry.genesis.parameters = layout.count;
    state_root(model.theta, model.parameters, entry.genesis.initial_root);
    entry.genesis.manifest = buffer_bytes(&canonical);
    ledger_entry_encode(&entry, &raw);
    struct snapshot_header header = {.epoch = 1, .ledger_size = 1, .payloads_from = 1};
    memcpy(header.run_id, making->run_id, RUN_ID_SIZE);
    status = directory_snapshot_write(data, &model, &header, making->coordinator, 1, error);
    if (status != OK) goto out;
    store_key_u64(0, key);
    struct store_batch *batch = store_batch_create(data->store);
    store_batch_put(batch, TABLE_LEDGER, bytes_of(key, sizeof key), buffer_bytes(&raw));
    status = store_commit_wait(data->store, batch, error); /* the run exists from here on */
    if (status == OK) status = save(making, "manifest.yaml", buffer_bytes(&canonical), 0644, error);
out:
    model_state_deinit(&model);
    layout_deinit(&layout);
    buffer_deinit(&canonical);
    buffer_deinit(&raw);
    return status;
}

enum status directory_create(const char *directory, const struct manifest *manifest, const char *checkpoint,
                             struct error *error) {
    struct making making = {.directory = directory, .now_s = clock_wall_ms() / 1000};
    struct directory data = {0};
    char *keys = file_join(directory, "keys"), *store = file_join(directory, "store");
    enum status status = OK;
    random_system(making.run_id, sizeof making.run_id);
    if (file_exists(keys) || file_exists(store)) {
        status = error_set(error, INVALID, "%s holds a run already: choose another directory", directory);
    }
    if (status == OK) status = check_checkpoint(manifest, checkpoint, error);
    if (status == OK) status = file_make_directory(keys, 0700, error);
    if (status == OK) status = file_make_directory(store, 0700, error);
    if (status == OK) status = make_identities(&making, error);
    if (status == OK) status = directory_open(directory, false, NULL, NULL, &data, error);
    if (status == OK) {
        status = write_genesis(&making, &data, manifest, checkpoint, error);
        directory_close(&data);
    }
    key_pair_destroy(making.authority);
    key_pair_destroy(making.coordinator);
    key_pair_destroy(making.admin);
    buffer_deinit(&making.authority_pem);
    free(keys);
    free(store);
    return status;
}
