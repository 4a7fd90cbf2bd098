/* The border between the programs (C11) and the CUDA backend (C++17, a shared object of its own):
 * one struct of functions.
 *
 * Both sides include this file and nothing else of each other's. The shared object exports one
 * symbol, which returns the struct; version and struct_size tell a loader whether it was built from
 * this very text. No CUDA type crosses the border: device memory and streams are structs of their
 * own, so that they cannot be mistaken for anything here.
 *
 * Every function that can fail returns NULL, or a text that says which call failed and why, the
 * calling thread's until its next failure; `failure` then says what kind it was
 * (kernels/cuda_backend.h makes a status of both). A failed operation may have done a part of its
 * work; after CUDA_FAILURE_LOST no call succeeds, in any thread, until the process ends.
 *
 * Any thread may call, but one buffer or object is one thread's at a time. Work goes, in order, to
 * the stream that the calling thread uses; nothing orders the streams of two threads but
 * synchronize. upload, download, is_finite, norm_squared and synchronize wait for the thread's
 * stream; a failure of queued work shows in the next call that waits.
 *
 * The arithmetic is kernels/elementwise.h's, operation by operation and bit by bit; [count] floats
 * each unless it says so.
 */
#ifndef KERNELS_CUDA_OPERATIONS_H
#define KERNELS_CUDA_OPERATIONS_H

#include <stddef.h>
#include <stdint.h>

enum {
    CUDA_OPERATIONS_VERSION = 3,
    CUDA_CODEC_CHUNK = 4096,
    CUDA_CODEC_KEEP_MAX = 128,
    CUDA_PARTS_MAX = 256,
    CUDA_FAILURE_SIZE = 256
};
#define CUDA_OPERATIONS_SYMBOL "atoll_cuda_operations"

enum cuda_failure {
    CUDA_FAILURE_NONE = 0,
    CUDA_FAILURE_OTHER,  /* a person must look */
    CUDA_FAILURE_MEMORY, /* not enough device memory: the text has the figures */
    CUDA_FAILURE_LOST,   /* the device is gone, or its context: save what is on the host and end */
    CUDA_FAILURE_INPUT   /* the arguments: nothing was done */
};

struct device_memory { /* an address on the device; 0 is none */
    uint64_t address;
};
struct device_stream { /* {0}: the device's default stream, which waits for all others that were not
                          made by stream_create */
    uint64_t handle;
};

struct cuda_device {
    char name[256]; /* terminated */
    uint64_t memory;
    int major, minor; /* compute capability */
    int driver;       /* the CUDA version it knows: 13000 is 13.0 */
    int multiprocessors;
};

/* --- the codec's arguments --- */
struct cuda_codec_sizes {
    size_t message; /* bytes of a message's buffer: the longest possible, and what is written beside
                       it */
    size_t scratch;
};
struct cuda_encoding { /* of base − local, or of base, with e as codec_encode of codec/codec.h has
                          it; [count] floats each */
    uint32_t codec;
    uint64_t count;
    float decay;
    struct device_memory base, local; /* local: may be none */
    /* topk2, may be none: the feedback before and after, in different memory, so that input that is
     * refused leaves the one whole. Dense codecs have none */
    struct device_memory e, e_out;
    struct device_memory message, scratch; /* of codec_sizes; message aligned to 16 bytes */
};
struct cuda_encoded {
    uint64_t bad; /* the first element of what was to be encoded that is not finite; count where all
                     are */
    uint64_t size; /* of the message */
};
struct cuda_part { /* a message on the device, with 16 bytes after it that may be read */
    struct device_memory message; /* aligned to 16 bytes */
    struct device_memory places;  /* topk2: uint64_t a chunk, as codec_places of codec/codec.h gives
                                     them; else none */
    uint64_t size;                /* of the message */
    float scale;
};
struct cuda_round {                  /* as struct codec_round */
    struct device_memory theta, sum; /* float [count] */
    struct device_memory senders;    /* uint16_t [count] */
};
enum { /* a place: the bit of the stream at which a chunk begins, its shift counted from this, and
          whether the stream says it */
       CUDA_PLACE_SHIFT_AT = 48,
       CUDA_PLACE_SHIFT_ZERO = 256,
       CUDA_PLACE_HAS_SHIFT_AT = 63
};
struct cuda_nesterov {
    struct device_memory theta, momentum, sum; /* [count] floats each */
    float rate, beta, period;
    uint32_t ends; /* the period: only then momentum is touched */
};

/* Memory so many bytes further on. */
static inline struct device_memory device_memory_at(struct device_memory memory, size_t offset) {
    struct device_memory at = {memory.address + offset};
    return at;
}

struct cuda_operations {
    uint32_t version, struct_size;

    /* --- device --- */
    /* Uses the first device that CUDA_VISIBLE_DEVICES lets through. */
    const char *(*open)(struct cuda_device *out);
    enum cuda_failure (*failure)(void); /* of this thread's last failure; LOST once the device is */

    /* --- memory --- */
    const char *(*memory)(size_t *available, size_t *total);
    const char *(*allocate)(size_t size, struct device_memory *out); /* zeroed */
    void (*release)(struct device_memory memory);
    /* pinned: for the *_later copies. Zeroed */
    const char *(*allocate_host)(size_t size, void **out);
    void (*release_host)(void *memory); /* NULL is a no-op */
    const char *(*upload)(struct device_memory to, size_t offset, const void *from, size_t size);
    const char *(*download)(void *to, struct device_memory from, size_t offset, size_t size);
    /* Queued: host memory from allocate_host, left alone until the next synchronize. */
    const char *(*upload_later)(struct device_memory to, size_t offset, const void *from,
                                size_t size);
    const char *(*download_later)(void *to, struct device_memory from, size_t offset, size_t size);
    const char *(*copy)(struct device_memory to, size_t to_offset, struct device_memory from,
                        size_t from_offset, size_t size);
    const char *(*clear)(struct device_memory memory, size_t offset, size_t size); /* zero bytes */

    /* --- streams --- */
    const char *(*stream_create)(struct device_stream *out);
    void (*stream_destroy)(struct device_stream stream); /* synchronized before; {0} is a no-op */
    void (*stream_use)(struct device_stream stream);     /* by this thread, from now on */
    const char *(*synchronize)(void);                    /* waits for this thread's stream */

    /* --- as in kernels/elementwise.h --- */
    const char *(*add)(struct device_memory out, struct device_memory a, struct device_memory b,
                       size_t count);
    const char *(*subtract)(struct device_memory out, struct device_memory a,
                            struct device_memory b, size_t count);
    const char *(*scale)(struct device_memory out, struct device_memory a, float scale,
                         size_t count);
    const char *(*add_scaled)(struct device_memory out, struct device_memory a, float scale,
                              size_t count);
    const char *(*feedback)(struct device_memory e, struct device_memory delta, float decay,
                            size_t count);
    const char *(*rebase)(struct device_memory local, struct device_memory fresh,
                          struct device_memory origin, size_t count);
    const char *(*nesterov_between)(struct device_memory theta, struct device_memory sum,
                                    struct device_memory g, float rate, float period, size_t count);
    const char *(*nesterov_end)(struct device_memory theta, struct device_memory momentum,
                                struct device_memory sum, struct device_memory g, float rate,
                                float beta, float period, size_t count);
    const char *(*sgd)(struct device_memory theta, struct device_memory q, float weight,
                       size_t count);
    const char *(*is_finite)(struct device_memory a, size_t count, int *out);
    const char *(*norm_squared)(struct device_memory a, size_t count, double *out);

    /* --- codec/codec.h's messages; `codec` is its number on the wire --- */
    void (*codec_sizes)(uint32_t codec, uint64_t count, struct cuda_codec_sizes *out);
    /* Waits. Where out->bad < count nothing else is true: e_out and the message are garbage, e is
     * as it was. */
    const char *(*codec_encode)(const struct cuda_encoding *encoding, struct cuda_encoded *out);
    /* Messages below were checked on the host; wrong ones are read wrongly, but within their
     * bounds. */
    /* Sparse: target = target + (scale · value) for each coordinate sent. */
    const char *(*codec_add)(uint32_t codec, uint64_t count, const struct cuda_part *part,
                             struct device_memory target);
    /* Parts of one round, in this order, as codec_merge_stretch. part_count <= CUDA_PARTS_MAX. */
    const char *(*codec_step_sparse)(uint32_t codec, uint64_t count, const struct cuda_part *parts,
                                     uint32_t part_count, float rate,
                                     const struct cuda_round *round);
    /* Delayed Nesterov for one part of a dense codec: as elementwise_scale by its scale, then
     * nesterov_between or _end. */
    const char *(*codec_step_dense)(uint32_t codec, uint64_t count, const struct cuda_part *part,
                                    const struct cuda_nesterov *step);
};

#endif
