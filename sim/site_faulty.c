/* What an enrolled site may do that is up to no good, or badly broken: contributions that must be refused, each for its own reason. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "sim/site_core.h"

enum trick {
    TRICK_SIGNATURE,
    TRICK_DIGEST,
    TRICK_TRUNCATED,
    TRICK_NORM,
    TRICK_NONFINITE_NORM,
    TRICK_REPLAYED,
    TRICK_FUTURE_BASE,
    TRICK_LAYOUT,
    TRICK_OTHER_SITE,
    TRICK_OLD_SEQUENCE,
    TRICK_STOLEN_PAYLOAD,
    TRICK_GARBAGE,
    TRICK_COUNT
};

struct lie {
    struct site *site;
    uint32_t stream;
    struct buffer payload;
};

/* A header that would be in order, with a payload of its own. */
static void honest_header(struct site *site, const struct run_state *run, struct contribution *c, struct buffer *payload) {
    const struct scenario *scenario = site->setup.scenario;
    const struct run_site *own = run_state_site(run, site->number);
    uint64_t start, count, skipped = world_below(site->world, 2);
    *c = (struct contribution){.protocol = PROTOCOL_VERSION,
                               .codec = scenario->manifest.codec.kind,
                               .epoch = run_state_epoch(run),
                               .site = site->number,
                               .fragment = (uint32_t)world_below(site->world, scenario->manifest.fragments),
                               .sequence = own->last_sequence + 1 + skipped,
                               .base_version = run_state_version(run),
                               .inner_steps = 3,
                               .tokens = 10,
                               .loss = 2,
                               .compute_share = 0.5f,
                               .signed_at_ms = process_wall_ms(site->world, site->setup.process)};
    memcpy(c->run_id, run_state_run_id(run), RUN_ID_SIZE);
    memcpy(c->layout_digest, run_state_layout_digest(run), DIGEST_SIZE);
    memcpy(c->manifest_digest, run_state_manifest_digest(run), DIGEST_SIZE);
    memcpy(c->previous, own->last_digest, DIGEST_SIZE);
    key_id(own->public_key, c->key_id);
    fragment_range(scenario->parameters, scenario->manifest.fragments, c->fragment, &start, &count);
    float *delta = xcalloc((size_t)count, sizeof *delta), *feedback = xcalloc((size_t)count, sizeof *feedback);
    for (uint64_t i = 0; i < count; i++) delta[i] = (float)(random_unit(&site->world->random) - 0.5);
    struct codec_encoder *encoder = NULL;
    double squared = 0;
    ASSERT(codec_encoder_create((enum codec)c->codec, (size_t)count, &encoder, NULL) == OK);
    ASSERT(codec_encode(encoder, delta, NULL, feedback, payload, NULL) == OK);
    ASSERT(codec_norm_squared((enum codec)c->codec, buffer_bytes(payload), (size_t)count, &squared, NULL) == OK);
    codec_encoder_destroy(encoder);
    free(delta);
    free(feedback);
    c->norm = sqrt(squared);
}

static void seal_payload(struct contribution *c, const struct buffer *payload) {
    c->payload_size = payload->size;
    digest_sha256(payload->data, payload->size, c->payload_digest);
}

/* Breaks one thing. False: this trick cannot be played now. */
static bool play(struct site *site, enum trick trick, const struct run_state *run, const struct ledger_entry *victim,
                 struct contribution *c, struct buffer *payload) {
    struct contribution theirs;
    bool has_victim =
        victim && contribution_decode(bytes_of(victim->contribution.header, CONTRIBUTION_HEADER_SIZE), &theirs, NULL) == OK;
    switch (trick) {
    case TRICK_DIGEST: c->payload_digest[world_below(site->world, DIGEST_SIZE)] ^= 1; return true;
    case TRICK_TRUNCATED: /* signed as it is sent: a whole message of a codec that ends too early */
        payload->size -= 1 + (size_t)world_below(site->world, payload->size - 1);
        seal_payload(c, payload);
        return true;
    case TRICK_NORM: c->norm = c->norm * 1.5 + 1; return true;
    case TRICK_NONFINITE_NORM: c->norm = (double)NAN; return true;
    case TRICK_FUTURE_BASE: c->base_version += 1 + world_below(site->world, 5) + run_state_size(run); return true;
    case TRICK_LAYOUT: c->layout_digest[3] ^= 0x80; return true;
    case TRICK_OTHER_SITE: c->site = site->number > 1 ? site->number - 1 : site->number + 1; return true;
    case TRICK_OLD_SEQUENCE: c->sequence = run_state_site(run, site->number)->last_sequence; return c->sequence > 0;
    case TRICK_STOLEN_PAYLOAD: {
        if (!has_victim) return false;
        const struct buffer *blob = disk_blob_find(&site->disk, theirs.payload_digest);
        if (!blob || theirs.site == site->number) return false;
        payload->size = 0;
        buffer_append(payload, blob->data, blob->size);
        c->fragment = theirs.fragment;
        c->norm = theirs.norm + 1;
        seal_payload(c, payload);
        return true;
    }
    case TRICK_GARBAGE:
        for (size_t i = 0; i < payload->size; i++) payload->data[i] = (uint8_t)world_below(site->world, 256);
        seal_payload(c, payload);
        return true;
    default: return true;
    }
}

static void lie_release(void *pointer) {
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

void site_misbehave(struct site *site, const struct run_state *run, const struct ledger_entry *victim) {
    if (!site->running || !site->number || site->number > run_state_site_count(run)) return;
    struct contribution c;
    struct lie *lie = xcalloc(1, sizeof *lie);
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    enum trick trick = (enum trick)world_below(site->world, TRICK_COUNT);
    honest_header(site, run, &c, &lie->payload);
    seal_payload(&c, &lie->payload);
    if (!play(site, trick, run, victim, &c, &lie->payload) || (trick == TRICK_REPLAYED && !victim)) {
        lie_release(lie);
        return;
    }
    contribution_encode(&c, header);
    contribution_sign(site->setup.key, header, signature);
    if (trick == TRICK_SIGNATURE) signature[world_below(site->world, SIGNATURE_SIZE)] ^= 4;
    if (trick == TRICK_REPLAYED) {
        memcpy(header, victim->contribution.header, sizeof header);
        memcpy(signature, victim->contribution.signature, sizeof signature);
    } else {
        check_malformed(site->setup.check, header);
    }
    site->world->tally.malformed++;
    world_trace(site->world, "%-12s misbehaves: trick %d sequence=%llu", site->name, (int)trick, (unsigned long long)c.sequence);
    struct message open = {.kind = MESSAGE_SUBMIT};
    buffer_append(&open.bytes, header, sizeof header);
    buffer_append(&open.bytes, signature, sizeof signature);
    lie->site = site;
    lie->stream = network_open(site->setup.network, site->setup.process, site->number);
    network_send(site->setup.network, lie->stream, true, &open);
    world_post(site->world, 4 * site->setup.scenario->storm.latency, site->setup.process, on_chunks, site, lie)->release =
        lie_release;
}
