/* TLS 1.3 over a connected socket between two ends that share a secret of 32 random bytes, which is
 * the handshake's pre-shared key (RFC 8446 section 2.2): each proves to the other that it has it,
 * no certificate is involved, and a fresh Diffie-Hellman exchange keeps what was said secret even
 * where the key leaks later. There is no early data and no resumption, so nothing of an old session
 * can be said again.
 *
 * Nothing waits: the socket is non-blocking, and a call that would have to wait says so. One thread
 * at a time may use a stream. The program ignores SIGPIPE.
 */
#ifndef CRYPTO_TLS_STREAM_H
#define CRYPTO_TLS_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { TLS_SECRET_SIZE = 32 };

struct tls_context; /* what the streams of one side have in common */
struct tls_stream;

MUST_USE enum status tls_context_create(const uint8_t secret[static TLS_SECRET_SIZE],
                                        bool is_server, struct tls_context **out,
                                        struct error *error);
void tls_context_destroy(struct tls_context *context); /* after its streams; NULL is a no-op */

/* The socket stays the caller's. */
MUST_USE enum status tls_stream_create(struct tls_context *context, int descriptor,
                                       struct tls_stream **out, struct error *error);
void tls_stream_destroy(struct tls_stream *stream); /* says nothing to the other end; NULL */
/* OK: it is done, *done. REFUSED: the other end does not have the secret, or is something else. */
MUST_USE enum status tls_stream_handshake(struct tls_stream *stream, bool *done,
                                          struct error *error);
/* *got 0: nothing is there by now. UNAVAILABLE: the connection has ended. INVALID: what came was
 * not made with the keys of this connection. */
MUST_USE enum status tls_stream_read(struct tls_stream *stream, void *out, size_t size, size_t *got,
                                     struct error *error);
/* *taken 0: it cannot be sent by now; to be tried again with the same bytes. */
MUST_USE enum status tls_stream_write(struct tls_stream *stream, const void *data, size_t size,
                                      size_t *taken, struct error *error);
/* Bytes that have come and were not read yet: the socket does not show them. */
bool tls_stream_holds_bytes(const struct tls_stream *stream);

#endif
