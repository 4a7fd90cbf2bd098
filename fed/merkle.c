/* Every level keeps the hashes of its complete subtrees: level 0 the leaves, level k one hash for
 * each 2^k of them. The root of any prefix is then at most 64 lookups folded from the right, and so
 * is every part of a proof. */
#include "fed/merkle.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "state roots hash parameters as they lie in memory: little-endian");

struct merkle_level {
    uint8_t (*hashes)[DIGEST_SIZE]; /* [count], owned */
    uint64_t count, capacity;
};

struct merkle {
    struct merkle_level levels[MERKLE_LEVELS];
};

struct merkle *merkle_create(void) {
    return xcalloc(1, sizeof(struct merkle));
}

void merkle_destroy(struct merkle *tree) {
    if (!tree) return;
    for (size_t i = 0; i < MERKLE_LEVELS; i++) free(tree->levels[i].hashes);
    free(tree);
}

void merkle_leaf(struct bytes entry, uint8_t out[static DIGEST_SIZE]) {
    digest_leaf(entry.data, entry.size, out);
}

static void level_push(struct merkle_level *level, const uint8_t hash[static DIGEST_SIZE]) {
    if (level->count == level->capacity) {
        level->capacity = level->capacity ? level->capacity * 2 : 8;
        level->hashes = xrealloc(level->hashes, (size_t)level->capacity * DIGEST_SIZE);
    }
    memcpy(level->hashes[level->count++], hash, DIGEST_SIZE);
}

void merkle_append(struct merkle *tree, const uint8_t leaf[static DIGEST_SIZE]) {
    uint8_t hash[DIGEST_SIZE];
    memcpy(hash, leaf, DIGEST_SIZE);
    for (size_t i = 0; i < MERKLE_LEVELS; i++) {
        struct merkle_level *level = &tree->levels[i];
        level_push(level, hash);
        if (level->count % 2 != 0) return;
        digest_children(level->hashes[level->count - 2], level->hashes[level->count - 1], hash);
    }
}

uint64_t merkle_size(const struct merkle *tree) { return tree->levels[0].count; }

/* The largest power of two below n, n >= 2: where RFC 6962 splits a tree. */
static uint64_t split_of(uint64_t n) { return UINT64_C(1) << (63 - __builtin_clzll(n - 1)); }

/* MTH of leaves [start, start + size), size >= 1, where start is a multiple of the next power of
 * two from size up: all that RFC 6962's recursions ask for. */
static void range_root(const struct merkle *tree, uint64_t start, uint64_t size,
                       uint8_t out[static DIGEST_SIZE]) {
    if ((size & (size - 1)) == 0) {
        unsigned level = (unsigned)__builtin_ctzll(size);
        memcpy(out, tree->levels[level].hashes[start >> level], DIGEST_SIZE);
        return;
    }
    uint64_t split = split_of(size);
    uint8_t right[DIGEST_SIZE];
    range_root(tree, start, split, out);
    range_root(tree, start + split, size - split, right);
    digest_children(out, right, out);
}

void merkle_root(const struct merkle *tree, uint64_t size, uint8_t out[static DIGEST_SIZE]) {
    ASSERT(size <= merkle_size(tree));
    if (size == 0)
        digest_sha256(NULL, 0, out);
    else
        range_root(tree, 0, size, out);
}

static void proof_range(const struct merkle *tree, uint64_t start, uint64_t size,
                        struct merkle_proof *out) {
    ASSERT(out->count < PROOF_LIMIT);
    range_root(tree, start, size, out->hashes[out->count++]);
}

/* PATH(m, D[n]) of RFC 6962, 2.1.1, walked from the top; the proof lists siblings from the bottom,
 * hence the turn at the end. */
void merkle_prove_inclusion(const struct merkle *tree, uint64_t index, uint64_t size,
                            struct merkle_proof *out) {
    ASSERT(index < size && size <= merkle_size(tree));
    struct merkle_proof down = {0};
    uint64_t start = 0;
    while (size > 1) {
        uint64_t split = split_of(size);
        if (index - start < split) {
            proof_range(tree, start + split, size - split, &down);
            size = split;
        } else {
            proof_range(tree, start, split, &down);
            start += split;
            size -= split;
        }
    }
    out->count = down.count;
    for (uint32_t i = 0; i < down.count; i++)
        memcpy(out->hashes[i], down.hashes[down.count - 1 - i], DIGEST_SIZE);
}

/* SUBPROOF(m, D[n], b) of RFC 6962, 2.1.2, from the top as above. */
void merkle_prove_consistency(const struct merkle *tree, uint64_t old_size, uint64_t size,
                              struct merkle_proof *out) {
    ASSERT(old_size <= size && size <= merkle_size(tree));
    out->count = 0;
    if (old_size == 0 || old_size == size) return;
    struct merkle_proof down = {0};
    uint64_t start = 0, left = old_size;
    bool whole = true; /* b: the old tree is a complete left part of what we look at, so its root is
                          known to the reader */
    while (left != size) {
        uint64_t split = split_of(size);
        if (left <= split) {
            proof_range(tree, start + split, size - split, &down);
            size = split;
        } else {
            proof_range(tree, start, split, &down);
            start += split;
            left -= split;
            size -= split;
            whole = false;
        }
    }
    if (!whole) proof_range(tree, start, size, &down);
    out->count = down.count;
    for (uint32_t i = 0; i < down.count; i++)
        memcpy(out->hashes[i], down.hashes[down.count - 1 - i], DIGEST_SIZE);
}

/* RFC 9162, 2.1.3.2. */
bool merkle_check_inclusion(const uint8_t leaf[static DIGEST_SIZE], uint64_t index, uint64_t size,
                            const struct merkle_proof *proof,
                            const uint8_t root[static DIGEST_SIZE]) {
    if (index >= size || proof->count > PROOF_LIMIT) return false;
    uint64_t node = index, last = size - 1;
    uint8_t hash[DIGEST_SIZE];
    memcpy(hash, leaf, DIGEST_SIZE);
    for (uint32_t i = 0; i < proof->count; i++) {
        if (last == 0) return false;
        if ((node & 1) || node == last) {
            digest_children(proof->hashes[i], hash, hash);
            while (!(node & 1) && node != 0) {
                node >>= 1;
                last >>= 1;
            }
        } else {
            digest_children(hash, proof->hashes[i], hash);
        }
        node >>= 1;
        last >>= 1;
    }
    return last == 0 && digest_equal(hash, root);
}

/* RFC 9162, 2.1.4.2. Of nothing, and of equal sizes, the empty proof is the only one. */
bool merkle_check_consistency(uint64_t old_size, const uint8_t old_root[static DIGEST_SIZE],
                              uint64_t size, const uint8_t root[static DIGEST_SIZE],
                              const struct merkle_proof *proof) {
    if (old_size > size || proof->count > PROOF_LIMIT) return false;
    if (old_size == 0) {
        uint8_t empty[DIGEST_SIZE];
        digest_sha256(NULL, 0, empty);
        return proof->count == 0 && digest_equal(old_root, empty) &&
               (size != 0 || digest_equal(root, empty));
    }
    if (old_size == size) return proof->count == 0 && digest_equal(old_root, root);
    uint8_t old_hash[DIGEST_SIZE], hash[DIGEST_SIZE];
    uint32_t at = 0;
    uint64_t node = old_size - 1, last = size - 1;
    if ((old_size & (old_size - 1)) == 0) { /* the old root itself opens the path */
        memcpy(hash, old_root, DIGEST_SIZE);
    } else {
        if (proof->count == 0) return false;
        memcpy(hash, proof->hashes[at++], DIGEST_SIZE);
    }
    memcpy(old_hash, hash, DIGEST_SIZE);
    while (node & 1) {
        node >>= 1;
        last >>= 1;
    }
    for (; at < proof->count; at++) {
        if (last == 0) return false;
        if ((node & 1) || node == last) {
            digest_children(proof->hashes[at], old_hash, old_hash);
            digest_children(proof->hashes[at], hash, hash);
            while (!(node & 1) && node != 0) {
                node >>= 1;
                last >>= 1;
            }
        } else {
            digest_children(hash, proof->hashes[at], hash);
        }
        node >>= 1;
        last >>= 1;
    }
    return last == 0 && digest_equal(old_hash, old_root) && digest_equal(hash, root);
}

static void head_message(const struct ledger_head *head, struct buffer *out) {
    buffer_append(out, head->run_id, RUN_ID_SIZE);
    buffer_u32(out, head->epoch);
    buffer_u64(out, head->size);
    buffer_append(out, head->root, DIGEST_SIZE);
}

void ledger_head_sign(const struct ledger_head *head, const struct key_pair *key,
                      uint8_t out[static HEAD_SIZE]) {
    struct buffer message = {0};
    head_message(head, &message);
    memcpy(out, message.data, message.size);
    MUST(sign_message(key, HEAD_TAG, buffer_bytes(&message), out + message.size, NULL));
    buffer_deinit(&message);
}

enum status ledger_head_verify(struct bytes raw, const uint8_t public_key[static PUBLIC_KEY_SIZE],
                               struct ledger_head *out, struct error *error) {
    if (raw.size != HEAD_SIZE)
        return error_set(error, INVALID, "ledger head: %zu bytes, not %d", raw.size, HEAD_SIZE);
    struct bytes message = bytes_of(raw.data, HEAD_SIZE - SIGNATURE_SIZE);
    struct bytes signature = bytes_of(raw.data + message.size, SIGNATURE_SIZE);
    if (sign_verify(public_key, HEAD_TAG, message, signature, error) != OK)
        return error_wrap(error, INVALID, "ledger head");
    struct reader reader = reader_of(message);
    reader_copy(&reader, out->run_id, RUN_ID_SIZE);
    out->epoch = reader_u32(&reader);
    out->size = reader_u64(&reader);
    reader_copy(&reader, out->root, DIGEST_SIZE);
    return OK;
}

/* ---- the state root -------------------------------------------------------------------------- */

uint64_t state_pieces(uint64_t count) { return count / STATE_PIECE + (count % STATE_PIECE > 0); }

void state_leaf(const float *theta, uint64_t count, uint64_t piece,
                uint8_t out[static DIGEST_SIZE]) {
    uint64_t at = piece * STATE_PIECE;
    digest_leaf(theta + at, (size_t)MIN((uint64_t)STATE_PIECE, count - at) * sizeof(float), out);
}

/* One hash a level waits for its right neighbour, so memory does not grow with the model. */
struct climb {
    uint8_t waiting[MERKLE_LEVELS][DIGEST_SIZE];
    uint64_t leaves;
};

static void climb_add(struct climb *climb, const uint8_t leaf[static DIGEST_SIZE]) {
    uint8_t hash[DIGEST_SIZE];
    unsigned level = 0;
    memcpy(hash, leaf, DIGEST_SIZE);
    for (; (climb->leaves >> level) & 1; level++)
        digest_children(climb->waiting[level], hash, hash);
    memcpy(climb->waiting[level], hash, DIGEST_SIZE);
    climb->leaves++;
}

static void climb_root(const struct climb *climb, uint8_t out[static DIGEST_SIZE]) {
    bool first = true;
    for (unsigned level = 0; level < MERKLE_LEVELS; level++) {
        if (!((climb->leaves >> level) & 1)) continue;
        if (first)
            memcpy(out, climb->waiting[level], DIGEST_SIZE);
        else
            digest_children(climb->waiting[level], out, out);
        first = false;
    }
}

void state_root(const float *theta, uint64_t count, uint8_t out[static DIGEST_SIZE]) {
    struct climb climb = {.leaves = 0};
    if (count == 0) digest_sha256(NULL, 0, out);
    for (uint64_t piece = 0; piece < state_pieces(count); piece++) {
        uint8_t leaf[DIGEST_SIZE];
        state_leaf(theta, count, piece, leaf);
        climb_add(&climb, leaf);
    }
    climb_root(&climb, out);
}

void state_root_of(const uint8_t (*leaves)[DIGEST_SIZE], uint64_t pieces,
                   uint8_t out[static DIGEST_SIZE]) {
    struct climb climb = {.leaves = 0};
    for (uint64_t piece = 0; piece < pieces; piece++) climb_add(&climb, leaves[piece]);
    climb_root(&climb, out);
}
