/* The intake's thread: open uploads, the last transfer of each site and fragment, and the verdict
 * on a payload. */
#include "coordinator/intake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "codec/codec.h"
#include "proto/messages.h"

enum {
    MESSAGES_LIMIT = 65536,
    UPLOAD_AGE_MS = 24 * 3600 * 1000, /* nobody comes back for what is older */
    CLEAN_EVERY_MS = 3600 * 1000
};

struct transfer { /* the last one of its site and fragment */
    uint32_t site, fragment;
    uint64_t sequence;
    uint8_t digest[DIGEST_SIZE];
    bool fresh;
};

struct receiving {     /* an upload that is open */
    struct call *call; /* a reference */
    struct blob_upload *upload;
    struct contribution contribution;
    bool resumed; /* it had bytes of an earlier stream */
    bool supply;  /* of a payload that was lost */
};

struct intake {
    struct intake_options options;
    struct queue *queue;
    struct thread *thread;
    struct receiving **receiving; /* [receiving_count], in no order */
    size_t receiving_count, receiving_capacity;
    struct transfer *transfers; /* [transfer_count] */
    size_t transfer_count, transfer_capacity;
    float *scratch;      /* [largest fragment] */
    uint64_t cleaned_ms; /* when old uploads were last looked for */
};

/* UPLOADED, or CHECKED. */
static void tell(struct intake *intake, enum coordinator_event_kind kind, uint64_t call,
                 enum refusal code, const char *message) {
    struct coordinator_event event = {.kind = kind, .call = call};
    event.uploaded.code = code;
    event.uploaded.message = message;
    intake->options.tell(intake->options.context, &event);
}

static void uploaded(struct intake *intake, const struct call *call, enum refusal code,
                     const char *message) {
    tell(intake, COORDINATOR_UPLOADED, call->number, code, message);
}

/* ---- transfers ------------------------------------------------------------------------------- */

/* What a failing disk means for who sends; a full one is said. */
static enum refusal refusal_of(struct intake *intake, enum status status,
                               const struct error *error) {
    if (status == FULL) disk_watch_waits(intake->options.disk, DISK_PAYLOADS, error->message);
    return status == FULL || status == UNAVAILABLE ? REFUSED_BUSY : REFUSED_DIGEST;
}

static struct transfer *transfer_of(struct intake *intake, uint32_t site, uint32_t fragment) {
    for (size_t i = 0; i < intake->transfer_count; i++) {
        struct transfer *transfer = &intake->transfers[i];
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
static void drop_payload(struct intake *intake, struct transfer *transfer) {
    struct error error = {0};
    if (!transfer->fresh) return;
    transfer->fresh = false;
    for (size_t i = 0; i < intake->transfer_count; i++) {
        struct transfer *other = &intake->transfers[i];
        if (other == transfer || !digest_equal(other->digest, transfer->digest)) continue;
        other->fresh = true;
        return;
    }
    enum status status = blob_delete(intake->options.blobs, transfer->digest, &error);
    if (status != OK && status != NOT_FOUND)
        log_warn("blob_left_behind", "reason=\"%s\"", error.message);
}

static void drop_upload(struct intake *intake, const struct transfer *transfer) {
    char name[BLOB_UPLOAD_NAME_MAX];
    struct blob_upload *upload = NULL;
    upload_name(transfer, name);
    if (blob_upload_open(intake->options.blobs, name, WIRE_PAYLOAD_TOTAL_LIMIT, &upload, NULL) ==
        OK)
        blob_upload_discard(upload);
}

/* The transfer that begins, in place of the last one of its site and fragment. */
static struct transfer *transfer_begin(struct intake *intake,
                                       const struct contribution *contribution) {
    struct transfer *transfer = transfer_of(intake, contribution->site, contribution->fragment);
    if (transfer && transfer->sequence == contribution->sequence &&
        digest_equal(transfer->digest, contribution->payload_digest))
        return transfer;
    if (transfer) {
        drop_upload(intake, transfer);
        drop_payload(intake, transfer);
    } else {
        if (intake->transfer_count == intake->transfer_capacity) {
            intake->transfer_capacity =
                intake->transfer_capacity ? intake->transfer_capacity * 2 : 16;
            intake->transfers =
                xrealloc(intake->transfers, intake->transfer_capacity * sizeof *transfer);
        }
        transfer = &intake->transfers[intake->transfer_count++];
    }
    *transfer = (struct transfer){.site = contribution->site,
                                  .fragment = contribution->fragment,
                                  .sequence = contribution->sequence};
    memcpy(transfer->digest, contribution->payload_digest, DIGEST_SIZE);
    return transfer;
}

static void keep(struct intake *intake, const uint8_t digest[static DIGEST_SIZE]) {
    for (size_t i = 0; i < intake->transfer_count; i++) {
        if (digest_equal(intake->transfers[i].digest, digest)) intake->transfers[i].fresh = false;
    }
}

/* Uploads that nobody goes on with, once an hour: a coordinator runs for months. */
static void clean_now_and_then(struct intake *intake) {
    struct error error = {0};
    uint64_t now = clock_monotonic_ms();
    if (now - intake->cleaned_ms < CLEAN_EVERY_MS) return;
    intake->cleaned_ms = now;
    if (blob_upload_clean(intake->options.blobs, UPLOAD_AGE_MS, NULL, &error) != OK)
        log_warn("uploads_left_behind", "reason=\"%s\"", error.message);
}

/* ---- open uploads ---------------------------------------------------------------------------- */

static struct receiving *receiving_of(struct intake *intake, const struct call *call) {
    for (size_t i = 0; i < intake->receiving_count; i++) {
        if (intake->receiving[i]->call == call) return intake->receiving[i];
    }
    return NULL;
}

/* Takes the upload. */
static struct receiving *receiving_begin(struct intake *intake, struct call *call,
                                         struct blob_upload *upload,
                                         const struct contribution *contribution, bool supply) {
    struct receiving *receiving = xcalloc(1, sizeof *receiving);
    *receiving = (struct receiving){.call = call_retain(call),
                                    .upload = upload,
                                    .contribution = *contribution,
                                    .resumed = blob_upload_size(upload) > 0,
                                    .supply = supply};
    if (intake->receiving_count == intake->receiving_capacity) {
        intake->receiving_capacity =
            intake->receiving_capacity ? intake->receiving_capacity * 2 : 16;
        intake->receiving =
            xrealloc(intake->receiving, intake->receiving_capacity * sizeof(struct receiving *));
    }
    intake->receiving[intake->receiving_count++] = receiving;
    return receiving;
}

/* What came so far is kept: the site goes on from there. */
static void receiving_end(struct intake *intake, struct receiving *receiving) {
    for (size_t i = 0; i < intake->receiving_count; i++) {
        if (intake->receiving[i] != receiving) continue;
        intake->receiving[i] = intake->receiving[--intake->receiving_count];
        break;
    }
    blob_upload_close(receiving->upload);
    call_release(receiving->call);
    free(receiving);
}

/* All bytes are there. Ends it. */
static void finish(struct intake *intake, struct receiving *receiving) {
    struct error error = {0};
    const struct contribution *contribution = &receiving->contribution;
    bool was_there = blob_exists(intake->options.blobs, contribution->payload_digest);
    enum status status =
        blob_upload_finish(receiving->upload, contribution->payload_digest, &error);
    if (status == OK) disk_watch_has_room(intake->options.disk, DISK_PAYLOADS);
    if (status == FAILED) {
        char message[200];
        snprintf(message, sizeof message, "a payload cannot be made durable: %.150s",
                 error.message);
        intake->options.broken(intake->options.context, message);
    } else if (status == CORRUPT &&
               receiving
                   ->resumed) { /* the damage may be ours, of a crash: the upload is empty now */
        uploaded(intake, receiving->call, REFUSED_BUSY,
                 "the parts do not fit together: send it again from the start");
    } else if (status != OK) {
        uploaded(intake, receiving->call, refusal_of(intake, status, &error), error.message);
    } else {
        uploaded(intake, receiving->call, ACCEPTED, NULL);
    }
    struct transfer *transfer = transfer_of(intake, contribution->site, contribution->fragment);
    if (status == OK && !receiving->supply && transfer &&
        digest_equal(transfer->digest, contribution->payload_digest) && !was_there)
        transfer->fresh = true;
    receiving_end(intake, receiving);
}

static void give_credit(struct intake *intake, const struct receiving *receiving) {
    struct submit_reply reply = {.kind = SUBMIT_CREDIT};
    struct buffer head = {0};
    struct error error = {0};
    reply.credit.resume_offset = blob_upload_size(receiving->upload);
    reply.credit.chunk_limit = intake->options.chunk_limit;
    if (submit_reply_encode(&reply, &head, &error) != OK) {
        call_finish(receiving->call, RPC_INTERNAL, error.message);
        return;
    }
    if (call_send(receiving->call, &head, bytes_of(NULL, 0)) == OK) call_read(receiving->call);
}

static void open_upload(struct intake *intake, struct call *call, const char *name,
                        const struct contribution *contribution, bool supply) {
    struct error error = {0};
    struct blob_upload *upload = NULL;
    enum status status =
        blob_upload_open(intake->options.blobs, name, contribution->payload_size, &upload, &error);
    if (status != OK) {
        if (status == FULL) disk_watch_waits(intake->options.disk, DISK_PAYLOADS, error.message);
        /* INVALID: more than that is there */
        uploaded(intake, call, status == INVALID ? REFUSED_SIZE : REFUSED_BUSY, error.message);
        return;
    }
    struct receiving *receiving = receiving_begin(intake, call, upload, contribution, supply);
    if (blob_upload_size(upload) == contribution->payload_size)
        finish(intake, receiving);
    else
        give_credit(intake, receiving);
}

/* A payload that was lost: what lies under its name is damaged, or was mended meanwhile. A whole
 * one replaces it. */
static void admit_supply(struct intake *intake, struct call *call,
                         const struct contribution *contribution) {
    char name[BLOB_UPLOAD_NAME_MAX], digest[HEX32_SIZE];
    if (blob_check(intake->options.blobs, contribution->payload_digest, NULL) == OK) {
        uploaded(intake, call, ACCEPTED, NULL);
        return;
    }
    snprintf(name, sizeof name, "lost-%s",
             hex_encode(contribution->payload_digest, DIGEST_SIZE, digest));
    open_upload(intake, call, name, contribution, true);
}

static void admit(struct intake *intake, struct call *call, const struct contribution *contribution,
                  bool supply) {
    char name[BLOB_UPLOAD_NAME_MAX];
    clean_now_and_then(intake);
    if (call_has_ended(call)) return;
    if (supply) {
        admit_supply(intake, call, contribution);
        return;
    }
    const struct transfer *transfer = transfer_begin(intake, contribution);
    if (blob_exists(intake->options.blobs,
                    contribution->payload_digest)) { /* an earlier stream brought all of it */
        uploaded(intake, call, ACCEPTED, NULL);
        return;
    }
    upload_name(transfer, name);
    open_upload(intake, call, name, contribution, false);
}

static void take_chunk(struct intake *intake, const struct intake_message *message) {
    struct receiving *receiving = receiving_of(intake, message->call);
    struct error error = {0};
    if (!receiving) { /* nobody gave it credit, or the upload is over */
        call_finish(message->call, RPC_INVALID_ARGUMENT, "a chunk that was not asked for");
        return;
    }
    const struct buffer *all = &message->chunk.message;
    struct bytes content =
        bytes_of(all->data + message->chunk.head_size, all->size - message->chunk.head_size);
    enum status status =
        blob_upload_append(receiving->upload, message->chunk.offset, content, &error);
    if (status != OK) {
        receiving_end(intake, receiving);
        if (status == FULL) disk_watch_waits(intake->options.disk, DISK_PAYLOADS, error.message);
        uploaded(intake, message->call, status == INVALID ? REFUSED_SIZE : REFUSED_BUSY,
                 error.message);
    } else if (blob_upload_size(receiving->upload) == receiving->contribution.payload_size) {
        finish(intake, receiving);
    } else {
        call_read(message->call);
    }
}

static void half_close(struct intake *intake, const struct call *call) {
    struct receiving *receiving = receiving_of(intake, call);
    if (!receiving) return; /* whole, or over already */
    receiving_end(intake, receiving);
    uploaded(intake, call, REFUSED_SIZE, "fewer bytes came than the header announced");
}

/* ---- the verdict ----------------------------------------------------------------------------- */

static void check(struct intake *intake, uint64_t number, const struct contribution *contribution) {
    const struct manifest *manifest = intake->options.manifest;
    struct blob_store *blobs = intake->options.blobs;
    struct buffer payload = {0};
    struct error why = {0};
    uint64_t start, count;
    enum refusal code = REFUSED_DIGEST;
    fragment_range(intake->options.parameters, manifest->fragments, contribution->fragment, &start,
                   &count);
    enum status status =
        blob_read(blobs, contribution->payload_digest, contribution->payload_size, &payload, &why);
    if (status == OK) {
        code = admission_payload(contribution, manifest, buffer_bytes(&payload), count,
                                 intake->scratch, &why);
    } else if (status ==
               INVALID) { /* it is larger than the header says: whole, perhaps, and another's */
        code = REFUSED_SIZE;
    } else { /* the disk has damaged it: not the site's fault, and what is there is good for nobody
              */
        code = REFUSED_BUSY;
        log_error("payload_damaged", "site=%u sequence=%llu reason=\"%s\"", contribution->site,
                  (unsigned long long)contribution->sequence, why.message);
        if (status == CORRUPT && blob_delete(blobs, contribution->payload_digest, NULL) != OK)
            log_warn("blob_left_behind", "reason=\"%s\"", why.message);
        (void)error_set(&why, status,
                        "the coordinator's copy of the payload is damaged: send it again");
    }
    struct transfer *transfer = transfer_of(intake, contribution->site, contribution->fragment);
    if (code != ACCEPTED && transfer &&
        digest_equal(transfer->digest, contribution->payload_digest))
        drop_payload(intake, transfer);
    tell(intake, COORDINATOR_CHECKED, number, code, why.message);
    buffer_deinit(&payload);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void message_destroy(struct intake_message *message) {
    if (message->kind == INTAKE_CHUNK) buffer_deinit(&message->chunk.message);
    call_release(message->call);
    free(message);
}

static void act(struct intake *intake, const struct intake_message *message) {
    struct receiving *receiving;
    switch (message->kind) {
    case INTAKE_ADMIT:
        admit(intake, message->call, &message->admit.contribution, message->admit.supply);
        break;
    case INTAKE_CHUNK: take_chunk(intake, message); break;
    case INTAKE_HALF_CLOSE: half_close(intake, message->call); break;
    case INTAKE_CLOSE:
        receiving = receiving_of(intake, message->call);
        if (receiving) receiving_end(intake, receiving);
        break;
    case INTAKE_CHECK: check(intake, message->check.number, &message->check.contribution); break;
    case INTAKE_KEEP: keep(intake, message->keep.digest); break;
    }
}

static void run(void *context) {
    struct intake *intake = context;
    void *popped;
    while (queue_pop(intake->queue, UINT64_MAX, &popped) == OK) {
        act(intake, popped);
        message_destroy(popped);
    }
}

static enum status start(struct intake *intake, struct error *error) {
    void *scratch = NULL;
    uint64_t largest =
        fragment_largest(intake->options.parameters, intake->options.manifest->fragments);
    TRY(memory_try((size_t)largest, sizeof(float), &scratch, error));
    intake->scratch = scratch;
    TRY(blob_upload_clean(intake->options.blobs, UPLOAD_AGE_MS, NULL, error));
    return thread_start("intake", run, intake, &intake->thread, error);
}

enum status intake_start(const struct intake_options *options, struct intake **out,
                         struct error *error) {
    struct intake *intake = xcalloc(1, sizeof *intake);
    intake->options = *options;
    intake->queue = queue_create(MESSAGES_LIMIT);
    enum status status = start(intake, error);
    if (status == OK)
        *out = intake;
    else
        intake_stop(intake);
    return status;
}

void intake_post(struct intake *intake, const struct intake_message *message) {
    struct intake_message *copy = xmalloc(sizeof *copy);
    *copy = *message;
    call_retain(copy->call);
    if (queue_push_wait(intake->queue, copy) != OK) message_destroy(copy);
}

void intake_stop(struct intake *intake) {
    if (!intake) return;
    queue_close(intake->queue);
    if (thread_join(intake->thread, UINT64_MAX) != OK) log_error("thread_stuck", "thread=intake");
    queue_destroy(intake->queue);
    while (intake->receiving_count > 0) receiving_end(intake, intake->receiving[0]);
    free(intake->receiving);
    free(intake->transfers);
    free(intake->scratch);
    free(intake);
}
