#include "tests/fed_fixture.h"

static struct fixture *trained(const char *yaml) {
    struct fixture *f = fixture_open(yaml, 9001);
    fixture_sites(f, 2);
    for (uint64_t v = 0; v < 5; v++) {
        uint32_t fragment = (uint32_t)(v % f->manifest.fragments);
        fixture_contribute(f, 1, fragment, v, 0.1f);
        fixture_contribute(f, 2, fragment, v, 0.1f);
        fixture_step(f, fragment, 2);
    }
    return f;
}

static struct snapshot_header header_of(const struct fixture *f, const struct buffer *content) {
    struct snapshot_header header = {.epoch = 1,
                                     .version = f->model.version,
                                     .ledger_size = f->entry_count,
                                     .payloads_from = 7,
                                     .content_size = content->size};
    memcpy(header.run_id, f->run_id, RUN_ID_SIZE);
    state_root(f->model.theta, f->parameters, header.root);
    digest_sha256(content->data, content->size, header.content_digest);
    return header;
}

static void comes_back(const char *yaml, uint64_t size) {
    struct fixture *f = trained(yaml);
    struct buffer content = {0}, again = {0};
    struct error error = {0};
    snapshot_write(&f->model, &content);
    CHECK_EQUAL(content.size, size);
    CHECK_EQUAL(snapshot_size(&f->model), size);
    struct snapshot_header header = header_of(f, &content);
    struct model_state model;
    CHECK_OK(model_state_init(&model, &f->manifest, f->parameters, &error));
    uint8_t *odd = xmalloc(content.size + 1); /* the bytes may lie anywhere */
    memcpy(odd + 1, content.data, content.size);
    CHECK_OK(snapshot_read(&model, &header, bytes_of(odd + 1, content.size), &error));
    snapshot_write(&model, &again);
    CHECK(bytes_equal(buffer_bytes(&content), buffer_bytes(&again)));
    CHECK_EQUAL(model.version, 5);
    CHECK_MEMORY(model.sums, f->model.sums, sizeof model.sums);
    free(odd);
    buffer_deinit(&content);
    buffer_deinit(&again);
    model_state_deinit(&model);
    fixture_close(f);
}

TEST(a_snapshot_comes_back_as_the_same_model) {
    comes_back("", 8 + 9001 * 10);
    comes_back("fragments: 2\nouter.period: 4\n", 16 + 9001 * 10); /* in the middle of rounds */
    comes_back("outer: {mode: dense, period: 4}\nfragments: 2\n", 16 + 9001 * 12);
}

static void goes_on(const char *yaml) {
    struct fixture *f = trained(yaml);
    struct buffer content = {0};
    struct error error = {0};
    snapshot_write(&f->model, &content);
    struct snapshot_header header = header_of(f, &content);
    struct model_state model;
    CHECK_OK(model_state_init(&model, &f->manifest, f->parameters, &error));
    CHECK_OK(snapshot_read(&model, &header, buffer_bytes(&content), &error));
    float *delta = fixture_delta(f, 0, 0.2f);
    fixture_payload_of(f, 0, delta);
    struct verified_payload *payload = fixture_verified(f, 0);
    struct step_input input = {payload, 1};
    uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE];
    for (uint64_t v = 6; v <= 12; v++) {
        CHECK_OK(model_state_step(&f->model, 0, v, fixture_rules(f), 1, &input, a, &error));
        CHECK_OK(model_state_step(&model, 0, v, fixture_rules(f), 1, &input, b, &error));
        CHECK_MEMORY(a, b, DIGEST_SIZE);
    }
    payload_destroy(payload);
    free(delta);
    buffer_deinit(&content);
    model_state_deinit(&model);
    fixture_close(f);
}

TEST(a_model_goes_on_from_its_snapshot_as_if_nothing_had_been) {
    goes_on("outer: {mode: dense, period: 4}\n");
    goes_on("outer: {period: 4}\n");
}

static void check_refused(struct fixture *f, const struct snapshot_header *header,
                          struct bytes content, const char *part) {
    struct model_state model;
    struct error error = {0};
    CHECK_OK(model_state_init(&model, &f->manifest, f->parameters, &error));
    CHECK_STATUS(snapshot_read(&model, header, content, &error), CORRUPT);
    CHECK_CONTAINS(error.message, part);
    model_state_deinit(&model);
}

TEST(a_snapshot_that_is_cut_altered_not_finite_or_of_another_root_is_refused) {
    struct fixture *f = trained("outer: {mode: dense, period: 4}\n");
    struct buffer content = {0};
    snapshot_write(&f->model, &content);
    const struct snapshot_header good = header_of(f, &content);
    struct snapshot_header header = good;
    const size_t cuts[] = {0, 1, 8, content.size - 1};
    for (size_t i = 0; i < COUNT_OF(cuts); i++)
        check_refused(f, &good, bytes_of(content.data, cuts[i]), "bytes");
    header.content_size++;
    check_refused(f, &header, buffer_bytes(&content), "bytes");
    for (size_t i = 0; i < content.size; i += 997) {
        content.data[i] ^= 1;
        check_refused(f, &good, buffer_bytes(&content), "not the one");
        content.data[i] ^= 1;
    }
    header = good;
    header.root[0] ^= 1;
    check_refused(f, &header, buffer_bytes(&content), "state root");
    const float bad[] = {NAN, INFINITY};
    for (size_t array = 0; array < 3; array++)
        for (size_t i = 0; i < 2; i++) {
            float kept;
            uint8_t *at = content.data + 8 + (array * 9001 + 4321) * 4;
            memcpy(&kept, at, 4);
            memcpy(at, &bad[i], 4);
            header = good;
            digest_sha256(content.data, content.size, header.content_digest);
            check_refused(f, &header, buffer_bytes(&content), "not finite");
            memcpy(at, &kept, 4);
        }
    buffer_deinit(&content);
    fixture_close(f);
}

TEST(a_snapshot_whose_senders_cannot_be_is_refused) {
    struct fixture *f = trained("outer.period: 4\n"); /* two contributions are in the round */
    CHECK_EQUAL(f->model.sums[0].count, 2);
    struct buffer content = {0};
    struct model_state *model = &f->model;
    model->senders[77] = 3;
    snapshot_write(model, &content);
    struct snapshot_header header = header_of(f, &content);
    check_refused(f, &header, buffer_bytes(&content),
                  "parameter 77 was sent by 3 of the round's 2");
    content.size = 0;
    model->senders[77] = 0;
    model->accumulated[77] = 0.5f;
    snapshot_write(model, &content);
    header = header_of(f, &content);
    check_refused(f, &header, buffer_bytes(&content), "parameter 77 was sent by 0");
    buffer_deinit(&content);
    fixture_close(f);
}

TEST(a_signed_header_comes_back_and_no_byte_of_it_may_change) {
    struct fixture *f = trained("");
    struct buffer content = {0};
    struct error error = {0};
    snapshot_write(&f->model, &content);
    struct snapshot_header header = header_of(f, &content), read;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    snapshot_header_sign(&header, f->coordinator, raw);
    const uint8_t *key = key_pair_public(f->coordinator);
    CHECK_OK(snapshot_header_verify(bytes_of(raw, sizeof raw), key, &read, &error));
    CHECK_EQUAL(read.version, 5);
    CHECK_EQUAL(read.ledger_size, f->entry_count);
    CHECK_EQUAL(read.payloads_from, 7);
    CHECK_EQUAL(read.epoch, 1);
    CHECK_EQUAL(read.content_size, content.size);
    CHECK_MEMORY(read.run_id, header.run_id, RUN_ID_SIZE);
    CHECK_MEMORY(read.root, header.root, DIGEST_SIZE);
    CHECK_MEMORY(read.content_digest, header.content_digest, DIGEST_SIZE);
    for (size_t i = 0; i < sizeof raw; i++) {
        raw[i] ^= 0x20;
        CHECK_STATUS(snapshot_header_verify(bytes_of(raw, sizeof raw), key, &read, &error),
                     INVALID);
        raw[i] ^= 0x20;
        CHECK_STATUS(snapshot_header_verify(bytes_of(raw, i), key, &read, &error), INVALID);
    }
    CHECK_STATUS(snapshot_header_verify(bytes_of(raw, sizeof raw), key_pair_public(f->keys[1]),
                                        &read, &error),
                 INVALID);
    buffer_deinit(&content);
    fixture_close(f);
}
