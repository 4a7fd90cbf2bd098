/* A snapshot's content is, per fragment, the number of contributions in D or S and the period (u32
 * each), then theta, then momentum and D in dense mode, S and n in sparse mode, as they lie in
 * memory. */
#include <string.h>

#include "base/memory.h"
#include "fed/model_state.h"
#include "kernels/elementwise.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "snapshots hold parameters as they lie in memory: little-endian");

static uint64_t array_size(const struct model_state *state) {
    return state->parameters * sizeof(float);
}

static uint64_t size_of(uint32_t fragments, enum outer_mode mode, uint64_t parameters) {
    uint64_t each = mode == OUTER_DENSE ? 3 * sizeof(float) : 2 * sizeof(float) + sizeof(uint16_t);
    return fragments * sizeof(uint64_t) + parameters * each;
}

uint64_t snapshot_size(const struct model_state *state) {
    return size_of(state->fragments, state->mode, state->parameters);
}

uint64_t snapshot_size_of(const struct manifest *manifest, uint64_t parameters) {
    return size_of(manifest->fragments, manifest->outer.mode, parameters);
}

void snapshot_write(const struct model_state *state, struct buffer *out) {
    buffer_reserve(out, out->size + (size_t)snapshot_size(state));
    for (uint32_t f = 0; f < state->fragments; f++) {
        buffer_u32(out, state->sums[f].count);
        buffer_u32(out, state->sums[f].period);
    }
    buffer_append(out, state->theta, (size_t)array_size(state));
    if (state->mode == OUTER_DENSE) buffer_append(out, state->momentum, (size_t)array_size(state));
    buffer_append(out, state->accumulated, (size_t)array_size(state));
    if (state->mode == OUTER_SPARSE)
        buffer_append(out, state->senders, state->parameters * sizeof *state->senders);
}

/* The arrays are checked where they come to lie, for the content's bytes need not be aligned. */
static enum status read_array(struct reader *reader, const struct model_state *state,
                              const char *name, float *out, struct error *error) {
    reader_copy(reader, out, (size_t)array_size(state));
    if (elementwise_is_finite(out, (size_t)state->parameters)) return OK;
    return error_set(error, CORRUPT, "snapshot: %s holds values that are not finite", name);
}

/* What nobody of the round has sent has no sum, and nobody sends twice in one contribution. */
static enum status read_senders(struct reader *reader, struct model_state *state,
                                struct error *error) {
    reader_copy(reader, state->senders, state->parameters * sizeof *state->senders);
    for (uint32_t f = 0; f < state->fragments; f++) {
        uint64_t start, count;
        fragment_range(state->parameters, state->fragments, f, &start, &count);
        for (uint64_t i = start; i < start + count; i++)
            if (state->senders[i] > state->sums[f].count ||
                (state->senders[i] == 0 && state->accumulated[i] != 0))
                return error_set(error, CORRUPT,
                                 "snapshot: parameter %llu was sent by %u of the round's %u",
                                 (unsigned long long)i, state->senders[i], state->sums[f].count);
    }
    return OK;
}

enum status snapshot_read(struct model_state *state, const struct snapshot_header *header,
                          struct bytes content, struct error *error) {
    if (content.size != snapshot_size(state) || content.size != header->content_size)
        return error_set(error, CORRUPT,
                         "snapshot: %zu bytes, its header names %llu, this model takes %llu",
                         content.size, (unsigned long long)header->content_size,
                         (unsigned long long)snapshot_size(state));
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(content.data, content.size, digest);
    if (memcmp(digest, header->content_digest, DIGEST_SIZE) != 0)
        return error_set(error, CORRUPT,
                         "snapshot: the content is not the one that its header names");
    struct reader reader = reader_of(content);
    model_state_changed(state);
    for (uint32_t f = 0; f < state->fragments; f++) {
        struct model_sum sum = {.count = reader_u32(&reader)};
        sum.period = reader_u32(&reader);
        if (sum.count > 0 && sum.count >= sum.period)
            return error_set(error, CORRUPT, "snapshot: %u contributions in a period of %u",
                             sum.count, sum.period);
        state->sums[f] = sum;
    }
    TRY(read_array(&reader, state, "theta", state->theta, error));
    if (state->mode == OUTER_DENSE)
        TRY(read_array(&reader, state, "momentum", state->momentum, error));
    TRY(read_array(&reader, state, "accumulated", state->accumulated, error));
    if (state->mode == OUTER_SPARSE) TRY(read_senders(&reader, state, error));
    TRY(reader_finish(&reader, "snapshot", error));
    uint8_t root[DIGEST_SIZE];
    model_state_root(state, root);
    if (memcmp(root, header->root, DIGEST_SIZE) != 0)
        return error_set(error, CORRUPT,
                         "snapshot: the parameters have another state root than its header names");
    state->version = header->version;
    return OK;
}

void snapshot_header_sign(const struct snapshot_header *header, const struct key_pair *key,
                          uint8_t out[static SNAPSHOT_HEADER_SIZE]) {
    struct buffer message = {0};
    buffer_append(&message, header->run_id, RUN_ID_SIZE);
    buffer_u32(&message, header->epoch);
    buffer_u64(&message, header->version);
    buffer_u64(&message, header->ledger_size);
    buffer_u64(&message, header->payloads_from);
    buffer_append(&message, header->root, DIGEST_SIZE);
    buffer_u64(&message, header->content_size);
    buffer_append(&message, header->content_digest, DIGEST_SIZE);
    ASSERT(message.size + SIGNATURE_SIZE == SNAPSHOT_HEADER_SIZE);
    memcpy(out, message.data, message.size);
    MUST(sign_message(key, SNAPSHOT_TAG, buffer_bytes(&message), out + message.size, NULL));
    buffer_deinit(&message);
}

enum status snapshot_header_verify(struct bytes raw,
                                   const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                   struct snapshot_header *out, struct error *error) {
    if (raw.size != SNAPSHOT_HEADER_SIZE)
        return error_set(error, INVALID, "snapshot header: %zu bytes, not %d", raw.size,
                         SNAPSHOT_HEADER_SIZE);
    struct bytes message = bytes_of(raw.data, SNAPSHOT_HEADER_SIZE - SIGNATURE_SIZE);
    if (sign_verify(public_key, SNAPSHOT_TAG, message,
                    bytes_of(raw.data + message.size, SIGNATURE_SIZE), error) != OK)
        return error_wrap(error, INVALID, "snapshot header");
    struct reader reader = reader_of(message);
    reader_copy(&reader, out->run_id, RUN_ID_SIZE);
    out->epoch = reader_u32(&reader);
    out->version = reader_u64(&reader);
    out->ledger_size = reader_u64(&reader);
    out->payloads_from = reader_u64(&reader);
    reader_copy(&reader, out->root, DIGEST_SIZE);
    out->content_size = reader_u64(&reader);
    reader_copy(&reader, out->content_digest, DIGEST_SIZE);
    return OK;
}
