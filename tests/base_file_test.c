#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/test.h"

static char *in_directory(const char *name) { return file_join(test_directory(), name); }

static void check_content(const char *path, const char *wanted) {
    struct buffer text = {0};
    struct error error = {0};
    CHECK_OK(file_read(path, 1000, &text, &error));
    CHECK_EQUAL(text.size, strlen(wanted));
    CHECK_TEXT((const char *)text.data, wanted);
    buffer_deinit(&text);
}

TEST(what_was_written_is_read_with_its_mode_and_replaces_what_was_there) {
    struct error error = {0};
    struct stat info;
    char *path = in_directory("file");
    CHECK_OK(file_write(path, bytes_of("old content", 11), 0600, &error));
    check_content(path, "old content");
    CHECK(stat(path, &info) == 0);
    CHECK_EQUAL(info.st_mode & 0777, 0600);
    CHECK_OK(file_write(path, bytes_of("new", 3), 0600, &error));
    check_content(path, "new");
    CHECK_OK(file_write(path, bytes_of(NULL, 0), 0600, &error));
    check_content(path, "");
    free(path);
}

TEST(reading_appends_and_refuses_what_is_too_large_absent_or_no_file) {
    struct error error = {0};
    struct buffer text = {0};
    char *path = in_directory("file"), *absent = in_directory("absent");
    CHECK_OK(file_write(path, bytes_of("12345", 5), 0600, &error));
    buffer_append(&text, "0", 1);
    CHECK_OK(file_read(path, 5, &text, &error));
    CHECK_TEXT((const char *)text.data, "012345");
    CHECK_STATUS(file_read(path, 4, &text, &error), INVALID);
    CHECK_CONTAINS(error.message, "limit of 4");
    CHECK_STATUS(file_read(absent, 4, &text, &error), NOT_FOUND);
    CHECK_STATUS(file_read(test_directory(), 4, &text, &error), INVALID);
    CHECK_EQUAL(text.size, 6);
    buffer_deinit(&text);
    free(path);
    free(absent);
}

/* A file that grows without end while it is read: /proc/self/mem-like sources say size 0. */
TEST(a_file_that_says_it_is_empty_is_read_all_the_same) {
    struct error error = {0};
    struct buffer text = {0};
    CHECK_OK(file_read("/proc/self/status", 1 << 20, &text, &error));
    CHECK(text.size > 100);
    text.size = 0;
    CHECK_STATUS(file_read("/proc/self/status", 10, &text, &error), INVALID);
    CHECK_EQUAL(text.size, 0);
    buffer_deinit(&text);
}

TEST(a_write_that_fails_leaves_the_old_file_and_no_litter) {
    struct error error = {0};
    char *directory = in_directory("place"), *taken = file_join(directory, "taken"),
         *inside = file_join(taken, "x");
    CHECK_OK(file_make_directory(taken, 0700, &error));
    CHECK_OK(file_write(inside, bytes_of("x", 1), 0600, &error));
    CHECK_STATUS(file_write(taken, bytes_of("y", 1), 0600, &error),
                 INVALID); /* a directory is in the way of the rename */
    CHECK_CONTAINS(error.message, "write: ");
    CHECK_CONTAINS(error.message, "a directory");
    check_content(inside, "x");
    unsigned names = 0;
    DIR *listing = opendir(directory);
    for (struct dirent *entry; (entry = readdir(listing));) names += entry->d_name[0] != '.';
    closedir(listing);
    CHECK_EQUAL(names, 1);
    char *nowhere = file_join(directory, "no/such/file");
    CHECK_STATUS(file_write(nowhere, bytes_of("y", 1), 0600, &error), NOT_FOUND);
    free(nowhere);
    free(inside);
    free(taken);
    free(directory);
}

TEST(a_full_disk_is_told_as_full) {
    struct error error = {0};
    int descriptor = open("/dev/full", O_WRONLY | O_CLOEXEC);
    CHECK(descriptor >= 0);
    CHECK_STATUS(file_write_all(descriptor, "x", 1, &error), FULL);
    close(descriptor);
    CHECK_STATUS(file_write_all(descriptor, "x", 1, &error), FAILED);
}

TEST(directories_are_made_with_their_parents_unless_a_file_is_in_the_way) {
    struct error error = {0};
    char *deep = in_directory("a/b/c"), *file = in_directory("file"),
         *below = in_directory("file/d");
    CHECK_OK(file_make_directory(deep, 0700, &error));
    CHECK_OK(file_make_directory(deep, 0700, &error));
    CHECK(file_exists(deep));
    CHECK_OK(file_write(file, bytes_of("x", 1), 0600, &error));
    CHECK_STATUS(file_make_directory(file, 0700, &error), INVALID);
    CHECK(file_make_directory(below, 0700, &error) != OK);
    CHECK(!file_exists(below));
    CHECK_OK(file_sync_directory(deep, &error));
    CHECK_STATUS(file_sync_directory(below, &error), FAILED);
    free(deep);
    free(file);
    free(below);
}

TEST(a_directory_in_which_everybody_may_write_is_not_private) {
    char *path = file_join(test_directory(), "private");
    struct error error = {0};
    CHECK_STATUS(file_check_private_directory(path, &error), NOT_FOUND);
    CHECK_OK(file_make_directory(path, 0755, &error));
    CHECK_OK(file_check_private_directory(path, &error));
    CHECK(chmod(path, 0777) == 0);
    CHECK_STATUS(file_check_private_directory(path, &error), INVALID);
    CHECK_CONTAINS(error.message, "chmod o-w");
    CHECK(chmod(path, 01777) == 0);
    CHECK_OK(file_check_private_directory(path, &error));
    free(path);
}
