/* Who somebody is, as text in a certificate, and the one line that lets a site in.
 *
 * A certificate's URI names its holder: `atoll://<run id, 32 hex>/site/<number>` or `atoll://<run
 * id>/admin/<name>`. The coordinator writes it when it issues the certificate and reads it from
 * TLS; what a message says about its sender counts for nothing beside it.
 *
 * An invitation token is base64url of: 1 (format), name length u8, name, secret [SECRET_SIZE], and
 * the federation's CA certificate (DER). The ledger keeps only the secret's SHA-256. The holder of
 * the token can join once under that name, and knows whom to trust: so the first connection is
 * authenticated on both sides.
 */
#ifndef FED_INVITATION_H
#define FED_INVITATION_H

#include "fed/contribution.h"
#include "fed/manifest.h"

enum { SECRET_SIZE = 24, IDENTITY_URI_SIZE = 128, CA_DER_LIMIT = 2048, TOKEN_LIMIT = 4096 };

enum identity_role { IDENTITY_SITE = 1, IDENTITY_ADMIN = 2 };
struct identity {
    uint8_t run_id[RUN_ID_SIZE];
    enum identity_role role;
    uint32_t site;             /* SITE */
    char name[SITE_NAME_SIZE]; /* ADMIN */
};
void identity_write(const struct identity *identity, char out[static IDENTITY_URI_SIZE]);
/* INVALID unless it is exactly what identity_write writes. */
MUST_USE enum status identity_parse(const char *uri, struct identity *out, struct error *error);

struct invitation {
    char name[SITE_NAME_SIZE];
    uint8_t secret[SECRET_SIZE]; /* clear after use */
    uint8_t ca_der[CA_DER_LIMIT];
    size_t ca_size;
};
/* The token as text; owned by the caller, free with free_clearing. */
char *invitation_write(const struct invitation *invitation);
/* INVALID, without repeating the token. */
MUST_USE enum status invitation_parse(const char *token, struct invitation *out,
                                      struct error *error);

#endif
