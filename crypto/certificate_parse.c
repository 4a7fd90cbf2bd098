/* Reads certificates and requests (crypto/certificate.h): PEM or DER in, our plain struct out. The
 * bytes come from peers: sizes are bounded first, and a name with a zero byte or a control
 * character is refused. */
#include <limits.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "crypto/certificate_x509.h"
#include "crypto/openssl_error.h"

/* --- bytes to OpenSSL's objects and back --- */

static bool looks_like_pem(struct bytes bytes) {
    /* DER of these objects begins with a SEQUENCE tag; PEM may begin with a comment. */
    return bytes.size > 0 && bytes.data[0] != 0x30;
}

/* PEM: exactly one object named `name`; text around it is refused, since nobody would see it after
 * the conversion. The DER is owned by the caller. */
static enum status pem_to_der(struct bytes pem, const char *name, unsigned char **der, long *size,
                              struct error *error) {
    BIO *bio = BIO_new_mem_buf(pem.data, (int)pem.size);
    if (!bio) return openssl_failed(error, FAILED, "read PEM");
    char *found = NULL, *header = NULL;
    enum status status = OK;
    if (PEM_read_bio(bio, &found, &header, der, size) != 1) {
        status = openssl_failed(error, INVALID, "read PEM");
    } else if (strcmp(found, name) != 0 || *header) {
        status = error_set(error, INVALID, "PEM of another kind than %s", name);
    } else {
        char c;
        while (status == OK && BIO_read(bio, &c, 1) == 1) {
            if (c == 0 || !strchr(" \t\r\n", c))
                status = error_set(error, INVALID, "something follows the PEM %s", name);
        }
    }
    OPENSSL_free(found);
    OPENSSL_free(header);
    BIO_free(bio);
    if (status != OK) {
        OPENSSL_free(*der);
        *der = NULL;
    }
    return status;
}

typedef void *decode_der(void **object, const unsigned char **at, long size);
static void *decode_x509(void **object, const unsigned char **at, long size) {
    (void)object;
    return d2i_X509(NULL, at, size);
}
static void *decode_request(void **object, const unsigned char **at, long size) {
    (void)object;
    return d2i_X509_REQ(NULL, at, size);
}

static enum status read_object(struct bytes bytes, const char *name, decode_der *decode, void **out,
                               bool *left_over, struct error *error) {
    if (bytes.size == 0 || bytes.size > CERTIFICATE_SIZE_MAX) {
        return error_set(error, INVALID, "a %s of %zu bytes", name, bytes.size);
    }
    unsigned char *from_pem = NULL;
    const unsigned char *at = bytes.data;
    long size = (long)bytes.size;
    if (looks_like_pem(bytes)) {
        TRY(pem_to_der(bytes, name, &from_pem, &size, error));
        at = from_pem;
    }
    const unsigned char *end = at + size;
    *out = decode(NULL, &at, size);
    *left_over = at != end;
    OPENSSL_free(from_pem);
    return *out ? OK : openssl_failed(error, INVALID, "read DER");
}

enum status certificate_read(struct bytes certificate, X509 **out, struct error *error) {
    void *object = NULL;
    bool left_over = false;
    TRY(read_object(certificate, "CERTIFICATE", decode_x509, &object, &left_over, error));
    if (left_over) {
        X509_free(object);
        return error_set(error, INVALID, "something follows the certificate");
    }
    *out = object;
    return OK;
}

enum status certificate_request_read(struct bytes request, X509_REQ **out, struct error *error) {
    void *object = NULL;
    bool left_over = false;
    TRY(read_object(request, "CERTIFICATE REQUEST", decode_request, &object, &left_over, error));
    if (left_over) {
        X509_REQ_free(object);
        return error_set(error, INVALID, "something follows the certificate request");
    }
    *out = object;
    return OK;
}

enum status certificate_write(X509 *certificate, enum certificate_form form, struct buffer *out,
                              struct error *error) {
    BIO *bio = BIO_new(BIO_s_mem());
    int wrote = !bio                      ? 0
                : form == CERTIFICATE_PEM ? PEM_write_bio_X509(bio, certificate)
                                          : i2d_X509_bio(bio, certificate);
    enum status status = OK;
    if (wrote != 1) {
        status = openssl_failed(error, FAILED, "write a certificate");
    } else {
        char *data = NULL;
        long size = BIO_get_mem_data(bio, &data);
        buffer_append(out, data, (size_t)size);
    }
    BIO_free(bio);
    return status;
}

/* --- what is in them --- */

bool certificate_name_is_clean(const char *text, size_t size, size_t limit, const char *also) {
    if (size == 0 || size > limit) return false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && (c == 0 || !strchr(also, c))) return false;
    }
    return true;
}

enum status certificate_raw_key(EVP_PKEY *pkey, uint8_t out[static PUBLIC_KEY_SIZE],
                                struct error *error) {
    if (!pkey) return openssl_failed(error, INVALID, "read the public key");
    if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_ED25519)
        return error_set(error, INVALID, "the public key is not Ed25519");
    uint8_t raw[PUBLIC_KEY_SIZE];
    size_t size = sizeof raw;
    if (EVP_PKEY_get_raw_public_key(pkey, raw, &size) != 1 || size != sizeof raw) {
        return openssl_failed(error, INVALID, "read the public key");
    }
    TRY(public_key_check(raw, error));
    memcpy(out, raw, sizeof raw);
    return OK;
}

/* Copies a string of the certificate where it consists of the expected characters only: no zero
 * byte, nothing that could forge a log line. */
static enum status copy_name(const ASN1_STRING *string, const char *also, char *out, size_t size,
                             struct error *error) {
    const char *text = (const char *)ASN1_STRING_get0_data(string);
    int length = ASN1_STRING_length(string);
    if (length < 0 || !certificate_name_is_clean(text, (size_t)length, size - 1, also)) {
        return error_set(
            error, INVALID,
            "a name in the certificate is too long or has characters it should not have");
    }
    memcpy(out, text, (size_t)length);
    out[length] = 0;
    return OK;
}

static enum status read_common_name(X509 *certificate, struct certificate_info *info,
                                    struct error *error) {
    X509_NAME *subject = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at < 0) return OK;
    if (X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
        return error_set(error, INVALID, "two common names");
    return copy_name(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)),
                     CERTIFICATE_COMMON_NAME_ALSO, info->common_name, sizeof info->common_name,
                     error);
}

static enum status read_alternative_names(X509 *certificate, struct certificate_info *info,
                                          struct error *error) {
    int critical = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
    if (!names) { /* -1: not there */
        return critical == -1
                   ? OK
                   : openssl_failed(error, INVALID, "read subjectAltName, or there are two");
    }
    enum status status = OK;
    for (int i = 0; status == OK && i < sk_GENERAL_NAME_num(names); i++) {
        int kind = 0;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &kind);
        if (kind == GEN_URI) {
            status = *info->uri ? error_set(error, INVALID, "more than one URI in the certificate")
                                : copy_name(value, CERTIFICATE_URI_ALSO, info->uri,
                                            sizeof info->uri, error);
        } else if (kind == GEN_DNS && info->dns_count == CERTIFICATE_DNS_MAX) {
            status = error_set(error, INVALID, "more than %d DNS names in the certificate",
                               CERTIFICATE_DNS_MAX);
        } else if (kind == GEN_DNS) {
            status = copy_name(value, CERTIFICATE_DNS_ALSO, info->dns[info->dns_count],
                               sizeof info->dns[0], error);
            if (status == OK) info->dns_count++;
        } else {
            status = error_set(error, INVALID, "a name of an unknown kind in the certificate");
        }
    }
    GENERAL_NAMES_free(names);
    return status;
}

/* Seconds since 1970; INVALID before that. */
static enum status read_time(const ASN1_TIME *time, uint64_t *out, struct error *error) {
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int ok =
        epoch && ASN1_TIME_check(time) == 1 && ASN1_TIME_diff(&days, &seconds, epoch, time) == 1;
    ASN1_TIME_free(epoch);
    if (!ok) return openssl_failed(error, INVALID, "read a date of the certificate");
    if (days < 0 || seconds < 0)
        return error_set(error, INVALID, "a date of the certificate lies before 1970");
    *out = (uint64_t)days * 86400 + (uint64_t)seconds;
    return OK;
}

static enum status read_purposes(X509 *certificate, struct certificate_info *info,
                                 struct error *error) {
    uint32_t flags = X509_get_extension_flags(certificate);
    if (flags & EXFLAG_INVALID)
        return openssl_failed(error, INVALID, "an extension is broken or there twice");
    if (flags & EXFLAG_CRITICAL) return error_set(error, INVALID, "an unknown critical extension");
    info->authority = (flags & EXFLAG_CA) != 0;
    uint32_t extended = flags & EXFLAG_XKUSAGE ? X509_get_extended_key_usage(certificate) : 0;
    info->server = (extended & XKU_SSL_SERVER) != 0;
    info->client = (extended & XKU_SSL_CLIENT) != 0;
    return OK;
}

static enum status read_serial(X509 *certificate, struct certificate_info *info,
                               struct error *error) {
    const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
    int size = ASN1_STRING_length(serial);
    if (size < 1 || size > (int)sizeof info->serial || (ASN1_STRING_type(serial) & V_ASN1_NEG)) {
        return error_set(error, INVALID, "a serial number of %d bytes, or negative", size);
    }
    memcpy(info->serial, ASN1_STRING_get0_data(serial), (size_t)size);
    info->serial_size = (size_t)size;
    return OK;
}

enum status certificate_describe(X509 *certificate, struct certificate_info *out,
                                 struct error *error) {
    struct certificate_info info = {0};
    if (X509_get_version(certificate) != X509_VERSION_3)
        return error_set(error, INVALID, "the certificate is not version 3");
    TRY(read_purposes(certificate, &info, error));
    TRY(certificate_raw_key(X509_get0_pubkey(certificate), info.public_key, error));
    TRY(read_common_name(certificate, &info, error));
    TRY(read_alternative_names(certificate, &info, error));
    TRY(read_serial(certificate, &info, error));
    TRY(read_time(X509_get0_notBefore(certificate), &info.not_before_s, error));
    TRY(read_time(X509_get0_notAfter(certificate), &info.not_after_s, error));
    unsigned char *der = NULL;
    int size = i2d_X509(certificate, &der);
    if (size <= 0) return openssl_failed(error, FAILED, "encode a certificate");
    digest_sha256(der, (size_t)size, info.fingerprint);
    OPENSSL_free(der);
    *out = info;
    return OK;
}

enum status certificate_parse(struct bytes certificate, struct certificate_info *out,
                              struct error *error) {
    X509 *x509 = NULL;
    TRY(certificate_read(certificate, &x509, error));
    enum status status = certificate_describe(x509, out, error);
    X509_free(x509);
    return status;
}

enum status certificate_convert(struct bytes certificate, enum certificate_form form,
                                struct buffer *out, struct error *error) {
    X509 *x509 = NULL;
    TRY(certificate_read(certificate, &x509, error));
    enum status status = certificate_write(x509, form, out, error);
    X509_free(x509);
    return status;
}

/* --- trust --- */

static enum status check_purpose(X509 *certificate, const struct certificate_info *info,
                                 struct error *error) {
    if (info->authority)
        return error_set(error, REFUSED, "an authority's certificate where a peer's is needed");
    if (!info->server && !info->client)
        return error_set(error, REFUSED, "the certificate is for no purpose");
    if ((info->server && X509_check_purpose(certificate, X509_PURPOSE_SSL_SERVER, 0) != 1) ||
        (info->client && X509_check_purpose(certificate, X509_PURPOSE_SSL_CLIENT, 0) != 1)) {
        return error_set(error, REFUSED, "the certificate's key usage contradicts its purpose");
    }
    return OK;
}

/* OpenSSL's own chain building, so that this agrees with what the TLS library does: signature,
 * names, path length, usages, dates. */
static enum status check_chain(X509 *certificate, X509 *authority, uint64_t now_s,
                               struct error *error) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    enum status status = OK;
    if (!store || !context || X509_STORE_add_cert(store, authority) != 1 ||
        X509_STORE_CTX_init(context, store, certificate, NULL) != 1) {
        status = openssl_failed(error, FAILED, "prepare to verify a certificate");
        goto out;
    }
    X509_STORE_CTX_set_time(context, 0, (time_t)now_s);
    X509_STORE_CTX_set_flags(context, X509_V_FLAG_X509_STRICT);
    if (X509_verify_cert(context) != 1) {
        int reason = X509_STORE_CTX_get_error(context);
        openssl_failed(NULL, REFUSED, "");
        status = error_set(error, REFUSED, "the certificate is not valid here: %s",
                           X509_verify_cert_error_string(reason));
    }
out:
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    return status;
}

enum status certificate_verify(struct bytes certificate, struct bytes authority, uint64_t now_s,
                               struct certificate_info *out, struct error *error) {
    X509 *x509 = NULL, *root = NULL;
    struct certificate_info info;
    enum status status = certificate_read(certificate, &x509, error);
    if (status == OK) status = certificate_describe(x509, &info, error);
    if (status == OK) status = certificate_read(authority, &root, error);
    if (status == OK && now_s > INT64_MAX / 2)
        status = error_set(error, INVALID, "a time that is none");
    if (status == OK) status = check_purpose(x509, &info, error);
    if (status == OK) status = check_chain(x509, root, now_s, error);
    if (status == OK && out) *out = info;
    X509_free(x509);
    X509_free(root);
    return status;
}

const char *certificate_time_text(uint64_t seconds, char out[static CERTIFICATE_TIME_SIZE]) {
    time_t time = (time_t)seconds;
    struct tm parts;
    if (!gmtime_r(&time, &parts) ||
        strftime(out, CERTIFICATE_TIME_SIZE, "%Y-%m-%d %H:%M UTC", &parts) == 0)
        strcpy(out, "?");
    return out;
}

enum status certificate_check_clock(struct bytes certificate, uint64_t now_s, struct error *error) {
    struct certificate_info info;
    char here[CERTIFICATE_TIME_SIZE], bound[CERTIFICATE_TIME_SIZE];
    TRY(certificate_parse(certificate, &info, error));
    bool early = now_s < info.not_before_s;
    if (!early && now_s <= info.not_after_s) return OK;
    return error_set(error, UNAVAILABLE,
                     "this machine's clock says %s, and the certificate \"%s\" holds %s %s: set "
                     "the clock (NTP), then try again",
                     certificate_time_text(now_s, here), info.common_name,
                     early ? "only from" : "only until",
                     certificate_time_text(early ? info.not_before_s : info.not_after_s, bound));
}
