#include "tests/fed_fixture.h"

static struct error error; /* each test has a process of its own */

static const struct replay_options whole = {.until = UINT64_MAX};

/* A history with every kind of entry: five sites, stale and clipped contributions, a revocation, a
 * pause, a new epoch. */
static struct fixture *history(const char *yaml) {
    struct fixture *f = fixture_open(yaml, 2 * 4096 + 500);
    uint32_t fragments = f->manifest.fragments;
    fixture_sites(f, 4);
    for (uint64_t round = 0; round < 6; round++) {
        uint32_t fragment = (uint32_t)(round % fragments);
        uint64_t base = run_state_version(f->run);
        fixture_contribute(f, 1, fragment, base, 0.05f);
        fixture_contribute(f, 2, fragment, base ? base - 1 : 0, round == 4 ? 3.0f : 0.05f);
        if (round == 2) {
            fixture_contribute(f, 3, fragment, base, 0.05f);
            fixture_revoke(f, 3);
        }
        if (round == 3) fixture_note(f, LEDGER_PAUSED);
        fixture_step(f, fragment, 2);
        if (round == 3) fixture_note(f, LEDGER_RESUMED);
        if (round == 4) fixture_note(f, LEDGER_EPOCH);
    }
    fixture_sites(f, 1);
    fixture_set(f, "inner.inner_steps", "60");
    fixture_contribute(f, 5, 0, run_state_version(f->run), 0.05f); /* waits */
    fixture_note(f, LEDGER_STOPPED);
    return f;
}

#define SPARSE "fragments: 2\nadmission: {clip_minimum: 3}\nmerge: {staleness_weight: polynomial}\n"
#define DENSE "outer: {mode: dense, period: 3}\nroot_interval: 2\n"

struct replayed {
    struct run_state *run;
    struct model_state model;
    struct replay_report report;
    enum status status;
    struct error error;
};

static struct replayed replay_start(struct fixture *f) {
    struct replayed r = {.run = run_state_create()};
    CHECK_OK(model_state_init(&r.model, &f->manifest, f->parameters, &error));
    fixture_initial(5, r.model.theta, f->parameters);
    return r;
}

static void replay_go(struct fixture *f, struct replayed *r, const struct replay_options *options) {
    struct ledger_source source = fixture_source(f);
    r->error = (struct error){0};
    r->status = replay_run(&source, options, r->run, &r->model, &r->report, &r->error);
}

static void replay_end(struct replayed *r) {
    run_state_destroy(r->run);
    model_state_deinit(&r->model);
}

static void check_same(const struct fixture *f, const struct replayed *r) {
    struct buffer a = {0}, b = {0};
    uint8_t x[DIGEST_SIZE], y[DIGEST_SIZE];
    if (r->status != OK) test_failed(__FILE__, __LINE__, "replay: %s", r->error.message);
    snapshot_write(&f->model, &a);
    snapshot_write(&r->model, &b);
    CHECK(bytes_equal(buffer_bytes(&a), buffer_bytes(&b)));
    CHECK_EQUAL(r->model.version, f->model.version);
    CHECK_EQUAL(run_state_size(r->run), f->entry_count);
    merkle_root(run_state_tree(f->run), f->entry_count, x);
    merkle_root(run_state_tree(r->run), f->entry_count, y);
    CHECK_MEMORY(x, y, DIGEST_SIZE);
    CHECK_EQUAL(r->report.failed_entry, -1);
    CHECK_EQUAL(r->report.version, f->model.version);
    buffer_deinit(&a);
    buffer_deinit(&b);
}

static void replays_to_the_same(const char *yaml, uint64_t roots) {
    struct fixture *f = history(yaml);
    struct replayed r = replay_start(f);
    replay_go(f, &r, &whole);
    check_same(f, &r);
    CHECK_EQUAL(r.report.entries, f->entry_count);
    CHECK_EQUAL(r.report.contributions, 14);
    CHECK_EQUAL(r.report.steps, 6);
    CHECK_EQUAL(r.report.roots_checked, roots);
    CHECK_EQUAL(run_state_epoch(r.run), 2);
    CHECK_EQUAL(run_state_inner_steps(r.run), 60);
    CHECK_EQUAL(run_state_phase(r.run), RUN_STOPPED);
    replay_go(f, &r, &whole); /* nothing new */
    check_same(f, &r);
    CHECK_EQUAL(r.report.entries, 0);
    replay_end(&r);
    fixture_close(f);
}

TEST(replay_makes_the_same_model_bit_for_bit) {
    replays_to_the_same(SPARSE, 7);
    replays_to_the_same(DENSE, 4);
}

static void count_entries(void *context, uint64_t index, const struct ledger_entry *entry) {
    uint64_t *seen = context;
    CHECK_EQUAL(index, *seen);
    CHECK(entry->kind != 0);
    (*seen)++;
}

TEST(replay_stops_before_until_goes_on_from_there_and_tells_its_progress) {
    struct fixture *f = history(SPARSE);
    uint64_t seen = 0;
    struct replayed r = replay_start(f);
    for (uint64_t until = 0; until <= f->entry_count; until++) {
        replay_go(
            f, &r,
            &(struct replay_options){.until = until, .progress = count_entries, .context = &seen});
        CHECK_EQUAL(r.status, OK);
        CHECK_EQUAL(run_state_size(r.run), until);
        CHECK_EQUAL(seen, until);
    }
    check_same(f, &r);
    replay_end(&r);
    fixture_close(f);
}

TEST(the_control_half_replays_without_a_model_or_payloads) {
    struct fixture *f = history(SPARSE);
    struct run_state *run = run_state_create();
    struct replay_report report;
    struct ledger_source source = fixture_source(f);
    f->payload_count = 0;
    CHECK_OK(replay_run(&source, &whole, run, NULL, &report, &error));
    CHECK_EQUAL(run_state_version(run), 6);
    CHECK_EQUAL(report.roots_checked, 0);
    f->payload_count = 14;
    run_state_destroy(run);
    fixture_close(f);
}

static void goes_on_from_snapshot(const char *yaml, uint64_t version) {
    struct fixture *f = history(yaml);
    struct replayed past = replay_start(f), r = replay_start(f);
    struct ledger_source source = fixture_source(f);
    struct buffer content = {0};
    while (past.model.version < version)
        replay_go(f, &past, &(struct replay_options){.until = run_state_size(past.run) + 1});
    snapshot_write(&past.model, &content);
    struct snapshot_header header = {.version = version, .content_size = content.size};
    state_root(past.model.theta, f->parameters, header.root);
    digest_sha256(content.data, content.size, header.content_digest);
    CHECK_OK(snapshot_read(&r.model, &header, buffer_bytes(&content), &error));
    replay_go(
        f, &r,
        &(struct replay_options){.until = UINT64_MAX, .tensors_from = version, .trusted = true});
    check_same(f, &r);
    replay_end(&r);
    /* The same snapshot with one value moved, though digest and root were made to fit, is not this
     * ledger's. */
    if (version % f->manifest.root_interval == 0) {
        r = replay_start(f);
        CHECK_OK(snapshot_read(&r.model, &header, buffer_bytes(&content), &error));
        r.model.theta[77] += 1;
        CHECK_STATUS(
            replay_run(&source,
                       &(struct replay_options){.until = UINT64_MAX, .tensors_from = version},
                       r.run, &r.model, &r.report, &r.error),
            CORRUPT);
        CHECK_CONTAINS(r.error.message, "snapshot's parameters");
        replay_end(&r);
    }
    buffer_deinit(&content);
    replay_end(&past);
    fixture_close(f);
}

TEST(a_snapshot_and_the_rest_of_the_ledger_make_the_same_model) {
    for (uint64_t version = 1; version <= 6; version++) {
        goes_on_from_snapshot(SPARSE, version);
        goes_on_from_snapshot(DENSE, version);
    }
}

TEST(a_snapshot_newer_than_the_ledger_or_the_model_is_refused) {
    struct fixture *f = history(SPARSE);
    struct replayed r = replay_start(f);
    replay_go(f, &r, &(struct replay_options){.until = UINT64_MAX, .tensors_from = 3});
    CHECK_EQUAL(r.status, INVALID);
    r.model.version = 9;
    replay_go(f, &r, &(struct replay_options){.until = UINT64_MAX, .tensors_from = 9});
    CHECK_EQUAL(r.status, CORRUPT);
    CHECK_CONTAINS(r.error.message, "ends at version 6");
    replay_end(&r);
    fixture_close(f);
}

TEST(other_initial_parameters_or_another_shape_are_named_at_entry_0) {
    struct fixture *f = history(DENSE);
    struct replayed r = replay_start(f);
    r.model.theta[123] = nextafterf(r.model.theta[123], 9);
    replay_go(f, &r, &whole);
    CHECK_EQUAL(r.status, CORRUPT);
    CHECK_EQUAL(r.report.failed_entry, 0);
    CHECK_CONTAINS(r.error.message, "initial parameters");
    replay_end(&r);
    r = replay_start(f);
    model_state_deinit(&r.model);
    CHECK_OK(model_state_init(&r.model, &f->manifest, f->parameters + 1, &error));
    replay_go(f, &r, &whole);
    CHECK_EQUAL(r.status, INVALID);
    CHECK_EQUAL(r.report.failed_entry, 0);
    replay_end(&r);
    fixture_close(f);
}

/* --- one flipped byte anywhere --- */
TEST(a_flipped_byte_of_a_payload_is_reported_with_its_contributions_entry) {
    struct fixture *f = history(SPARSE);
    uint64_t payload = 0;
    for (uint64_t index = 0; index < f->entry_count; index++) {
        struct ledger_entry entry;
        CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[index]), &entry, &error));
        if (entry.kind != LEDGER_CONTRIBUTION) continue;
        bool dropped = payload == 6; /* of the site that was revoked: nobody will ever need it */
        bool merged = !dropped && payload != 13; /* the last one */
        struct buffer *bytes = &f->payloads[payload++].bytes;
        for (size_t at = 0; at < bytes->size; at += bytes->size / 3) {
            bytes->data[at] ^= 0x08;
            struct replayed r = replay_start(f);
            replay_go(f, &r, &whole);
            if (merged) {
                CHECK_EQUAL(r.status, CORRUPT);
                CHECK_EQUAL(r.report.failed_entry, index);
            } else {
                CHECK_EQUAL(r.status, OK); /* no model depends on it */
            }
            replay_end(&r);
            r = replay_start(f);
            replay_go(f, &r, &(struct replay_options){.until = UINT64_MAX, .every_payload = true});
            CHECK_EQUAL(r.status, dropped ? OK : CORRUPT);
            if (!dropped) CHECK_EQUAL(r.report.failed_entry, index);
            if (!dropped) CHECK(r.report.lost_payload);
            replay_end(&r);
            bytes->data[at] ^= 0x08;
        }
    }
    CHECK_EQUAL(payload, 14);
    fixture_close(f);
}

TEST(a_missing_payload_is_reported_with_its_contributions_entry) {
    struct fixture *f = history(SPARSE);
    struct replayed r = replay_start(f);
    f->payloads[3].digest[0] ^= 1;
    replay_go(f, &r, &whole);
    CHECK_EQUAL(r.status, NOT_FOUND);
    struct ledger_entry entry;
    CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[r.report.failed_entry]), &entry, &error));
    CHECK_EQUAL(entry.kind, LEDGER_CONTRIBUTION);
    replay_end(&r);
    fixture_close(f);
}

/* Every byte of the ledger is under its tree's root. Replay itself refuses at or after the entry
 * what breaks a rule; what no rule looks at (times, reasons, secrets) changes the root, which no
 * longer is the one in the coordinator's signed head. */
static void flips_of(const char *yaml) {
    struct fixture *f = history(yaml);
    uint8_t wanted[DIGEST_SIZE], got[DIGEST_SIZE];
    merkle_root(run_state_tree(f->run), f->entry_count, wanted);
    uint64_t named = 0, by_root = 0;
    for (uint64_t index = 0; index < f->entry_count; index++) {
        struct buffer *raw = &f->entries[index];
        for (size_t at = 0; at < raw->size; at += 1 + (index == 0 ? 41 : raw->size / 24)) {
            raw->data[at] ^= 1;
            struct replayed r = replay_start(f);
            replay_go(f, &r, &whole);
            if (r.status != OK) {
                CHECK(r.report.failed_entry >= index && r.report.failed_entry < f->entry_count);
                CHECK_EQUAL(run_state_size(r.run), r.report.failed_entry);
                named += r.report.failed_entry == index;
            } else {
                merkle_root(run_state_tree(r.run), f->entry_count, got);
                CHECK(memcmp(got, wanted, DIGEST_SIZE) != 0);
                by_root++;
            }
            replay_end(&r);
            raw->data[at] ^= 1;
        }
    }
    CHECK(named > 300 && by_root > 10);
    fixture_close(f);
}

TEST(a_flipped_byte_of_an_entry_is_refused_there_or_changes_the_root) { flips_of(SPARSE); }

TEST(every_byte_of_a_contribution_and_of_a_steps_meaning_is_refused_at_its_own_entry) {
    struct fixture *f = history(DENSE);
    for (uint64_t index = 0; index < f->entry_count; index++) {
        struct buffer *raw = &f->entries[index];
        if (raw->data[0] != LEDGER_CONTRIBUTION && raw->data[0] != LEDGER_STEP) continue;
        for (size_t at = 13; at < raw->size; at += 7) { /* after kind, epoch and time */
            raw->data[at] ^= 0x10;
            struct replayed r = replay_start(f);
            replay_go(f, &r, &whole);
            CHECK(r.status != OK);
            CHECK_EQUAL(r.report.failed_entry, index);
            replay_end(&r);
            raw->data[at] ^= 0x10;
        }
    }
    fixture_close(f);
}

/* --- a coordinator that lies --- */
TEST(a_norm_that_the_payload_has_not_is_found_by_everybody) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 1);
    float *delta = fixture_delta(f, 0, 0.1f);
    struct contribution c = fixture_contribution(f, 1, 0, 0, fixture_payload_of(f, 0, delta));
    c.norm *= 0.5; /* would slip under the clip */
    struct ledger_entry entry = fixture_signed(f, &c, f->keys[1]), step;
    fixture_append(f, &entry);
    run_state_plan_step(f->run, 0, 1, &step);
    struct ledger_source source = fixture_source(f);
    uint8_t root[DIGEST_SIZE];
    CHECK_STATUS(replay_step(&source, f->run, &step, &f->model, root, NULL, &f->error), CORRUPT);
    CHECK_CONTAINS(f->error.message, "norm");
    CHECK_EQUAL(f->model.version, 0);
    free(delta);
    fixture_close(f);
}

TEST(a_step_that_is_not_justified_does_not_reach_the_tensors) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 1);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    struct ledger_entry good, step;
    run_state_plan_step(f->run, 0, 1, &good);
    struct ledger_source source = fixture_source(f);
    uint8_t root[DIGEST_SIZE], before[DIGEST_SIZE], after[DIGEST_SIZE];
    state_root(f->model.theta, 5000, before);
    step = good;
    step.step.parts[0].scale = 0.5f;
    CHECK_STATUS(replay_step(&source, f->run, &step, &f->model, root, NULL, &f->error), INVALID);
    step = good;
    step.step.parts[0].index--;
    CHECK_STATUS(replay_step(&source, f->run, &step, &f->model, root, NULL, &f->error), INVALID);
    step = good;
    step.step.version++;
    CHECK_STATUS(replay_step(&source, f->run, &step, &f->model, root, NULL, &f->error), INVALID);
    step = good;
    step.kind = LEDGER_PAUSED;
    CHECK_STATUS(replay_step(&source, f->run, &step, &f->model, root, NULL, &f->error), INVALID);
    state_root(f->model.theta, 5000, after);
    CHECK_MEMORY(before, after, DIGEST_SIZE);
    step = good;
    step.step.has_root = true; /* a root that the coordinator made up */
    CHECK_STATUS(replay_step(&source, f->run, &step, &f->model, root, NULL, &f->error), CORRUPT);
    CHECK_CONTAINS(f->error.message, "state root");
    fixture_close(f);
}

TEST(planning_gives_the_root_that_the_entry_then_carries) {
    struct fixture *f = fixture_open("root_interval: 2\n", 5000);
    fixture_sites(f, 1);
    static const uint8_t zero[DIGEST_SIZE];
    struct ledger_source source = fixture_source(f);
    for (uint64_t v = 1; v <= 4; v++) {
        struct ledger_entry step;
        uint8_t root[DIGEST_SIZE], wanted[DIGEST_SIZE];
        fixture_contribute(f, 1, 0, v - 1, 0.1f);
        run_state_plan_step(f->run, 0, 1, &step);
        CHECK(!step.step.has_root);
        CHECK_OK(replay_step(&source, f->run, &step, &f->model, root, NULL, &error));
        state_root(f->model.theta, 5000, wanted);
        CHECK_MEMORY(root, v % 2 == 0 ? wanted : zero, DIGEST_SIZE);
        step.step.has_root = v % 2 == 0;
        memcpy(step.step.root, root, DIGEST_SIZE);
        fixture_append(f, &step);
    }
    fixture_close(f);
}

static enum status broken_entry(void *context, uint64_t index, struct buffer *out,
                                struct error *why) {
    if (index == 3) return error_set(why, CORRUPT, "the record's digest");
    return fixture_read_entry(context, index, out, why);
}

static enum status short_payload(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                                 struct buffer *out, struct error *why) {
    TRY(fixture_read_payload(context, digest, size, out, why));
    out->size--;
    return OK;
}

TEST(what_a_store_says_about_its_bytes_is_passed_on_with_the_entry) {
    struct fixture *f = history(SPARSE);
    struct replayed r = replay_start(f);
    struct ledger_source source = {broken_entry, fixture_read_payload, f};
    CHECK_STATUS(replay_run(&source, &whole, r.run, &r.model, &r.report, &r.error), CORRUPT);
    CHECK_EQUAL(r.report.failed_entry, 3);
    CHECK_CONTAINS(r.error.message, "entry 3");
    replay_end(&r);
    r = replay_start(f);
    source = (struct ledger_source){fixture_read_entry, short_payload, f};
    CHECK_STATUS(replay_run(&source, &whole, r.run, &r.model, &r.report, &r.error), CORRUPT);
    CHECK_CONTAINS(r.error.message, "not the one that was signed");
    CHECK(r.report.lost_payload);
    replay_end(&r);
    fixture_close(f);
}
