/* The codec on a CUDA device (codec/device.h), by the backend's functions
 * (kernels/cuda_operations.h). On a failure the old error feedback is still whole; the caller goes
 * on with the CPU. */
#include "codec/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct device_encoder {
    const struct cuda_operations *cuda;
    enum codec codec;
    size_t count;
    struct device_memory message, scratch;
    struct device_memory spare;             /* feedback: where the next one goes */
    struct device_memory base, local, held; /* device_encode_from_host's, once it was called */
    void *pinned;                           /* for the message */
    void *staged;                           /* the new feedback, until it has come whole */
};

static size_t floats_size(size_t count) { return count * sizeof(float); }

static enum status take(const struct cuda_operations *cuda, size_t size, const char *what,
                        struct device_memory *out, struct error *error) {
    return cuda_backend_status(cuda, cuda->allocate(size, out), what, error);
}

uint64_t device_encoder_memory(const struct cuda_operations *cuda, enum codec codec, size_t count,
                               bool feedback) {
    struct cuda_codec_sizes sizes;
    cuda->codec_sizes((uint32_t)codec, count, &sizes);
    return sizes.message + sizes.scratch + (feedback ? floats_size(count) : 0);
}

enum status device_encoder_create(const struct cuda_operations *cuda, enum codec codec,
                                  size_t count, bool feedback, struct device_encoder **out,
                                  struct error *error) {
    if (!codec_is_known((int)codec))
        return error_set(error, INVALID, "there is no codec %d", (int)codec);
    if (count > CODEC_COUNT_MAX)
        return error_set(error, INVALID, "%zu elements are more than a message may have", count);
    if (feedback && !codec_is_sparse(codec))
        return error_set(error, INVALID, "%s on a device has no error feedback", codec_name(codec));
    struct cuda_codec_sizes sizes;
    cuda->codec_sizes((uint32_t)codec, count, &sizes);
    struct device_encoder *encoder = xcalloc(1, sizeof *encoder);
    *encoder = (struct device_encoder){.cuda = cuda, .codec = codec, .count = count};
    enum status status = take(cuda, sizes.message, "a message", &encoder->message, error);
    if (status == OK) status = take(cuda, sizes.scratch, "an encoder", &encoder->scratch, error);
    if (status == OK && feedback)
        status = take(cuda, floats_size(count), "error feedback", &encoder->spare, error);
    if (status == OK)
        status = cuda_backend_status(cuda, cuda->allocate_host(sizes.message, &encoder->pinned),
                                     "a message's staging", error);
    if (status != OK) {
        device_encoder_destroy(encoder);
        return error_wrap(error, status, "%s encoder for %zu elements", codec_name(codec), count);
    }
    *out = encoder;
    return OK;
}

void device_encoder_destroy(struct device_encoder *encoder) {
    if (!encoder) return;
    const struct cuda_operations *cuda = encoder->cuda;
    cuda->release(encoder->message);
    cuda->release(encoder->scratch);
    cuda->release(encoder->spare);
    cuda->release(encoder->base);
    cuda->release(encoder->local);
    cuda->release(encoder->held);
    cuda->release_host(encoder->pinned);
    cuda->release_host(encoder->staged);
    free(encoder);
}

enum status device_encode(struct device_encoder *encoder, struct device_memory base,
                          struct device_memory local, struct device_memory *e, struct buffer *out,
                          struct error *error) {
    const struct cuda_operations *cuda = encoder->cuda;
    struct cuda_encoding encoding = {.codec = (uint32_t)encoder->codec,
                                     .count = encoder->count,
                                     .decay = CODEC_FEEDBACK_DECAY,
                                     .base = base,
                                     .local = local,
                                     .message = encoder->message,
                                     .scratch = encoder->scratch};
    if (e) {
        encoding.e = *e;
        encoding.e_out = encoder->spare;
    }
    struct cuda_encoded encoded = {0};
    TRY(cuda_backend_status(cuda, cuda->codec_encode(&encoding, &encoded), "encode", error));
    if (encoded.bad < encoder->count)
        return error_set(error, INVALID, "element %llu of the delta is not finite",
                         (unsigned long long)encoded.bad);
    TRY(cuda_backend_status(cuda,
                            cuda->download(encoder->pinned, encoder->message, 0, encoded.size),
                            "a message", error));
    buffer_append(out, encoder->pinned, encoded.size);
    if (e) {
        encoder->spare = *e;
        *e = encoding.e_out;
    }
    return OK;
}

static enum status fill(struct device_encoder *encoder, const float *from, struct device_memory *to,
                        struct error *error) {
    const struct cuda_operations *cuda = encoder->cuda;
    size_t size = floats_size(encoder->count);
    if (!to->address) TRY(take(cuda, size, "a delta's side", to, error));
    return cuda_backend_status(cuda, cuda->upload(*to, 0, from, size), "a delta's side", error);
}

enum status device_encode_from_host(struct device_encoder *encoder, const float *base,
                                    const float *local, float *e, struct buffer *out,
                                    struct error *error) {
    const struct cuda_operations *cuda = encoder->cuda;
    size_t before = out->size;
    TRY(fill(encoder, base, &encoder->base, error));
    if (local) TRY(fill(encoder, local, &encoder->local, error));
    if (e) TRY(fill(encoder, e, &encoder->held, error));
    if (e && !encoder->staged) {
        size_t size = floats_size(encoder->count);
        TRY(cuda_backend_status(cuda, cuda->allocate_host(size, &encoder->staged),
                                "error feedback's staging", error));
    }
    TRY(device_encode(encoder, encoder->base, local ? encoder->local : (struct device_memory){0},
                      e ? &encoder->held : NULL, out, error));
    if (!e) return OK;
    size_t size = floats_size(encoder->count);
    enum status status = cuda_backend_status(
        cuda, cuda->download(encoder->staged, encoder->held, 0, size), "error feedback", error);
    if (status == OK)
        memcpy(e, encoder->staged, size);
    else
        out->size = before;
    return status;
}

static enum status send(const struct cuda_operations *cuda, const void *from, size_t size,
                        size_t slack, struct device_memory *out, struct error *error) {
    TRY(take(cuda, size + slack, "a message", out, error));
    return cuda_backend_status(cuda, cuda->upload(*out, 0, from, size), "a message", error);
}

enum status device_part_open(const struct cuda_operations *cuda, enum codec codec,
                             struct bytes message, size_t count, float scale, struct cuda_part *out,
                             struct error *error) {
    struct cuda_part part = {.size = message.size, .scale = scale};
    uint64_t *places = NULL;
    size_t chunks = count / CODEC_CHUNK + (count % CODEC_CHUNK != 0);
    enum status status = OK;
    if (codec_is_sparse(codec)) {
        void *memory = NULL;
        TRY(memory_try(MAX(chunks, 1u), sizeof *places, &memory, error));
        places = memory;
        status = codec_places(codec, message, count, places, error);
        if (status == OK)
            status = send(cuda, places, chunks * sizeof *places, 0, &part.places, error);
    } else {
        status = codec_check(codec, message, count, error);
    }
    if (status == OK) status = send(cuda, message.data, message.size, 16, &part.message, error);
    free(places);
    if (status == OK)
        *out = part;
    else
        device_part_close(cuda, &part);
    return status;
}

void device_part_close(const struct cuda_operations *cuda, struct cuda_part *part) {
    cuda->release(part->message);
    cuda->release(part->places);
    *part = (struct cuda_part){0};
}
