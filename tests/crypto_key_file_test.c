#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "crypto/key_file.h"
#include "tests/test.h"

static char *path_of(const char *name) { return file_join(test_directory(), name); }

static struct key_pair *saved_key(const char *path) {
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_OK(key_pair_create(&key, &error));
    CHECK_OK(key_file_save(path, key, &error));
    return key;
}

TEST(a_saved_key_is_loaded_again_and_only_its_owner_may_read_it) {
    char *path = path_of("site.key");
    umask(0);
    struct key_pair *key = saved_key(path), *again = NULL;
    struct error error = {0};
    struct stat info;
    CHECK(stat(path, &info) == 0);
    CHECK_EQUAL(info.st_mode & 0777, 0600);
    CHECK_OK(key_file_load(path, &again, &error));
    CHECK_MEMORY(key_pair_public(again), key_pair_public(key), PUBLIC_KEY_SIZE);
    key_pair_destroy(key);
    key_pair_destroy(again);
    free(path);
}

TEST(a_key_that_others_may_touch_is_refused_with_the_cure) {
    char *path = path_of("site.key");
    struct key_pair *key = saved_key(path), *again = NULL;
    static const mode_t modes[] = {0640, 0604, 0620, 0602, 0610, 0601, 0644, 0777};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct error error = {0};
        CHECK(chmod(path, modes[i]) == 0);
        CHECK_STATUS(key_file_load(path, &again, &error), INVALID);
        CHECK_CONTAINS(error.message, "chmod 600");
    }
    struct error error = {0};
    CHECK(chmod(path, 0400) == 0);
    CHECK_OK(key_file_load(path, &again, &error));
    key_pair_destroy(key);
    key_pair_destroy(again);
    free(path);
}

TEST(a_key_of_another_user_is_refused) {
    if (geteuid() != 0) TEST_SKIP("only root can give a file away");
    char *path = path_of("site.key");
    struct key_pair *key = saved_key(path), *again = NULL;
    struct error error = {0};
    CHECK(chown(path, 12345, 12345) == 0);
    CHECK_STATUS(key_file_load(path, &again, &error), INVALID);
    CHECK_CONTAINS(error.message, "belongs to user 12345");
    struct buffer pem = {0};
    CHECK_STATUS(key_file_read(path, false, &pem, &error), INVALID);
    CHECK_OK(key_file_read(path, true, &pem, &error)); /* root, for a person */
    buffer_deinit(&pem);
    CHECK(chmod(path, 0640) == 0);
    CHECK_STATUS(key_file_read(path, true, &pem, &error), INVALID);
    key_pair_destroy(key);
    free(path);
}

TEST(a_key_is_never_overwritten) {
    char *path = path_of("site.key");
    struct key_pair *key = saved_key(path), *again = NULL;
    struct error error = {0};
    CHECK_STATUS(key_file_save(path, key, &error), INVALID);
    char *dangling = path_of("link.key");
    CHECK(symlink("/nonexistent/elsewhere", dangling) == 0);
    CHECK_STATUS(key_file_save(dangling, key, &error), INVALID);
    bool created = true;
    CHECK_OK(key_file_open(path, &again, &created, &error));
    CHECK(!created);
    CHECK_MEMORY(key_pair_public(again), key_pair_public(key), PUBLIC_KEY_SIZE);
    key_pair_destroy(key);
    key_pair_destroy(again);
    free(dangling);
    free(path);
}

TEST(opening_makes_a_key_once) {
    char *path = path_of("new.key");
    struct key_pair *first = NULL, *second = NULL;
    struct error error = {0};
    bool created = false;
    CHECK_OK(key_file_open(path, &first, &created, &error));
    CHECK(created);
    CHECK_OK(key_file_open(path, &second, &created, &error));
    CHECK(!created);
    CHECK_MEMORY(key_pair_public(first), key_pair_public(second), PUBLIC_KEY_SIZE);
    key_pair_destroy(first);
    key_pair_destroy(second);
    free(path);
}

TEST(missing_cut_oversized_and_wrong_files_are_refused) {
    char *path = path_of("bad.key");
    struct key_pair *key = NULL;
    struct error error = {0};
    CHECK_STATUS(key_file_load(path, &key, &error), NOT_FOUND);
    CHECK_CONTAINS(error.message, path);
    CHECK_STATUS(key_file_load(test_directory(), &key, &error), INVALID);
    static uint8_t big[KEY_FILE_SIZE_MAX + 1];
    CHECK_OK(file_write(path, bytes_of(big, sizeof big), 0600, &error));
    CHECK_STATUS(key_file_load(path, &key, &error), INVALID);
    CHECK_OK(file_write(path, bytes_of(big, sizeof big - 1), 0600, &error));
    CHECK_STATUS(key_file_load(path, &key, &error), INVALID);
    CHECK_OK(file_write(path, bytes_of(NULL, 0), 0600, &error));
    CHECK_STATUS(key_file_load(path, &key, &error), INVALID);
    char *fifo = path_of("fifo.key");
    CHECK(mkfifo(fifo, 0600) == 0);
    CHECK_STATUS(key_file_load(fifo, &key, &error), INVALID);
    /* and is not replaced by a new one */
    CHECK_STATUS(key_file_open(path, &key, &(bool){false}, &error), INVALID);
    free(fifo);
    free(path);
}

TEST(openssls_own_tool_reads_our_keys_and_we_read_its) {
    if (system("command -v openssl >/dev/null") != 0)
        TEST_SKIP("the program openssl is not installed");
    char *ours = path_of("ours.key"), *theirs = path_of("theirs.key"), command[700];
    struct key_pair *key = saved_key(ours), *other = NULL;
    struct error error = {0};
    snprintf(
        command, sizeof command,
        "openssl pkey -in '%s' -noout && umask 077 && openssl genpkey -algorithm ED25519 -out '%s'",
        ours, theirs);
    CHECK(system(command) == 0);
    CHECK_OK(key_file_load(theirs, &other, &error));
    key_pair_destroy(key);
    key_pair_destroy(other);
    free(ours);
    free(theirs);
}
