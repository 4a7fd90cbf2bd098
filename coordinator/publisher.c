/* The publisher's thread: streams, the frames that are made for them, and what the loop has told.
 */
#include "coordinator/publisher.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "coordinator/follow_place.h"

enum { MESSAGES_LIMIT = 65536, PACK_ENTRIES = 64, PACK_BYTES = 64 * 1024 };

struct publication {   /* a stream */
    struct call *call; /* a reference */
    bool full;         /* waits for WRITABLE */
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

struct publisher_view { /* by the loop */
    uint64_t published; /* entries that followers may see */
    uint8_t head[HEAD_SIZE];
    uint64_t head_of;  /* the size that `head` speaks of; 0: none yet */
    uint64_t *dropped; /* contributions that are never merged, [dropped_count] */
    size_t dropped_count;
    bool posted; /* and there is a GROWN in the queue */
};

struct publisher {
    struct publisher_options options;
    struct queue *queue;
    struct thread *thread;

    pthread_mutex_t lock;
    struct publisher_view told; /* under the lock */

    /* the thread's */
    struct publication **streams; /* [stream_count], in no order */
    size_t stream_count, stream_capacity;
    uint8_t head[HEAD_SIZE]; /* as last told */
    uint64_t head_of;
    /* a bit per entry: its payload was read whole since the start, [intact_size] */
    uint8_t *intact;
    size_t intact_size;
    uint8_t intact_snapshot[DIGEST_SIZE]; /* likewise, of a snapshot's content */
};

static void tell(struct publisher *publisher, const struct coordinator_event *event) {
    publisher->options.tell(publisher->options.context, event);
}

/* ---- streams --------------------------------------------------------------------------------- */

static struct publication *stream_of(struct publisher *publisher, const struct call *call) {
    for (size_t i = 0; i < publisher->stream_count; i++) {
        if (publisher->streams[i]->call == call) return publisher->streams[i];
    }
    return NULL;
}

static struct publication *stream_begin(struct publisher *publisher, struct call *call) {
    struct publication *stream = xcalloc(1, sizeof *stream);
    stream->call = call_retain(call);
    if (publisher->stream_count == publisher->stream_capacity) {
        publisher->stream_capacity =
            publisher->stream_capacity ? publisher->stream_capacity * 2 : 16;
        publisher->streams =
            xrealloc(publisher->streams, publisher->stream_capacity * sizeof(struct publication *));
    }
    publisher->streams[publisher->stream_count++] = stream;
    return stream;
}

static void stream_end(struct publisher *publisher, struct publication *stream) {
    for (size_t i = 0; i < publisher->stream_count; i++) {
        if (publisher->streams[i] != stream) continue;
        publisher->streams[i] = publisher->streams[--publisher->stream_count];
        break;
    }
    blob_reader_close(stream->blob);
    buffer_deinit(&stream->descriptor);
    call_release(stream->call);
    free(stream);
}

static void following(struct publisher *publisher, const struct publication *stream, bool open) {
    struct coordinator_event event = {.kind = COORDINATOR_FOLLOWING, .call = stream->call->number};
    event.following.site = stream->call->site;
    event.following.instance = stream->request.instance;
    event.following.made_plus_1 = stream->request.made_plus_1;
    event.following.restored = stream->request.restored;
    event.following.open = open;
    tell(publisher, &event);
}

static void fail(struct publication *stream, enum status status, const struct error *error) {
    log_warn("stream_failed", "site=%u reason=\"%s\"", stream->call->site, error->message);
    call_finish(stream->call, rpc_code_of(status),
                "the coordinator cannot read what it should send; its log says why");
    stream->full = true; /* nothing more; on_closed will follow */
}

/* ---- one frame ------------------------------------------------------------------------------- */

struct packing {       /* the places of the frame being made */
    struct buffer raw; /* entries one after the other */
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

static uint64_t published(struct publisher *publisher) {
    pthread_mutex_lock(&publisher->lock);
    uint64_t size = publisher->told.published;
    pthread_mutex_unlock(&publisher->lock);
    return size;
}

static bool is_dropped(void *context, uint64_t index) {
    struct publisher *publisher = context;
    bool found = false;
    pthread_mutex_lock(&publisher->lock);
    for (size_t i = 0; i < publisher->told.dropped_count && !found; i++)
        found = publisher->told.dropped[i] == index;
    pthread_mutex_unlock(&publisher->lock);
    return found;
}

static void pack_own(struct packing *packing, const struct follow_place *place) {
    struct follow_own *own = &packing->own[packing->own_count];
    *own = (struct follow_own){.place = packing->entry_count + packing->own_count,
                               .sequence = place->stub.sequence,
                               .time_ms = place->stub.time_ms,
                               .epoch = place->stub.epoch,
                               .header = place->stub.header};
    packing->own_count++;
}

/* Adds entry `index`, which lies at the end of packing->raw from `offset` on. */
static enum status pack_entry(struct publisher *publisher, struct publication *stream,
                              struct packing *packing, uint64_t index, size_t offset,
                              struct error *error) {
    struct follow_place place;
    struct follower follower = {.site = stream->call->site,
                                .omit_own = stream->request.omit_own,
                                .payloads_from = stream->request.payloads_from_index,
                                .is_dropped = is_dropped,
                                .context = publisher};
    struct bytes raw = bytes_of(packing->raw.data + offset, packing->raw.size - offset);
    TRY(follow_place_of(raw, index, &follower, &place, error));
    packing->next = index + 1;
    if (place.is_own) {
        packing->raw.size = offset;
        pack_own(packing, &place);
        return OK;
    }
    if (place.is_dropped) packing->dropped[packing->dropped_count++] = index;
    if (place.has_payload) {
        packing->payload_size = place.contribution.payload_size;
        packing->payload_index = index;
        memcpy(packing->payload_digest, place.contribution.payload_digest, DIGEST_SIZE);
    }
    packing->offsets[packing->entry_count++] = offset;
    return OK;
}

static enum status pack(struct publisher *publisher, struct publication *stream, uint64_t end,
                        struct packing *packing, struct error *error) {
    struct ledger_source source = directory_source(publisher->options.data);
    packing->next = stream->cursor;
    while (packing->next < end && packing->entry_count + packing->own_count < PACK_ENTRIES &&
           packing->raw.size < PACK_BYTES && packing->payload_size == 0) {
        size_t offset = packing->raw.size;
        TRY(source.entry(source.context, packing->next, &packing->raw, error));
        TRY(pack_entry(publisher, stream, packing, packing->next, offset, error));
    }
    for (uint32_t i = 0; i < packing->entry_count;
         i++) { /* only now: the buffer may have moved while it grew */
        size_t stop = i + 1 < packing->entry_count ? packing->offsets[i + 1] : packing->raw.size;
        packing->entries[i] =
            bytes_of(packing->raw.data + packing->offsets[i], stop - packing->offsets[i]);
    }
    return OK;
}

/* Every payload is read whole once before it is sent the first time: a follower that gets a damaged
 * one can do nothing but ask again, for ever. One that is damaged is for the state machine to get
 * again. */
static enum status check_payload(struct publisher *publisher, uint64_t index, const uint8_t *digest,
                                 struct error *error) {
    size_t byte = (size_t)(index / 8);
    if (byte >= publisher->intact_size) {
        size_t size = MAX(2 * publisher->intact_size, byte + 1024);
        publisher->intact = xrealloc(publisher->intact, size);
        memset(publisher->intact + publisher->intact_size, 0, size - publisher->intact_size);
        publisher->intact_size = size;
    }
    if (publisher->intact[byte] >> index % 8 & 1) return OK;
    enum status status = blob_check(publisher->options.data->blobs, digest, error);
    if (status == OK) {
        publisher->intact[byte] |= (uint8_t)(1u << index % 8);
        return OK;
    }
    struct lost_payload lost = {.index = index};
    struct error why = {0};
    struct coordinator_event event = {.kind = COORDINATOR_LOST};
    event.applied.lost = &lost;
    event.applied.lost_count =
        directory_contribution(publisher->options.data, index, &lost.contribution, &why) == OK;
    log_error("payload_lost", "entry=%llu reason=\"%s\" do=\"nothing: the sites are asked for it\"",
              (unsigned long long)index, error->message);
    tell(publisher, &event);
    return error_set(error, UNAVAILABLE,
                     "the payload of entry %llu is damaged at the coordinator, which has asked for "
                     "it: again later",
                     (unsigned long long)index);
}

static enum status open_blob(struct publisher *publisher, struct publication *stream,
                             const uint8_t *digest, struct error *error) {
    TRY(blob_reader_open_unchecked(publisher->options.data->blobs, digest, &stream->blob, error));
    stream->blob_offset = 0;
    stream->blob_size = blob_reader_size(stream->blob);
    return OK;
}

/* What was whole may have been found damaged since, and deleted: then it is asked for, too. */
static enum status open_payload(struct publisher *publisher, struct publication *stream,
                                const struct packing *packing, struct error *error) {
    if (open_blob(publisher, stream, packing->payload_digest, error) == OK) return OK;
    uint64_t index = packing->payload_index;
    publisher->intact[index / 8] &= (uint8_t) ~(1u << index % 8);
    TRY(check_payload(publisher, index, packing->payload_digest, error));
    return open_blob(publisher, stream, packing->payload_digest, error);
}

/* The next piece of the blob into *out; closes it after the last. */
static enum status next_piece(struct publisher *publisher, struct publication *stream,
                              uint32_t limit, struct buffer *out, struct error *error) {
    uint64_t left = stream->blob_size - stream->blob_offset;
    size_t size = (size_t)MIN(left, (uint64_t)MIN(limit, publisher->options.chunk_limit));
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

/* Sends one frame of the ledger. NOT_FOUND when there is nothing to send; FULL when the call takes
 * no more: what was made is then kept by not moving the cursor. */
static enum status follow_frame_send(struct publisher *publisher, struct publication *stream,
                                     struct error *error) {
    struct packing *packing = xcalloc(1, sizeof *packing);
    struct follow_frame frame = {0};
    struct buffer head = {0}, piece = {0};
    enum status status = OK;
    packing->next = stream->cursor;
    uint64_t offset_before = stream->blob_offset;
    if (!stream->blob) {
        status = pack(publisher, stream, published(publisher), packing, error);
        if (status == OK && packing->payload_size > 0) {
            stream->payload_index = packing->payload_index;
            status =
                check_payload(publisher, packing->payload_index, packing->payload_digest, error);
            if (status == OK) status = open_payload(publisher, stream, packing, error);
            offset_before = 0;
        }
        if (status != OK) goto out;
    }
    bool head_due = publisher->head_of > stream->head_sent && publisher->head_of <= packing->next &&
                    !stream->blob;
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
    if (head_due) frame.head = bytes_of(publisher->head, HEAD_SIZE);
    if (stream->blob) {
        uint32_t limit = stream->request.chunk_limit ? stream->request.chunk_limit
                                                     : publisher->options.chunk_limit;
        frame.payload_total = stream->blob_size;
        frame.payload_index = stream->payload_index;
        frame.payload_offset = offset_before;
        status = next_piece(publisher, stream, limit, &piece, error);
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
        if (head_due) stream->head_sent = publisher->head_of;
    }
out:
    buffer_deinit(&piece);
    buffer_deinit(&head);
    buffer_deinit(&packing->raw);
    free(packing);
    return status;
}

static enum status snapshot_frame_send(struct publisher *publisher, struct publication *stream,
                                       struct error *error) {
    if (!stream->blob) {
        call_finish(stream->call, RPC_OK, NULL);
        stream->full = true;
        return NOT_FOUND;
    }
    struct snapshot_frame frame = {.descriptor = buffer_bytes(&stream->descriptor),
                                   .offset = stream->blob_offset,
                                   .total = stream->blob_size};
    struct buffer head = {0}, piece = {0};
    enum status status =
        next_piece(publisher, stream, publisher->options.chunk_limit, &piece, error);
    frame.payload = buffer_bytes(&piece);
    if (status == OK) status = snapshot_frame_encode(&frame, &head, error);
    if (status == OK) status = call_send(stream->call, &head, buffer_bytes(&piece));
    stream->descriptor.size = 0;
    buffer_deinit(&head);
    buffer_deinit(&piece);
    return status;
}

/* Room is asked for before a frame is made, so a frame that was made is always taken: a call of
 * ours has a write queue of several messages, and `pump` sends while the last one was told to be
 * writable. */
static void pump(struct publisher *publisher, struct publication *stream) {
    while (!stream->full && !call_has_ended(stream->call)) {
        struct error error = {0};
        enum status status = stream->is_snapshot ? snapshot_frame_send(publisher, stream, &error)
                                                 : follow_frame_send(publisher, stream, &error);
        if (status == NOT_FOUND && !error.message[0]) return; /* all sent */
        if (status == CANCELLED) return;
        stream->full = true; /* one at a time: the next when this one has gone */
        if (status != OK) fail(stream, status, &error);
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void open_follow(struct publisher *publisher, struct call *call,
                        const struct follow_request *request) {
    struct error error = {0};
    if (call_has_ended(call) || stream_of(publisher, call)) return;
    /* a ledger may rest for hours; keepalive finds the dead */
    rpc_call_set_progress_timeout(call->rpc, 0);
    uint64_t size = published(publisher);
    if (request->from_index >
        size) { /* it knows more than we do: one of us was restored from an old copy */
        (void)error_set(&error, REFUSED,
                        "you ask for entry %llu, the ledger has %llu: this coordinator was set "
                        "back, or it is another run",
                        (unsigned long long)request->from_index, (unsigned long long)size);
        call_finish(call, RPC_FAILED_PRECONDITION, error.message);
        return;
    }
    struct publication *stream = stream_begin(publisher, call);
    stream->request = *request;
    stream->cursor = request->from_index;
    following(publisher, stream, true);
    pump(publisher, stream);
}

/* A snapshot is a copy of what the ledger says: one that is damaged goes, and the one before it is
 * offered. */
static void spoil_snapshot(struct publisher *publisher, const struct snapshot_header *header,
                           const struct error *why) {
    struct error error = {0};
    log_error("snapshot_damaged",
              "version=%llu reason=\"%s\" do=\"nothing: another is offered, "
              "or written\"",
              (unsigned long long)header->version, why->message);
    if (directory_snapshot_delete(publisher->options.data, header, &error) != OK)
        log_warn("snapshot_left_behind", "version=%llu reason=\"%s\"",
                 (unsigned long long)header->version, error.message);
}

static void open_snapshot(struct publisher *publisher, struct call *call,
                          const struct snapshot_request *request) {
    struct directory *data = publisher->options.data;
    struct snapshot_header header;
    uint8_t raw[SNAPSHOT_HEADER_SIZE];
    struct error error = {0};
    if (call_has_ended(call) || stream_of(publisher, call)) return;
    uint64_t version = request->version ? request->version : UINT64_MAX;
    enum status status =
        directory_snapshot_header(data, version, publisher->options.key, raw, &header, &error);
    if (status == OK && request->version && header.version != request->version)
        status = NOT_FOUND; /* not any more */
    if (status != OK) {
        bool none = status == NOT_FOUND || status == CORRUPT || status == INVALID;
        if (status != NOT_FOUND) log_warn("snapshot_unreadable", "reason=\"%s\"", error.message);
        if (none && !request->version)
            tell(publisher, &(struct coordinator_event){.kind = COORDINATOR_NO_SNAPSHOT});
        call_finish(call, rpc_code_of(status),
                    status == NOT_FOUND ? "there is no such snapshot here"
                                        : "the coordinator cannot read its snapshots now");
        return;
    }
    if (!digest_equal(publisher->intact_snapshot,
                      header.content_digest)) { /* read whole once, as payloads are */
        status = blob_check(data->blobs, header.content_digest, &error);
        if (status != OK) {
            if (status == CORRUPT || status == NOT_FOUND)
                spoil_snapshot(publisher, &header, &error);
            call_finish(call, RPC_UNAVAILABLE,
                        "the newest snapshot is damaged at the coordinator: again in a moment");
            return;
        }
        memcpy(publisher->intact_snapshot, header.content_digest, DIGEST_SIZE);
    }
    struct publication *stream = stream_begin(publisher, call);
    stream->is_snapshot = true;
    if ((status = open_blob(publisher, stream, header.content_digest, &error)) != OK) {
        fail(stream, status, &error);
        return;
    }
    /* from beyond the end: the descriptor alone */
    stream->blob_offset = MIN(request->offset, stream->blob_size);
    buffer_append(&stream->descriptor, raw, sizeof raw);
    pump(publisher, stream);
}

static void look(struct publisher *publisher) {
    pthread_mutex_lock(&publisher->lock);
    publisher->told.posted = false; /* what is published from here on asks for another look */
    memcpy(publisher->head, publisher->told.head, HEAD_SIZE);
    publisher->head_of = publisher->told.head_of;
    pthread_mutex_unlock(&publisher->lock);
    for (size_t i = 0; i < publisher->stream_count; i++) {
        if (!publisher->streams[i]->is_snapshot) pump(publisher, publisher->streams[i]);
    }
}

static void act(struct publisher *publisher, const struct publisher_message *message) {
    struct publication *stream;
    switch (message->kind) {
    case PUBLISHER_FOLLOW: open_follow(publisher, message->call, &message->follow); break;
    case PUBLISHER_SNAPSHOT: open_snapshot(publisher, message->call, &message->snapshot); break;
    case PUBLISHER_WRITABLE:
        if (!(stream = stream_of(publisher, message->call))) break;
        stream->full = false;
        pump(publisher, stream);
        break;
    case PUBLISHER_CLOSED:
        if (!(stream = stream_of(publisher, message->call))) break;
        if (!stream->is_snapshot) following(publisher, stream, false);
        stream_end(publisher, stream);
        break;
    case PUBLISHER_GROWN: look(publisher); break;
    }
}

static void message_destroy(struct publisher_message *message) {
    call_release(message->call);
    free(message);
}

static void run(void *context) {
    struct publisher *publisher = context;
    void *popped;
    while (queue_pop(publisher->queue, UINT64_MAX, &popped) == OK) {
        act(publisher, popped);
        message_destroy(popped);
    }
}

enum status publisher_start(const struct publisher_options *options, struct publisher **out,
                            struct error *error) {
    struct publisher *publisher = xcalloc(1, sizeof *publisher);
    publisher->options = *options;
    publisher->told.published = options->published;
    publisher->queue = queue_create(MESSAGES_LIMIT);
    pthread_mutex_init(&publisher->lock, NULL);
    enum status status = thread_start("publisher", run, publisher, &publisher->thread, error);
    if (status == OK)
        *out = publisher;
    else
        publisher_stop(publisher);
    return status;
}

void publisher_post(struct publisher *publisher, const struct publisher_message *message) {
    struct publisher_message *copy = xmalloc(sizeof *copy);
    *copy = *message;
    call_retain(copy->call);
    if (queue_push_wait(publisher->queue, copy) != OK) message_destroy(copy);
}

/* Entries come at the pace of commits and go at that of reading them back for each follower, so
 * that one look waits at most. */
void publisher_grow(struct publisher *publisher, uint64_t size, const uint8_t *head,
                    uint64_t head_size) {
    pthread_mutex_lock(&publisher->lock);
    publisher->told.published = size;
    if (head) {
        memcpy(publisher->told.head, head, HEAD_SIZE);
        publisher->told.head_of = head_size;
    }
    bool posted = publisher->told.posted;
    publisher->told.posted = true;
    pthread_mutex_unlock(&publisher->lock);
    if (!posted) publisher_post(publisher, &(struct publisher_message){.kind = PUBLISHER_GROWN});
}

void publisher_drop(struct publisher *publisher, const struct run_state *run) {
    struct publisher_view *told = &publisher->told;
    pthread_mutex_lock(&publisher->lock);
    size_t count = run_state_dropped_count(run);
    told->dropped = xrealloc(told->dropped, (count + 1) * sizeof *told->dropped);
    for (; told->dropped_count < count; told->dropped_count++)
        told->dropped[told->dropped_count] = run_state_dropped_at(run, told->dropped_count);
    pthread_mutex_unlock(&publisher->lock);
}

void publisher_stop(struct publisher *publisher) {
    if (!publisher) return;
    queue_close(publisher->queue);
    if (thread_join(publisher->thread, UINT64_MAX) != OK)
        log_error("thread_stuck", "thread=publisher");
    queue_destroy(publisher->queue);
    while (publisher->stream_count > 0) stream_end(publisher, publisher->streams[0]);
    free(publisher->streams);
    free(publisher->told.dropped);
    free(publisher->intact);
    pthread_mutex_destroy(&publisher->lock);
    free(publisher);
}
