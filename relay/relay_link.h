/* Frames over one TLS connection, without waiting (relay/relay_frame.h). */
#ifndef RELAY_RELAY_LINK_H
#define RELAY_RELAY_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "crypto/tls_stream.h"
#include "relay/relay_frame.h"

/* Values are sent only while no more than this waits to be sent. */
enum { RELAY_LINK_ROOM = 512 * 1024 };

struct relay_link;

struct relay_frame { /* lent until relay_link_taken */
    uint32_t type, channel;
    size_t size;
    const uint8_t *data;
};

/* Takes the socket, which is non-blocking and may still be connecting. */
MUST_USE enum status relay_link_create(struct tls_context *context, int descriptor,
                                       struct relay_link **out, struct error *error);
void relay_link_destroy(struct relay_link *link); /* NULL is a no-op */

/* Shakes hands, receives, sends, as far as it goes. REFUSED: another token; INVALID: not frames;
 * UNAVAILABLE: it has ended. What had come by then can still be taken. */
MUST_USE enum status relay_link_work(struct relay_link *link, struct error *error);
bool relay_link_is_secret(const struct relay_link *link); /* hands were shaken */
/* Whether a whole frame is there; INVALID: one that is too long. */
MUST_USE enum status relay_link_next(struct relay_link *link, struct relay_frame *out, bool *there,
                                     struct error *error);
void relay_link_taken(struct relay_link *link);
void relay_link_send(struct relay_link *link, enum frame_type type, uint32_t channel,
                     const void *head, size_t head_size, const void *tail, size_t tail_size);
size_t relay_link_waiting(const struct relay_link *link); /* bytes that are not sent yet */
/* For poll. */
int relay_link_descriptor(const struct relay_link *link);
short relay_link_events(const struct relay_link *link);
/* More has come than was taken, and the socket may not show it: how long poll may wait at most, in
 * milliseconds; -1: for ever. */
int relay_link_patience(const struct relay_link *link);
/* For how long nothing has come. */
uint64_t relay_link_silence_ms(const struct relay_link *link);
/* Bytes of memory that a link takes at most, beside the frame that is being sent. */
uint64_t relay_link_memory(void);

#endif
