/* The intake thread: payloads from the first chunk to the verdict. It owns every upload that is open.
 *
 * An upload's name holds site, fragment, sequence and the payload's digest, so a transfer that broke is found again by whoever
 * sends the same bytes, and never by anybody else. A call has at most one chunk here at a time: its next read is asked for only
 * when this one is in the file, so memory is bounded by the number of calls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "codec/codec.h"
#include "coordinator/server_core.h"

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

static enum refusal refusal_of(enum status status) {
    return status == FULL || status == UNAVAILABLE ? REFUSED_BUSY : REFUSED_DIGEST;
}

static void finish_upload(struct call *call) {
    struct error error = {0};
    enum status status = blob_upload_finish(call->upload, call->contribution.payload_digest, &error);
    blob_upload_close(call->upload);
    call->upload = NULL;
    if (status == FAILED)
        server_break(call->server, "a payload cannot be made durable: %.150s", error.message);
    else if (status != OK)
        tell(call, refusal_of(status), error.message);
    else
        tell(call, ACCEPTED, NULL);
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

static void run_admit(struct server *server, struct job *job) {
    struct call *call = job->call;
    const struct contribution *contribution = &job->contribution;
    char name[BLOB_UPLOAD_NAME_MAX], digest[HEX32_SIZE];
    struct error error = {0};
    if (atomic_load(&call->closed)) return;
    call->contribution = *contribution;
    if (blob_exists(server->data.blobs, contribution->payload_digest)) { /* an earlier stream brought all of it */
        tell(call, ACCEPTED, NULL);
        return;
    }
    hex_encode(contribution->payload_digest, 16, digest);
    snprintf(name, sizeof name, "s%u-f%u-%llu-%s", contribution->site, contribution->fragment,
             (unsigned long long)contribution->sequence, digest);
    enum status status = blob_upload_open(server->data.blobs, name, contribution->payload_size, &call->upload, &error);
    if (status != OK) {
        tell(call, REFUSED_BUSY, error.message);
        return;
    }
    if (blob_upload_size(call->upload) == contribution->payload_size)
        finish_upload(call);
    else
        send_credit(call);
}

void intake_admit(struct server *server, struct call *call, const struct contribution *contribution) {
    struct job *job = job_create(run_admit, call);
    job->contribution = *contribution;
    job_push(server, server->intake_queue, job);
}

static void run_chunk(struct server *server, struct job *job) {
    struct call *call = job->call;
    struct error error = {0};
    (void)server;
    if (!call->upload) { /* nobody gave it credit, or the upload is over */
        rpc_call_finish(call->rpc, RPC_INVALID_ARGUMENT, "a chunk that was not asked for");
        return;
    }
    struct bytes content = bytes_of(job->bytes.data + job->number, job->bytes.size - job->number);
    enum status status = blob_upload_append(call->upload, job->offset, content, &error);
    if (status != OK) {
        blob_upload_close(call->upload);
        call->upload = NULL;
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

/* ---- the verdict -------------------------------------------------------------------------------------------------------- */

static void run_check(struct server *server, struct job *job) {
    const struct contribution *contribution = &job->contribution;
    struct buffer payload = {0};
    struct error why = {0};
    uint64_t start, count;
    enum refusal code = REFUSED_DIGEST;
    fragment_range(server->parameters, server->manifest.fragments, contribution->fragment, &start, &count);
    if (blob_read(server->data.blobs, contribution->payload_digest, contribution->payload_size, &payload, &why) == OK) {
        code = admission_payload(contribution, &server->manifest, buffer_bytes(&payload), count, server->scratch, &why);
    }
    /* A refused payload is nobody's: content that another entry names has the same digest and was accepted, so it is not here. */
    if (code != ACCEPTED) {
        struct error ignored = {0};
        if (blob_delete(server->data.blobs, contribution->payload_digest, &ignored) == FAILED) {
            log_warn("blob_left_behind", "reason=\"%s\"", ignored.message);
        }
    }
    brain_tell(server, COORDINATOR_CHECKED, job->number, code, why.message);
    buffer_deinit(&payload);
}

void intake_check(struct server *server, uint64_t number, const struct contribution *contribution) {
    struct job *job = job_create(run_check, NULL);
    job->number = number;
    job->contribution = *contribution;
    job_push(server, server->intake_queue, job);
}
