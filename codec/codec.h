/* A delta as bytes: what crosses the WAN, and what the ledger keeps.
 *
 * A message is a 12-byte header (codec, format version, element count) and a packed payload;
 * docs/codec.md has the layout bit by bit. Both ends know the codec and the count from the run's
 * manifest, so a message that says otherwise is refused. Messages are canonical: whatever a decoder
 * accepts is exactly what an encoder writes for that content, so a digest of the bytes identifies
 * the content. Decoding costs memory that the caller already holds: nothing is allocated, all
 * bounds are checked and the whole message is validated before the first output element is written.
 *
 *   fp32, bf16     the reference; 32 and 16 bit per parameter
 *   int8           blocks of 128 with a power-of-two scale, nearest even; 8.07
 *   fp4            E3M0: sign and 0 or one of seven powers of two, blocks of 128; 4.07
 *   topk2-64, -128 of every 4096 elements the 64 (128) largest by magnitude; Rice-coded gaps, a
 *   sign and one of two magnitudes
 *                  from a table of means, a power-of-two scale a chunk; 0.136 to 0.142 (0.238 to
 *                  0.251) bit per parameter
 *
 * Everything here is bitwise deterministic, on every machine (no libm, no fused multiply-add;
 * comparisons on bit patterns). Denormals must not be flushed in the calling thread. Any thread,
 * but one encoder serves one call at a time. No I/O.
 *
 * Statuses: INVALID for input that the caller must not send (non-finite) and for a message that
 * breaks its format; the error says which rule and where. FULL where memory is out
 * (codec_encoder_create only).
 */
#ifndef CODEC_CODEC_H
#define CODEC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "base/thread_pool.h"

enum codec { /* the values are on the wire */
             CODEC_FP32 = 1,
             CODEC_BF16 = 2,
             CODEC_INT8 = 3,
             CODEC_FP4 = 4,
             CODEC_TOPK2_64 = 5,
             CODEC_TOPK2_128 = 6
};

enum {
    CODEC_HEADER_SIZE = 12,
    CODEC_CHUNK = 4096, /* elements a topk2 chunk; fragments cut at multiples of it compress best */
    CODEC_BLOCK = 128,  /* elements that share a scale in int8 and fp4 */
    CODEC_ROUND_MAX = UINT16_MAX /* contributions that one array of senders can count */
};
#define CODEC_COUNT_MAX                                                                            \
    ((size_t)1 << 40) /* elements a message: refused above, before any arithmetic on it */
#define CODEC_FEEDBACK_DECAY 0.95f

/* "fp32", "bf16", "int8", "fp4", "topk2-64", "topk2-128", from CODEC_FP32 on; ends with NULL. */
extern const char *const codec_names[];
/* One of them; "unknown" for other values. */
const char *codec_name(enum codec codec);
/* INVALID names the codecs there are. */
MUST_USE enum status codec_parse(const char *text, enum codec *out, struct error *error);
bool codec_is_known(int codec);
/* True for the topk2 codecs: a message touches some coordinates only, and error feedback is
 * required. */
bool codec_is_sparse(enum codec codec);
/* The largest message for count elements, in bytes, header included: exact for all but topk2, where
 * it is the worst case (a quarter above what is usual). A coordinator refuses a longer payload
 * before it receives it. count <= CODEC_COUNT_MAX. */
size_t codec_bound(enum codec codec, size_t count);
/* The largest of any codec of the same mode as this one: a rule may change one for the other. */
size_t codec_bound_of_mode(enum codec codec, size_t count);
/* Bits per parameter of a usual message without its header: exact for all but topk2, where it is
 * what deltas of trained models take (docs/codec.md). 0 for other values. */
double codec_bits(enum codec codec);

/* --- encoding (the site) --- */

struct codec_encoder; /* scratch memory for one codec and count */

/* topk2 needs about count/9 bytes (count/4.5 with k=128), the others next to nothing. INVALID if
 * count > CODEC_COUNT_MAX. */
MUST_USE enum status codec_encoder_create(enum codec codec, size_t count,
                                          struct codec_encoder **out, struct error *error);
void codec_encoder_destroy(struct codec_encoder *encoder); /* NULL is a no-op */
/* Its work is shared by the pool's threads from here on: the same bits. Borrowed; NULL, as at
 * first: the caller's thread does it all. */
void codec_encoder_share(struct codec_encoder *encoder, struct thread_pool *pool);

/* Encodes delta = base − local, or base itself where local is NULL, and appends the message to *out
 * (at most codec_bound bytes). With error feedback, e not NULL:
 *     e = (0.95 · e) + delta;   message = encode(e);   e = e − decode(message)
 * each operation rounded once to fp32. Then decode(message) + e is 0.95·e_before + delta up to one
 * rounding a coordinate sent, and exactly that for coordinates not sent. Without, e = NULL, what
 * the message lacks is lost. INVALID if an element of delta, or of 0.95·e + delta, is not finite,
 * naming the first: then neither e nor *out has changed. base, local, e are [count], host,
 * borrowed; e must not overlap the others. */
MUST_USE enum status codec_encode(struct codec_encoder *encoder, const float *base,
                                  const float *local, float *e, struct buffer *out,
                                  struct error *error);

/* --- decoding (everybody) --- `codec` and `count` are what the manifest says; INVALID if the
 * message disagrees --- */

/* All of the format's rules and that every value is finite, without decoding to memory. */
MUST_USE enum status codec_check(enum codec codec, struct bytes message, size_t count,
                                 struct error *error);
/* out[i] = value sent, or 0 where none was. out is [count], written only on success. */
MUST_USE enum status codec_decode(enum codec codec, struct bytes message, size_t count, float *out,
                                  struct error *error);
/* All of the format's rules, and on the same walk Σ value² over the message as
 * elementwise_norm_squared gives for codec_decode's output, the same bits, without the memory; and
 * where each stretch begins. marks is [codec_stretches(count)]; norm_squared and marks may be NULL.
 */
MUST_USE enum status codec_walk(enum codec codec, struct bytes message, size_t count,
                                double *norm_squared, uint64_t *marks, struct error *error);

/* A message that is known to be good, because codec_walk has walked these bytes for that codec and
 * count, is decoded in one pass, and nothing can fail. fed/payload.h has the type that says so. It
 * is decoded by stretches, so that threads can share the work: each is of CODEC_STRETCH elements,
 * the last one of what is left. */
enum { CODEC_STRETCH = 64 * CODEC_CHUNK };
size_t codec_stretches(size_t count);
struct codec_stretch {
    size_t first, size; /* elements */
    uint64_t mark;      /* as codec_walk gave it */
};
struct codec_stretch codec_stretch_at(size_t count, const uint64_t *marks, size_t stretch);
/* out is [stretch.size]. */
void codec_decode_stretch(enum codec codec, struct bytes message, size_t count,
                          struct codec_stretch stretch, float *out);
/* What a round of a sparse codec has brought so far, of each coordinate. Arrays are [count]. */
struct codec_round {
    float *theta;
    float *sum;        /* of what was sent, times its scale */
    uint16_t *senders; /* messages that have the coordinate; CODEC_ROUND_MAX at most in a round */
};
/* This is how contributions merge in sparse mode: theta goes to where the mean of the round is with
 * this message, each coordinate's over those that sent it (elementwise_scatter_mean). Nothing
 * outside the stretch and nothing that was not sent is touched. */
void codec_merge_stretch(enum codec codec, struct bytes message, size_t count,
                         struct codec_stretch stretch, float scale, float rate,
                         const struct codec_round *round);
/* A message of ours was refused or lost: puts its mass back, e = e + decode(message). */
MUST_USE enum status codec_restore(enum codec codec, struct bytes message, size_t count, float *e,
                                   struct error *error);

/* Checks a topk2 message, and says where each chunk begins: what a decoder needs that does many at
 * a time (codec/device.h). places is [chunks]; for each: the bit in the stream, from 48 on the
 * chunk's shift counted from -256, in bit 63 whether the stream says it. INVALID for other codecs.
 */
MUST_USE enum status codec_places(enum codec codec, struct bytes message, size_t count,
                                  uint64_t *places, struct error *error);

/* Calls visit for runs of coordinates sent, in increasing order: indices and their values, at most
 * CODEC_CHUNK at a time. index counts from the start of the message's elements. The arrays are lent
 * for the call. For tools and statistics. */
typedef void codec_visitor(void *context, const uint64_t *index, const float *value, size_t count);
MUST_USE enum status codec_visit(enum codec codec, struct bytes message, size_t count,
                                 codec_visitor *visitor, void *context, struct error *error);

#endif
