/* The exchange's tensors where the run's codec becomes another one: the next message is of that
 * one, the mass that is left goes on, and what was sent before is still read by its own. */
#include "codec/codec.h"
#include "tests/node_fixture.h"

static float *copy_of(const float *values, size_t count) {
    float *copy = xcalloc(count, sizeof *copy);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

static void progress(struct fixture *site, uint64_t round) {
    float *local = trainer_parameters_to_change(site->trainer);
    for (size_t i = 0; i < site->count; i++)
        local[i] += (float)(random_hash(round, i) % 2001) * 1e-6f - 1e-3f;
    replica_snapshot(&site->replica, 0, local);
}

/* 0.95 e + delta == q + e'. The size of the message. */
static size_t encode(struct fixture *site, enum codec codec, struct buffer *payload) {
    struct replica *replica = &site->replica;
    struct error error = {0};
    double norm = 0;
    float *before = copy_of(replica->feedback, site->count),
          *sent = xcalloc(site->count, sizeof *sent);
    payload->size = 0;
    CHECK_OK(replica_encode(replica, 0, codec, payload, &norm, &error));
    CHECK_OK(codec_decode(codec, buffer_bytes(payload), site->count, sent, &error));
    for (size_t i = 0; i < site->count; i++)
        CHECK_NEAR(sent[i] + replica->feedback[i],
                   0.95f * before[i] + (replica->base[i] - replica->snapshot[i]), 1e-7);
    free(before);
    free(sent);
    return payload->size;
}

TEST(a_message_is_of_the_codec_that_the_run_has_then) {
    struct fixture site;
    struct buffer payload = {0};
    fixture_init(&site, OUTER_SPARSE, 1);
    progress(&site, 1);
    size_t small = encode(&site, CODEC_TOPK2_64, &payload);
    progress(&site, 2);
    size_t large = encode(&site, CODEC_TOPK2_128, &payload);
    progress(&site, 3);
    CHECK(3 * small < 2 * large && 3 * encode(&site, CODEC_TOPK2_64, &payload) < 2 * large);
    buffer_deinit(&payload);
    fixture_deinit(&site);
}

TEST(a_codec_of_the_other_mode_changes_nothing) {
    struct fixture site;
    struct buffer payload = {0};
    struct error error = {0};
    double norm = 7;
    fixture_init(&site, OUTER_SPARSE, 1);
    progress(&site, 1);
    encode(&site, CODEC_TOPK2_64, &payload);
    size_t size = payload.size;
    float *before = copy_of(site.replica.feedback, site.count);
    CHECK_STATUS(replica_encode(&site.replica, 0, CODEC_INT8, &payload, &norm, &error), INVALID);
    CHECK_CONTAINS(error.message, "int8 is a codec of the other mode");
    CHECK(payload.size == size && norm == 7);
    CHECK_MEMORY(site.replica.feedback, before, site.count * sizeof *before);
    free(before);
    fixture_deinit(&site);
    fixture_init(&site, OUTER_DENSE, 1);
    progress(&site, 1);
    CHECK_STATUS(replica_encode(&site.replica, 0, CODEC_TOPK2_64, &payload, &norm, &error),
                 INVALID);
    CHECK_OK(replica_encode(&site.replica, 0, CODEC_BF16, &payload, &norm, &error));
    buffer_deinit(&payload);
    fixture_deinit(&site);
}

TEST(a_message_that_is_refused_after_the_codec_changed_is_taken_back_by_its_own) {
    struct fixture site;
    struct buffer first = {0}, next = {0};
    struct error error = {0};
    fixture_init(&site, OUTER_SPARSE, 1);
    progress(&site, 1);
    encode(&site, CODEC_TOPK2_64, &first);
    float *sent = xcalloc(site.count, sizeof *sent);
    CHECK_OK(codec_decode(CODEC_TOPK2_64, buffer_bytes(&first), site.count, sent, &error));
    progress(&site, 2);
    encode(&site, CODEC_TOPK2_128, &next);
    float *before = copy_of(site.replica.feedback, site.count);
    CHECK_STATUS(replica_restore(&site.replica, 0, CODEC_TOPK2_128, buffer_bytes(&first), &error),
                 INVALID);
    CHECK_MEMORY(site.replica.feedback, before, site.count * sizeof *before);
    CHECK_OK(replica_restore(&site.replica, 0, CODEC_TOPK2_64, buffer_bytes(&first), &error));
    for (size_t i = 0; i < site.count; i++) CHECK(site.replica.feedback[i] == before[i] + sent[i]);
    free(before);
    free(sent);
    buffer_deinit(&first);
    buffer_deinit(&next);
    fixture_deinit(&site);
}
