/* What a key pair is made of. Inside crypto/ only: certificates are signed with the same key. */
#ifndef CRYPTO_KEY_PAIR_H
#define CRYPTO_KEY_PAIR_H

#include <openssl/types.h>

#include "crypto/sign.h"

struct key_pair {
    EVP_PKEY *pkey; /* owned */
    uint8_t public_key[PUBLIC_KEY_SIZE];
};

#endif
