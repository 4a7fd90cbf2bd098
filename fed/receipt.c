/* Receipts (fed/receipt.h): the signed bytes are written field by field in receipt_sign and read
 * in receipt_read; docs/protocol.md describes them. Also names and advice of all refusals. */
#include "fed/receipt.h"

#include <string.h>

#include "base/memory.h"

static const struct {
    const char *name, *advice;
    bool temporary;
} refusals[REFUSAL_COUNT] = {
    [ACCEPTED] = {"accepted", "Nothing to do.", false},
    [REFUSED_REBASE] = {"rebase",
                        "The contribution is staler than the run allows: take the newest version; "
                        "its progress goes into "
                        "the next one. If this repeats, the site is too slow for the run's H or "
                        "its staleness cap.",
                        false},
    [REFUSED_REVOKED] =
        {"revoked",
         "The run's admin has revoked this site: ask them, and join again with a new invitation.",
         false},
    [REFUSED_MALFORMED] =
        {"malformed",
         "The coordinator cannot read the message: check that both ends run compatible versions.",
         false},
    [REFUSED_NONFINITE] = {"nonfinite",
                           "The contribution holds NaN or infinity: training diverged here; lower "
                           "the learning rate or "
                           "check the data and the device.",
                           false},
    [REFUSED_DUPLICATE] = {"duplicate",
                           "It is in the ledger already; the old receipt comes with this answer.",
                           false},
    [REFUSED_PAUSED] =
        {"paused",
         "The run is paused by its admin: the contribution is kept and sent when the run goes on.",
         true},
    [REFUSED_BUSY] =
        {"busy", "The coordinator has no room at the moment: the site sends it again by itself.",
         true},
    [REFUSED_SIGNATURE] =
        {"signature",
         "It is not signed with the key enrolled for this site: check that the node uses the key "
         "file it joined with.",
         false},
    [REFUSED_SEQUENCE] =
        {"sequence",
         "Its place in the site's sequence is taken or does not follow: check that no second node "
         "runs "
         "with this site's key, or that its state was not restored from an old copy.",
         false},
    [REFUSED_RUN] = {"run",
                     "It belongs to another run, another manifest or another protocol: join this "
                     "run, or upgrade the node.",
                     false},
    [REFUSED_LAYOUT] =
        {"layout",
         "The site's parameter layout is not the run's: check the model's shape at both ends.",
         false},
    [REFUSED_BASE] = {"base",
                      "It starts from a version that is not in this ledger, or whose parameters "
                      "differ here: the site's replica "
                      "is wrong; let it replay from a snapshot.",
                      false},
    [REFUSED_EXPIRED] =
        {"expired",
         "It was signed too long ago, or the clocks of site and coordinator disagree: check NTP.",
         false},
    [REFUSED_STOPPED] = {"stopped", "The run has ended: the node may be shut down.", false},
    [REFUSED_SIZE] = {"size",
                      "The payload is longer than the codec allows or not as long as announced.",
                      false},
    [REFUSED_DIGEST] =
        {"digest",
         "The payload arrived altered: if this repeats, check the memory and disk of both ends.",
         false},
    [REFUSED_NORM] = {"norm",
                      "The norm in the header is not the payload's: check that both ends run "
                      "compatible versions.",
                      false},
    [REFUSED_EPOCH] = {"epoch",
                       "It was made for a coordinator that has been superseded; its progress goes "
                       "into the next one.",
                       false},
    [REFUSED_UNKNOWN_SITE] =
        {"unknown_site",
         "The certificate names no site of this run, or another one than the message: join the run "
         "with an invitation.",
         false},
    [REFUSED_HELD] = {"held",
                      "Another process of this site is connected: if that one is gone, this one is "
                      "let in by itself in a moment.",
                      true},
    [REFUSED_COPY] =
        {"copy",
         "This site runs twice: another process with this site's key was there first and is at "
         "work, so this one is "
         "cut. Stop one of them; a second site needs an invitation and a directory of its own.",
         false},
    [REFUSED_OBSERVER] =
        {"observer",
         "This site was invited as an observer: it follows and evaluates, and contributes nothing. "
         "To train it needs an invitation without --role observer, and a directory of its own.",
         false},
};

const char *refusal_name(unsigned refusal) {
    return refusal < REFUSAL_COUNT ? refusals[refusal].name : "unknown";
}

const char *refusal_advice(unsigned refusal) {
    return refusal < REFUSAL_COUNT
               ? refusals[refusal].advice
               : "The coordinator gave a reason this version does not know: upgrade the node.";
}

bool refusal_is_temporary(unsigned refusal) {
    return refusal < REFUSAL_COUNT && refusals[refusal].temporary;
}

void receipt_sign(const struct receipt *receipt, const struct key_pair *key, struct buffer *out) {
    ASSERT(receipt->proof.count <= PROOF_LIMIT);
    size_t start = out->size;
    buffer_append(out, receipt->run_id, RUN_ID_SIZE);
    buffer_u32(out, receipt->epoch);
    buffer_u32(out, receipt->site);
    buffer_u64(out, receipt->sequence);
    buffer_append(out, receipt->header_digest, DIGEST_SIZE);
    buffer_u64(out, receipt->index);
    buffer_u64(out, receipt->entry_time_ms);
    buffer_u32(out, receipt->entry_epoch);
    buffer_u64(out, receipt->size);
    buffer_append(out, receipt->root, DIGEST_SIZE);
    buffer_u32(out, receipt->proof.count);
    buffer_append(out, receipt->proof.hashes, (size_t)receipt->proof.count * DIGEST_SIZE);
    uint8_t signature[SIGNATURE_SIZE];
    MUST(sign_message(key, RECEIPT_TAG, bytes_of(out->data + start, out->size - start), signature,
                      NULL));
    buffer_append(out, signature, sizeof signature);
}

static enum status receipt_read(struct bytes message, struct receipt *out, struct error *error) {
    struct reader reader = reader_of(message);
    reader_copy(&reader, out->run_id, RUN_ID_SIZE);
    out->epoch = reader_u32(&reader);
    out->site = reader_u32(&reader);
    out->sequence = reader_u64(&reader);
    reader_copy(&reader, out->header_digest, DIGEST_SIZE);
    out->index = reader_u64(&reader);
    out->entry_time_ms = reader_u64(&reader);
    out->entry_epoch = reader_u32(&reader);
    out->size = reader_u64(&reader);
    reader_copy(&reader, out->root, DIGEST_SIZE);
    out->proof.count = reader_u32(&reader);
    if (out->proof.count > PROOF_LIMIT)
        return error_set(error, INVALID, "receipt: a proof of %u hashes, limit %d",
                         out->proof.count, PROOF_LIMIT);
    reader_copy(&reader, out->proof.hashes, (size_t)out->proof.count * DIGEST_SIZE);
    return reader_finish(&reader, "receipt", error);
}

/* The leaf is rebuilt from the site's own bytes, so a proof of somebody else's entry cannot pass.
 */
static void entry_leaf(const struct receipt *receipt,
                       const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                       const uint8_t signature[static SIGNATURE_SIZE],
                       uint8_t out[static DIGEST_SIZE]) {
    struct ledger_entry entry = {.kind = LEDGER_CONTRIBUTION,
                                 .epoch = receipt->entry_epoch,
                                 .time_ms = receipt->entry_time_ms};
    memcpy(entry.contribution.header, header, CONTRIBUTION_HEADER_SIZE);
    memcpy(entry.contribution.signature, signature, SIGNATURE_SIZE);
    struct buffer raw = {0};
    ledger_entry_encode(&entry, &raw);
    merkle_leaf(buffer_bytes(&raw), out);
    buffer_deinit(&raw);
}

enum status receipt_verify(struct bytes raw, const uint8_t coordinator_key[static PUBLIC_KEY_SIZE],
                           const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                           const uint8_t signature[static SIGNATURE_SIZE], struct receipt *out,
                           struct error *error) {
    if (raw.size <= SIGNATURE_SIZE || raw.size > RECEIPT_LIMIT)
        return error_set(error, INVALID, "receipt: %zu bytes", raw.size);
    struct bytes message = bytes_of(raw.data, raw.size - SIGNATURE_SIZE);
    if (sign_verify(coordinator_key, RECEIPT_TAG, message,
                    bytes_of(raw.data + message.size, SIGNATURE_SIZE), error) != OK)
        return error_wrap(error, INVALID, "receipt");
    struct receipt read = {0};
    TRY(receipt_read(message, &read, error));
    struct contribution contribution;
    TRY(contribution_decode(bytes_of(header, CONTRIBUTION_HEADER_SIZE), &contribution, error));
    uint8_t digest[DIGEST_SIZE], leaf[DIGEST_SIZE];
    contribution_digest(header, digest);
    if (!digest_equal(digest, read.header_digest) || contribution.site != read.site ||
        contribution.sequence != read.sequence ||
        memcmp(contribution.run_id, read.run_id, RUN_ID_SIZE) != 0)
        return error_set(error, INVALID,
                         "receipt: it is for another contribution than this site's %llu",
                         (unsigned long long)contribution.sequence);
    entry_leaf(&read, header, signature, leaf);
    if (!merkle_check_inclusion(leaf, read.index, read.size, &read.proof, read.root))
        return error_set(
            error, INVALID,
            "receipt: the proof does not show the contribution at entry %llu of the ledger",
            (unsigned long long)read.index);
    *out = read;
    return OK;
}
