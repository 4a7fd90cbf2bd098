/* Manifests, settings, names in certificates and invitations, as somebody might have typed, cut or
 * forged them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/base64.h"
#include "fed/invitation.h"
#include "sim/hostile_input_internal.h"

/* ---- manifests ------------------------------------------------------------------------------- */

/* Pairs of a key and what is written instead; a NULL value: the key is left out. */
static const char *const edits[][6] = {
    {"model.heads", "3"},
    {"model.heads", "128"},
    {"model.hidden", "8192", "model.heads", "4"},
    {"model.kv_heads", "8"},
    {"model.kv_heads", "3"},
    {"model.vocabulary", "255"},
    {"model.vocabulary", "255", "tokenizer", "external"},
    {"inner.decay_tokens", "5"},
    {"inner.schedule", "cosine", "token_budget", "0"},
    {"inner.schedule", "cosine", "token_budget", "9"},
    {"inner.schedule", "linear", "inner.decay_tokens", "10", "inner.warmup_tokens", "10"},
    {"inner.schedule", "linear", "inner.decay_tokens", "10", "inner.warmup_tokens", "9"},
    {"outer.momentum", "0.9"},
    {"outer.period", "4097"},
    {"outer.period", NULL},
    {"outer.mode", NULL},
    {"outer.mode", "dense"},
    {"outer.mode", "sparse"},
    {"outer.mode", "both"},
    {"codec.kind", "int8"},
    {"codec.kind", "topk2-64"},
    {"codec.kind", "topk2-65"},
    {"codec.decay", "0.9"},
    {"codec.decay", "0.95"},
    {"codec.decay", "0"},
    {"codec.decay", "0.95000000001"},
    {"merge.staleness_exponent", "0.7"},
    {"admission.clip_factor", "0.5"},
    {"admission.clip_minimum", "0"},
    {"admission.norm_bound", "-1"},
    {"admission.voice_age", "0s"},
    {"admission.max_step_tokens", "0"},
    {"name", NULL},
    {"name", "No Name"},
    {"name", "a-name-that-is-longer-than-32-letters"},
    {"name", "7up"},
    {"name", "{x}"},
    {"merge.grace", "forever"},
    {"merge.grace", "0"},
    {"merge.grace", "0s"},
    {"merge.grace", "3d"},
    {"merge.grace", "99999999999999d"},
    {"admission.expiry", "forever"},
    {"admission.expiry", "7"},
    {"admission.expiry", "7w"},
    {"admission.expiry", "365d"},
    {"admission.expiry", "366d"},
    {"initial.root", "aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899"},
    {"initial.root", "aabb"},
    {"initial.seed", "18446744073709551615"},
    {"initial.seed", "18446744073709551616"},
    {"fragments", "4294967296"},
    {"fragments", "64"},
    {"fragments", "65"},
    {"inner.floor", "0.1e"},
    {"inner.floor", "1e400"},
    {"inner.floor", "0.30000000000000004"},
    {"model.tied", "false"},
    {"model.tied", "yes"},
};
static const char *const odd_values[] = {
    "0",     "1",      "-1",  "+1",        "1.5", "01",    "forever", "none", "\"\"", "abc",
    "1d",    "[1]",    "1m",  "nan",       "inf", "1e400", "true",    "x",    "-0",   "0x1",
    "dense", "linear", "fp4", "topk2-128", "0.5", "65537", "2000000", "10ms", "1e-3", "{a: 1}"};
static const char *const odd_keys[] = {
    "model", "zebra", "model.widht", "elsewhere.quorum", "fragment",
    "outer", "x.y.z", "inner_steps", "a.quorumm",        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqq"};

struct line {
    char key[64], value[80];
    bool gone;
};
enum { LINES = 64 };

static size_t split(const struct buffer *text, struct line lines[static LINES]) {
    size_t count = 0, at = 0;
    while (at < text->size && count < LINES) {
        const char *start = (const char *)text->data + at;
        size_t length = (size_t)((const char *)memchr(start, '\n', text->size - at) - start);
        size_t colon = (size_t)((const char *)memchr(start, ':', length) - start);
        struct line *line = &lines[count++];
        *line = (struct line){0};
        snprintf(line->key, sizeof line->key, "%.*s", (int)colon, start);
        snprintf(line->value, sizeof line->value, "%.*s", (int)(length - colon - 2),
                 start + colon + 2);
        at += length + 1;
    }
    return count;
}

static void set(struct line *lines, size_t count, const char *key, const char *value) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(lines[i].key, key) != 0) continue;
        lines[i].gone = value == NULL;
        if (value) snprintf(lines[i].value, sizeof lines[i].value, "%s", value);
    }
}

static void bend_lines(struct offer *offer, struct line *lines, size_t count) {
    uint64_t how = offer_below(offer, 10);
    struct line *line = &lines[offer_below(offer, count)];
    if (how < 6) {
        const char *const *edit = edits[offer_below(offer, COUNT_OF(edits))];
        for (size_t i = 0; i < 6 && edit[i]; i += 2) set(lines, count, edit[i], edit[i + 1]);
    } else if (how < 8) {
        snprintf(line->value, sizeof line->value, "%s",
                 odd_values[offer_below(offer, COUNT_OF(odd_values))]);
    } else if (how < 9) {
        snprintf(line->key, sizeof line->key, "%s",
                 odd_keys[offer_below(offer, COUNT_OF(odd_keys))]);
    } else {
        line->key[offer_below(offer, strlen(line->key))] = (char)('a' + offer_below(offer, 26));
    }
}

/* What was read is written in one form, which reads as the same again. */
static void claim_manifest(struct offer *offer, struct bytes yaml) {
    struct manifest first, second;
    struct buffer once = {0}, twice = {0};
    struct error why = {0};
    if (manifest_parse(yaml, &first, &why) != OK) {
        claim(offer, why.message[0] != '\0' && why.status == INVALID,
              "a manifest is refused without a word");
        return;
    }
    manifest_write(&first, &once);
    bool same = manifest_parse(buffer_bytes(&once), &second, &why) == OK;
    if (same) manifest_write(&second, &twice);
    claim(offer, same && bytes_equal(buffer_bytes(&once), buffer_bytes(&twice)),
          "a manifest reads otherwise once it was written");
    claim(offer, manifest_check(&first, &why) == OK,
          "a manifest that was read does not pass its check");
    buffer_deinit(&once);
    buffer_deinit(&twice);
}

void offer_manifest(struct offer *offer) {
    struct buffer text = {0}, explained = {0};
    struct manifest defaults;
    struct line lines[LINES], bent[LINES];
    manifest_write(&offer->input->scenario->manifest, &text);
    size_t count = split(&text, lines);
    claim_manifest(offer, buffer_bytes(&text));
    for (int i = 0; i < 60; i++) {
        struct buffer out = {0};
        memcpy(bent, lines, sizeof bent);
        for (uint64_t some = 1 + offer_below(offer, 2); some > 0; some--)
            bend_lines(offer, bent, count);
        for (size_t j = 0; j < count; j++) {
            if (!bent[j].gone) buffer_append_text(&out, "%s: %s\n", bent[j].key, bent[j].value);
        }
        if (i % 10 == 9) offer_bend(offer, &out);
        claim_manifest(offer, buffer_bytes(&out));
        buffer_deinit(&out);
    }
    manifest_explain(&explained);
    claim_manifest(offer, buffer_bytes(&explained));
    manifest_defaults(&defaults);
    snprintf(defaults.name, sizeof defaults.name, "run");
    claim(offer, manifest_check(&defaults, NULL) == OK, "the defaults do not pass their check");
    buffer_deinit(&text);
    buffer_deinit(&explained);
}

/* One field beyond its bounds, in a manifest that no text was read for. */
void offer_setting(struct offer *offer) {
    for (unsigned kind = 0; kind < 13; kind++) {
        struct manifest m = offer->input->scenario->manifest;
        struct error why = {0};
        bool sparse = m.outer.mode == OUTER_SPARSE;
        switch (kind) {
        case 0: m.codec.kind = 99; break;
        case 1: m.fragments = 0; break;
        case 2: m.outer.period = 0; break;
        case 3: m.outer.learning_rate = (double)NAN; break;
        case 4: m.inner.floor = -0.0; break;
        case 5: memset(m.name, 'x', sizeof m.name); break;
        case 6: m.name[0] = 'X'; break;
        case 7: m.merge.grace_ms = UINT64_MAX - 1; break;
        case 8: m.admission.expiry_ms = UINT64_MAX; break;
        case 9: m.token_budget = UINT64_MAX; break;
        case 10: m.codec.kind = sparse ? 3 : 5; break;
        case 11: m.inner.learning_rate = (double)INFINITY; break;
        default: m.codec.decay = sparse ? 0 : 0.95; break;
        }
        claim(offer, manifest_check(&m, &why) == INVALID && why.message[0],
              "a manifest out of bounds passes its check");
    }
}

/* ---- names ----------------------------------------------------------------------------------- */

static void claim_identity(struct offer *offer, const char *uri) {
    struct identity read;
    char again[IDENTITY_URI_SIZE];
    if (identity_parse(uri, &read, NULL) != OK) return;
    identity_write(&read, again);
    claim(offer, strcmp(uri, again) == 0, "a certificate's URI has a second form");
}

void offer_identity(struct offer *offer) {
    static const char *const ends[] = {"/site/0",
                                       "/site/01",
                                       "/site/4294967296",
                                       "/site/1x",
                                       "/site/7",
                                       "/site/4294967295",
                                       "/admin/somebody",
                                       "/admin/Root",
                                       "/admin/",
                                       "/nobody/1",
                                       "/admin/a-name-that-is-longer-than-32-letters-are",
                                       ""};
    struct identity who = {.role = IDENTITY_SITE,
                           .site = 1 + (uint32_t)offer_below(offer, UINT32_MAX)},
                    read;
    char uri[IDENTITY_URI_SIZE], bent[2 * IDENTITY_URI_SIZE];
    memcpy(who.run_id, run_state_run_id(offer->run), RUN_ID_SIZE);
    for (int i = 0; i < 40; i++) {
        if (i == 20) who = (struct identity){.role = IDENTITY_ADMIN, .name = "operator-7"};
        identity_write(&who, uri);
        claim(offer,
              identity_parse(uri, &read, NULL) == OK && read.role == who.role &&
                  read.site == who.site,
              "a certificate's URI is not read");
        snprintf(bent, sizeof bent, "%s", uri);
        bent[offer_below(offer, strlen(bent))] = (char)(33 + offer_below(offer, 94));
        claim_identity(offer, bent);
    }
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        snprintf(bent, sizeof bent, "%.40s%s", uri, ends[i]);
        claim_identity(offer, bent);
    }
    memset(bent, 'a', sizeof bent - 1);
    bent[sizeof bent - 1] = '\0';
    claim(offer, identity_parse(bent, &read, NULL) == INVALID, "a URI that is too long is read");
    claim(offer, identity_parse("atoll://", &read, NULL) == INVALID, "a URI of nothing is read");
}

/* ---- invitations ----------------------------------------------------------------------------- */

static void claim_token(struct offer *offer, const char *token, bool must_fail) {
    struct invitation read;
    struct error why = {0};
    if (invitation_parse(token, &read, &why) != OK) {
        claim(offer, !strstr(why.message, token) || strlen(token) < 4,
              "a refusal repeats the secret");
        return;
    }
    claim(offer, !must_fail, "an invitation of no format is read");
    char *again = invitation_write(&read);
    claim(offer, strcmp(again, token) == 0, "an invitation has a second form");
    free(again);
}

/* A token of the right letters, with anything in it. */
static void claim_forged(struct offer *offer, uint8_t format, const char *name, size_t name_size,
                         size_t ca_size) {
    struct buffer raw = {0};
    static const uint8_t zeros[CA_DER_LIMIT + 1];
    buffer_u8(&raw, format);
    buffer_u8(&raw, (uint8_t)name_size);
    buffer_append(&raw, name, strlen(name));
    buffer_append(&raw, zeros, SECRET_SIZE);
    buffer_append(&raw, zeros, ca_size);
    char *token = xmalloc(BASE64URL_SIZE(raw.size));
    claim_token(offer, base64url_encode(raw.data, raw.size, token), true);
    free(token);
    buffer_deinit(&raw);
}

void offer_invitation(struct offer *offer) {
    struct invitation good = {.name = "island", .ca_size = 100}, read;
    for (size_t i = 0; i < SECRET_SIZE; i++) good.secret[i] = (uint8_t)offer_below(offer, 256);
    for (size_t i = 0; i < good.ca_size; i++) good.ca_der[i] = (uint8_t)offer_below(offer, 256);
    char *token = invitation_write(&good);
    size_t size = strlen(token);
    claim(offer,
          invitation_parse(token, &read, NULL) == OK &&
              memcmp(&good.secret, &read.secret, SECRET_SIZE) == 0,
          "an invitation is not read");
    for (int i = 0; i < 40; i++) {
        char *bent = xmalloc(size + 1);
        memcpy(bent, token, size + 1);
        bent[offer_below(offer, size)] = (char)(33 + offer_below(offer, 94));
        if (i % 4 == 0) bent[offer_below(offer, size)] = '\0';
        claim_token(offer, bent, false);
        free(bent);
    }
    claim_forged(offer, 9, "island", 6, 10);
    claim_forged(offer, 1, "island", 60, 10);
    claim_forged(offer, 1, "Island", 6, 10);
    claim_forged(offer, 1, "island", 6, 0);
    claim_forged(offer, 1, "island", 6, CA_DER_LIMIT + 1);
    claim_forged(offer, 1, "", 32, 0);
    free(token);
}
