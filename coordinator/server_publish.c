/* The publisher thread: everything that goes down to sites as a stream.
 *
 * A stream is a cursor into immutable things: the ledger and its payloads, or a snapshot's blob. It is pumped while its call
 * takes messages; when the call is full it waits for on_writable, when it has sent all there is for the ledger to grow. So a
 * slow site costs a cursor and a few frames, and never holds up another.
 *
 * Entries are packed: small ones share a frame; a contribution's entry travels in the frame of its payload's first piece. A
 * contribution of the receiver's own comes as a stub without payload if it asked for that: it has both.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "coordinator/server_internal.h"

enum { PACK_ENTRIES = 64, PACK_BYTES = 64 * 1024 };

struct stream {
    struct stream *next;
    struct call *call; /* a reference */
    bool full;         /* waits for on_writable */
    bool is_snapshot;

    /* Follow */
    struct follow_request request;
    uint64_t cursor;    /* next entry to send */
    bool begun;         /* a frame with places went out */
    uint64_t head_sent; /* size of the last head sent */

    /* the blob being sent: a payload (of entry `payload_index`) or a snapshot */
    struct blob_reader *blob;
    uint64_t blob_offset, blob_size, payload_index;
    struct buffer descriptor; /* Snapshot: until the first frame has gone */
};

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

void publish_run(void *context) {
    struct server *server = context;
    jobs_run(server, server->publish_queue);
}

static void stream_destroy(struct server *server, struct stream *stream) {
    for (struct stream **link = &server->streams; *link; link = &(*link)->next) {
        if (*link != stream) continue;
        *link = stream->next;
        break;
    }
    blob_reader_close(stream->blob);
    buffer_deinit(&stream->descriptor);
    stream->call->stream = NULL;
    call_release(stream->call);
    free(stream);
}

static void following(struct server *server, const struct stream *stream, bool open) {
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    item->event.kind = COORDINATOR_FOLLOWING;
    item->event.call = stream->call->number;
    item->event.following.site = stream->call->site;
    item->event.following.instance = stream->request.instance;
    item->event.following.open = open;
    brain_push(server, item);
}

static void fail(struct stream *stream, enum status status, const struct error *error) {
    log_warn("stream_failed", "site=%u reason=\"%s\"", stream->call->site, error->message);
    rpc_call_finish(stream->call->rpc, rpc_code_of(status), error->message);
    stream->full = true; /* nothing more; on_closed will follow */
}

/* ---- one frame ---------------------------------------------------------------------------------------------------------- */

struct packing {       /* the places of the frame being made */
    struct buffer raw; /* entries one behind the other */
    size_t offsets[PACK_ENTRIES];
    struct bytes entries[PACK_ENTRIES];
    struct follow_own own[PACK_ENTRIES];
    uint64_t dropped[PACK_ENTRIES];
    uint32_t dropped_count;
    uint32_t entry_count, own_count;
    uint64_t next; /* cursor after it */
    uint8_t payload_digest[DIGEST_SIZE];
    uint64_t payload_size, payload_index; /* of the last place; size 0: it has none to send */
};

void publish_dropped(struct server *server, const struct run_state *run) {
    pthread_mutex_lock(&server->dropped_lock);
    size_t count = run_state_dropped_count(run);
    server->dropped = xrealloc(server->dropped, (count + 1) * sizeof *server->dropped);
    for (; server->dropped_count < count; server->dropped_count++)
        server->dropped[server->dropped_count] = run_state_dropped_at(run, server->dropped_count);
    pthread_mutex_unlock(&server->dropped_lock);
}

static bool is_dropped(struct server *server, uint64_t index) {
    bool found = false;
    pthread_mutex_lock(&server->dropped_lock);
    for (size_t i = 0; i < server->dropped_count && !found; i++) found = server->dropped[i] == index;
    pthread_mutex_unlock(&server->dropped_lock);
    return found;
}

static void pack_own(struct packing *packing, const struct ledger_entry *entry, uint64_t sequence) {
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(entry->contribution.header, digest);
    struct reader reader = reader_of(bytes_of(digest, sizeof digest));
    struct follow_own *own = &packing->own[packing->own_count];
    *own = (struct follow_own){.place = packing->entry_count + packing->own_count,
                               .sequence = sequence,
                               .time_ms = entry->time_ms,
                               .epoch = entry->epoch,
                               .header = reader_u32(&reader)};
    packing->own_count++;
}

/* Adds entry `index`, which lies at the end of packing->raw from `offset` on. */
static enum status pack_entry(struct server *server, struct stream *stream, struct packing *packing, uint64_t index,
                              size_t offset, struct error *error) {
    struct ledger_entry entry;
    struct contribution contribution;
    struct bytes raw = bytes_of(packing->raw.data + offset, packing->raw.size - offset);
    TRY(ledger_entry_decode(raw, &entry, error));
    packing->next = index + 1;
    if (entry.kind == LEDGER_CONTRIBUTION) {
        TRY(contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE), &contribution, error));
        if (contribution.site == stream->call->site && stream->request.omit_own) {
            packing->raw.size = offset;
            pack_own(packing, &entry, contribution.sequence);
            return OK;
        }
        if (is_dropped(server, index)) {
            packing->dropped[packing->dropped_count++] = index;
        } else if (index >= stream->request.payloads_from_index) {
            packing->payload_size = contribution.payload_size;
            packing->payload_index = index;
            memcpy(packing->payload_digest, contribution.payload_digest, DIGEST_SIZE);
        }
    }
    packing->offsets[packing->entry_count++] = offset;
    return OK;
}

static enum status pack(struct server *server, struct stream *stream, uint64_t end, struct packing *packing,
                        struct error *error) {
    struct ledger_source source = directory_source(&server->data);
    packing->next = stream->cursor;
    while (packing->next < end && packing->entry_count + packing->own_count < PACK_ENTRIES && packing->raw.size < PACK_BYTES &&
           packing->payload_size == 0) {
        size_t offset = packing->raw.size;
        TRY(source.entry(source.context, packing->next, &packing->raw, error));
        TRY(pack_entry(server, stream, packing, packing->next, offset, error));
    }
    for (uint32_t i = 0; i < packing->entry_count; i++) { /* only now: the buffer may have moved while it grew */
        size_t stop = i + 1 < packing->entry_count ? packing->offsets[i + 1] : packing->raw.size;
        packing->entries[i] = bytes_of(packing->raw.data + packing->offsets[i], stop - packing->offsets[i]);
    }
    return OK;
}

/* Every payload is read whole once before it is sent the first time: a follower that gets a damaged one can do nothing but ask
 * again, for ever. One that is damaged is the brain's to have again. */
static enum status check_payload(struct server *server, uint64_t index, const uint8_t *digest, struct error *error) {
    size_t byte = (size_t)(index / 8);
    if (byte >= server->intact_size) {
        size_t size = MAX(2 * server->intact_size, byte + 1024);
        server->intact = xrealloc(server->intact, size);
        memset(server->intact + server->intact_size, 0, size - server->intact_size);
        server->intact_size = size;
    }
    if (server->intact[byte] >> index % 8 & 1) return OK;
    enum status status = blob_check(server->data.blobs, digest, error);
    if (status == OK) {
        server->intact[byte] |= (uint8_t)(1u << index % 8);
        return OK;
    }
    struct brain_item *item = brain_item_create(BRAIN_EVENT, NULL);
    struct error why = {0};
    item->event.kind = COORDINATOR_LOST;
    item->lost = xcalloc(1, sizeof *item->lost);
    item->lost[0].index = index;
    item->event.applied.lost = item->lost;
    item->event.applied.lost_count = directory_contribution(&server->data, index, &item->lost[0].contribution, &why) == OK;
    log_error("payload_lost", "entry=%llu reason=\"%s\" do=\"nothing: the sites are asked for it\"", (unsigned long long)index,
              error->message);
    brain_push(server, item);
    return error_set(error, UNAVAILABLE,
                     "the payload of entry %llu is damaged at the coordinator, which has asked for it: again later",
                     (unsigned long long)index);
}

static enum status open_blob(struct server *server, struct stream *stream, const uint8_t *digest, struct error *error) {
    TRY(blob_reader_open_unchecked(server->data.blobs, digest, &stream->blob, error));
    stream->blob_offset = 0;
    stream->blob_size = blob_reader_size(stream->blob);
    return OK;
}

/* The next piece of the blob into *out; closes it after the last. */
static enum status next_piece(struct server *server, struct stream *stream, uint32_t limit, struct buffer *out,
                              struct error *error) {
    uint64_t left = stream->blob_size - stream->blob_offset;
    size_t size = (size_t)MIN(left, (uint64_t)MIN(limit, server->options.chunk_limit));
    buffer_reserve(out, size);
    TRY(blob_reader_read(stream->blob, stream->blob_offset, out->data, size, error));
    out->size = size;
    stream->blob_offset += size;
    if (stream->blob_offset == stream->blob_size) {
        blob_reader_close(stream->blob);
        stream->blob = NULL;
    }
    return OK;
}

/* Sends one frame of the ledger. NOT_FOUND when there is nothing to send; FULL when the call takes no more: what was made is
 * then kept by not moving the cursor. */
static enum status follow_frame_send(struct server *server, struct stream *stream, struct error *error) {
    uint64_t end = atomic_load(&server->published);
    struct packing *packing = xcalloc(1, sizeof *packing);
    struct follow_frame frame = {0};
    struct buffer head = {0}, piece = {0};
    enum status status = OK;
    packing->next = stream->cursor;
    uint64_t offset_before = stream->blob_offset;
    if (!stream->blob) {
        status = pack(server, stream, end, packing, error);
        if (status == OK && packing->payload_size > 0) {
            stream->payload_index = packing->payload_index;
            status = check_payload(server, packing->payload_index, packing->payload_digest, error);
            if (status == OK) status = open_blob(server, stream, packing->payload_digest, error);
            offset_before = 0;
        }
        if (status != OK) goto out;
    }
    bool head_due = server->head_of > stream->head_sent && server->head_of <= packing->next && !stream->blob;
    if (packing->next == stream->cursor && !stream->blob && !head_due) {
        status = NOT_FOUND;
        goto out;
    }
    frame.has_first_index = packing->next > stream->cursor && !stream->begun;
    frame.first_index = frame.has_first_index ? stream->cursor : 0;
    frame.entry_count = packing->entry_count;
    frame.entries = packing->entries;
    frame.own_count = packing->own_count;
    frame.own = packing->own;
    frame.dropped_count = packing->dropped_count;
    frame.dropped = packing->dropped;
    if (head_due) frame.head = bytes_of(server->head, HEAD_SIZE);
    if (stream->blob) {
        uint32_t limit = stream->request.chunk_limit ? stream->request.chunk_limit : server->options.chunk_limit;
        frame.payload_total = stream->blob_size;
        frame.payload_index = stream->payload_index;
        frame.payload_offset = offset_before;
        status = next_piece(server, stream, limit, &piece, error);
        frame.payload = buffer_bytes(&piece);
    }
    if (status == OK) status = follow_frame_encode(&frame, &head, error);
    if (status == OK) {
        status = call_send(stream->call, &head, buffer_bytes(&piece));
        if (status != OK) error_set(error, status, "the call takes no more");
    }
    if (status == OK) {
        stream->begun |= packing->next > stream->cursor;
        stream->cursor = packing->next;
        if (head_due) stream->head_sent = server->head_of;
    }
out:
    buffer_deinit(&piece);
    buffer_deinit(&head);
    buffer_deinit(&packing->raw);
    free(packing);
    return status;
}

static enum status snapshot_frame_send(struct server *server, struct stream *stream, struct error *error) {
    if (!stream->blob) {
        rpc_call_finish(stream->call->rpc, RPC_OK, NULL);
        stream->full = true;
        return NOT_FOUND;
    }
    struct snapshot_frame frame = {
        .descriptor = buffer_bytes(&stream->descriptor), .offset = stream->blob_offset, .total = stream->blob_size};
    struct buffer head = {0}, piece = {0};
    enum status status = next_piece(server, stream, server->options.chunk_limit, &piece, error);
    frame.payload = buffer_bytes(&piece);
    if (status == OK) status = snapshot_frame_encode(&frame, &head, error);
    if (status == OK) status = call_send(stream->call, &head, buffer_bytes(&piece));
    stream->descriptor.size = 0;
    buffer_deinit(&head);
    buffer_deinit(&piece);
    return status;
}

/* Room is asked for before a frame is made, so a frame that was made is always taken: a call of ours has a write queue of
 * several messages, and `pump` sends while the last one was told to be writable. */
static void pump(struct server *server, struct stream *stream) {
    while (!stream->full && !atomic_load(&stream->call->closed)) {
        struct error error = {0};
        enum status status =
            stream->is_snapshot ? snapshot_frame_send(server, stream, &error) : follow_frame_send(server, stream, &error);
        if (status == NOT_FOUND && !error.message[0]) return; /* all sent */
        if (status == CANCELLED) return;
        stream->full = true; /* one at a time: the next when this one has gone */
        if (status != OK) fail(stream, status, &error);
    }
}

/* ---- jobs --------------------------------------------------------------------------------------------------------------- */

static struct stream *stream_create(struct server *server, struct call *call) {
    struct stream *stream = xcalloc(1, sizeof *stream);
    stream->call = call_retain(call);
    stream->next = server->streams;
    server->streams = stream;
    call->stream = stream;
    return stream;
}

static void run_open_follow(struct server *server, struct job *job) {
    struct error error = {0};
    if (atomic_load(&job->call->closed) || job->call->stream) return;
    struct reader reader = reader_of(buffer_bytes(&job->bytes));
    struct follow_request request = {.from_index = reader_u64(&reader), .payloads_from_index = reader_u64(&reader)};
    request.chunk_limit = reader_u32(&reader);
    request.omit_own = reader_u8(&reader) != 0;
    request.instance = reader_u64(&reader);
    uint64_t published = atomic_load(&server->published);
    if (request.from_index > published) { /* it knows more than we do: one of us was restored from an old copy */
        error_set(&error, REFUSED,
                  "you ask for entry %llu, the ledger has %llu: this coordinator was set back, or it is another run",
                  (unsigned long long)request.from_index, (unsigned long long)published);
        rpc_call_finish(job->call->rpc, RPC_FAILED_PRECONDITION, error.message);
        return;
    }
    struct stream *stream = stream_create(server, job->call);
    stream->request = request;
    stream->cursor = request.from_index;
    following(server, stream, true);
    pump(server, stream);
}

void publish_open_follow(struct server *server, struct call *call, const struct follow_request *request) {
    struct job *job = job_create(run_open_follow, call);
    rpc_call_set_progress_timeout(call->rpc, 0); /* a ledger may rest for hours; keepalive finds the dead */
    buffer_u64(&job->bytes, request->from_index);
    buffer_u64(&job->bytes, request->payloads_from_index);
    buffer_u32(&job->bytes, request->chunk_limit);
    buffer_u8(&job->bytes, request->omit_own);
    buffer_u64(&job->bytes, request->instance);
    job_push(server, server->publish_queue, job);
}

/* A snapshot is a copy of what the ledger says: one that is damaged goes, and the one before it is offered. */
static void spoil_snapshot(struct server *server, const struct snapshot_header *header, const struct error *why) {
    struct error error = {0};
    log_error("snapshot_damaged", "version=%llu reason=\"%s\" do=\"nothing: another is offered\"",
              (unsigned long long)header->version, why->message);
    if (directory_snapshot_delete(&server->data, header, &error) != OK)
        log_warn("snapshot_left_behind", "version=%llu reason=\"%s\"", (unsigned long long)header->version, error.message);
}

static void run_open_snapshot(struct server *server, struct job *job) {
    struct snapshot_header header;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    struct error error = {0};
    if (atomic_load(&job->call->closed) || job->call->stream) return;
    uint64_t version = job->number ? job->number : UINT64_MAX;
    enum status status =
        directory_snapshot_header(&server->data, version, key_pair_public(server->keys.coordinator), raw, &header, &error);
    if (status == OK && job->number && header.version != job->number) {
        status = error_set(&error, NOT_FOUND, "there is no snapshot of version %llu any more", (unsigned long long)job->number);
    }
    if (status != OK) {
        rpc_call_finish(job->call->rpc, rpc_code_of(status), error.message);
        return;
    }
    if (!digest_equal(server->intact_snapshot, header.content_digest)) { /* read whole once, as payloads are */
        status = blob_check(server->data.blobs, header.content_digest, &error);
        if (status != OK) {
            if (status == CORRUPT || status == NOT_FOUND) spoil_snapshot(server, &header, &error);
            rpc_call_finish(job->call->rpc, RPC_UNAVAILABLE,
                            "the newest snapshot is damaged at the coordinator: again in a moment");
            return;
        }
        memcpy(server->intact_snapshot, header.content_digest, DIGEST_SIZE);
    }
    struct stream *stream = stream_create(server, job->call);
    stream->is_snapshot = true;
    if ((status = open_blob(server, stream, header.content_digest, &error)) != OK) {
        fail(stream, status, &error);
        return;
    }
    stream->blob_offset = MIN(job->offset, stream->blob_size); /* from beyond the end: the descriptor alone */
    buffer_append(&stream->descriptor, raw, sizeof raw);
    pump(server, stream);
}

void publish_open_snapshot(struct server *server, struct call *call, const struct snapshot_request *request) {
    struct job *job = job_create(run_open_snapshot, call);
    job->number = request->version;
    job->offset = request->offset;
    job_push(server, server->publish_queue, job);
}

static void run_writable(struct server *server, struct job *job) {
    struct stream *stream = job->call->stream;
    if (!stream) return;
    stream->full = false;
    pump(server, stream);
}

void publish_writable(struct server *server, struct call *call) {
    job_push(server, server->publish_queue, job_create(run_writable, call));
}

static void run_closed(struct server *server, struct job *job) {
    struct stream *stream = job->call->stream;
    if (!stream) return;
    if (!stream->is_snapshot) following(server, stream, false);
    stream_destroy(server, stream);
}

void publish_closed(struct server *server, struct call *call) {
    job_push(server, server->publish_queue, job_create(run_closed, call));
}

static void run_grown(struct server *server, struct job *job) {
    (void)job;
    pthread_mutex_lock(&server->grown_lock);
    server->grown_told = false; /* what is published from here on asks for another look */
    memcpy(server->head, server->grown_head, HEAD_SIZE);
    server->head_of = server->grown_head_of;
    pthread_mutex_unlock(&server->grown_lock);
    for (struct stream *stream = server->streams; stream; stream = stream->next) {
        if (!stream->is_snapshot) pump(server, stream);
    }
}

/* Entries come at the pace of commits and go at that of reading them back for each follower, so that one look waits at most. */
void publish_grown(struct server *server, const uint8_t *head, uint64_t head_size) {
    pthread_mutex_lock(&server->grown_lock);
    if (head) {
        memcpy(server->grown_head, head, HEAD_SIZE);
        server->grown_head_of = head_size;
    }
    bool told = server->grown_told;
    server->grown_told = true;
    pthread_mutex_unlock(&server->grown_lock);
    if (!told) job_push(server, server->publish_queue, job_create(run_grown, NULL));
}
