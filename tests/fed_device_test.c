/* A federation done on a device and done again by the ledger's rules on the CPU: the same messages,
 * and after the last step the same state root. The record is made here, on the device that
 * tests/cuda_fixture.h finds, or on another machine: ATOLL_TEST_DEVICE_RECORD names a file that
 * codec_device_test wrote there (docs/gpu.md). */
#include "fed/merkle.h"
#include "tests/device_record.h"
#include "tests/fed_fixture.h"

/* What the sites' CPUs would have made: their feedback, and the messages from it. */
struct again {
    struct record_shape shape;
    struct model_state model;
    float *e[RECORD_SITES], *local, *noise;
    struct codec_encoder *encoders[RECORD_FRAGMENTS_MAX];
};

static struct record_shape read_head(struct reader *reader, char *device, size_t size) {
    struct bytes tag = reader_take(reader, strlen(RECORD_TAG));
    CHECK(!reader->failed && memcmp(tag.data, RECORD_TAG, tag.size) == 0);
    struct record_shape shape = {.codec = (enum codec)reader_u64(reader)};
    shape.count = reader_u64(reader);
    shape.fragments = reader_u64(reader);
    CHECK_EQUAL(reader_u64(reader), RECORD_PERIOD);
    shape.steps = reader_u64(reader);
    shape.seed = reader_u64(reader);
    struct bytes name = reader_take(reader, (size_t)reader_u64(reader));
    CHECK(!reader->failed && shape.fragments >= 1 && shape.fragments <= RECORD_FRAGMENTS_MAX &&
          shape.count < 1 << 26);
    snprintf(device, size, "%.*s", (int)name.size, (const char *)name.data);
    return shape;
}

static void again_open(struct again *a) {
    struct error error = {0};
    struct manifest manifest;
    bool sparse = codec_is_sparse(a->shape.codec);
    char outer[64];
    snprintf(outer, sizeof outer,
             sparse ? "{period: %d, learning_rate: 0.7}"
                    : "{mode: dense, period: %d, learning_rate: 0.7, momentum: 0.9}",
             RECORD_PERIOD);
    char *yaml = xformat("name: test\nfragments: %u\nouter: %s\ncodec.kind: %s\n",
                         (unsigned)a->shape.fragments, outer, codec_name(a->shape.codec));
    CHECK_OK(manifest_parse(bytes_of(yaml, strlen(yaml)), &manifest, &error));
    free(yaml);
    CHECK_OK(model_state_init(&a->model, &manifest, a->shape.count, &error));
    record_initial(&a->shape, a->model.theta);
    a->local = xcalloc(a->shape.count, sizeof(float));
    a->noise = xcalloc(a->shape.count, sizeof(float));
    for (size_t s = 0; s < RECORD_SITES; s++) a->e[s] = xcalloc(a->shape.count, sizeof(float));
    for (uint32_t f = 0; f < a->shape.fragments; f++) {
        uint64_t start, count, recorded_start, recorded_count;
        fragment_range(a->shape.count, (uint32_t)a->shape.fragments, f, &start, &count);
        record_range(&a->shape, f, &recorded_start, &recorded_count);
        CHECK_EQUAL(recorded_start, start);
        CHECK_EQUAL(recorded_count, count);
        CHECK_OK(codec_encoder_create(a->shape.codec, count, &a->encoders[f], &error));
    }
}

static void again_close(struct again *a) {
    model_state_deinit(&a->model);
    free(a->local);
    free(a->noise);
    for (size_t s = 0; s < RECORD_SITES; s++) free(a->e[s]);
    for (size_t f = 0; f < RECORD_FRAGMENTS_MAX; f++) codec_encoder_destroy(a->encoders[f]);
}

static void check_message(struct again *a, uint64_t step, uint64_t site, uint32_t fragment,
                          struct bytes recorded) {
    struct error error = {0};
    struct buffer wanted = {0};
    uint64_t start, count;
    fragment_range(a->shape.count, (uint32_t)a->shape.fragments, fragment, &start, &count);
    record_progress(&a->shape, step, site, a->noise);
    elementwise_subtract(a->local, a->model.theta, a->noise, a->shape.count);
    CHECK_OK(codec_encode(a->encoders[fragment], a->model.theta + start, a->local + start,
                          codec_is_sparse(a->shape.codec) ? a->e[site] + start : NULL, &wanted,
                          &error));
    CHECK_EQUAL(recorded.size, wanted.size);
    CHECK_MEMORY(recorded.data, wanted.data, wanted.size);
    buffer_deinit(&wanted);
}

static void replay_one(struct again *a, uint64_t step, struct reader *reader) {
    struct error error = {0};
    struct step_input inputs[RECORD_SITES];
    struct verified_payload *payloads[RECORD_SITES];
    uint32_t fragment = (uint32_t)reader_u64(reader), parts = (uint32_t)reader_u64(reader);
    CHECK(!reader->failed && fragment < a->shape.fragments && parts >= 1 && parts <= RECORD_SITES);
    for (uint32_t i = 0; i < parts; i++) {
        uint32_t bits = (uint32_t)reader_u64(reader);
        struct bytes payload = reader_take(reader, (size_t)reader_u64(reader));
        CHECK(!reader->failed);
        check_message(a, step, i, fragment, payload);
        uint64_t start, count;
        struct buffer bytes = {0};
        fragment_range(a->shape.count, (uint32_t)a->shape.fragments, fragment, &start, &count);
        buffer_append(&bytes, payload.data, payload.size);
        CHECK_OK(payload_seal(a->shape.codec, count, &bytes, &payloads[i], &error));
        inputs[i] = (struct step_input){.payload = payloads[i]};
        memcpy(&inputs[i].scale, &bits, sizeof bits);
    }
    struct step_rules rules =
        step_rules_of(&a->model.manifest, a->model.manifest.inner.inner_steps, 4);
    CHECK_OK(model_state_step(&a->model, fragment, a->model.version + 1, &rules, parts, inputs,
                              NULL, &error));
    for (uint32_t i = 0; i < parts; i++) payload_destroy(payloads[i]);
}

static void replay(struct bytes record) {
    struct reader reader = reader_of(record);
    char device[256];
    struct again a = {.shape = read_head(&reader, device, sizeof device)};
    again_open(&a);
    for (uint64_t step = 0; step < a.shape.steps; step++) replay_one(&a, step, &reader);
    struct bytes raw = reader_take(&reader, a.shape.count * sizeof(float));
    CHECK(!reader.failed && reader_left(&reader) == 0);
    float *theta = xmalloc(raw.size);
    memcpy(theta, raw.data, raw.size);
    uint8_t there[DIGEST_SIZE], here[DIGEST_SIZE], first[DIGEST_SIZE];
    state_root(theta, a.shape.count, there);
    state_root(a.model.theta, a.shape.count, here);
    CHECK_MEMORY(there, here, DIGEST_SIZE);
    record_initial(&a.shape, theta);
    state_root(theta, a.shape.count, first);
    CHECK(memcmp(first, here, DIGEST_SIZE) != 0); /* and something was done */
    printf("  %s: %llu steps of %s over %llu fragments on %s have the CPU's state root\n",
           codec_name(a.shape.codec), (unsigned long long)a.shape.steps, codec_name(a.shape.codec),
           (unsigned long long)a.shape.fragments, device);
    free(theta);
    again_close(&a);
}

TEST(a_node_that_encodes_and_applies_on_the_device_has_the_cpus_state_root) {
    static const struct record_shape shapes[] = {{CODEC_TOPK2_64, 50001, 3, 9, 1},
                                                 {CODEC_TOPK2_128, 30000, 1, 5, 2},
                                                 {CODEC_INT8, 40003, 2, 8, 3},
                                                 {CODEC_BF16, 10000, 1, 4, 4},
                                                 {CODEC_FP4, 30001, 4, 8, 5}};
    struct cuda_backend backend;
    find_backend(&backend);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct buffer record = {0};
        record_federation(&backend, &shapes[i], &record);
        replay(buffer_bytes(&record));
        buffer_deinit(&record);
    }
    cuda_backend_close(&backend);
}

TEST(a_record_from_another_machine_has_the_cpus_state_root) {
    const char *path = getenv("ATOLL_TEST_DEVICE_RECORD");
    if (!path) TEST_SKIP("ATOLL_TEST_DEVICE_RECORD names no record");
    struct error error = {0};
    struct buffer record = {0};
    CHECK_OK(file_read(path, (size_t)1 << 30, &record, &error));
    replay(buffer_bytes(&record));
    buffer_deinit(&record);
}
