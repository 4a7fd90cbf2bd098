/* A site whose contributions are made on a device beside one without: the same messages and
 * feedback, also when the device fails. */
#include "tests/cuda_fixture.h"
#include "tests/node_fixture.h"

static void progress(struct fixture *site, uint64_t round) {
    float *local = trainer_parameters_to_change(site->trainer);
    for (size_t i = 0; i < site->count; i++)
        local[i] += (float)(random_hash(round, i) % 2001) * 1e-6f - 1e-3f;
    for (uint32_t f = 0; f < site->replica.fragments; f++)
        replica_snapshot(&site->replica, f, local);
}

static void compare_rounds(struct fixture *with, struct fixture *without, uint64_t rounds) {
    struct error error = {0};
    for (uint64_t round = 0; round < rounds; round++) {
        progress(with, round);
        progress(without, round);
        for (uint32_t f = 0; f < with->replica.fragments; f++) {
            struct buffer got = {0}, wanted = {0};
            double got_norm = 0, wanted_norm = -1;
            CHECK_OK(replica_encode(&without->replica, f, without->replica.codec, &wanted,
                                    &wanted_norm, &error));
            CHECK_OK(
                replica_encode(&with->replica, f, with->replica.codec, &got, &got_norm, &error));
            CHECK(bytes_equal(buffer_bytes(&got), buffer_bytes(&wanted)));
            CHECK(got_norm == wanted_norm);
            buffer_deinit(&got);
            buffer_deinit(&wanted);
        }
        if (with->replica.feedback)
            CHECK_MEMORY(with->replica.feedback, without->replica.feedback,
                         with->count * sizeof(float));
    }
}

static void compare(enum outer_mode mode, uint32_t fragments) {
    struct cuda_backend backend;
    struct error error = {0};
    find_backend(&backend);
    struct fixture with, without;
    fixture_init(&with, mode, fragments);
    fixture_init(&without, mode, fragments);
    CHECK_OK(replica_use_device(&with.replica, backend.operations, &error));
    compare_rounds(&with, &without, 3);
    CHECK(with.replica.device[0] && with.replica.device_error.status == OK);
    fixture_deinit(&with);
    fixture_deinit(&without);
    cuda_backend_close(&backend);
}

TEST(a_sparse_site_with_a_device_sends_the_same) { compare(OUTER_SPARSE, 2); }
TEST(a_dense_site_with_a_device_sends_the_same) { compare(OUTER_DENSE, 1); }

TEST(a_site_whose_device_is_lost_sends_the_same_without_it) {
    struct cuda_backend backend;
    struct error error = {0};
    setenv("EMULATED_LOSS", "15", 1); /* in the second message */
    open_emulation(&backend);
    struct fixture with, without;
    fixture_init(&with, OUTER_SPARSE, 1);
    fixture_init(&without, OUTER_SPARSE, 1);
    CHECK_OK(replica_use_device(&with.replica, backend.operations, &error));
    compare_rounds(&with, &without, 3);
    CHECK(!with.replica.device[0]);
    CHECK_EQUAL(with.replica.device_error.status, UNAVAILABLE);
    CHECK_CONTAINS(with.replica.device_error.message, "the device is lost");
    fixture_deinit(&with);
    fixture_deinit(&without);
    cuda_backend_close(&backend);
}

TEST(a_device_without_room_is_refused_and_the_site_goes_on) {
    struct cuda_backend backend;
    struct error error = {0};
    setenv("EMULATED_MEMORY", "20000", 1);
    open_emulation(&backend);
    struct fixture with, without;
    fixture_init(&with, OUTER_SPARSE, 1);
    fixture_init(&without, OUTER_SPARSE, 1);
    CHECK_STATUS(replica_use_device(&with.replica, backend.operations, &error), FULL);
    CHECK_CONTAINS(error.message, "out of device memory: asked for");
    compare_rounds(&with, &without, 1);
    fixture_deinit(&with);
    fixture_deinit(&without);
    cuda_backend_close(&backend);
}
