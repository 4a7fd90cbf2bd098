/* What issuing and reading certificates share. Inside crypto/ only. */
#ifndef CRYPTO_CERTIFICATE_X509_H
#define CRYPTO_CERTIFICATE_X509_H

#include <openssl/x509.h>

#include "crypto/certificate.h"

/* One certificate from PEM or DER, to be freed with X509_free. INVALID if it is none, too large, or
 * not alone. */
MUST_USE enum status certificate_read(struct bytes certificate, X509 **out, struct error *error);
MUST_USE enum status certificate_write(X509 *certificate, enum certificate_form form,
                                       struct buffer *out, struct error *error);
MUST_USE enum status certificate_request_read(struct bytes request, X509_REQ **out,
                                              struct error *error);
/* The raw key, checked with public_key_check. INVALID if it is not Ed25519. */
MUST_USE enum status certificate_raw_key(EVP_PKEY *pkey, uint8_t out[static PUBLIC_KEY_SIZE],
                                         struct error *error);
MUST_USE enum status certificate_describe(X509 *certificate, struct certificate_info *out,
                                          struct error *error);

/* 1 to limit characters, letters and digits and those of `also`. */
bool certificate_name_is_clean(const char *text, size_t size, size_t limit, const char *also);
#define CERTIFICATE_COMMON_NAME_ALSO " ._:-"
#define CERTIFICATE_URI_ALSO "._:/@-"
#define CERTIFICATE_DNS_ALSO ".-"

#endif
