/* base64url (RFC 4648 section 5) without padding, for tokens that people paste, and the comparison
 * that secrets need.
 *
 * Decoding is strict: one text for each sequence of bytes. No padding, no white space, no
 * characters of the other alphabet, and the unused bits of the last character are zero.
 */
#ifndef CRYPTO_BASE64_H
#define CRYPTO_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

/* Characters that `size` bytes become, with the terminating zero. */
#define BASE64URL_SIZE(size) (((size)*4 + 2) / 3 + 1)

/* out holds BASE64URL_SIZE(size) characters. Returns out. */
char *base64url_encode(const void *data, size_t size, char *out);
/* text need not be terminated. Appends to *out, nothing on failure. INVALID if it is not canonical,
 * or would be more than `limit` bytes. The text is never repeated in the message: it may be a
 * secret. */
MUST_USE enum status base64url_decode(const char *text, size_t text_size, size_t limit,
                                      struct buffer *out, struct error *error);

#endif
