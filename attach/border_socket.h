/* The border's Unix socket and its token, as the node and relays make them. */
#ifndef ATTACH_BORDER_SOCKET_H
#define ATTACH_BORDER_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"
#include "libatoll/wire.h"

enum { BORDER_PASSED_LIMIT = 2 }; /* descriptors with a message */

/* INVALID: the path is too long (it says how long it may be), or something stands there that is not
 * a socket. */
MUST_USE enum status border_socket_check(const char *path, struct error *error);
/* What stands at the path is replaced, by one that takes connections at once. As above; FAILED. */
MUST_USE enum status border_socket_listen(const char *path, int *out, struct error *error);
/* A new token, into the file too, for its owner alone. */
MUST_USE enum status border_token_create(const char *path, char out[static WIRE_TOKEN_SIZE + 1],
                                         struct error *error);
/* In time that does not depend on the contents. */
bool border_token_is(const char *token, const char *told);

/* One message, without waiting. passed: descriptors, those before the first -1; NULL: none. */
bool border_socket_send(int descriptor, const void *data, size_t size,
                        const int passed[BORDER_PASSED_LIMIT]);
/* Its size, which may be larger than `size`; 0: the other end is gone; -1: errno. What came with it
 * goes to passed, the caller's to close. */
ssize_t border_socket_receive(int descriptor, void *out, size_t size,
                              int passed[BORDER_PASSED_LIMIT]);

#endif
