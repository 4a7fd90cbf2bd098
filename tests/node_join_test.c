/* What a join says before it has asked anybody: first what is wrong at this end. And a coordinator
 * that is busy for now, which a join and the admin's program ask again. */
#include "node/join.h"

#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "fed/invitation.h"
#include "tests/node_fake_coordinator.h"

enum { DAY_S = 86400 };

static char *token_of(uint64_t not_before_s, uint64_t not_after_s) {
    struct error error = {0};
    struct key_pair *key = NULL;
    struct buffer der = {0};
    struct invitation invitation = {.name = "one"};
    CHECK_OK(key_pair_create(&key, &error));
    CHECK_OK(certificate_create_authority(key, "root", not_before_s, not_after_s, CERTIFICATE_DER,
                                          &der, &error));
    memcpy(invitation.ca_der, der.data, der.size);
    invitation.ca_size = der.size;
    buffer_deinit(&der);
    key_pair_destroy(key);
    return invitation_write(&invitation);
}

static void joins_with_clock_trouble(uint64_t not_before_s, uint64_t not_after_s,
                                     const char *words) {
    struct error error = {0};
    char *token = token_of(not_before_s, not_after_s),
         *directory = file_join(test_directory(), "site");
    struct join_setup setup = {
        .address = "127.0.0.1:1", .proxy = "none", .token = token, .directory = directory};
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

/* ---- a coordinator that is busy -------------------------------------------------------------- */

static void address_of(const struct fake *fake, char out[static 32]) {
    snprintf(out, 32, "127.0.0.1:%u", rpc_server_port(fake->server));
}

TEST(a_join_asks_a_coordinator_that_is_busy_or_has_no_room_again) {
    struct fake *fake = fake_start();
    struct error error = {0};
    struct invitation invitation = {.name = "one"};
    struct buffer der = {0};
    char address[32], *directory = file_join(test_directory(), "site");
    fake->no_room = 1;
    fake->busy = 2;
    address_of(fake, address);
    CHECK_OK(certificate_convert(bytes_of(fake->ca.data, fake->ca.size - 1), CERTIFICATE_DER, &der,
                                 &error));
    memcpy(invitation.ca_der, der.data, der.size);
    invitation.ca_size = der.size;
    char *token = invitation_write(&invitation);
    struct join_setup setup = {
        .address = address, .proxy = "none", .token = token, .directory = directory};
    CHECK_STATUS(join_run(&setup, NULL, &error), REFUSED);
    CHECK_CONTAINS(error.message, "the run has ended"); /* the answer after the busy ones */
    CHECK_EQUAL(atomic_load(&fake->asked), 4);
    buffer_deinit(&der);
    free(token);
    free(directory);
    fake_stop(fake);
}

static void keep(const char *directory, const char *name, const struct buffer *pem) {
    struct error error = {0};
    char *path = file_join(directory, name);
    CHECK_OK(file_write(path, bytes_of(pem->data, strlen((const char *)pem->data)), 0600, &error));
    free(path);
}

static int pause_by(const struct fake *fake, const char *timeout) {
    char here[512], address[32];
    ssize_t size = readlink("/proc/self/exe", here, sizeof here - 1);
    CHECK(size > 0);
    here[size] = 0;
    for (int up = 0; up < 2; up++) *strrchr(here, '/') = 0;
    address_of(fake, address);
    char *line = xformat("'%s/bin/atollctl' --keys '%s' --server %s --proxy none --timeout %s run "
                         "pause >/dev/null 2>&1",
                         here, test_directory(), address, timeout);
    int status = system(line);
    free(line);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(an_order_is_given_again_to_a_busy_coordinator_until_the_time_is_over) {
    struct fake *fake = fake_start();
    keep(test_directory(), "ca.pem", &fake->ca);
    keep(test_directory(), "admin.pem", &fake->site_chain);
    keep(test_directory(), "admin.key", &fake->site_key);
    fake->no_room = 1;
    fake->busy = 3;
    CHECK_EQUAL(pause_by(fake, "1m"), 0);
    CHECK_EQUAL(atomic_load(&fake->asked), 5);
    atomic_store(&fake->asked, 0);
    fake->busy = SIZE_MAX;
    CHECK_EQUAL(pause_by(fake, "500ms"), 1);
    CHECK(atomic_load(&fake->asked) >= 1);
    fake_stop(fake);
}
