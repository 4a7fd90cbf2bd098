/* A site's directory: who it is, whom it trusts, and what the run demands. Written by `join`, read
 * by everything else.
 *
 *     DIR/node.key       Ed25519, made here, never leaves DIR/site.json run, number, name,
 *                        coordinator's key
 *     DIR/node.pem       certificate for it, by the federation's CA DIR/manifest.yaml the run's
 *                        rules, canonical form
 *     DIR/ca.pem         the federation's CA DIR/node.yaml settings that are local to the site
 *     DIR/layout         the parameters' tensors, where the manifest names them by digest
 *
 * site.json is written last: a directory that has it is complete. Loading checks that the pieces
 * belong together.
 */
#ifndef NODE_SITE_H
#define NODE_SITE_H

#include "crypto/key_file.h"
#include "fed/invitation.h"
#include "fed/manifest.h"

#define COORDINATOR_NAME "atoll-coordinator" /* the DNS name in the coordinator's certificate */

/* "atoll-node 0.1.0": what a site calls itself to the coordinator */
extern const char site_software[];

struct site {
    char *directory; /* absolute */
    uint32_t number; /* in the ledger, from 1 */
    char name[SITE_NAME_SIZE];
    bool observes; /* by its invitation: it follows and evaluates, and trains nothing */
    uint8_t run_id[RUN_ID_SIZE];
    uint8_t coordinator_key[PUBLIC_KEY_SIZE];
    struct key_pair *key;
    struct buffer key_pem;                 /* secret */
    struct buffer certificate_pem, ca_pem; /* terminated */
    struct manifest manifest;
    struct buffer layout; /* its text; empty: the built-in trainer's */
    uint8_t manifest_digest[DIGEST_SIZE];
};

/* directory/name, owned by the caller. */
char *site_path(const struct site *site, const char *name);
bool site_exists(const char *directory); /* `join` has been here and was done */
/* NOT_FOUND: no `join` yet. INVALID, CORRUPT: a piece is missing, or they do not belong together;
 * the message names it. */
MUST_USE enum status site_load(const char *directory, struct site *out, struct error *error);
/* The same without node.key, for readers: the key is another user's, or was not copied. site->key
 * is NULL. */
MUST_USE enum status site_load_reading(const char *directory, struct site *out,
                                       struct error *error);
void site_deinit(struct site *site); /* a zeroed one is a no-op */

/* For join: key, certificates, manifest and the rest are set in *site; writes all but the key file,
 * which is there already. */
MUST_USE enum status site_save(const struct site *site, struct error *error);

#endif
