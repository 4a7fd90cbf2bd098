#include "node/journal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "node/journal_files.h"
#include "node/journal_record.h"
#include "tests/storage_sha256.h"
#include "tests/test.h"

static struct journal *open_journal(void) {
    struct journal *journal = NULL;
    struct error error = {0};
    CHECK_OK(journal_open(test_directory(), 2, &journal, &error));
    return journal;
}

static struct bytes text(const char *value) { return bytes_of(value, strlen(value)); }

static void put_payload(struct journal *journal, const char *value,
                        uint8_t digest[static DIGEST_SIZE]) {
    struct error error = {0};
    CHECK_OK(blob_write(journal_payloads(journal), text(value), digest, &error));
}

/* Header and signature of sequence `sequence` whose payload has these bytes. */
static struct journal_round round_of(uint64_t sequence, const char *payload) {
    struct journal_round round = {
        .fragment = 1, .sequence = sequence, .base_version = 7, .trainer_steps = 40};
    struct contribution contribution = {
        .protocol = 1, .fragment = 1, .sequence = sequence, .payload_size = strlen(payload)};
    digest_sha256(payload, strlen(payload), contribution.payload_digest);
    round.payload_size = strlen(payload);
    memcpy(round.payload_digest, contribution.payload_digest, DIGEST_SIZE);
    contribution_encode(&contribution, round.header);
    memset(round.signature, 0x5A, sizeof round.signature);
    return round;
}

static void append(struct journal *journal, const struct ledger_entry *entry) {
    struct buffer raw = {0};
    struct error error = {0};
    ledger_entry_encode(entry, &raw);
    struct bytes bytes = buffer_bytes(&raw);
    CHECK_OK(journal_append(journal, &bytes, 1, &error));
    buffer_deinit(&raw);
}

static void append_contribution(struct journal *journal, uint64_t sequence, const char *payload) {
    struct journal_round round = round_of(sequence, payload);
    struct ledger_entry entry = {.kind = LEDGER_CONTRIBUTION, .epoch = 1};
    memcpy(entry.contribution.header, round.header, sizeof round.header);
    append(journal, &entry);
}

static void append_step(struct journal *journal, uint64_t version, uint64_t part) {
    struct ledger_entry entry = {.kind = LEDGER_STEP, .epoch = 1};
    entry.step.version = version;
    entry.step.rate = 1;
    entry.step.period = 1;
    entry.step.count = 1;
    entry.step.parts[0] = (struct step_part){.index = part, .scale = 1};
    append(journal, &entry);
}

static void write_checkpoint(struct journal *journal, uint64_t version, const char *global,
                             const char *snapshot) {
    struct error error = {0};
    struct journal_checkpoint checkpoint = {
        .version = version, .trainer_steps = 50, .fragments = 2};
    checkpoint.fragment[1].in_flight = 3;
    struct journal_checkpoint_contents contents = {.global = text(global),
                                                   .trainer = text("trainer"),
                                                   .base = text("base"),
                                                   .snapshot = text(snapshot)};
    CHECK_OK(journal_checkpoint_write(journal, &checkpoint, &contents, &error));
}

static bool has_payload(struct journal *journal, const char *payload) {
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(payload, strlen(payload), digest);
    return blob_exists(journal_payloads(journal), digest);
}

static bool state_has(struct journal *journal, const char *content) {
    struct journal_blob blob = {.size = strlen(content)};
    struct buffer got = {0};
    digest_sha256(content, strlen(content), blob.digest);
    bool there = journal_blob_read(journal, &blob, &got, NULL) == OK;
    buffer_deinit(&got);
    return there;
}

static void begin_round(struct journal *journal, uint64_t sequence, const char *payload,
                        const char *feedback, const char *snapshot) {
    struct error error = {0};
    struct journal_round round = round_of(sequence, payload);
    struct journal_round_contents contents = {.payload = text(payload),
                                              .feedback = text(feedback),
                                              .snapshot = text(snapshot),
                                              .optimizer = text("optimizer")};
    CHECK_OK(journal_round_begin(journal, &round, &contents, &error));
}

TEST(a_new_journal_is_empty) {
    struct journal *journal = open_journal();
    CHECK_EQUAL(journal_size(journal), 0);
    CHECK(!journal_round(journal, 0));
    CHECK(!journal_checkpoint(journal));
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    CHECK_STATUS(journal_sent(journal, 1, header, signature, NULL), NOT_FOUND);
    journal_close(journal);
}

TEST(a_second_process_is_kept_out_and_a_reader_is_not) {
    struct journal *journal = open_journal(), *second = NULL;
    struct error error = {0};
    append_step(journal, 1, 0);
    CHECK_STATUS(journal_open(test_directory(), 2, &second, &error), UNAVAILABLE);
    CHECK_OK(journal_open_reading(test_directory(), 2, &second, &error));
    CHECK_EQUAL(journal_size(second), 1);
    journal_close(second);
    journal_close(journal);
}

TEST(a_round_in_flight_comes_back_with_all_it_changed) {
    struct journal *journal = open_journal();
    begin_round(journal, 3, "payload", "feedback", "theta_s");
    journal_close(journal);
    journal = open_journal();
    const struct journal_round *round = journal_round(journal, 1);
    CHECK(round);
    CHECK(round->in_flight);
    CHECK_EQUAL(round->sequence, 3);
    CHECK_EQUAL(round->base_version, 7);
    CHECK_EQUAL(round->trainer_steps, 40);
    struct journal_round wanted = round_of(3, "payload");
    CHECK_MEMORY(round->header, wanted.header, sizeof wanted.header);
    CHECK_MEMORY(round->signature, wanted.signature, sizeof wanted.signature);
    CHECK(has_payload(journal, "payload"));
    struct buffer got = {0};
    struct error error = {0};
    CHECK_OK(journal_blob_read(journal, &round->feedback, &got, &error));
    CHECK_MEMORY(got.data, "feedback", 8);
    CHECK_OK(journal_blob_read(journal, &round->snapshot, &got, &error));
    CHECK_MEMORY(got.data, "theta_s", 7);
    CHECK_OK(journal_blob_read(journal, &round->optimizer, &got, &error));
    CHECK_MEMORY(got.data, "optimizer", 9);
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    CHECK_OK(journal_sent(journal, 3, header, signature, &error));
    CHECK_MEMORY(header, wanted.header, sizeof header);
    buffer_deinit(&got);
    journal_close(journal);
}

TEST(a_merged_round_is_over_keeps_its_feedback_and_its_payload_until_pruned) {
    struct journal *journal = open_journal();
    struct error error = {0};
    begin_round(journal, 3, "payload", "feedback", "theta_s");
    append_contribution(journal, 3, "payload");
    CHECK_OK(journal_round_end(journal, 1, 9, false, (struct bytes){0}, &error));
    CHECK(state_has(journal, "feedback"));
    CHECK(!state_has(journal, "theta_s"));
    CHECK(has_payload(journal, "payload"));
    journal_close(journal);
    journal = open_journal();
    CHECK(!journal_round(journal, 1)->in_flight);
    CHECK(!journal_round(journal, 1)->refused);
    CHECK_EQUAL(journal_round(journal, 1)->base_version, 9);
    CHECK(has_payload(journal, "payload"));
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    CHECK_STATUS(journal_sent(journal, 3, header, signature, NULL), NOT_FOUND);
    journal_close(journal);
}

TEST(a_refused_round_takes_its_new_feedback_and_drops_its_payload) {
    struct journal *journal = open_journal();
    struct error error = {0};
    begin_round(journal, 3, "payload", "feedback", "theta_s");
    CHECK_OK(journal_round_end(journal, 1, 7, true, text("restored"), &error));
    CHECK(state_has(journal, "restored"));
    CHECK(!state_has(journal, "feedback"));
    CHECK(!has_payload(journal, "payload"));
    CHECK(journal_round(journal, 1)->refused);
    CHECK_OK(journal_round_end(journal, 1, 8, true, text("again"),
                               &error)); /* a second end changes nothing */
    CHECK_EQUAL(journal_round(journal, 1)->base_version, 7);
    CHECK(state_has(journal, "restored"));
    journal_close(journal);
}

TEST(a_blob_that_two_records_name_outlives_one_of_them) {
    struct journal *journal = open_journal();
    struct error error = {0};
    begin_round(journal, 3, "payload", "feedback", "the same bytes");
    write_checkpoint(journal, 1, "global", "the same bytes");
    CHECK_OK(journal_round_end(journal, 1, 9, false, (struct bytes){0}, &error));
    CHECK(state_has(journal, "the same bytes"));
    write_checkpoint(journal, 2, "global 2", "other bytes");
    CHECK(!state_has(journal, "the same bytes"));
    CHECK(!state_has(journal, "global"));
    CHECK(state_has(journal, "global 2"));
    journal_close(journal);
}

TEST(a_checkpoint_prunes_what_it_has_passed_and_nothing_else) {
    struct journal *journal = open_journal();
    uint8_t digest[DIGEST_SIZE];
    append_contribution(journal, 1, "one"); /* entry 0 */
    append_contribution(journal, 2, "two"); /* entry 1 */
    append_step(journal, 1, 0);
    append_contribution(journal, 3, "three"); /* entry 3 */
    append_step(journal, 2, 3);
    append_step(journal, 3, 1);
    put_payload(journal, "one", digest);
    put_payload(journal, "two", digest);
    put_payload(journal, "three", digest);
    write_checkpoint(journal, 2, "global", "s");
    CHECK(!has_payload(journal, "one"));
    CHECK(!has_payload(journal, "three"));
    CHECK(has_payload(journal, "two")); /* version 3 needs it */
    write_checkpoint(journal, 3, "global", "s");
    CHECK(!has_payload(journal, "two"));
    journal_close(journal);
}

TEST(a_payload_in_flight_is_not_pruned) {
    struct journal *journal = open_journal();
    begin_round(journal, 3, "mine", "feedback", "theta_s");
    append_contribution(journal, 3, "mine");
    append_step(journal, 1, 0);
    write_checkpoint(journal, 1, "global", "s");
    CHECK(has_payload(journal,
                      "mine")); /* its round has not ended yet: a restart would look for it */
    journal_close(journal);
    journal = open_journal();
    CHECK(has_payload(journal, "mine"));
    struct error error = {0};
    CHECK_OK(journal_round_end(journal, 1, 1, false, (struct bytes){0}, &error));
    CHECK(!has_payload(journal, "mine"));
    journal_close(journal);
}

/* Equal deltas of honest sites, or a site that sends another's bytes as its own: one file, two
 * contributions. */
TEST(a_payload_that_two_contributions_name_outlives_the_first_of_them) {
    struct journal *journal = open_journal();
    uint8_t digest[DIGEST_SIZE];
    append_contribution(journal, 1, "the same"); /* entry 0 */
    append_contribution(journal, 2, "the same"); /* entry 1 */
    append_step(journal, 1, 0);
    put_payload(journal, "the same", digest);
    write_checkpoint(journal, 1, "global", "s");
    CHECK(has_payload(journal, "the same")); /* entry 1 waits for its step */
    journal_close(journal);
    journal = open_journal();
    CHECK(has_payload(journal, "the same"));
    append_step(journal, 2, 1);
    write_checkpoint(journal, 2, "global", "s");
    CHECK(!has_payload(journal, "the same"));
    journal_close(journal);
}

TEST(a_refused_round_leaves_a_payload_that_the_ledger_names) {
    struct journal *journal = open_journal();
    struct error error = {0};
    begin_round(journal, 3, "the same", "feedback", "theta_s");
    append_contribution(journal, 9, "the same"); /* another one's, and it waits */
    CHECK_OK(journal_round_end(journal, 1, 7, true, text("restored"), &error));
    CHECK(has_payload(journal, "the same"));
    append_step(journal, 1, 0);
    write_checkpoint(journal, 1, "global", "s");
    CHECK(!has_payload(journal, "the same"));
    journal_close(journal);
}

TEST(a_payload_that_an_entry_on_its_way_names_is_not_pruned) {
    struct journal *journal = open_journal();
    struct error error = {0};
    uint8_t digest[DIGEST_SIZE];
    append_contribution(journal, 1, "the same");
    append_step(journal, 1, 0);
    put_payload(journal, "the same", digest);
    journal_payload_hold(journal,
                         digest); /* received, seen to need no payload, not in our copy yet */
    journal_payload_hold(journal, digest);
    write_checkpoint(journal, 1, "global", "s");
    CHECK(has_payload(journal, "the same"));
    append_contribution(journal, 2, "the same");
    journal_payload_unhold(journal, digest);
    CHECK_OK(journal_payload_drop(journal, digest, &error));
    CHECK(has_payload(journal, "the same")); /* held once more, and named by entry 2 */
    journal_payload_unhold(journal, digest);
    CHECK_OK(journal_payload_drop(journal, digest, &error));
    CHECK(has_payload(journal, "the same"));
    append_step(journal, 2, 2);
    write_checkpoint(journal, 2, "global", "s");
    CHECK(!has_payload(journal, "the same"));
    journal_close(journal);
}

TEST(what_a_revocation_dropped_is_pruned_with_it) {
    struct journal *journal = open_journal();
    uint8_t digest[DIGEST_SIZE];
    append_contribution(journal, 1, "dropped"); /* of site 0, as entry 1 is */
    append_contribution(journal, 2, "merged");
    append_step(journal, 1, 1);
    struct ledger_entry revoked = {.kind = LEDGER_SITE_REVOKED, .epoch = 1};
    append(journal, &revoked);
    put_payload(journal, "dropped", digest);
    put_payload(journal, "merged", digest);
    write_checkpoint(journal, 1, "global", "s");
    CHECK(!has_payload(journal, "merged"));
    CHECK(!has_payload(journal, "dropped"));
    journal_close(journal);
}

TEST(opening_sweeps_what_nothing_names) {
    struct journal *journal = open_journal();
    uint8_t digest[DIGEST_SIZE];
    append_contribution(journal, 1, "waits for its step");
    put_payload(journal, "waits for its step", digest);
    put_payload(journal, "of no entry", digest);
    write_checkpoint(journal, 1, "global", "s");
    journal_close(journal);
    char *state = file_join(test_directory(), "state");
    struct blob_store *blobs = NULL;
    struct error error = {0};
    CHECK_OK(blob_store_open(state, &storage_sha256, &blobs, &error));
    CHECK_OK(blob_write(blobs, text("half a checkpoint"), digest, &error));
    blob_store_close(blobs);
    free(state);
    journal = open_journal();
    CHECK(has_payload(journal, "waits for its step"));
    CHECK(!has_payload(journal, "of no entry"));
    CHECK(!state_has(journal, "half a checkpoint"));
    CHECK(state_has(journal, "global"));
    CHECK(state_has(journal, "trainer"));
    journal_close(journal);
}

/* What a crash may leave in uploads/: a write of gigabytes that was cut off, payloads that came
 * half, a snapshot being fetched. */
TEST(opening_collects_writes_that_were_cut_off_and_keeps_a_snapshot_being_fetched) {
    struct journal *journal = open_journal();
    struct error error = {0};
    journal_close(journal);
    static const char *const left[] = {"payloads/uploads/.tmp-1-00aa",
                                       "payloads/uploads/payload-17", "state/uploads/.tmp-1-00bb",
                                       "payloads/uploads/snapshot-00cc"};
    for (size_t i = 0; i < COUNT_OF(left); i++) {
        char *path = file_join(test_directory(), left[i]);
        CHECK_OK(file_write(path, text("half"), 0600, &error));
        free(path);
    }
    journal = open_journal();
    for (size_t i = 0; i < COUNT_OF(left); i++) {
        char *path = file_join(test_directory(), left[i]);
        CHECK_EQUAL(file_exists(path), i == 3);
        free(path);
    }
    journal_close(journal);
}

TEST(a_journal_of_another_fragmentation_is_refused) {
    struct journal *journal = open_journal();
    write_checkpoint(journal, 1, "global", "s");
    journal_close(journal);
    struct error error = {0};
    CHECK_STATUS(journal_open(test_directory(), 3, &journal, &error), INVALID);
    CHECK_CONTAINS(error.message, "fragments");
}

TEST(records_that_are_cut_longer_or_of_another_format_are_corrupt) {
    struct journal_round round = round_of(5, "payload"), read;
    struct journal_checkpoint checkpoint = {.version = 3, .fragments = 2}, got = {0};
    checkpoint.fragment[1].baseless = true;
    struct buffer raw = {0};
    struct error error = {0};
    journal_round_encode(&round, &raw);
    CHECK_OK(journal_round_decode(buffer_bytes(&raw), &read, &error));
    CHECK_EQUAL(read.sequence, 5);
    for (size_t size = 0; size < raw.size; size++)
        CHECK_STATUS(journal_round_decode(bytes_of(raw.data, size), &read, NULL), CORRUPT);
    buffer_u8(&raw, 0);
    CHECK_STATUS(journal_round_decode(buffer_bytes(&raw), &read, NULL), CORRUPT);
    raw.size--;
    raw.data[0] = 9;
    CHECK_STATUS(journal_round_decode(buffer_bytes(&raw), &read, NULL), CORRUPT);
    raw.size = 0;
    journal_checkpoint_encode(&checkpoint, &raw);
    CHECK_OK(journal_checkpoint_decode(buffer_bytes(&raw), &got, &error));
    for (size_t size = 0; size < raw.size; size++)
        CHECK_STATUS(journal_checkpoint_decode(bytes_of(raw.data, size), &got, NULL), CORRUPT);
    CHECK(!got.fragment[0].baseless && got.fragment[1].baseless);
    size_t flag = 1 + 8 + DIGEST_SIZE + 8 + 8 + 4 + 3 * 8; /* of fragment 0 */
    raw.data[flag] = 2;
    CHECK_STATUS(journal_checkpoint_decode(buffer_bytes(&raw), &got, NULL), CORRUPT);
    raw.data[flag] = 0;
    raw.data[1 + 8 + DIGEST_SIZE + 8 + 8] = 200; /* fragments */
    CHECK_STATUS(journal_checkpoint_decode(buffer_bytes(&raw), &got, NULL), CORRUPT);
    buffer_deinit(&raw);
}

TEST(a_damaged_blob_is_corrupt_not_believed) {
    struct journal *journal = open_journal();
    write_checkpoint(journal, 1, "global", "s");
    const struct journal_blob *blob = &journal_checkpoint(journal)->global;
    char hex[HEX32_SIZE], path[512];
    hex_encode(blob->digest, DIGEST_SIZE, hex);
    snprintf(path, sizeof path, "%s/state/blobs/%.2s/%s", test_directory(), hex, hex + 2);
    CHECK(chmod(path, 0600) == 0);
    int file = open(path, O_WRONLY);
    CHECK(file >= 0);
    CHECK(pwrite(file, "X", 1, 2) == 1);
    close(file);
    struct buffer got = {0};
    CHECK_STATUS(journal_blob_read(journal, blob, &got, NULL), CORRUPT);
    buffer_deinit(&got);
    journal_close(journal);
}

/* One writer that is killed anywhere: what it said to be durable is there afterwards, and the
 * journal opens. */
static void write_until_killed(int tell) {
    struct journal *journal = open_journal();
    uint64_t first = journal_size(journal) + 1;
    for (uint64_t i = first;; i++) {
        char payload[32];
        snprintf(payload, sizeof payload, "payload %llu", (unsigned long long)i);
        begin_round(journal, i, payload, payload, payload);
        append_contribution(journal, i, payload);
        if (i == first || i % 3 == 0) write_checkpoint(journal, i, payload, payload);
        CHECK(journal_round_end(journal, 1, i, i % 4 == 0,
                                i % 4 == 0 ? text("restored") : (struct bytes){0}, NULL) == OK);
        CHECK(write(tell, &i, sizeof i) == sizeof i);
    }
}

TEST(whatever_was_durable_survives_a_kill_at_any_moment) {
    uint64_t expected = 0;
    test_directory(); /* named after this process: the writers below are to use the same one */
    for (unsigned attempt = 0; attempt < 12; attempt++) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            close(ends[0]);
            write_until_killed(ends[1]);
            _exit(0);
        }
        close(ends[1]);
        uint64_t told;
        if (attempt % 2 == 0) { /* on a slow disk too, something was said; else the kill may come
                                   before anything was */
            CHECK(read(ends[0], &told, sizeof told) == sizeof told);
            expected = told;
        }
        usleep(20000 + attempt * 7000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        while (read(ends[0], &told, sizeof told) == sizeof told) expected = told;
        close(ends[0]);
        struct journal *journal = open_journal();
        CHECK(journal_size(journal) >= expected);
        const struct journal_round *round = journal_round(journal, 1);
        if (expected > 0) {
            CHECK(round);
            CHECK(round->sequence >= expected);
            struct buffer got = {0};
            struct error error = {0};
            CHECK_OK(journal_blob_read(journal, &round->feedback, &got, &error));
            if (round->in_flight) {
                CHECK_OK(journal_blob_read(journal, &round->snapshot, &got, &error));
                CHECK_OK(
                    blob_read(journal_payloads(journal), round->payload_digest, 64, &got, &error));
            }
            const struct journal_checkpoint *checkpoint = journal_checkpoint(journal);
            if (expected > 0) {
                CHECK(checkpoint);
                CHECK(checkpoint->version + 3 > expected);
                CHECK_OK(journal_blob_read(journal, &checkpoint->global, &got, &error));
                CHECK_OK(journal_blob_read(journal, &checkpoint->trainer, &got, &error));
            }
            buffer_deinit(&got);
        }
        journal_close(journal);
    }
    CHECK(expected > 0);
}
