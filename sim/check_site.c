/* What the checker knows of a site: what it was acknowledged, what it sent, and where the mass of
 * its deltas is. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "sim/check_internal.h"

static unsigned long long llu(uint64_t value) { return (unsigned long long)value; }

void check_receipt(struct check *check, uint32_t site,
                   const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                   const uint8_t signature[static SIGNATURE_SIZE], struct bytes raw) {
    struct receipt receipt;
    struct error error = {0};
    if (receipt_verify(raw, run_state_coordinator_key(check->run), header, signature, &receipt,
                       &error) != OK) {
        world_fail(check->world, "receipt", "a receipt for site %u does not verify: %s", site,
                   error.message);
        return;
    }
    check->world->tally.receipts++;
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    bool there = receipt.index < check->disk->entry_count &&
                 ledger_entry_decode(buffer_bytes(&check->disk->entries[receipt.index]), entry,
                                     NULL) == OK &&
                 entry->kind == LEDGER_CONTRIBUTION &&
                 memcmp(entry->contribution.header, header, CONTRIBUTION_HEADER_SIZE) == 0;
    free(entry);
    if (!there) {
        world_fail(check->world, "I1", "site %u has a receipt for entry %llu, which is not durable",
                   site, llu(receipt.index));
        return;
    }
    check->acknowledged = xrealloc(check->acknowledged,
                                   (check->acknowledged_count + 1) * sizeof check->acknowledged[0]);
    struct check_acknowledged *kept = &check->acknowledged[check->acknowledged_count++];
    kept->index = receipt.index;
    merkle_leaf(buffer_bytes(&check->disk->entries[receipt.index]), kept->leaf);
}

void check_sent(struct check *check, uint32_t process, uint64_t sequence,
                const uint8_t header[static CONTRIBUTION_HEADER_SIZE]) {
    struct check_mass *mass = &check->mass[process];
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(header, digest);
    for (size_t i = 0; i < mass->sent_count; i++) {
        if (mass->sent[i].sequence != sequence) continue;
        if (memcmp(mass->sent[i].digest, digest, DIGEST_SIZE) != 0 && !mass->set_back)
            world_fail(check->world, "I2", "%s sent two different messages with sequence %llu",
                       check->world->processes[process].name, llu(sequence));
        return;
    }
    mass->sent = xrealloc(mass->sent, (mass->sent_count + 1) * sizeof mass->sent[0]);
    mass->sent[mass->sent_count].sequence = sequence;
    memcpy(mass->sent[mass->sent_count++].digest, digest, DIGEST_SIZE);
}

void check_hostile_input(struct check *check,
                         const uint8_t header[static CONTRIBUTION_HEADER_SIZE]) {
    check->hostile_input = xrealloc(check->hostile_input, (check->hostile_input_count + 1) *
                                                              sizeof check->hostile_input[0]);
    contribution_digest(header, check->hostile_input[check->hostile_input_count++]);
}

void check_waits(struct check *check, const char *who, bool overlap, bool waits_for_merge) {
    if (overlap && waits_for_merge)
        world_fail(check->world, "I9", "%s waits for a merge while overlap is on", who);
}

/* ---- payloads -------------------------------------------------------------------------------- */

/* Entry `index` is a contribution with that payload; of which site. */
static bool names_payload(const struct disk *disk, uint64_t index, const uint8_t *digest,
                          struct ledger_entry *entry, uint32_t *site) {
    struct contribution c;
    if (disk->entries[index].data[0] != LEDGER_CONTRIBUTION ||
        ledger_entry_decode(buffer_bytes(&disk->entries[index]), entry, NULL) != OK ||
        contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                            NULL) != OK)
        return false;
    *site = c.site;
    return memcmp(c.payload_digest, digest, DIGEST_SIZE) == 0;
}

/* A step at or before `version`, a drop or a revocation is what became of entry `index`. */
static bool has_ended(const struct disk *disk, uint64_t index, uint32_t site, uint64_t version,
                      struct ledger_entry *entry) {
    for (uint64_t i = index + 1; i < disk->entry_count; i++) {
        uint8_t kind = disk->entries[i].data[0];
        if (kind != LEDGER_STEP && kind != LEDGER_DROPPED && kind != LEDGER_SITE_REVOKED) continue;
        if (ledger_entry_decode(buffer_bytes(&disk->entries[i]), entry, NULL) != OK) continue;
        if (kind == LEDGER_DROPPED && entry->dropped.index == index) return true;
        if (kind == LEDGER_SITE_REVOKED && entry->revoked.site == site) return true;
        if (kind != LEDGER_STEP || entry->step.version > version) continue;
        for (uint16_t part = 0; part < entry->step.count; part++)
            if (entry->step.parts[part].index == index) return true;
    }
    return false;
}

void check_payload_deleted(struct check *check, const char *who, const struct disk *disk,
                           uint64_t version, const uint8_t digest[static DIGEST_SIZE]) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint32_t site = 0;
    for (uint64_t i = 0; i < disk->entry_count; i++)
        if (names_payload(disk, i, digest, entry, &site) &&
            !has_ended(disk, i, site, version, entry))
            world_fail(check->world, "payload",
                       "%s, at version %llu, has deleted the payload of entry %llu", who,
                       llu(version), llu(i));
    free(entry);
}

void check_payload_there(struct check *check, const char *who, const struct disk *disk,
                         uint64_t index, struct bytes raw) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct contribution c;
    if (raw.size > 0 && raw.data[0] == LEDGER_CONTRIBUTION &&
        ledger_entry_decode(raw, entry, NULL) == OK &&
        contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                            NULL) == OK &&
        !disk_blob_find(disk, c.payload_digest))
        world_fail(check->world, "payload", "%s takes entry %llu without its payload", who,
                   llu(index));
    free(entry);
}

/* ---- mass ------------------------------------------------------------------------------------ */

struct check_piece {
    uint64_t start, count;
};

static struct check_piece piece_of(const struct check *check, uint32_t fragment) {
    struct check_piece piece;
    fragment_range(check->scenario->parameters, check->scenario->manifest.fragments, fragment,
                   &piece.start, &piece.count);
    return piece;
}

static bool is_sparse(const struct check *check) {
    return check->scenario->manifest.outer.mode == OUTER_SPARSE;
}

static void compare(struct check *check, uint32_t process, const float *got, const float *wanted,
                    struct check_piece piece, const char *what) {
    for (uint64_t i = piece.start; i < piece.start + piece.count; i++) {
        if (got[i] == wanted[i]) continue;
        world_fail(check->world, "mass", "%s, coordinate %llu: %s is %.9g, the books say %.9g",
                   check->world->processes[process].name, llu(i), what, (double)got[i],
                   (double)wanted[i]);
        return;
    }
}

void check_base(struct check *check, const char *who, const struct replica *replica,
                uint32_t fragment, uint64_t version) {
    struct check_piece piece = piece_of(check, fragment);
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(replica->base + piece.start, (size_t)piece.count * sizeof(float), digest);
    if (version > check->model.version ||
        memcmp(digest, check->versions[version].fragments[fragment], DIGEST_SIZE) != 0)
        world_fail(check->world, "base", "%s: its base of fragment %u is not that of version %llu",
                   who, fragment, llu(version));
}

void check_follows(struct check *check, const char *who,
                   const uint8_t header[static CONTRIBUTION_HEADER_SIZE], uint64_t version) {
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(header, digest);
    for (uint64_t i = check->size; i-- > 0;) {
        const struct check_contribution *sent = &check->entries[i];
        if (memcmp(sent->digest, digest, DIGEST_SIZE) != 0) continue;
        if (sent->merged && sent->version <= version)
            world_fail(
                check->world, "follow",
                "%s follows to version %llu with sequence %llu in flight, which version %llu "
                "has: it counts twice",
                who, llu(version), llu(sent->sequence), llu(sent->version));
        return;
    }
}

bool check_differ(const struct check *check, uint32_t fragment, uint64_t one, uint64_t other) {
    return MAX(one, other) <= check->model.version &&
           memcmp(check->versions[one].fragments[fragment],
                  check->versions[other].fragments[fragment], DIGEST_SIZE) != 0;
}

void check_before_encode(struct check *check, uint32_t process, const struct replica *replica,
                         uint32_t fragment, const struct contribution *contribution) {
    struct check_mass *mass = &check->mass[process];
    struct check_piece piece = piece_of(check, fragment);
    check_base(check, check->world->processes[process].name, replica, fragment,
               contribution->base_version);
    if (contribution->began_version > contribution->base_version)
        world_fail(check->world, "base",
                   "%s: its oldest step began at version %llu, after its base",
                   check->world->processes[process].name, llu(contribution->began_version));
    if (is_sparse(check))
        compare(check, process, replica->feedback, mass->feedback, piece,
                "the error feedback before encoding");
    for (uint64_t i = piece.start; i < piece.start + piece.count; i++) {
        float delta = replica->base[i] - replica->snapshot[i];
        float kept = CODEC_FEEDBACK_DECAY * mass->feedback[i];
        mass->target[i] = is_sparse(check) ? kept + delta : delta;
    }
}

void check_counts(struct check *check, uint32_t process, const struct contribution *contribution,
                  int64_t steps, uint64_t tokens_per_step) {
    uint64_t fragments = check->scenario->manifest.fragments,
             tokens = (uint64_t)steps * tokens_per_step;
    /* what a division leaves over, the next message has, or a crash */
    uint64_t told = contribution->tokens * fragments;
    if ((int64_t)contribution->inner_steps == steps && told < tokens + tokens_per_step &&
        told + tokens_per_step > tokens)
        return;
    world_fail(check->world, "counts",
               "%s, fragment %u: a header of %u steps and %llu tokens for a message of %lld steps",
               check->world->processes[process].name, contribution->fragment,
               contribution->inner_steps, llu(contribution->tokens), (long long)steps);
}

void check_after_encode(struct check *check, uint32_t process, const struct replica *replica,
                        uint32_t fragment, struct bytes payload) {
    struct check_mass *mass = &check->mass[process];
    struct check_piece piece = piece_of(check, fragment);
    struct error error = {0};
    float *sent = check->scratch + piece.start;
    if (codec_decode(replica->codec, payload, (size_t)piece.count, sent, &error) != OK) {
        world_fail(check->world, "codec", "an own message does not decode: %s", error.message);
        return;
    }
    if (replica->codec == CODEC_FP32)
        compare(check, process, check->scratch, mass->target, piece, "what was sent");
    if (!is_sparse(check)) return;
    for (uint64_t i = piece.start; i < piece.start + piece.count; i++)
        mass->target[i] -= check->scratch[i];
    compare(check, process, replica->feedback, mass->target, piece,
            "the error feedback after encoding");
    check->world->tally.residual_checks++;
}

void check_spooled(struct check *check, uint32_t process, uint32_t fragment, struct bytes payload) {
    struct check_mass *mass = &check->mass[process];
    struct check_piece piece = piece_of(check, fragment);
    if (is_sparse(check))
        memcpy(mass->feedback + piece.start, mass->target + piece.start,
               (size_t)piece.count * sizeof(float));
    mass->message[fragment].size = 0;
    buffer_append(&mass->message[fragment], payload.data, payload.size);
}

void check_round_over(struct check *check, uint32_t process, uint32_t fragment, bool refused) {
    struct check_mass *mass = &check->mass[process];
    struct check_piece piece = piece_of(check, fragment);
    if (!refused || !is_sparse(check)) return;
    float *sent = check->scratch + piece.start;
    struct bytes message = buffer_bytes(&mass->message[fragment]);
    if (codec_decode((enum codec)check->scenario->manifest.codec.kind, message, (size_t)piece.count,
                     sent, NULL) != OK)
        return;
    for (uint64_t i = 0; i < piece.count; i++) mass->feedback[piece.start + i] += sent[i];
}

void check_message_lost(struct check *check, uint32_t process, uint32_t fragment) {
    check->mass[process].message[fragment].size = 0;
}

void check_backed_up(struct check *check, uint32_t process) {
    struct check_mass *mass = &check->mass[process];
    memcpy(mass->copied_feedback, mass->feedback,
           (size_t)check->scenario->parameters * sizeof(float));
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) {
        mass->copied_message[f].size = 0;
        buffer_append(&mass->copied_message[f], mass->message[f].data, mass->message[f].size);
    }
}

void check_put_back(struct check *check, uint32_t process) {
    struct check_mass *mass = &check->mass[process];
    memcpy(mass->feedback, mass->copied_feedback,
           (size_t)check->scenario->parameters * sizeof(float));
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) {
        mass->message[f].size = 0;
        buffer_append(&mass->message[f], mass->copied_message[f].data,
                      mass->copied_message[f].size);
    }
    mass->set_back = true;
}

void check_wiped(struct check *check, uint32_t process) {
    struct check_mass *mass = &check->mass[process];
    memset(mass->feedback, 0, (size_t)check->scenario->parameters * sizeof(float));
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) mass->message[f].size = 0;
    mass->set_back = true;
}

void check_feedback(struct check *check, uint32_t process, const struct replica *replica) {
    if (!is_sparse(check)) return;
    struct check_piece all = {0, check->scenario->parameters};
    compare(check, process, replica->feedback, check->mass[process].feedback, all,
            "the error feedback after a restart");
}
