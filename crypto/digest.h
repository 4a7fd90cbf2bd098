/* SHA-256, the only digest there is: of one piece of memory, of several, of a stream, and of a
 * Merkle tree's nodes.
 *
 * Nothing here can fail, allocates or keeps state outside what it is handed: `struct digest` has a
 * fixed size, lives on the caller's stack, may be copied to fork a stream, and needs no ending when
 * it is abandoned. Any thread. The tree's nodes are hashed as RFC 6962 section 2.1 says, so that a
 * leaf can never be taken for an inner node.
 */
#ifndef CRYPTO_DIGEST_H
#define CRYPTO_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { DIGEST_SIZE = 32 };

struct digest { /* a stream in progress; contents are digest.c's business */
    uint64_t state[14];
};

void digest_sha256(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]);
/* Of the pieces one after the other, with nothing between: where boundaries matter, the caller puts
 * lengths in. */
void digest_pieces(const struct bytes *pieces, size_t count, uint8_t out[static DIGEST_SIZE]);

void digest_init(struct digest *digest);
void digest_update(struct digest *digest, const void *data, size_t size);
/* Ends the stream; digest_init starts another. */
void digest_final(struct digest *digest, uint8_t out[static DIGEST_SIZE]);

/* SHA-256(0x00 || data) and SHA-256(0x01 || left || right). out may be one of the inputs. */
void digest_leaf(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]);
void digest_children(const uint8_t left[static DIGEST_SIZE],
                     const uint8_t right[static DIGEST_SIZE], uint8_t out[static DIGEST_SIZE]);

/* In time that does not depend on the contents. */
bool digest_equal(const uint8_t a[static DIGEST_SIZE], const uint8_t b[static DIGEST_SIZE]);

#endif
