/* Fetches one lost payload again (node/refetch.h): a Follow from its entry on, of which only that
 * payload is kept. */
#include "node/refetch.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "node/entry_payload.h"
#include "node/journal_files.h"
#include "proto/messages.h"

static enum status ask(struct stream *stream, const struct refetch *wanted, struct error *error) {
    struct follow_request request = {.protocol = PROTOCOL_VERSION,
                                     .instance = wanted->instance,
                                     .restored = wanted->restored,
                                     .from_index = wanted->index,
                                     .payloads_from_index = wanted->index};
    struct buffer encoded = {0};
    enum status status = follow_request_encode(&request, &encoded, error);
    if (status == OK)
        status = stream_write(stream, buffer_bytes(&encoded), (struct bytes){0}, error);
    if (status == OK) stream_half_close(stream);
    buffer_deinit(&encoded);
    return status;
}

static enum status take(const struct follow_frame *frame, uint64_t index, uint64_t size,
                        struct blob_upload *upload, struct error *error) {
    if (frame->payload_total == 0 || frame->payload_index != index) return OK;
    TRY(entry_payload_check_size(index, size, frame->payload_total, error));
    return blob_upload_append(upload, frame->payload_offset, frame->payload, error);
}

static enum status receive(struct stream *stream, uint64_t index, uint64_t size,
                           struct blob_upload *upload, struct error *error) {
    struct buffer message = {0};
    struct arena arena = {0};
    arena_create(&arena, ARENA_SIZE);
    enum status status = OK;
    while (status == OK && blob_upload_size(upload) < size) {
        struct frame frame;
        struct follow_frame decoded;
        status = stream_read(stream, UINT64_MAX, &message, error);
        if (status == NOT_FOUND)
            status = error_set(error, UNAVAILABLE, "the coordinator ended the stream");
        arena_reset(&arena);
        if (status == OK) status = frame_split(buffer_bytes(&message), &frame, error);
        if (status == OK) status = follow_frame_decode(frame, &arena, &decoded, error);
        if (status == OK) status = take(&decoded, index, size, upload, error);
    }
    arena_deinit(&arena);
    buffer_deinit(&message);
    return status;
}

enum status refetch_payload(struct journal *journal, struct stream *stream,
                            const struct refetch *wanted, struct error *error) {
    struct blob_upload *upload = NULL;
    char name[64];
    snprintf(name, sizeof name, "lost-%llu", (unsigned long long)wanted->index);
    TRY(blob_upload_open(journal_payloads(journal), name, wanted->size, &upload, error));
    if (blob_upload_size(upload) > 0) { /* pieces of a link that broke: a new one begins anew */
        blob_upload_discard(upload);
        TRY(blob_upload_open(journal_payloads(journal), name, wanted->size, &upload, error));
    }
    enum status status = ask(stream, wanted, error);
    if (status == OK) status = receive(stream, wanted->index, wanted->size, upload, error);
    if (status == OK) status = blob_upload_finish(upload, wanted->digest, error);
    if (status == OK)
        blob_upload_close(upload);
    else
        blob_upload_discard(upload);
    return status;
}
