/* What a key pair is made of. Inside crypto/ only: certificates are signed with the same key. */
#ifndef CRYPTO_KEY_PAIR_H
#define CRYPTO_KEY_PAIR_H

#include <openssl/types.h>

#include "crypto/sign.h"

struct key_pair {
    EVP_PKEY *pkey; /* owned */
    uint8_t public_key[PUBLIC_KEY_SIZE];
};

/* Appends PKCS#8 PEM, a secret, of any private key. */
MUST_USE enum status private_key_write(const EVP_PKEY *pkey, struct buffer *out,
                                       struct error *error);

#endif
