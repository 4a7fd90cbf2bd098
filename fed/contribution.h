/* What a site signs: a header of fixed layout that names everything its payload depends on.
 *
 * The signature is Ed25519 over CONTRIBUTION_TAG || the header's bytes as they travelled; nothing
 * is parsed before it is verified. The payload is the codec's message, bound by length and SHA-256.
 * The ledger keeps header and signature; the payload is a content-addressed blob.
 *
 * Sequences: a site numbers its contributions 1, 2, 3, ... over all fragments; a number that was
 * refused is not used again, so gaps are legal, going back is not. `previous` is the SHA-256 of the
 * header of the site's last contribution that is in the ledger (zero for the first), so a site's
 * contributions form a chain that nobody can cut or reorder.
 */
#ifndef FED_CONTRIBUTION_H
#define FED_CONTRIBUTION_H

#include <stdint.h>

#include "base/bytes.h"
#include "crypto/digest.h"
#include "crypto/sign.h"

#define CONTRIBUTION_TAG "atoll contribution 1"

enum {
    PROTOCOL_VERSION = 1,
    PROTOCOL_OLDEST = 1,
    RUN_ID_SIZE = 16,
    CONTRIBUTION_HEADER_SIZE =
        272 /* the sum of the fields below, in their order, without padding */
};

struct contribution {
    uint16_t protocol;
    uint16_t codec; /* enum codec of codec/codec.h */
    uint32_t epoch; /* of the coordinator the site speaks to */
    uint8_t run_id[RUN_ID_SIZE];
    uint32_t site; /* the number the ledger gave the site */
    uint32_t fragment;
    uint8_t key_id[KEY_ID_SIZE]; /* first bytes of the SHA-256 of the signing key */
    uint64_t sequence;           /* from 1 */
    uint64_t base_version;
    uint8_t base_root[DIGEST_SIZE]; /* state root of base_version as the site computed it; zero
                                       where it kept none */
    uint32_t inner_steps;
    uint32_t reserved; /* zero */
    /* trained on since the last contribution of this fragment; at most TOKENS_LIMIT */
    uint64_t tokens;
    float loss;          /* mean over those, nats per token; finite */
    float compute_share; /* of the site's time since its start, 0 to 1: told, not trusted */
    double norm; /* L2 norm of the decoded payload by codec/'s fixed reduction; finite, >= 0 */
    uint8_t layout_digest[DIGEST_SIZE];
    uint64_t payload_size;
    uint8_t payload_digest[DIGEST_SIZE];
    uint8_t previous[DIGEST_SIZE];
    uint64_t signed_at_ms; /* wall clock of the site, for expiry and for people */
    uint8_t manifest_digest[DIGEST_SIZE];
    /* the base version at which its oldest inner step began, at most base_version: the age of what
     * is in it, for weights and for people */
    uint64_t began_version;
};

#define TOKENS_LIMIT (UINT64_C(1) << 50)
/* A sequence leads the site's last one by at most so much: a number that was refused is lost, but
 * the last of all numbers would end its site. */
#define SEQUENCE_LEAD_LIMIT (UINT64_C(1) << 16)
/* Of a contribution's norm. A step refuses values that could grow past 2^120 (fed/model_state.c),
 * and a step that cannot be computed is the end of a run; so nothing enters the ledger that could
 * bring it there in fewer than 2^50 contributions. */
#define NORM_LIMIT 0x1p64

/* Writes exactly CONTRIBUTION_HEADER_SIZE bytes. */
void contribution_encode(const struct contribution *contribution,
                         uint8_t out[static CONTRIBUTION_HEADER_SIZE]);
/* INVALID for a wrong size, a nonzero reserved field, or a non-finite or negative number; nothing
 * about meaning is checked. */
MUST_USE enum status contribution_decode(struct bytes header, struct contribution *out,
                                         struct error *error);

/* Aborts, as xmalloc does without memory, when OpenSSL cannot sign; so do the other *_sign of fed/.
 */
void contribution_sign(const struct key_pair *key,
                       const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                       uint8_t signature[static SIGNATURE_SIZE]);
bool contribution_verify(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                         const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                         const uint8_t signature[static SIGNATURE_SIZE]);
void contribution_digest(const uint8_t header[static CONTRIBUTION_HEADER_SIZE],
                         uint8_t out[static DIGEST_SIZE]);

#endif
