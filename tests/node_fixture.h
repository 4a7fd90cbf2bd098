/* A site's tensors without a site: a tiny manifest, its trainer, data and replica, for the tests of
 * node/. */
#ifndef TESTS_NODE_FIXTURE_H
#define TESTS_NODE_FIXTURE_H

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/data.h"
#include "model/trainer.h"
#include "node/replica.h"
#include "run/run_model.h"
#include "tests/test.h"

struct fixture {
    struct manifest manifest;
    struct layout layout;
    struct data *data;
    struct trainer *trainer;
    struct replica replica;
    size_t count; /* parameters */
};

static inline void fixture_manifest(struct manifest *manifest, enum outer_mode mode,
                                    uint32_t fragments) {
    manifest_defaults(manifest);
    strcpy(manifest->name, "fixture");
    manifest->model.vocabulary = 256;
    manifest->model.hidden = 32;
    manifest->model.layers = 1;
    manifest->model.heads = 2;
    manifest->model.kv_heads = 1;
    manifest->model.ffn = 32;
    manifest->model.context = 16;
    manifest->fragments = fragments;
    manifest->outer.mode = mode;
    manifest->codec.kind = mode == OUTER_DENSE ? CODEC_FP32 : CODEC_TOPK2_64;
    manifest->codec.decay = mode == OUTER_DENSE ? 0 : 0.95;
    manifest->outer.momentum = mode == OUTER_DENSE ? 0.9 : 0;
    manifest->outer.period = mode == OUTER_DENSE ? 2 : 1;
    struct error error = {0};
    CHECK_OK(manifest_check(manifest, &error));
}

/* Trainer and replica at version 0: theta_local = base = global = the initial parameters. */
static inline void fixture_init(struct fixture *fixture, enum outer_mode mode, uint32_t fragments) {
    struct error error = {0};
    *fixture = (struct fixture){0};
    fixture_manifest(&fixture->manifest, mode, fragments);
    char *path = file_join(test_directory(), "text.txt");
    struct buffer text = {0};
    for (unsigned i = 0; i < 6000; i++)
        buffer_u8(&text, (uint8_t)('a' + random_hash(3, i / 3) % 26));
    CHECK_OK(file_write(path, buffer_bytes(&text), 0644, &error));
    buffer_deinit(&text);
    struct data_options data = {.vocabulary = 256, .seed = 5};
    const char *paths[] = {path};
    CHECK_OK(data_open(paths, 1, &data, &fixture->data, &error));
    free(path);
    CHECK_OK(run_model_layout(&fixture->manifest, bytes_of(NULL, 0), &fixture->layout, &error));
    fixture->count = (size_t)fixture->layout.count;
    struct run_model_local local = {.sequences = 4, .threads = 1};
    CHECK_OK(run_model_trainer(&fixture->manifest, &local, &fixture->trainer, &error));
    CHECK_OK(replica_init(&fixture->replica, &fixture->manifest, fixture->layout.count, &error));
    CHECK_OK(run_model_initialise(&fixture->manifest, &fixture->layout, NULL,
                                  fixture->replica.global.theta, &error));
    replica_begin(&fixture->replica, trainer_parameters_to_change(fixture->trainer));
}

static inline void fixture_deinit(struct fixture *fixture) {
    replica_deinit(&fixture->replica);
    trainer_destroy(fixture->trainer);
    data_close(fixture->data);
    layout_deinit(&fixture->layout);
}

static inline void fixture_train(struct fixture *fixture, unsigned steps) {
    struct error error = {0};
    for (unsigned i = 0; i < steps; i++)
        CHECK_OK(trainer_step(fixture->trainer, fixture->data, 0, NULL, &error));
}

/* Values that no two calls share, small enough to be parameters. */
static inline void fixture_fill(float *out, size_t count, uint64_t seed) {
    for (size_t i = 0; i < count; i++)
        out[i] = (float)(int32_t)(random_hash(seed, i) >> 40) * 0x1p-26f;
}

#endif
