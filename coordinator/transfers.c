/* Uploads, the last transfer of each site and fragment, and the verdict on a payload
 * (coordinator/transfers.h). */
#include "coordinator/transfers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mark.h"
#include "base/memory.h"

enum {
    UPLOAD_AGE_MS = 24 * 3600 * 1000, /* nobody comes back for what is older */
    CLEAN_EVERY_MS = 3600 * 1000
};

struct transfer { /* the last one of its site and fragment */
    uint32_t site, fragment;
    uint64_t sequence;
    uint8_t digest[DIGEST_SIZE];
    bool fresh;
};

struct receiving { /* an upload that is open */
    uint64_t call; /* its number */
    struct blob_upload *upload;
    struct contribution contribution;
    bool resumed; /* it had bytes of an earlier stream */
    bool supply;  /* of a payload that was lost */
};

struct transfers {
    struct transfers_options options;
    struct receiving **receiving; /* [receiving_count], in no order */
    size_t receiving_count, receiving_capacity;
    struct transfer *items; /* [count] */
    size_t count, capacity;
    uint64_t cleaned_ms; /* when old uploads were last looked for */
};

/* UPLOADED, or CHECKED. */
static void tell(struct transfers *transfers, enum coordinator_event_kind kind, uint64_t call,
                 enum refusal code, const char *message) {
    struct coordinator_event event = {.kind = kind, .call = call};
    event.uploaded.code = code;
    event.uploaded.message = message;
    transfers->options.tell(transfers->options.context, &event);
}

static enum transfer_next uploaded(struct transfers *transfers, uint64_t call, enum refusal code,
                                   const char *message) {
    tell(transfers, COORDINATOR_UPLOADED, call, code, message);
    return TRANSFER_OVER;
}

static void waits(struct transfers *transfers, const struct error *error) {
    transfers->options.waits(transfers->options.context, error->message);
}

/* What a site hears of its upload's storage: files of this machine are the log's matter. */
static const char *told_of(enum status status) {
    switch (status) {
    case INVALID: return "other bytes than the header and the resume offset say";
    case FULL: return "the coordinator's disk is full: it waits for room";
    case CORRUPT: return "the bytes do not have the digest that the header names";
    default: return "the coordinator cannot store it now: again in a moment";
    }
}

static enum transfer_next not_stored(struct transfers *transfers, uint64_t call, enum refusal code,
                                     enum status status, const struct error *error) {
    if (status == FULL) waits(transfers, error);
    if (status != INVALID && status != CORRUPT) /* its own doing, which the refusal says */
        log_warn("upload_not_stored", "reason=\"%s\"", error->message);
    return uploaded(transfers, call, code, told_of(status));
}

/* ---- the last of each site and fragment ------------------------------------------------------ */

/* What a failing disk means for who sends. */
static enum refusal refusal_of(enum status status) {
    return status == FULL || status == UNAVAILABLE ? REFUSED_BUSY : REFUSED_DIGEST;
}

static struct transfer *transfer_of(struct transfers *transfers, uint32_t site, uint32_t fragment) {
    for (size_t i = 0; i < transfers->count; i++) {
        struct transfer *transfer = &transfers->items[i];
        if (transfer->site == site && transfer->fragment == fragment) return transfer;
    }
    return NULL;
}

static void upload_name(const struct transfer *transfer, char out[static BLOB_UPLOAD_NAME_MAX]) {
    char digest[HEX32_SIZE];
    snprintf(out, BLOB_UPLOAD_NAME_MAX, "s%u-f%u-%llu-%s", transfer->site, transfer->fragment,
             (unsigned long long)transfer->sequence, hex_encode(transfer->digest, 16, digest));
}

/* Deletes a whole payload that nothing names; leaves it to another transfer of the same bytes, if
 * there is one. */
static void drop_payload(struct transfers *transfers, struct transfer *transfer) {
    struct error error = {0};
    if (!transfer->fresh) return;
    transfer->fresh = false;
    for (size_t i = 0; i < transfers->count; i++) {
        struct transfer *other = &transfers->items[i];
        if (other == transfer || !digest_equal(other->digest, transfer->digest)) continue;
        other->fresh = true;
        return;
    }
    enum status status = blob_delete(transfers->options.data->blobs, transfer->digest, &error);
    if (status != OK && status != NOT_FOUND)
        log_warn("blob_left_behind", "reason=\"%s\"", error.message);
}

static void drop_upload(struct transfers *transfers, const struct transfer *transfer) {
    char name[BLOB_UPLOAD_NAME_MAX];
    struct blob_upload *upload = NULL;
    upload_name(transfer, name);
    if (blob_upload_open(transfers->options.data->blobs, name, UINT64_MAX, &upload, NULL) == OK)
        blob_upload_discard(upload);
}

/* The transfer that begins, in place of the last one of its site and fragment. */
static struct transfer *transfer_begin(struct transfers *transfers,
                                       const struct contribution *contribution) {
    struct transfer *transfer = transfer_of(transfers, contribution->site, contribution->fragment);
    if (transfer && transfer->sequence == contribution->sequence &&
        digest_equal(transfer->digest, contribution->payload_digest))
        return transfer;
    if (transfer) {
        drop_upload(transfers, transfer);
        drop_payload(transfers, transfer);
    } else {
        if (transfers->count == transfers->capacity) {
            transfers->capacity = transfers->capacity ? transfers->capacity * 2 : 16;
            transfers->items = xrealloc(transfers->items, transfers->capacity * sizeof *transfer);
        }
        transfer = &transfers->items[transfers->count++];
    }
    *transfer = (struct transfer){.site = contribution->site,
                                  .fragment = contribution->fragment,
                                  .sequence = contribution->sequence};
    memcpy(transfer->digest, contribution->payload_digest, DIGEST_SIZE);
    return transfer;
}

void transfers_keep(struct transfers *transfers, const uint8_t digest[static DIGEST_SIZE]) {
    for (size_t i = 0; i < transfers->count; i++) {
        if (digest_equal(transfers->items[i].digest, digest)) transfers->items[i].fresh = false;
    }
}

/* Uploads that nobody goes on with, once an hour: a coordinator runs for months. */
static void clean_now_and_then(struct transfers *transfers, uint64_t now) {
    struct error error = {0};
    if (now - transfers->cleaned_ms < CLEAN_EVERY_MS) return;
    transfers->cleaned_ms = now;
    if (blob_upload_clean(transfers->options.data->blobs, UPLOAD_AGE_MS, NULL, &error) != OK)
        log_warn("uploads_left_behind", "reason=\"%s\"", error.message);
}

/* ---- open uploads ---------------------------------------------------------------------------- */

static struct receiving *receiving_of(struct transfers *transfers, uint64_t call) {
    for (size_t i = 0; i < transfers->receiving_count; i++) {
        if (transfers->receiving[i]->call == call) return transfers->receiving[i];
    }
    return NULL;
}

/* Takes the upload. */
static struct receiving *receiving_begin(struct transfers *transfers, uint64_t call,
                                         struct blob_upload *upload,
                                         const struct contribution *contribution, bool supply) {
    struct receiving *receiving = xcalloc(1, sizeof *receiving);
    *receiving = (struct receiving){.call = call,
                                    .upload = upload,
                                    .contribution = *contribution,
                                    .resumed = blob_upload_size(upload) > 0,
                                    .supply = supply};
    if (transfers->receiving_count == transfers->receiving_capacity) {
        transfers->receiving_capacity =
            transfers->receiving_capacity ? transfers->receiving_capacity * 2 : 16;
        transfers->receiving = xrealloc(transfers->receiving,
                                        transfers->receiving_capacity * sizeof(struct receiving *));
    }
    transfers->receiving[transfers->receiving_count++] = receiving;
    return receiving;
}

/* What came so far is kept: the site goes on from there. */
static void receiving_end(struct transfers *transfers, struct receiving *receiving) {
    for (size_t i = 0; i < transfers->receiving_count; i++) {
        if (transfers->receiving[i] != receiving) continue;
        transfers->receiving[i] = transfers->receiving[--transfers->receiving_count];
        break;
    }
    blob_upload_close(receiving->upload);
    free(receiving);
}

/* All bytes are there. Ends it. */
static enum transfer_next finish(struct transfers *transfers, struct receiving *receiving) {
    struct error error = {0};
    const struct contribution *contribution = &receiving->contribution;
    bool was_there = blob_exists(transfers->options.data->blobs, contribution->payload_digest);
    enum status status =
        blob_upload_finish(receiving->upload, contribution->payload_digest, &error);
    if (status == OK) transfers->options.has_room(transfers->options.context);
    if (status == FAILED) {
        char message[200];
        snprintf(message, sizeof message, "a payload cannot be made durable: %.150s",
                 error.message);
        transfers->options.broken(transfers->options.context, message);
    } else if (status == CORRUPT && receiving->resumed) {
        /* the damage may be ours, of a crash: the upload is empty now */
        uploaded(transfers, receiving->call, REFUSED_BUSY,
                 "the parts do not fit together: send it again from the start");
    } else if (status != OK) {
        not_stored(transfers, receiving->call, refusal_of(status), status, &error);
    } else {
        uploaded(transfers, receiving->call, ACCEPTED, NULL);
    }
    struct transfer *transfer = transfer_of(transfers, contribution->site, contribution->fragment);
    if (status == OK && !receiving->supply && transfer &&
        digest_equal(transfer->digest, contribution->payload_digest) && !was_there)
        transfer->fresh = true;
    receiving_end(transfers, receiving);
    return TRANSFER_OVER;
}

static enum transfer_next open_upload(struct transfers *transfers, uint64_t call, const char *name,
                                      const struct contribution *contribution, bool supply,
                                      uint64_t *offset) {
    struct error error = {0};
    struct blob_upload *upload = NULL;
    enum status status = blob_upload_open(transfers->options.data->blobs, name,
                                          contribution->payload_size, &upload, &error);
    if (status != OK) /* INVALID: more than that is there */
        return not_stored(transfers, call, status == INVALID ? REFUSED_SIZE : REFUSED_BUSY, status,
                          &error);
    struct receiving *receiving = receiving_begin(transfers, call, upload, contribution, supply);
    *offset = blob_upload_size(upload);
    return *offset == contribution->payload_size ? finish(transfers, receiving) : TRANSFER_CREDIT;
}

/* A payload that was lost: what lies under its name is damaged, or was mended meanwhile. A whole
 * one replaces it. */
static enum transfer_next admit_supply(struct transfers *transfers, uint64_t call,
                                       const struct contribution *contribution, uint64_t *offset) {
    char name[BLOB_UPLOAD_NAME_MAX], digest[HEX32_SIZE];
    if (blob_check(transfers->options.data->blobs, contribution->payload_digest, NULL) == OK)
        return uploaded(transfers, call, ACCEPTED, NULL);
    snprintf(name, sizeof name, "lost-%s",
             hex_encode(contribution->payload_digest, DIGEST_SIZE, digest));
    return open_upload(transfers, call, name, contribution, true, offset);
}

enum transfer_next transfers_admit(struct transfers *transfers, uint64_t call,
                                   const struct contribution *contribution, bool supply,
                                   uint64_t now_ms, uint64_t *offset) {
    char name[BLOB_UPLOAD_NAME_MAX];
    clean_now_and_then(transfers, now_ms);
    if (supply) return admit_supply(transfers, call, contribution, offset);
    const struct transfer *transfer = transfer_begin(transfers, contribution);
    if (blob_exists(transfers->options.data->blobs,
                    contribution->payload_digest)) /* an earlier stream brought all of it */
        return uploaded(transfers, call, ACCEPTED, NULL);
    upload_name(transfer, name);
    return open_upload(transfers, call, name, contribution, false, offset);
}

enum transfer_next transfers_chunk(struct transfers *transfers, uint64_t call, uint64_t offset,
                                   struct bytes content) {
    struct receiving *receiving = receiving_of(transfers, call);
    struct error error = {0};
    if (!receiving) return TRANSFER_STRAY;
    enum status status = blob_upload_append(receiving->upload, offset, content, &error);
    if (status != OK) {
        receiving_end(transfers, receiving);
        return not_stored(transfers, call, status == INVALID ? REFUSED_SIZE : REFUSED_BUSY, status,
                          &error);
    }
    if (blob_upload_size(receiving->upload) == receiving->contribution.payload_size)
        return finish(transfers, receiving);
    return TRANSFER_MORE;
}

void transfers_half_close(struct transfers *transfers, uint64_t call) {
    struct receiving *receiving = receiving_of(transfers, call);
    if (!receiving) return; /* whole, or over already */
    receiving_end(transfers, receiving);
    uploaded(transfers, call, REFUSED_SIZE, "fewer bytes came than the header announced");
}

void transfers_close(struct transfers *transfers, uint64_t call) {
    struct receiving *receiving = receiving_of(transfers, call);
    if (receiving) receiving_end(transfers, receiving);
}

/* ---- the verdict ----------------------------------------------------------------------------- */

/* What the ledger names of it is asked for like all that the disk has lost. */
static void tell_lost(struct transfers *transfers, const uint8_t digest[static DIGEST_SIZE]) {
    struct directory *data = transfers->options.data;
    uint64_t entries[DIRECTORY_NAMING_LIMIT];
    struct lost_payload lost[DIRECTORY_NAMING_LIMIT];
    struct coordinator_event event = {.kind = COORDINATOR_LOST, .applied.lost = lost};
    struct error error = {0};
    size_t count = 0;
    enum status status = directory_naming(data, digest, entries, &count, &error);
    for (size_t i = 0; i < count; i++) {
        struct lost_payload *next = &lost[event.applied.lost_count];
        next->index = entries[i];
        if (directory_contribution(data, entries[i], &next->contribution, &error) == OK)
            event.applied.lost_count++;
    }
    if (status != OK) log_warn("ledger_not_searched", "reason=\"%s\"", error.message);
    if (event.applied.lost_count == 0) return;
    MARK("upload: what the ledger names was damaged");
    log_error("payload_lost", "entry=%llu do=\"nothing: the sites are asked for it\"",
              (unsigned long long)lost[0].index);
    transfers->options.tell(transfers->options.context, &event);
}

/* The disk has damaged it: not the site's fault, and what is there is good for nobody. */
static void spoil(struct transfers *transfers, const struct contribution *contribution,
                  enum status status, struct error *why) {
    log_error("payload_damaged", "site=%u sequence=%llu reason=\"%s\"", contribution->site,
              (unsigned long long)contribution->sequence, why->message);
    if (status == CORRUPT &&
        blob_delete(transfers->options.data->blobs, contribution->payload_digest, NULL) != OK)
        log_warn("blob_left_behind", "reason=\"%s\"", why->message);
    if (status == CORRUPT || status == NOT_FOUND)
        tell_lost(transfers, contribution->payload_digest);
    (void)error_set(why, status, "the coordinator's copy of the payload is damaged: send it again");
}

void transfers_check(struct transfers *transfers, uint64_t call,
                     const struct contribution *contribution) {
    struct buffer bytes = {0};
    struct error why = {0};
    enum refusal code = REFUSED_BUSY;
    enum status status =
        blob_read_unchecked(transfers->options.data->blobs, contribution->payload_digest,
                            (size_t)contribution->payload_size, &bytes, &why);
    if (status == OK) {
        code = admission_payload(contribution, transfers->options.manifest,
                                 transfers->options.parameters, &bytes, &why);
        if (code == REFUSED_DIGEST) status = CORRUPT; /* they were right when they came */
    }
    if (status == INVALID) { /* larger than the header says: whole, perhaps, and another's */
        code = REFUSED_SIZE;
        (void)error_set(&why, INVALID, "the payload has more bytes than the header says");
    } else if (status != OK) {
        code = REFUSED_BUSY;
        spoil(transfers, contribution, status, &why);
    }
    struct transfer *transfer = transfer_of(transfers, contribution->site, contribution->fragment);
    if (code != ACCEPTED && transfer &&
        digest_equal(transfer->digest, contribution->payload_digest))
        drop_payload(transfers, transfer);
    tell(transfers, COORDINATOR_CHECKED, call, code, why.message);
    buffer_deinit(&bytes);
}

/* ---- life ------------------------------------------------------------------------------------ */

enum status transfers_create(const struct transfers_options *options, uint64_t now_ms,
                             struct transfers **out, struct error *error) {
    struct transfers *transfers = xcalloc(1, sizeof *transfers);
    transfers->options = *options;
    transfers->cleaned_ms = now_ms;
    enum status status = blob_upload_clean(options->data->blobs, UPLOAD_AGE_MS, NULL, error);
    if (status == OK)
        *out = transfers;
    else
        transfers_destroy(transfers);
    return status;
}

void transfers_destroy(struct transfers *transfers) {
    if (!transfers) return;
    while (transfers->receiving_count > 0) receiving_end(transfers, transfers->receiving[0]);
    free(transfers->receiving);
    free(transfers->items);
    free(transfers);
}
