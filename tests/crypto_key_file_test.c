#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
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

/* ---- what stays in memory -------------------------------------------------------------------- */

enum { MASK = 0x5a, NEEDLE = 24 };

/* Whether this process's writable memory has those bytes, which are given masked, so that the
 * needle itself is not found. */
__attribute__((no_sanitize("address"))) static bool memory_has(const uint8_t masked[NEEDLE]) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    bool found = false;
    CHECK(maps);
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long long from, to;
        char rights[5];
        if (sscanf(line, "%llx-%llx %4s", &from, &to, rights) != 3) continue;
        if (rights[0] != 'r' || rights[1] != 'w' || strstr(line, "[v") || to - from > (64u << 20))
            continue;
        const volatile uint8_t *memory = (const volatile uint8_t *)(uintptr_t)from;
        for (uint64_t at = 0; at + NEEDLE <= to - from && !found; at++) {
            size_t same = 0;
            while (same < NEEDLE && (memory[at + same] ^ MASK) == masked[same]) same++;
            found = same == NEEDLE;
        }
    }
    fclose(maps);
    return found;
}

/* The middle of the key's text, where each key is another. */
static void needle_of(const uint8_t *pem, size_t size, uint8_t out[NEEDLE]) {
    const char *line = memchr(pem, '\n', size);
    CHECK(line);
    line += 1 + 24; /* the first of it says that it is an Ed25519 key */
    for (size_t i = 0; i < NEEDLE; i++) out[i] = (uint8_t)line[i] ^ MASK;
}

TEST(no_copy_of_a_private_key_stays_in_memory_once_it_is_let_go) {
    struct error error = {0};
    struct key_pair *key = NULL;
    struct buffer pem = {0};
    uint8_t needle[NEEDLE], seed[KEY_SEED_SIZE], raw[NEEDLE];
    char *path = path_of("some.key");
    random_system(seed, sizeof seed);
    for (size_t i = 0; i < NEEDLE; i++) raw[i] = seed[i] ^ MASK;
    CHECK_OK(key_pair_from_seed(seed, &key, &error));
    clear(seed, sizeof seed);
    CHECK_OK(key_pair_to_pem(key, &pem, &error));
    needle_of(pem.data, pem.size, needle);
    CHECK(memory_has(needle));                        /* the search can find it */
    for (int i = 0; i < 200; i++) buffer_u8(&pem, 0); /* and a buffer that grows is elsewhere */
    buffer_deinit(&pem);
    CHECK(!memory_has(needle));
    CHECK_OK(key_file_save(path, key, &error));
    CHECK(!memory_has(needle));
    key_pair_destroy(key);
    CHECK(!memory_has(needle));
    CHECK_OK(key_file_read(path, false, &pem, &error));
    buffer_u8(&pem, 0); /* as TLS takes it */
    buffer_deinit(&pem);
    CHECK(!memory_has(needle));
    CHECK(!memory_has(raw));
    CHECK_OK(key_file_load(path, &key, &error));
    CHECK(memory_has(raw)); /* while it is in use */
    key_pair_destroy(key);
    CHECK(!memory_has(needle));
    CHECK(!memory_has(raw));
    free(path);
}
