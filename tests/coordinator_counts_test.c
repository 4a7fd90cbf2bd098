/* How often the coordinator reads one accepted contribution: every digest and every walk over its
 * payload, from the first chunk to the merged step. One that is added is a design that changed.
 *
 * The linker puts the functions below in front of those of crypto/ and codec/ (-Wl,--wrap, in the
 * Makefile). The server is in this process; what the client does on the test's thread is left out.
 */
#include <stdatomic.h>

#include "crypto/digest.h"
#include "tests/malformed_client.h"

static const struct bytes *_Atomic payload; /* of the one contribution; NULL: none is counted */
static pthread_t client;
static _Atomic uint64_t digested, walks; /* bytes; passes over the whole message */

/* NULL on the client's thread. */
static const struct bytes *servers(void) {
    const struct bytes *now = payload;
    return now && !pthread_equal(pthread_self(), client) ? now : NULL;
}

/* A piece of the payload, wherever it was copied. */
static void count_digest(const void *data, size_t size) {
    const struct bytes *whole = servers();
    if (whole && size >= 64 && memmem(whole->data, whole->size, data, size)) digested += size;
}

static void count_walk(struct bytes message) {
    const struct bytes *whole = servers();
    if (whole && bytes_equal(message, *whole)) walks++;
}

void __real_digest_sha256(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]);
void __wrap_digest_sha256(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]);
void __wrap_digest_sha256(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]) {
    count_digest(data, size);
    __real_digest_sha256(data, size, out);
}

void __real_digest_pieces(const struct bytes *pieces, size_t count,
                          uint8_t out[static DIGEST_SIZE]);
void __wrap_digest_pieces(const struct bytes *pieces, size_t count,
                          uint8_t out[static DIGEST_SIZE]);
void __wrap_digest_pieces(const struct bytes *pieces, size_t count,
                          uint8_t out[static DIGEST_SIZE]) {
    for (size_t i = 0; i < count; i++) count_digest(pieces[i].data, pieces[i].size);
    __real_digest_pieces(pieces, count, out);
}

void __real_digest_update(struct digest *digest, const void *data, size_t size);
void __wrap_digest_update(struct digest *digest, const void *data, size_t size);
void __wrap_digest_update(struct digest *digest, const void *data, size_t size) {
    count_digest(data, size);
    __real_digest_update(digest, data, size);
}

enum status __real_codec_walk(enum codec codec, struct bytes message, size_t count,
                              double *norm_squared, uint64_t *marks, struct error *error);
enum status __wrap_codec_walk(enum codec codec, struct bytes message, size_t count,
                              double *norm_squared, uint64_t *marks, struct error *error);
enum status __wrap_codec_walk(enum codec codec, struct bytes message, size_t count,
                              double *norm_squared, uint64_t *marks, struct error *error) {
    count_walk(message);
    return __real_codec_walk(codec, message, count, norm_squared, marks, error);
}

enum status __real_codec_check(enum codec codec, struct bytes message, size_t count,
                               struct error *error);
enum status __wrap_codec_check(enum codec codec, struct bytes message, size_t count,
                               struct error *error);
enum status __wrap_codec_check(enum codec codec, struct bytes message, size_t count,
                               struct error *error) {
    count_walk(message);
    return __real_codec_check(codec, message, count, error);
}

enum status __real_codec_decode(enum codec codec, struct bytes message, size_t count, float *out,
                                struct error *error);
enum status __wrap_codec_decode(enum codec codec, struct bytes message, size_t count, float *out,
                                struct error *error);
enum status __wrap_codec_decode(enum codec codec, struct bytes message, size_t count, float *out,
                                struct error *error) {
    count_walk(message);
    return __real_codec_decode(codec, message, count, out, error);
}

/* The world's models are small: a message is one stretch. */
void __real_codec_decode_stretch(enum codec codec, struct bytes message, size_t count,
                                 struct codec_stretch stretch, float *out);
void __wrap_codec_decode_stretch(enum codec codec, struct bytes message, size_t count,
                                 struct codec_stretch stretch, float *out);
void __wrap_codec_decode_stretch(enum codec codec, struct bytes message, size_t count,
                                 struct codec_stretch stretch, float *out) {
    count_walk(message);
    __real_codec_decode_stretch(codec, message, count, stretch, out);
}

void __real_codec_merge_stretch(enum codec codec, struct bytes message, size_t count,
                                struct codec_stretch stretch, float scale, float rate,
                                const struct codec_round *round);
void __wrap_codec_merge_stretch(enum codec codec, struct bytes message, size_t count,
                                struct codec_stretch stretch, float scale, float rate,
                                const struct codec_round *round);
void __wrap_codec_merge_stretch(enum codec codec, struct bytes message, size_t count,
                                struct codec_stretch stretch, float scale, float rate,
                                const struct codec_round *round) {
    count_walk(message);
    __real_codec_merge_stretch(codec, message, count, stretch, scale, rate, round);
}

static void check_counts(const char *rules) {
    struct world w;
    world_create(&w, "run", rules);
    world_start(&w);
    struct site *one = world_join(&w, "one");
    struct buffer made = site_payload(&w, one);
    struct contribution c = site_contribution(&w, one, buffer_bytes(&made));
    struct signed_header header = site_sign(one, &c);
    struct bytes whole = buffer_bytes(&made);
    client = pthread_self();
    digested = walks = 0;
    payload = &whole;
    struct verdict verdict = submit(one, &header, whole);
    CHECK(verdict.accepted);
    CHECK_EQUAL(world_settle(&w).version, 1);
    /* as it comes; read back for the verdict, and for the step: what lies on a disk may be damaged
     */
    CHECK_EQUAL(digested, 3 * whole.size);
    /* the verdict's (rules, norm), the step's (the same), and the step itself */
    CHECK_EQUAL(walks, 3);
    payload = NULL;
    world_stop(&w);
    buffer_deinit(&made);
    world_destroy(&w);
}

TEST(a_dense_contribution_is_digested_three_times_and_walked_three_times) {
    check_counts(DENSE_RUN "snapshot_interval: 100\n");
}

TEST(a_sparse_contribution_is_digested_three_times_and_walked_three_times) {
    check_counts(SPARSE_RUN "snapshot_interval: 100\n");
}
