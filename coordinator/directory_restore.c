/* From a run's directory to what a start needs (coordinator/directory.h): the newest snapshot that
 * reads back whole, or version 0, and the replay of what came after it. No file and no clock: the
 * simulator's coordinator starts with it too. */
#include "base/log.h"
#include "coordinator/directory.h"

static enum status read_snapshot(struct directory *data, const struct snapshot_header *header,
                                 struct model_state *model, struct error *error) {
    struct buffer content = {0};
    enum status status = blob_read_unchecked(data->blobs, header->content_digest,
                                             header->content_size, &content, error);
    if (status == OK) /* compares the digest */
        status = snapshot_read(model, header, buffer_bytes(&content), error);
    buffer_deinit(&content);
    return status;
}

/* A snapshot may not speak of entries that are not there: the ledger is what counts. */
static enum status check_within(struct directory *data, const struct snapshot_header *header,
                                struct error *error) {
    uint64_t count = 0;
    TRY(store_count(data->store, TABLE_LEDGER, &count, error));
    if (header->ledger_size <= count) return OK;
    return error_set(error, CORRUPT, "it speaks of %llu ledger entries, there are %llu",
                     (unsigned long long)header->ledger_size, (unsigned long long)count);
}

/* The newest snapshot, at or below version `limit`, that reads back whole; a damaged one is passed
 * over for the one before it, with a warning. NOT_FOUND: there is none; the ledger does without. */
static enum status newest_good_snapshot(struct directory *data, uint64_t limit,
                                        const uint8_t key[static PUBLIC_KEY_SIZE],
                                        struct model_state *model, struct error *error) {
    for (;;) {
        struct snapshot_header header;
        uint8_t raw[SNAPSHOT_HEADER_SIZE];
        struct error why = {0};
        enum status status = directory_snapshot_header(data, limit, key, raw, &header, &why);
        if (status == CORRUPT || status == INVALID) {
            log_warn("snapshot_damaged", "reason=\"%s\"", why.message);
            return error_set(error, NOT_FOUND, "%s", why.message);
        }
        if (status != OK)
            return error_set(error, status, "%s",
                             status == NOT_FOUND ? "there is no snapshot" : why.message);
        status = check_within(data, &header, &why);
        if (status == OK) status = read_snapshot(data, &header, model, &why);
        if (status == OK) return OK;
        log_warn("snapshot_damaged", "version=%llu reason=\"%s\"",
                 (unsigned long long)header.version, why.message);
        if (status == CORRUPT ||
            status == NOT_FOUND) { /* useless; a reader cannot delete it, and need not */
            struct error unread = {0};
            (void)!directory_snapshot_delete(data, &header, &unread);
        }
        if (header.version == 0) return error_set(error, NOT_FOUND, "%s", why.message);
        limit = header.version - 1;
    }
}

static enum status read_genesis(struct directory *data, struct buffer *raw,
                                struct ledger_entry *genesis, struct manifest *manifest,
                                struct error *error) {
    struct ledger_source source = directory_source(data);
    TRY(source.entry(source.context, 0, raw, error));
    TRY(ledger_entry_decode(buffer_bytes(raw), genesis, error));
    if (genesis->kind != LEDGER_GENESIS)
        return error_set(error, CORRUPT, "entry 0 of the ledger is not a genesis entry");
    return manifest_parse(genesis->genesis.manifest, manifest, error);
}

/* Version 0; replay compares its root with entry 0. */
static enum status begin_anew(const struct manifest *manifest, uint64_t parameters,
                              const struct directory_initial *initial, struct model_state *model,
                              struct error *error) {
    model_state_deinit(model); /* a snapshot that could not be read may have left something in it */
    TRY(model_state_init(model, manifest, parameters, error));
    TRY(initial->initialise(initial->context, manifest, parameters, model->theta, error));
    log_warn("replaying_from_version_0",
             "reason=\"no snapshot can be read: the ledger does without, it takes longer\"%s", "");
    return OK;
}

/* model NULL: the control half alone. */
static enum status replay(struct directory *data, uint64_t until, struct model_state *model,
                          struct run_state **out, struct replay_report *report,
                          struct error *error) {
    struct ledger_source source = directory_source(data);
    struct replay_options options = {
        .trusted = true, .until = until, .tensors_from = model ? model->version : 0};
    struct run_state *run = run_state_create();
    enum status status = replay_run(&source, &options, run, model, report, error);
    if (status == OK && until == UINT64_MAX)
        status = directory_check_end(data, run_state_size(run), error);
    if (status == OK)
        *out = run;
    else
        run_state_destroy(run);
    return status;
}

enum status directory_catch_up(struct directory *data, struct model_state *model,
                               struct replay_report *report, struct error *error) {
    struct run_state *run = NULL;
    enum status status = replay(data, UINT64_MAX, model, &run, report, error);
    run_state_destroy(run);
    return status;
}

/* Up to entry `until`, which is after the step that makes `version`, or the end. */
static enum status restore(struct directory *data, const struct directory_initial *initial,
                           uint64_t version, uint64_t until, struct run_state **run,
                           struct model_state *model, struct replay_report *report,
                           struct error *error) {
    struct buffer raw = {0};
    struct ledger_entry genesis;
    struct manifest manifest;
    *model = (struct model_state){0};
    *report = (struct replay_report){0};
    enum status status = read_genesis(data, &raw, &genesis, &manifest, error);
    if (status == NOT_FOUND) {
        status = CORRUPT;
        if (error) error->status = status;
        error_wrap(error, status,
                   "the run's ledger is gone; put a copy of the run's directory in its place");
    }
    if (status != OK) goto out;
    status = model_state_init(model, &manifest, genesis.genesis.parameters, error);
    if (status != OK) goto out;
    status = newest_good_snapshot(data, version, genesis.genesis.coordinator_key, model, error);
    if (status == NOT_FOUND)
        status = begin_anew(&manifest, genesis.genesis.parameters, initial, model, error);
    if (status != OK) goto out;
    status = replay(data, until, model, run, report, error);
    if (status != OK && report->lost_payload) status = replay(data, until, NULL, run, NULL, error);
out:
    buffer_deinit(&raw);
    if (status != OK) model_state_deinit(model);
    return status;
}

enum status directory_restore(struct directory *data, const struct directory_initial *initial,
                              struct run_state **run, struct model_state *model,
                              struct replay_report *report, struct error *error) {
    return restore(data, initial, UINT64_MAX, UINT64_MAX, run, model, report, error);
}

/* The index after the step that makes the version; after entry 0 for version 0. */
static enum status end_of_version(struct directory *data, uint64_t version, uint64_t *out,
                                  struct error *error) {
    struct ledger_source source = directory_source(data);
    struct buffer raw = {0};
    uint64_t newest = 0;
    enum status status = OK;
    for (uint64_t index = 0; status == OK; index++) {
        struct ledger_entry entry;
        *out = index + 1;
        raw.size = 0;
        status = source.entry(source.context, index, &raw, error);
        if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), &entry, error);
        if (status == OK && entry.kind == LEDGER_STEP) newest = entry.step.version;
        if (status == OK && newest == version) break;
    }
    buffer_deinit(&raw);
    if (status != NOT_FOUND) return status;
    return error_set(error, NOT_FOUND, "there is no version %llu: the newest is %llu",
                     (unsigned long long)version, (unsigned long long)newest);
}

enum status directory_restore_version(struct directory *data,
                                      const struct directory_initial *initial, uint64_t version,
                                      struct run_state **run, struct model_state *model,
                                      struct replay_report *report, struct error *error) {
    uint64_t until;
    TRY(end_of_version(data, version, &until, error));
    return restore(data, initial, version, until, run, model, report, error);
}
