/* What moves parameters: replays, steps, snapshots, messages, and what a site would send of itself.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "sim/hostile_input_internal.h"

/* ---- replays --------------------------------------------------------------------------------- */

enum bent {
    BENT_NOTHING,
    BENT_SHORT,
    BENT_BYTES,
    BENT_ROOT,
    BENT_ENTRY,
    BENT_MISSING,
    BENT_SHAPE,
    BENT_INITIAL,
    BENT_AHEAD,
    BENT_BEHIND,
    BENT_COUNT
};

struct bent_source {
    struct offer *offer;
    struct ledger_source truth;
    enum bent bent;
    uint64_t at, until; /* which of them */
    bool told;          /* it has been */
};

static enum status bent_entry(void *context, uint64_t index, struct buffer *out,
                              struct error *error) {
    struct bent_source *source = context;
    if (index >= source->until) return error_set(error, NOT_FOUND, "the end");
    size_t before = out->size;
    TRY(source->truth.entry(source->truth.context, index, out, error));
    if (source->bent == BENT_ENTRY && index == source->at) {
        source->told = true;
        out->data[before] = 77;
    }
    if (source->bent == BENT_ROOT && index >= source->at && out->data[before] == LEDGER_STEP &&
        out->data[before + 25] == 1) {
        source->told = true;
        out->data[before + 30] ^=
            1; /* the root stands behind kind, epoch, time, fragment, version and flag */
    }
    return OK;
}

static enum status bent_payload(void *context, const uint8_t digest[DIGEST_SIZE], uint64_t size,
                                struct buffer *out, struct error *error) {
    struct bent_source *source = context;
    size_t before = out->size;
    bool here = offer_below(source->offer, 3) == 0;
    if (source->bent == BENT_MISSING && here) {
        source->told = true;
        return error_set(error, NOT_FOUND, "it is not there");
    }
    TRY(source->truth.payload(source->truth.context, digest, size, out, error));
    if (source->bent == BENT_SHORT && here) out->size--;
    if (source->bent == BENT_BYTES && here)
        out->data[before + offer_below(source->offer, out->size - before)] ^= 4;
    if ((source->bent == BENT_SHORT || source->bent == BENT_BYTES) && here) source->told = true;
    return OK;
}

static void replay_bent(struct offer *offer, enum bent bent) {
    const struct hostile_input *input = offer->input;
    uint64_t parameters = input->scenario->parameters + (bent == BENT_SHAPE ? 1 : 0),
             size = run_state_size(offer->run);
    struct bent_source source = {
        .offer = offer, .truth = disk_truth(input->ledger), .bent = bent, .until = size};
    source.at = bent == BENT_ENTRY ? offer_below(offer, size) : offer_below(offer, size) / 2;
    struct ledger_source lent = {bent_entry, bent_payload, &source};
    struct replay_options options = {
        .trusted = bent == BENT_NOTHING, .until = UINT64_MAX, .every_payload = true};
    struct run_state *run = run_state_create();
    struct model_state model = {0};
    struct error why = {0};
    MUST(model_state_init(&model, &input->scenario->manifest, parameters, NULL));
    memcpy(model.theta, input->initial, (size_t)input->scenario->parameters * sizeof(float));
    if (bent == BENT_INITIAL) model.theta[offer_below(offer, parameters)] += 1.5f;
    if (bent == BENT_AHEAD)
        model.version = options.tensors_from = run_state_version(offer->run) + 5;
    if (bent == BENT_BEHIND) options.tensors_from = 3;
    source.told |= bent >= BENT_SHAPE;
    if (bent == BENT_NOTHING) options.until = size / 2; /* in two parts */
    enum status status = replay_run(&lent, &options, run, &model, NULL, &why);
    options.until = UINT64_MAX;
    if (bent == BENT_NOTHING && status == OK)
        status = replay_run(&lent, &options, run, &model, NULL, &why);
    claim(offer, source.told ? status != OK && why.message[0] : status == OK,
          "a replay of a bent ledger goes through, or of a true one not");
    if (bent == BENT_SHAPE && run_state_has_genesis(run))
        claim(offer, status != OK, "a model of another shape is replayed");
    run_state_destroy(run);
    model_state_deinit(&model);
}

void offer_replay(struct offer *offer) {
    if (run_state_size(offer->run) > 120) { /* in time */
        run_state_destroy(offer->run);
        offer->run = offer_run(offer, 20 + offer_below(offer, 100));
    }
    replay_bent(offer, BENT_NOTHING);
    for (int i = 0; i < 3; i++)
        replay_bent(offer, (enum bent)(1 + offer_below(offer, BENT_COUNT - 1)));
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Bytes that are not what was signed, or not what a message is, become no payload; and a payload
 * that is one makes no step that does not follow. */
static void offer_payload(struct offer *offer, struct model_state *model) {
    enum codec codec = offer->input->scenario->manifest.codec.kind;
    struct payload_terms terms = {.codec = codec};
    struct verified_payload *payload = NULL;
    struct codec_encoder *encoder = NULL;
    struct buffer bytes = {0};
    uint8_t root[DIGEST_SIZE];
    uint64_t start;
    fragment_range(model->parameters, model->fragments, 0, &start, &terms.count);
    buffer_u64(&bytes, 0);
    terms.size = bytes.size;
    claim(offer, payload_verify(&terms, &bytes, &payload, NULL) == CORRUPT,
          "a payload of another digest is taken");
    digest_sha256(bytes.data, bytes.size, terms.digest);
    claim(offer, payload_verify(&terms, &bytes, &payload, NULL) == INVALID,
          "a payload of garbage is taken");
    bytes.size = 0;
    MUST(codec_encoder_create(codec, (size_t)terms.count, &encoder, NULL));
    MUST(codec_encode(encoder, model->theta + start, NULL, NULL, &bytes, NULL));
    codec_encoder_destroy(encoder);
    terms.size = bytes.size + 1;
    digest_sha256(bytes.data, bytes.size, terms.digest);
    claim(offer, payload_verify(&terms, &bytes, &payload, NULL) == INVALID,
          "a payload of another size is taken");
    terms.size--;
    claim(offer, payload_verify(&terms, &bytes, &payload, NULL) == OK, "a payload is refused");
    struct step_input input = {payload, (float)INFINITY};
    const struct step_rules rules = {1, 1};
    claim(offer, model_state_step(model, 0, 1, &rules, 1, &input, root, NULL) == CORRUPT,
          "a step of an infinite scale is applied");
    claim(offer, model_state_step(model, 0, 9, &rules, 1, &input, root, NULL) == INVALID,
          "a step to a version that does not follow");
    payload_destroy(payload);
    buffer_deinit(&bytes);
}

/* Steps that never became entries: what breaks a rule is refused before a tensor is touched. */
void offer_step(struct offer *offer) {
    const struct hostile_input *input = offer->input;
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct ledger_source source = disk_truth(input->ledger);
    struct model_state model = {0};
    uint8_t root[DIGEST_SIZE];
    MUST(model_state_init(&model, &input->scenario->manifest, input->scenario->parameters, NULL));
    claim(offer,
          model_state_memory(&input->scenario->manifest, input->scenario->parameters) >=
              4 * model.parameters,
          "a model is small");
    for (uint32_t f = 0; f < model.fragments; f++) {
        uint32_t pending = run_state_pending_count(offer->run, f);
        for (unsigned how = 0; pending > 0 && how < 6; how++) {
            model.version = run_state_version(offer->run) + (how == 5);
            run_state_plan_step(offer->run, f, (uint16_t)MIN(pending, 3u), entry);
            if (how == 0) entry->step.count = 0;
            if (how == 1) entry->step.count = STEP_CONTRIBUTIONS_LIMIT + 1;
            if (how == 2) entry->kind = LEDGER_PAUSED;
            if (how == 3) entry->step.parts[0].scale += 0.25f;
            if (how == 4) entry->step.fragment = model.fragments;
            claim(offer, replay_step(&source, offer->run, entry, &model, root, NULL, NULL) != OK,
                  "a step that breaks a rule is applied");
        }
    }
    model.version = 0;
    offer_payload(offer, &model);
    model_state_deinit(&model);
    struct manifest manifest = input->scenario->manifest;
    claim(offer, model_state_init(&model, &manifest, UINT64_MAX, NULL) != OK,
          "a model beyond all bounds is made");
    free(entry);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static void seal(struct snapshot_header *header, const struct buffer *content) {
    header->content_size = content->size;
    digest_sha256(content->data, content->size, header->content_digest);
}

static void offer_snapshot_of(struct offer *offer, enum outer_mode mode) {
    struct manifest manifest = offer->input->scenario->manifest;
    uint64_t parameters = offer->input->scenario->parameters;
    struct model_state model = {0}, read = {0};
    struct buffer content = {0}, bent = {0};
    struct snapshot_header header = {
        .epoch = 1, .version = 7, .ledger_size = 9, .payloads_from = 9};
    manifest.outer.mode = mode;
    MUST(model_state_init(&model, &manifest, parameters, NULL));
    MUST(model_state_init(&read, &manifest, parameters, NULL));
    memcpy(model.theta, offer->input->initial, (size_t)parameters * sizeof(float));
    snapshot_write(&model, &content);
    state_root(model.theta, parameters, header.root);
    seal(&header, &content);
    claim(offer,
          snapshot_read(&read, &header, buffer_bytes(&content), NULL) == OK && read.version == 7,
          "a snapshot is not read");
    for (unsigned how = 0; how < 12; how++) {
        struct snapshot_header told = header;
        bent.size = 0;
        buffer_append(&bent, content.data, content.size);
        if (how < 6) offer_bend(offer, &bent); /* a bit at rest, or more: the digest knows */
        if (how == 6) bent.size -= 4;
        if (how == 7) told.content_size++;
        if (how == 8) told.root[5] ^= 1;
        /* a NaN */
        if (how == 9 || how == 10)
            memset(bent.data + bent.size - (how == 9 ? 4 : parameters * 4), 0xff, 4);
        if (how == 11) bent.data[bent.size - parameters * sizeof(float)] ^= 1;
        if (how == 11 && mode == OUTER_DENSE)
            bent.data[bent.size - 3 * parameters * sizeof(float)] ^= 1;
        if (how == 6 || how == 9 || how == 10 || how == 11) seal(&told, &bent);
        claim(offer, snapshot_read(&read, &told, buffer_bytes(&bent), NULL) == CORRUPT,
              "a bent snapshot is read");
    }
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    snapshot_header_sign(&header, offer->input->key, raw);
    const uint8_t *key = key_pair_public(offer->input->key);
    struct snapshot_header again;
    claim(offer, snapshot_header_verify(bytes_of(raw, sizeof raw), key, &again, NULL) == OK,
          "a snapshot's header does not verify");
    bent.size = 0;
    buffer_append(&bent, raw, sizeof raw);
    offer_bend(offer, &bent);
    claim(offer, snapshot_header_verify(buffer_bytes(&bent), key, &again, NULL) != OK,
          "a bent header verifies");
    claim(offer, snapshot_header_verify(bytes_of(raw, 9), key, &again, NULL) != OK,
          "a header that is cut verifies");
    claim(offer,
          snapshot_header_verify(bytes_of(raw, sizeof raw), key_pair_public(offer->input->stranger),
                                 &again, NULL) != OK,
          "a stranger's header verifies");
    buffer_deinit(&content);
    buffer_deinit(&bent);
    model_state_deinit(&model);
    model_state_deinit(&read);
}

void offer_snapshot(struct offer *offer) {
    offer_snapshot_of(offer, OUTER_SPARSE);
    offer_snapshot_of(offer, OUTER_DENSE);
}

/* ---- messages -------------------------------------------------------------------------------- */

static const enum codec codecs[] = {CODEC_FP32, CODEC_BF16,     CODEC_INT8,
                                    CODEC_FP4,  CODEC_TOPK2_64, CODEC_TOPK2_128};

/* As odd as fp32 has them. */
static void fill(struct offer *offer, float *delta, size_t count) {
    uint64_t how = offer_below(offer, 8);
    for (size_t i = 0; i < count; i++) {
        float value = (float)(random_unit(&offer->random) - 0.5);
        if (how == 0) value *= 0x1.8p127f;
        if (how == 1) value *= 0x1p-140f;
        if (how == 2) value = 0;
        if (how == 3) value = value < 0 ? -0.25f : 0.25f;
        if (how == 4) value *= value * value * value * value * value * value * value;
        if (how == 5) value = i % 700 == 0 ? 1e30f : value * 1e-30f;
        if (how == 6) value = i < count / 2 ? 0 : value;
        delta[i] = value;
    }
}

static void count_visit(void *context, const uint64_t *index, const float *value, size_t count) {
    (void)value;
    if (count > 0 && index[count - 1] != UINT64_MAX) *(uint64_t *)context += count;
}

/* All readers of messages agree on it. */
static void claim_message(struct offer *offer, enum codec codec, struct bytes message,
                          size_t count) {
    float *out = xcalloc(count, sizeof *out), *sum = xcalloc(count, sizeof *sum),
          *theta = xcalloc(count, sizeof *theta);
    uint16_t *senders = xcalloc(count, sizeof *senders);
    uint64_t *places = xcalloc(count / CODEC_CHUNK + 1, sizeof *places), visited = 0, sent = 0;
    double squared = 0;
    enum status status = codec_check(codec, message, count, NULL);
    claim(offer, codec_decode(codec, message, count, out, NULL) == status,
          "decode and check disagree");
    claim(offer, codec_walk(codec, message, count, &squared, NULL, NULL) == status,
          "norm and check disagree");
    claim(offer, codec_restore(codec, message, count, sum, NULL) == status,
          "restore and check disagree");
    claim(offer, codec_visit(codec, message, count, count_visit, &visited, NULL) == status,
          "visit and check disagree");
    claim(offer,
          codec_places(codec, message, count, places, NULL) ==
              (codec_is_sparse(codec) ? status : INVALID),
          "places and check disagree");
    for (size_t i = 0; i < count; i++)
        claim(offer, isfinite(out[i]) && (status == OK || (out[i] == 0 && sum[i] == 0)),
              "a message that was refused left a trace");
    if (status == OK && codec_is_sparse(codec)) {
        struct codec_round round = {theta, sum, senders};
        uint64_t mark; /* they are small: one stretch */
        claim(offer,
              codec_stretches(count) == 1 &&
                  codec_walk(codec, message, count, NULL, &mark, NULL) == OK,
              "a message that was checked is walked over");
        codec_merge_stretch(codec, message, count, codec_stretch_at(count, &mark, 0), 0.5f, 0.7f,
                            &round);
        for (size_t i = 0; i < count; i++) sent += senders[i];
        claim(offer, sent == visited, "as many are visited as are merged");
    }
    free(out);
    free(sum);
    free(theta);
    free(senders);
    free(places);
}

void offer_message(struct offer *offer) {
    for (size_t i = 0; i < COUNT_OF(codecs); i++) {
        size_t count = 1 + (size_t)offer_below(offer, i < 4 ? 700 : 9000);
        float *delta = xcalloc(count, sizeof *delta), *feedback = xcalloc(count, sizeof *feedback);
        struct codec_encoder *encoder = NULL;
        struct buffer message = {0}, bent = {0};
        MUST(codec_encoder_create(codecs[i], count, &encoder, NULL));
        fill(offer, delta, count);
        bool feeds_back = codec_is_sparse(codecs[i]) && offer_below(offer, 4);
        MUST(codec_encode(encoder, delta, NULL, feeds_back ? feedback : NULL, &message, NULL));
        claim(offer, codec_check(codecs[i], buffer_bytes(&message), count, NULL) == OK,
              "a message is not read");
        claim_message(offer, codecs[i], buffer_bytes(&message), count);
        for (int j = 0; j < 24; j++) {
            bent.size = 0;
            buffer_append(&bent, message.data, message.size);
            offer_bend(offer, &bent);
            claim_message(offer, codecs[i], buffer_bytes(&bent), count);
        }
        while (bent.size <= codec_bound(codecs[i], count) + 9) buffer_u8(&bent, 0);
        claim_message(offer, codecs[i], buffer_bytes(&bent), count);
        claim_message(offer, codecs[i], buffer_bytes(&message), count + 1);
        claim_message(offer, codecs[(i + 1) % COUNT_OF(codecs)], buffer_bytes(&message), count);
        claim(offer,
              codec_check(codecs[i], buffer_bytes(&message), CODEC_COUNT_MAX + 1, NULL) == INVALID,
              "too many are read");
        buffer_deinit(&message);
        buffer_deinit(&bent);
        codec_encoder_destroy(encoder);
        free(delta);
        free(feedback);
    }
}

/* What must not be sent is not: neither the message nor the feedback changes. */
void offer_delta(struct offer *offer) {
    for (size_t i = 0; i < COUNT_OF(codecs); i++) {
        size_t count = 1 + (size_t)offer_below(offer, 6000), at = (size_t)offer_below(offer, count);
        float *delta = xcalloc(count, sizeof *delta), *feedback = xcalloc(count, sizeof *feedback);
        struct codec_encoder *encoder = NULL;
        struct buffer message = {0};
        struct error why = {0};
        MUST(codec_encoder_create(codecs[i], count, &encoder, NULL));
        if (offer_below(offer, 3) == 0)
            feedback[at] = delta[at] = 0x1.fp127f;
        else
            delta[at] = offer_below(offer, 2) ? NAN : INFINITY;
        bool with = feedback[at] != 0 || offer_below(offer, 2);
        float before = feedback[at];
        claim(offer,
              codec_encode(encoder, delta, NULL, with ? feedback : NULL, &message, &why) ==
                      INVALID &&
                  why.message[0],
              "what is not finite is encoded");
        claim(offer, message.size == 0 && feedback[at] == before,
              "a delta that was refused left a trace");
        buffer_deinit(&message);
        codec_encoder_destroy(encoder);
        free(delta);
        free(feedback);
    }
    struct codec_encoder *none = NULL;
    struct bytes nothing = {0};
    enum codec read;
    float out = 0;
    claim(offer, codec_encoder_create((enum codec)99, 1, &none, NULL) == INVALID,
          "there is an encoder of no kind");
    claim(offer, codec_encoder_create(CODEC_INT8, CODEC_COUNT_MAX + 1, &none, NULL) == INVALID,
          "there is an encoder without end");
    claim(offer, codec_decode((enum codec)99, nothing, 1, &out, NULL) == INVALID,
          "a message of no kind is read");
    claim(offer,
          codec_parse("topk3", &read, NULL) == INVALID &&
              strcmp(codec_name((enum codec)99), "unknown") == 0,
          "topk3 is known");
    codec_encoder_destroy(NULL);
}

/* ---- submissions ----------------------------------------------------------------------------- */

static void revoke(struct run_state *run, uint32_t site) {
    struct ledger_entry *entry = xcalloc(1, sizeof *entry);
    struct buffer raw = {0};
    entry->kind = LEDGER_SITE_REVOKED;
    entry->epoch = run_state_epoch(run);
    entry->revoked.site = site;
    snprintf(entry->revoked.reason, sizeof entry->revoked.reason, "because");
    ledger_entry_encode(entry, &raw);
    MUST(run_state_apply(run, buffer_bytes(&raw), true, NULL));
    buffer_deinit(&raw);
    free(entry);
}

void offer_submission(struct offer *offer) {
    const struct scenario *scenario = offer->input->scenario;
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint64_t index;
    struct contribution c, read;
    struct admission_limits limits = {.now_ms = UINT64_MAX, .max_payload = 9};
    for (int i = 0; i < 8 && offer_contribution(offer, entry, &index); i++) {
        struct bytes header = bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE);
        struct bytes signature = bytes_of(entry->contribution.signature, SIGNATURE_SIZE);
        if (contribution_decode(header, &c, NULL) != OK) continue;
        claim(offer, contribution_decode(bytes_of(header.data, 9), &read, NULL) == INVALID,
              "half a header is read");
        enum refusal code = admission_header(offer->run, c.site, bytes_of(header.data, 9),
                                             signature, &limits, &read, NULL);
        claim(offer, code != ACCEPTED && code != REFUSED_DUPLICATE, "half a header is taken");
        code = admission_header(offer->run, c.site, header, bytes_of(signature.data, 9), &limits,
                                &read, NULL);
        claim(offer, code != ACCEPTED && code != REFUSED_DUPLICATE, "half a signature is taken");
        code = admission_header(offer->run, c.site, header, signature, &limits, &read, NULL);
        claim(offer, code != ACCEPTED, "what is in the ledger is taken again");
        struct run_state *before = offer_run(offer, index); /* where it was new */
        limits.max_payload = offer_below(offer, 2) ? 9 : UINT64_MAX;
        limits.now_ms = c.signed_at_ms;
        code = admission_header(before, c.site, header, signature, &limits, &read, NULL);
        claim(offer, limits.max_payload != 9 || code != ACCEPTED,
              "a payload that is too long is taken");
        revoke(before, c.site);
        code = admission_header(before, c.site, header, signature, &limits, &read, NULL);
        claim(offer, code != ACCEPTED, "a revoked site is let in");
        run_state_destroy(before);
        const struct buffer *payload = disk_blob_find(offer->input->ledger, c.payload_digest);
        if (!payload || !disk_blob_is_whole(offer->input->ledger, c.payload_digest))
            continue; /* what is damaged may be bent back */
        struct buffer bent = {0};
        buffer_append(&bent, payload->data, payload->size);
        offer_bend(offer, &bent);
        code = admission_payload(&c, &scenario->manifest, scenario->parameters, &bent, NULL);
        claim(offer, code != ACCEPTED, "a bent payload is taken");
        buffer_deinit(&bent);
    }
    free(entry);
}
