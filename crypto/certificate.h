/* The federation's own X.509: an Ed25519 root that the coordinator holds, and what it issues to
 * sites, admins and itself.
 *
 * A node makes its key locally and sends a request (CSR), which proves that it holds the key and
 * says nothing else: the issuer decides every name, purpose and date (`struct certificate_terms`),
 * and the request's subject and extensions are not even looked at. A peer is known by the one URI
 * in its subjectAltName, such as `atoll:site:<32 hex>` or `atoll:admin:<name>`; a server by a DNS
 * name, such as `atoll-coordinator`. Profile: RFC 5280, Ed25519 per RFC 8410; roots have pathlen 0,
 * so nothing issued can issue. Works under TLS 1.3 with gRPC and with `openssl verify`.
 *
 * One exception: a server's TLS key is P-256. Clients built on BoringSSL (PyPI's grpcio among them)
 * verify Ed25519 in certificates and sign with it, and do not take it from a server's handshake.
 *
 * Certificates and requests travel as bytes, PEM or DER: what goes in may be either (recognised by
 * its first bytes), what comes out is as asked. PEM input holds exactly one object of the right
 * kind. Inputs above CERTIFICATE_SIZE_MAX are refused before they are parsed. No clock is read
 * here: the caller says what time it is. Any thread.
 */
#ifndef CRYPTO_CERTIFICATE_H
#define CRYPTO_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "crypto/digest.h"
#include "crypto/sign.h"

enum {
    CERTIFICATE_SIZE_MAX = 16384, /* bytes of one certificate or request, in either form */
    CERTIFICATE_NAME_MAX = 128,   /* characters of a URI or DNS name, with the terminating zero */
    CERTIFICATE_DNS_MAX = 8,      /* DNS names in one certificate */
    CERTIFICATE_SERIAL_SIZE =
        16 /* bytes we issue; big-endian, random or counted, the first bit is cleared */
};

enum certificate_form { CERTIFICATE_PEM, CERTIFICATE_DER };

/* 2020-01-01. Certificates are valid from here on, whatever the issuer's clock says: one that was
 * issued by a clock that ran ahead would be refused until that day came. And no issuer lives before
 * 2026-01-01: its clock is behind, and what it issues would be refused too early, or for ever. */
#define CERTIFICATE_FROM_S UINT64_C(1577836800)
#define CERTIFICATE_NOW_LEAST_S UINT64_C(1767225600)

struct certificate_terms {
    const char *common_name; /* for people who read certificates: 1-64 of [A-Za-z0-9 ._:-]; trusted
                                by nobody */
    const char *uri;         /* the identity: [A-Za-z0-9._:/@-], NULL for none */
    const char *dns[CERTIFICATE_DNS_MAX]; /* up to the first NULL: [A-Za-z0-9.-]; `*` is refused */
    bool server, client;                  /* extended key usage; at least one */
    uint64_t not_before_s,
        not_after_s; /* seconds since 1970, both inclusive; before the year 10000 */
    uint8_t serial[CERTIFICATE_SERIAL_SIZE]; /* all zero: random */
};

struct certificate_info { /* plain copies: outlives the certificate's bytes */
    uint8_t public_key[PUBLIC_KEY_SIZE];
    char common_name[65];           /* "" if there is none */
    char uri[CERTIFICATE_NAME_MAX]; /* "" if there is none */
    char dns[CERTIFICATE_DNS_MAX][CERTIFICATE_NAME_MAX];
    size_t dns_count;
    bool authority, server, client;
    uint64_t not_before_s, not_after_s;
    uint8_t serial[20]; /* big-endian, as encoded */
    size_t serial_size;
    uint8_t fingerprint[DIGEST_SIZE]; /* SHA-256 of the DER, as `openssl x509 -fingerprint -sha256`
                                         prints it */
};

/* A self-signed root. common_name as above. Appends to *out. INVALID names what is wrong with the
 * arguments. */
MUST_USE enum status certificate_create_authority(const struct key_pair *key,
                                                  const char *common_name, uint64_t not_before_s,
                                                  uint64_t not_after_s, enum certificate_form form,
                                                  struct buffer *out, struct error *error);
/* The node's side: asks for a certificate for this key. Appends to *out. */
MUST_USE enum status certificate_request_create(const struct key_pair *key,
                                                enum certificate_form form, struct buffer *out,
                                                struct error *error);
/* Checks that the request is well-formed, for an acceptable Ed25519 key, and signed by it; gives
 * that key. INVALID if not. */
MUST_USE enum status certificate_request_key(struct bytes request,
                                             uint8_t out[static PUBLIC_KEY_SIZE],
                                             struct error *error);
/* Issues for the request's key what `terms` say. INVALID: the request or the terms, or
 * authority_key is not authority's. The dates must lie within the authority's own. Appends to *out.
 */
MUST_USE enum status certificate_issue(struct bytes authority, const struct key_pair *authority_key,
                                       struct bytes request, const struct certificate_terms *terms,
                                       enum certificate_form form, struct buffer *out,
                                       struct error *error);

/* Makes a P-256 key and issues a certificate for it, both in PEM: a server's TLS identity, which
 * signs handshakes and nothing else. Appends the certificate to *out and the key, PKCS#8 and a
 * secret, to *key_pem: end it with free_clearing(key_pem->data, key_pem->capacity). INVALID as
 * above. */
MUST_USE enum status certificate_issue_server(struct bytes authority,
                                              const struct key_pair *authority_key,
                                              const struct certificate_terms *terms,
                                              struct buffer *out, struct buffer *key_pem,
                                              struct error *error);

/* INVALID: not one well-formed v3 certificate with an Ed25519 key, more than one URI, names with
 * characters from outside the sets above, or bytes left over. Says nothing about trust. */
MUST_USE enum status certificate_parse(struct bytes certificate, struct certificate_info *out,
                                       struct error *error);
/* As certificate_parse, and REFUSED unless `authority` signed it, it is an end certificate with the
 * purposes it shows, and now_s lies within its dates and the authority's. out may be NULL. */
MUST_USE enum status certificate_verify(struct bytes certificate, struct bytes authority,
                                        uint64_t now_s, struct certificate_info *out,
                                        struct error *error);
/* UNAVAILABLE if now_s, this machine's clock, is outside the certificate's dates, in words that
 * name the clock first: where it is far off every certificate looks wrong, and the peer is blamed.
 * INVALID as certificate_parse. */
MUST_USE enum status certificate_check_clock(struct bytes certificate, uint64_t now_s,
                                             struct error *error);
/* "2026-11-29 18:40 UTC". Returns out. */
enum { CERTIFICATE_TIME_SIZE = 32 };
const char *certificate_time_text(uint64_t seconds, char out[static CERTIFICATE_TIME_SIZE]);
/* From either form to the one asked for; INVALID as certificate_parse; keys of any kind are
 * accepted. Appends to *out. */
MUST_USE enum status certificate_convert(struct bytes certificate, enum certificate_form form,
                                         struct buffer *out, struct error *error);

#endif
