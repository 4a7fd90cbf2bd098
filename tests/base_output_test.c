#include "base/output.h"

#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/ending.h"
#include "base/file.h"
#include "base/memory.h"
#include "tests/test.h"

static char *in_directory(const char *name) { return file_join(test_directory(), name); }

static void put(const char *path, const char *text) {
    struct error error = {0};
    CHECK_OK(file_write(path, bytes_of(text, strlen(text)), 0644, &error));
}

static void check_content(const char *path, const char *wanted) {
    struct buffer text = {0};
    struct error error = {0};
    CHECK_OK(file_read(path, 1000, &text, &error));
    CHECK_TEXT((const char *)text.data, wanted);
    buffer_deinit(&text);
}

TEST(a_claim_leaves_nothing_behind_and_changes_nothing_that_is_there) {
    struct error error = {0};
    struct output *output;
    char *path = in_directory("state"), *lock = in_directory("state.lock");
    put(path, "precious");
    CHECK_OK(output_claim_file(path, 1000, &output, &error));
    check_content(path, "precious");
    output_release(output);
    check_content(path, "precious");
    CHECK(!file_exists(lock));
    free(path);
    free(lock);
}

TEST(what_cannot_be_written_is_refused_with_its_name) {
    struct error error = {0};
    struct output *output;
    char *file = in_directory("file"), *below = in_directory("file/below"),
         *away = in_directory("no/where"), *loop = in_directory("loop");
    put(file, "x");
    CHECK(symlink("loop", loop) == 0);
    CHECK_STATUS(output_claim_file(away, 0, &output, &error), NOT_FOUND);
    CHECK(strstr(error.message, away) != NULL);
    CHECK_STATUS(output_claim_file(test_directory(), 0, &output, &error), INVALID);
    CHECK_STATUS(output_claim_file(loop, 0, &output, &error), INVALID);
    CHECK_STATUS(output_claim_file(below, 0, &output, &error), FAILED);
    CHECK_STATUS(output_claim_directory(below, 0, &output, &error), FAILED);
    CHECK_STATUS(output_claim_directory(file, 0, &output, &error), INVALID);
    CHECK_STATUS(output_claim_file(file, UINT64_MAX, &output, &error), FULL);
    CHECK(strstr(error.message, "MiB left") != NULL);
    check_content(file, "x");
    free(file);
    free(below);
    free(away);
    free(loop);
}

TEST(one_process_has_an_output_at_a_time) {
    struct error error = {0};
    struct output *first, *second;
    char *path = in_directory("state"), *link = in_directory("link"),
         *directory = in_directory("export");
    CHECK(symlink("state", link) == 0);
    CHECK_OK(output_claim_file(path, 0, &first, &error));
    CHECK_STATUS(output_claim_file(path, 0, &second, &error), UNAVAILABLE);
    /* the same file by another name */
    CHECK_STATUS(output_claim_file(link, 0, &second, &error), UNAVAILABLE);
    output_release(first);
    CHECK_OK(output_claim_file(link, 0, &first, &error));
    output_release(first);
    CHECK_OK(output_claim_directory(directory, 0, &first, &error));
    CHECK_STATUS(output_claim_directory(directory, 0, &second, &error), UNAVAILABLE);
    output_release(first);
    free(path);
    free(link);
    free(directory);
}

TEST(a_users_own_lock_file_stays_and_a_dead_process_s_goes) {
    struct error error = {0};
    struct output *output;
    char *path = in_directory("state"), *lock = in_directory("state.lock");
    put(lock, "mine");
    CHECK_OK(output_claim_file(path, 0, &output, &error));
    output_release(output);
    check_content(lock, "mine");
    unlink(lock);
    pid_t child = fork();
    if (child == 0) {
        _exit(output_claim_file(path, 0, &output, NULL) == OK ? 0
                                                              : 1); /* ends without letting go */
    }
    int ended;
    CHECK(waitpid(child, &ended, 0) == child && ended == 0);
    CHECK(file_exists(lock));
    CHECK_OK(output_claim_file(path, 0, &output, &error));
    output_release(output);
    CHECK(!file_exists(lock));
    free(path);
    free(lock);
}

TEST(only_temporary_files_of_this_output_are_cleaned_up) {
    struct error error = {0};
    struct output *output;
    char *path = in_directory("state"), *left = in_directory("state.tmp.12345"),
         *others = in_directory("state.tmp.12345.txt"), *backup = in_directory("state.tmp.old");
    put(left, "half");
    put(others, "mine");
    put(backup, "mine");
    CHECK_OK(output_claim_file(path, 0, &output, &error));
    output_release(output);
    CHECK(!file_exists(left));
    check_content(others, "mine");
    check_content(backup, "mine");
    free(path);
    free(left);
    free(others);
    free(backup);
}

TEST(directories_that_were_made_and_stay_empty_go_again) {
    struct error error = {0};
    struct output *output;
    char *deep = in_directory("a/b/c"), *top = in_directory("a"), *file = in_directory("a/b/file");
    CHECK_OK(output_claim_directory(deep, 0, &output, &error));
    CHECK(file_exists(deep));
    output_release(output);
    CHECK(!file_exists(top));
    CHECK_OK(output_claim_directory(deep, 0, &output, &error));
    put(file, "kept");
    output_release(output);
    CHECK(!file_exists(deep));
    check_content(file, "kept");
    free(deep);
    free(top);
    free(file);
}

TEST(writing_through_a_link_keeps_the_link) {
    struct error error = {0};
    struct stat info;
    char *link = in_directory("link"), *target = in_directory("target"),
         *dangling = in_directory("dangling"), *new = in_directory("new");
    put(target, "old");
    CHECK(symlink("target", link) == 0 && symlink(new, dangling) == 0);
    put(link, "fresh");
    CHECK(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    check_content(target, "fresh");
    put(dangling, "made");
    check_content(new, "made");
    struct output *output;
    CHECK_STATUS(output_claim_file("/dev/null", 0, &output, &error), INVALID);
    CHECK(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
    free(link);
    free(target);
    free(dangling);
    free(new);
}

TEST(the_limit_of_a_file_s_size_is_an_error_that_names_it) {
    struct error error = {0};
    char *path = in_directory("large");
    put(path, "old");
    ending_begin(ENDING_BY_SIGNAL);
    const struct rlimit limit = {4096, RLIM_INFINITY};
    struct rlimit before;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    static uint8_t content[8192];
    enum status status = file_write(path, bytes_of(content, sizeof content), 0644, &error);
    struct output *output;
    struct error beforehand = {0};
    enum status claimed = output_claim_file(path, sizeof content, &output, &beforehand);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK_EQUAL(status, FULL);
    CHECK(strstr(error.message, "ulimit -f") && strstr(error.message, "4096") &&
          strstr(error.message, path));
    CHECK_EQUAL(claimed, FULL);
    CHECK(strstr(beforehand.message, "ulimit -f") != NULL);
    check_content(path, "old");
    free(path);
}
