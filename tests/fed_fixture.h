/* A small federation in memory for the tests of fed/: a coordinator that follows the rules, its
 * ledger, its payloads and the model that they make. Deltas are drawn from a seed; keys are made
 * from seeds, so every byte of a scenario is reproducible. */
#ifndef TESTS_FED_FIXTURE_H
#define TESTS_FED_FIXTURE_H

#include "base/memory.h"
#include "base/random.h"
#include "codec/codec.h"
#include "fed/replay.h"
#include "kernels/elementwise.h"
#include "tests/test.h"

#define FIXTURE __attribute__((unused)) static

enum { FIXTURE_SITES = 24, FIXTURE_ENTRIES = 2048 };
#define FIXTURE_NOW UINT64_C(1700000000000)

struct fixture_payload {
    uint8_t digest[DIGEST_SIZE];
    struct buffer bytes;
};

struct fixture {
    struct manifest manifest;
    uint64_t parameters;
    struct key_pair *coordinator, *keys[FIXTURE_SITES + 1]; /* site n's at n */
    uint8_t layout[DIGEST_SIZE], run_id[RUN_ID_SIZE];
    struct run_state *run;
    struct model_state model;
    struct buffer entries[FIXTURE_ENTRIES];
    uint64_t entry_count;
    struct fixture_payload payloads[FIXTURE_ENTRIES];
    uint64_t payload_count;
    struct random random;
    uint64_t tokens;  /* of the next contributions; 0: 1000 */
    enum codec codec; /* of the next contributions */
    struct codec_encoder *encoders[FRAGMENTS_LIMIT];
    struct error error;
    struct step_rules rules;
};

/* As for a run of four sites; of steps that no ledger has. */
FIXTURE const struct step_rules *fixture_rules(struct fixture *f) {
    f->rules = step_rules_of(&f->manifest, f->manifest.inner.inner_steps, 4);
    return &f->rules;
}

FIXTURE struct key_pair *fixture_key(uint8_t number) {
    uint8_t seed[KEY_SEED_SIZE] = {number, 77};
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_OK(key_pair_from_seed(seed, &key, &error));
    return key;
}

FIXTURE float fixture_float(struct random *random) { return (float)(random_unit(random) * 2 - 1); }

FIXTURE enum status fixture_apply(struct fixture *f, const struct ledger_entry *entry,
                                  struct error *error) {
    struct buffer raw = {0};
    ledger_entry_encode(entry, &raw);
    enum status status = run_state_apply(f->run, buffer_bytes(&raw), false, error);
    if (status == OK) {
        CHECK(f->entry_count < FIXTURE_ENTRIES);
        f->entries[f->entry_count++] = raw;
    } else {
        buffer_deinit(&raw);
    }
    return status;
}

FIXTURE void fixture_append(struct fixture *f, const struct ledger_entry *entry) {
    struct error error = {0};
    CHECK_OK(fixture_apply(f, entry, &error));
}

FIXTURE struct ledger_entry fixture_entry(const struct fixture *f, enum ledger_kind kind) {
    struct ledger_entry entry;
    memset(&entry, 0, sizeof entry);
    entry.kind = kind;
    entry.epoch = f->run && run_state_has_genesis(f->run) ? run_state_epoch(f->run) : 1;
    entry.time_ms = FIXTURE_NOW + f->entry_count;
    return entry;
}

FIXTURE struct ledger_entry fixture_genesis(struct fixture *f, struct buffer *manifest) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_GENESIS);
    memcpy(entry.genesis.run_id, f->run_id, RUN_ID_SIZE);
    memcpy(entry.genesis.coordinator_key, key_pair_public(f->coordinator), PUBLIC_KEY_SIZE);
    memcpy(entry.genesis.layout_digest, f->layout, DIGEST_SIZE);
    entry.genesis.parameters = f->parameters;
    state_root(f->model.theta, f->parameters, entry.genesis.initial_root);
    manifest_write(&f->manifest, manifest);
    entry.genesis.manifest = buffer_bytes(manifest);
    return entry;
}

FIXTURE void fixture_initial(uint64_t seed, float *theta, uint64_t count) {
    struct random random;
    random_init(&random, seed);
    for (uint64_t i = 0; i < count; i++) theta[i] = fixture_float(&random);
}

/* `more` is YAML after the run's name. The ledger then holds its genesis. */
FIXTURE struct fixture *fixture_open(const char *more, uint64_t parameters) {
    struct fixture *f = xcalloc(1, sizeof *f);
    char *yaml = xformat("name: test\n%s", more);
    struct error error = {0};
    CHECK_OK(manifest_parse(bytes_of(yaml, strlen(yaml)), &f->manifest, &error));
    free(yaml);
    f->parameters = parameters;
    f->coordinator = fixture_key(200);
    for (uint8_t i = 1; i <= FIXTURE_SITES; i++) f->keys[i] = fixture_key(i);
    memset(f->layout, 0xA1, sizeof f->layout);
    memset(f->run_id, 0x5E, sizeof f->run_id);
    random_init(&f->random, 11);
    f->run = run_state_create();
    CHECK_OK(model_state_init(&f->model, &f->manifest, parameters, &error));
    fixture_initial(5, f->model.theta, parameters);
    for (uint32_t i = 0; i < f->manifest.fragments; i++) {
        uint64_t start, count;
        fragment_range(parameters, f->manifest.fragments, i, &start, &count);
        CHECK_OK(
            codec_encoder_create(f->manifest.codec.kind, (size_t)count, &f->encoders[i], &error));
    }
    f->codec = (enum codec)f->manifest.codec.kind;
    struct buffer manifest = {0};
    struct ledger_entry genesis = fixture_genesis(f, &manifest);
    fixture_append(f, &genesis);
    buffer_deinit(&manifest);
    return f;
}

FIXTURE void fixture_close(struct fixture *f) {
    key_pair_destroy(f->coordinator);
    for (size_t i = 1; i <= FIXTURE_SITES; i++) key_pair_destroy(f->keys[i]);
    run_state_destroy(f->run);
    model_state_deinit(&f->model);
    for (uint64_t i = 0; i < f->entry_count; i++) buffer_deinit(&f->entries[i]);
    for (uint64_t i = 0; i < f->payload_count; i++) buffer_deinit(&f->payloads[i].bytes);
    for (size_t i = 0; i < FRAGMENTS_LIMIT; i++) codec_encoder_destroy(f->encoders[i]);
    free(f);
}

FIXTURE struct ledger_entry fixture_invited(struct fixture *f, const char *name, uint8_t secret) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_SITE_INVITED);
    snprintf(entry.invited.name, SITE_NAME_SIZE, "%s", name);
    memset(entry.invited.secret_digest, secret, DIGEST_SIZE);
    entry.invited.expires_ms = FIXTURE_NOW + 1000;
    return entry;
}

FIXTURE struct ledger_entry fixture_added(struct fixture *f, uint32_t site, const char *name,
                                          uint8_t secret) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_SITE_ADDED);
    entry.added.site = site;
    snprintf(entry.added.name, SITE_NAME_SIZE, "%s", name);
    memcpy(entry.added.public_key, key_pair_public(f->keys[site]), PUBLIC_KEY_SIZE);
    memset(entry.added.secret_digest, secret, DIGEST_SIZE);
    return entry;
}

/* Invites and adds the next `count` sites, named site-1, site-2, ... */
FIXTURE void fixture_sites(struct fixture *f, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t site = run_state_site_count(f->run) + 1;
        char name[SITE_NAME_SIZE];
        snprintf(name, sizeof name, "site-%u", site);
        struct ledger_entry entry = fixture_invited(f, name, (uint8_t)site);
        fixture_append(f, &entry);
        entry = fixture_added(f, site, name, (uint8_t)site);
        fixture_append(f, &entry);
    }
}

FIXTURE void fixture_note(struct fixture *f, enum ledger_kind kind) {
    struct ledger_entry entry = fixture_entry(f, kind);
    if (kind == LEDGER_EPOCH) entry.epoch++;
    if (kind == LEDGER_PAUSED) snprintf(entry.note.reason, REASON_SIZE, "maintenance");
    fixture_append(f, &entry);
}

FIXTURE void fixture_revoke(struct fixture *f, uint32_t site) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_SITE_REVOKED);
    entry.revoked.site = site;
    snprintf(entry.revoked.reason, REASON_SIZE, "left the federation");
    fixture_append(f, &entry);
}

/* Keeps the bytes; lends them. */
FIXTURE struct bytes fixture_keep(struct fixture *f, struct buffer payload) {
    CHECK(f->payload_count < FIXTURE_ENTRIES);
    struct fixture_payload *kept = &f->payloads[f->payload_count++];
    kept->bytes = payload;
    digest_sha256(payload.data, payload.size, kept->digest);
    return buffer_bytes(&kept->bytes);
}

FIXTURE struct bytes fixture_payload_of(struct fixture *f, uint32_t fragment, const float *delta) {
    struct buffer payload = {0};
    struct error error = {0};
    CHECK_OK(codec_encode(f->encoders[fragment], delta, NULL, NULL, &payload, &error));
    return fixture_keep(f, payload);
}

/* A random delta of that size for the fragment; owned by the caller. */
FIXTURE float *fixture_delta(struct fixture *f, uint32_t fragment, float size) {
    uint64_t start, count;
    fragment_range(f->parameters, f->manifest.fragments, fragment, &start, &count);
    float *delta = xcalloc((size_t)count, sizeof *delta);
    for (uint64_t i = 0; i < count; i++) delta[i] = size * fixture_float(&f->random);
    return delta;
}

FIXTURE void fixture_use_codec(struct fixture *f, enum codec codec) {
    struct error error = {0};
    f->codec = codec;
    for (uint32_t i = 0; i < f->manifest.fragments; i++) {
        uint64_t start, count;
        fragment_range(f->parameters, f->manifest.fragments, i, &start, &count);
        codec_encoder_destroy(f->encoders[i]);
        CHECK_OK(codec_encoder_create(codec, (size_t)count, &f->encoders[i], &error));
    }
}

/* A header that the rules accept as the site's next. */
FIXTURE struct contribution fixture_contribution(struct fixture *f, uint32_t site,
                                                 uint32_t fragment, uint64_t base,
                                                 struct bytes payload) {
    struct contribution c = {.protocol = PROTOCOL_VERSION,
                             .codec = (uint16_t)f->codec,
                             .epoch = run_state_epoch(f->run),
                             .site = site,
                             .fragment = fragment,
                             .base_version = base,
                             .inner_steps = 30,
                             .tokens = f->tokens ? f->tokens : 1000,
                             .loss = 2.5f,
                             .compute_share = 0.9f,
                             .payload_size = payload.size,
                             .signed_at_ms = FIXTURE_NOW};
    const struct run_site *known = run_state_site(f->run, site);
    c.sequence = known ? known->last_sequence + 1 : 1;
    if (known) memcpy(c.previous, known->last_digest, DIGEST_SIZE);
    memcpy(c.run_id, f->run_id, RUN_ID_SIZE);
    key_id(key_pair_public(f->keys[site]), c.key_id);
    run_state_root_at(f->run, base, c.base_root);
    memcpy(c.layout_digest, f->layout, DIGEST_SIZE);
    digest_sha256(payload.data, payload.size, c.payload_digest);
    manifest_digest(&f->manifest, c.manifest_digest);
    uint64_t start, count;
    fragment_range(f->parameters, f->manifest.fragments, fragment, &start, &count);
    double squared = 0;
    struct error error = {0};
    CHECK_OK(codec_walk(f->codec, payload, (size_t)count, &squared, NULL, &error));
    c.norm = sqrt(squared);
    return c;
}

/* The last payload that was made, as it comes from a disk. The caller destroys it. */
FIXTURE struct verified_payload *fixture_verified(struct fixture *f, uint32_t fragment) {
    struct bytes last = buffer_bytes(&f->payloads[f->payload_count - 1].bytes);
    struct contribution c = {
        .fragment = fragment, .payload_size = last.size, .codec = (uint16_t)f->codec};
    struct buffer bytes = {0};
    struct verified_payload *payload = NULL;
    struct error error = {0};
    digest_sha256(last.data, last.size, c.payload_digest);
    struct payload_terms terms = payload_terms_of(&f->manifest, f->parameters, &c);
    buffer_append(&bytes, last.data, last.size);
    CHECK_OK(payload_verify(&terms, &bytes, &payload, &error));
    return payload;
}

FIXTURE struct ledger_entry fixture_signed(struct fixture *f, const struct contribution *c,
                                           const struct key_pair *key) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_CONTRIBUTION);
    contribution_encode(c, entry.contribution.header);
    contribution_sign(key, entry.contribution.header, entry.contribution.signature);
    return entry;
}

/* Enters the site's next contribution. Returns its ledger index. */
FIXTURE uint64_t fixture_contribute_delta(struct fixture *f, uint32_t site, uint32_t fragment,
                                          uint64_t base, const float *delta) {
    struct bytes payload = fixture_payload_of(f, fragment, delta);
    struct contribution c = fixture_contribution(f, site, fragment, base, payload);
    struct ledger_entry entry = fixture_signed(f, &c, f->keys[site]);
    fixture_append(f, &entry);
    return f->entry_count - 1;
}

FIXTURE uint64_t fixture_contribute(struct fixture *f, uint32_t site, uint32_t fragment,
                                    uint64_t base, float size) {
    float *delta = fixture_delta(f, fragment, size);
    uint64_t index = fixture_contribute_delta(f, site, fragment, base, delta);
    free(delta);
    return index;
}

FIXTURE enum status fixture_read_entry(void *context, uint64_t index, struct buffer *out,
                                       struct error *error) {
    struct fixture *f = context;
    if (index >= f->entry_count)
        return error_set(error, NOT_FOUND, "entry %llu", (unsigned long long)index);
    buffer_append(out, f->entries[index].data, f->entries[index].size);
    return OK;
}

FIXTURE enum status fixture_read_payload(void *context, const uint8_t digest[DIGEST_SIZE],
                                         uint64_t size, struct buffer *out, struct error *error) {
    struct fixture *f = context;
    (void)size;
    for (uint64_t i = 0; i < f->payload_count; i++) {
        if (memcmp(f->payloads[i].digest, digest, DIGEST_SIZE) != 0) continue;
        buffer_append(out, f->payloads[i].bytes.data, f->payloads[i].bytes.size);
        return OK;
    }
    return error_set(error, NOT_FOUND, "no such payload");
}

FIXTURE struct ledger_source fixture_source(struct fixture *f) {
    return (struct ledger_source){fixture_read_entry, fixture_read_payload, f};
}

/* Merges the fragment's first `count` waiting contributions, as a coordinator does. */
FIXTURE void fixture_step(struct fixture *f, uint32_t fragment, uint16_t count) {
    struct ledger_entry entry;
    struct error error = {0};
    struct ledger_source source = fixture_source(f);
    run_state_plan_step(f->run, fragment, count, &entry);
    entry.time_ms = FIXTURE_NOW + f->entry_count;
    CHECK_OK(replay_step(&source, f->run, &entry, &f->model, entry.step.root, NULL, &error));
    entry.step.has_root = entry.step.version % f->manifest.root_interval == 0;
    fixture_append(f, &entry);
}

/* The state as text: equal texts before and after a refused entry are the proof that nothing
 * changed. */
FIXTURE char *fixture_describe(const struct run_state *run, const struct manifest *manifest) {
    struct buffer text = {0};
    char hex[HEX32_SIZE];
    uint8_t root[DIGEST_SIZE];
    uint64_t version;
    merkle_root(run_state_tree(run), run_state_size(run), root);
    buffer_append_text(&text, "size %llu tree %s\n", (unsigned long long)run_state_size(run),
                       hex_encode(root, DIGEST_SIZE, hex));
    if (!run_state_has_genesis(run)) goto out;
    run_state_root(run, &version, root);
    buffer_append_text(
        &text,
        "version %llu root %llu %s epoch %u phase %d reason %s H %u tokens %llu median %.17g\n",
        (unsigned long long)run_state_version(run), (unsigned long long)version,
        hex_encode(root, DIGEST_SIZE, hex), run_state_epoch(run), (int)run_state_phase(run),
        run_state_reason(run), run_state_inner_steps(run),
        (unsigned long long)run_state_tokens(run), run_state_median_norm(run, 0));
    for (uint32_t i = 1; i <= run_state_site_count(run); i++) {
        const struct run_site *site = run_state_site(run, i);
        buffer_append_text(
            &text, "site %u %s revoked %d at %llu last %llu %llu %s count %llu tokens %llu\n",
            site->site, site->name, site->revoked, (unsigned long long)site->revoked_at,
            (unsigned long long)site->last_sequence, (unsigned long long)site->last_index,
            hex_encode(site->last_digest, DIGEST_SIZE, hex),
            (unsigned long long)site->contributions, (unsigned long long)site->tokens);
    }
    for (uint32_t i = 0; i < run_state_invitation_count(run); i++)
        buffer_append_text(&text, "invitation %s %d\n", run_state_invitation_at(run, i)->name,
                           (int)run_state_invitation_at(run, i)->end);
    for (uint32_t f = 0; f < manifest->fragments; f++)
        for (uint32_t i = 0; i < run_state_pending_count(run, f); i++) {
            const struct run_pending *p = run_state_pending(run, f, i);
            buffer_append_text(&text, "pending %u %llu clip %.17g\n", f,
                               (unsigned long long)p->index, p->clip);
        }
out:
    buffer_u8(&text, 0);
    return (char *)text.data;
}

FIXTURE void fixture_refused(struct fixture *f, const struct ledger_entry *entry,
                             const char *part) {
    struct error error = {0};
    char *before = fixture_describe(f->run, &f->manifest);
    if (fixture_apply(f, entry, &error) != INVALID)
        test_failed(__FILE__, __LINE__, "not refused as \"%s\": %s", part, error.message);
    CHECK_CONTAINS(error.message, part);
    char number[32];
    snprintf(number, sizeof number, "ledger entry %llu", (unsigned long long)f->entry_count);
    CHECK_CONTAINS(error.message, number);
    char *after = fixture_describe(f->run, &f->manifest);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
}

FIXTURE struct ledger_entry fixture_next(struct fixture *f, uint32_t site, uint32_t fragment,
                                         uint64_t base, struct contribution *c) {
    float *delta = fixture_delta(f, fragment, 0.01f);
    *c = fixture_contribution(f, site, fragment, base, fixture_payload_of(f, fragment, delta));
    free(delta);
    return fixture_signed(f, c, f->keys[site]);
}

FIXTURE struct ledger_entry fixture_planned_step(struct fixture *f, uint32_t fragment,
                                                 uint16_t count) {
    struct ledger_entry entry;
    run_state_plan_step(f->run, fragment, count, &entry);
    entry.step.has_root = entry.step.version % f->manifest.root_interval == 0;
    return entry;
}

FIXTURE void fixture_presence(struct fixture *f, enum ledger_kind kind, uint32_t site) {
    struct ledger_entry entry = fixture_entry(f, kind);
    entry.presence.site = site;
    fixture_append(f, &entry);
}

FIXTURE struct ledger_entry fixture_rule(struct fixture *f, const char *key, const char *value) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_RULE);
    snprintf(entry.rule.key, sizeof entry.rule.key, "%s", key);
    snprintf(entry.rule.value, sizeof entry.rule.value, "%s", value);
    snprintf(entry.rule.reason, sizeof entry.rule.reason, "because");
    return entry;
}

FIXTURE void fixture_set(struct fixture *f, const char *key, const char *value) {
    struct ledger_entry entry = fixture_rule(f, key, value);
    fixture_append(f, &entry);
}

#endif
