#include "base/memory.h"
#include "crypto/base64.h"
#include "fed/invitation.h"
#include "tests/test.h"

static struct invitation sample(void) {
    struct invitation invitation = {.name = "eu-north", .ca_size = 300};
    for (size_t i = 0; i < SECRET_SIZE; i++) invitation.secret[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < invitation.ca_size; i++) invitation.ca_der[i] = (uint8_t)i;
    return invitation;
}

TEST(a_token_reads_back_as_it_was_written) {
    struct invitation invitation = sample(), got = {0};
    struct error error = {0};
    char *token = invitation_write(&invitation);
    CHECK_OK(invitation_parse(token, &got, &error));
    CHECK_MEMORY(&got, &invitation, sizeof got);
    free(token);
}

TEST(a_cut_or_changed_token_is_refused_without_repeating_it) {
    struct invitation invitation = sample(), got = {0};
    char *token = invitation_write(&invitation);
    struct error error = {0};
    for (size_t size = 0; size < 40; size++) {
        char *cut = strndup(token, size);
        CHECK_STATUS(invitation_parse(cut, &got, &error), INVALID);
        if (size > 4) CHECK(strstr(error.message, cut) == NULL);
        free(cut);
    }
    token[3] = ' ';
    CHECK_STATUS(invitation_parse(token, &got, &error), INVALID);
    CHECK_CONTAINS(error.message, "paste it whole");
    free(token);
}

TEST(a_name_with_a_nul_byte_in_it_is_refused_and_not_cut) {
    struct invitation invitation = sample(), got = {0};
    char *token = invitation_write(&invitation);
    struct error error = {0};
    struct buffer raw = {0};
    CHECK_OK(base64url_decode(token, strlen(token), strlen(token), &raw, NULL));
    raw.data[2 + 4] = 0; /* format, size, "eu-n" */
    char *bent = xmalloc(BASE64URL_SIZE(raw.size));
    CHECK_STATUS(invitation_parse(base64url_encode(raw.data, raw.size, bent), &got, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "NUL byte");
    buffer_deinit(&raw);
    free(bent);
    free(token);
}

TEST(an_identity_has_one_form) {
    struct identity site = {.role = IDENTITY_SITE, .site = 12}, got = {0};
    struct error error = {0};
    char uri[IDENTITY_URI_SIZE];
    identity_write(&site, uri);
    CHECK_TEXT(uri, "atoll://00000000000000000000000000000000/site/12");
    CHECK_OK(identity_parse(uri, &got, &error));
    CHECK_EQUAL(got.site, 12);
    static const char *const bad[] = {"",
                                      "atoll://",
                                      "atoll://00000000000000000000000000000000/site/",
                                      "atoll://00000000000000000000000000000000/site/0",
                                      "atoll://00000000000000000000000000000000/site/012",
                                      "atoll://00000000000000000000000000000000/site/12x",
                                      "atoll://00000000000000000000000000000000/site/4294967308",
                                      "atoll://00000000000000000000000000000000/admin/",
                                      "atoll://00000000000000000000000000000000/admin/ROOT",
                                      "atoll://0000000000000000000000000000000G/site/12",
                                      "http://00000000000000000000000000000000/site/12"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_STATUS(identity_parse(bad[i], &got, &error), INVALID);
}
