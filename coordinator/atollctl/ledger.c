/* atollctl ledger ...: proving what was trained, without the coordinator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/atollctl/atollctl.h"
#include "coordinator/directory.h"
#include "crypto/digest.h"
#include "model/safetensors.h"

struct audit {
    struct directory data;
    struct run_state *run;
    struct model_state model;
    struct replay_report report;
};

/* Version 0 is derived, not read: from the seed in entry 0, or from the checkpoint the auditor has. replay_run compares its root
 * with the genesis entry's. */
static enum status initial_state(const struct settings *settings, struct audit *audit, struct error *error) {
    struct ledger_source source = directory_source(&audit->data);
    struct buffer raw = {0};
    struct ledger_entry genesis;
    struct manifest manifest;
    struct layout layout = {0};
    uint8_t digest[DIGEST_SIZE];
    enum status status = source.entry(source.context, 0, &raw, error);
    audit->report.failed_entry = 0;
    if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), &genesis, error);
    if (status == OK && genesis.kind != LEDGER_GENESIS) status = error_set(error, CORRUPT, "it is not a genesis entry");
    if (status == OK) status = manifest_parse(genesis.genesis.manifest, &manifest, error);
    if (status == OK) status = directory_layout(&manifest, &layout, digest, error);
    if (status == OK && !digest_equal(digest, genesis.genesis.layout_digest)) {
        status = error_set(error, CORRUPT, "the layout that the manifest gives is not the one that was recorded");
    }
    if (status == OK) status = model_state_init(&audit->model, &manifest, layout.count, error);
    if (status == OK && settings->checkpoint)
        status = safetensors_read(settings->checkpoint, &layout, audit->model.theta, error);
    else if (status == OK)
        layout_initialise(&layout, manifest.initial.seed, audit->model.theta);
    layout_deinit(&layout);
    buffer_deinit(&raw);
    return status;
}

static enum status check_snapshots(struct audit *audit, struct error *error) {
    struct store_scan *scan =
        store_scan_open(audit->data.store, TABLE_SNAPSHOTS, bytes_of(NULL, 0), bytes_of(NULL, 0), STORE_ASCENDING);
    struct bytes key, value;
    enum status status;
    while ((status = store_scan_next(scan, &key, &value, error)) == OK) {
        struct snapshot_header header;
        uint8_t root[DIGEST_SIZE];
        status = snapshot_header_verify(value, run_state_coordinator_key(audit->run), &header, error);
        if (status == OK) status = blob_check(audit->data.blobs, header.content_digest, error);
        if (status == OK && run_state_root_at(audit->run, header.version, root) && !digest_equal(root, header.root)) {
            status = error_set(error, CORRUPT, "its state root is not the ledger's");
        }
        if (status != OK) {
            error_wrap(error, CORRUPT, "snapshot of version %llu", (unsigned long long)header.version);
            status = CORRUPT;
            break;
        }
    }
    store_scan_close(scan);
    return status == NOT_FOUND ? OK : status;
}

static enum status verify(const struct settings *settings, struct audit *audit, struct error *error) {
    TRY(directory_open(settings->directory, true, NULL, NULL, &audit->data, error));
    TRY(initial_state(settings, audit, error));
    audit->run = run_state_create();
    audit->report.failed_entry = UINT64_MAX;
    struct ledger_source source = directory_source(&audit->data);
    struct replay_options options = {.until = UINT64_MAX, .every_payload = true};
    TRY(replay_run(&source, &options, audit->run, &audit->model, &audit->report, error));
    return check_snapshots(audit, error);
}

static void print_report(const struct settings *settings, const struct audit *audit, enum status status,
                         const struct error *error, uint64_t took_ms) {
    char root_text[HEX32_SIZE] = "", head_text[HEX32_SIZE] = "";
    uint8_t root[DIGEST_SIZE];
    const struct replay_report *report = &audit->report;
    if (status == OK) {
        state_root(audit->model.theta, audit->model.parameters, root);
        hex_encode(root, DIGEST_SIZE, root_text);
        merkle_root(run_state_tree(audit->run), run_state_size(audit->run), root);
        hex_encode(root, DIGEST_SIZE, head_text);
    }
    if (settings->format == FORMAT_TEXT) {
        if (status != OK) return;
        char took[HUMAN_SIZE];
        printf("verified   %llu entries, %llu contributions, %llu steps, %llu state roots in %s\n",
               (unsigned long long)report->entries, (unsigned long long)report->contributions, (unsigned long long)report->steps,
               (unsigned long long)report->roots_checked, human_duration(took_ms, took));
        printf("version    %llu\nstate root %s\nledger     %s\n", (unsigned long long)audit->model.version, root_text, head_text);
        return;
    }
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    json_begin_object(&writer);
    json_key(&writer, "verified");
    json_bool(&writer, status == OK);
    json_key(&writer, "entries");
    json_u64(&writer, report->entries);
    json_key(&writer, "contributions");
    json_u64(&writer, report->contributions);
    json_key(&writer, "steps");
    json_u64(&writer, report->steps);
    json_key(&writer, "roots_checked");
    json_u64(&writer, report->roots_checked);
    json_key(&writer, "version");
    json_u64(&writer, audit->model.version);
    json_key(&writer, "state_root");
    json_text(&writer, root_text);
    json_key(&writer, "ledger_root");
    json_text(&writer, head_text);
    json_key(&writer, "failed_entry");
    if (status == OK || report->failed_entry == UINT64_MAX)
        json_null(&writer);
    else
        json_u64(&writer, report->failed_entry);
    json_key(&writer, "error");
    json_text(&writer, status == OK ? NULL : error->message);
    json_end_object(&writer);
    print_buffer(&out);
    buffer_deinit(&out);
}

static int ledger_verify(struct options *options, void *values) {
    const struct settings *settings = values;
    struct audit audit = {.report = {.failed_entry = UINT64_MAX}};
    struct error error = {0};
    (void)options;
    uint64_t start = clock_monotonic_ms();
    enum status status = verify(settings, &audit, &error);
    print_report(settings, &audit, status, &error, clock_monotonic_ms() - start);
    uint64_t failed = audit.report.failed_entry;
    run_state_destroy(audit.run);
    model_state_deinit(&audit.model);
    if (audit.data.store) directory_close(&audit.data);
    if (status == OK) return EXIT_DONE;
    if (failed != UINT64_MAX) error_wrap(&error, status, "entry %llu", (unsigned long long)failed);
    report_failure(&error);
    return failed != UINT64_MAX || status == CORRUPT || status == INVALID ? EXIT_DAMAGED : EXIT_FAILED;
}

static const struct option verify_options[] = {{.name = "dir",
                                                .type = OPTION_PATH,
                                                OPTION_FIELD(struct settings, directory),
                                                .value_name = "DIR",
                                                .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
                                                .help = "a run's data directory, or a copy of one"},
                                               {.name = "checkpoint",
                                                .type = OPTION_PATH,
                                                OPTION_FIELD(struct settings, checkpoint),
                                                .value_name = "FILE",
                                                .flags = OPTION_FLAG_ONLY,
                                                .help = "the initial parameters, for a run that did not start from a seed"},
                                               {0}};
static const struct command verify_command = {
    .name = "verify",
    .summary = "replay the whole ledger from version 0 and compare everything",
    .options = verify_options,
    .run = ledger_verify,
    .description =
        "Derives version 0, then replays every entry: each signature, rule, payload digest and state root is checked, and the "
        "final parameters are computed anew. Needs no coordinator and no keys. The first disagreement is reported by its entry. "
        "Exit codes: 0 all of it holds, 4 it does not, 1 it could not be read.",
    .examples = "cp -a /srv/atoll/demo /tmp/copy && atollctl ledger verify --dir /tmp/copy"};
static const struct command *const verbs[] = {&verify_command, NULL};
const struct command ledger_command = {.name = "ledger", .summary = "prove what was trained", .children = verbs};
