/* The sending thread (node/uplink.h): Submit streams, resumed at the byte where they broke, with
 * backoff and a bandwidth limit. */
#include "node/uplink.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "node/journal_files.h"
#include "node/refetch.h"
#include "proto/messages.h"

enum { QUEUE_LIMIT = 2 * FRAGMENTS_LIMIT + 4, CHUNK_LEAST = 4096 };

enum upload_kind { UPLOAD_OWN, UPLOAD_SUPPLY, UPLOAD_REFETCH };

struct site_upload {
    enum upload_kind kind;
    uint64_t index; /* SUPPLY, REFETCH */
    struct rpc_channel *channel;
    uint32_t fragment;
    uint64_t sequence, payload_size;
    uint64_t sent; /* of the payload, in this try */
    uint8_t payload_digest[DIGEST_SIZE];
};

struct uplink {
    struct uplink_options options;
    struct queue *queue;
    struct thread *thread;
    pthread_mutex_t lock; /* of stream and stopping */
    pthread_cond_t changed;
    struct stream *stream; /* under way; NULL: none */
    bool stopping;
    uint64_t paid_until_ns; /* the bandwidth cap: what has been sent is paid for up to then */
    struct arena arena;
};

static bool is_stopping(struct uplink *uplink) {
    pthread_mutex_lock(&uplink->lock);
    bool stopping = uplink->stopping;
    pthread_mutex_unlock(&uplink->lock);
    return stopping;
}

/* Waits until the cap allows `size` more bytes. A quarter of a second may be saved up. */
static void pay(struct uplink *uplink, size_t size) {
    if (uplink->options.bandwidth == 0) return;
    uint64_t now = clock_monotonic_ns();
    uint64_t from = now > 250000000u ? now - 250000000u : 0;
    uplink->paid_until_ns = MAX(uplink->paid_until_ns, from);
    uplink->paid_until_ns += (uint64_t)((double)size * 1e9 / (double)uplink->options.bandwidth);
    pthread_mutex_lock(&uplink->lock);
    while (!uplink->stopping && clock_monotonic_ns() < uplink->paid_until_ns) {
        struct timespec at = {(time_t)(uplink->paid_until_ns / 1000000000u),
                              (long)(uplink->paid_until_ns % 1000000000u)};
        pthread_cond_timedwait(&uplink->changed, &uplink->lock, &at);
    }
    pthread_mutex_unlock(&uplink->lock);
}

static enum status send_frame(struct uplink *uplink, struct stream *stream,
                              const struct submit_frame *frame, struct error *error) {
    struct buffer head = {0};
    enum status status = submit_frame_encode(frame, &head, error);
    if (status == OK) {
        pay(uplink, head.size + frame->payload.size + MESSAGE_OVERHEAD);
        status = stream_write(stream, buffer_bytes(&head), frame->payload, error);
    }
    buffer_deinit(&head);
    return status;
}

static enum status send_open(struct uplink *uplink, struct stream *stream,
                             struct site_upload *upload, struct error *error) {
    struct submit_frame frame = {.kind = SUBMIT_OPEN,
                                 .open = {.protocol = PROTOCOL_VERSION,
                                          .waits = uplink->options.waits,
                                          .instance = uplink->options.instance}};
    struct contribution contribution;
    if (upload->kind == UPLOAD_SUPPLY) {
        struct ledger_entry *entry = xmalloc(sizeof *entry);
        enum status status = journal_contribution(uplink->options.journal, upload->index, entry,
                                                  &contribution, error);
        if (status == OK)
            status = blob_check(journal_payloads(uplink->options.journal),
                                contribution.payload_digest, error);
        memcpy(frame.open.header, entry->contribution.header, sizeof frame.open.header);
        memcpy(frame.open.signature, entry->contribution.signature, sizeof frame.open.signature);
        frame.open.supply = true;
        free(entry);
        TRY(status);
    } else {
        TRY(journal_sent(uplink->options.journal, upload->sequence, frame.open.header,
                         frame.open.signature, error));
        TRY(contribution_decode(bytes_of(frame.open.header, sizeof frame.open.header),
                                &contribution, error));
    }
    upload->payload_size = contribution.payload_size;
    memcpy(upload->payload_digest, contribution.payload_digest, DIGEST_SIZE);
    return send_frame(uplink, stream, &frame, error);
}

/* Reads the next reply; `message` keeps what it lends. */
static enum status read_reply(struct uplink *uplink, struct stream *stream, uint64_t wait_ms,
                              struct buffer *message, struct submit_reply *out,
                              struct error *error) {
    struct frame frame;
    TRY(stream_read(stream, wait_ms, message, error));
    arena_reset(&uplink->arena);
    TRY(frame_split(buffer_bytes(message), &frame, error));
    return submit_reply_decode(frame, &uplink->arena, out, error);
}

/* OK with a reply that came early (the coordinator has all, or does not need it), NOT_FOUND when
 * all is sent and none has come. */
static enum status send_payload(struct uplink *uplink, struct stream *stream,
                                struct site_upload *upload, uint64_t offset, uint32_t chunk_limit,
                                struct buffer *message, struct submit_reply *reply,
                                struct error *error) {
    struct blob_reader *reader = NULL;
    size_t limit = MIN((size_t)chunk_limit, (size_t)FRAME_PAYLOAD_LIMIT);
    if (uplink->options.bandwidth)
        limit = MIN(limit, (size_t)MAX(uplink->options.bandwidth, (uint64_t)CHUNK_LEAST));
    uint8_t *chunk = xmalloc(limit);
    enum status status = blob_reader_open_unchecked(journal_payloads(uplink->options.journal),
                                                    upload->payload_digest, &reader, error);
    if (status == OK && blob_reader_size(reader) != upload->payload_size)
        status =
            error_set(error, CORRUPT, "the spooled payload has another size than its header says");
    while (status == OK && offset < upload->payload_size && !is_stopping(uplink)) {
        size_t size = (size_t)MIN((uint64_t)limit, upload->payload_size - offset);
        status = blob_reader_read(reader, offset, chunk, size, error);
        if (status != OK) break;
        struct submit_frame frame = {
            .kind = SUBMIT_CHUNK, .chunk = {.offset = offset}, .payload = bytes_of(chunk, size)};
        status = send_frame(uplink, stream, &frame, error);
        offset += size;
        if (status == OK) upload->sent += size;
        struct error early = {0};
        if (status == OK && offset < upload->payload_size &&
            read_reply(uplink, stream, 0, message, reply, &early) == OK)
            goto out;
    }
    if (status == OK) status = NOT_FOUND;
    /* A call that ended under us may have sent its reason as a last message. */
    if (status != NOT_FOUND && read_reply(uplink, stream, 0, message, reply, NULL) == OK)
        status = OK;
out:
    blob_reader_close(reader);
    free(chunk);
    return status;
}

/* One whole Submit call. OK: *reply is a receipt or a refusal. */
static enum status talk(struct uplink *uplink, struct stream *stream, struct site_upload *upload,
                        struct buffer *message, struct submit_reply *reply, struct error *error) {
    TRY(send_open(uplink, stream, upload, error));
    TRY(read_reply(uplink, stream, UINT64_MAX, message, reply, error));
    if (reply->kind != SUBMIT_CREDIT) return OK;
    if (reply->credit.resume_offset > upload->payload_size)
        return error_set(error, INVALID, "the coordinator gave credit from byte %llu of %llu",
                         (unsigned long long)reply->credit.resume_offset,
                         (unsigned long long)upload->payload_size);
    enum status status = send_payload(uplink, stream, upload, reply->credit.resume_offset,
                                      reply->credit.chunk_limit, message, reply, error);
    if (status == NOT_FOUND) {
        stream_half_close(stream);
        status = read_reply(uplink, stream, UINT64_MAX, message, reply, error);
    }
    if (status == OK && reply->kind == SUBMIT_CREDIT)
        return error_set(error, INVALID, "a second credit");
    return status == NOT_FOUND
               ? error_set(error, UNAVAILABLE, "the coordinator ended the call without an answer")
               : status;
}

static void supplied(struct uplink *uplink, const struct site_upload *upload, enum status status,
                     const struct submit_reply *reply, const struct error *error) {
    char quoted[256];
    if (status == OK && reply->kind == SUBMIT_REFUSAL && reply->refusal.code == REFUSED_DUPLICATE)
        log_info("payload_supplied", "entry=%llu sent=%llu", (unsigned long long)upload->index,
                 (unsigned long long)upload->sent);
    else if (!is_stopping(uplink))
        log_info("payload_not_supplied", "entry=%llu reason=%s message=%s",
                 (unsigned long long)upload->index,
                 status == OK && reply->kind == SUBMIT_REFUSAL ? refusal_name(reply->refusal.code)
                                                               : status_name(status),
                 log_quote(status == OK && reply->kind == SUBMIT_REFUSAL ? reply->refusal.message
                                                                         : error->message,
                           quoted, sizeof quoted));
    uplink->options.tell(uplink->options.context, &(struct node_event){.kind = NODE_SUPPLIED});
}

static void answer(struct uplink *uplink, const struct site_upload *upload,
                   const struct submit_reply *reply) {
    struct node_event event = {.fragment = upload->fragment, .sequence = upload->sequence};
    if (reply->kind == SUBMIT_RECEIPT) {
        event.kind = NODE_UPLOAD_RECEIPT;
        event.bytes = reply->receipt;
        log_info("contribution_accepted", "fragment=%u sequence=%llu bytes=%llu sent=%llu",
                 upload->fragment, (unsigned long long)upload->sequence,
                 (unsigned long long)upload->payload_size, (unsigned long long)upload->sent);
    } else {
        event.kind = NODE_UPLOAD_REFUSED;
        event.message = reply->refusal.message;
        event.bytes = reply->refusal.receipt;
        event.refused.code = (enum refusal)reply->refusal.code;
        event.refused.retry_after_ms = reply->refusal.retry_after_ms;
        event.refused.current_version = reply->refusal.current_version;
        char quoted[256];
        log_warn("contribution_refused",
                 "fragment=%u sequence=%llu code=%s sent=%llu retry_after_ms=%llu current=%llu "
                 "message=%s",
                 upload->fragment, (unsigned long long)upload->sequence,
                 refusal_name(reply->refusal.code), (unsigned long long)upload->sent,
                 (unsigned long long)reply->refusal.retry_after_ms,
                 (unsigned long long)reply->refusal.current_version,
                 log_quote(reply->refusal.message, quoted, sizeof quoted));
    }
    uplink->options.tell(uplink->options.context, &event);
}

/* A stream that uplink_stop can cut. */
static void set_stream(struct uplink *uplink, struct stream *stream) {
    pthread_mutex_lock(&uplink->lock);
    uplink->stream = stream;
    bool stopping = uplink->stopping;
    pthread_mutex_unlock(&uplink->lock);
    if (stream && stopping) stream_cancel(stream);
}

static void refetch(struct uplink *uplink, const struct site_upload *upload) {
    struct node_event event = {.kind = NODE_REFETCHED};
    struct error error = {0};
    struct stream *stream = NULL;
    char quoted[256];
    event.status = stream_open(upload->channel, METHOD_FOLLOW, uplink->options.timeout_ms,
                               uplink->options.traffic, &stream, &error);
    set_stream(uplink, stream);
    struct refetch wanted = {.instance = uplink->options.instance,
                             .restored = uplink->options.restored,
                             .index = upload->index,
                             .size = upload->payload_size,
                             .digest = upload->payload_digest};
    if (event.status == OK)
        event.status = refetch_payload(uplink->options.journal, stream, &wanted, &error);
    set_stream(uplink, NULL);
    stream_close(stream);
    event.message = error.message;
    if (event.status == OK)
        log_info("payload_refetched", "entry=%llu", (unsigned long long)upload->index);
    else if (!is_stopping(uplink))
        log_warn("payload_not_refetched", "entry=%llu reason=%s message=%s",
                 (unsigned long long)upload->index, status_name(event.status),
                 log_quote(error.message, quoted, sizeof quoted));
    uplink->options.tell(uplink->options.context, &event);
}

static void send_upload(struct uplink *uplink, struct site_upload *upload) {
    struct error error = {0};
    struct buffer message = {0};
    struct submit_reply reply;
    struct stream *stream = NULL;
    enum status status = stream_open(upload->channel, METHOD_SUBMIT, uplink->options.timeout_ms,
                                     uplink->options.traffic, &stream, &error);
    if (status == OK) {
        set_stream(uplink, stream);
        status = talk(uplink, stream, upload, &message, &reply, &error);
    }
    if (upload->kind == UPLOAD_SUPPLY) {
        supplied(uplink, upload, status, &reply, &error);
    } else if (status == OK) {
        answer(uplink, upload, &reply);
    } else if (!is_stopping(uplink)) {
        char quoted[256];
        log_warn("upload_broken", "fragment=%u sequence=%llu sent=%llu reason=%s message=%s",
                 upload->fragment, (unsigned long long)upload->sequence,
                 (unsigned long long)upload->sent, status_name(status),
                 log_quote(error.message, quoted, sizeof quoted));
        struct node_event event = {.kind = NODE_UPLOAD_BROKEN,
                                   .fragment = upload->fragment,
                                   .sequence = upload->sequence,
                                   .status = status,
                                   .message = error.message};
        uplink->options.tell(uplink->options.context, &event);
    }
    set_stream(uplink, NULL);
    stream_close(stream);
    buffer_deinit(&message);
}

static void body(void *context) {
    struct uplink *uplink = context;
    void *item;
    while (queue_pop(uplink->queue, UINT64_MAX, &item) == OK) {
        struct site_upload *upload = item;
        if (!is_stopping(uplink) && upload->kind == UPLOAD_REFETCH)
            refetch(uplink, upload);
        else if (!is_stopping(uplink))
            send_upload(uplink, upload);
        free(upload);
    }
}

enum status uplink_start(const struct uplink_options *options, struct uplink **out,
                         struct error *error) {
    struct uplink *uplink = xcalloc(1, sizeof *uplink);
    uplink->options = *options;
    uplink->queue = queue_create(QUEUE_LIMIT);
    arena_create(&uplink->arena, ARENA_SIZE);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&uplink->lock, NULL);
    pthread_cond_init(&uplink->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    enum status status = thread_start("uplink", body, uplink, &uplink->thread, error);
    if (status == OK)
        *out = uplink;
    else
        uplink_destroy(uplink);
    return status;
}

static void push(struct uplink *uplink, struct site_upload upload) {
    struct site_upload *copy = xmalloc(sizeof *copy);
    *copy = upload;
    /* stopping: a fragment has one upload at most */
    if (queue_push(uplink->queue, copy) != OK) free(copy);
}

void uplink_send(struct uplink *uplink, struct rpc_channel *channel, uint32_t fragment,
                 uint64_t sequence) {
    push(uplink,
         (struct site_upload){.channel = channel, .fragment = fragment, .sequence = sequence});
}

void uplink_supply(struct uplink *uplink, struct rpc_channel *channel, uint64_t index) {
    push(uplink, (struct site_upload){.kind = UPLOAD_SUPPLY, .channel = channel, .index = index});
}

void uplink_refetch(struct uplink *uplink, struct rpc_channel *channel, uint64_t index,
                    const struct contribution *contribution) {
    struct site_upload upload = {.kind = UPLOAD_REFETCH,
                                 .channel = channel,
                                 .index = index,
                                 .payload_size = contribution->payload_size};
    memcpy(upload.payload_digest, contribution->payload_digest, DIGEST_SIZE);
    push(uplink, upload);
}

void uplink_stop(struct uplink *uplink) {
    pthread_mutex_lock(&uplink->lock);
    uplink->stopping = true;
    if (uplink->stream) stream_cancel(uplink->stream);
    pthread_cond_broadcast(&uplink->changed);
    pthread_mutex_unlock(&uplink->lock);
    queue_close(uplink->queue);
    (void)!thread_join(uplink->thread, UINT64_MAX);
    uplink->thread = NULL;
}

void uplink_destroy(struct uplink *uplink) {
    if (!uplink) return;
    if (uplink->thread) uplink_stop(uplink);
    queue_destroy(uplink->queue);
    arena_deinit(&uplink->arena);
    pthread_cond_destroy(&uplink->changed);
    pthread_mutex_destroy(&uplink->lock);
    free(uplink);
}
