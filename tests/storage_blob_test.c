/* fdatasync and syncfs are defined here, as in storage_store_fault_test.c: a test can make them
 * fail. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "crypto/digest.h"
#include "storage/blob.h"
#include "tests/storage_sha256.h"
#include "tests/test.h"

static int failing_code; /* what the syncs fail with; 0: they work */
static int fail(void) {
    errno = failing_code;
    return -1;
}
int fdatasync(int file) { return failing_code ? fail() : (int)syscall(SYS_fdatasync, file); }
int syncfs(int file) {
    return failing_code ? fail() : (int)syscall(SYS_fdatasync, file);
} /* tests need no whole-system sync */

static struct blob_store *open_store(void) {
    struct blob_store *store = NULL;
    struct error error = {0};
    CHECK_OK(blob_store_open(test_directory(), &storage_sha256, &store, &error));
    return store;
}
static struct bytes text_bytes(const char *text) { return bytes_of(text, strlen(text)); }

static char *path_of(const uint8_t digest[static DIGEST_SIZE]) {
    char hex[HEX32_SIZE];
    hex_encode(digest, DIGEST_SIZE, hex);
    return xformat("%s/blobs/%.2s/%s", test_directory(), hex, hex + 2);
}
static unsigned files_in(const char *folder) {
    char command[400], answer[32] = {0};
    snprintf(command, sizeof command, "find '%s/%s' -type f | wc -l", test_directory(), folder);
    FILE *pipe = popen(command, "r");
    CHECK(pipe && fgets(answer, sizeof answer, pipe));
    pclose(pipe);
    return (unsigned)atoi(answer);
}
static uint8_t *junk(size_t size) {
    uint8_t *data = xmalloc(size);
    struct random random;
    random_init(&random, size);
    for (size_t i = 0; i < size; i++) data[i] = (uint8_t)random_u64(&random);
    return data;
}
static void flip_byte(const char *path, off_t at) {
    CHECK(chmod(path, 0600) == 0);
    int file = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    CHECK(file >= 0 && pread(file, &byte, 1, at) == 1);
    byte ^= 0x10;
    CHECK(pwrite(file, &byte, 1, at) == 1);
    close(file);
}

/* --- whole blobs --- */

TEST(a_blob_is_read_back_by_its_digest_also_after_reopening) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct buffer out = {0};
    uint8_t digest[DIGEST_SIZE], wanted[DIGEST_SIZE], empty[DIGEST_SIZE];
    CHECK_OK(blob_write(store, text_bytes("hello"), digest, &error));
    CHECK_OK(blob_write(store, bytes_of(NULL, 0), empty, &error));
    digest_sha256("hello", 5, wanted);
    CHECK(digest_equal(digest, wanted));
    blob_store_close(store);
    store = open_store();
    CHECK_OK(blob_read(store, digest, 5, &out, &error));
    CHECK(bytes_equal(buffer_bytes(&out), text_bytes("hello")));
    CHECK_OK(blob_read(store, empty, 0, &out, &error));
    CHECK_EQUAL(out.size, 0);
    uint64_t size = 0;
    CHECK_OK(blob_size(store, digest, &size, &error));
    CHECK_EQUAL(size, 5);
    CHECK(blob_exists(store, digest) && blob_exists(store, empty));
    CHECK_STATUS(blob_read(store, digest, 4, &out, &error), INVALID);
    CHECK_EQUAL(files_in("uploads"), 0);
    struct stat info;
    char *path = path_of(digest);
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0400);
    free(path);
    buffer_deinit(&out);
    blob_store_close(store);
    blob_store_close(NULL);
}

TEST(a_missing_blob_is_not_found_everywhere) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct buffer out = {0};
    struct blob_reader *reader = NULL;
    uint8_t digest[DIGEST_SIZE] = {7};
    CHECK_STATUS(blob_read(store, digest, 10, &out, &error), NOT_FOUND);
    CHECK_STATUS(blob_size(store, digest, NULL, &error), NOT_FOUND);
    CHECK_STATUS(blob_delete(store, digest, &error), NOT_FOUND);
    CHECK_STATUS(blob_check(store, digest, &error), NOT_FOUND);
    CHECK_STATUS(blob_reader_open(store, digest, &reader, &error), NOT_FOUND);
    CHECK_STATUS(blob_reader_open_unchecked(store, digest, &reader, &error), NOT_FOUND);
    CHECK(!blob_exists(store, digest));
    CHECK_OK(blob_write(store, text_bytes("x"), digest, &error));
    CHECK_OK(blob_delete(store, digest, &error));
    CHECK(!blob_exists(store, digest));
    blob_store_close(store);
}

TEST(a_flipped_byte_or_a_cut_blob_is_reported_by_name_and_healed_by_writing_again) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct buffer out = {0};
    struct blob_reader *reader = NULL;
    uint8_t digest[DIGEST_SIZE], *data = junk(600000);
    for (int damage = 0; damage < 3; damage++) {
        CHECK_OK(blob_write(store, bytes_of(data, 600000), digest, &error));
        CHECK_OK(blob_check(store, digest, &error));
        char *path = path_of(digest), hex[HEX32_SIZE];
        if (damage == 0)
            flip_byte(path, 599999);
        else
            CHECK(truncate(path, damage == 1 ? 599999 : 0) == 0);
        CHECK_STATUS(blob_read(store, digest, 1 << 20, &out, &error), CORRUPT);
        CHECK_CONTAINS(error.message, hex_encode(digest, DIGEST_SIZE, hex));
        CHECK_EQUAL(out.size, 0);
        CHECK_STATUS(blob_check(store, digest, &error), CORRUPT);
        CHECK_STATUS(blob_reader_open(store, digest, &reader, &error), CORRUPT);
        free(path);
    }
    CHECK_OK(blob_write(store, bytes_of(data, 600000), digest, &error));
    CHECK_OK(blob_check(store, digest, &error));
    free(data);
    buffer_deinit(&out);
    blob_store_close(store);
}

TEST(something_else_under_a_blobs_name_is_not_followed) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct buffer out = {0};
    uint8_t digest[DIGEST_SIZE];
    digest_sha256("root", 4, digest);
    char *path = path_of(digest);
    CHECK(symlink("/etc/passwd", path) == 0);
    CHECK(blob_read(store, digest, 1 << 20, &out, &error) != OK);
    CHECK(unlink(path) == 0 && mkdir(path, 0700) == 0);
    CHECK_STATUS(blob_read(store, digest, 1 << 20, &out, &error), CORRUPT);
    CHECK_STATUS(blob_size(store, digest, NULL, &error), CORRUPT);
    CHECK(rmdir(path) == 0 && mkfifo(path, 0600) == 0);
    /* and does not wait for a writer */
    CHECK_STATUS(blob_read(store, digest, 1 << 20, &out, &error), CORRUPT);
    free(path);
    blob_store_close(store);
}

struct walk {
    unsigned count;
    uint64_t size;
    uint8_t last[DIGEST_SIZE];
};
static enum status visit(void *context, const uint8_t *digest, uint64_t size, struct error *error) {
    struct walk *walk = context;
    CHECK(walk->count == 0 || memcmp(walk->last, digest, DIGEST_SIZE) < 0);
    memcpy(walk->last, digest, DIGEST_SIZE);
    walk->count++;
    walk->size += size;
    return walk->count == 50 ? error_set(error, CANCELLED, "enough") : OK;
}

TEST(listing_gives_blobs_in_order_and_nothing_else) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct walk walk = {0};
    struct blob_batch *batch = blob_batch_create(store);
    uint8_t digest[DIGEST_SIZE];
    for (unsigned i = 0; i < 40; i++)
        CHECK_OK(blob_batch_add(batch, bytes_of(&i, sizeof i), digest, &error));
    CHECK_OK(blob_batch_sync(batch, &error));
    char *upper = path_of(digest);
    for (char *at = strrchr(upper, '/'); *at; at++)
        *at = (char)(*at >= 'a' && *at <= 'f' ? *at - 32 : *at);
    CHECK_OK(file_write(upper, text_bytes("stray"), 0600, &error)); /* not a canonical name */
    CHECK_OK(blob_each(store, visit, &walk, &error));
    CHECK_EQUAL(walk.count, 40);
    CHECK_EQUAL(walk.size, 160);
    uint64_t count = 0, size = 0;
    CHECK_OK(blob_total(store, &count, &size, &error));
    CHECK(count == 40 && size == 160);
    for (unsigned i = 100; i < 120; i++)
        CHECK_OK(blob_batch_add(batch, bytes_of(&i, sizeof i), digest, &error));
    CHECK_OK(blob_batch_sync(batch, &error));
    walk = (struct walk){0};
    CHECK_STATUS(blob_each(store, visit, &walk, &error), CANCELLED);
    free(upper);
    blob_batch_destroy(batch);
    blob_store_close(store);
}

TEST(a_batch_is_not_there_before_its_sync_and_leaves_nothing_when_dropped) {
    struct blob_store *store = open_store();
    struct error error = {0};
    uint8_t digests[6][DIGEST_SIZE];
    for (unsigned count = 1; count <= 6; count += 5) { /* file by file, and the whole file system */
        struct blob_batch *batch = blob_batch_create(store);
        for (unsigned i = 0; i < count; i++) {
            unsigned value = i + 10 * count;
            CHECK_OK(blob_batch_add(batch, bytes_of(&value, sizeof value), digests[i], &error));
            CHECK(!blob_exists(store, digests[i]));
        }
        CHECK_OK(blob_batch_sync(batch, &error));
        for (unsigned i = 0; i < count; i++) CHECK_OK(blob_check(store, digests[i], &error));
        CHECK_OK(blob_batch_sync(batch, &error)); /* empty: nothing to do */
        CHECK_OK(blob_batch_add(batch, text_bytes("dropped"), digests[0], &error));
        blob_batch_destroy(batch);
        CHECK(!blob_exists(store, digests[0]));
        CHECK_EQUAL(files_in("uploads"), 0);
    }
    blob_batch_destroy(NULL);
    blob_store_close(store);
}

TEST(one_content_twice_is_one_blob) {
    struct blob_store *store = open_store();
    struct error error = {0};
    uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE];
    struct blob_batch *batch = blob_batch_create(store);
    CHECK_OK(blob_batch_add(batch, text_bytes("same"), a, &error));
    CHECK_OK(blob_batch_add(batch, text_bytes("same"), b, &error));
    CHECK_OK(blob_batch_sync(batch, &error));
    CHECK_OK(blob_write(store, text_bytes("same"), b, &error));
    CHECK(digest_equal(a, b));
    CHECK_EQUAL(files_in("blobs"), 1);
    blob_batch_destroy(batch);
    blob_store_close(store);
}

/* --- readers --- */

TEST(any_range_within_a_blob_can_be_read_and_none_beyond) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct blob_reader *reader = NULL;
    uint8_t digest[DIGEST_SIZE], *data = junk(300000), part[1000];
    CHECK_OK(blob_write(store, bytes_of(data, 300000), digest, &error));
    CHECK_OK(blob_reader_open(store, digest, &reader, &error));
    CHECK_EQUAL(blob_reader_size(reader), 300000);
    static const uint64_t offsets[] = {0, 1, 4095, 262143, 299000};
    for (size_t i = 0; i < COUNT_OF(offsets); i++) {
        CHECK_OK(blob_reader_read(reader, offsets[i], part, sizeof part, &error));
        CHECK_MEMORY(part, data + offsets[i], sizeof part);
    }
    CHECK_OK(blob_reader_read(reader, 300000, part, 0, &error));
    CHECK_STATUS(blob_reader_read(reader, 299001, part, 1000, &error), INVALID);
    CHECK_STATUS(blob_reader_read(reader, 300001, part, 0, &error), INVALID);
    CHECK_STATUS(blob_reader_read(reader, UINT64_MAX, part, 1000, &error), INVALID);
    CHECK_OK(blob_delete(store, digest, &error)); /* who reads goes on reading */
    CHECK_OK(blob_reader_read(reader, 5, part, sizeof part, &error));
    blob_reader_close(reader);
    CHECK_OK(blob_write(store, bytes_of(data, 300000), digest, &error));
    CHECK_OK(blob_reader_open_unchecked(store, digest, &reader, &error));
    char *path = path_of(digest);
    CHECK(truncate(path, 100000) == 0);
    CHECK_STATUS(blob_reader_read(reader, 99500, part, sizeof part, &error), CORRUPT);
    blob_reader_close(reader);
    blob_reader_close(NULL);
    free(path);
    free(data);
    blob_store_close(store);
}

/* --- uploads --- */

TEST(an_upload_goes_on_where_it_broke_and_ends_as_a_blob) {
    struct error error = {0};
    struct blob_upload *upload = NULL;
    enum { SIZE = 1000000, STEP = 70000 };
    uint8_t digest[DIGEST_SIZE], *data = junk(SIZE);
    digest_sha256(data, SIZE, digest);
    uint64_t at = 0;
    for (unsigned round = 0; at < SIZE; round++) {
        struct blob_store *store = open_store(); /* a new life each time */
        CHECK_OK(blob_upload_open(store, "site-1.7", SIZE, &upload, &error));
        CHECK_EQUAL(blob_upload_size(upload), at);
        for (unsigned i = 0; i < 3 && at < SIZE; i++) {
            size_t take = MIN((size_t)STEP, (size_t)(SIZE - at));
            CHECK_STATUS(blob_upload_append(upload, at + 1, bytes_of(data, 1), &error), INVALID);
            if (at > 0)
                CHECK_STATUS(blob_upload_append(upload, at - 1, bytes_of(data, 1), &error),
                             INVALID);
            CHECK_OK(blob_upload_append(upload, at, bytes_of(data + at, take), &error));
            at += take;
        }
        if (at == SIZE) {
            CHECK(!blob_exists(store, digest));
            CHECK_OK(blob_upload_finish(upload, digest, &error));
            CHECK_OK(blob_check(store, digest, &error));
            CHECK_STATUS(blob_upload_finish(upload, digest, &error), INVALID);
            CHECK_STATUS(blob_upload_append(upload, at, bytes_of(data, 1), &error), INVALID);
        }
        blob_upload_close(upload);
        blob_store_close(store);
    }
    CHECK_EQUAL(files_in("uploads"), 0);
    CHECK_EQUAL(files_in("blobs"), 1);
    free(data);
}

TEST(an_upload_in_one_go_needs_no_second_pass_and_gives_the_same_blob) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct blob_upload *upload = NULL;
    uint8_t digest[DIGEST_SIZE];
    digest_sha256("hello", 5, digest);
    CHECK_OK(blob_upload_open(store, "u", 5, &upload, &error));
    CHECK_OK(blob_upload_append(upload, 0, text_bytes("hel"), &error));
    CHECK_OK(blob_upload_append(upload, 3, text_bytes("lo"), &error));
    CHECK_OK(blob_upload_append(upload, 5, bytes_of(NULL, 0), &error));
    CHECK_STATUS(blob_upload_append(upload, 5, text_bytes("!"), &error), INVALID);
    CHECK_OK(blob_upload_finish(upload, digest, &error));
    blob_upload_close(upload);
    blob_upload_close(NULL);
    CHECK_OK(blob_check(store, digest, &error));
    blob_store_close(store);
}

TEST(other_bytes_than_promised_are_refused_and_the_upload_begins_again) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct blob_upload *upload = NULL;
    uint8_t digest[DIGEST_SIZE];
    digest_sha256("hello", 5, digest);
    for (int again = 0; again < 2; again++) {
        CHECK_OK(blob_upload_open(store, "u", 100, &upload, &error));
        CHECK_OK(blob_upload_append(upload, 0, text_bytes("hellO"), &error));
        if (again) { /* taken up by another handle: digested from the file */
            blob_upload_close(upload);
            CHECK_OK(blob_upload_open(store, "u", 100, &upload, &error));
        }
        CHECK_STATUS(blob_upload_finish(upload, digest, &error), CORRUPT);
        CHECK(!blob_exists(store, digest));
        CHECK_EQUAL(blob_upload_size(upload), 0);
        CHECK_OK(blob_upload_append(upload, 0, text_bytes("hello"), &error));
        CHECK_OK(blob_upload_finish(upload, digest, &error));
        blob_upload_close(upload);
        CHECK_OK(blob_check(store, digest, &error));
        CHECK_OK(blob_delete(store, digest, &error));
    }
    blob_store_close(store);
}

TEST(hostile_upload_names_are_refused) {
    struct blob_store *store = open_store();
    struct blob_upload *upload = NULL;
    char longest[BLOB_UPLOAD_NAME_MAX + 2];
    memset(longest, 'x', sizeof longest);
    longest[BLOB_UPLOAD_NAME_MAX + 1] = 0;
    const char *const names[] = {"",       ".",   "..",   "../evil", "a/b",      "/etc/passwd",
                                 ".tmp-1", "a b", "a\nb", "a\\b",    "\xc3\xa4", longest};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct error error = {0};
        CHECK_STATUS(blob_upload_open(store, names[i], 10, &upload, &error), INVALID);
    }
    CHECK_EQUAL(files_in("."), 0);
    struct error error = {0};
    longest[BLOB_UPLOAD_NAME_MAX] = 0;
    CHECK_OK(blob_upload_open(store, longest, 10, &upload, &error));
    blob_upload_discard(upload);
    char *link = xformat("%s/uploads/link", test_directory());
    CHECK(symlink("/tmp/elsewhere", link) == 0);
    CHECK(blob_upload_open(store, "link", 10, &upload, &error) != OK);
    CHECK(!file_exists("/tmp/elsewhere"));
    free(link);
    blob_store_close(store);
}

TEST(an_upload_has_one_writer) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct blob_upload *upload = NULL, *second = NULL;
    CHECK_OK(blob_upload_open(store, "u", 10, &upload, &error));
    CHECK_STATUS(blob_upload_open(store, "u", 10, &second, &error), UNAVAILABLE);
    CHECK_OK(blob_upload_append(upload, 0, text_bytes("ab"), &error));
    blob_upload_close(upload);
    CHECK_STATUS(blob_upload_open(store, "u", 1, &second, &error),
                 INVALID); /* more is there than may be */
    CHECK_OK(blob_upload_open(store, "u", 10, &second, &error));
    CHECK_EQUAL(blob_upload_size(second), 2);
    blob_upload_discard(second);
    CHECK_EQUAL(files_in("uploads"), 0);
    blob_upload_discard(NULL);
    blob_store_close(store);
}

TEST(only_old_uploads_that_nobody_has_open_are_cleaned_away) {
    struct blob_store *store = open_store();
    struct error error = {0};
    struct blob_upload *old = NULL, *open = NULL, *fresh = NULL;
    uint64_t removed = 9;
    CHECK_OK(blob_upload_open(store, "old", 10, &old, &error));
    CHECK_OK(blob_upload_open(store, "open", 10, &open, &error));
    CHECK_OK(blob_upload_open(store, "fresh", 10, &fresh, &error));
    CHECK_OK(blob_upload_append(old, 0, text_bytes("x"), &error));
    CHECK_OK(blob_upload_append(open, 0, text_bytes("x"), &error));
    CHECK_OK(blob_upload_append(fresh, 0, text_bytes("x"), &error));
    blob_upload_close(old);
    blob_upload_close(fresh);
    char *left_over = xformat("%s/uploads/.tmp-1-0000", test_directory());
    CHECK_OK(file_write(left_over, text_bytes("x"), 0600, &error));
    char command[400];
    snprintf(command, sizeof command,
             "cd '%s/uploads' && touch -d '2 hours ago' old open .tmp-1-0000", test_directory());
    CHECK(system(command) == 0);
    CHECK_OK(blob_upload_clean(store, 3600 * 1000, &removed, &error));
    CHECK_EQUAL(removed, 2);
    CHECK(!file_exists(left_over));
    blob_upload_close(open);
    CHECK_EQUAL(files_in("uploads"), 2);
    CHECK_OK(file_write(left_over, text_bytes("of now"), 0600, &error));
    CHECK_OK(blob_upload_clean_named(store, ".tmp-", &removed,
                                     &error)); /* whatever its age, and nothing else */
    CHECK_EQUAL(removed, 1);
    CHECK(!file_exists(left_over));
    CHECK_EQUAL(files_in("uploads"), 2);
    CHECK_OK(blob_upload_clean(store, 0, &removed, &error));
    CHECK_EQUAL(removed, 2);
    free(left_over);
    blob_store_close(store);
}

/* --- the disk --- */

TEST(a_failed_sync_means_no_blob_and_no_rest) {
    struct blob_store *store = open_store();
    uint8_t digest[DIGEST_SIZE] = {0}, zero[DIGEST_SIZE] = {0};
    for (int full = 0; full < 2; full++) {
        struct error error = {0};
        struct blob_upload *upload = NULL;
        enum status wanted = full ? FULL : FAILED;
        failing_code = full ? ENOSPC : EIO;
        CHECK_STATUS(blob_write(store, text_bytes("hello"), digest, &error), wanted);
        CHECK(digest_equal(digest, zero)); /* written only on success */
        CHECK_EQUAL(files_in("blobs") + files_in("uploads"), 0);
        for (unsigned count = 1; count < 8; count += 6) {
            struct blob_batch *batch = blob_batch_create(store);
            uint8_t each[DIGEST_SIZE];
            for (unsigned i = 0; i < count; i++)
                CHECK_OK(blob_batch_add(batch, bytes_of(&i, sizeof i), each, &error));
            CHECK_STATUS(blob_batch_sync(batch, &error), wanted);
            blob_batch_destroy(batch);
            CHECK_EQUAL(files_in("blobs") + files_in("uploads"), 0);
        }
        CHECK_OK(blob_upload_open(store, "u", 10, &upload, &error));
        CHECK_OK(blob_upload_append(upload, 0, text_bytes("hello"), &error));
        uint8_t hello[DIGEST_SIZE];
        digest_sha256("hello", 5, hello);
        CHECK_STATUS(blob_upload_finish(upload, hello, &error), wanted);
        CHECK(!blob_exists(store, hello));
        failing_code = 0;
        CHECK_OK(blob_upload_finish(upload, hello, &error));
        CHECK_OK(blob_check(store, hello, &error));
        CHECK_OK(blob_delete(store, hello, &error));
        blob_upload_close(upload);
    }
    blob_store_close(store);
}

static char mounted[300];
static void unmount(void) { umount2(mounted, MNT_DETACH); }

TEST(a_full_disk_is_said_with_figures_and_uploads_go_on_once_there_is_room) {
    snprintf(mounted, sizeof mounted, "%s/small", test_directory());
    CHECK(mkdir(mounted, 0700) == 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=2m,nr_inodes=1000") != 0)
        TEST_SKIP("mounting is not allowed here");
    atexit(unmount);
    struct blob_store *store = NULL;
    struct error error = {0};
    struct blob_upload *upload = NULL;
    enum { SIZE = 1500000 };
    uint8_t digest[DIGEST_SIZE], ballast[DIGEST_SIZE], *data = junk(SIZE);
    CHECK_OK(blob_store_open(mounted, &storage_sha256, &store, &error));
    CHECK_OK(blob_write(store, bytes_of(data, 1000000), ballast, &error));
    CHECK_STATUS(blob_write(store, bytes_of(data, SIZE), digest, &error), FULL);
    CHECK_CONTAINS(error.message, "MiB and");
    CHECK_OK(blob_upload_open(store, "u", SIZE, &upload, &error));
    CHECK_STATUS(blob_upload_append(upload, 0, bytes_of(data, SIZE), &error), FULL);
    uint64_t kept = blob_upload_size(upload);
    CHECK(kept > 100000 && kept < SIZE);
    blob_upload_close(upload);
    CHECK_OK(blob_delete(store, ballast, &error));
    CHECK_OK(blob_upload_open(store, "u", SIZE, &upload, &error));
    CHECK_EQUAL(blob_upload_size(upload), kept);
    CHECK_OK(
        blob_upload_append(upload, kept, bytes_of(data + kept, (size_t)(SIZE - kept)), &error));
    digest_sha256(data, SIZE, digest);
    CHECK_OK(blob_upload_finish(upload, digest, &error));
    CHECK_OK(blob_check(store, digest, &error));
    blob_upload_close(upload);
    free(data);
    blob_store_close(store);
}

TEST(a_process_killed_while_uploading_leaves_an_upload_that_goes_on) {
    enum { SIZE = 3000000, STEP = 1000 };
    uint8_t digest[DIGEST_SIZE], *data = junk(SIZE);
    digest_sha256(data, SIZE, digest);
    struct random random;
    random_init(&random, 3);
    struct error error = {0};
    struct blob_store *store = open_store();
    for (int round = 0; round < 10; round++) {
        pid_t child = fork();
        if (child == 0) {
            struct blob_upload *upload = NULL;
            CHECK_OK(blob_upload_open(store, "u", SIZE, &upload, &error));
            for (uint64_t at = blob_upload_size(upload); at + STEP < SIZE;
                 at = blob_upload_size(upload)) {
                CHECK_OK(blob_upload_append(upload, at, bytes_of(data + at, STEP), &error));
                usleep(20);
            }
            for (;;) pause();
        }
        usleep((useconds_t)(2000 + random_below(&random, 10000)));
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    }
    struct blob_upload *upload = NULL;
    CHECK_OK(blob_upload_open(store, "u", SIZE, &upload, &error));
    uint64_t at = blob_upload_size(upload);
    CHECK(at > 0);
    CHECK_OK(blob_upload_append(upload, at, bytes_of(data + at, (size_t)(SIZE - at)), &error));
    CHECK_OK(blob_upload_finish(upload, digest, &error));
    CHECK_OK(blob_check(store, digest, &error));
    blob_upload_close(upload);
    free(data);
    blob_store_close(store);
}
