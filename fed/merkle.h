/* The RFC 6962 hash tree over ledger entries, and the same tree over pieces of the parameters.
 *
 * leaf = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right). The tree keeps every
 * complete subtree's hash, 64 bytes a leaf, so that proofs need no disk. A signed head (size, root)
 * is the coordinator's word on a prefix of its ledger: two heads that no consistency proof joins
 * are evidence of a rewritten history.
 */
#ifndef FED_MERKLE_H
#define FED_MERKLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "crypto/digest.h"
#include "crypto/sign.h"
#include "fed/contribution.h"

#define HEAD_TAG "atoll ledger head 1"

enum { MERKLE_LEVELS = 64, PROOF_LIMIT = 64 /* hashes */ };

struct merkle; /* owned by one thread */

struct merkle *merkle_create(void);
void merkle_destroy(struct merkle *tree);
void merkle_leaf(struct bytes entry, uint8_t out[static DIGEST_SIZE]);
void merkle_append(struct merkle *tree, const uint8_t leaf[static DIGEST_SIZE]);
uint64_t merkle_size(const struct merkle *tree);
/* Root of the first `size` leaves; of none: SHA-256 of nothing (RFC 6962, 2.1). size <=
 * merkle_size. */
void merkle_root(const struct merkle *tree, uint64_t size, uint8_t out[static DIGEST_SIZE]);

struct merkle_proof {
    uint32_t count;
    uint8_t hashes[PROOF_LIMIT][DIGEST_SIZE];
};
/* RFC 6962, 2.1.1 and 2.1.2. index < size <= merkle_size; old_size <= size. */
void merkle_prove_inclusion(const struct merkle *tree, uint64_t index, uint64_t size,
                            struct merkle_proof *out);
void merkle_prove_consistency(const struct merkle *tree, uint64_t old_size, uint64_t size,
                              struct merkle_proof *out);
/* RFC 9162, 2.1.3.2 and 2.1.4.2: true only for a correct proof; junk is false. */
bool merkle_check_inclusion(const uint8_t leaf[static DIGEST_SIZE], uint64_t index, uint64_t size,
                            const struct merkle_proof *proof,
                            const uint8_t root[static DIGEST_SIZE]);
bool merkle_check_consistency(uint64_t old_size, const uint8_t old_root[static DIGEST_SIZE],
                              uint64_t size, const uint8_t root[static DIGEST_SIZE],
                              const struct merkle_proof *proof);

/* --- signed heads --- */
struct ledger_head {
    uint8_t run_id[RUN_ID_SIZE];
    uint32_t epoch;
    uint64_t size;
    uint8_t root[DIGEST_SIZE];
};
enum { HEAD_SIZE = RUN_ID_SIZE + 4 + 8 + DIGEST_SIZE + SIGNATURE_SIZE };
void ledger_head_sign(const struct ledger_head *head, const struct key_pair *key,
                      uint8_t out[static HEAD_SIZE]);
/* INVALID for a wrong size or signature. */
MUST_USE enum status ledger_head_verify(struct bytes raw,
                                        const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                        struct ledger_head *out, struct error *error);

/* The state root: this tree over 1 MiB pieces of theta as little-endian fp32; of no parameters, the
 * empty tree's. */
enum { STATE_PIECE_SIZE = 1 << 20, STATE_PIECE = STATE_PIECE_SIZE / 4 /* parameters */ };
void state_root(const float *theta, uint64_t count, uint8_t out[static DIGEST_SIZE]);
/* The leaf of one piece, and the root over all of them: leaves is [pieces], pieces > 0. */
uint64_t state_pieces(uint64_t count);
void state_leaf(const float *theta, uint64_t count, uint64_t piece,
                uint8_t out[static DIGEST_SIZE]);
void state_root_of(const uint8_t (*leaves)[DIGEST_SIZE], uint64_t pieces,
                   uint8_t out[static DIGEST_SIZE]);

#endif
