/* A run's versions from its directory: each of them, with its snapshots, with damaged ones and with
 * none. */
#include "crypto/digest.h"
#include "tests/malformed_client.h"

enum { VERSIONS = 5 };

static void run_of_versions(struct world *w) {
    world_create(w, "run", SPARSE_RUN "snapshot_interval: 2\n");
    world_start(w);
    struct site *one = world_join(w, "one");
    for (int i = 0; i < VERSIONS; i++) {
        site_contribute(w, one);
        world_settle(w);
    }
    world_stop(w);
}

static void open_run(const struct world *w, bool read_only, struct directory *out) {
    struct error error = {0};
    CHECK_OK(directory_open(w->directory, read_only, NULL, NULL, out, &error));
}

static enum status restored(const struct world *w, struct directory *data, uint64_t version,
                            uint8_t digest[static DIGEST_SIZE], struct error *error) {
    const struct directory_start start = {w->directory, NULL};
    struct directory_initial initial = directory_initial(&start);
    struct run_state *run = NULL;
    struct model_state model = {0};
    struct replay_report report = {0};
    TRY(directory_restore_version(data, &initial, version, &run, &model, &report, error));
    CHECK_EQUAL(model.version, version);
    CHECK_EQUAL(run_state_version(run), version);
    digest_sha256(model.theta, model.parameters * sizeof(float), digest);
    run_state_destroy(run);
    model_state_deinit(&model);
    return OK;
}

static void restore_all(const struct world *w, struct directory *data,
                        uint8_t digest[VERSIONS + 1][DIGEST_SIZE]) {
    struct error error = {0};
    for (uint64_t version = 0; version <= VERSIONS; version++)
        CHECK_OK(restored(w, data, version, digest[version], &error));
}

TEST(each_version_is_restored_and_without_snapshots_to_the_same_bits) {
    struct world w;
    struct directory data = {0};
    struct error error = {0};
    uint8_t with[VERSIONS + 1][DIGEST_SIZE], without[VERSIONS + 1][DIGEST_SIZE];
    run_of_versions(&w);
    open_run(&w, true, &data);
    restore_all(&w, &data, with);
    for (int i = 1; i <= VERSIONS; i++) CHECK(!digest_equal(with[i], with[i - 1]));
    CHECK_STATUS(restored(&w, &data, VERSIONS + 1, without[0], &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, "there is no version 6: the newest is 5");
    directory_close(&data);

    struct directory_keys keys = {0};
    struct snapshot_header header;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    CHECK_OK(directory_keys_open(w.directory, &keys, &error));
    const uint8_t *key = key_pair_public(keys.coordinator);
    open_run(&w, false, &data);
    uint32_t deleted = 0;
    while (directory_snapshot_header(&data, UINT64_MAX, key, raw, &header, &error) == OK) {
        CHECK_OK(directory_snapshot_delete(&data, &header, &error));
        deleted++;
    }
    CHECK(deleted > 1 && error.status == NOT_FOUND);
    restore_all(&w, &data, without);
    CHECK_MEMORY(with, without, sizeof with);
    directory_close(&data);
    directory_keys_close(&keys);
    world_destroy(&w);
}

/* The one before it must do. */
TEST(a_snapshot_whose_content_is_gone_is_passed_over_and_taken_away) {
    struct world w;
    struct directory data = {0};
    struct directory_keys keys = {0};
    struct snapshot_header newest, again;
    struct error error = {0};
    uint8_t raw[SNAPSHOT_HEADER_SIZE], before[DIGEST_SIZE], after[DIGEST_SIZE];
    run_of_versions(&w);
    CHECK_OK(directory_keys_open(w.directory, &keys, &error));
    const uint8_t *key = key_pair_public(keys.coordinator);
    open_run(&w, false, &data);
    CHECK_OK(restored(&w, &data, VERSIONS, before, &error));
    CHECK_OK(directory_snapshot_header(&data, UINT64_MAX, key, raw, &newest, &error));
    CHECK_OK(blob_delete(data.blobs, newest.content_digest, &error));
    CHECK_OK(restored(&w, &data, VERSIONS, after, &error));
    CHECK_MEMORY(before, after, sizeof before);
    /* useless: it was taken away */
    CHECK_OK(directory_snapshot_header(&data, UINT64_MAX, key, raw, &again, &error));
    CHECK(again.version < newest.version);
    directory_close(&data);
    directory_keys_close(&keys);
    world_destroy(&w);
}
