#include "base/live_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/test.h"

/* A disk of 64 KiB, in a mount namespace of this test's own. */
static char *small_disk(void) {
    const char *path = test_directory();
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", path, "tmpfs", 0, "size=64k") != 0)
        TEST_SKIP("no disk of its own can be mounted here: %s", strerror(errno));
    return file_join(path, "status");
}

static void fill(void) {
    static const char page[4096];
    struct error error = {0};
    char *path = file_join(test_directory(), "filler");
    int file = open(path, O_WRONLY | O_CREAT, 0600);
    CHECK(file >= 0);
    while (file_write_all(file, page, sizeof page, &error) == OK) continue;
    close(file);
    free(path);
}

static enum status write_sized(const char *path, char what, size_t size) {
    struct error error = {0};
    char *content = xmalloc(size);
    memset(content, what, size);
    enum status status = live_file_write(path, bytes_of(content, size), &error);
    if (status != OK) CHECK_CONTAINS(error.message, "No space left");
    free(content);
    return status;
}

/* `size` bytes of `what`, then nothing but empty lines. */
static void check_file(const char *path, char what, size_t size) {
    struct buffer text = {0};
    struct error error = {0};
    CHECK_OK(file_read(path, 1 << 20, &text, &error));
    CHECK(text.size >= size);
    for (size_t i = 0; i < text.size; i++) CHECK_EQUAL(text.data[i], i < size ? what : '\n');
    buffer_deinit(&text);
}

TEST(a_file_grows_and_shrinks_on_a_full_disk) {
    char *path = small_disk();
    CHECK_EQUAL(write_sized(path, 'a', 4096), OK);
    fill();
    CHECK_EQUAL(write_sized(path, 'b', 4097), OK);
    check_file(path, 'b', 4097);
    CHECK_EQUAL(write_sized(path, 'c', 4096 + LIVE_FILE_ROOM), OK);
    check_file(path, 'c', 4096 + LIVE_FILE_ROOM);
    CHECK_EQUAL(write_sized(path, 'd', 10), OK);
    check_file(path, 'd', 10);
    CHECK_EQUAL(write_sized(path, 'e', 4096 + LIVE_FILE_ROOM), OK);
    check_file(path, 'e', 4096 + LIVE_FILE_ROOM);
    CHECK_EQUAL(write_sized(path, 'f', 60 * 1024), FULL);
    free(path);
}

TEST(a_first_file_on_a_full_disk_says_what_is_wrong) {
    char *path = small_disk();
    fill();
    CHECK_EQUAL(write_sized(path, 'a', 100), FULL);
    CHECK(!file_exists(path));
    free(path);
}

TEST(once_there_is_room_the_file_is_whole_again) {
    char *path = small_disk(), *filler = file_join(test_directory(), "filler");
    CHECK_EQUAL(write_sized(path, 'a', 4096), OK);
    fill();
    CHECK_EQUAL(write_sized(path, 'b', 100), OK);
    CHECK(unlink(filler) == 0);
    CHECK_EQUAL(write_sized(path, 'c', 50), OK);
    struct stat info;
    CHECK(stat(path, &info) == 0);
    CHECK_EQUAL(info.st_size, 50);
    free(path);
    free(filler);
}

TEST(what_is_no_regular_file_stays) {
    struct error error = {0};
    char *path = file_join(test_directory(), "directory");
    CHECK_OK(file_make_directory(path, 0700, &error));
    CHECK_STATUS(live_file_write(path, bytes_of("a", 1), &error), INVALID);
    CHECK(file_exists(path));
    free(path);
}
