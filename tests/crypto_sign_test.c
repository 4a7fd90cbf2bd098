#include "base/memory.h"
#include "base/random.h"
#include "crypto/digest.h"
#include "crypto/sign.h"
#include "tests/test.h"

#define TAG "atoll test v1"

/* The RFC's keys; signatures over tag || 00 || message from tests/crypto_sign_vectors.py, which
 * shares no code with OpenSSL. */
static const struct vector {
    const char *seed, *public_key, *tag, *message, *signature;
} vectors[] = {{"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", TAG, "",
                "8ea11ee83bb00fb01a747ff6025e364ef4fb1f786261508c4f1db8c3b512e17f2b9f1d26f8c5a33d57"
                "3ddd0e69110f7f6f795105a079914bbe6e2382b5"
                "49cb01"},
               {"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "t", "\x72",
                "3af9ead8049884bed70cd0e837a35fcfbc0ff34962d8ef7445c3c849438c6ab1ff9a32bcae49d15f0f"
                "5b4981ec0736a61be3424d13616eeaa4d5b61f9e"
                "2ed404"},
               {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "\xaf\x82",
                "b0488972c54b7f3e43ecf20123216741a8fe217b87434463035f2ab0b8b9ceb024f3ceb5c02ce05433"
                "776137c1667179cf6cf5e208056649e7c22ab814"
                "a07503"}};
static const char *const long_signature =
    "1417e7dc77b0873f4f0375327386ade6747b90a5ae8f6b3c905d740983b9a0b723157189c0426f33fb54e33807"
    "724b7c0bb0d901057964bcf1edfd22c1576b03";

static struct bytes text_bytes(const char *text) { return bytes_of(text, strlen(text)); }

static struct key_pair *key_of(const char *seed_hex) {
    uint8_t seed[KEY_SEED_SIZE];
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_OK(hex_decode(seed_hex, seed, sizeof seed, &error));
    CHECK_OK(key_pair_from_seed(seed, &key, &error));
    return key;
}

static void signed_hello(struct key_pair **key, uint8_t signature[static SIGNATURE_SIZE]) {
    struct error error = {0};
    CHECK_OK(key_pair_create(key, &error));
    CHECK_OK(sign_message(*key, TAG, text_bytes("hello"), signature, &error));
    CHECK_OK(sign_verify(key_pair_public(*key), TAG, text_bytes("hello"),
                         bytes_of(signature, SIGNATURE_SIZE), &error));
}

TEST(keys_and_signatures_are_those_of_an_independent_ed25519) {
    for (size_t i = 0; i < COUNT_OF(vectors); i++) {
        struct key_pair *key = key_of(vectors[i].seed);
        char text[2 * SIGNATURE_SIZE + 1];
        uint8_t signature[SIGNATURE_SIZE];
        struct error error = {0};
        CHECK_TEXT(hex_encode(key_pair_public(key), PUBLIC_KEY_SIZE, text), vectors[i].public_key);
        CHECK_OK(
            sign_message(key, vectors[i].tag, text_bytes(vectors[i].message), signature, &error));
        CHECK_TEXT(hex_encode(signature, SIGNATURE_SIZE, text), vectors[i].signature);
        CHECK_OK(sign_verify(key_pair_public(key), vectors[i].tag, text_bytes(vectors[i].message),
                             bytes_of(signature, sizeof signature), &error));
        key_pair_destroy(key);
    }
}

TEST(a_message_longer_than_the_stack_buffer_is_signed_the_same_way) {
    uint8_t message[256 * 20], signature[SIGNATURE_SIZE];
    for (size_t i = 0; i < sizeof message; i++) message[i] = (uint8_t)i;
    struct key_pair *key = key_of(vectors[0].seed);
    struct error error = {0};
    char text[2 * SIGNATURE_SIZE + 1];
    CHECK_OK(sign_message(key, TAG, bytes_of(message, sizeof message), signature, &error));
    CHECK_TEXT(hex_encode(signature, SIGNATURE_SIZE, text), long_signature);
    CHECK_OK(sign_verify(key_pair_public(key), TAG, bytes_of(message, sizeof message),
                         bytes_of(signature, SIGNATURE_SIZE), &error));
    /* around the boundary between stack and heap */
    for (size_t size = 1024 - sizeof TAG - 2; size < 1024 - sizeof TAG + 3; size++) {
        CHECK_OK(sign_message(key, TAG, bytes_of(message, size), signature, &error));
        CHECK_OK(sign_verify(key_pair_public(key), TAG, bytes_of(message, size),
                             bytes_of(signature, SIGNATURE_SIZE), &error));
    }
    key_pair_destroy(key);
}

TEST(one_flipped_bit_anywhere_in_the_signature_is_refused) {
    struct key_pair *key = NULL;
    uint8_t signature[SIGNATURE_SIZE];
    signed_hello(&key, signature);
    for (unsigned bit = 0; bit < 8 * SIGNATURE_SIZE; bit++) {
        signature[bit / 8] ^= (uint8_t)(1u << bit % 8);
        struct error error = {0};
        CHECK_STATUS(sign_verify(key_pair_public(key), TAG, text_bytes("hello"),
                                 bytes_of(signature, SIGNATURE_SIZE), &error),
                     INVALID);
        CHECK_EQUAL(error.status, INVALID);
        signature[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    key_pair_destroy(key);
}

TEST(one_flipped_bit_in_the_key_or_the_message_is_refused) {
    struct key_pair *key = NULL;
    uint8_t signature[SIGNATURE_SIZE], public_key[PUBLIC_KEY_SIZE];
    signed_hello(&key, signature);
    memcpy(public_key, key_pair_public(key), sizeof public_key);
    for (unsigned bit = 0; bit < 8 * PUBLIC_KEY_SIZE; bit++) {
        public_key[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(sign_verify(public_key, TAG, text_bytes("hello"),
                                 bytes_of(signature, SIGNATURE_SIZE), NULL),
                     INVALID);
        public_key[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_STATUS(sign_verify(public_key, TAG, text_bytes("hellp"),
                             bytes_of(signature, SIGNATURE_SIZE), NULL),
                 INVALID);
    CHECK_STATUS(sign_verify(public_key, TAG, text_bytes("hello "),
                             bytes_of(signature, SIGNATURE_SIZE), NULL),
                 INVALID);
    CHECK_STATUS(
        sign_verify(public_key, TAG, bytes_of(NULL, 0), bytes_of(signature, SIGNATURE_SIZE), NULL),
        INVALID);
    key_pair_destroy(key);
}

TEST(a_signature_of_another_length_is_refused) {
    struct key_pair *key = NULL;
    uint8_t signature[SIGNATURE_SIZE + 1] = {0};
    signed_hello(&key, signature);
    static const size_t sizes[] = {0, 1, 32, 63, 65};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct error error = {0};
        CHECK_STATUS(sign_verify(key_pair_public(key), TAG, text_bytes("hello"),
                                 bytes_of(signature, sizes[i]), &error),
                     INVALID);
        CHECK_CONTAINS(error.message, "not 64");
    }
    CHECK_STATUS(
        sign_verify(key_pair_public(key), TAG, text_bytes("hello"), bytes_of(NULL, 0), NULL),
        INVALID);
    key_pair_destroy(key);
}

TEST(s_plus_the_group_order_is_a_second_spelling_and_refused) {
    /* L = 2^252 + 27742317777372353535851937790883648493, little-endian */
    static const uint8_t order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58,       0xd6,
                                      0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, [31] = 0x10};
    struct key_pair *key = NULL;
    uint8_t signature[SIGNATURE_SIZE];
    signed_hello(&key, signature);
    for (unsigned round = 0; round < 7; round++) { /* S + L .. S + 7L fit into 256 bits */
        unsigned carry = 0;
        for (unsigned i = 0; i < 32; i++) {
            carry += (unsigned)signature[32 + i] + order[i];
            signature[32 + i] = (uint8_t)carry;
            carry >>= 8;
        }
        CHECK_STATUS(sign_verify(key_pair_public(key), TAG, text_bytes("hello"),
                                 bytes_of(signature, SIGNATURE_SIZE), NULL),
                     INVALID);
    }
    key_pair_destroy(key);
}

TEST(keys_of_small_order_are_refused_though_the_equation_holds) {
    /* With A = R = the identity and S = 0 the equation S B = R + k A holds for every message. */
    uint8_t identity[PUBLIC_KEY_SIZE] = {1}, signature[SIGNATURE_SIZE] = {1};
    struct error error = {0};
    CHECK_STATUS(sign_verify(identity, TAG, text_bytes("anything"),
                             bytes_of(signature, SIGNATURE_SIZE), &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "small order");
    identity[31] = 0x80;
    CHECK_STATUS(public_key_check(identity, &error), INVALID);
    uint8_t zero[PUBLIC_KEY_SIZE] = {0}, ones[PUBLIC_KEY_SIZE];
    memset(ones, 0xff, sizeof ones);
    CHECK_STATUS(public_key_check(zero, &error), INVALID);
    CHECK_STATUS(public_key_check(ones, &error), INVALID);
    CHECK_CONTAINS(error.message, "not canonical");
    struct key_pair *key = key_of(vectors[0].seed);
    CHECK_OK(public_key_check(key_pair_public(key), &error));
    key_pair_destroy(key);
}

TEST(a_key_that_is_no_point_on_the_curve_is_refused) {
    uint8_t off_curve[PUBLIC_KEY_SIZE] = {2}; /* y = 2 has no x */
    struct error error = {0};
    CHECK_STATUS(public_key_check(off_curve, &error), INVALID);
    CHECK_CONTAINS(error.message, "not on the curve");
    unsigned on = 0; /* half of all y have an x: the check is neither always yes nor always no, and
                        agrees with real keys */
    for (unsigned y = 3; y < 131; y++) {
        off_curve[0] = (uint8_t)y;
        on += public_key_check(off_curve, NULL) == OK;
    }
    CHECK(on > 40 && on < 90);
    for (unsigned round = 0; round < 50; round++) {
        struct key_pair *key = NULL;
        CHECK_OK(key_pair_create(&key, &error));
        CHECK_OK(public_key_check(key_pair_public(key), &error));
        key_pair_destroy(key);
    }
}

TEST(random_junk_is_refused_and_nothing_crashes) {
    struct random random;
    random_init(&random, 8032);
    for (int round = 0; round < 2000; round++) {
        uint8_t junk[PUBLIC_KEY_SIZE + SIGNATURE_SIZE + 64];
        for (size_t i = 0; i < sizeof junk; i++) junk[i] = (uint8_t)random_u64(&random);
        if (round % 3 == 0) memset(junk + PUBLIC_KEY_SIZE + 32, 0, 32); /* S = 0 */
        if (round % 5 == 0) memset(junk + PUBLIC_KEY_SIZE, 0xff, 32);
        CHECK_STATUS(sign_verify(junk, TAG,
                                 bytes_of(junk, (size_t)random_below(&random, sizeof junk)),
                                 bytes_of(junk + PUBLIC_KEY_SIZE, SIGNATURE_SIZE), NULL),
                     INVALID);
    }
}

TEST(a_signature_for_one_kind_of_object_is_none_for_another) {
    struct key_pair *key = NULL;
    uint8_t signature[SIGNATURE_SIZE];
    signed_hello(&key, signature);
    const uint8_t *public_key = key_pair_public(key);
    struct bytes whole = bytes_of(signature, sizeof signature);
    CHECK_STATUS(sign_verify(public_key, "atoll test v2", text_bytes("hello"), whole, NULL),
                 INVALID);
    /* Moving the boundary between tag and message must not help. */
    CHECK_STATUS(sign_verify(public_key, "atoll test v1h", text_bytes("ello"), whole, NULL),
                 INVALID);
    CHECK_STATUS(sign_verify(public_key, "atoll test v", text_bytes("1hello"), whole, NULL),
                 INVALID);
    CHECK_STATUS(sign_verify(public_key, "atoll test v", bytes_of("1\0hello", 7), whole, NULL),
                 INVALID);
    key_pair_destroy(key);
}

TEST(a_private_key_survives_pem) {
    struct key_pair *key = key_of(vectors[0].seed), *again = NULL;
    struct buffer pem = {0};
    struct error error = {0};
    CHECK_OK(key_pair_to_pem(key, &pem, &error));
    CHECK(pem.size > 100 && memcmp(pem.data, "-----BEGIN PRIVATE KEY-----\n", 28) == 0);
    CHECK_OK(key_pair_from_pem(buffer_bytes(&pem), &again, &error));
    CHECK_MEMORY(key_pair_public(again), key_pair_public(key), PUBLIC_KEY_SIZE);
    key_pair_destroy(key);
    key_pair_destroy(again);
    buffer_append(&pem, "\n \n", 3);
    CHECK_OK(key_pair_from_pem(buffer_bytes(&pem), &again, &error));
    key_pair_destroy(again);
    again = NULL;
    buffer_append(&pem, "x", 1);
    CHECK_STATUS(key_pair_from_pem(buffer_bytes(&pem), &again, &error), INVALID);
    for (size_t size = 0; size < 110; size++)
        CHECK_STATUS(key_pair_from_pem(bytes_of(pem.data, size), &again, NULL), INVALID);
    CHECK(again == NULL);
    buffer_deinit(&pem);
}

TEST(keys_of_other_kinds_and_encrypted_keys_are_refused) {
    /* openssl genpkey -algorithm X25519 */
    static const char *const x25519 =
        "-----BEGIN PRIVATE "
        "KEY-----\nMC4CAQAwBQYDK2VuBCIEIHCUlZHgFn8lRwYvWZXSTTsxYBW5ndKDbqYuLcLWbKhT\n"
        "-----END PRIVATE KEY-----\n";
    /* openssl genpkey -algorithm ED25519 -aes128 -pass pass:x, shortened: it must fail at the
     * passphrase, not ask for it */
    static const char *const encrypted =
        "-----BEGIN ENCRYPTED PRIVATE "
        "KEY-----\nMIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgAAAAAAAAAAAICCAAw\n"
        "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEAAAAAAAAAAAAAAAAAAAAAAEQAAA\n"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAAAAAAAAAAAAAAAAAAAAAA="
        "\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n";
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_STATUS(key_pair_from_pem(text_bytes(x25519), &key, &error), INVALID);
    CHECK_CONTAINS(error.message, "not Ed25519");
    CHECK_STATUS(key_pair_from_pem(text_bytes(encrypted), &key, &error), INVALID);
    CHECK(key == NULL);
}

TEST(a_key_id_is_the_first_bytes_of_the_keys_digest) {
    struct key_pair *key = key_of(vectors[0].seed);
    uint8_t id[KEY_ID_SIZE], digest[DIGEST_SIZE];
    key_id(key_pair_public(key), id);
    digest_sha256(key_pair_public(key), PUBLIC_KEY_SIZE, digest);
    CHECK_MEMORY(id, digest, KEY_ID_SIZE);
    key_pair_destroy(key);
}

TEST(no_two_created_keys_are_the_same) {
    struct key_pair *a = NULL, *b = NULL;
    struct error error = {0};
    CHECK_OK(key_pair_create(&a, &error));
    CHECK_OK(key_pair_create(&b, &error));
    CHECK(memcmp(key_pair_public(a), key_pair_public(b), PUBLIC_KEY_SIZE) != 0);
    key_pair_destroy(a);
    key_pair_destroy(b);
    key_pair_destroy(NULL);
}

TEST_EXPECTED_TO(CRASH, a_tag_that_is_too_long_is_a_broken_program) {
    uint8_t signature[SIGNATURE_SIZE] = {0};
    struct key_pair *key = key_of(vectors[0].seed);
    char tag[SIGN_TAG_MAX + 2] = {0};
    memset(tag, 'x', SIGN_TAG_MAX + 1);
    enum status status = sign_message(key, tag, bytes_of(NULL, 0), signature, NULL);
    (void)status;
}
