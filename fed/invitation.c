/* Identities in certificates and invitation tokens as text (fed/invitation.h). */
#include "fed/invitation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/base64.h"

enum { TOKEN_FORMAT = 1 };

void identity_write(const struct identity *identity, char out[static IDENTITY_URI_SIZE]) {
    char run[2 * RUN_ID_SIZE + 1];
    hex_encode(identity->run_id, RUN_ID_SIZE, run);
    if (identity->role == IDENTITY_SITE) {
        snprintf(out, IDENTITY_URI_SIZE, "atoll://%s/site/%u", run, identity->site);
    } else {
        snprintf(out, IDENTITY_URI_SIZE, "atoll://%s/admin/%s", run, identity->name);
    }
}

/* Reads generously; identity_parse then compares with what would have been written. */
static bool read_parts(const char *uri, struct identity *out) {
    static const char scheme[] = "atoll://";
    size_t size = strlen(uri), at = sizeof scheme - 1;
    if (size >= IDENTITY_URI_SIZE || size < at + 2 * RUN_ID_SIZE || memcmp(uri, scheme, at) != 0)
        return false;
    char run[2 * RUN_ID_SIZE + 1];
    memcpy(run, uri + at, 2 * RUN_ID_SIZE);
    run[2 * RUN_ID_SIZE] = 0;
    if (hex_decode(run, out->run_id, RUN_ID_SIZE, NULL) != OK) return false;
    const char *rest = uri + at + 2 * RUN_ID_SIZE;
    if (strncmp(rest, "/site/", 6) == 0) {
        out->role = IDENTITY_SITE;
        unsigned long long site = strtoull(rest + 6, NULL, 10);
        if (site == 0 || site > UINT32_MAX) return false;
        out->site = (uint32_t)site;
        return true;
    }
    if (strncmp(rest, "/admin/", 7) == 0 && strlen(rest + 7) < SITE_NAME_SIZE) {
        out->role = IDENTITY_ADMIN;
        memcpy(out->name, rest + 7, strlen(rest + 7) + 1);
        return name_check(out->name, NULL) == OK;
    }
    return false;
}

enum status identity_parse(const char *uri, struct identity *out, struct error *error) {
    struct identity parsed = {0};
    char written[IDENTITY_URI_SIZE];
    if (!read_parts(uri, &parsed))
        return error_set(error, INVALID, "the certificate's URI names no site or admin of a run");
    identity_write(&parsed, written);
    if (strcmp(written, uri) != 0)
        return error_set(error, INVALID, "the certificate's URI is not in its one form");
    *out = parsed;
    return OK;
}

char *invitation_write(const struct invitation *invitation) {
    struct buffer raw = {0};
    size_t name_size = strlen(invitation->name);
    buffer_u8(&raw, TOKEN_FORMAT);
    buffer_u8(&raw, (uint8_t)name_size);
    buffer_append(&raw, invitation->name, name_size);
    buffer_append(&raw, invitation->secret, SECRET_SIZE);
    buffer_append(&raw, invitation->ca_der, invitation->ca_size);
    char *text = xmalloc(BASE64URL_SIZE(raw.size));
    base64url_encode(raw.data, raw.size, text);
    clear(raw.data, raw.size);
    buffer_deinit(&raw);
    return text;
}

static enum status read_token(struct bytes raw, struct invitation *out, struct error *error) {
    struct reader reader = reader_of(raw);
    uint8_t format = reader_u8(&reader);
    size_t name_size = reader_u8(&reader);
    if (!reader.failed && format != TOKEN_FORMAT) {
        return error_set(error, INVALID, "the invitation has format %u; this build reads %u",
                         format, TOKEN_FORMAT);
    }
    if (name_size >= SITE_NAME_SIZE)
        return error_set(error, INVALID, "the invitation's site name is too long");
    reader_copy(&reader, out->name, name_size);
    reader_copy(&reader, out->secret, SECRET_SIZE);
    out->ca_size = reader_left(&reader);
    if (reader.failed || out->ca_size == 0 || out->ca_size > CA_DER_LIMIT) {
        return error_set(error, INVALID,
                         "the invitation is cut short or damaged: paste the whole line");
    }
    reader_copy(&reader, out->ca_der, out->ca_size);
    if (memchr(out->name, 0,
               name_size)) /* the rest of it would be lost, and a token has one form */
        return error_set(error, INVALID, "the invitation's site name has a NUL byte in it");
    return name_check(out->name, error);
}

enum status invitation_parse(const char *token, struct invitation *out, struct error *error) {
    struct buffer raw = {0};
    struct invitation parsed = {0};
    enum status status = base64url_decode(token, strlen(token), TOKEN_LIMIT, &raw, NULL);
    if (status != OK) {
        free_clearing(raw.data, raw.capacity); /* reserved, though nothing of it was kept */
        return error_set(
            error, INVALID,
            "the invitation token is damaged: paste it whole, without spaces or line breaks");
    }
    status = read_token(buffer_bytes(&raw), &parsed, error);
    if (status == OK) *out = parsed;
    clear(raw.data, raw.size);
    clear(&parsed, sizeof parsed);
    buffer_deinit(&raw);
    return status;
}
