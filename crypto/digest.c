/* OpenSSL's own SHA256_CTX rather than EVP: it has a fixed size, needs no allocation and no fetch,
 * cannot fail, and runs the same SHA-NI code. 3.0 calls it deprecated in favour of EVP's providers,
 * none of which we need for a public, keyless hash. The type stays inside this file; should a later
 * OpenSSL drop it, an EVP_MD_CTX pointer fits into struct digest as well. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "crypto/digest.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <string.h>

_Static_assert(sizeof(SHA256_CTX) <= sizeof(struct digest), "struct digest holds OpenSSL's state");
_Static_assert(_Alignof(SHA256_CTX) <= _Alignof(struct digest), "and aligns it");
_Static_assert(SHA256_DIGEST_LENGTH == DIGEST_SIZE, "SHA-256 has 32 bytes");

/* Only libcrypto looks inside, behind a call, so no access here has the wrong type. */
static SHA256_CTX *inside(struct digest *digest) { return (SHA256_CTX *)(void *)digest; }

void digest_init(struct digest *digest) { SHA256_Init(inside(digest)); }

void digest_update(struct digest *digest, const void *data, size_t size) {
    if (size > 0) SHA256_Update(inside(digest), data, size);
}

void digest_final(struct digest *digest, uint8_t out[static DIGEST_SIZE]) {
    SHA256_Final(out, inside(digest));
}

void digest_pieces(const struct bytes *pieces, size_t count, uint8_t out[static DIGEST_SIZE]) {
    struct digest digest;
    digest_init(&digest);
    for (size_t i = 0; i < count; i++) digest_update(&digest, pieces[i].data, pieces[i].size);
    digest_final(&digest, out);
}

void digest_sha256(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]) {
    struct bytes piece = bytes_of(data, size);
    digest_pieces(&piece, 1, out);
}

void digest_leaf(const void *data, size_t size, uint8_t out[static DIGEST_SIZE]) {
    static const uint8_t leaf = 0x00;
    const struct bytes pieces[2] = {bytes_of(&leaf, 1), bytes_of(data, size)};
    digest_pieces(pieces, 2, out);
}

void digest_children(const uint8_t left[static DIGEST_SIZE],
                     const uint8_t right[static DIGEST_SIZE], uint8_t out[static DIGEST_SIZE]) {
    uint8_t node[1 + 2 * DIGEST_SIZE] = {0x01};
    memcpy(node + 1, left, DIGEST_SIZE);
    memcpy(node + 1 + DIGEST_SIZE, right, DIGEST_SIZE);
    digest_sha256(node, sizeof node, out);
}

bool digest_equal(const uint8_t a[static DIGEST_SIZE], const uint8_t b[static DIGEST_SIZE]) {
    return CRYPTO_memcmp(a, b, DIGEST_SIZE) == 0;
}
