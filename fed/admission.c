/* Admission, in the order of its costs and of what a peer may learn: who speaks, whether they
 * signed it, whether it belongs to this run, whether it is known already, and only then whether it
 * may come now. A repetition is recognised before phase, epoch and expiry, so that a site whose
 * receipt was lost gets it whatever happened since. */
#include <math.h>
#include <string.h>

#include "codec/codec.h"
#include "fed/payload.h"
#include "fed/run_internal.h"

#define REFUSE(refusal, ...)                                                                       \
    do {                                                                                           \
        (void)error_set(why, REFUSED, __VA_ARGS__);                                                \
        return (refusal);                                                                          \
    } while (0)

static bool is_zero(const uint8_t digest[static DIGEST_SIZE]) {
    static const uint8_t zero[DIGEST_SIZE];
    return memcmp(digest, zero, DIGEST_SIZE) == 0;
}

static enum refusal rules_of_identity(const struct run_state *state, const struct site_slot *site,
                                      const struct contribution *c, struct error *why) {
    if (c->site != site->site.site)
        REFUSE(REFUSED_UNKNOWN_SITE, "it names site %u, the certificate site %u", c->site,
               site->site.site);
    uint8_t id[KEY_ID_SIZE];
    key_id(site->site.public_key, id);
    if (memcmp(c->key_id, id, KEY_ID_SIZE) != 0)
        REFUSE(REFUSED_SIGNATURE, "its key id is not that of the site's enrolled key");
    if (c->protocol < PROTOCOL_OLDEST || c->protocol > PROTOCOL_VERSION)
        REFUSE(REFUSED_RUN, "protocol %u: %d to %d are known here", c->protocol, PROTOCOL_OLDEST,
               PROTOCOL_VERSION);
    if (memcmp(c->run_id, state->run_id, RUN_ID_SIZE) != 0)
        REFUSE(REFUSED_RUN, "it belongs to another run");
    if (memcmp(c->manifest_digest, state->manifest_digest, DIGEST_SIZE) != 0)
        REFUSE(REFUSED_RUN, "it was made under another manifest");
    if (memcmp(c->layout_digest, state->layout_digest, DIGEST_SIZE) != 0)
        REFUSE(REFUSED_LAYOUT, "it was made for another parameter layout");
    return ACCEPTED;
}

static enum refusal rules_of_form(const struct run_state *state, const struct contribution *c,
                                  struct error *why) {
    enum codec codec = run_state_codec(state, c->base_version);
    if (c->codec != codec)
        REFUSE(REFUSED_MALFORMED, "codec %u, the run's is %u for base version %llu", c->codec,
               (unsigned)codec, (unsigned long long)c->base_version);
    if (c->fragment >= state->manifest.fragments)
        REFUSE(REFUSED_MALFORMED, "fragment %u of %u", c->fragment, state->manifest.fragments);
    if (c->sequence == 0) REFUSE(REFUSED_MALFORMED, "sequence 0: they begin at 1");
    if (c->inner_steps == 0) REFUSE(REFUSED_MALFORMED, "no inner steps");
    if (c->tokens > TOKENS_LIMIT)
        REFUSE(REFUSED_MALFORMED, "%llu tokens", (unsigned long long)c->tokens);
    if (c->tokens > c->inner_steps * state->manifest.admission.max_step_tokens)
        REFUSE(REFUSED_MALFORMED,
               "%llu tokens in %u inner steps, where the run's admission.max_step_tokens is %llu",
               (unsigned long long)c->tokens, c->inner_steps,
               (unsigned long long)state->manifest.admission.max_step_tokens);
    if (!(c->norm <= NORM_LIMIT))
        REFUSE(REFUSED_NONFINITE, "a norm of %g: training has diverged", c->norm);
    if (c->began_version > c->base_version)
        REFUSE(REFUSED_MALFORMED, "its oldest step began at version %llu, after its base %llu",
               (unsigned long long)c->began_version, (unsigned long long)c->base_version);
    if (!(c->compute_share <= 1))
        REFUSE(REFUSED_MALFORMED, "a compute share of %g", (double)c->compute_share);
    return ACCEPTED;
}

static enum refusal rules_of_sequence(const struct site_slot *site, const struct contribution *c,
                                      const uint8_t header_digest[static DIGEST_SIZE],
                                      struct error *why) {
    const struct sequence_record *record = run_record(site, c->sequence);
    if (record && record->digest_prefix == digest_prefix(header_digest))
        REFUSE(REFUSED_DUPLICATE, "sequence %llu is entry %llu", (unsigned long long)c->sequence,
               (unsigned long long)record->index);
    if (c->sequence <= site->site.last_sequence)
        REFUSE(REFUSED_SEQUENCE, "sequence %llu after %llu", (unsigned long long)c->sequence,
               (unsigned long long)site->site.last_sequence);
    if (c->sequence - site->site.last_sequence > SEQUENCE_LEAD_LIMIT)
        REFUSE(REFUSED_SEQUENCE, "sequence %llu after %llu: it leads by more than %llu",
               (unsigned long long)c->sequence, (unsigned long long)site->site.last_sequence,
               (unsigned long long)SEQUENCE_LEAD_LIMIT);
    return ACCEPTED;
}

static enum refusal rules_of_phase(const struct run_state *state, const struct contribution *c,
                                   struct error *why) {
    if (c->epoch != state->epoch)
        REFUSE(REFUSED_EPOCH, "made for the coordinator of epoch %u; now is %u", c->epoch,
               state->epoch);
    if (state->phase == RUN_STOPPED) REFUSE(REFUSED_STOPPED, "the run has ended");
    if (run_state_is_spent(state))
        REFUSE(REFUSED_PAUSED, "the run's %llu tokens are spent: it waits for its admin",
               (unsigned long long)state->token_budget);
    if (state->phase == RUN_PAUSED) REFUSE(REFUSED_PAUSED, "the run is paused");
    return ACCEPTED;
}

static enum refusal rules_of_base(const struct run_state *state, const struct contribution *c,
                                  struct error *why) {
    if (c->base_version > state->version)
        REFUSE(REFUSED_BASE, "base version %llu; the newest is %llu",
               (unsigned long long)c->base_version, (unsigned long long)state->version);
    uint8_t root[DIGEST_SIZE];
    if (!is_zero(c->base_root) && run_state_root_at(state, c->base_version, root) &&
        memcmp(root, c->base_root, DIGEST_SIZE) != 0)
        REFUSE(REFUSED_BASE, "its state root of version %llu is not the ledger's",
               (unsigned long long)c->base_version);
    uint64_t staleness = run_state_staleness(state, c->fragment, c->base_version);
    uint32_t cap = run_state_staleness_cap(state, c->fragment, c->base_version);
    if (staleness == UINT64_MAX)
        REFUSE(REFUSED_REBASE, "stale by more than the cap of %u steps", cap);
    if (staleness > cap)
        REFUSE(REFUSED_REBASE, "stale by %llu steps, the cap is %u", (unsigned long long)staleness,
               cap);
    return ACCEPTED;
}

#define PASS(expr)                                                                                 \
    do {                                                                                           \
        enum refusal pass_refusal_ = (expr);                                                       \
        if (pass_refusal_ != ACCEPTED) return pass_refusal_;                                       \
    } while (0)

enum refusal contribution_rules(const struct run_state *state, const struct site_slot *site,
                                const struct contribution *contribution,
                                const uint8_t header_digest[static DIGEST_SIZE],
                                struct error *why) {
    const struct contribution *c = contribution;
    PASS(rules_of_identity(state, site, c, why));
    PASS(rules_of_form(state, c, why));
    PASS(rules_of_sequence(site, c, header_digest, why));
    PASS(rules_of_phase(state, c, why));
    if (memcmp(c->previous, site->site.last_digest, DIGEST_SIZE) != 0)
        REFUSE(REFUSED_SEQUENCE, "it does not follow the site's last contribution, sequence %llu",
               (unsigned long long)site->site.last_sequence);
    PASS(rules_of_base(state, c, why));
    uint64_t start, count;
    fragment_range(state->parameters, state->manifest.fragments, c->fragment, &start, &count);
    uint64_t bound = codec_bound((enum codec)c->codec, (size_t)count);
    if (c->payload_size == 0 || c->payload_size > bound)
        REFUSE(REFUSED_SIZE, "a payload of %llu bytes; 1 to %llu",
               (unsigned long long)c->payload_size, (unsigned long long)bound);
    if (site->pending >> c->fragment & 1)
        REFUSE(REFUSED_BUSY, "the site's last contribution to fragment %u waits to be merged",
               c->fragment);
    return ACCEPTED;
}

/* Both ways, so that a clock that runs ahead cannot make messages that never expire. */
static bool is_expired(const struct run_state *state, const struct contribution *c,
                       uint64_t now_ms) {
    uint64_t expiry = state->manifest.admission.expiry_ms;
    uint64_t apart = c->signed_at_ms > now_ms ? c->signed_at_ms - now_ms : now_ms - c->signed_at_ms;
    return expiry != 0 && apart > expiry;
}

/* A number that is NaN or infinite is the site's divergence and not a broken message: told apart,
 * for its operator. */
static enum refusal refusal_of_header(struct bytes header, struct error *why) {
    struct contribution probe;
    uint8_t copy[CONTRIBUTION_HEADER_SIZE];
    enum { LOSS_AT = 104, NORM_AT = 112 };
    if (header.size != sizeof copy) return REFUSED_MALFORMED;
    struct reader reader = reader_of(bytes_of(header.data + LOSS_AT, header.size - LOSS_AT));
    float loss = reader_f32(&reader), share = reader_f32(&reader);
    double norm = reader_f64(&reader);
    if (isfinite(loss) && isfinite(share) && isfinite(norm)) return REFUSED_MALFORMED;
    memcpy(copy, header.data, sizeof copy);
    memset(copy + LOSS_AT, 0, NORM_AT + 8 - LOSS_AT);
    return contribution_decode(bytes_of(copy, sizeof copy), &probe, why) == OK ? REFUSED_NONFINITE
                                                                               : REFUSED_MALFORMED;
}

enum refusal admission_header(const struct run_state *state, uint32_t site, struct bytes header,
                              struct bytes signature, const struct admission_limits *limits,
                              struct contribution *out, struct error *why) {
    if (!state->has_genesis) REFUSE(REFUSED_RUN, "there is no run here yet");
    const struct site_slot *slot = run_site_slot(state, site);
    if (!slot) REFUSE(REFUSED_UNKNOWN_SITE, "there is no site %u", site);
    if (slot->site.revoked) REFUSE(REFUSED_REVOKED, "site %u was revoked", site);
    if (slot->site.role != SITE_TRAINS)
        REFUSE(REFUSED_OBSERVER, "site %u observes: it follows, and contributes nothing", site);
    if (header.size != CONTRIBUTION_HEADER_SIZE)
        REFUSE(REFUSED_MALFORMED, "a header of %zu bytes, not %d", header.size,
               CONTRIBUTION_HEADER_SIZE);
    if (signature.size != SIGNATURE_SIZE ||
        !contribution_verify(slot->site.public_key, header.data, signature.data))
        REFUSE(REFUSED_SIGNATURE, "the signature is not that of site %u's enrolled key", site);
    struct contribution read;
    if (contribution_decode(header, &read, why) != OK) return refusal_of_header(header, why);
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(header.data, digest);
    enum refusal refusal = contribution_rules(state, slot, &read, digest, why);
    if (refusal == REFUSED_DUPLICATE) *out = read;
    if (refusal != ACCEPTED && refusal != REFUSED_BUSY) return refusal;
    if (is_expired(state, &read, limits->now_ms))
        REFUSE(REFUSED_EXPIRED, "its time and this coordinator's are too far apart");
    if (read.payload_size > limits->max_payload)
        REFUSE(REFUSED_SIZE, "a payload of %llu bytes; %llu is the most that is taken",
               (unsigned long long)read.payload_size, (unsigned long long)limits->max_payload);
    if (refusal == ACCEPTED) *out = read;
    return refusal;
}

/* fp32 and bf16 messages are raw values after the header; the others have no way to write a value
 * that is not finite. */
static bool payload_is_nonfinite(enum codec codec, struct bytes payload, uint64_t count) {
    size_t width = codec == CODEC_FP32 ? 4 : codec == CODEC_BF16 ? 2 : 0;
    if (width == 0 || payload.size != CODEC_HEADER_SIZE + count * width) return false;
    for (size_t at = CODEC_HEADER_SIZE; at < payload.size; at += width) {
        unsigned high = (unsigned)payload.data[at + width - 1] << 8 | payload.data[at + width - 2];
        if ((high & 0x7F80) == 0x7F80) return true;
    }
    return false;
}

static enum refusal refusal_of(const struct payload_terms *terms, enum status status,
                               struct bytes payload) {
    if (status == CORRUPT) return REFUSED_DIGEST;
    if (payload.size != terms->size) return REFUSED_SIZE;
    return payload_is_nonfinite(terms->codec, payload, terms->count) ? REFUSED_NONFINITE
                                                                     : REFUSED_MALFORMED;
}

enum refusal admission_payload(const struct contribution *contribution,
                               const struct manifest *manifest, uint64_t parameters,
                               struct buffer *bytes, struct error *why) {
    struct payload_terms terms = payload_terms_of(manifest, parameters, contribution);
    struct verified_payload *payload = NULL;
    enum status status = payload_verify(&terms, bytes, &payload, why);
    if (status != OK) {
        enum refusal code = refusal_of(&terms, status, buffer_bytes(bytes));
        buffer_deinit(bytes);
        return code;
    }
    double norm = payload_norm(payload);
    payload_destroy(payload);
    if (!(norm == contribution->norm))
        REFUSE(REFUSED_NORM, "the header tells a norm of %.17g, the payload has %.17g",
               contribution->norm, norm);
    return ACCEPTED;
}
