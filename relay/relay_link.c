/* Frames over TLS (relay/relay_link.h). */
#include "relay/relay_link.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/memory.h"

enum { IN_SIZE = 4 * RELAY_FRAME_LIMIT };

struct relay_link {
    int descriptor;
    struct tls_stream *stream;
    bool secret;
    uint8_t *in; /* [IN_SIZE] */
    size_t in_size, in_at, frame_size;
    struct buffer out;
    size_t out_at;
    uint64_t heard_ms;
};

enum status relay_link_create(struct tls_context *context, int descriptor, struct relay_link **out,
                              struct error *error) {
    struct relay_link *link = xcalloc(1, sizeof *link);
    link->descriptor = descriptor;
    link->heard_ms = clock_monotonic_ms();
    enum status status = tls_stream_create(context, descriptor, &link->stream, error);
    if (status == OK)
        *out = link;
    else
        relay_link_destroy(link);
    return status;
}

void relay_link_destroy(struct relay_link *link) {
    if (!link) return;
    tls_stream_destroy(link->stream);
    close(link->descriptor);
    buffer_deinit(&link->out);
    free(link->in);
    free(link);
}

/* ---- sending --------------------------------------------------------------------------------- */

void relay_link_send(struct relay_link *link, enum frame_type type, uint32_t channel,
                     const void *head, size_t head_size, const void *tail, size_t tail_size) {
    struct frame_head front = {
        .type = (uint32_t)type, .channel = channel, .size = (uint32_t)(head_size + tail_size)};
    ASSERT(head_size + tail_size <= RELAY_FRAME_LIMIT);
    buffer_append(&link->out, &front, sizeof front);
    if (head_size > 0) buffer_append(&link->out, head, head_size);
    if (tail_size > 0) buffer_append(&link->out, tail, tail_size);
}

size_t relay_link_waiting(const struct relay_link *link) { return link->out.size - link->out_at; }

static enum status flush(struct relay_link *link, struct error *error) {
    while (link->out_at < link->out.size) {
        size_t taken;
        TRY(tls_stream_write(link->stream, link->out.data + link->out_at,
                             link->out.size - link->out_at, &taken, error));
        link->out_at += taken;
        if (taken == 0) break;
    }
    if (link->out_at == link->out.size) {
        link->out.size = link->out_at = 0;
    } else if (link->out_at > RELAY_LINK_ROOM) {
        memmove(link->out.data, link->out.data + link->out_at, link->out.size - link->out_at);
        link->out.size -= link->out_at;
        link->out_at = 0;
    }
    return OK;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static enum status fill(struct relay_link *link, struct error *error) {
    if (!link->in) link->in = xmalloc(IN_SIZE);
    if (link->in_at > 0) {
        memmove(link->in, link->in + link->in_at, link->in_size - link->in_at);
        link->in_size -= link->in_at;
        link->in_at = 0;
    }
    while (link->in_size < IN_SIZE) {
        size_t got;
        TRY(tls_stream_read(link->stream, link->in + link->in_size, IN_SIZE - link->in_size, &got,
                            error));
        if (got == 0) break;
        link->in_size += got;
        link->heard_ms = clock_monotonic_ms();
    }
    return OK;
}

enum status relay_link_work(struct relay_link *link, struct error *error) {
    if (!link->secret) TRY(tls_stream_handshake(link->stream, &link->secret, error));
    if (!link->secret) return OK;
    /* in this order: what the other end said last can be read also where nothing can be sent */
    TRY(fill(link, error));
    return flush(link, error);
}

bool relay_link_is_secret(const struct relay_link *link) { return link->secret; }

enum status relay_link_next(struct relay_link *link, struct relay_frame *out, bool *there,
                            struct error *error) {
    struct frame_head head;
    *there = false;
    if (link->in_size - link->in_at < sizeof head) return OK;
    memcpy(&head, link->in + link->in_at, sizeof head);
    if (head.size > RELAY_FRAME_LIMIT)
        return error_set(error, INVALID, "a frame of %u bytes; %d are the limit", head.size,
                         RELAY_FRAME_LIMIT);
    if (link->in_size - link->in_at < sizeof head + head.size) return OK;
    *out = (struct relay_frame){.type = head.type,
                                .channel = head.channel,
                                .size = head.size,
                                .data = link->in + link->in_at + sizeof head};
    link->frame_size = sizeof head + head.size;
    *there = true;
    return OK;
}

void relay_link_taken(struct relay_link *link) {
    link->in_at += link->frame_size;
    link->frame_size = 0;
}

/* ---- looking --------------------------------------------------------------------------------- */

int relay_link_descriptor(const struct relay_link *link) { return link->descriptor; }

short relay_link_events(const struct relay_link *link) {
    /* a handshake that waits to send waits for the first bytes of a connection only */
    bool sends = relay_link_waiting(link) > 0 && link->secret;
    bool reads = link->in_size - link->in_at < IN_SIZE;
    return (short)((reads ? POLLIN : 0) | (sends ? POLLOUT : 0));
}

int relay_link_patience(const struct relay_link *link) {
    struct frame_head head;
    size_t held = link->in_size - link->in_at;
    if (held >= sizeof head) memcpy(&head, link->in + link->in_at, sizeof head);
    if (held >= sizeof head && held >= sizeof head + head.size) return 1; /* it could not be used */
    return link->secret && tls_stream_holds_bytes(link->stream) ? 0 : -1;
}

uint64_t relay_link_silence_ms(const struct relay_link *link) {
    return clock_monotonic_ms() - link->heard_ms;
}

uint64_t relay_link_memory(void) { return IN_SIZE + 2 * RELAY_LINK_ROOM + 2 * RELAY_FRAME_LIMIT; }
