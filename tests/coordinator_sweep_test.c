/* What crashes and clocks leave behind at the coordinator.
 *
 * The wall clock is this process's: clock_gettime below stands before libc's. TLS looks at the real
 * one. */
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "crypto/digest.h"
#include "tests/malformed_client.h"
#include "tests/storage_sha256.h"

static _Atomic int64_t wall_skew_s;

int clock_gettime(clockid_t clock, struct timespec *out) {
    long status = syscall(SYS_clock_gettime, clock, out);
    if (clock == CLOCK_REALTIME) out->tv_sec += (time_t)atomic_load(&wall_skew_s);
    return (int)status;
}

static struct blob_store *blobs_open(const struct world *w) {
    struct blob_store *blobs = NULL;
    struct error error = {0};
    CHECK_OK(blob_store_open(w->directory, &storage_sha256, &blobs, &error));
    return blobs;
}

static void leave_file(const struct world *w, const char *name) {
    struct error error = {0};
    char *path = xformat("%s/uploads/%s", w->directory, name);
    CHECK_OK(file_write(path, bytes_of("half", 4), 0600, &error));
    free(path);
}

static bool is_there(const struct world *w, const char *name) {
    char *path = xformat("%s/uploads/%s", w->directory, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

TEST(what_neither_the_ledger_nor_a_snapshot_names_is_gone_after_a_start) {
    struct world w;
    struct error error = {0};
    uint8_t orphan[DIGEST_SIZE];
    world_create(&w, "run", SPARSE_RUN "snapshot_interval: 1\n");
    world_start(&w);
    struct site *one = world_join(&w, "one");
    for (int i = 0; i < 3; i++) {
        site_contribute(&w, one);
        world_settle(&w);
    }
    world_stop(&w);
    struct blob_store *blobs = blobs_open(&w);
    CHECK_OK(blob_write(blobs, bytes_of("payload that was never entered", 30), orphan, &error));
    leave_file(&w, ".tmp-1-2");
    leave_file(&w, "s1-f0-99-00"); /* an upload that its site goes on with */
    uint64_t before = 0, after = 0;
    CHECK_OK(blob_total(blobs, &before, NULL, &error));
    world_start(&w);
    CHECK(!blob_exists(blobs, orphan));
    CHECK_OK(blob_total(blobs, &after, NULL, &error));
    CHECK_EQUAL(after, before - 1); /* and nothing else */
    CHECK(!is_there(&w, ".tmp-1-2"));
    CHECK(is_there(&w, "s1-f0-99-00"));
    site_contribute(&w, one);
    CHECK_EQUAL(world_settle(&w).accepted, 4);
    world_stop(&w);
    char *arguments =
        xformat("ledger verify --dir '%s'", w.directory); /* all that is named is there */
    struct buffer text = {0};
    CHECK_EQUAL(run_program("atollctl", arguments, false, &text), 0);
    free(arguments);
    buffer_deinit(&text);
    blob_store_close(blobs);
    world_destroy(&w);
}

/* A run that was made, and a site that joined, by a clock that is off by that much, go on when it
 * is right. */
static void clock_was_off(const char *name, int64_t skew_s) {
    struct world w;
    atomic_store(&wall_skew_s, skew_s);
    world_create(&w, name, SPARSE_RUN);
    world_start(&w);
    struct site *one = world_join(&w, "one");
    atomic_store(&wall_skew_s, 0);
    world_stop(&w);
    world_start(&w);
    site_contribute(&w, one);
    CHECK_EQUAL(world_settle(&w).accepted, 1);
    world_stop(&w);
    world_destroy(&w);
}

TEST(a_clock_that_was_ahead_locks_nobody_out) { clock_was_off("ahead", INT64_C(400) * 86400); }

TEST(a_clock_that_was_years_behind_locks_nobody_out) {
    clock_was_off("behind", -INT64_C(6 * 366) * 86400);
}
