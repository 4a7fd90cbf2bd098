/* The intake thread: payloads from the first chunk to the verdict. It owns every upload that is open.
 *
 * An upload's name holds site, fragment, sequence and the payload's digest, so a transfer that broke is found again by whoever
 * sends the same bytes, and never by anybody else. A call has at most one chunk here at a time: its next read is asked for only
 * when this one is in the file, so memory is bounded by the number of calls.
 *
 * The disk is bounded by the table of transfers: the last one of each site and fragment. What it left, a part of an upload or a
 * whole payload that the ledger does not name, is deleted when the next one begins. A payload is `fresh` while nobody else can
 * have a claim to it: this process put it there, and no entry names it. Only such a one is ever deleted, for whoever follows the
 * ledger knows the digests of other sites' payloads and may name them in a header that is refused. What lies there from an
 * earlier start of the process and is not named went at the start (directory_sweep).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "codec/codec.h"
#include "coordinator/server_internal.h"

struct job *job_create(void (*run)(struct server *server, struct job *job), struct call *call) {
    struct job *job = xcalloc(1, sizeof *job);
    job->run = run;
    job->call = call_retain(call);
    return job;
}

static void job_destroy(struct job *job) {
    call_release(job->call);
    buffer_deinit(&job->bytes);
    free(job);
}

void job_push(struct server *server, struct queue *queue, struct job *job) {
    (void)server;
    if (queue_push_wait(queue, job) != OK) job_destroy(job);
}

void jobs_run(struct server *server, struct queue *queue) {
    void *popped;
    while (queue_pop(queue, UINT64_MAX, &popped) == OK) {
        struct job *job = popped;
        job->run(server, job);
        job_destroy(job);
    }
}

void intake_run(void *context) {
    struct server *server = context;
    jobs_run(server, server->intake_queue);
}

/* ---- transfers ---------------------------------------------------------------------------------------------------------- */

static void tell(struct call *call, enum refusal code, const char *message) {
    brain_tell(call->server, COORDINATOR_UPLOADED, call->number, code, message);
}

/* What a failing disk means for who sends; a full one is said. */
static enum refusal refusal_of(struct server *server, enum status status, const struct error *error) {
    if (status == FULL) disk_waits(server->disk, DISK_PAYLOADS, error->message);
    return status == FULL || status == UNAVAILABLE ? REFUSED_BUSY : REFUSED_DIGEST;
}

struct transfer {
    uint32_t site, fragment;
    uint64_t sequence;
    uint8_t digest[DIGEST_SIZE];
    bool fresh;
};

static struct transfer *transfer_of(struct server *server, uint32_t site, uint32_t fragment) {
    for (size_t i = 0; i < server->transfer_count; i++) {
        struct transfer *transfer = &server->transfers[i];
        if (transfer->site == site && transfer->fragment == fragment) return transfer;
    }
    return NULL;
}

static void upload_name(const struct transfer *transfer, char out[static BLOB_UPLOAD_NAME_MAX]) {
    char digest[HEX32_SIZE];
    snprintf(out, BLOB_UPLOAD_NAME_MAX, "s%u-f%u-%llu-%s", transfer->site, transfer->fragment,
             (unsigned long long)transfer->sequence, hex_encode(transfer->digest, 16, digest));
}

/* Deletes a whole payload that nothing names; leaves it to another transfer of the same bytes, if there is one. */
static void drop_payload(struct server *server, struct transfer *transfer) {
    struct error error = {0};
    if (!transfer->fresh) return;
    transfer->fresh = false;
    for (size_t i = 0; i < server->transfer_count; i++) {
        struct transfer *other = &server->transfers[i];
        if (other == transfer || !digest_equal(other->digest, transfer->digest)) continue;
        other->fresh = true;
        return;
    }
    enum status status = blob_delete(server->data.blobs, transfer->digest, &error);
    if (status != OK && status != NOT_FOUND) log_warn("blob_left_behind", "reason=\"%s\"", error.message);
}

static void drop_upload(struct server *server, const struct transfer *transfer) {
    char name[BLOB_UPLOAD_NAME_MAX];
    struct blob_upload *upload = NULL;
    upload_name(transfer, name);
    if (blob_upload_open(server->data.blobs, name, WIRE_PAYLOAD_TOTAL_LIMIT, &upload, NULL) == OK) blob_upload_discard(upload);
}

/* The transfer that begins, in place of the last one of its site and fragment. */
static struct transfer *transfer_begin(struct server *server, const struct contribution *contribution) {
    struct transfer *transfer = transfer_of(server, contribution->site, contribution->fragment);
    if (transfer && transfer->sequence == contribution->sequence && digest_equal(transfer->digest, contribution->payload_digest))
        return transfer;
    if (transfer) {
        drop_upload(server, transfer);
        drop_payload(server, transfer);
    } else {
        if (server->transfer_count == server->transfer_capacity) {
            server->transfer_capacity = server->transfer_capacity ? server->transfer_capacity * 2 : 16;
            server->transfers = xrealloc(server->transfers, server->transfer_capacity * sizeof *transfer);
        }
        transfer = &server->transfers[server->transfer_count++];
    }
    *transfer =
        (struct transfer){.site = contribution->site, .fragment = contribution->fragment, .sequence = contribution->sequence};
    memcpy(transfer->digest, contribution->payload_digest, DIGEST_SIZE);
    return transfer;
}

static void run_keep(struct server *server, struct job *job) {
    for (size_t i = 0; i < server->transfer_count; i++) {
        if (digest_equal(server->transfers[i].digest, job->contribution.payload_digest)) server->transfers[i].fresh = false;
    }
}

void intake_keep(struct server *server, const uint8_t digest[static DIGEST_SIZE]) {
    struct job *job = job_create(run_keep, NULL);
    memcpy(job->contribution.payload_digest, digest, DIGEST_SIZE);
    job_push(server, server->intake_queue, job);
}

static void finish_upload(struct call *call) {
    struct error error = {0};
    struct server *server = call->server;
    bool was_there = blob_exists(server->data.blobs, call->contribution.payload_digest);
    enum status status = blob_upload_finish(call->upload, call->contribution.payload_digest, &error);
    blob_upload_close(call->upload);
    call->upload = NULL;
    if (status == OK) disk_has_room(server->disk, DISK_PAYLOADS);
    if (status == FAILED)
        server_break(call->server, "a payload cannot be made durable: %.150s", error.message);
    else if (status == CORRUPT && call->resumed) /* the damage may be ours, of a crash: the upload is empty now */
        tell(call, REFUSED_BUSY, "the parts do not fit together: send it again from the start");
    else if (status != OK)
        tell(call, refusal_of(server, status, &error), error.message);
    else
        tell(call, ACCEPTED, NULL);
    if (call->supply) return;
    struct transfer *transfer = transfer_of(server, call->contribution.site, call->contribution.fragment);
    if (status == OK && transfer && digest_equal(transfer->digest, call->contribution.payload_digest) && !was_there)
        transfer->fresh = true;
}

static void send_credit(struct call *call) {
    struct submit_reply reply = {.kind = SUBMIT_CREDIT};
    struct buffer head = {0};
    struct error error = {0};
    reply.credit.resume_offset = blob_upload_size(call->upload);
    reply.credit.chunk_limit = call->server->options.chunk_limit;
    if (submit_reply_encode(&reply, &head, &error) != OK) {
        rpc_call_finish(call->rpc, RPC_INTERNAL, error.message);
        return;
    }
    if (call_send(call, &head, bytes_of(NULL, 0)) == OK) rpc_call_read(call->rpc);
}

static void open_upload(struct server *server, struct call *call, const char *name) {
    struct error error = {0};
    enum status status = blob_upload_open(server->data.blobs, name, call->contribution.payload_size, &call->upload, &error);
    if (status != OK) {
        if (status == FULL) disk_waits(server->disk, DISK_PAYLOADS, error.message);
        tell(call, status == INVALID ? REFUSED_SIZE : REFUSED_BUSY, error.message); /* INVALID: more than that is there */
        return;
    }
    call->resumed = blob_upload_size(call->upload) > 0;
    if (blob_upload_size(call->upload) == call->contribution.payload_size)
        finish_upload(call);
    else
        send_credit(call);
}

/* A payload that was lost: what lies under its name is damaged, or was mended meanwhile. A whole one replaces it. */
static void admit_supply(struct server *server, struct call *call) {
    char name[BLOB_UPLOAD_NAME_MAX], digest[HEX32_SIZE];
    if (blob_check(server->data.blobs, call->contribution.payload_digest, NULL) == OK) {
        tell(call, ACCEPTED, NULL);
        return;
    }
    snprintf(name, sizeof name, "lost-%s", hex_encode(call->contribution.payload_digest, DIGEST_SIZE, digest));
    open_upload(server, call, name);
}

/* Uploads that nobody goes on with, once an hour: a coordinator runs for months. */
static void clean_now_and_then(struct server *server) {
    struct error error = {0};
    uint64_t now = clock_monotonic_ms();
    if (now - server->cleaned_ms < 3600 * 1000) return;
    server->cleaned_ms = now;
    if (blob_upload_clean(server->data.blobs, UPLOAD_AGE_MS, NULL, &error) != OK)
        log_warn("uploads_left_behind", "reason=\"%s\"", error.message);
}

static void run_admit(struct server *server, struct job *job) {
    struct call *call = job->call;
    const struct contribution *contribution = &job->contribution;
    char name[BLOB_UPLOAD_NAME_MAX];
    clean_now_and_then(server);
    if (atomic_load(&call->closed)) return;
    call->contribution = *contribution;
    if (job->supply) {
        admit_supply(server, call);
        return;
    }
    const struct transfer *transfer = transfer_begin(server, contribution);
    if (blob_exists(server->data.blobs, contribution->payload_digest)) { /* an earlier stream brought all of it */
        tell(call, ACCEPTED, NULL);
        return;
    }
    upload_name(transfer, name);
    open_upload(server, call, name);
}

void intake_admit(struct server *server, struct call *call, const struct contribution *contribution, bool supply) {
    struct job *job = job_create(run_admit, call);
    job->supply = supply;
    job->contribution = *contribution;
    job_push(server, server->intake_queue, job);
}

static void run_chunk(struct server *server, struct job *job) {
    struct call *call = job->call;
    struct error error = {0};
    if (!call->upload) { /* nobody gave it credit, or the upload is over */
        rpc_call_finish(call->rpc, RPC_INVALID_ARGUMENT, "a chunk that was not asked for");
        return;
    }
    struct bytes content = bytes_of(job->bytes.data + job->number, job->bytes.size - job->number);
    enum status status = blob_upload_append(call->upload, job->offset, content, &error);
    if (status != OK) {
        blob_upload_close(call->upload);
        call->upload = NULL;
        if (status == FULL) disk_waits(server->disk, DISK_PAYLOADS, error.message);
        tell(call, status == INVALID ? REFUSED_SIZE : REFUSED_BUSY, error.message);
    } else if (blob_upload_size(call->upload) == call->contribution.payload_size) {
        finish_upload(call);
    } else {
        rpc_call_read(call->rpc);
    }
}

void intake_chunk(struct server *server, struct call *call, uint64_t offset, struct buffer *message, size_t head_size) {
    struct job *job = job_create(run_chunk, call);
    job->bytes = *message;
    *message = (struct buffer){0};
    job->number = head_size;
    job->offset = offset;
    job_push(server, server->intake_queue, job);
}

static void run_close(struct server *server, struct job *job) {
    (void)server;
    blob_upload_close(job->call->upload); /* what came so far is kept: the site goes on from there */
    job->call->upload = NULL;
}

void intake_close(struct server *server, struct call *call) {
    job_push(server, server->intake_queue, job_create(run_close, call));
}

static void run_half_close(struct server *server, struct job *job) {
    if (!job->call->upload) return; /* whole, or over already */
    run_close(server, job);
    tell(job->call, REFUSED_SIZE, "fewer bytes came than the header announced");
}

void intake_half_close(struct server *server, struct call *call) {
    job_push(server, server->intake_queue, job_create(run_half_close, call));
}

/* ---- the verdict -------------------------------------------------------------------------------------------------------- */

static void run_check(struct server *server, struct job *job) {
    const struct contribution *contribution = &job->contribution;
    struct buffer payload = {0};
    struct error why = {0};
    uint64_t start, count;
    enum refusal code = REFUSED_DIGEST;
    fragment_range(server->parameters, server->manifest.fragments, contribution->fragment, &start, &count);
    enum status status = blob_read(server->data.blobs, contribution->payload_digest, contribution->payload_size, &payload, &why);
    if (status == OK) {
        code = admission_payload(contribution, &server->manifest, buffer_bytes(&payload), count, server->scratch, &why);
    } else { /* the disk has damaged it: not the site's fault, and what is there is good for nobody */
        code = REFUSED_BUSY;
        log_error("payload_damaged", "site=%u sequence=%llu reason=\"%s\"", contribution->site,
                  (unsigned long long)contribution->sequence, why.message);
        if (status != NOT_FOUND && blob_delete(server->data.blobs, contribution->payload_digest, NULL) != OK)
            log_warn("blob_left_behind", "reason=\"%s\"", why.message);
        (void)error_set(&why, status, "the coordinator's copy of the payload is damaged: send it again");
    }
    struct transfer *transfer = transfer_of(server, contribution->site, contribution->fragment);
    if (code != ACCEPTED && transfer && digest_equal(transfer->digest, contribution->payload_digest))
        drop_payload(server, transfer);
    brain_tell(server, COORDINATOR_CHECKED, job->number, code, why.message);
    buffer_deinit(&payload);
}

void intake_check(struct server *server, uint64_t number, const struct contribution *contribution) {
    struct job *job = job_create(run_check, NULL);
    job->number = number;
    job->contribution = *contribution;
    job_push(server, server->intake_queue, job);
}
