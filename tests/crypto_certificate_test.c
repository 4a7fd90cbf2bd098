#include <stdarg.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "crypto/certificate.h"
#include "tests/test.h"

enum { NOW = 1770000000, DAY = 86400 };
#define SITE_URI "atoll:site:00112233445566778899aabbccddeeff"

struct world { /* a root and a node, as most tests need */
    struct key_pair *root_key, *node_key;
    struct buffer root, request;
};

static struct key_pair *new_key(void) {
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_OK(key_pair_create(&key, &error));
    return key;
}

static struct world world_create(void) {
    struct world world = {new_key(), new_key(), {0}, {0}};
    struct error error = {0};
    CHECK_OK(certificate_create_authority(world.root_key, "Atoll run demo", NOW - DAY,
                                          NOW + 3650ull * DAY, CERTIFICATE_PEM, &world.root,
                                          &error));
    CHECK_OK(certificate_request_create(world.node_key, CERTIFICATE_PEM, &world.request, &error));
    return world;
}
static void world_destroy(struct world *world) {
    key_pair_destroy(world->root_key);
    key_pair_destroy(world->node_key);
    buffer_deinit(&world->root);
    buffer_deinit(&world->request);
}
static struct certificate_terms site_terms(void) {
    return (struct certificate_terms){.common_name = "site eu-1",
                                      .uri = SITE_URI,
                                      .client = true,
                                      .not_before_s = NOW - 60,
                                      .not_after_s = NOW + 30 * DAY};
}
static enum status issue(const struct world *world, const struct certificate_terms *terms,
                         struct buffer *out, struct error *error) {
    return certificate_issue(buffer_bytes(&world->root), world->root_key,
                             buffer_bytes(&world->request), terms, CERTIFICATE_PEM, out, error);
}

TEST(what_is_issued_says_what_the_terms_say_and_is_valid) {
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    terms.server = true;
    terms.dns[0] = "atoll-coordinator";
    terms.dns[1] = "coordinator.example.org";
    for (size_t i = 0; i < sizeof terms.serial; i++) terms.serial[i] = (uint8_t)(i + 1);
    struct buffer pem = {0};
    struct error error = {0};
    struct certificate_info info;
    CHECK_OK(issue(&world, &terms, &pem, &error));
    CHECK_OK(certificate_verify(buffer_bytes(&pem), buffer_bytes(&world.root), NOW, &info, &error));
    CHECK_TEXT(info.uri, SITE_URI);
    CHECK_TEXT(info.common_name, "site eu-1");
    CHECK_EQUAL(info.dns_count, 2);
    CHECK_TEXT(info.dns[0], "atoll-coordinator");
    CHECK_TEXT(info.dns[1], "coordinator.example.org");
    CHECK(info.server && info.client && !info.authority);
    CHECK_EQUAL(info.not_before_s, terms.not_before_s);
    CHECK_EQUAL(info.not_after_s, terms.not_after_s);
    CHECK_EQUAL(info.serial_size, sizeof terms.serial);
    CHECK_MEMORY(info.serial, terms.serial, sizeof terms.serial);
    CHECK_MEMORY(info.public_key, key_pair_public(world.node_key), PUBLIC_KEY_SIZE);
    struct certificate_info root;
    CHECK_OK(certificate_parse(buffer_bytes(&world.root), &root, &error));
    CHECK(root.authority && !root.server && !root.client);
    CHECK_TEXT(root.common_name, "Atoll run demo");
    CHECK_MEMORY(root.public_key, key_pair_public(world.root_key), PUBLIC_KEY_SIZE);
    buffer_deinit(&pem);
    world_destroy(&world);
}

TEST(dates_beyond_2038_and_2050_are_kept) {
    struct world world = world_create();
    struct error error = {0};
    struct buffer root = {0}, pem = {0};
    struct certificate_info info;
    uint64_t far = 250000000000; /* in 9892 */
    CHECK_OK(certificate_create_authority(world.root_key, "far", 0, far, CERTIFICATE_DER, &root,
                                          &error));
    CHECK_OK(certificate_parse(buffer_bytes(&root), &info, &error));
    CHECK_EQUAL(info.not_before_s, 0);
    CHECK_EQUAL(info.not_after_s, far);
    struct certificate_terms terms = site_terms();
    terms.not_after_s = far;
    CHECK_OK(certificate_issue(buffer_bytes(&root), world.root_key, buffer_bytes(&world.request),
                               &terms, CERTIFICATE_PEM, &pem, &error));
    CHECK_OK(certificate_verify(buffer_bytes(&pem), buffer_bytes(&root), far - 1, NULL, &error));
    buffer_deinit(&root);
    buffer_deinit(&pem);
    world_destroy(&world);
}

TEST(either_form_goes_in_and_both_are_one_certificate) {
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer pem = {0}, der = {0}, back = {0};
    struct error error = {0};
    struct certificate_info a, b;
    CHECK_OK(issue(&world, &terms, &pem, &error));
    CHECK_OK(certificate_convert(buffer_bytes(&pem), CERTIFICATE_DER, &der, &error));
    CHECK_OK(certificate_convert(buffer_bytes(&der), CERTIFICATE_PEM, &back, &error));
    CHECK(bytes_equal(buffer_bytes(&pem), buffer_bytes(&back)));
    CHECK_OK(certificate_parse(buffer_bytes(&pem), &a, &error));
    CHECK_OK(certificate_parse(buffer_bytes(&der), &b, &error));
    CHECK(digest_equal(a.fingerprint, b.fingerprint));
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(der.data, der.size, digest);
    CHECK(digest_equal(a.fingerprint, digest));
    uint8_t key[PUBLIC_KEY_SIZE];
    struct buffer request = {0};
    CHECK_OK(certificate_request_create(world.node_key, CERTIFICATE_DER, &request, &error));
    CHECK_OK(certificate_request_key(buffer_bytes(&request), key, &error));
    CHECK_MEMORY(key, key_pair_public(world.node_key), PUBLIC_KEY_SIZE);
    CHECK_OK(certificate_request_key(buffer_bytes(&world.request), key, &error));
    buffer_deinit(&pem);
    buffer_deinit(&der);
    buffer_deinit(&back);
    buffer_deinit(&request);
    world_destroy(&world);
}

TEST(serials_are_random_unless_given_and_never_negative) {
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer a = {0}, b = {0}, c = {0};
    struct certificate_info first, second, high;
    struct error error = {0};
    CHECK_OK(issue(&world, &terms, &a, &error));
    CHECK_OK(issue(&world, &terms, &b, &error));
    CHECK_OK(certificate_parse(buffer_bytes(&a), &first, &error));
    CHECK_OK(certificate_parse(buffer_bytes(&b), &second, &error));
    CHECK(memcmp(first.serial, second.serial, 8) != 0);
    memset(terms.serial, 0xff, sizeof terms.serial);
    CHECK_OK(issue(&world, &terms, &c, &error));
    CHECK_OK(certificate_parse(buffer_bytes(&c), &high, &error));
    CHECK_EQUAL(high.serial[0], 0x7f);
    buffer_deinit(&a);
    buffer_deinit(&b);
    buffer_deinit(&c);
    world_destroy(&world);
}

TEST(terms_that_could_mislead_are_refused) {
    struct world world = world_create();
    struct buffer out = {0};
    for (int wrong = 0; wrong < 16; wrong++) {
        struct certificate_terms terms = site_terms();
        char longest[CERTIFICATE_NAME_MAX + 10];
        memset(longest, 'a', sizeof longest);
        longest[sizeof longest - 1] = 0;
        switch (wrong) {
        case 0: terms.client = false; break;
        case 1: terms.uri = "atoll:site:x,DNS:evil"; break;
        case 2: terms.uri = "atoll:site:x\nURI:evil"; break;
        case 3: terms.uri = ""; break;
        case 4: terms.uri = "no-scheme"; break;
        case 5: terms.dns[0] = "*.example.org"; break;
        case 6: terms.dns[0] = ""; break;
        case 7: terms.common_name = NULL; break;
        case 8: terms.common_name = "a/CN=b"; break;
        case 9: terms.common_name = longest; break;
        case 10: terms.not_after_s = terms.not_before_s - 1; break;
        case 11: terms.not_after_s = NOW + 4000ull * DAY; break; /* outlives the root */
        case 12: terms.not_before_s = NOW - 2 * DAY; break;
        case 13: terms.not_after_s = UINT64_MAX; break;
        case 14: terms.uri = NULL; break; /* names nobody */
        case 15:
            longest[4] = ':';
            terms.uri = longest;
            break;
        }
        struct error error = {0};
        if (issue(&world, &terms, &out, &error) != INVALID)
            test_failed(__FILE__, __LINE__, "case %d was not refused", wrong);
        CHECK_EQUAL(out.size, 0);
    }
    world_destroy(&world);
}

TEST(a_request_proves_that_its_sender_holds_the_key) {
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer der = {0}, out = {0};
    struct error error = {0};
    uint8_t key[PUBLIC_KEY_SIZE];
    CHECK_OK(certificate_request_create(world.node_key, CERTIFICATE_DER, &der, &error));
    /* Somebody else's public key put into an otherwise good request. */
    uint8_t *at = memmem(der.data, der.size, key_pair_public(world.node_key), PUBLIC_KEY_SIZE);
    CHECK(at != NULL);
    struct key_pair *victim = new_key();
    memcpy(at, key_pair_public(victim), PUBLIC_KEY_SIZE);
    CHECK_STATUS(certificate_request_key(buffer_bytes(&der), key, &error), INVALID);
    CHECK_CONTAINS(error.message, "not signed by its own key");
    CHECK_STATUS(certificate_issue(buffer_bytes(&world.root), world.root_key, buffer_bytes(&der),
                                   &terms, CERTIFICATE_PEM, &out, &error),
                 INVALID);
    key_pair_destroy(victim);
    buffer_deinit(&der);
    world_destroy(&world);
}

TEST(one_flipped_bit_anywhere_in_a_request_or_certificate_is_refused) {
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer request = {0}, der = {0};
    struct error error = {0};
    uint8_t key[PUBLIC_KEY_SIZE];
    CHECK_OK(certificate_request_create(world.node_key, CERTIFICATE_DER, &request, &error));
    for (size_t bit = 0; bit < 8 * request.size; bit++) {
        request.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(certificate_request_key(buffer_bytes(&request), key, NULL), INVALID);
        request.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_OK(certificate_issue(buffer_bytes(&world.root), world.root_key, buffer_bytes(&request),
                               &terms, CERTIFICATE_DER, &der, &error));
    for (size_t bit = 0; bit < 8 * der.size; bit++) {
        der.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        enum status status =
            certificate_verify(buffer_bytes(&der), buffer_bytes(&world.root), NOW, NULL, NULL);
        if (status != INVALID && status != REFUSED)
            test_failed(__FILE__, __LINE__, "bit %zu: %s", bit, status_name(status));
        der.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_OK(certificate_verify(buffer_bytes(&der), buffer_bytes(&world.root), NOW, NULL, &error));
    buffer_deinit(&request);
    buffer_deinit(&der);
    world_destroy(&world);
}

TEST(cut_extended_oversized_and_wrong_kinds_of_input_are_refused) {
    struct world world = world_create();
    struct buffer der = {0}, pem = {0};
    struct certificate_info info;
    uint8_t key[PUBLIC_KEY_SIZE];
    struct error error = {0};
    struct certificate_terms terms = site_terms();
    CHECK_OK(issue(&world, &terms, &pem, &error));
    CHECK_OK(certificate_convert(buffer_bytes(&pem), CERTIFICATE_DER, &der, &error));
    for (size_t size = 0; size < der.size; size++)
        CHECK_STATUS(certificate_parse(bytes_of(der.data, size), &info, NULL), INVALID);
    for (size_t size = 0; size + 2 < pem.size; size++)
        CHECK_STATUS(certificate_parse(bytes_of(pem.data, size), &info, NULL), INVALID);
    buffer_u8(&der, 0);
    CHECK_STATUS(certificate_parse(buffer_bytes(&der), &info, &error), INVALID);
    CHECK_CONTAINS(error.message, "something follows");
    struct buffer two = {0};
    buffer_append(&two, pem.data, pem.size);
    buffer_append(&two, pem.data, pem.size);
    CHECK_STATUS(certificate_parse(buffer_bytes(&two), &info, &error), INVALID);
    buffer_deinit(&two);
    CHECK_STATUS(certificate_parse(buffer_bytes(&world.request), &info, &error), INVALID);
    CHECK_STATUS(certificate_request_key(buffer_bytes(&pem), key, &error), INVALID);
    struct buffer key_pem = {0};
    CHECK_OK(key_pair_to_pem(world.node_key, &key_pem, &error));
    CHECK_STATUS(certificate_parse(buffer_bytes(&key_pem), &info, &error), INVALID);
    uint8_t *big = xcalloc(1, CERTIFICATE_SIZE_MAX + 1);
    memset(big, 0x30, CERTIFICATE_SIZE_MAX + 1);
    CHECK_STATUS(certificate_parse(bytes_of(big, CERTIFICATE_SIZE_MAX + 1), &info, &error),
                 INVALID);
    CHECK_STATUS(certificate_parse(bytes_of(big, CERTIFICATE_SIZE_MAX), &info, &error), INVALID);
    CHECK_STATUS(certificate_parse(bytes_of(NULL, 0), &info, &error), INVALID);
    free(big);
    buffer_deinit(&key_pem);
    buffer_deinit(&der);
    buffer_deinit(&pem);
    world_destroy(&world);
}

TEST(random_junk_behind_a_good_beginning_never_crashes) {
    struct world world = world_create();
    struct buffer der = {0};
    struct error error = {0};
    struct random random;
    random_init(&random, 509);
    CHECK_OK(certificate_convert(buffer_bytes(&world.root), CERTIFICATE_DER, &der, &error));
    uint8_t *copy = xmalloc(der.size);
    for (int round = 0; round < 3000; round++) {
        struct certificate_info info;
        memcpy(copy, der.data, der.size);
        for (uint64_t i = 0, count = 1 + random_below(&random, 6); i < count; i++) {
            copy[random_below(&random, der.size)] = (uint8_t)random_u64(&random);
        }
        (void)!certificate_parse(bytes_of(copy, der.size), &info, &error);
        enum status status = certificate_verify(bytes_of(copy, der.size), buffer_bytes(&world.root),
                                                NOW, NULL, NULL);
        CHECK(status == INVALID || status == REFUSED);
    }
    free(copy);
    buffer_deinit(&der);
    world_destroy(&world);
}

TEST(trust_needs_this_authority_these_dates_and_an_end_certificate) {
    struct world world = world_create(), other = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer pem = {0}, forged = {0};
    struct error error = {0};
    struct bytes root = buffer_bytes(&world.root);
    CHECK_OK(issue(&world, &terms, &pem, &error));
    struct bytes site = buffer_bytes(&pem);
    CHECK_STATUS(certificate_verify(site, buffer_bytes(&other.root), NOW, NULL, &error), REFUSED);
    CHECK_STATUS(certificate_verify(site, root, terms.not_before_s - 1, NULL, &error), REFUSED);
    CHECK_CONTAINS(error.message, "not yet valid");
    CHECK_OK(certificate_verify(site, root, terms.not_before_s, NULL, &error));
    CHECK_OK(certificate_verify(site, root, terms.not_after_s - 1, NULL, &error));
    CHECK_STATUS(certificate_verify(site, root, terms.not_after_s + 1, NULL, &error), REFUSED);
    CHECK_CONTAINS(error.message, "expired");
    CHECK_STATUS(certificate_verify(root, root, NOW, NULL, &error), REFUSED);
    /* it does not vouch for itself */
    CHECK_STATUS(certificate_verify(site, site, NOW, NULL, &error), REFUSED);
    CHECK_STATUS(certificate_verify(site, root, UINT64_MAX, NULL, &error), INVALID);
    /* Another root of the same name: names prove nothing. */
    CHECK_OK(certificate_issue(buffer_bytes(&other.root), other.root_key,
                               buffer_bytes(&other.request), &terms, CERTIFICATE_PEM, &forged,
                               &error));
    CHECK_STATUS(certificate_verify(buffer_bytes(&forged), root, NOW, NULL, &error), REFUSED);
    buffer_deinit(&pem);
    buffer_deinit(&forged);
    world_destroy(&world);
    world_destroy(&other);
}

TEST(a_site_cannot_issue_and_a_wrong_key_cannot_either) {
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer site = {0}, out = {0};
    struct error error = {0};
    CHECK_OK(issue(&world, &terms, &site, &error));
    struct key_pair *friend_key = new_key();
    struct buffer request = {0};
    CHECK_OK(certificate_request_create(friend_key, CERTIFICATE_PEM, &request, &error));
    CHECK_STATUS(certificate_issue(buffer_bytes(&site), world.node_key, buffer_bytes(&request),
                                   &terms, CERTIFICATE_PEM, &out, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "not a certificate authority");
    CHECK_STATUS(certificate_issue(buffer_bytes(&world.root), world.node_key,
                                   buffer_bytes(&request), &terms, CERTIFICATE_PEM, &out, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "not that of the authority");
    struct buffer own = {0}; /* the authority's own key must not become a peer's */
    CHECK_OK(certificate_request_create(world.root_key, CERTIFICATE_PEM, &own, &error));
    CHECK_STATUS(certificate_issue(buffer_bytes(&world.root), world.root_key, buffer_bytes(&own),
                                   &terms, CERTIFICATE_PEM, &out, &error),
                 INVALID);
    CHECK_EQUAL(out.size, 0);
    key_pair_destroy(friend_key);
    buffer_deinit(&site);
    buffer_deinit(&request);
    buffer_deinit(&own);
    world_destroy(&world);
}

static char *write_temporary(const char *name, struct bytes content) {
    char *path = file_join(test_directory(), name);
    struct error error = {0};
    CHECK_OK(file_write(path, content, 0600, &error));
    return path;
}

static void check_openssl(const char *format, ...) PRINTF_LIKE(1, 2);
static void check_openssl(const char *format, ...) {
    char arguments[1200], command[1400];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(command, sizeof command, "cd '%s' && { %s; } >log 2>&1 || { cat log >&2; exit 1; }",
             test_directory(), arguments);
    if (system(command) != 0) test_failed(__FILE__, __LINE__, "failed: %s", arguments);
}
static void need_openssl(void) {
    if (system("command -v openssl >/dev/null") != 0)
        TEST_SKIP("the program openssl is not installed");
}

TEST(openssls_own_tools_accept_and_print_what_we_issue) {
    need_openssl();
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer pem = {0};
    struct error error = {0};
    struct certificate_info info;
    CHECK_OK(issue(&world, &terms, &pem, &error));
    CHECK_OK(certificate_parse(buffer_bytes(&pem), &info, &error));
    free(write_temporary("root.pem", buffer_bytes(&world.root)));
    free(write_temporary("site.pem", buffer_bytes(&pem)));
    free(write_temporary("site.csr", buffer_bytes(&world.request)));
    check_openssl("openssl verify -x509_strict -check_ss_sig -purpose sslclient -attime %d -CAfile "
                  "root.pem site.pem",
                  NOW);
    check_openssl("openssl verify -x509_strict -check_ss_sig -attime %d -CAfile root.pem root.pem",
                  NOW);
    check_openssl(
        "! openssl verify -x509_strict -purpose sslserver -attime %d -CAfile root.pem site.pem",
        NOW);
    check_openssl("openssl req -in site.csr -verify -noout");
    check_openssl("openssl x509 -in site.pem -noout -text | grep -q 'URI:" SITE_URI "'");
    char hex[HEX32_SIZE];
    hex_encode(info.fingerprint, DIGEST_SIZE, hex);
    check_openssl("openssl x509 -in site.pem -noout -fingerprint -sha256 | tr -d : | grep -qi %s",
                  hex);
    buffer_deinit(&pem);
    world_destroy(&world);
}

TEST(a_request_made_elsewhere_gets_our_names_and_none_of_its_own) {
    need_openssl();
    struct world world = world_create();
    struct certificate_terms terms = site_terms();
    struct buffer request = {0}, out = {0};
    struct error error = {0};
    struct certificate_info info;
    check_openssl("openssl genpkey -algorithm ED25519 -out k.pem && openssl req -new -key k.pem "
                  "-subj '/CN=coordinator/O=evil' -addext "
                  "'subjectAltName=DNS:atoll-coordinator,URI:atoll:admin:root' -addext "
                  "'basicConstraints=critical,CA:TRUE' -out k.csr");
    char *path = file_join(test_directory(), "k.csr");
    CHECK_OK(file_read(path, CERTIFICATE_SIZE_MAX, &request, &error));
    CHECK_OK(certificate_issue(buffer_bytes(&world.root), world.root_key, buffer_bytes(&request),
                               &terms, CERTIFICATE_PEM, &out, &error));
    CHECK_OK(certificate_parse(buffer_bytes(&out), &info, &error));
    CHECK_TEXT(info.common_name, "site eu-1");
    CHECK_TEXT(info.uri, SITE_URI);
    CHECK_EQUAL(info.dns_count, 0);
    CHECK(!info.authority && info.client && !info.server);
    /* and requests for keys that are not Ed25519 get nothing */
    check_openssl("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "
                  "e.pem -subj /CN=x -out k.csr");
    request.size = 0;
    CHECK_OK(file_read(path, CERTIFICATE_SIZE_MAX, &request, &error));
    CHECK_STATUS(certificate_issue(buffer_bytes(&world.root), world.root_key,
                                   buffer_bytes(&request), &terms, CERTIFICATE_PEM, &out, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "not Ed25519");
    free(path);
    buffer_deinit(&request);
    buffer_deinit(&out);
    world_destroy(&world);
}

TEST(foreign_certificates_with_two_identities_or_forged_names_are_refused) {
    need_openssl();
    static const char *const names[] = {"URI:atoll:site:a,URI:atoll:admin:b", "URI:atoll:site:a b",
                                        "DNS:a.b,IP:10.0.0.1", "email:a@b.c"};
    char *path = file_join(test_directory(), "c.pem");
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct buffer pem = {0};
        struct error error = {0};
        struct certificate_info info;
        check_openssl("openssl req -x509 -newkey ed25519 -nodes -keyout k.pem -subj /CN=x -addext "
                      "'subjectAltName=%s' -out c.pem",
                      names[i]);
        CHECK_OK(file_read(path, CERTIFICATE_SIZE_MAX, &pem, &error));
        CHECK_STATUS(certificate_parse(buffer_bytes(&pem), &info, &error), INVALID);
        struct buffer same = {0};
        CHECK_OK(certificate_convert(buffer_bytes(&pem), CERTIFICATE_PEM, &same, &error));
        buffer_deinit(&same);
        buffer_deinit(&pem);
    }
    free(path);
}

TEST(a_client_that_takes_no_ed25519_handshake_speaks_with_our_server_under_tls_1_3) {
    need_openssl();
    struct world world = world_create();
    struct buffer server = {0}, server_key = {0}, site = {0}, key = {0};
    struct error error = {0};
    struct certificate_terms terms = site_terms();
    CHECK_OK(issue(&world, &terms, &site, &error));
    terms.uri = NULL;
    terms.client = false;
    terms.server = true;
    terms.dns[0] = "atoll-coordinator";
    CHECK_OK(certificate_issue_server(buffer_bytes(&world.root), world.root_key, &terms, &server,
                                      &server_key, &error));
    free(write_temporary("root.pem", buffer_bytes(&world.root)));
    free(write_temporary("site.pem", buffer_bytes(&site)));
    free(write_temporary("server.pem", buffer_bytes(&server)));
    CHECK_OK(key_pair_to_pem(world.node_key, &key, &error));
    free(write_temporary("site.key", buffer_bytes(&key)));
    free(write_temporary("server.key", buffer_bytes(&server_key)));
    check_openssl("openssl verify -x509_strict -purpose sslserver -attime %d -CAfile root.pem "
                  "server.pem",
                  NOW);
    check_openssl("openssl pkey -in server.key -noout -text | grep -q 'NIST CURVE: P-256'");
    /* ECDSA alone: of the kinds that could serve, what a client on BoringSSL offers */
    static const char *const clients[] = {"-cert site.pem -key site.key", "-sigalgs ECDSA+SHA256"};
    for (size_t i = 0; i < COUNT_OF(clients); i++) {
        int port = 20000 + (int)((getpid() + (int)i * 7919) % 20000);
        check_openssl("openssl s_server -accept 127.0.0.1:%d -tls1_3 -cert server.pem "
                      "-key server.key -CAfile root.pem -%s 1 -verify_return_error -attime %d "
                      "-naccept 2 -quiet >/dev/null 2>server.log & "
                      "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; echo hello | openssl s_client "
                      "-connect 127.0.0.1:%d -tls1_3 %s -CAfile root.pem -verify_return_error "
                      "-verify_hostname atoll-coordinator -attime %d >client.log 2>&1 && break; "
                      "done; kill $! 2>/dev/null; cat client.log; "
                      "grep -q 'Verify return code: 0 (ok)' client.log",
                      port, i == 0 ? "Verify" : "verify", NOW, port, clients[i], NOW);
    }
    buffer_deinit(&server);
    buffer_deinit(&server_key);
    buffer_deinit(&site);
    buffer_deinit(&key);
    world_destroy(&world);
}

/* X.690, 11.1: one of the parsers that take no other byte for true is Go's. */
TEST(a_roots_basic_constraints_are_der) {
    struct world world = world_create();
    struct buffer der = {0};
    struct error error = {0};
    static const uint8_t wanted[] = {0x30, 0x06, 0x01, 0x01, 0xFF, 0x02, 0x01, 0x00};
    CHECK_OK(certificate_convert(buffer_bytes(&world.root), CERTIFICATE_DER, &der, &error));
    CHECK(memmem(der.data, der.size, wanted, sizeof wanted) != NULL);
    buffer_deinit(&der);
    world_destroy(&world);
}

TEST(a_servers_certificate_is_held_to_the_same_terms_and_each_has_a_key_of_its_own) {
    struct world world = world_create();
    struct buffer first = {0}, second = {0}, keys[2] = {{0}, {0}};
    struct error error = {0};
    struct certificate_terms terms = site_terms();
    terms.server = true;
    struct bytes root = buffer_bytes(&world.root);
    CHECK_STATUS(certificate_issue_server(root, world.node_key, &terms, &first, &keys[0], &error),
                 INVALID);
    terms.dns[0] = "*";
    CHECK_STATUS(certificate_issue_server(root, world.root_key, &terms, &first, &keys[0], &error),
                 INVALID);
    CHECK_EQUAL(first.size, 0);
    CHECK_EQUAL(keys[0].size, 0);
    terms.dns[0] = "atoll-coordinator";
    CHECK_OK(certificate_issue_server(root, world.root_key, &terms, &first, &keys[0], &error));
    CHECK_OK(certificate_issue_server(root, world.root_key, &terms, &second, &keys[1], &error));
    CHECK(keys[0].size != keys[1].size || memcmp(keys[0].data, keys[1].data, keys[0].size) != 0);
    buffer_deinit(&first);
    buffer_deinit(&second);
    buffer_deinit(&keys[0]);
    buffer_deinit(&keys[1]);
    world_destroy(&world);
}
