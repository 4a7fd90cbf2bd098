/* The coordinator's signed, durable acknowledgement of one contribution, and the reasons for which
 * there is none.
 *
 * A receipt is signed after the commit: its holder can prove that the contribution is at `index` of
 * the ledger whose head (size, root) it names. The site checks the signature, the inclusion proof
 * and that the entry is its own header.
 */
#ifndef FED_RECEIPT_H
#define FED_RECEIPT_H

#include "fed/ledger.h"
#include "fed/merkle.h"

#define RECEIPT_TAG "atoll receipt 1"

/* Codes travel and are counted: numbers stay. */
enum refusal {
    ACCEPTED = 0,
    REFUSED_REBASE = 1,    /* staler than the cap: take the newest version, send again */
    REFUSED_REVOKED = 2,   /* the site's key was revoked */
    REFUSED_MALFORMED = 3, /* header or payload break the format, bounds or canonical form */
    REFUSED_NONFINITE = 4, /* a value is NaN or infinite */
    REFUSED_DUPLICATE = 5, /* already in the ledger; the old receipt comes with it */
    REFUSED_PAUSED = 6,    /* the run is paused: keep it, send it later */
    REFUSED_BUSY = 7,      /* no room now; retry_after_ms says when */
    REFUSED_SIGNATURE = 8, /* not signed by the key that is enrolled for the site */
    REFUSED_SEQUENCE = 9,  /* an old sequence with other content, or a wrong `previous` */
    REFUSED_RUN = 10,      /* another run, manifest or protocol */
    REFUSED_LAYOUT = 11,   /* another parameter layout */
    REFUSED_BASE = 12,     /* a base version that is not there yet, or another state root for it */
    REFUSED_EXPIRED = 13,  /* signed too long ago */
    REFUSED_STOPPED = 14,  /* the run has ended */
    REFUSED_SIZE = 15,     /* payload longer than the codec's bound, or not as long as announced */
    REFUSED_DIGEST = 16,   /* the payload is not the one that was signed */
    REFUSED_NORM = 17,     /* the norm told is not the payload's */
    REFUSED_EPOCH = 18,    /* made for a coordinator that has been superseded */
    REFUSED_UNKNOWN_SITE =
        19, /* the certificate names no enrolled site, or another than the header */
    REFUSED_HELD =
        20, /* another process of this site is connected: this one is let in once that is gone */
    REFUSED_COPY = 21, /* ... and was seen alive since: the site runs twice, and this process is the
                          one that is cut */
    REFUSED_OBSERVER = 22, /* of a site that observes: it has no contributions */
    REFUSAL_COUNT
};
/* "rebase", "revoked", ...; "unknown" beyond. Static. */
const char *refusal_name(unsigned refusal);
/* What the site's operator should know and do, one sentence. */
const char *refusal_advice(unsigned refusal);
/* True where the same bytes may be accepted later (PAUSED, BUSY); false: the message is dead and
 * its mass goes back. */
bool refusal_is_temporary(unsigned refusal);

struct receipt {
    uint8_t run_id[RUN_ID_SIZE];
    uint32_t epoch;
    uint32_t site;
    uint64_t sequence;
    uint8_t header_digest[DIGEST_SIZE];
    uint64_t index; /* of the contribution's entry */
    uint64_t entry_time_ms;
    uint32_t entry_epoch;
    uint64_t size; /* of the tree that the root is of */
    uint8_t root[DIGEST_SIZE];
    struct merkle_proof proof; /* inclusion of the entry */
};
enum { RECEIPT_LIMIT = 256 + PROOF_LIMIT * DIGEST_SIZE };

void receipt_sign(const struct receipt *receipt, const struct key_pair *key, struct buffer *out);
/* INVALID for a wrong form, signature or inclusion proof. `header` and `signature` are the
 * contribution's own bytes. */
MUST_USE enum status receipt_verify(struct bytes raw,
                                    const uint8_t coordinator_key[static PUBLIC_KEY_SIZE],
                                    const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                                    const uint8_t signature[static SIGNATURE_SIZE],
                                    struct receipt *out, struct error *error);

#endif
