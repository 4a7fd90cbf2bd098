/* What an enrolled site may do that is up to no good, or badly broken: contributions that must be
 * refused, each for its own reason. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "sim/byzantine_site.h"
#include "sim/site_internal.h"

const char *const byzantine_site_names[BYZANTINE_COUNT] = {
    [BYZANTINE_SIGNATURE] = "signature",
    [BYZANTINE_DIGEST] = "digest",
    [BYZANTINE_TRUNCATED] = "truncated",
    [BYZANTINE_LONGER] = "longer",
    [BYZANTINE_NORM] = "norm",
    [BYZANTINE_NONFINITE_NORM] = "nonfinite_norm",
    [BYZANTINE_NONFINITE_LOSS] = "nonfinite_loss",
    [BYZANTINE_NONFINITE_SHARE] = "nonfinite_share",
    [BYZANTINE_NEGATIVE_ZERO] = "negative_zero",
    [BYZANTINE_REPLAYED] = "replayed",
    [BYZANTINE_FUTURE_BASE] = "future_base",
    [BYZANTINE_OTHER_ROOT] = "other_root",
    [BYZANTINE_LAYOUT] = "layout",
    [BYZANTINE_MANIFEST] = "manifest",
    [BYZANTINE_RUN] = "run",
    [BYZANTINE_PROTOCOL] = "protocol",
    [BYZANTINE_EPOCH] = "epoch",
    [BYZANTINE_OTHER_SITE] = "other_site",
    [BYZANTINE_NO_SITE] = "no_site",
    [BYZANTINE_OTHER_KEY] = "other_key",
    [BYZANTINE_OLD_SEQUENCE] = "old_sequence",
    [BYZANTINE_ZERO_SEQUENCE] = "zero_sequence",
    [BYZANTINE_FAR_SEQUENCE] = "far_sequence",
    [BYZANTINE_BROKEN_CHAIN] = "broken_chain",
    [BYZANTINE_CODEC] = "codec",
    [BYZANTINE_FRAGMENT] = "fragment",
    [BYZANTINE_NO_STEPS] = "no_steps",
    [BYZANTINE_TOKENS] = "tokens",
    [BYZANTINE_STEP_TOKENS] = "step_tokens",
    [BYZANTINE_SHARE] = "share",
    [BYZANTINE_RESERVED] = "reserved",
    [BYZANTINE_NO_PAYLOAD] = "no_payload",
    [BYZANTINE_HUGE_PAYLOAD] = "huge_payload",
    [BYZANTINE_ANNOUNCED_SHORTER] = "announced_shorter",
    [BYZANTINE_EXPIRED] = "expired",
    [BYZANTINE_STOLEN_PAYLOAD] = "stolen_payload",
    [BYZANTINE_GARBAGE] = "garbage",
    [BYZANTINE_FLIPPED] = "flipped",
    [BYZANTINE_NONFINITE_VALUES] = "nonfinite_values",
    [BYZANTINE_HEADER_OF_PAYLOAD] = "header_of_payload",
    [BYZANTINE_PADDING] = "padding",
    [BYZANTINE_ODD_HUGE] = "odd_huge",
    [BYZANTINE_ODD_ZERO] = "odd_zero",
    [BYZANTINE_ODD_TINY] = "odd_tiny",
    [BYZANTINE_ODD_ONE] = "odd_one",
    [BYZANTINE_ODD_STALE] = "odd_stale",
    [BYZANTINE_ODD_STEPS] = "odd_steps",
    [BYZANTINE_ODD_LOUD] = "odd_loud",
};

struct lie {
    struct simulated_site *site;
    uint32_t stream;
    struct buffer payload;
};

/* Numbers as an honest site's, or as odd as fp32 has them. */
static void fill_delta(struct world *world, enum byzantine_site kind, float *delta,
                       uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        float value = (float)(random_unit(&world->luck) - 0.5);
        if (kind == BYZANTINE_ODD_HUGE) value *= 0x1.8p127f;
        if (kind == BYZANTINE_ODD_LOUD) value *= 1e15f;
        if (kind == BYZANTINE_ODD_TINY) value *= 0x1p-140f;
        if (kind == BYZANTINE_ODD_ZERO || (kind == BYZANTINE_ODD_ONE && i != count / 2)) value = 0;
        delta[i] = value;
    }
}

/* A header that would be in order, with a payload of its own. */
static void honest_header(struct simulated_site *site, enum byzantine_site kind,
                          const struct run_state *run, uint32_t fragment, struct contribution *c,
                          struct buffer *payload) {
    const struct scenario *scenario = site->setup.scenario;
    const struct run_site *own = run_state_site(run, site->number);
    uint64_t start, count, skipped = world_luck_below(site->world, 2);
    payload->size = 0;
    *c = (struct contribution){.protocol = PROTOCOL_VERSION,
                               .codec = scenario->manifest.codec.kind,
                               .epoch = run_state_epoch(run),
                               .site = site->number,
                               .fragment = fragment,
                               .sequence = own->last_sequence + 1 + skipped,
                               .base_version = run_state_version(run),
                               .inner_steps = 3,
                               .tokens = 10,
                               .loss = 2,
                               .compute_share = 0.5f,
                               .signed_at_ms = process_wall_ms(site->world, COORDINATOR)};
    memcpy(c->run_id, run_state_run_id(run), RUN_ID_SIZE);
    memcpy(c->layout_digest, run_state_layout_digest(run), DIGEST_SIZE);
    memcpy(c->manifest_digest, run_state_manifest_digest(run), DIGEST_SIZE);
    memcpy(c->previous, own->last_digest, DIGEST_SIZE);
    key_id(own->public_key, c->key_id);
    fragment_range(scenario->parameters, scenario->manifest.fragments, c->fragment, &start, &count);
    float *delta = xcalloc((size_t)count, sizeof *delta),
          *feedback = xcalloc((size_t)count, sizeof *feedback);
    fill_delta(site->world, kind, delta, count);
    struct codec_encoder *encoder = NULL;
    double squared = 0;
    MUST(codec_encoder_create((enum codec)c->codec, (size_t)count, &encoder, NULL));
    MUST(codec_encode(encoder, delta, NULL, feedback, payload, NULL));
    MUST(codec_walk((enum codec)c->codec, buffer_bytes(payload), (size_t)count, &squared, NULL,
                    NULL));
    codec_encoder_destroy(encoder);
    free(delta);
    free(feedback);
    c->norm = sqrt(squared);
}

static void seal_payload(struct contribution *c, const struct buffer *payload) {
    c->payload_size = payload->size;
    digest_sha256(payload->data, payload->size, c->payload_digest);
}

void site_make_contribution(struct simulated_site *site, const struct run_state *run,
                            uint32_t fragment, struct contribution *out, struct buffer *payload) {
    honest_header(site, BYZANTINE_COUNT, run, fragment, out, payload);
    seal_payload(out, payload);
}

/* long: a flat switch with a case per lie.
 * Something else in the header. False: this lie cannot be told now. */
static bool bend_header(struct simulated_site *site, enum byzantine_site kind,
                        const struct run_state *run, struct contribution *c) {
    struct world *world = site->world;
    switch (kind) {
    case BYZANTINE_DIGEST:
        c->payload_digest[world_luck_below(world, DIGEST_SIZE)] ^= 1;
        return true;
    case BYZANTINE_NORM: c->norm = c->norm * 1.5 + 1; return true;
    case BYZANTINE_NONFINITE_NORM: c->norm = (double)NAN; return true;
    case BYZANTINE_NONFINITE_LOSS: c->loss = INFINITY; return true;
    case BYZANTINE_NONFINITE_SHARE: c->compute_share = NAN; return true;
    case BYZANTINE_NEGATIVE_ZERO: c->loss = -0.0f; return true;
    case BYZANTINE_FUTURE_BASE:
        c->base_version += 1 + world_luck_below(world, 5) + run_state_size(run);
        return true;
    case BYZANTINE_OTHER_ROOT: {
        uint64_t version;
        run_state_root(run, &version, c->base_root);
        c->base_root[5] ^= 1;
        c->base_version = version;
        return true;
    }
    case BYZANTINE_LAYOUT: c->layout_digest[3] ^= 0x80; return true;
    case BYZANTINE_MANIFEST: c->manifest_digest[3] ^= 0x80; return true;
    case BYZANTINE_RUN: c->run_id[0] ^= 1; return true;
    case BYZANTINE_PROTOCOL:
        c->protocol =
            (uint16_t)(world_luck(world, 0.5) ? PROTOCOL_OLDEST - 1 : PROTOCOL_VERSION + 1);
        return true;
    case BYZANTINE_EPOCH: c->epoch += world_luck(world, 0.5) ? 1000 : UINT32_MAX; return true;
    case BYZANTINE_OTHER_SITE:
        c->site = site->number > 1 ? site->number - 1 : site->number + 1;
        return true;
    case BYZANTINE_OTHER_KEY: c->key_id[1] ^= 2; return true;
    case BYZANTINE_OLD_SEQUENCE:
        c->sequence = run_state_site(run, site->number)->last_sequence;
        return c->sequence > 0;
    case BYZANTINE_ZERO_SEQUENCE: c->sequence = 0; return true;
    case BYZANTINE_FAR_SEQUENCE:
        c->sequence = world_luck(world, 0.5) ? UINT64_MAX
                                             : run_state_site(run, site->number)->last_sequence +
                                                   1 + SEQUENCE_LEAD_LIMIT;
        return true;
    case BYZANTINE_BROKEN_CHAIN: c->previous[9] ^= 8; return true;
    case BYZANTINE_CODEC: c->codec = (uint16_t)(c->codec + 1); return true;
    case BYZANTINE_FRAGMENT: c->fragment = site->setup.scenario->manifest.fragments; return true;
    case BYZANTINE_NO_STEPS: c->inner_steps = 0; return true;
    case BYZANTINE_TOKENS: c->tokens = TOKENS_LIMIT + 1; return true;
    case BYZANTINE_STEP_TOKENS:
        c->tokens = 1 + c->inner_steps * site->setup.scenario->manifest.admission.max_step_tokens;
        return true;
    case BYZANTINE_ODD_STEPS:
        c->inner_steps = UINT32_MAX;
        c->tokens = TOKENS_LIMIT;
        return true;
    case BYZANTINE_SHARE: c->compute_share = 1.5f; return true;
    case BYZANTINE_RESERVED:
        if (world_luck(world, 0.5))
            c->reserved = 1;
        else
            c->began_version = c->base_version + 1;
        return true;
    case BYZANTINE_NO_PAYLOAD: c->payload_size = 0; return true;
    case BYZANTINE_HUGE_PAYLOAD:
        c->payload_size = UINT64_MAX >> world_luck_below(world, 60);
        return c->payload_size > 1000000;
    case BYZANTINE_ANNOUNCED_SHORTER: c->payload_size--; return true;
    case BYZANTINE_EXPIRED:
        c->signed_at_ms = world_luck(world, 0.5) ? 1 : UINT64_MAX / 2;
        return site->setup.scenario->manifest.admission.expiry_ms != 0;
    case BYZANTINE_ODD_STALE: c->base_version = 0; return true;
    default: return true;
    }
}

/* A payload that is signed as it is sent. False: this lie cannot be told now. */
static bool bend_payload(struct simulated_site *site, enum byzantine_site kind,
                         const struct ledger_entry *victim, struct contribution *c,
                         struct buffer *payload) {
    struct world *world = site->world;
    struct contribution theirs;
    enum codec codec = (enum codec)c->codec;
    size_t some = (size_t)world_luck_below(world, payload->size);
    switch (kind) {
    case BYZANTINE_TRUNCATED: payload->size -= MIN(payload->size - 1, some + 1); break;
    case BYZANTINE_LONGER: buffer_u8(payload, 0); break;
    case BYZANTINE_GARBAGE:
        for (size_t i = CODEC_HEADER_SIZE; i < payload->size; i++)
            payload->data[i] = (uint8_t)world_luck_below(world, 256);
        break;
    case BYZANTINE_FLIPPED: /* one bit, more often near the start, where tables and scales are */
        if (world_luck(world, 0.5))
            some = (size_t)world_luck_below(world, MIN(payload->size, (size_t)64));
        payload->data[some] ^= (uint8_t)(1u << world_luck_below(world, 8));
        break;
    case BYZANTINE_HEADER_OF_PAYLOAD:
        payload->data[world_luck_below(world, CODEC_HEADER_SIZE)] ^= 0x11;
        break;
    case BYZANTINE_PADDING: payload->data[payload->size - 1] ^= 0x80; break;
    case BYZANTINE_NONFINITE_VALUES:
        if (codec != CODEC_FP32 &&
            codec != CODEC_BF16) { /* tables and scales are where others could hide one */
            for (size_t i = 0; i < 4 && CODEC_HEADER_SIZE + i < payload->size; i++)
                payload->data[CODEC_HEADER_SIZE + i] = 0xff;
            break;
        }
        memset(payload->data + payload->size - (codec == CODEC_FP32 ? 4 : 2), 0x7f,
               codec == CODEC_FP32 ? 4 : 2);
        payload->data[payload->size - 2] = 0x80;
        break;
    case BYZANTINE_STOLEN_PAYLOAD: {
        bool has = victim && contribution_decode(
                                 bytes_of(victim->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                 &theirs, NULL) == OK;
        const struct buffer *blob = has ? disk_blob_find(&site->disk, theirs.payload_digest) : NULL;
        if (!blob || theirs.site == site->number) return false;
        payload->size = 0;
        buffer_append(payload, blob->data, blob->size);
        c->fragment = theirs.fragment;
        c->norm = theirs.norm + 1;
        break;
    }
    default: return true;
    }
    seal_payload(c, payload);
    return true;
}

static void byzantine_site_release(void *pointer) {
    struct lie *lie = pointer;
    buffer_deinit(&lie->payload);
    free(lie);
}

/* Sends its chunks without waiting for credit: a call that is not admitted ignores them. */
static void on_chunks(void *context, struct event *event) {
    struct lie *lie = event->payload;
    const size_t piece = 4096;
    (void)context;
    for (size_t at = 0; at < lie->payload.size; at += piece) {
        struct message chunk = {.kind = MESSAGE_CHUNK, .a = at};
        buffer_append(&chunk.bytes, lie->payload.data + at, MIN(piece, lie->payload.size - at));
        network_send(lie->site->setup.network, lie->stream, true, &chunk);
    }
}

static void submit(struct simulated_site *site, struct lie *lie, uint32_t certificate,
                   const uint8_t *header, const uint8_t *signature) {
    struct message open = {.kind = MESSAGE_SUBMIT,
                           .instance = site->world->processes[site->setup.process].incarnation + 1};
    buffer_append(&open.bytes, header, CONTRIBUTION_HEADER_SIZE);
    buffer_append(&open.bytes, signature, SIGNATURE_SIZE);
    lie->site = site;
    lie->stream = network_open(site->setup.network, site->setup.process, certificate);
    network_send(site->setup.network, lie->stream, true, &open);
    uint64_t delay = 4 * site->setup.scenario->fault_phase.latency;
    world_post(site->world, delay, site->setup.process, on_chunks, site, lie)->release =
        byzantine_site_release;
}

static void tell_lie(struct simulated_site *site, enum byzantine_site kind,
                     const struct run_state *run, const struct ledger_entry *victim) {
    if (!site->running || !site->number || site->number > run_state_site_count(run)) return;
    struct contribution c;
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    struct lie *lie = xcalloc(1, sizeof *lie);
    uint32_t fragments = site->setup.scenario->manifest.fragments;
    honest_header(site, kind, run, (uint32_t)world_luck_below(site->world, fragments), &c,
                  &lie->payload);
    seal_payload(&c, &lie->payload);
    bool told = bend_header(site, kind, run, &c) &&
                bend_payload(site, kind, victim, &c, &lie->payload) &&
                (kind != BYZANTINE_REPLAYED || victim);
    if (!told || !world_fault(site->world, FAULT_BYZANTINE_SITE, site->setup.process)) {
        byzantine_site_release(lie);
        return;
    }
    contribution_encode(&c, header);
    contribution_sign(site->setup.key, header, signature);
    if (kind == BYZANTINE_SIGNATURE) signature[world_luck_below(site->world, SIGNATURE_SIZE)] ^= 4;
    if (kind == BYZANTINE_REPLAYED) {
        memcpy(header, victim->contribution.header, sizeof header);
        memcpy(signature, victim->contribution.signature, sizeof signature);
    } else if (kind <= BYZANTINE_LAST_FALSE && kind != BYZANTINE_NO_SITE) {
        check_hostile_input(site->setup.check, header);
    }
    site->world->tally.lies[kind]++;
    world_trace(site->world, "%-12s lies: %s, sequence %llu", site->name,
                byzantine_site_names[kind], (unsigned long long)c.sequence);
    submit(site, lie,
           kind == BYZANTINE_NO_SITE ? 99 * (uint32_t)world_luck_below(site->world, 2)
                                     : site->number,
           header, signature);
}

void site_misbehave(struct simulated_site *site, const struct run_state *run,
                    const struct ledger_entry *victim) {
    tell_lie(site, (enum byzantine_site)world_luck_below(site->world, BYZANTINE_COUNT), run,
             victim);
}

void site_boast(struct simulated_site *site, const struct run_state *run) {
    tell_lie(site, BYZANTINE_ODD_STEPS, run, NULL);
}

void site_steal(struct simulated_site *site, const struct run_state *run,
                const struct ledger_entry *victim) {
    tell_lie(site, BYZANTINE_STOLEN_PAYLOAD, run, victim);
}
