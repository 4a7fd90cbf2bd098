/* What the daemon trains and with what: the layout, the device, the trainer or the border where one
 * attaches; and the run's first entry, which must say the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "model/kernels_kept.h"
#include "model/trainer.h"
#include "node/daemon.h"
#include "node/daemon_internal.h"
#include "run/run_model.h"
#include "run/run_start.h"

/* One line says what was found, or why not. */
static enum status open_device(struct daemon *daemon, struct error *error) {
    const struct settings *settings = daemon->settings;
    char line[ERROR_MESSAGE_SIZE];
    struct error why = {0};
    TRY(cuda_backend_find(settings->device, settings->cuda_library, &daemon->cuda, line, error));
    log_info("device", "training=\"%s\" on=\"%s\" encoding=\"%s\"", daemon->device,
             daemon->trainer ? trainer_device_line(daemon->trainer) : "its own devices", line);
    if (!daemon->cuda.operations) return OK;
    enum status status = replica_use_device(&daemon->replica, daemon->cuda.operations, &why);
    if (status != OK && settings->device == DEVICE_CUDA)
        return error_set(error, status, "%s", why.message);
    if (status != OK) log_warn("device_unused", "message=\"%s\"", why.message);
    return OK;
}

/* The site's directory names the table that its training began with: see model/kernels_kept.h. */
static void read_kernels(const struct daemon *daemon, char out[static KERNELS_NAME_SIZE]) {
    struct buffer text = {0};
    char *path = site_path(daemon->site, "kernels");
    out[0] = 0;
    if (file_read(path, KERNELS_NAME_SIZE - 1, &text, NULL) == OK) {
        memcpy(out, text.data, text.size);
        out[text.size] = 0;
        out[strcspn(out, "\n")] = 0;
    }
    buffer_deinit(&text);
    free(path);
}

static void keep_kernels(const struct daemon *daemon, const char *before) {
    const char *name = trainer_kernels(daemon->trainer);
    const struct kernels *table;
    struct error error = {0};
    if (kernels_find(name, &table, NULL) != OK) return; /* a device's */
    log_info("kernels", "name=%s why=\"%s\"", name,
             strcmp(name, before) == 0 ? "this training began with them" : kernels_why(table));
    if (strcmp(name, before) == 0) return;
    char *path = site_path(daemon->site, "kernels"), *text = xformat("%s\n", name);
    if (file_write(path, bytes_of(text, strlen(text)), 0644, &error) != OK)
        log_warn("kernels_not_kept", "message=\"%s\"", error.message);
    free(text);
    free(path);
}

static enum status open_trainer(struct daemon *daemon, struct error *error) {
    const struct settings *settings = daemon->settings;
    const struct manifest *manifest = &daemon->site->manifest;
    struct run_model_local local = {.sequences = (uint32_t)settings->sequences,
                                    .accumulation = (uint32_t)settings->accumulation,
                                    .threads = (uint32_t)settings->threads,
                                    .device = settings->device,
                                    .cuda_library = settings->cuda_library};
    uint64_t seed = random_hash(manifest->initial.seed, daemon->site->number);
    if (settings->data.count == 0)
        return error_set(error, INVALID, "no %s: give --data FILE, or `data:` in node.yaml",
                         daemon->site->observes ? "data to evaluate on" : "training data");
    struct run_model_files files = settings_files(settings);
    char *seen = site_path(daemon->site, "data.seen");
    files.seed = seed;
    files.seen = seen;
    files.read_shards = true;
    files.heldout_only = daemon->site->observes;
    enum status status = run_model_data(manifest, &files, &daemon->data, error);
    free(seen);
    TRY(status);
    char began_with[KERNELS_NAME_SIZE];
    read_kernels(daemon, began_with);
    local.kernels = kernels_to_use(NULL, began_with, daemon->site->directory);
    TRY(run_model_trainer(manifest, &local, &daemon->trainer, error));
    keep_kernels(daemon, began_with);
    if (strcmp(trainer_kernels(daemon->trainer), "cuda") == 0)
        snprintf(daemon->device, sizeof daemon->device, "cuda");
    else
        snprintf(daemon->device, sizeof daemon->device, "cpu %s x%u",
                 trainer_kernels(daemon->trainer),
                 settings->threads ? (unsigned)settings->threads : thread_processor_count());
    return OK;
}

enum status daemon_open_model(struct daemon *daemon, struct error *error) {
    const struct manifest *manifest = &daemon->site->manifest;
    TRY(run_model_layout(manifest, buffer_bytes(&daemon->site->layout), &daemon->layout, error));
    run_model_layout_digest(&daemon->layout, daemon->layout_digest);
    if (daemon->settings->base) TRY(run_base_check(manifest, daemon->settings->base, error));
    if (!daemon->settings->attach)
        TRY(run_model_check_built_in(&daemon->layout,
                                     "start the node with --attach, and a job of yours trains "
                                     "(docs/trainers.md)",
                                     error));
    TRY(settings_check_attach(daemon->settings, daemon->site->observes, error));
    if (!daemon->settings->attach) TRY(open_trainer(daemon, error));
    TRY(replica_init(&daemon->replica, manifest, daemon->layout.count, error));
    TRY(thread_pool_create("model", (uint32_t)daemon->settings->threads, &daemon->pool, error));
    daemon->replica.global.pool = daemon->pool;
    if (daemon->settings->attach) TRY(daemon_border_open(daemon, error));
    return open_device(daemon, error);
}
/* ---- the first entry ------------------------------------------------------------------------- */

enum status daemon_compare_genesis(struct daemon *daemon, const struct ledger_entry *entry,
                                   struct error *error) {
    const struct site *site = daemon->site;
    struct manifest manifest;
    uint8_t digest[DIGEST_SIZE];
    if (entry->kind != LEDGER_GENESIS)
        return error_set(error, INVALID, "the ledger does not begin with its genesis entry");
    if (memcmp(entry->genesis.run_id, site->run_id, RUN_ID_SIZE) != 0)
        return error_set(error, INVALID, "the ledger is of another run than we joined");
    if (memcmp(entry->genesis.coordinator_key, site->coordinator_key, PUBLIC_KEY_SIZE) != 0)
        return error_set(error, INVALID,
                         "the ledger names another coordinator's key than the join did");
    TRY(manifest_parse(entry->genesis.manifest, &manifest, error));
    manifest_digest(&manifest, digest);
    if (memcmp(digest, site->manifest_digest, DIGEST_SIZE) != 0)
        return error_set(error, INVALID, "the ledger has another manifest than the join gave");
    if (entry->genesis.parameters != daemon->layout.count)
        return error_set(error, INVALID,
                         "the run's model has %llu parameters, the manifest's has %llu here: "
                         "another build's layout",
                         (unsigned long long)entry->genesis.parameters,
                         (unsigned long long)daemon->layout.count);
    if (memcmp(entry->genesis.layout_digest, daemon->layout_digest, DIGEST_SIZE) != 0)
        return error_set(error, INVALID,
                         "the run's parameter layout differs from the one this build makes of the "
                         "manifest, from tensor %s on",
                         daemon->layout.tensors[0].name);
    if (daemon->from_initial &&
        memcmp(entry->genesis.initial_root, daemon->initial_root, DIGEST_SIZE) != 0)
        return error_set(error, INVALID,
                         "the run starts from other parameters than the manifest gives here");
    return OK;
}

enum status daemon_check_genesis(void *context, const struct ledger_entry *entry,
                                 struct error *error) {
    struct daemon *daemon = context;
    enum status status = daemon_compare_genesis(daemon, entry, error);
    if (status != OK)
        daemon_loop_post(
            daemon,
            &(struct node_event){.kind = NODE_FAULT, .status = status, .message = error->message});
    return status;
}
