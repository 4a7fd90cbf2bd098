/* The arithmetic of a round (node/replica.h): snapshot, encode, stage, restore, rebase, on the CPU
 * or a device. Pure; the simulator runs this file. */
#include "node/replica.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/device.h"
#include "kernels/elementwise.h"

static enum status vector(uint64_t count, float **out, struct error *error) {
    void *memory = NULL;
    TRY(memory_try(count, sizeof(float), &memory, error));
    *out = memory;
    return OK;
}

enum status replica_init(struct replica *replica, const struct manifest *manifest,
                         uint64_t parameters, struct error *error) {
    *replica = (struct replica){.parameters = parameters,
                                .fragments = manifest->fragments,
                                .codec = (enum codec)manifest->codec.kind};
    enum status status = model_state_init(&replica->global, manifest, parameters, error);
    if (status == OK) status = vector(parameters, &replica->base, error);
    if (status == OK) status = vector(parameters, &replica->snapshot, error);
    if (status == OK) status = vector(parameters, &replica->next, error);
    if (status == OK && manifest->outer.mode == OUTER_SPARSE)
        status = vector(parameters, &replica->feedback, error);
    for (uint32_t fragment = 0; status == OK && fragment < replica->fragments; fragment++) {
        uint64_t start, count;
        fragment_range(parameters, replica->fragments, fragment, &start, &count);
        status = codec_encoder_create(replica->codec, count, &replica->encoders[fragment], error);
        replica->encoded[fragment] = replica->codec;
    }
    if (status != OK) replica_deinit(replica);
    return status;
}

static void leave_device(struct replica *replica) {
    for (uint32_t fragment = 0; fragment < replica->fragments; fragment++) {
        device_encoder_destroy(replica->device[fragment]);
        replica->device[fragment] = NULL;
    }
}

void replica_deinit(struct replica *replica) {
    leave_device(replica);
    model_state_deinit(&replica->global);
    if (!replica->lent) {
        free(replica->base);
        free(replica->snapshot);
        free(replica->next);
    }
    free(replica->feedback);
    for (uint32_t fragment = 0; fragment < replica->fragments; fragment++)
        codec_encoder_destroy(replica->encoders[fragment]);
    *replica = (struct replica){0};
}

struct range {
    uint64_t start, count;
    size_t size; /* bytes */
};

static struct range range_of(const struct replica *replica, uint32_t fragment) {
    struct range range;
    fragment_range(replica->parameters, replica->fragments, fragment, &range.start, &range.count);
    range.size = range.count * sizeof(float);
    return range;
}

enum status replica_use_device(struct replica *replica, const struct cuda_operations *cuda,
                               struct error *error) {
    enum status status = OK;
    replica->cuda = cuda;
    for (uint32_t fragment = 0; status == OK && fragment < replica->fragments; fragment++) {
        status =
            device_encoder_create(cuda, replica->codec, range_of(replica, fragment).count,
                                  replica->feedback != NULL, &replica->device[fragment], error);
    }
    if (status != OK) leave_device(replica);
    return status;
}

/* On the device, where there is one. It changes nothing when it fails, so the CPU can do it then.
 */
static enum status encode_range(struct replica *replica, uint32_t fragment,
                                const struct range *range, float *feedback, struct buffer *payload,
                                struct error *error) {
    const float *base = replica->base + range->start, *snapshot = replica->snapshot + range->start;
    struct device_encoder *device = replica->device[fragment];
    if (device) {
        struct error why = {0};
        enum status status =
            device_encode_from_host(device, base, snapshot, feedback, payload, &why);
        if (status == OK) return OK;
        if (status == INVALID) return error_set(error, INVALID, "%s", why.message);
        replica->device_error = why;
        leave_device(replica);
    }
    codec_encoder_share(replica->encoders[fragment], replica->global.pool);
    return codec_encode(replica->encoders[fragment], base, snapshot, feedback, payload, error);
}

void replica_begin(struct replica *replica, float *local) {
    size_t size = replica->parameters * sizeof(float);
    memcpy(replica->base, replica->global.theta, size);
    memcpy(replica->snapshot, replica->global.theta, size);
    memcpy(replica->next, replica->global.theta, size);
    memcpy(local, replica->global.theta, size);
    for (uint32_t fragment = 0; fragment < replica->fragments; fragment++) {
        replica->base_version[fragment] = replica->next_version[fragment] = replica->global.version;
    }
}

void replica_snapshot(struct replica *replica, uint32_t fragment, const float *local) {
    struct range range = range_of(replica, fragment);
    memcpy(replica->snapshot + range.start, local + range.start, range.size);
}

/* Its encoder is for the codec from here on. */
static enum status use_codec(struct replica *replica, uint32_t fragment, enum codec codec,
                             struct error *error) {
    struct codec_encoder *encoder = NULL;
    uint64_t count = range_of(replica, fragment).count;
    if (replica->encoded[fragment] == codec) return OK;
    if (codec_is_sparse(codec) != (replica->feedback != NULL))
        return error_set(error, INVALID, "%s is a codec of the other mode", codec_name(codec));
    TRY(codec_encoder_create(codec, (size_t)count, &encoder, error));
    codec_encoder_destroy(replica->encoders[fragment]);
    replica->encoders[fragment] = encoder;
    replica->encoded[fragment] = codec;
    if (!replica->device[fragment]) return OK;
    device_encoder_destroy(replica->device[fragment]);
    replica->device[fragment] = NULL;
    struct error why = {0};
    if (device_encoder_create(replica->cuda, codec, count, replica->feedback != NULL,
                              &replica->device[fragment], &why) != OK)
        replica->device_error = why;
    return OK;
}

enum status replica_encode(struct replica *replica, uint32_t fragment, enum codec codec,
                           struct buffer *payload, double *norm, struct error *error) {
    struct range range = range_of(replica, fragment);
    float *feedback = replica->feedback ? replica->feedback + range.start : NULL;
    size_t before = payload->size;
    double squared = 0;
    TRY(use_codec(replica, fragment, codec, error));
    replica->codec = codec;
    TRY(encode_range(replica, fragment, &range, feedback, payload, error));
    struct bytes message = bytes_of(payload->data + before, payload->size - before);
    TRY(codec_walk(replica->codec, message, range.count, &squared, NULL, error));
    *norm = sqrt(squared); /* correctly rounded by IEEE 754, so the same everywhere */
    return OK;
}

void replica_stage(struct replica *replica, uint32_t fragment) {
    struct range range = range_of(replica, fragment);
    memcpy(replica->next + range.start, replica->global.theta + range.start, range.size);
    replica->next_version[fragment] = replica->global.version;
}

enum status replica_restore(struct replica *replica, uint32_t fragment, enum codec codec,
                            struct bytes payload, struct error *error) {
    struct range range = range_of(replica, fragment);
    if (replica->feedback) {
        TRY(codec_restore(codec, payload, range.count, replica->feedback + range.start, error));
    }
    replica_stage(replica, fragment);
    return OK;
}

enum rebase replica_refused(const struct replica *replica) {
    return replica->feedback ? REBASE_SENT : REBASE_KEEP;
}

void replica_follow(struct replica *replica, uint32_t fragment, float *local, bool in_flight) {
    struct range range = range_of(replica, fragment);
    const float *base = replica->base + range.start, *next = replica->next + range.start;
    if (in_flight) elementwise_rebase(replica->snapshot + range.start, next, base, range.count);
    replica_rebase(replica, fragment, local, REBASE_KEEP);
}

void replica_rebase(struct replica *replica, uint32_t fragment, float *local, enum rebase what) {
    struct range range = range_of(replica, fragment);
    const float *next = replica->next + range.start;
    float *base = replica->base + range.start;
    const float *from = what == REBASE_KEEP ? base : replica->snapshot + range.start;
    if (local) elementwise_rebase(local + range.start, next, from, range.count);
    memcpy(base, next, range.size);
    replica->base_version[fragment] = replica->next_version[fragment];
}
