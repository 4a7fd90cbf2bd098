/* What a join says before it has asked anybody: first what is wrong at this end. */
#include "node/join.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "fed/invitation.h"
#include "tests/test.h"

enum { DAY_S = 86400 };

static char *token_of(uint64_t not_before_s, uint64_t not_after_s) {
    struct error error = {0};
    struct key_pair *key = NULL;
    struct buffer der = {0};
    struct invitation invitation = {.name = "one"};
    CHECK_OK(key_pair_create(&key, &error));
    CHECK_OK(certificate_create_authority(key, "root", not_before_s, not_after_s, CERTIFICATE_DER, &der, &error));
    memcpy(invitation.ca_der, der.data, der.size);
    invitation.ca_size = der.size;
    buffer_deinit(&der);
    key_pair_destroy(key);
    return invitation_write(&invitation);
}

static void joins_with_clock_trouble(uint64_t not_before_s, uint64_t not_after_s, const char *words) {
    struct error error = {0};
    char *token = token_of(not_before_s, not_after_s), *directory = file_join(test_directory(), "site");
    struct join_setup setup = {.address = "127.0.0.1:1", .proxy = "none", .token = token, .directory = directory};
    CHECK_STATUS(join_run(&setup, NULL, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "this machine's clock says 20");
    CHECK_CONTAINS(error.message, words);
    free(token);
    free(directory);
}

TEST(a_clock_that_is_behind_is_named_before_the_coordinator_is_blamed) {
    uint64_t now_s = clock_wall_ms() / 1000;
    joins_with_clock_trouble(now_s + 2 * DAY_S, now_s + 400 * DAY_S, "holds only from 20");
}

TEST(a_clock_that_is_ahead_is_named_before_the_coordinator_is_blamed) {
    uint64_t now_s = clock_wall_ms() / 1000;
    joins_with_clock_trouble(now_s - 400 * DAY_S, now_s - 2 * DAY_S, "holds only until 20");
}
