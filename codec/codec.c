/* The codec's entry points (codec/codec.h): names, sizes, the 12-byte header, error feedback; then
 * dense.c or topk2.c does the work. Encoding reads its input twice, so that a refusal changes
 * nothing. */
#include "codec/codec.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/format.h"
#include "kernels/cuda_operations.h"
#include "kernels/elementwise.h"

struct codec_encoder {
    enum codec codec;
    size_t count;
    struct topk2_encoder *topk2; /* NULL for dense codecs */
    struct thread_pool *pool;    /* borrowed */
};

const char *const codec_names[] = {"fp32", "bf16", "int8", "fp4", "topk2-64", "topk2-128", NULL};

const char *codec_name(enum codec codec) {
    return codec_is_known((int)codec) ? codec_names[codec - CODEC_FP32] : "unknown";
}

enum status codec_parse(const char *text, enum codec *out, struct error *error) {
    for (int i = 0; codec_names[i]; i++) {
        if (strcmp(codec_names[i], text) == 0) {
            *out = (enum codec)(CODEC_FP32 + i);
            return OK;
        }
    }
    return error_set(error, INVALID,
                     "codec '%.40s' is none of fp32, bf16, int8, fp4, topk2-64, topk2-128", text);
}

bool codec_is_known(int codec) { return codec >= CODEC_FP32 && codec <= CODEC_TOPK2_128; }
bool codec_is_sparse(enum codec codec) {
    return codec == CODEC_TOPK2_64 || codec == CODEC_TOPK2_128;
}

size_t codec_bound(enum codec codec, size_t count) {
    return CODEC_HEADER_SIZE + (codec_is_sparse(codec) ? topk2_payload_bound(codec, count)
                                                       : dense_payload_size(codec, count));
}

size_t codec_bound_of_mode(enum codec codec, size_t count) {
    size_t most = 0;
    for (int other = CODEC_FP32; codec_is_known(other); other++)
        if (codec_is_sparse((enum codec)other) == codec_is_sparse(codec))
            most = MAX(most, codec_bound((enum codec)other, count));
    return most;
}

double codec_bits(enum codec codec) {
    switch (codec) {
    case CODEC_FP32: return 32;
    case CODEC_BF16: return 16;
    case CODEC_INT8: return 8 + 8.0 / CODEC_BLOCK; /* a byte of scale per block */
    case CODEC_FP4: return 4 + 8.0 / CODEC_BLOCK;
    case CODEC_TOPK2_64: return 0.1370;
    case CODEC_TOPK2_128: return 0.2450;
    }
    return 0;
}

/* --- encoding --- */

enum status codec_encoder_create(enum codec codec, size_t count, struct codec_encoder **out,
                                 struct error *error) {
    if (!codec_is_known((int)codec))
        return error_set(error, INVALID, "there is no codec %d", (int)codec);
    if (count > CODEC_COUNT_MAX)
        return error_set(error, INVALID, "%zu elements are more than a message may have", count);
    struct topk2_encoder *topk2 = NULL;
    if (codec_is_sparse(codec)) TRY(topk2_encoder_create(codec, count, &topk2, error));
    struct codec_encoder *encoder = xmalloc(sizeof *encoder);
    *encoder = (struct codec_encoder){.codec = codec, .count = count, .topk2 = topk2};
    *out = encoder;
    return OK;
}

void codec_encoder_destroy(struct codec_encoder *encoder) {
    if (!encoder) return;
    topk2_encoder_destroy(encoder->topk2);
    free(encoder);
}

/* x = what is to be encoded, for one chunk: the one place where it is computed, so that the check
 * sees what the encoder will. */
static void load_chunk(float *x, const float *base, const float *local, const float *e,
                       size_t size) {
    if (local) {
        elementwise_subtract(x, base, local, size);
    } else {
        elementwise_copy(x, base, size);
    }
    if (e) {
        for (size_t i = 0; i < size; i++) x[i] = CODEC_FEEDBACK_DECAY * e[i] + x[i];
    }
}

void codec_encoder_share(struct codec_encoder *encoder, struct thread_pool *pool) {
    encoder->pool = pool;
}

/* One message, while it is encoded. */
struct encoding {
    const struct codec_encoder *encoder;
    const float *base, *local;
    float *e;
    uint8_t *payload;
    size_t *infinite; /* [stretches]: the first element that is not finite; SIZE_MAX: none */
};

/* Goes through a stretch's chunks: the next one's elements in x, `at` and `size` say which. */
static bool next_chunk(const struct encoding *encoding, size_t stretch, size_t *at, size_t *size,
                       float *x) {
    size_t first = stretch * CODEC_STRETCH, count = encoding->encoder->count;
    *at = *size > 0 ? *at + *size : first;
    if (*at >= MIN(first + CODEC_STRETCH, count)) return false;
    *size = MIN((size_t)CODEC_CHUNK, count - *at);
    load_chunk(x, encoding->base + *at, encoding->local ? encoding->local + *at : NULL,
               encoding->e ? encoding->e + *at : NULL, *size);
    return true;
}

static void check_stretch(void *context, uint64_t stretch, uint32_t worker) {
    const struct encoding *encoding = context;
    float x[CODEC_CHUNK];
    size_t at = 0, size = 0;
    (void)worker;
    encoding->infinite[stretch] = SIZE_MAX;
    while (next_chunk(encoding, (size_t)stretch, &at, &size, x)) {
        if (elementwise_is_finite(x, size)) continue;
        size_t i = 0;
        while (bits_are_finite(float_bits(x[i]))) i++;
        encoding->infinite[stretch] = at + i;
        return;
    }
}

static enum status check_input(struct encoding *encoding, struct error *error) {
    size_t stretches = codec_stretches(encoding->encoder->count), first = SIZE_MAX;
    encoding->infinite = xcalloc(MAX(stretches, 1u), sizeof *encoding->infinite);
    thread_pool_run(encoding->encoder->pool, stretches, check_stretch, encoding);
    for (size_t i = 0; i < stretches; i++) first = MIN(first, encoding->infinite[i]);
    free(encoding->infinite);
    if (first == SIZE_MAX) return OK;
    return error_set(error, INVALID, "element %zu of the delta is not finite", first);
}

static void write_header(uint8_t *out, enum codec codec, size_t count) {
    out[0] = (uint8_t)codec;
    out[1] = FORMAT_VERSION;
    out[2] = out[3] = 0;
    for (unsigned byte = 0; byte < 8; byte++)
        out[4 + byte] = (uint8_t)((uint64_t)count >> 8 * byte);
}

static void encode_stretch(void *context, uint64_t stretch, uint32_t worker) {
    const struct encoding *encoding = context;
    const struct codec_encoder *encoder = encoding->encoder;
    float x[CODEC_CHUNK], decoded[CODEC_CHUNK], *e = encoding->e;
    size_t at = 0, size = 0;
    uint32_t hint = 0;
    (void)worker;
    while (next_chunk(encoding, (size_t)stretch, &at, &size, x)) {
        if (encoder->topk2) {
            topk2_select(encoder->topk2, at, x, size, &hint);
            if (e) elementwise_copy(e + at, x, size);
        } else {
            dense_encode(encoder->codec, x, at, size, encoder->count, encoding->payload, decoded);
            if (e) elementwise_subtract(e + at, x, decoded, size);
        }
    }
}

static void subtract_stretch(void *context, uint64_t stretch, uint32_t worker) {
    const struct encoding *encoding = context;
    size_t first = (size_t)stretch * CODEC_STRETCH,
           end = MIN(first + CODEC_STRETCH, encoding->encoder->count);
    (void)worker;
    for (size_t at = first; at < end; at += CODEC_CHUNK)
        topk2_subtract(encoding->encoder->topk2, at, encoding->e + at);
}

/* Two passes: the first only reads and may refuse; the second is the fused one and cannot fail, so
 * a refusal leaves e whole. */
enum status codec_encode(struct codec_encoder *encoder, const float *base, const float *local,
                         float *e, struct buffer *out, struct error *error) {
    enum codec codec = encoder->codec;
    size_t count = encoder->count;
    struct encoding encoding = {.encoder = encoder, .base = base, .local = local, .e = e};
    TRY(check_input(&encoding, error));

    buffer_reserve(out, out->size + codec_bound(codec, count) + BIT_WRITER_SLACK);
    write_header(out->data + out->size, codec, count);
    encoding.payload = out->data + out->size + CODEC_HEADER_SIZE;
    thread_pool_run(encoder->pool, codec_stretches(count), encode_stretch, &encoding);
    out->size += CODEC_HEADER_SIZE;
    out->size += encoder->topk2 ? topk2_finish(encoder->topk2, encoding.payload)
                                : dense_payload_size(codec, count);
    if (encoder->topk2 && e)
        thread_pool_run(encoder->pool, codec_stretches(count), subtract_stretch, &encoding);
    return OK;
}

/* --- walking over a message --- */

enum status message_begin(enum codec codec, struct bytes message, size_t count, struct cursor *out,
                          struct error *error) {
    if (!codec_is_known((int)codec))
        return error_set(error, INVALID, "there is no codec %d", (int)codec);
    const char *name = codec_name(codec);
    if (count > CODEC_COUNT_MAX)
        return error_set(error, INVALID, "%s message: %zu elements are more than one may have",
                         name, count);
    struct reader reader = reader_of(message);
    unsigned has_codec = reader_u8(&reader), version = reader_u8(&reader),
             reserved = reader_u16(&reader);
    uint64_t has_count = reader_u64(&reader);
    if (reader.failed)
        return error_set(error, INVALID, "%s message: %zu bytes are less than a header", name,
                         message.size);
    if (has_codec != codec)
        return error_set(error, INVALID, "message is of codec %u, wanted %s", has_codec, name);
    if (version != FORMAT_VERSION)
        return error_set(error, INVALID, "%s message: format version %u is not %d", name, version,
                         FORMAT_VERSION);
    if (reserved != 0)
        return error_set(error, INVALID, "%s message: reserved header bytes are not zero", name);
    if (has_count != count) {
        return error_set(error, INVALID, "%s message: has %llu elements, wanted %zu", name,
                         (unsigned long long)has_count, count);
    }
    size_t left = reader_left(&reader);
    struct cursor cursor = {.codec = codec, .count = count, .payload = reader_take(&reader, left)};
    if (codec_is_sparse(codec)) {
        TRY(topk2_begin_decoding(&cursor, error));
    } else if (left != dense_payload_size(codec, count)) {
        return error_set(error, INVALID, "%s message: payload is %zu bytes, wanted %zu", name, left,
                         dense_payload_size(codec, count));
    }
    *out = cursor;
    return OK;
}

enum status message_next(struct cursor *cursor, struct piece *out, struct error *error) {
    out->first = cursor->at;
    out->size = MIN((size_t)CODEC_CHUNK, cursor->count - cursor->at);
    TRY(codec_is_sparse(cursor->codec) ? topk2_next(cursor, out, error)
                                       : dense_next(cursor, out, error));
    cursor->at += out->size;
    return OK;
}

enum status message_end(const struct cursor *cursor, struct error *error) {
    return codec_is_sparse(cursor->codec) ? topk2_end(cursor, error) : OK;
}

uint64_t message_mark(const struct cursor *cursor) {
    return codec_is_sparse(cursor->codec) ? topk2_mark(cursor) : 0;
}

void message_seek(struct cursor *cursor, size_t at, uint64_t mark) {
    cursor->at = at;
    cursor->is_checked = true;
    if (codec_is_sparse(cursor->codec)) topk2_seek(cursor, mark);
}

typedef void piece_user(void *context, const struct piece *piece);

static enum status walk(enum codec codec, struct bytes message, size_t count, piece_user *use,
                        void *context, struct error *error) {
    struct cursor cursor;
    struct piece piece;
    TRY(message_begin(codec, message, count, &cursor, error));
    while (cursor.at < cursor.count) {
        TRY(message_next(&cursor, &piece, error));
        if (use) use(context, &piece);
    }
    return message_end(&cursor, error);
}

enum status codec_check(enum codec codec, struct bytes message, size_t count, struct error *error) {
    return walk(codec, message, count, NULL, NULL, error);
}

/* Everything that follows checks the whole message before it gives away the first element. */
static enum status check_and_walk(enum codec codec, struct bytes message, size_t count,
                                  piece_user *use, void *context, struct error *error) {
    TRY(walk(codec, message, count, NULL, NULL, error));
    return walk(codec, message, count, use, context, error);
}

/* --- uses --- */

static void spread(const struct piece *piece, float *out) {
    if (piece->sent == piece->size) {
        elementwise_copy(out, piece->value, piece->size);
        return;
    }
    memset(out, 0, piece->size * sizeof *out);
    for (size_t j = 0; j < piece->sent; j++) out[piece->index[j]] = piece->value[j];
}

static void use_decode(void *context, const struct piece *piece) {
    spread(piece, (float *)context + piece->first);
}

enum status codec_decode(enum codec codec, struct bytes message, size_t count, float *out,
                         struct error *error) {
    return check_and_walk(codec, message, count, use_decode, out, error);
}

size_t codec_stretches(size_t count) { return count / CODEC_STRETCH + (count % CODEC_STRETCH > 0); }

struct codec_stretch codec_stretch_at(size_t count, const uint64_t *marks, size_t stretch) {
    size_t first = stretch * CODEC_STRETCH;
    return (struct codec_stretch){first, MIN((size_t)CODEC_STRETCH, count - first), marks[stretch]};
}

/* Of a message that was walked over before. */
static void walk_stretch(enum codec codec, struct bytes message, size_t count,
                         struct codec_stretch stretch, piece_user *use, void *context) {
    struct cursor cursor;
    struct piece piece;
    MUST(message_begin(codec, message, count, &cursor, NULL));
    message_seek(&cursor, stretch.first, stretch.mark);
    while (cursor.at < stretch.first + stretch.size) {
        MUST(message_next(&cursor, &piece, NULL));
        use(context, &piece);
    }
}

struct decoding {
    size_t first;
    float *out;
};

static void use_decode_stretch(void *context, const struct piece *piece) {
    const struct decoding *decoding = context;
    spread(piece, decoding->out + (piece->first - decoding->first));
}

void codec_decode_stretch(enum codec codec, struct bytes message, size_t count,
                          struct codec_stretch stretch, float *out) {
    struct decoding decoding = {stretch.first, out};
    walk_stretch(codec, message, count, stretch, use_decode_stretch, &decoding);
}

struct merging {
    float scale, rate;
    const struct codec_round *round;
};

static void use_merge(void *context, const struct piece *piece) {
    const struct merging *merge = context;
    const struct codec_round *round = merge->round;
    elementwise_scatter_mean(round->theta + piece->first, round->sum + piece->first,
                             round->senders + piece->first, piece->index, piece->value,
                             merge->scale, merge->rate, piece->sent);
}

void codec_merge_stretch(enum codec codec, struct bytes message, size_t count,
                         struct codec_stretch stretch, float scale, float rate,
                         const struct codec_round *round) {
    ASSERT(codec_is_sparse(codec)); /* a dense piece has no indices */
    struct merging merge = {scale, rate, round};
    walk_stretch(codec, message, count, stretch, use_merge, &merge);
}

static void use_restore(void *context, const struct piece *piece) {
    float *e = (float *)context + piece->first;
    if (piece->sent == piece->size) { /* a dense codec's has no indices */
        elementwise_add_scaled(e, piece->value, 1.0f, piece->size);
        return;
    }
    for (size_t j = 0; j < piece->sent; j++)
        e[piece->index[j]] = e[piece->index[j]] + piece->value[j];
}

enum status codec_restore(enum codec codec, struct bytes message, size_t count, float *e,
                          struct error *error) {
    return check_and_walk(codec, message, count, use_restore, e, error);
}

/* A piece is one of elementwise_norm_squared's blocks, so block by block from the left is its tree.
 */
_Static_assert((int)CODEC_CHUNK == (int)ELEMENTWISE_BLOCK,
               "a chunk is a block of the reduction tree");

static double piece_norm_squared(const struct piece *piece) {
    return piece->sent == piece->size
               ? elementwise_norm_squared(piece->value, piece->size)
               : elementwise_norm_squared_at(piece->index, piece->value, piece->sent);
}

enum status codec_walk(enum codec codec, struct bytes message, size_t count, double *norm_squared,
                       uint64_t *marks, struct error *error) {
    struct cursor cursor;
    struct piece piece;
    double sum = 0;
    TRY(message_begin(codec, message, count, &cursor, error));
    while (cursor.at < cursor.count) {
        if (marks && cursor.at % CODEC_STRETCH == 0)
            marks[cursor.at / CODEC_STRETCH] = message_mark(&cursor);
        TRY(message_next(&cursor, &piece, error));
        if (norm_squared) sum += piece_norm_squared(&piece);
    }
    TRY(message_end(&cursor, error));
    if (norm_squared) *norm_squared = sum;
    return OK;
}

enum status codec_places(enum codec codec, struct bytes message, size_t count, uint64_t *places,
                         struct error *error) {
    struct cursor cursor;
    struct piece piece;
    if (!codec_is_sparse(codec))
        return error_set(error, INVALID, "%s has no places", codec_name(codec));
    TRY(message_begin(codec, message, count, &cursor, error));
    for (size_t c = 0; cursor.at < cursor.count; c++) {
        uint64_t at = 8 * cursor.bits.at - cursor.bits.count;
        bool has_shift = cursor.shift_known;
        TRY(message_next(&cursor, &piece, error));
        places[c] = at | (uint64_t)(cursor.shift + CUDA_PLACE_SHIFT_ZERO) << CUDA_PLACE_SHIFT_AT |
                    (uint64_t)has_shift << CUDA_PLACE_HAS_SHIFT_AT;
    }
    return message_end(&cursor, error);
}

struct visit {
    codec_visitor *visitor;
    void *context;
};

static void use_visit(void *context, const struct piece *piece) {
    struct visit *visit = context;
    uint64_t index[CODEC_CHUNK];
    for (size_t j = 0; j < piece->sent; j++)
        index[j] = piece->first + (piece->sent == piece->size ? j : piece->index[j]);
    if (piece->sent > 0) visit->visitor(visit->context, index, piece->value, piece->sent);
}

enum status codec_visit(enum codec codec, struct bytes message, size_t count,
                        codec_visitor *visitor, void *context, struct error *error) {
    struct visit visit = {visitor, context};
    return check_and_walk(codec, message, count, use_visit, &visit, error);
}
