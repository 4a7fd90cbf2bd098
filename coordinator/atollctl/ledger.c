/* atollctl ledger ...: proving what was trained, without the coordinator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/atollctl/atollctl.h"
#include "coordinator/directory.h"
#include "crypto/digest.h"
#include "run/run_model.h"

struct audit {
    struct directory data;
    struct run_state *run;
    struct model_state model;
    struct replay_report report;
};

/* Version 0 is derived, not read: from the seed in entry 0, or from the checkpoint the auditor has.
 * replay_run compares its root with the genesis entry's. */
static enum status initial_state(const struct ctl_settings *settings, struct audit *audit,
                                 struct error *error) {
    struct ledger_source source = directory_source(&audit->data);
    struct buffer raw = {0};
    struct ledger_entry genesis;
    struct manifest manifest;
    struct layout layout = {0};
    uint8_t digest[DIGEST_SIZE];
    enum status status = source.entry(source.context, 0, &raw, error);
    audit->report.failed_entry = 0;
    if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), &genesis, error);
    if (status == OK && genesis.kind != LEDGER_GENESIS)
        status = error_set(error, CORRUPT, "it is not a genesis entry");
    if (status == OK) status = manifest_parse(genesis.genesis.manifest, &manifest, error);
    if (status == OK)
        status = directory_layout(settings->directory, &manifest, &layout, NULL, error);
    if (status == OK) run_model_layout_digest(&layout, digest);
    if (status == OK && !digest_equal(digest, genesis.genesis.layout_digest)) {
        status = error_set(error, CORRUPT,
                           "the layout that the manifest gives is not the one that was recorded");
    }
    if (status == OK) status = model_state_init(&audit->model, &manifest, layout.count, error);
    if (status == OK) status = thread_pool_create("verify", 0, &audit->model.pool, error);
    if (status == OK && run_model_has_root(&manifest) && !settings->source) {
        audit->report.failed_entry = UINT64_MAX; /* nothing is wrong with it */
        status = error_set(error, FAILED,
                           "the run began from a checkpoint, and is replayed from there: give it "
                           "with --from");
    }
    if (status == OK)
        status =
            run_model_initialise(&manifest, &layout, settings->source, audit->model.theta, error);
    layout_deinit(&layout);
    buffer_deinit(&raw);
    return status;
}

static enum status check_snapshots(struct audit *audit, struct error *error) {
    struct store_scan *scan = store_scan_open(audit->data.store, TABLE_SNAPSHOTS, bytes_of(NULL, 0),
                                              bytes_of(NULL, 0), STORE_ASCENDING);
    struct bytes key, value;
    enum status status;
    while ((status = store_scan_next(scan, &key, &value, error)) == OK) {
        struct snapshot_header header;
        uint8_t root[DIGEST_SIZE];
        status =
            snapshot_header_verify(value, run_state_coordinator_key(audit->run), &header, error);
        if (status == OK) status = blob_check(audit->data.blobs, header.content_digest, error);
        if (status == OK && header.version > run_state_version(audit->run)) {
            status = error_set(error, CORRUPT, "the ledger ends before it, at version %llu",
                               (unsigned long long)run_state_version(audit->run));
        }
        if (status == OK && run_state_root_at(audit->run, header.version, root) &&
            !digest_equal(root, header.root)) {
            status = error_set(error, CORRUPT, "its state root is not the ledger's");
        }
        if (status != OK) {
            error_wrap(error, CORRUPT, "snapshot of version %llu",
                       (unsigned long long)header.version);
            status = CORRUPT;
            break;
        }
    }
    store_scan_close(scan);
    return status == NOT_FOUND ? OK : status;
}

static enum status verify(const struct ctl_settings *settings, struct audit *audit,
                          struct error *error) {
    TRY(directory_open(settings->directory, true, NULL, NULL, &audit->data, error));
    TRY(initial_state(settings, audit, error));
    audit->run = run_state_create();
    audit->report.failed_entry = UINT64_MAX;
    struct ledger_source source = directory_source(&audit->data);
    struct replay_options options = {.until = UINT64_MAX, .every_payload = true};
    TRY(replay_run(&source, &options, audit->run, &audit->model, &audit->report, error));
    enum status status = directory_check_end(&audit->data, run_state_size(audit->run), error);
    if (status == CORRUPT) audit->report.failed_entry = run_state_size(audit->run);
    TRY(status);
    return check_snapshots(audit, error);
}

static void print_report(const struct ctl_settings *settings, struct audit *audit,
                         enum status status, const struct error *error, uint64_t took_ms) {
    char root_text[HEX32_SIZE] = "", head_text[HEX32_SIZE] = "";
    uint8_t root[DIGEST_SIZE];
    const struct replay_report *report = &audit->report;
    if (status == OK) {
        model_state_root(&audit->model, root);
        hex_encode(root, DIGEST_SIZE, root_text);
        merkle_root(run_state_tree(audit->run), run_state_size(audit->run), root);
        hex_encode(root, DIGEST_SIZE, head_text);
    }
    if (settings->format == FORMAT_TEXT) {
        if (status != OK) return;
        char took[HUMAN_SIZE];
        printf("verified   %llu entries, %llu contributions, %llu steps, %llu state roots in %s\n",
               (unsigned long long)report->entries, (unsigned long long)report->contributions,
               (unsigned long long)report->steps, (unsigned long long)report->roots_checked,
               human_duration(took_ms, took));
        printf("version    %llu\nstate root %s\nledger     %s\n",
               (unsigned long long)audit->model.version, root_text, head_text);
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
    const struct ctl_settings *settings = values;
    struct audit audit = {.report = {.failed_entry = UINT64_MAX}};
    struct error error = {0};
    (void)options;
    uint64_t start = clock_monotonic_ms();
    enum status status = verify(settings, &audit, &error);
    print_report(settings, &audit, status, &error, clock_monotonic_ms() - start);
    uint64_t failed = audit.report.failed_entry;
    run_state_destroy(audit.run);
    thread_pool_destroy(audit.model.pool);
    model_state_deinit(&audit.model);
    if (audit.data.store) directory_close(&audit.data);
    if (status == OK) return EXIT_DONE;
    if (failed != UINT64_MAX) error_wrap(&error, status, "entry %llu", (unsigned long long)failed);
    report_failure(&error);
    return failed != UINT64_MAX || status == CORRUPT || status == INVALID ? EXIT_DAMAGED
                                                                          : EXIT_FAILED;
}

/* ---- list ------------------------------------------------------------------------------------ */

/* long: a branch per kind, each two members. */
static void entry_json(uint64_t index, const struct ledger_entry *entry,
                       const struct contribution *contribution, struct json_writer *writer) {
    char hex[HEX32_SIZE];
    json_begin_object(writer);
    json_key(writer, "index");
    json_u64(writer, index);
    json_key(writer, "kind");
    json_text(writer, ledger_kind_name(entry->kind));
    json_key(writer, "epoch");
    json_u64(writer, entry->epoch);
    json_key(writer, "time_ms");
    json_u64(writer, entry->time_ms);
    if (contribution) {
        json_key(writer, "site");
        json_u64(writer, contribution->site);
        json_key(writer, "sequence");
        json_u64(writer, contribution->sequence);
        json_key(writer, "fragment");
        json_u64(writer, contribution->fragment);
        json_key(writer, "base_version");
        json_u64(writer, contribution->base_version);
        json_key(writer, "began_version");
        json_u64(writer, contribution->began_version);
        json_key(writer, "inner_steps");
        json_u64(writer, contribution->inner_steps);
        json_key(writer, "tokens");
        json_u64(writer, contribution->tokens);
        json_key(writer, "loss");
        json_f64(writer, (double)contribution->loss);
        json_key(writer, "norm");
        json_f64(writer, contribution->norm);
        json_key(writer, "payload_size");
        json_u64(writer, contribution->payload_size);
        json_key(writer, "payload");
        json_text(writer, hex_encode(contribution->payload_digest, DIGEST_SIZE, hex));
    } else if (entry->kind == LEDGER_STEP) {
        json_key(writer, "version");
        json_u64(writer, entry->step.version);
        json_key(writer, "fragment");
        json_u64(writer, entry->step.fragment);
        json_key(writer, "state_root");
        json_text(writer,
                  entry->step.has_root ? hex_encode(entry->step.root, DIGEST_SIZE, hex) : NULL);
        json_key(writer, "parts");
        json_begin_array(writer);
        for (uint16_t i = 0; i < entry->step.count; i++) {
            json_begin_object(writer);
            json_key(writer, "index");
            json_u64(writer, entry->step.parts[i].index);
            json_key(writer, "scale");
            json_f64(writer, (double)entry->step.parts[i].scale);
            json_end_object(writer);
        }
        json_end_array(writer);
    } else if (entry->kind == LEDGER_SITE_INVITED) {
        json_key(writer, "name");
        json_text(writer, entry->invited.name);
        json_put_text(writer, "role", entry->invited.role == SITE_OBSERVES ? "observer" : "site");
    } else if (entry->kind == LEDGER_SITE_UNINVITED) {
        json_key(writer, "name");
        json_text(writer, entry->uninvited.name);
    } else if (entry->kind == LEDGER_SITE_ADDED) {
        json_key(writer, "site");
        json_u64(writer, entry->added.site);
        json_key(writer, "name");
        json_text(writer, entry->added.name);
    } else if (entry->kind == LEDGER_SITE_REVOKED) {
        json_key(writer, "site");
        json_u64(writer, entry->revoked.site);
        json_key(writer, "reason");
        json_text(writer, entry->revoked.reason);
    } else if (entry->kind >= LEDGER_SITE_AWAY && entry->kind <= LEDGER_SITE_LEFT) {
        json_key(writer, "site");
        json_u64(writer, entry->presence.site);
    } else if (entry->kind == LEDGER_RULE) {
        json_key(writer, "key");
        json_text(writer, entry->rule.key);
        json_key(writer, "value");
        json_text(writer, entry->rule.value);
        json_key(writer, "reason");
        json_text(writer, entry->rule.reason);
    } else if (entry->kind == LEDGER_DROPPED) {
        json_key(writer, "contribution");
        json_u64(writer, entry->dropped.index);
        json_key(writer, "reason");
        json_text(writer, entry->dropped.reason);
    }
    json_end_object(writer);
}

static void entry_text(uint64_t index, const struct ledger_entry *entry,
                       const struct contribution *contribution) {
    printf("%8llu  %-14s", (unsigned long long)index, ledger_kind_name(entry->kind));
    if (contribution) {
        printf(" site %u sequence %llu fragment %u base %llu loss %.4f, %llu bytes",
               contribution->site, (unsigned long long)contribution->sequence,
               contribution->fragment, (unsigned long long)contribution->base_version,
               (double)contribution->loss, (unsigned long long)contribution->payload_size);
    } else if (entry->kind == LEDGER_STEP) {
        printf(" version %llu fragment %u merges", (unsigned long long)entry->step.version,
               entry->step.fragment);
        for (uint16_t i = 0; i < entry->step.count; i++)
            printf(" %llu", (unsigned long long)entry->step.parts[i].index);
    } else if (entry->kind == LEDGER_SITE_INVITED) {
        printf(" %s%s", entry->invited.name,
               entry->invited.role == SITE_OBSERVES ? ", an observer" : "");
    } else if (entry->kind == LEDGER_SITE_UNINVITED) {
        printf(" %s", entry->uninvited.name);
    } else if (entry->kind == LEDGER_SITE_ADDED) {
        printf(" %u %s", entry->added.site, entry->added.name);
    } else if (entry->kind == LEDGER_SITE_REVOKED) {
        printf(" %u %s", entry->revoked.site, entry->revoked.reason);
    } else if (entry->kind >= LEDGER_SITE_AWAY && entry->kind <= LEDGER_SITE_LEFT) {
        printf(" %u", entry->presence.site);
    } else if (entry->kind == LEDGER_RULE) {
        printf(" %s: %s (%s)", entry->rule.key, entry->rule.value, entry->rule.reason);
    } else if (entry->kind == LEDGER_DROPPED) {
        printf(" entry %llu: %s", (unsigned long long)entry->dropped.index, entry->dropped.reason);
    }
    putchar('\n');
}

static enum status list_entry(const struct ledger_source *source, uint64_t index,
                              struct json_writer *writer, struct error *error) {
    struct buffer raw = {0};
    struct ledger_entry entry;
    struct contribution contribution;
    bool is_contribution = false;
    enum status status = source->entry(source->context, index, &raw, error);
    if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), &entry, error);
    if (status == OK && entry.kind == LEDGER_CONTRIBUTION) {
        is_contribution = true;
        status = contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                                     &contribution, error);
    }
    if (status == OK && writer)
        entry_json(index, &entry, is_contribution ? &contribution : NULL, writer);
    else if (status == OK)
        entry_text(index, &entry, is_contribution ? &contribution : NULL);
    buffer_deinit(&raw);
    return status;
}

static int ledger_list(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct directory data = {0};
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    struct error error = {0};
    bool json = settings->format == FORMAT_JSON;
    (void)options;
    enum status status = directory_open(settings->directory, true, NULL, NULL, &data, &error);
    if (status != OK) return report_failure(&error);
    struct ledger_source source = directory_source(&data);
    if (json) json_begin_array(&writer);
    for (uint64_t index = settings->from; status == OK; index++)
        status = list_entry(&source, index, json ? &writer : NULL, &error);
    if (json && status == NOT_FOUND) {
        json_end_array(&writer);
        print_buffer(&out);
    }
    buffer_deinit(&out);
    directory_close(&data);
    return status == NOT_FOUND ? EXIT_DONE : report_failure(&error);
}

static const struct setting verify_options[] = {
    {.name = "dir",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, directory),
     .value_name = "DIR",
     .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
     .help = "a run's data directory, or a copy of one"},
    {.name = "from",
     .kind = SETTING_PATH,
     SETTING_FIELD(struct ctl_settings, source),
     .value_name = "PATH",
     .flags = OPTION_FLAG_ONLY,
     .help = "the initial parameters, for a run that did not start from a seed"},
    {0}};
static const struct command verify_command = {
    .name = "verify",
    .summary = "replay the whole ledger from version 0 and compare everything",
    .options = verify_options,
    .run = ledger_verify,
    .description = "Derives version 0, then replays every entry: each signature, rule, payload "
                   "digest and state root is checked, and the "
                   "final parameters are computed anew. Needs no coordinator and no keys. The "
                   "first disagreement is reported by its entry. "
                   "Exit codes: 0 all of it holds, 4 it does not, 1 it could not be read.",
    .examples = "cp -a /srv/atoll/demo /tmp/copy && atollctl ledger verify --dir /tmp/copy"};
static const struct setting list_options[] = {{.name = "dir",
                                               .kind = SETTING_PATH,
                                               SETTING_FIELD(struct ctl_settings, directory),
                                               .value_name = "DIR",
                                               .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
                                               .help = "a run's data directory, in use or copied"},
                                              {.name = "from",
                                               .kind = SETTING_COUNT,
                                               SETTING_FIELD(struct ctl_settings, from),
                                               .flags = OPTION_FLAG_ONLY,
                                               .help = "first entry"},
                                              {0}};
static const struct command list_command = {.name = "list",
                                            .summary = "print the entries, as they are recorded",
                                            .options = list_options,
                                            .run = ledger_list};
static const struct command *const verbs[] = {&verify_command, &list_command, NULL};
const struct command ledger_command = {
    .name = "ledger", .summary = "prove what was trained", .children = verbs};
