/* Makes and issues X.509 certificates by OpenSSL (crypto/certificate.h): names, extensions and
 * dates are ours alone, only the key is copied from a request. Reading them is in
 * certificate_parse.c. */
#include "crypto/certificate.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "crypto/certificate_x509.h"
#include "crypto/key_pair.h"
#include "crypto/openssl_error.h"

static const uint64_t year_10000_s = 253402300800; /* where ASN.1's four digits end */

/* --- parts of a certificate: each gives 1 for success, as OpenSSL does --- */

static int set_name(X509_NAME *name, const char *common_name) {
    return X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8,
                                      (const unsigned char *)common_name, -1, -1, 0);
}

static int set_serial(X509 *certificate, const uint8_t serial[static CERTIFICATE_SERIAL_SIZE]) {
    static const uint8_t zero[CERTIFICATE_SERIAL_SIZE];
    uint8_t chosen[CERTIFICATE_SERIAL_SIZE];
    memcpy(chosen, serial, sizeof chosen);
    if (memcmp(chosen, zero, sizeof zero) == 0) random_system(chosen, sizeof chosen);
    chosen[0] &= 0x7f; /* positive */
    BIGNUM *number = BN_bin2bn(chosen, sizeof chosen, NULL);
    int ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    return ok;
}

static int set_dates(X509 *certificate, uint64_t not_before_s, uint64_t not_after_s) {
    return ASN1_TIME_set(X509_getm_notBefore(certificate), (time_t)not_before_s) != NULL &&
           ASN1_TIME_set(X509_getm_notAfter(certificate), (time_t)not_after_s) != NULL;
}

static int add_basic_constraints(X509 *certificate, bool authority) {
    BASIC_CONSTRAINTS *constraints = BASIC_CONSTRAINTS_new();
    if (!constraints) return 0;
    int ok = 1;
    if (authority) {
        constraints->ca = 0xFF; /* DER's true; OpenSSL writes what it is given */
        constraints->pathlen = ASN1_INTEGER_new();
        ok = constraints->pathlen && ASN1_INTEGER_set(constraints->pathlen, 0);
    }
    ok = ok && X509_add1_ext_i2d(certificate, NID_basic_constraints, constraints, 1,
                                 X509V3_ADD_DEFAULT) == 1;
    BASIC_CONSTRAINTS_free(constraints);
    return ok;
}

/* Bits as RFC 5280 section 4.2.1.3 numbers them. */
enum { DIGITAL_SIGNATURE = 0, KEY_CERT_SIGN = 5, CRL_SIGN = 6 };

static int add_key_usage(X509 *certificate, bool authority) {
    ASN1_BIT_STRING *bits = ASN1_BIT_STRING_new();
    int ok = bits && (authority ? ASN1_BIT_STRING_set_bit(bits, KEY_CERT_SIGN, 1) &&
                                      ASN1_BIT_STRING_set_bit(bits, CRL_SIGN, 1)
                                : ASN1_BIT_STRING_set_bit(bits, DIGITAL_SIGNATURE, 1));
    ok = ok && X509_add1_ext_i2d(certificate, NID_key_usage, bits, 1, X509V3_ADD_DEFAULT) == 1;
    ASN1_BIT_STRING_free(bits);
    return ok;
}

static int add_extended_key_usage(X509 *certificate, bool server, bool client) {
    EXTENDED_KEY_USAGE *usage = EXTENDED_KEY_USAGE_new();
    int ok = usage && (!server || sk_ASN1_OBJECT_push(usage, OBJ_nid2obj(NID_server_auth)) > 0) &&
             (!client || sk_ASN1_OBJECT_push(usage, OBJ_nid2obj(NID_client_auth)) > 0) &&
             X509_add1_ext_i2d(certificate, NID_ext_key_usage, usage, 0, X509V3_ADD_DEFAULT) == 1;
    EXTENDED_KEY_USAGE_free(usage); /* objects of OBJ_nid2obj are static: freeing them is a no-op */
    return ok;
}

/* The first 20 bytes of SHA-256(public key), as RFC 7093 section 2 allows. */
enum { KEY_IDENTIFIER_SIZE = 20 };

static ASN1_OCTET_STRING *key_identifier(const X509 *certificate) {
    const ASN1_BIT_STRING *key = X509_get0_pubkey_bitstr(certificate);
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(ASN1_STRING_get0_data(key), (size_t)ASN1_STRING_length(key), digest);
    ASN1_OCTET_STRING *identifier = ASN1_OCTET_STRING_new();
    if (identifier && ASN1_OCTET_STRING_set(identifier, digest, KEY_IDENTIFIER_SIZE))
        return identifier;
    ASN1_OCTET_STRING_free(identifier);
    return NULL;
}

/* After the public key is set. `issuer` is the issuing certificate, NULL for one that signs itself
 * (asking an unfinished certificate would make OpenSSL remember it as broken). */
static int add_key_identifiers(X509 *certificate, X509 *issuer) {
    ASN1_OCTET_STRING *subject = key_identifier(certificate);
    const ASN1_OCTET_STRING *by = issuer ? X509_get0_subject_key_id(issuer) : subject;
    AUTHORITY_KEYID *authority = AUTHORITY_KEYID_new();
    int ok = subject && by && authority && (authority->keyid = ASN1_OCTET_STRING_dup(by)) != NULL &&
             X509_add1_ext_i2d(certificate, NID_subject_key_identifier, subject, 0,
                               X509V3_ADD_DEFAULT) == 1 &&
             X509_add1_ext_i2d(certificate, NID_authority_key_identifier, authority, 0,
                               X509V3_ADD_DEFAULT) == 1;
    ASN1_OCTET_STRING_free(subject);
    AUTHORITY_KEYID_free(authority);
    return ok;
}

static int push_name(GENERAL_NAMES *names, int kind, const char *text) {
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();
    if (!name || !value || !ASN1_STRING_set(value, text, -1) ||
        sk_GENERAL_NAME_push(names, name) <= 0) {
        GENERAL_NAME_free(name);
        ASN1_IA5STRING_free(value);
        return 0;
    }
    GENERAL_NAME_set0_value(name, kind, value); /* takes value; names holds name */
    return 1;
}

static int add_alternative_names(X509 *certificate, const struct certificate_terms *terms) {
    if (!terms->uri && !terms->dns[0]) return 1;
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    int ok = names && (!terms->uri || push_name(names, GEN_URI, terms->uri));
    for (size_t i = 0; ok && i < CERTIFICATE_DNS_MAX && terms->dns[i]; i++)
        ok = push_name(names, GEN_DNS, terms->dns[i]);
    ok = ok &&
         X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
    GENERAL_NAMES_free(names);
    return ok;
}

/* --- checks --- */

static enum status check_common_name(const char *common_name, struct error *error) {
    if (common_name && certificate_name_is_clean(common_name, strlen(common_name), 64,
                                                 CERTIFICATE_COMMON_NAME_ALSO))
        return OK;
    return error_set(error, INVALID,
                     "the common name must be 1 to 64 of letters, digits and \"%s\"",
                     CERTIFICATE_COMMON_NAME_ALSO);
}

static enum status check_dates(uint64_t not_before_s, uint64_t not_after_s, struct error *error) {
    if (not_before_s <= not_after_s && not_after_s < year_10000_s) return OK;
    return error_set(error, INVALID, "dates from %llu to %llu: reversed, or after the year 9999",
                     (unsigned long long)not_before_s, (unsigned long long)not_after_s);
}

static enum status check_terms(const struct certificate_terms *terms, struct error *error) {
    TRY(check_common_name(terms->common_name, error));
    TRY(check_dates(terms->not_before_s, terms->not_after_s, error));
    if (!terms->server && !terms->client)
        return error_set(error, INVALID, "a certificate for no purpose");
    if (terms->uri && (!certificate_name_is_clean(terms->uri, strlen(terms->uri),
                                                  CERTIFICATE_NAME_MAX - 1, CERTIFICATE_URI_ALSO) ||
                       !strchr(terms->uri, ':'))) {
        return error_set(error, INVALID,
                         "the URI must be scheme:rest, at most %d of letters, digits and \"%s\"",
                         CERTIFICATE_NAME_MAX - 1, CERTIFICATE_URI_ALSO);
    }
    for (size_t i = 0; i < CERTIFICATE_DNS_MAX && terms->dns[i]; i++) {
        if (!certificate_name_is_clean(terms->dns[i], strlen(terms->dns[i]),
                                       CERTIFICATE_NAME_MAX - 1, CERTIFICATE_DNS_ALSO)) {
            return error_set(error, INVALID,
                             "DNS name %zu must be at most %d of letters, digits and \"%s\"", i + 1,
                             CERTIFICATE_NAME_MAX - 1, CERTIFICATE_DNS_ALSO);
        }
    }
    if (!terms->uri && !terms->dns[0])
        return error_set(error, INVALID, "the certificate has no name");
    return OK;
}

static enum status check_authority(X509 *authority, const struct key_pair *key,
                                   const struct certificate_terms *terms, struct error *error) {
    struct certificate_info info;
    TRY(certificate_describe(authority, &info, error));
    if (!info.authority)
        return error_set(error, INVALID,
                         "the issuing certificate is not a certificate authority's");
    if (memcmp(info.public_key, key->public_key, PUBLIC_KEY_SIZE) != 0) {
        return error_set(error, INVALID, "the key is not that of the authority's certificate");
    }
    if (terms->not_before_s < info.not_before_s || terms->not_after_s > info.not_after_s) {
        return error_set(error, INVALID,
                         "the certificate would outlive its authority, or begin before it");
    }
    return OK;
}

/* --- what the header offers --- */

enum status certificate_create_authority(const struct key_pair *key, const char *common_name,
                                         uint64_t not_before_s, uint64_t not_after_s,
                                         enum certificate_form form, struct buffer *out,
                                         struct error *error) {
    TRY(check_common_name(common_name, error));
    TRY(check_dates(not_before_s, not_after_s, error));
    static const uint8_t random_serial[CERTIFICATE_SERIAL_SIZE];
    X509 *root = X509_new();
    enum status status = OK;
    if (!root || !X509_set_version(root, X509_VERSION_3) || !set_serial(root, random_serial) ||
        !set_dates(root, not_before_s, not_after_s) ||
        !set_name(X509_get_subject_name(root), common_name) ||
        !X509_set_issuer_name(root, X509_get_subject_name(root)) ||
        !X509_set_pubkey(root, key->pkey) || !add_basic_constraints(root, true) ||
        !add_key_usage(root, true) || !add_key_identifiers(root, NULL) ||
        X509_sign(root, key->pkey, NULL) <= 0) {
        status = openssl_failed(error, FAILED, "make an authority's certificate");
    }
    if (status == OK) status = certificate_write(root, form, out, error);
    X509_free(root);
    return status;
}

enum status certificate_request_create(const struct key_pair *key, enum certificate_form form,
                                       struct buffer *out, struct error *error) {
    X509_REQ *request = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    enum status status = OK;
    if (!request || !bio || !X509_REQ_set_version(request, X509_REQ_VERSION_1) ||
        !X509_REQ_set_pubkey(request, key->pkey) || X509_REQ_sign(request, key->pkey, NULL) <= 0 ||
        (form == CERTIFICATE_PEM ? PEM_write_bio_X509_REQ(bio, request)
                                 : i2d_X509_REQ_bio(bio, request)) != 1) {
        status = openssl_failed(error, FAILED, "make a certificate request");
    } else {
        char *data = NULL;
        long size = BIO_get_mem_data(bio, &data);
        buffer_append(out, data, (size_t)size);
    }
    BIO_free(bio);
    X509_REQ_free(request);
    return status;
}

static enum status request_key(X509_REQ *request, uint8_t out[static PUBLIC_KEY_SIZE],
                               struct error *error) {
    EVP_PKEY *pkey = X509_REQ_get0_pubkey(request);
    TRY(certificate_raw_key(pkey, out, error));
    if (X509_REQ_verify(request, pkey) != 1) {
        return openssl_failed(error, INVALID,
                              "the certificate request is not signed by its own key");
    }
    return OK;
}

enum status certificate_request_key(struct bytes request, uint8_t out[static PUBLIC_KEY_SIZE],
                                    struct error *error) {
    X509_REQ *parsed = NULL;
    TRY(certificate_request_read(request, &parsed, error));
    uint8_t key[PUBLIC_KEY_SIZE];
    enum status status = request_key(parsed, key, error);
    if (status == OK) memcpy(out, key, sizeof key);
    X509_REQ_free(parsed);
    return status;
}

static enum status issue(X509 *root, const struct key_pair *authority_key, EVP_PKEY *key,
                         const struct certificate_terms *terms, enum certificate_form form,
                         struct buffer *out, struct error *error) {
    X509 *issued = X509_new();
    enum status status = OK;
    if (!issued || !X509_set_version(issued, X509_VERSION_3) ||
        !set_serial(issued, terms->serial) ||
        !set_dates(issued, terms->not_before_s, terms->not_after_s) ||
        !set_name(X509_get_subject_name(issued), terms->common_name) ||
        !X509_set_issuer_name(issued, X509_get_subject_name(root)) ||
        !X509_set_pubkey(issued, key) || !add_basic_constraints(issued, false) ||
        !add_key_usage(issued, false) ||
        !add_extended_key_usage(issued, terms->server, terms->client) ||
        !add_alternative_names(issued, terms) || !add_key_identifiers(issued, root) ||
        X509_sign(issued, authority_key->pkey, NULL) <= 0)
        status = openssl_failed(error, FAILED, "make a certificate");
    if (status == OK) status = certificate_write(issued, form, out, error);
    X509_free(issued);
    return status;
}

enum status certificate_issue(struct bytes authority, const struct key_pair *authority_key,
                              struct bytes request, const struct certificate_terms *terms,
                              enum certificate_form form, struct buffer *out, struct error *error) {
    TRY(check_terms(terms, error));
    X509 *root = NULL;
    X509_REQ *parsed = NULL;
    uint8_t public_key[PUBLIC_KEY_SIZE];
    enum status status = certificate_read(authority, &root, error);
    if (status == OK) status = check_authority(root, authority_key, terms, error);
    if (status == OK) status = certificate_request_read(request, &parsed, error);
    if (status == OK) status = request_key(parsed, public_key, error);
    if (status == OK && memcmp(public_key, authority_key->public_key, PUBLIC_KEY_SIZE) == 0)
        status = error_set(error, INVALID, "the request is for the authority's own key");
    if (status == OK)
        status = issue(root, authority_key, X509_REQ_get0_pubkey(parsed), terms, form, out, error);
    X509_free(root);
    X509_REQ_free(parsed);
    return status;
}

enum status certificate_issue_server(struct bytes authority, const struct key_pair *authority_key,
                                     const struct certificate_terms *terms, struct buffer *out,
                                     struct buffer *key_pem, struct error *error) {
    TRY(check_terms(terms, error));
    X509 *root = NULL;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    size_t before = out->size;
    enum status status = key ? OK : openssl_failed(error, FAILED, "make a P-256 key");
    if (status == OK) status = certificate_read(authority, &root, error);
    if (status == OK) status = check_authority(root, authority_key, terms, error);
    if (status == OK) status = issue(root, authority_key, key, terms, CERTIFICATE_PEM, out, error);
    if (status == OK) status = private_key_write(key, key_pem, error);
    if (status != OK) out->size = before;
    X509_free(root);
    EVP_PKEY_free(key);
    return status;
}
