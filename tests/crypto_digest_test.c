#include "base/memory.h"
#include "crypto/digest.h"
#include "tests/test.h"

static void check_hex(const uint8_t digest[static DIGEST_SIZE], const char *wanted) {
    char text[HEX32_SIZE];
    CHECK_TEXT(hex_encode(digest, DIGEST_SIZE, text), wanted);
}

TEST(known_messages_have_their_known_digests) { /* FIPS 180-4 examples */
    uint8_t out[DIGEST_SIZE];
    digest_sha256("", 0, out);
    check_hex(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    digest_sha256(NULL, 0, out);
    check_hex(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    digest_sha256("abc", 3, out);
    check_hex(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    digest_sha256(two_blocks, strlen(two_blocks), out);
    check_hex(out, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(a_million_letters_in_uneven_pieces_are_the_same_as_in_one) {
    uint8_t out[DIGEST_SIZE];
    char *letters = xmalloc(1000000);
    memset(letters, 'a', 1000000);
    struct digest digest;
    digest_init(&digest);
    size_t at = 0;
    for (size_t size = 0; at < 1000000; size = size % 977 + 1) {
        size_t take = MIN(size, 1000000 - at);
        digest_update(&digest, letters + at, take);
        at += take;
    }
    digest_final(&digest, out);
    check_hex(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(letters);
}

TEST(a_copied_stream_goes_on_by_itself) {
    struct digest one, other;
    uint8_t left[DIGEST_SIZE], right[DIGEST_SIZE], wanted[DIGEST_SIZE];
    digest_init(&one);
    digest_update(&one, "ab", 2);
    other = one;
    digest_update(&one, "c", 1);
    digest_update(&other, "d", 1);
    digest_final(&one, left);
    digest_final(&other, right);
    digest_sha256("abc", 3, wanted);
    CHECK(digest_equal(left, wanted));
    digest_sha256("abd", 3, wanted);
    CHECK(digest_equal(right, wanted));
    CHECK(!digest_equal(left, right));
}

TEST(pieces_are_hashed_one_behind_the_other) {
    const struct bytes pieces[4] = {bytes_of("a", 1), bytes_of(NULL, 0), bytes_of("bc", 2),
                                    bytes_of("", 0)};
    uint8_t out[DIGEST_SIZE], wanted[DIGEST_SIZE];
    digest_pieces(pieces, 4, out);
    digest_sha256("abc", 3, wanted);
    CHECK(digest_equal(out, wanted));
    digest_pieces(NULL, 0, out);
    digest_sha256("", 0, wanted);
    CHECK(digest_equal(out, wanted));
}

TEST(tree_nodes_are_those_of_rfc_6962) {
    /* The reference implementation of certificate transparency tests with these leaves: "" and
     * 0x00. */
    uint8_t left[DIGEST_SIZE], right[DIGEST_SIZE];
    digest_leaf("", 0, left);
    check_hex(left, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    digest_leaf("\0", 1, right);
    check_hex(right, "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7");
    digest_children(left, right, left);
    check_hex(left, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
}

TEST(a_leaf_is_never_an_inner_node) {
    uint8_t both[2 * DIGEST_SIZE] = {1}, leaf[DIGEST_SIZE], inner[DIGEST_SIZE];
    digest_leaf(both, sizeof both, leaf);
    digest_children(both, both + DIGEST_SIZE, inner);
    CHECK(!digest_equal(leaf, inner));
}

TEST(a_difference_in_any_byte_is_a_difference) {
    uint8_t a[DIGEST_SIZE] = {0}, b[DIGEST_SIZE] = {0};
    CHECK(digest_equal(a, b));
    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        b[i] = 0x80;
        CHECK(!digest_equal(a, b));
        b[i] = 0;
    }
}
