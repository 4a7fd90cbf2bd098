#include "base/memory.h"
#include "fed/merkle.h"
#include "tests/test.h"

/* --- the vectors of Certificate Transparency's reference implementation (RFC 6962's authors) ---
 */
static const char *const leaves[8] = {"",
                                      "00",
                                      "10",
                                      "2021",
                                      "3031",
                                      "40414243",
                                      "5051525354555657",
                                      "606162636465666768696a6b6c6d6e6f"};
static const char *const roots[9] = {
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};

static void vector_leaf(size_t at, uint8_t out[static DIGEST_SIZE]) {
    uint8_t raw[16];
    size_t size = strlen(leaves[at]) / 2;
    struct error error = {0};
    CHECK_OK(hex_decode(leaves[at], raw, size, &error));
    merkle_leaf(bytes_of(raw, size), out);
}

TEST(the_roots_of_the_certificate_transparency_leaves_come_out) {
    struct merkle *tree = merkle_create();
    for (size_t size = 0; size <= 8; size++) {
        uint8_t root[DIGEST_SIZE], leaf[DIGEST_SIZE];
        char hex[HEX32_SIZE];
        merkle_root(tree, size, root);
        CHECK_TEXT(hex_encode(root, DIGEST_SIZE, hex), roots[size]);
        if (size == 8) break;
        vector_leaf(size, leaf);
        merkle_append(tree, leaf);
    }
    merkle_destroy(tree);
}

static void check_hash(const uint8_t got[static DIGEST_SIZE], const char *wanted) {
    char hex[HEX32_SIZE];
    CHECK_TEXT(hex_encode(got, DIGEST_SIZE, hex), wanted);
}

TEST(the_paths_and_proofs_of_the_certificate_transparency_leaves_come_out) {
    struct merkle *tree = merkle_create();
    for (size_t i = 0; i < 8; i++) {
        uint8_t leaf[DIGEST_SIZE];
        vector_leaf(i, leaf);
        merkle_append(tree, leaf);
    }
    struct merkle_proof proof;
    merkle_prove_inclusion(tree, 0, 8, &proof);
    CHECK_EQUAL(proof.count, 3);
    check_hash(proof.hashes[0], "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7");
    check_hash(proof.hashes[1], "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e");
    check_hash(proof.hashes[2], "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4");
    merkle_prove_inclusion(tree, 5, 8, &proof);
    CHECK_EQUAL(proof.count, 3);
    check_hash(proof.hashes[0], "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b");
    check_hash(proof.hashes[1], "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0");
    check_hash(proof.hashes[2], "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7");
    merkle_prove_consistency(tree, 6, 8, &proof);
    CHECK_EQUAL(proof.count, 3);
    check_hash(proof.hashes[0], "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a");
    check_hash(proof.hashes[1], "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0");
    check_hash(proof.hashes[2], "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7");
    merkle_destroy(tree);
}

/* --- all sizes, against the recursion as the RFC writes it --- */
enum { SIZES = 40 };

static void number_leaf(size_t number, uint8_t out[static DIGEST_SIZE]) {
    uint8_t raw[2] = {(uint8_t)number, 9};
    merkle_leaf(bytes_of(raw, sizeof raw), out);
}

static void plain_root(size_t first, size_t size, uint8_t out[static DIGEST_SIZE]) {
    if (size == 0) {
        digest_sha256(NULL, 0, out);
        return;
    }
    if (size == 1) {
        number_leaf(first, out);
        return;
    }
    size_t split = 1;
    while (split * 2 < size) split *= 2;
    uint8_t left[DIGEST_SIZE], right[DIGEST_SIZE];
    plain_root(first, split, left);
    plain_root(first + split, size - split, right);
    digest_children(left, right, out);
}

static struct merkle *number_tree(size_t size) {
    struct merkle *tree = merkle_create();
    for (size_t i = 0; i < size; i++) {
        uint8_t leaf[DIGEST_SIZE];
        number_leaf(i, leaf);
        merkle_append(tree, leaf);
    }
    return tree;
}

TEST(every_prefix_has_the_root_that_the_recursion_gives) {
    struct merkle *tree = number_tree(SIZES);
    CHECK_EQUAL(merkle_size(tree), SIZES);
    for (size_t size = 0; size <= SIZES; size++) {
        uint8_t got[DIGEST_SIZE], wanted[DIGEST_SIZE];
        merkle_root(tree, size, got);
        plain_root(0, size, wanted);
        CHECK_MEMORY(got, wanted, DIGEST_SIZE);
    }
    merkle_destroy(tree);
}

static void inclusion_of(const struct merkle *tree, size_t index, size_t size) {
    uint8_t root[DIGEST_SIZE], leaf[DIGEST_SIZE], other[DIGEST_SIZE];
    struct merkle_proof proof;
    merkle_root(tree, size, root);
    number_leaf(index, leaf);
    number_leaf(index + 1, other);
    merkle_prove_inclusion(tree, index, size, &proof);
    CHECK(merkle_check_inclusion(leaf, index, size, &proof, root));
    CHECK(!merkle_check_inclusion(other, index, size, &proof, root));
    for (size_t wrong = 0; wrong <= SIZES + 1; wrong++) {
        if (wrong != index) CHECK(!merkle_check_inclusion(leaf, wrong, size, &proof, root));
        if (wrong != size) {
            /* A path of the same length and turns fits another size only with another root. */
            uint8_t wrong_root[DIGEST_SIZE];
            plain_root(0, wrong, wrong_root);
            CHECK(!merkle_check_inclusion(leaf, index, wrong, &proof, wrong_root));
        }
    }
    for (uint32_t i = 0; i < proof.count; i++) {
        proof.hashes[i][i % DIGEST_SIZE] ^= 1;
        CHECK(!merkle_check_inclusion(leaf, index, size, &proof, root));
        proof.hashes[i][i % DIGEST_SIZE] ^= 1;
    }
    if (proof.count > 0) {
        proof.count--;
        CHECK(!merkle_check_inclusion(leaf, index, size, &proof, root));
        proof.count++;
    }
    memset(proof.hashes[proof.count], 0, DIGEST_SIZE);
    proof.count++;
    CHECK(!merkle_check_inclusion(leaf, index, size, &proof, root));
}

TEST(every_inclusion_proof_passes_and_every_altered_one_fails) {
    struct merkle *tree = number_tree(SIZES);
    for (size_t size = 1; size <= SIZES; size++)
        for (size_t index = 0; index < size; index++) inclusion_of(tree, index, size);
    merkle_destroy(tree);
}

static void consistency_of(const struct merkle *tree, size_t old_size, size_t size) {
    uint8_t old_root[DIGEST_SIZE], root[DIGEST_SIZE];
    struct merkle_proof proof;
    merkle_root(tree, old_size, old_root);
    merkle_root(tree, size, root);
    merkle_prove_consistency(tree, old_size, size, &proof);
    CHECK(merkle_check_consistency(old_size, old_root, size, root, &proof));
    for (size_t wrong = 0; wrong <= SIZES; wrong++) {
        uint8_t wrong_root[DIGEST_SIZE];
        merkle_root(tree, wrong, wrong_root);
        if (wrong != old_size)
            CHECK(!merkle_check_consistency(old_size, wrong_root, size, root, &proof));
        if (wrong != size && old_size != 0)
            CHECK(!merkle_check_consistency(old_size, old_root, size, wrong_root, &proof));
    }
    if (old_size > 0) /* a higher tree's path is longer */
        CHECK(!merkle_check_consistency(old_size, old_root, size + 64, root, &proof));
    for (uint32_t i = 0; i < proof.count; i++) {
        proof.hashes[i][31] ^= 0x80;
        CHECK(!merkle_check_consistency(old_size, old_root, size, root, &proof));
        proof.hashes[i][31] ^= 0x80;
    }
    if (proof.count > 0) {
        proof.count--;
        CHECK(!merkle_check_consistency(old_size, old_root, size, root, &proof));
        proof.count++;
    }
    memset(proof.hashes[proof.count], 7, DIGEST_SIZE);
    proof.count++;
    CHECK(!merkle_check_consistency(old_size, old_root, size, root, &proof));
    if (old_size != size) CHECK(!merkle_check_consistency(size, root, old_size, old_root, &proof));
}

TEST(every_consistency_proof_passes_and_every_altered_one_fails) {
    struct merkle *tree = number_tree(SIZES);
    for (size_t size = 0; size <= SIZES; size++)
        for (size_t old_size = 0; old_size <= size; old_size++)
            consistency_of(tree, old_size, size);
    merkle_destroy(tree);
}

TEST(a_rewritten_history_has_no_consistency_proof) {
    struct merkle *honest = number_tree(20), *rewritten = number_tree(7);
    for (size_t i = 7; i < 30; i++) {
        uint8_t leaf[DIGEST_SIZE];
        number_leaf(i == 11 ? 99 : i, leaf);
        merkle_append(rewritten, leaf);
    }
    uint8_t old_root[DIGEST_SIZE], root[DIGEST_SIZE];
    struct merkle_proof proof;
    merkle_root(honest, 20, old_root);
    merkle_root(rewritten, 30, root);
    merkle_prove_consistency(rewritten, 20, 30, &proof);
    CHECK(!merkle_check_consistency(20, old_root, 30, root, &proof));
    merkle_destroy(honest);
    merkle_destroy(rewritten);
}

TEST(junk_sizes_and_counts_are_false_and_nothing_worse) {
    uint8_t hash[DIGEST_SIZE] = {0};
    struct merkle_proof proof = {.count = PROOF_LIMIT};
    CHECK(!merkle_check_inclusion(hash, 0, 0, &proof, hash));
    CHECK(!merkle_check_inclusion(hash, UINT64_MAX - 1, UINT64_MAX, &proof, hash));
    CHECK(!merkle_check_consistency(UINT64_MAX - 1, hash, UINT64_MAX, hash, &proof));
    CHECK(!merkle_check_consistency(UINT64_MAX, hash, 1, hash, &proof));
    proof.count = UINT32_MAX;
    CHECK(!merkle_check_inclusion(hash, 1, 3, &proof, hash));
    CHECK(!merkle_check_consistency(1, hash, 3, hash, &proof));
    proof.count = 0;
    CHECK(!merkle_check_consistency(3, hash, 4, hash, &proof));
}

static struct key_pair *key_of(uint8_t number) {
    uint8_t seed[KEY_SEED_SIZE] = {number};
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_OK(key_pair_from_seed(seed, &key, &error));
    return key;
}

TEST(a_signed_head_comes_back_and_no_byte_of_it_may_change) {
    struct key_pair *key = key_of(1), *other = key_of(2);
    struct ledger_head head = {.run_id = {1, 2, 3}, .epoch = 4, .size = 5, .root = {6}}, read = {0};
    uint8_t raw[HEAD_SIZE];
    struct error error = {0};
    ledger_head_sign(&head, key, raw);
    CHECK_OK(ledger_head_verify(bytes_of(raw, sizeof raw), key_pair_public(key), &read, &error));
    CHECK_MEMORY(read.run_id, head.run_id, RUN_ID_SIZE);
    CHECK_MEMORY(read.root, head.root, DIGEST_SIZE);
    CHECK_EQUAL(read.epoch, 4);
    CHECK_EQUAL(read.size, 5);
    CHECK_STATUS(
        ledger_head_verify(bytes_of(raw, sizeof raw), key_pair_public(other), &read, &error),
        INVALID);
    for (size_t i = 0; i < sizeof raw; i++) {
        raw[i] ^= 0x10;
        CHECK_STATUS(
            ledger_head_verify(bytes_of(raw, sizeof raw), key_pair_public(key), &read, &error),
            INVALID);
        raw[i] ^= 0x10;
    }
    CHECK_STATUS(
        ledger_head_verify(bytes_of(raw, sizeof raw - 1), key_pair_public(key), &read, &error),
        INVALID);
    CHECK_STATUS(ledger_head_verify(bytes_of(raw, 0), key_pair_public(key), &read, &error),
                 INVALID);
    key_pair_destroy(key);
    key_pair_destroy(other);
}

/* --- the state root --- */
TEST(the_state_root_is_the_tree_over_mebibyte_pieces) {
    enum { PIECE = STATE_PIECE_SIZE / 4 };
    const uint64_t counts[] = {0,         1,         PIECE - 1,     PIECE,         PIECE + 1,
                               2 * PIECE, 3 * PIECE, 4 * PIECE + 5, 6 * PIECE + 1, 7 * PIECE};
    float *theta = xcalloc(7 * PIECE, sizeof *theta);
    for (size_t i = 0; i < 7 * PIECE; i++) theta[i] = (float)i;
    for (size_t at = 0; at < COUNT_OF(counts); at++) {
        struct merkle *tree = merkle_create();
        for (uint64_t i = 0; i < counts[at]; i += PIECE) {
            uint8_t leaf[DIGEST_SIZE];
            merkle_leaf(bytes_of(theta + i, (size_t)MIN((uint64_t)PIECE, counts[at] - i) * 4),
                        leaf);
            merkle_append(tree, leaf);
        }
        uint8_t got[DIGEST_SIZE], wanted[DIGEST_SIZE];
        state_root(theta, counts[at], got);
        merkle_root(tree, merkle_size(tree), wanted);
        CHECK_MEMORY(got, wanted, DIGEST_SIZE);
        merkle_destroy(tree);
    }
    free(theta);
}

TEST(the_state_root_tells_one_bit_and_the_sign_of_zero) {
    float theta[3] = {0, 1, 2};
    uint8_t before[DIGEST_SIZE], after[DIGEST_SIZE];
    state_root(theta, 3, before);
    theta[0] = -0.0f;
    state_root(theta, 3, after);
    CHECK(memcmp(before, after, DIGEST_SIZE) != 0);
}
