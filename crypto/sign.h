/* Ed25519 signatures (RFC 8032) over `tag || 0x00 || message`.
 *
 * The tag says what kind of object the message is ("atoll contribution v1"): a signature made for
 * one kind can never be shown as another. Its terminating zero is signed too, so no tag is a prefix
 * of another. A tag is a constant of the program, at most SIGN_TAG_MAX characters; a longer or
 * empty one is a broken program, not an error. An empty message is fine.
 *
 * Verification takes whatever a peer sent: a signature of any length, a key that is not a point on
 * the curve, a non-canonical S; all of these are INVALID. Public keys of small order, under which
 * one signature fits nearly every message, are refused too. Key pairs do not change once made: any
 * number of threads may sign with one.
 */
#ifndef CRYPTO_SIGN_H
#define CRYPTO_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

enum {
    PUBLIC_KEY_SIZE = 32,
    KEY_SEED_SIZE = 32,
    SIGNATURE_SIZE = 64,
    KEY_ID_SIZE = 8,
    SIGN_TAG_MAX = 64
};

struct key_pair; /* holds a secret; its memory is overwritten when it goes */

/* From the system's randomness. Owned by the caller, ended with key_pair_destroy. FAILED if OpenSSL
 * cannot. */
MUST_USE enum status key_pair_create(struct key_pair **out, struct error *error);
/* The same seed gives the same pair: for simulations and test vectors. */
MUST_USE enum status key_pair_from_seed(const uint8_t seed[static KEY_SEED_SIZE],
                                        struct key_pair **out, struct error *error);
/* PKCS#8 PEM, unencrypted. INVALID unless it holds one Ed25519 private key and nothing else. */
MUST_USE enum status key_pair_from_pem(struct bytes pem, struct key_pair **out,
                                       struct error *error);
/* Appends PKCS#8 PEM to *out: a secret, end it with free_clearing(out->data, out->capacity). */
MUST_USE enum status key_pair_to_pem(const struct key_pair *key, struct buffer *out,
                                     struct error *error);
void key_pair_destroy(struct key_pair *key); /* NULL is a no-op */
/* Lends the 32 raw bytes, as long as the pair lives. */
const uint8_t *key_pair_public(const struct key_pair *key);

/* The first 8 bytes of SHA-256(public key): a name for logs and headers, never a proof. */
void key_id(const uint8_t public_key[static PUBLIC_KEY_SIZE], uint8_t out[static KEY_ID_SIZE]);
/* INVALID for keys that must not be enrolled: not a canonical encoding, not on the curve, or of
 * small order. */
MUST_USE enum status public_key_check(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                      struct error *error);

MUST_USE enum status sign_message(const struct key_pair *key, const char *tag, struct bytes message,
                                  uint8_t out[static SIGNATURE_SIZE], struct error *error);
/* OK only if the signature is good. INVALID if not; FAILED only when OpenSSL itself is out of
 * order. */
MUST_USE enum status sign_verify(const uint8_t public_key[static PUBLIC_KEY_SIZE], const char *tag,
                                 struct bytes message, struct bytes signature, struct error *error);

#endif
