/* The receiving thread (node/downlink.h): connects, follows the ledger, fetches snapshots, and
 * backs off. Frames are taken apart in downlink_follow.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "base/memory.h"
#include "node/downlink_internal.h"
#include "node/journal_files.h"

enum { QUEUE_LIMIT = 16, FULL_RETRY_MS = 1000, FULL_TRIES = 30 };
enum order_kind { ORDER_CONNECT, ORDER_FOLLOW, ORDER_FETCH };
struct order {
    enum order_kind kind;
    bool ask_offer;
    uint64_t index, payloads_from, sequence;
};

bool downlink_is_stopping(struct downlink *downlink) {
    pthread_mutex_lock(&downlink->lock);
    bool stopping = downlink->stopping;
    pthread_mutex_unlock(&downlink->lock);
    return stopping;
}

void downlink_tell(struct downlink *downlink, const struct node_event *event) {
    downlink->options.tell(downlink->options.context, event);
}

enum status downlink_open(struct downlink *downlink, enum service_method method,
                          uint32_t timeout_ms, struct bytes request, struct stream **out,
                          struct error *error) {
    struct stream *stream = NULL;
    TRY(stream_open(downlink->options.channel, method, timeout_ms, downlink->options.traffic,
                    &stream, error));
    pthread_mutex_lock(&downlink->lock);
    downlink->stream = stream;
    bool stopping = downlink->stopping;
    pthread_mutex_unlock(&downlink->lock);
    if (stopping) stream_cancel(stream);
    enum status status = stream_write(stream, request, (struct bytes){0}, error);
    if (status != OK) {
        downlink_close(downlink, stream);
        return status;
    }
    stream_half_close(stream);
    *out = stream;
    return OK;
}

void downlink_close(struct downlink *downlink, struct stream *stream) {
    pthread_mutex_lock(&downlink->lock);
    downlink->stream = NULL;
    pthread_mutex_unlock(&downlink->lock);
    stream_close(stream);
}

static void link_down(struct downlink *downlink, enum status status, const struct error *error) {
    if (downlink_is_stopping(downlink)) return;
    char quoted[256];
    log_warn("link_down", "reason=%s message=%s", status_name(status),
             log_quote(error->message, quoted, sizeof quoted));
    downlink_tell(
        downlink,
        &(struct node_event){.kind = NODE_LINK_DOWN, .status = status, .message = error->message});
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* A heartbeat is the cheapest thing that shows that there is somebody at the other end who knows
 * us. */
static enum status connection_attempt(struct downlink *downlink, uint64_t *version,
                                      struct error *error) {
    struct buffer request = {0}, raw = {0};
    struct frame frame;
    struct heartbeat_reply reply;
    struct stream *stream = NULL;
    downlink->options.heartbeat(downlink->options.context, &request);
    enum status status = downlink_open(downlink, METHOD_HEARTBEAT, downlink->options.timeout_ms,
                                       buffer_bytes(&request), &stream, error);
    if (status == OK) status = stream_read(stream, UINT64_MAX, &raw, error);
    arena_reset(&downlink->arena);
    if (status == OK) status = frame_split(buffer_bytes(&raw), &frame, error);
    if (status == OK) status = heartbeat_reply_decode(frame, &downlink->arena, &reply, error);
    if (status == OK) *version = reply.version;
    if (status == OK && reply.code) /* another process of this site is there; or worse */
        status = error_set(error, refusal_is_temporary(reply.code) ? UNAVAILABLE : REFUSED, "%s",
                           reply.message);
    downlink_close(downlink, stream);
    buffer_deinit(&request);
    buffer_deinit(&raw);
    return status == NOT_FOUND ? UNAVAILABLE : status;
}

static enum status open_snapshot(struct downlink *downlink, uint64_t version, uint64_t offset,
                                 struct stream **out, struct error *error) {
    struct snapshot_request request = {
        .protocol = PROTOCOL_VERSION, .version = version, .offset = offset};
    struct buffer encoded = {0};
    enum status status = snapshot_request_encode(&request, &encoded, error);
    if (status == OK)
        status = downlink_open(downlink, METHOD_SNAPSHOT, downlink->options.timeout_ms,
                               buffer_bytes(&encoded), out, error);
    buffer_deinit(&encoded);
    return status;
}

static enum status read_snapshot_frame(struct downlink *downlink, struct stream *stream,
                                       struct buffer *message, struct snapshot_frame *out,
                                       struct error *error) {
    struct frame frame;
    TRY(stream_read(stream, UINT64_MAX, message, error));
    arena_reset(&downlink->arena);
    TRY(frame_split(buffer_bytes(message), &frame, error));
    return snapshot_frame_decode(frame, &downlink->arena, out, error);
}

/* Asked for from beyond its end, a snapshot is its descriptor alone. NOT_FOUND: the run has none
 * yet. */
static enum status ask_offer(struct downlink *downlink, struct snapshot_header *out,
                             struct error *error) {
    struct buffer message = {0};
    struct stream *stream = NULL;
    struct snapshot_frame frame;
    TRY(open_snapshot(downlink, 0, WIRE_PAYLOAD_TOTAL_LIMIT, &stream, error));
    enum status status = read_snapshot_frame(downlink, stream, &message, &frame, error);
    if (status == OK)
        status = snapshot_header_verify(frame.descriptor, downlink->options.site->coordinator_key,
                                        out, error);
    if (status == OK && memcmp(out->run_id, downlink->options.site->run_id, RUN_ID_SIZE) != 0)
        status = error_set(error, INVALID, "the snapshot offered is of another run");
    static const uint8_t none[DIGEST_SIZE];
    if (status == OK && out->version == 0 &&
        memcmp(downlink->options.initial_root, none, DIGEST_SIZE) != 0 &&
        memcmp(downlink->options.initial_root, out->root, DIGEST_SIZE) != 0)
        status = error_set(error, INVALID,
                           "the snapshot of version 0 has another state root than the manifest "
                           "names");
    downlink_close(downlink, stream);
    buffer_deinit(&message);
    return status;
}

static enum status do_connect(struct downlink *downlink, const struct order *order,
                              struct error *error) {
    uint64_t version = 0;
    TRY(connection_attempt(downlink, &version, error));
    if (!order->ask_offer)
        return downlink_run_follow(downlink, order->index, order->payloads_from, order->sequence,
                                   error);
    struct node_event event = {.kind = NODE_OFFER};
    /* The offer comes with a chunk of content, so it is not asked for where replay is sure to be
     * cheaper. */
    bool worth_it = downlink->options.lacks_model ||
                    (double)version * (double)downlink->options.nominal_payload >
                        (double)downlink->options.snapshot_size;
    enum status status = worth_it ? ask_offer(downlink, &event.offer.header, error) : NOT_FOUND;
    if (status != OK && status != NOT_FOUND) return status;
    event.offer.exists = status == OK;
    downlink->offer = event.offer.header;
    downlink_tell(downlink, &event);
    return OK;
}

/* ---- fetching a snapshot --------------------------------------------------------------------- */

static enum status receive_snapshot(struct downlink *downlink, struct blob_upload *upload,
                                    struct error *error) {
    const struct snapshot_header *wanted = &downlink->offer;
    struct buffer message = {0};
    struct stream *stream = NULL;
    enum status status = OK;
    if (blob_upload_size(upload) < wanted->content_size)
        status = open_snapshot(downlink, wanted->version, blob_upload_size(upload), &stream, error);
    while (status == OK && blob_upload_size(upload) < wanted->content_size) {
        struct snapshot_frame frame;
        status = read_snapshot_frame(downlink, stream, &message, &frame, error);
        if (status == OK && frame.total != wanted->content_size)
            status = error_set(error, INVALID, "the snapshot has another size than was offered");
        if (status == OK && frame.payload.size > 0)
            status = blob_upload_append(upload, frame.offset, frame.payload, error);
    }
    if (stream) downlink_close(downlink, stream);
    buffer_deinit(&message);
    return status;
}

static enum status do_fetch(struct downlink *downlink, struct error *error) {
    const struct snapshot_header *wanted = &downlink->offer;
    struct blob_upload *upload = NULL;
    char name[64], hex[HEX32_SIZE];
    snprintf(name, sizeof name, "snapshot-%.32s",
             hex_encode(wanted->content_digest, DIGEST_SIZE, hex));
    struct blob_store *blobs = journal_payloads(downlink->options.journal);
    TRY(blob_upload_open(blobs, name, wanted->content_size, &upload, error));
    (void)!blob_upload_clean_named(blobs, "snapshot-", NULL,
                                   NULL); /* halves of others; the one that is open stays */
    log_info("snapshot_fetching", "version=%llu bytes=%llu from=%llu",
             (unsigned long long)wanted->version, (unsigned long long)wanted->content_size,
             (unsigned long long)blob_upload_size(upload));
    enum status status = receive_snapshot(downlink, upload, error);
    /* until the worker has read it */
    if (status == OK) journal_payload_hold(downlink->options.journal, wanted->content_digest);
    if (status == OK) {
        status = blob_upload_finish(upload, wanted->content_digest, error);
        if (status != OK) journal_payload_unhold(downlink->options.journal, wanted->content_digest);
    }
    blob_upload_close(upload);
    return status;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static bool has_room(const struct downlink *downlink) {
    struct statvfs disk;
    uint64_t least = (1 << 20) + downlink->options.nominal_payload;
    return statvfs(downlink->options.site->directory, &disk) == 0 &&
           (uint64_t)disk.f_bavail * disk.f_frsize >= least;
}

/* Our disk is full: no link does better before there is room. A quota does not show in what the
 * disk says it has, so that now and then a link is tried whatever it says. */
static void wait_for_room(struct downlink *downlink, const struct error *error) {
    trouble_begins(downlink->options.troubles, TROUBLE_DISK_LEDGER, error->message);
    for (int i = 0; i < FULL_TRIES && trouble_wait(downlink->options.troubles, FULL_RETRY_MS) &&
                    !has_room(downlink);
         i++) {}
    journal_resume(downlink->options.journal);
}

static void obey(struct downlink *downlink, const struct order *order) {
    struct error error = {0};
    enum status status = OK;
    switch (order->kind) {
    case ORDER_CONNECT: status = do_connect(downlink, order, &error); break;
    case ORDER_FOLLOW:
        status = downlink_run_follow(downlink, order->index, order->payloads_from, order->sequence,
                                     &error);
        break;
    case ORDER_FETCH:
        status = do_fetch(downlink, &error);
        if (status == FULL) wait_for_room(downlink, &error);
        if (status == OK) {
            trouble_ends(downlink->options.troubles, TROUBLE_DISK_LEDGER);
            downlink->options.load(downlink->options.context, &downlink->offer);
        } else if (!downlink_is_stopping(downlink)) {
            log_warn("snapshot_broken", "reason=%s message=\"%s\"", status_name(status),
                     error.message);
            downlink_tell(downlink, &(struct node_event){.kind = NODE_SNAPSHOT_LOADED,
                                                         .status = status,
                                                         .message = error.message});
        }
        return;
    }
    if (status == FULL) wait_for_room(downlink, &error);
    if (status == REFUSED &&
        !downlink_is_stopping(
            downlink)) { /* by name: revoked, another run, no site's certificate */
        char message[ERROR_MESSAGE_SIZE + 64];
        snprintf(message, sizeof message, "the coordinator refuses this site: %s", error.message);
        downlink_tell(downlink, &(struct node_event){
                                    .kind = NODE_FAULT, .status = status, .message = message});
    } else if (status != OK) {
        link_down(downlink, status, &error);
    }
}

static void body(void *context) {
    struct downlink *downlink = context;
    void *item;
    while (queue_pop(downlink->queue, UINT64_MAX, &item) == OK) {
        if (!downlink_is_stopping(downlink)) obey(downlink, item);
        free(item);
    }
}

enum status downlink_start(const struct downlink_options *options, struct downlink **out,
                           struct error *error) {
    struct downlink *downlink = xcalloc(1, sizeof *downlink);
    downlink->options = *options;
    downlink->queue = queue_create(QUEUE_LIMIT);
    arena_create(&downlink->arena, ARENA_SIZE);
    pthread_mutex_init(&downlink->lock, NULL);
    enum status status = thread_start("downlink", body, downlink, &downlink->thread, error);
    if (status == OK)
        *out = downlink;
    else
        downlink_destroy(downlink);
    return status;
}

static void push(struct downlink *downlink, struct order order) {
    struct order *copy = xmalloc(sizeof *copy);
    *copy = order;
    /* stopping: the core has one order out at a time */
    if (queue_push(downlink->queue, copy) != OK) free(copy);
}

void downlink_connect(struct downlink *downlink, bool ask, uint64_t index, uint64_t payloads_from,
                      uint64_t sequence) {
    struct order order = {ORDER_CONNECT, ask, index, payloads_from, sequence};
    push(downlink, order);
}

void downlink_follow(struct downlink *downlink, uint64_t index, uint64_t payloads_from,
                     uint64_t sequence) {
    push(downlink, (struct order){ORDER_FOLLOW, false, index, payloads_from, sequence});
}

void downlink_fetch(struct downlink *downlink) {
    push(downlink, (struct order){.kind = ORDER_FETCH});
}

void downlink_stop(struct downlink *downlink) {
    pthread_mutex_lock(&downlink->lock);
    downlink->stopping = true;
    if (downlink->stream) stream_cancel(downlink->stream);
    pthread_mutex_unlock(&downlink->lock);
    queue_close(downlink->queue);
    (void)!thread_join(downlink->thread, UINT64_MAX);
    downlink->thread = NULL;
}

void downlink_destroy(struct downlink *downlink) {
    if (!downlink) return;
    if (downlink->thread) downlink_stop(downlink);
    queue_destroy(downlink->queue);
    arena_deinit(&downlink->arena);
    pthread_mutex_destroy(&downlink->lock);
    free(downlink);
}
