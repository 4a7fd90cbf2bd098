/* Ed25519 by OpenSSL (crypto/sign.h). The tag is prepended by us. A peer's key is checked for
 * canonical form and small order first; public_key_check also asks whether it lies on the curve,
 * which OpenSSL 3.0 does not tell. */
#include "crypto/sign.h"

#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "crypto/digest.h"
#include "crypto/key_pair.h"
#include "crypto/openssl_error.h"

enum { ON_STACK = 1024 }; /* headers fit; anything longer is put together on the heap */

static enum status from_pkey(EVP_PKEY *pkey, struct key_pair **out, struct error *error) {
    struct key_pair *key = xcalloc(1, sizeof *key);
    size_t size = PUBLIC_KEY_SIZE;
    if (EVP_PKEY_get_raw_public_key(pkey, key->public_key, &size) != 1 || size != PUBLIC_KEY_SIZE) {
        free(key);
        EVP_PKEY_free(pkey);
        return openssl_failed(error, FAILED, "read the public half of a key");
    }
    key->pkey = pkey;
    *out = key;
    return OK;
}

enum status key_pair_from_seed(const uint8_t seed[static KEY_SEED_SIZE], struct key_pair **out,
                               struct error *error) {
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, KEY_SEED_SIZE);
    if (!pkey) return openssl_failed(error, FAILED, "make an Ed25519 key");
    return from_pkey(pkey, out, error);
}

enum status key_pair_create(struct key_pair **out, struct error *error) {
    uint8_t seed[KEY_SEED_SIZE];
    random_system(seed, sizeof seed);
    enum status status = key_pair_from_seed(seed, out, error);
    clear(seed, sizeof seed);
    return status;
}

#define PEM_BEGIN "-----BEGIN PRIVATE KEY-----"
#define PEM_END "-----END PRIVATE KEY-----"

enum { PEM_LIMIT = 4096, RAW_HEADER = 2 /* OCTET STRING, 32 bytes (RFC 8410) */ };

static bool is_space(char c) { return c != 0 && strchr(" \t\r\n", c) != NULL; }

/* The base64 between the two lines into `out`, without white space; its size, 0: there is none.
 * White space apart, nothing may follow: what follows a key could be mistaken for a part of it. */
static size_t take_base64(struct bytes pem, unsigned char out[static PEM_LIMIT], bool *is_last) {
    const char *from = memmem(pem.data, pem.size, PEM_BEGIN, sizeof PEM_BEGIN - 1);
    if (!from) return 0;
    from += sizeof PEM_BEGIN - 1;
    const char *stop = (const char *)pem.data + pem.size,
               *to = memmem(from, (size_t)(stop - from), PEM_END, sizeof PEM_END - 1);
    if (!to) return 0;
    size_t size = 0;
    for (const char *at = from; at < to; at++) {
        if (!is_space(*at)) out[size++] = (unsigned char)*at;
    }
    *is_last = true;
    for (const char *at = to + sizeof PEM_END - 1; at < stop; at++) *is_last &= is_space(*at);
    return size;
}

static enum status read_pkcs8(const unsigned char *der, long size, EVP_PKEY **out,
                              struct error *error) {
    const unsigned char *raw = NULL, *at = der;
    const ASN1_OBJECT *kind = NULL;
    int raw_size = 0;
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &at, size);
    enum status status = OK;
    if (!info || PKCS8_pkey_get0(&kind, &raw, &raw_size, NULL, info) != 1)
        status = openssl_failed(error, INVALID, "read a private key (PEM PKCS#8, unencrypted)");
    else if (OBJ_obj2nid(kind) != NID_ED25519)
        status = error_set(error, INVALID, "the private key is not Ed25519");
    else if (raw_size != RAW_HEADER + KEY_SEED_SIZE || raw[0] != 4 || raw[1] != KEY_SEED_SIZE)
        status = error_set(error, INVALID, "the private key is not of 32 bytes");
    if (status == OK && !(*out = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL,
                                                              raw + RAW_HEADER, KEY_SEED_SIZE)))
        status = openssl_failed(error, FAILED, "make an Ed25519 key");
    PKCS8_PRIV_KEY_INFO_free(info); /* overwrites */
    return status;
}

/* By hand what PEM_read_bio_PrivateKey does: in OpenSSL 3.0 that leaves the key's text and its
 * bytes in memory that it frees. */
enum status key_pair_from_pem(struct bytes pem, struct key_pair **out, struct error *error) {
    if (pem.size == 0 || pem.size > PEM_LIMIT)
        return error_set(error, INVALID, "a private key of %zu bytes", pem.size);
    unsigned char text[PEM_LIMIT], der[PEM_LIMIT];
    bool is_last = false;
    EVP_PKEY *pkey = NULL;
    size_t size = take_base64(pem, text, &is_last);
    int der_size = size > 0 && size % 4 == 0 ? EVP_DecodeBlock(der, text, (int)size) : -1;
    enum status status = OK;
    if (der_size < 0)
        status = error_set(error, INVALID, "this is not a private key (PEM PKCS#8, unencrypted)");
    else if (!is_last)
        status = error_set(error, INVALID, "something follows the private key");
    else
        status = read_pkcs8(der, der_size, &pkey, error);
    clear(text, sizeof text);
    clear(der, sizeof der);
    return status == OK ? from_pkey(pkey, out, error) : status;
}

enum status private_key_write(const EVP_PKEY *pkey, struct buffer *out, struct error *error) {
    BIO *bio = BIO_new(BIO_s_secmem()); /* overwritten when freed */
    enum status status = OK;
    if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL) != 1) {
        status = openssl_failed(error, FAILED, "write a private key");
    } else {
        char *text = NULL;
        long size = BIO_get_mem_data(bio, &text);
        buffer_append(out, text, (size_t)size);
    }
    BIO_free(bio);
    return status;
}

enum status key_pair_to_pem(const struct key_pair *key, struct buffer *out, struct error *error) {
    return private_key_write(key->pkey, out, error);
}

void key_pair_destroy(struct key_pair *key) {
    if (!key) return;
    EVP_PKEY_free(key->pkey); /* OpenSSL overwrites the private half */
    free_clearing(key, sizeof *key);
}

const uint8_t *key_pair_public(const struct key_pair *key) { return key->public_key; }

void key_id(const uint8_t public_key[static PUBLIC_KEY_SIZE], uint8_t out[static KEY_ID_SIZE]) {
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(public_key, PUBLIC_KEY_SIZE, digest);
    memcpy(out, digest, KEY_ID_SIZE);
}

/* tag || 0x00 || message in one piece, as OpenSSL's one-shot Ed25519 needs it: in `stack` where it
 * fits. */
static uint8_t *put_together(const char *tag, struct bytes message, uint8_t stack[static ON_STACK],
                             size_t *size) {
    size_t tag_size = strlen(tag) + 1;
    ASSERT(tag_size > 1 && tag_size <= SIGN_TAG_MAX + 1);
    *size = tag_size + message.size;
    uint8_t *whole = *size <= ON_STACK ? stack : xmalloc(*size);
    memcpy(whole, tag, tag_size);
    if (message.size > 0) memcpy(whole + tag_size, message.data, message.size);
    return whole;
}

enum status sign_message(const struct key_pair *key, const char *tag, struct bytes message,
                         uint8_t out[static SIGNATURE_SIZE], struct error *error) {
    uint8_t stack[ON_STACK];
    size_t size, made = SIGNATURE_SIZE;
    uint8_t *whole = put_together(tag, message, stack, &size);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    enum status status = OK;
    if (!context || EVP_DigestSignInit(context, NULL, NULL, NULL, key->pkey) != 1 ||
        EVP_DigestSign(context, out, &made, whole, size) != 1 || made != SIGNATURE_SIZE) {
        status = openssl_failed(error, FAILED, "sign");
    }
    EVP_MD_CTX_free(context);
    if (whole != stack) free(whole);
    return status;
}

/* The y coordinates of the eight points of small order, and the encodings of those that are not
 * reduced modulo p = 2^255 - 19, little-endian, without the sign bit: y = 0 (order 4), 1 (order 1),
 * -1 (order 2), two of order 8, and p, p + 1. */
static const uint8_t small_order[7][PUBLIC_KEY_SIZE] = {
    {0x00},
    {0x01},
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4,
     0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6,
     0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b,
     0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39,
     0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
    {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
    {0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}};

/* What can be seen without arithmetic; the verification itself refuses what is not on the curve. */
static enum status check_encoding(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                  struct error *error) {
    uint8_t y[PUBLIC_KEY_SIZE];
    memcpy(y, public_key, sizeof y);
    y[31] &= 0x7f;
    for (size_t i = 0; i < COUNT_OF(small_order); i++) {
        if (memcmp(y, small_order[i], sizeof y) == 0)
            return error_set(error, INVALID, "an Ed25519 public key of small order");
    }
    /* y >= p: bytes 1..30 all ones, and the ends at their limits */
    bool unreduced = y[31] == 0x7f && y[0] >= 0xed;
    for (size_t i = 1; unreduced && i < 31; i++) unreduced = y[i] == 0xff;
    if (unreduced) return error_set(error, INVALID, "an Ed25519 public key that is not canonical");
    return OK;
}

/* RFC 8032 section 5.1.3: there is an x where (y^2 - 1) / (d y^2 + 1) is a square modulo p; so is
 * then the product of the two. OpenSSL 3.0 has no call for this. */
static enum status check_on_curve(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                  struct error *error) {
    uint8_t encoded[PUBLIC_KEY_SIZE];
    memcpy(encoded, public_key, sizeof encoded);
    encoded[31] &= 0x7f;
    BN_CTX *context = BN_CTX_new();
    BIGNUM *y = BN_lebin2bn(encoded, sizeof encoded, NULL), *p = NULL, *d = NULL, *u = BN_new(),
           *v = BN_new();
    int square = -2;
    if (context && y && u && v &&
        BN_hex2bn(&p, "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed") &&
        BN_hex2bn(&d, "52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3") &&
        BN_mod_sqr(y, y, p, context) && BN_copy(u, y) && BN_sub_word(u, 1) &&
        BN_mod_mul(v, d, y, p, context) && BN_add_word(v, 1) && BN_mod_mul(u, u, v, p, context)) {
        square = BN_kronecker(u, p, context);
    }
    BN_free(y);
    BN_free(p);
    BN_free(d);
    BN_free(u);
    BN_free(v);
    BN_CTX_free(context);
    if (square == -2) return openssl_failed(error, FAILED, "check a public key");
    return square < 0 ? error_set(error, INVALID, "an Ed25519 public key that is not on the curve")
                      : OK;
}

enum status public_key_check(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                             struct error *error) {
    TRY(check_encoding(public_key, error));
    return check_on_curve(public_key, error);
}

enum status sign_verify(const uint8_t public_key[static PUBLIC_KEY_SIZE], const char *tag,
                        struct bytes message, struct bytes signature, struct error *error) {
    if (signature.size != SIGNATURE_SIZE) {
        return error_set(error, INVALID, "a signature of %zu bytes, not %d", signature.size,
                         SIGNATURE_SIZE);
    }
    TRY(check_encoding(public_key, error));
    uint8_t stack[ON_STACK];
    size_t size;
    uint8_t *whole = put_together(tag, message, stack, &size);
    EVP_PKEY *pkey =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, PUBLIC_KEY_SIZE);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    enum status status = OK;
    if (!pkey || !context || EVP_DigestVerifyInit(context, NULL, NULL, NULL, pkey) != 1) {
        status = openssl_failed(error, FAILED, "prepare to verify a signature");
    } else if (EVP_DigestVerify(context, signature.data, signature.size, whole, size) != 1) {
        status = openssl_failed(error, INVALID, "the signature does not fit");
    }
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pkey);
    if (whole != stack) free(whole);
    return status;
}
