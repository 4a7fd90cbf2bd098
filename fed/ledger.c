/* A ledger entry as bytes and back (fed/ledger.h). One encoding per entry, exact length; rules
 * about what may follow what are in run_apply.c. */
#include "fed/ledger.h"

#include <math.h>
#include <string.h>

#include "base/utf8.h"

/* Texts travel in their whole field: characters, then zeroes to the end. So every text has one
 * encoding. */
static void write_text(struct buffer *out, const char *text, size_t size) {
    size_t length = strnlen(text, size - 1);
    static const uint8_t zeroes[REASON_SIZE];
    buffer_append(out, text, length);
    buffer_append(out, zeroes, size - length);
}

static bool read_text(struct reader *reader, char *out, size_t size) {
    reader_copy(reader, out, size);
    size_t length = strnlen(out, size);
    if (length == size) {
        out[size - 1] = '\0';
        return false;
    }
    for (size_t i = length; i < size; i++)
        if (out[i] != '\0') return false;
    /* Reasons are shown on terminals and in logs. What is not UTF-8 is let be: a reason that was
     * cut at its end may stop within a character. */
    for (size_t i = 0; i < length;) {
        const uint8_t *at = (const uint8_t *)out + i;
        size_t size_here = utf8_length(at, length - i);
        if (*at < 0x20 || *at == 0x7F) return false;
        if (size_here && !utf8_shown_length(at, length - i)) return false;
        i += size_here ? size_here : 1;
    }
    return true;
}

/* long: a flat switch, a case for each kind. */
void ledger_entry_encode(const struct ledger_entry *entry, struct buffer *out) {
    buffer_u8(out, (uint8_t)entry->kind);
    buffer_u32(out, entry->epoch);
    buffer_u64(out, entry->time_ms);
    switch (entry->kind) {
    case LEDGER_GENESIS:
        ASSERT(entry->genesis.manifest.size <= MANIFEST_LIMIT);
        buffer_append(out, entry->genesis.run_id, RUN_ID_SIZE);
        buffer_append(out, entry->genesis.coordinator_key, PUBLIC_KEY_SIZE);
        buffer_append(out, entry->genesis.layout_digest, DIGEST_SIZE);
        buffer_u64(out, entry->genesis.parameters);
        buffer_append(out, entry->genesis.initial_root, DIGEST_SIZE);
        buffer_u32(out, (uint32_t)entry->genesis.manifest.size);
        buffer_append(out, entry->genesis.manifest.data, entry->genesis.manifest.size);
        return;
    case LEDGER_SITE_INVITED:
        write_text(out, entry->invited.name, SITE_NAME_SIZE);
        buffer_append(out, entry->invited.secret_digest, DIGEST_SIZE);
        buffer_u64(out, entry->invited.expires_ms);
        buffer_u8(out, (uint8_t)entry->invited.role);
        return;
    case LEDGER_SITE_UNINVITED: write_text(out, entry->uninvited.name, SITE_NAME_SIZE); return;
    case LEDGER_SITE_ADDED:
        buffer_u32(out, entry->added.site);
        write_text(out, entry->added.name, SITE_NAME_SIZE);
        buffer_append(out, entry->added.public_key, PUBLIC_KEY_SIZE);
        buffer_append(out, entry->added.secret_digest, DIGEST_SIZE);
        return;
    case LEDGER_SITE_REVOKED:
        buffer_u32(out, entry->revoked.site);
        write_text(out, entry->revoked.reason, REASON_SIZE);
        return;
    case LEDGER_SITE_AWAY:
    case LEDGER_SITE_BACK:
    case LEDGER_SITE_LEFT: buffer_u32(out, entry->presence.site); return;
    case LEDGER_RULE:
        write_text(out, entry->rule.key, RULE_KEY_SIZE);
        write_text(out, entry->rule.value, RULE_VALUE_SIZE);
        write_text(out, entry->rule.reason, REASON_SIZE);
        return;
    case LEDGER_CONTRIBUTION:
        buffer_append(out, entry->contribution.header, CONTRIBUTION_HEADER_SIZE);
        buffer_append(out, entry->contribution.signature, SIGNATURE_SIZE);
        return;
    case LEDGER_STEP:
        ASSERT(entry->step.count >= 1 && entry->step.count <= STEP_CONTRIBUTIONS_LIMIT);
        buffer_u32(out, entry->step.fragment);
        buffer_u64(out, entry->step.version);
        buffer_u8(out, entry->step.has_root);
        if (entry->step.has_root) buffer_append(out, entry->step.root, DIGEST_SIZE);
        buffer_f32(out, entry->step.rate);
        buffer_u32(out, entry->step.period);
        buffer_u16(out, entry->step.count);
        for (size_t i = 0; i < entry->step.count; i++) {
            buffer_u64(out, entry->step.parts[i].index);
            buffer_f32(out, entry->step.parts[i].scale);
        }
        return;
    case LEDGER_PAUSED:
    case LEDGER_STOPPED: write_text(out, entry->note.reason, REASON_SIZE); return;
    case LEDGER_RESUMED:
        write_text(out, entry->note.reason, REASON_SIZE);
        buffer_u64(out, entry->note.token_budget);
        return;
    case LEDGER_EPOCH: return;
    case LEDGER_DROPPED:
        buffer_u64(out, entry->dropped.index);
        write_text(out, entry->dropped.reason, REASON_SIZE);
        return;
    }
    assert_failed("a ledger kind that exists", __FILE__, __LINE__);
}

static enum status decode_genesis(struct reader *reader, struct ledger_entry *out,
                                  struct error *error) {
    reader_copy(reader, out->genesis.run_id, RUN_ID_SIZE);
    reader_copy(reader, out->genesis.coordinator_key, PUBLIC_KEY_SIZE);
    reader_copy(reader, out->genesis.layout_digest, DIGEST_SIZE);
    out->genesis.parameters = reader_u64(reader);
    reader_copy(reader, out->genesis.initial_root, DIGEST_SIZE);
    uint32_t size = reader_u32(reader);
    if (size > MANIFEST_LIMIT)
        return error_set(error, INVALID, "genesis: a manifest of %u bytes, limit %d", size,
                         MANIFEST_LIMIT);
    out->genesis.manifest = reader_take(reader, size);
    return OK;
}

static enum status decode_step(struct reader *reader, struct ledger_entry *out,
                               struct error *error) {
    out->step.fragment = reader_u32(reader);
    out->step.version = reader_u64(reader);
    uint8_t has_root = reader_u8(reader);
    if (has_root > 1) return error_set(error, INVALID, "step: the root flag is %u", has_root);
    out->step.has_root = has_root == 1;
    if (out->step.has_root) reader_copy(reader, out->step.root, DIGEST_SIZE);
    out->step.rate = reader_f32(reader);
    out->step.period = reader_u32(reader);
    out->step.count = reader_u16(reader);
    if (reader->failed) return OK; /* the caller's reader_finish says it */
    if (out->step.count < 1 || out->step.count > STEP_CONTRIBUTIONS_LIMIT)
        return error_set(error, INVALID, "step: %u contributions, limit 1 to %d", out->step.count,
                         STEP_CONTRIBUTIONS_LIMIT);
    if (!(out->step.rate > 0) || !isfinite(out->step.rate) || out->step.period < 1)
        return error_set(error, INVALID, "step: its rate or period is invalid");
    for (size_t i = 0; i < out->step.count && !reader->failed; i++) {
        struct step_part *part = &out->step.parts[i];
        part->index = reader_u64(reader);
        part->scale = reader_f32(reader);
        if (reader->failed) break;
        if (i > 0 && part->index <= part[-1].index)
            return error_set(error, INVALID,
                             "step: the indices of its contributions do not increase");
        if (!isfinite(part->scale) || signbit(part->scale))
            return error_set(error, INVALID, "step: a scale is not a finite number from 0");
    }
    return OK;
}

static enum status text_status(bool good, const char *what, struct error *error) {
    return good ? OK
                : error_set(error, INVALID, "%s: a text that is not clean and zero-filled", what);
}

static enum status decode_fields(struct reader *reader, struct ledger_entry *out,
                                 struct error *error) {
    const char *what = ledger_kind_name(out->kind);
    switch (out->kind) {
    case LEDGER_GENESIS: return decode_genesis(reader, out, error);
    case LEDGER_SITE_INVITED:
        TRY(text_status(read_text(reader, out->invited.name, SITE_NAME_SIZE), what, error));
        reader_copy(reader, out->invited.secret_digest, DIGEST_SIZE);
        out->invited.expires_ms = reader_u64(reader);
        out->invited.role = (enum site_role)reader_u8(reader);
        if (out->invited.role >= SITE_ROLES)
            return error_set(error, INVALID, "%s: there is no role %u", what,
                             (unsigned)out->invited.role);
        return OK;
    case LEDGER_SITE_UNINVITED:
        return text_status(read_text(reader, out->uninvited.name, SITE_NAME_SIZE), what, error);
    case LEDGER_SITE_ADDED:
        out->added.site = reader_u32(reader);
        TRY(text_status(read_text(reader, out->added.name, SITE_NAME_SIZE), what, error));
        reader_copy(reader, out->added.public_key, PUBLIC_KEY_SIZE);
        reader_copy(reader, out->added.secret_digest, DIGEST_SIZE);
        return OK;
    case LEDGER_SITE_REVOKED:
        out->revoked.site = reader_u32(reader);
        return text_status(read_text(reader, out->revoked.reason, REASON_SIZE), what, error);
    case LEDGER_SITE_AWAY:
    case LEDGER_SITE_BACK:
    case LEDGER_SITE_LEFT: out->presence.site = reader_u32(reader); return OK;
    case LEDGER_RULE:
        TRY(text_status(read_text(reader, out->rule.key, RULE_KEY_SIZE), what, error));
        TRY(text_status(read_text(reader, out->rule.value, RULE_VALUE_SIZE), what, error));
        return text_status(read_text(reader, out->rule.reason, REASON_SIZE), what, error);
    case LEDGER_CONTRIBUTION:
        reader_copy(reader, out->contribution.header, CONTRIBUTION_HEADER_SIZE);
        reader_copy(reader, out->contribution.signature, SIGNATURE_SIZE);
        return OK;
    case LEDGER_STEP: return decode_step(reader, out, error);
    case LEDGER_PAUSED:
    case LEDGER_STOPPED:
        return text_status(read_text(reader, out->note.reason, REASON_SIZE), what, error);
    case LEDGER_RESUMED:
        TRY(text_status(read_text(reader, out->note.reason, REASON_SIZE), what, error));
        out->note.token_budget = reader_u64(reader);
        return OK;
    case LEDGER_EPOCH: return OK;
    case LEDGER_DROPPED:
        out->dropped.index = reader_u64(reader);
        return text_status(read_text(reader, out->dropped.reason, REASON_SIZE), what, error);
    }
    return error_set(error, INVALID, "ledger entry: kind %d is unknown", (int)out->kind);
}

enum status ledger_entry_decode(struct bytes raw, struct ledger_entry *out, struct error *error) {
    if (raw.size > LEDGER_ENTRY_LIMIT)
        return error_set(error, INVALID, "ledger entry: %zu bytes, limit %d", raw.size,
                         LEDGER_ENTRY_LIMIT);
    struct reader reader = reader_of(raw);
    struct ledger_entry read;
    memset(&read, 0, sizeof read);
    read.kind = (enum ledger_kind)reader_u8(&reader);
    read.epoch = reader_u32(&reader);
    read.time_ms = reader_u64(&reader);
    if (!reader.failed) TRY(decode_fields(&reader, &read, error));
    TRY(reader_finish(&reader, ledger_kind_name(read.kind), error));
    *out = read;
    return OK;
}

const char *ledger_kind_name(enum ledger_kind kind) {
    switch (kind) {
    case LEDGER_GENESIS: return "genesis";
    case LEDGER_SITE_INVITED: return "site_invited";
    case LEDGER_SITE_ADDED: return "site_added";
    case LEDGER_SITE_REVOKED: return "site_revoked";
    case LEDGER_CONTRIBUTION: return "contribution";
    case LEDGER_STEP: return "step";
    case LEDGER_PAUSED: return "paused";
    case LEDGER_RESUMED: return "resumed";
    case LEDGER_STOPPED: return "stopped";
    case LEDGER_EPOCH: return "epoch";
    case LEDGER_DROPPED: return "dropped";
    case LEDGER_SITE_UNINVITED: return "site_uninvited";
    case LEDGER_SITE_AWAY: return "site_away";
    case LEDGER_SITE_BACK: return "site_back";
    case LEDGER_SITE_LEFT: return "site_left";
    case LEDGER_RULE: return "rule";
    }
    return "unknown";
}
