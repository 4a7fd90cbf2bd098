/* What a crash leaves behind, case by case: checkpoints and records are written as the worker
 * writes them, into a journal whose ledger is empty, so that the replica is the checkpoint's and
 * every other array can be told from it. */
#include "node/restore.h"

#include "node/journal_files.h"
#include "node/restore_model.h"
#include "tests/node_fixture.h"

/* RFC 8032's first public key: any that is on the curve will do. */
static const uint8_t test_public_key[PUBLIC_KEY_SIZE] = {
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
    0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a};

struct crashed {
    struct fixture site;
    struct journal *journal;
    float *base, *snapshot, *local, *theta_s, *feedback; /* what the records hold; [count] */
    struct trainer_counters counters;
    bool baseless; /* what the next checkpoint says of its message in flight */
    uint8_t header[CONTRIBUTION_HEADER_SIZE]; /* of the round: 60 steps, 6000 tokens */
};

/* Of the checkpoint: what no message had counted, and what the one in flight had. */
static const struct round_progress counted = {.steps = 7,
                                              .tokens = 700,
                                              .steps_in_flight = 61,
                                              .tokens_in_flight = 6001,
                                              .round_steps = 5,
                                              .begun = true,
                                              .loss_sum = 9,
                                              .loss_count = 4};

static float *vector(struct crashed *crashed, uint64_t seed) {
    float *values = xcalloc(crashed->site.count, sizeof *values);
    fixture_fill(values, crashed->site.count, seed);
    return values;
}

static void begin(struct crashed *crashed, enum outer_mode mode) {
    struct error error = {0};
    fixture_init(&crashed->site, mode, 1);
    CHECK_OK(journal_open(test_directory(), 1, &crashed->journal, &error));
    crashed->base = vector(crashed, 11);
    crashed->snapshot = vector(crashed, 12);
    crashed->theta_s = vector(crashed, 13);
    crashed->feedback = vector(crashed, 14);
    crashed->local = xcalloc(crashed->site.count, sizeof(float));
    crashed->baseless = false;
}

static struct bytes floats(const struct crashed *crashed, const float *values) {
    return bytes_of(values, crashed->site.count * sizeof *values);
}

/* A checkpoint after `steps` inner steps more, of version 0, its base of another. */
static void checkpoint_on(struct crashed *crashed, unsigned steps, uint64_t over,
                          uint64_t in_flight, uint64_t base_version) {
    struct error error = {0};
    struct buffer global = {0}, trainer = {0};
    fixture_train(&crashed->site, steps);
    crashed->counters = trainer_counters(crashed->site.trainer);
    memcpy(crashed->local, trainer_parameters_to_change(crashed->site.trainer),
           crashed->site.count * sizeof(float));
    snapshot_write(&crashed->site.replica.global, &global);
    trainer_save(crashed->site.trainer, &trainer);
    struct journal_checkpoint record = {.version = crashed->site.replica.global.version,
                                        .trainer_steps = crashed->counters.steps,
                                        .fragments = 1};
    state_root(crashed->site.replica.global.theta, crashed->site.count, record.root);
    record.fragment[0].base_version = base_version;
    record.fragment[0].over = over;
    record.fragment[0].in_flight = in_flight;
    record.fragment[0].baseless = crashed->baseless;
    record.fragment[0].progress = counted;
    if (!in_flight)
        record.fragment[0].progress.steps_in_flight = record.fragment[0].progress.tokens_in_flight =
            0;
    record.payloads_from = 77;
    struct journal_checkpoint_contents contents = {.global = buffer_bytes(&global),
                                                   .trainer = buffer_bytes(&trainer),
                                                   .base = floats(crashed, crashed->base)};
    if (in_flight) contents.snapshot = floats(crashed, crashed->snapshot);
    CHECK_OK(journal_checkpoint_write(crashed->journal, &record, &contents, &error));
    buffer_deinit(&global);
    buffer_deinit(&trainer);
}

static void checkpoint(struct crashed *crashed, unsigned steps, uint64_t over, uint64_t in_flight) {
    checkpoint_on(crashed, steps, over, in_flight, 0);
}

/* A round's record after `steps` inner steps more. Its payload is the delta `base - theta_s`,
 * encoded. */
static void record_round(struct crashed *crashed, unsigned steps, uint64_t sequence) {
    struct error error = {0};
    struct buffer payload = {0}, optimizer = {0};
    fixture_train(&crashed->site, steps);
    crashed->counters = trainer_counters(crashed->site.trainer);
    trainer_save_optimizer(crashed->site.trainer, &optimizer);
    struct replica *replica = &crashed->site.replica;
    float *feedback = replica->feedback ? xcalloc(crashed->site.count, sizeof(float)) : NULL;
    CHECK_OK(codec_encode(replica->encoders[0], crashed->base, crashed->theta_s, feedback, &payload,
                          &error));
    free(feedback);
    struct journal_round round = {
        .sequence = sequence, .base_version = 5, .trainer_steps = crashed->counters.steps};
    round.payload_size = payload.size;
    digest_sha256(payload.data, payload.size, round.payload_digest);
    struct contribution contribution = {.codec = (uint16_t)replica->codec,
                                        .protocol = PROTOCOL_VERSION,
                                        .sequence = sequence,
                                        .inner_steps = 60,
                                        .tokens = 6000};
    contribution_encode(&contribution, crashed->header);
    memcpy(round.header, crashed->header, sizeof round.header);
    struct journal_round_contents contents = {.payload = buffer_bytes(&payload),
                                              .snapshot = floats(crashed, crashed->theta_s),
                                              .optimizer = buffer_bytes(&optimizer)};
    if (replica->feedback) contents.feedback = floats(crashed, crashed->feedback);
    CHECK_OK(journal_round_begin(crashed->journal, &round, &contents, &error));
    buffer_deinit(&payload);
    buffer_deinit(&optimizer);
}

/* Everything in memory is gone; a new process restores. */
static struct restored restart(struct crashed *crashed) {
    struct restored restored;
    struct error error = {0};
    enum outer_mode mode = crashed->site.manifest.outer.mode;
    journal_close(crashed->journal);
    fixture_deinit(&crashed->site);
    fixture_init(&crashed->site, mode, 1);
    struct replica *replica = &crashed->site.replica;
    memset(replica->global.theta, 0x55, crashed->site.count * sizeof(float));
    CHECK_OK(journal_open(test_directory(), 1, &crashed->journal, &error));
    struct restore_model model = {.manifest = &crashed->site.manifest,
                                  .layout = &crashed->site.layout,
                                  .trainer = crashed->site.trainer};
    struct restore_input input = {
        .journal = crashed->journal, .replica = replica, .port = restore_model_port(&model)};
    CHECK_OK(restore_site(&input, &restored, &error));
    struct trainer_counters counters = trainer_counters(crashed->site.trainer);
    CHECK_EQUAL(counters.steps, crashed->counters.steps);
    CHECK_EQUAL(counters.position.index, crashed->counters.position.index);
    return restored;
}

static void end(struct crashed *crashed) {
    journal_close(crashed->journal);
    fixture_deinit(&crashed->site);
    free(crashed->base);
    free(crashed->snapshot);
    free(crashed->theta_s);
    free(crashed->feedback);
    free(crashed->local);
}

static const float *local_of(struct crashed *crashed) {
    return trainer_parameters_to_change(crashed->site.trainer);
}

static void check_same(struct crashed *crashed, const float *got, const float *wanted) {
    CHECK_MEMORY(got, wanted, crashed->site.count * sizeof *got);
}

/* global + (local - from), in fp32. */
static void check_moved(struct crashed *crashed, const float *from) {
    const float *global = crashed->site.replica.global.theta, *local = local_of(crashed);
    for (size_t i = 0; i < crashed->site.count; i++)
        CHECK(local[i] == global[i] + (crashed->local[i] - from[i]));
}

TEST(a_fresh_site_starts_from_the_runs_initial_parameters) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    crashed.counters = trainer_counters(crashed.site.trainer);
    float *initial = xcalloc(crashed.site.count, sizeof *initial);
    memcpy(initial, local_of(&crashed), crashed.site.count * sizeof *initial);
    struct restored restored = restart(&crashed);
    CHECK(!restored.from_checkpoint);
    CHECK_EQUAL(restored.spooled_count, 0);
    check_same(&crashed, crashed.site.replica.global.theta, initial);
    check_same(&crashed, crashed.site.replica.base, initial);
    check_same(&crashed, local_of(&crashed), initial);
    free(initial);
    end(&crashed);
}

TEST(a_checkpoint_whose_base_is_still_the_newest_goes_on_bit_for_bit) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    memcpy(crashed.base, crashed.site.replica.global.theta, crashed.site.count * sizeof(float));
    checkpoint(&crashed, 3, 0, 0);
    fixture_train(&crashed.site, 2);
    float *further = xcalloc(crashed.site.count, sizeof *further);
    memcpy(further, local_of(&crashed), crashed.site.count * sizeof *further);
    struct restored restored = restart(&crashed);
    CHECK(restored.from_checkpoint);
    check_same(&crashed, local_of(&crashed), crashed.local);
    fixture_train(&crashed.site,
                  2); /* the same two steps again: data and optimizer are where they were */
    check_same(&crashed, local_of(&crashed), further);
    free(further);
    end(&crashed);
}

TEST(progress_that_no_message_carried_moves_onto_the_newest_parameters) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    checkpoint(&crashed, 3, 0, 0);
    restart(&crashed);
    check_moved(&crashed, crashed.base);
    check_same(&crashed, crashed.site.replica.base, crashed.site.replica.global.theta);
    end(&crashed);
}

TEST(a_message_in_flight_older_than_the_checkpoint_goes_on_from_the_checkpoint) {
    struct crashed crashed;
    begin(&crashed, OUTER_DENSE);
    record_round(&crashed, 2, 4);
    checkpoint_on(&crashed, 2, 3, 4, 9); /* its message has followed from 5 to 9 */
    struct restored restored = restart(&crashed);
    CHECK_EQUAL(restored.spooled_count, 1);
    CHECK_EQUAL(restored.spooled[0].base_version, 9);
    CHECK(!restored.spooled[0].baseless);
    CHECK_EQUAL(restored.spooled[0].sequence, 4);
    CHECK_MEMORY(restored.spooled[0].header, crashed.header, sizeof crashed.header);
    CHECK_EQUAL(restored.spooled[0].accepted.size, 0);
    CHECK_EQUAL(restored.fragment[0].in_flight, 4);
    check_same(&crashed, local_of(&crashed), crashed.local);
    check_same(&crashed, crashed.site.replica.snapshot, crashed.snapshot);
    check_same(&crashed, crashed.site.replica.base, crashed.base);
    CHECK_EQUAL(crashed.site.replica.base_version[0], 9);
    end(&crashed);
}

TEST(a_message_in_flight_younger_than_the_checkpoint_goes_on_from_theta_s) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    checkpoint(&crashed, 2, 3, 0);
    record_round(&crashed, 2, 4);
    /* also checks that optimizer and position are the round's */
    struct restored restored = restart(&crashed);
    CHECK_EQUAL(restored.fragment[0].in_flight, 4);
    check_same(&crashed, local_of(&crashed), crashed.theta_s);
    check_same(&crashed, crashed.site.replica.snapshot, crashed.theta_s);
    check_same(&crashed, crashed.site.replica.feedback, crashed.feedback);
    CHECK_EQUAL(restored.spooled[0].base_version, 5);
    CHECK(
        restored.spooled[0].baseless); /* its base, 5, is neither in the checkpoint nor replayed */
    end(&crashed);
}

/* The checkpoint made after that start has theta_s and the message, and no base. */
TEST(a_base_that_is_gone_is_gone_after_the_next_start_too) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    checkpoint(&crashed, 2, 3, 0);
    record_round(&crashed, 2, 4);
    struct restored restored = restart(&crashed);
    CHECK(restored.spooled[0].baseless);
    CHECK(restored.fragment[0].baseless);
    crashed.baseless = restored.fragment[0].baseless;
    checkpoint_on(&crashed, 1, 3, 4, 5);
    restored = restart(&crashed);
    check_same(&crashed, crashed.site.replica.snapshot, crashed.snapshot);
    CHECK(restored.spooled[0].baseless);
    CHECK(restored.fragment[0].baseless);
    end(&crashed);
}

TEST(the_base_of_such_a_message_is_the_checkpoints_where_that_was_of_its_version) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    checkpoint_on(&crashed, 2, 3, 0, 5);
    record_round(&crashed, 2, 4);
    struct restored restored = restart(&crashed);
    check_same(&crashed, local_of(&crashed), crashed.theta_s);
    check_same(&crashed, crashed.site.replica.base, crashed.base);
    CHECK_EQUAL(restored.spooled[0].base_version, 5);
    CHECK(!restored.spooled[0].baseless);
    end(&crashed);
}

TEST(in_dense_mode_the_base_of_such_a_message_is_rebuilt_from_its_payload) {
    struct crashed crashed;
    begin(&crashed, OUTER_DENSE);
    record_round(&crashed, 2, 1); /* and no checkpoint at all */
    restart(&crashed);
    check_same(&crashed, crashed.site.replica.snapshot, crashed.theta_s);
    for (size_t i = 0; i < crashed.site.count; i++)
        CHECK_NEAR(crashed.site.replica.base[i], crashed.base[i], 1e-6);
    end(&crashed);
}

static void check_progress(const struct restored *restored, uint64_t steps, uint64_t tokens,
                           uint64_t in_flight, uint64_t round, bool begun) {
    const struct round_progress *progress = &restored->fragment[0].progress;
    CHECK_EQUAL(progress->steps, steps);
    CHECK_EQUAL(progress->tokens, tokens);
    CHECK_EQUAL(progress->steps_in_flight, in_flight);
    CHECK_EQUAL(progress->round_steps, round);
    CHECK_EQUAL(progress->begun, begun);
}

TEST(steps_and_tokens_come_back_with_the_progress_that_they_count) {
    static const struct {
        enum outer_mode mode;
        /* what there is, and which is younger */
        bool round, in_flight, refused, checkpoint, checkpoint_after;
        uint64_t steps, tokens, sent, round_steps;
        bool begun;
    } cases[] = {
        {OUTER_SPARSE, false, false, false, true, true, 7, 700, 0, 5, true}, /* no round ever */
        /* in flight, and the checkpoint knows it */
        {OUTER_SPARSE, true, true, false, true, true, 7, 700, 61, 5, true},
        /* in flight, from theta_s */
        {OUTER_SPARSE, true, true, false, true, false, 0, 0, 60, 0, true},
        /* the same without a checkpoint */
        {OUTER_DENSE, true, true, false, false, false, 0, 0, 60, 0, true},
        {OUTER_SPARSE, true, false, false, true, true, 7, 700, 0, 5, true}, /* merged since */
        /* refused since: counted again, it is in e */
        {OUTER_SPARSE, true, false, true, true, true, 68, 6701, 0, 5, true},
        /* likewise, it is in theta_local */
        {OUTER_DENSE, true, false, true, true, true, 68, 6701, 0, 5, true},
        /* merged, the progress since is gone */
        {OUTER_SPARSE, true, false, false, true, false, 0, 0, 0, 0, false},
        /* refused, and that is in e */
        {OUTER_SPARSE, true, false, true, true, false, 60, 6000, 0, 0, false},
        /* refused, and that is gone */
        {OUTER_DENSE, true, false, true, true, false, 0, 0, 0, 0, false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct crashed crashed;
        struct error error = {0};
        for (const char *const *part = (const char *const[]){"journal", "payloads", "state", NULL};
             *part; part++) {
            char *path = file_join(test_directory(), *part);
            CHECK_OK(file_remove_tree(path, &error));
            free(path);
        }
        begin(&crashed, cases[i].mode);
        if (cases[i].checkpoint && !cases[i].checkpoint_after) checkpoint(&crashed, 1, 3, 0);
        if (cases[i].round) record_round(&crashed, 1, 4);
        if (cases[i].checkpoint_after)
            checkpoint(&crashed, 1, cases[i].round ? 3 : 0, cases[i].round ? 4 : 0);
        if (cases[i].round && !cases[i].in_flight)
            CHECK_OK(journal_round_end(crashed.journal, 0, 6, cases[i].refused, (struct bytes){0},
                                       &error));
        struct restored restored = restart(&crashed);
        check_progress(&restored, cases[i].steps, cases[i].tokens, cases[i].sent,
                       cases[i].round_steps, cases[i].begun);
        CHECK_EQUAL(restored.payloads_from, cases[i].checkpoint ? 77 : 0);
        end(&crashed);
    }
}

TEST(a_receipt_comes_back_with_the_message_that_it_is_for) {
    struct crashed crashed;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    record_round(&crashed, 1, 4);
    struct ledger_head head = {.epoch = 3, .size = 50};
    memset(head.root, 9, sizeof head.root);
    /* of another message: nothing */
    CHECK_OK(journal_round_accept(crashed.journal, 0, 3, &head, &error));
    CHECK_EQUAL(journal_round(crashed.journal, 0)->accepted.size, 0);
    CHECK_OK(journal_round_accept(crashed.journal, 0, 4, &head, &error));
    struct restored restored = restart(&crashed);
    CHECK_EQUAL(restored.spooled_count, 1);
    CHECK_EQUAL(restored.spooled[0].accepted.epoch, 3);
    CHECK_EQUAL(restored.spooled[0].accepted.size, 50);
    CHECK_MEMORY(restored.spooled[0].accepted.root, head.root, sizeof head.root);
    record_round(&crashed, 1, 5); /* the next message has no receipt yet */
    restored = restart(&crashed);
    CHECK_EQUAL(restored.spooled[0].sequence, 5);
    CHECK_EQUAL(restored.spooled[0].accepted.size, 0);
    end(&crashed);
}

TEST(after_a_merge_only_what_was_trained_since_the_snapshot_is_kept) {
    struct crashed crashed;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    record_round(&crashed, 1, 4);
    checkpoint(&crashed, 2, 3, 4);
    CHECK_OK(journal_round_end(crashed.journal, 0, 6, false, (struct bytes){0}, &error));
    struct restored restored = restart(&crashed);
    CHECK_EQUAL(restored.spooled_count, 0);
    CHECK_EQUAL(restored.fragment[0].over, 4);
    check_moved(&crashed, crashed.snapshot);
    check_same(&crashed, crashed.site.replica.feedback, crashed.feedback);
    end(&crashed);
}

TEST(after_a_refusal_in_dense_mode_all_progress_since_the_base_is_kept) {
    struct crashed crashed;
    struct error error = {0};
    begin(&crashed, OUTER_DENSE);
    record_round(&crashed, 1, 4);
    checkpoint(&crashed, 2, 3, 4);
    CHECK_OK(journal_round_end(crashed.journal, 0, 6, true, (struct bytes){0}, &error));
    restart(&crashed);
    check_moved(&crashed, crashed.base);
    end(&crashed);
}

TEST(after_a_refusal_in_sparse_mode_the_mass_is_in_the_feedback_and_not_in_theta_local_too) {
    struct crashed crashed;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    record_round(&crashed, 1, 4);
    checkpoint(&crashed, 2, 3, 4);
    float *restored_feedback = vector(&crashed, 99);
    CHECK_OK(journal_round_end(crashed.journal, 0, 6, true, floats(&crashed, restored_feedback),
                               &error));
    restart(&crashed);
    check_moved(&crashed, crashed.snapshot);
    check_same(&crashed, crashed.site.replica.feedback, restored_feedback);
    free(restored_feedback);
    end(&crashed);
}

TEST(a_checkpoint_from_before_the_last_round_adds_nothing_twice) {
    struct crashed crashed;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    checkpoint(&crashed, 2, 3, 0);
    record_round(&crashed, 2, 4); /* it carried what the checkpoint has */
    CHECK_OK(journal_round_end(crashed.journal, 0, 6, false, (struct bytes){0}, &error));
    restart(&crashed);
    check_same(&crashed, local_of(&crashed), crashed.site.replica.global.theta);
    end(&crashed);
}

TEST(a_snapshot_that_was_never_recorded_left_its_progress_where_it_was) {
    struct crashed crashed;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    record_round(&crashed, 1, 4);
    CHECK_OK(journal_round_end(crashed.journal, 0, 6, false, (struct bytes){0}, &error));
    checkpoint(&crashed, 2, 4, 5); /* 5 was being encoded */
    struct restored restored = restart(&crashed);
    CHECK_EQUAL(restored.spooled_count, 0);
    CHECK_EQUAL(restored.last_sequence, 5); /* else the next message is taken for this one */
    check_moved(&crashed, crashed.base);
    end(&crashed);
}

/* Entry 0 of the fixture's run, as Follow would have stored it. */
static void store_genesis(struct crashed *crashed) {
    struct error error = {0};
    struct buffer manifest = {0}, raw = {0};
    struct ledger_entry genesis = {.kind = LEDGER_GENESIS, .epoch = 1};
    manifest_write(&crashed->site.manifest, &manifest);
    genesis.genesis.manifest = buffer_bytes(&manifest);
    genesis.genesis.parameters = crashed->site.count;
    memset(genesis.genesis.run_id, 1, RUN_ID_SIZE);
    memcpy(genesis.genesis.coordinator_key, test_public_key, PUBLIC_KEY_SIZE);
    run_model_layout_digest(&crashed->site.layout, genesis.genesis.layout_digest);
    ledger_entry_encode(&genesis, &raw);
    struct bytes entry = buffer_bytes(&raw);
    CHECK_OK(journal_append(crashed->journal, &entry, 1, &error));
    buffer_deinit(&manifest);
    buffer_deinit(&raw);
}

TEST(a_stored_ledger_that_has_not_reached_the_loaded_snapshot_is_no_damage) {
    struct crashed crashed;
    begin(&crashed, OUTER_SPARSE);
    crashed.site.replica.global.version =
        5; /* a snapshot of the run was loaded; of its ledger only the first entry has come */
    checkpoint(&crashed, 3, 0, 0);
    store_genesis(&crashed);
    struct restored restored = restart(&crashed);
    CHECK(restored.from_checkpoint);
    CHECK_EQUAL(crashed.site.replica.global.version, 5);
    end(&crashed);
}

TEST(a_damaged_checkpoint_is_told_by_name) {
    struct crashed crashed;
    struct restored restored;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    checkpoint(&crashed, 1, 0, 0);
    char hex[HEX32_SIZE], path[512];
    hex_encode(journal_checkpoint(crashed.journal)->global.digest, DIGEST_SIZE, hex);
    snprintf(path, sizeof path, "%s/state/blobs/%.2s/%s", test_directory(), hex, hex + 2);
    CHECK(remove(path) == 0);
    struct restore_model model = {.manifest = &crashed.site.manifest,
                                  .layout = &crashed.site.layout,
                                  .trainer = crashed.site.trainer};
    struct restore_input input = {.journal = crashed.journal,
                                  .replica = &crashed.site.replica,
                                  .port = restore_model_port(&model)};
    CHECK_STATUS(restore_site(&input, &restored, &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, "checkpoint's replica");
    end(&crashed);
}

TEST(a_missing_initial_checkpoint_is_no_damage_of_the_site) {
    struct crashed crashed;
    struct restored restored;
    struct error error = {0};
    begin(&crashed, OUTER_SPARSE);
    struct manifest manifest = crashed.site.manifest;
    memset(manifest.initial.root, 7, DIGEST_SIZE);
    struct restore_model model = {.manifest = &manifest,
                                  .layout = &crashed.site.layout,
                                  .initial = "/nonexistent/model.safetensors",
                                  .trainer = crashed.site.trainer};
    struct restore_input input = {.journal = crashed.journal,
                                  .replica = &crashed.site.replica,
                                  .port = restore_model_port(&model)};
    /* NOT_FOUND would say: delete journal and state */
    CHECK_STATUS(restore_site(&input, &restored, &error), INVALID);
    CHECK_CONTAINS(error.message, "--from");
    CHECK_CONTAINS(error.message, "/nonexistent/model.safetensors");
    end(&crashed);
}
