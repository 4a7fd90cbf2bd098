/* What the store does when the world breaks: killed processes, damaged files, full disks, failed
 * syncs.
 *
 * fdatasync, pwrite, writev and fallocate are defined here, and so called by LMDB too (the
 * program's symbols come first): a test can make the n-th call fail. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "storage/store.h"
#include "tests/storage_sha256.h"
#include "tests/test.h"

/* Calls to go until one fails; that one and all after it do while `lasting`. 0: never. */
struct fault {
    atomic_int left, code;
    atomic_bool lasting;
};
static struct fault sync_fault, write_fault, reserve_fault;

static bool strikes(struct fault *fault) {
    int left = atomic_load(&fault->left);
    if (left == 0) return false;
    if (left > 1) {
        atomic_fetch_sub(&fault->left, 1);
        return false;
    }
    if (!atomic_load(&fault->lasting)) atomic_store(&fault->left, 0);
    errno = atomic_load(&fault->code);
    return true;
}
static void set_fault(struct fault *fault, int nth, int code, bool lasting) {
    atomic_store(&fault->code, code);
    atomic_store(&fault->lasting, lasting);
    atomic_store(&fault->left, nth);
}

int fdatasync(int file) { return strikes(&sync_fault) ? -1 : (int)syscall(SYS_fdatasync, file); }
int fallocate(int file, int mode, off_t at, off_t size) {
    return strikes(&reserve_fault) ? -1 : (int)syscall(SYS_fallocate, file, mode, at, size);
}
/* LMDB rewrites its two meta pages in place: no full disk keeps it from that */
static atomic_bool spare_meta;
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    bool spared = atomic_load(&spare_meta) && at < 2 * 4096;
    return !spared && strikes(&write_fault) ? -1 : syscall(SYS_pwrite64, file, data, size, at);
}
ssize_t writev(int file, const struct iovec *pieces, int count) {
    return strikes(&write_fault) ? -1 : syscall(SYS_writev, file, pieces, count);
}

enum { LEDGER, SITES };
static const char *const tables[] = {"ledger", "sites"};

/* Paths live as long as the test's process. */
static char *keep(char *path) {
    static char *kept[64];
    static size_t count;
    CHECK(count < COUNT_OF(kept));
    return kept[count++] = path;
}

static struct store_options options_of(const char *name) {
    return (struct store_options){.directory = keep(file_join(test_directory(), name)),
                                  .tables = tables,
                                  .table_count = 2,
                                  .digest = &storage_sha256};
}
static struct store *open_with(const struct store_options *options) {
    struct store *store = NULL;
    struct error error = {0};
    CHECK_OK(store_open(options, &store, &error));
    return store;
}
static struct bytes text_bytes(const char *text) { return bytes_of(text, strlen(text)); }

static struct store_batch *numbered(struct store *store, uint64_t number, size_t value_size) {
    uint8_t key[STORE_KEY_U64_SIZE], *value = xcalloc(1, value_size + 8);
    memcpy(value, &number, sizeof number);
    store_key_u64(number, key);
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, LEDGER, bytes_of(key, sizeof key), bytes_of(value, value_size));
    free(value);
    return batch;
}

static enum status put_number(struct store *store, uint64_t number, size_t value_size,
                              struct error *error) {
    return store_commit_wait(store, numbered(store, number, value_size), error);
}

static enum status get_number(struct store *store, uint64_t number, struct error *error) {
    uint8_t key[STORE_KEY_U64_SIZE];
    uint64_t stored = 0;
    struct buffer out = {0};
    store_key_u64(number, key);
    enum status status = store_get(store, LEDGER, bytes_of(key, sizeof key), &out, error);
    if (status == OK) {
        CHECK(out.size >= sizeof stored);
        memcpy(&stored, out.data, sizeof stored);
        CHECK_EQUAL(stored, number);
    }
    buffer_deinit(&out);
    return status;
}

static char *data_path(const struct store_options *options) {
    return keep(file_join(options->directory, "data.mdb"));
}

/* --- killed --- */

struct acknowledgements { /* shared with the child */
    _Atomic uint64_t count;
};

static void acknowledge(void *context, enum status status, const struct error *error) {
    (void)error;
    struct acknowledgements *shared = context;
    if (status == OK) atomic_fetch_add(&shared->count, 1);
}

static void write_until_killed(const struct store_options *options, uint64_t from,
                               struct acknowledgements *shared) {
    struct store *store = open_with(options);
    for (uint64_t number = from;; number++) {
        struct store_batch *batch = numbered(store, number, 8 + number % 3000);
        while (store_commit(store, batch, acknowledge, shared, NULL) == FULL) clock_sleep_ms(1);
    }
}

TEST_WITHIN(nothing_acknowledged_is_lost_when_the_process_is_killed_at_any_moment, 120000) {
    struct store_options options = options_of("store");
    options.map_size = 256 << 10; /* growth is killed, too */
    options.queue_batches = 64;
    struct acknowledgements *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    struct random random;
    random_init(&random, 9);
    uint64_t stored = 0;
    for (int round = 0; round < 30; round++) {
        atomic_store(&shared->count, stored);
        pid_t child = fork();
        if (child == 0) write_until_killed(&options, stored, shared);
        usleep((useconds_t)(15000 + random_below(&random, 60000)));
        CHECK(kill(child, SIGKILL) == 0);
        int how = 0;
        CHECK(waitpid(child, &how, 0) == child);
        /* it did not end by itself, refused something */
        CHECK(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
        uint64_t acknowledged = atomic_load(&shared->count), count = 0;
        struct store *store = open_with(&options);
        struct error error = {0};
        CHECK_OK(store_check(store, NULL, &error));
        CHECK_OK(store_count(store, LEDGER, &count, &error));
        CHECK(count >= acknowledged); /* what was committed but not yet acknowledged may be there */
        for (uint64_t number = stored > 20 ? stored - 20 : 0; number < count; number++)
            CHECK_OK(get_number(store, number, &error));
        CHECK_STATUS(get_number(store, count, NULL), NOT_FOUND); /* a prefix: no holes */
        stored = count;
        store_close(store);
    }
    CHECK(stored > 100);
}

/* --- damaged --- */

TEST(a_flipped_byte_in_a_record_is_reported_with_table_and_key) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct error error = {0};
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, SITES, text_bytes("a-site"), text_bytes("first value"));
    store_batch_put(batch, SITES, text_bytes("b-site"), text_bytes("needle in the haystack"));
    store_batch_put(batch, SITES, text_bytes("c-site"), text_bytes("third value"));
    CHECK_OK(store_commit_wait(store, batch, &error));
    store_close(store);
    char *path = data_path(&options);
    struct buffer file = {0};
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    uint8_t *at = memmem(file.data, file.size, "needle", 6);
    CHECK(at != NULL);
    at[3] ^= 1;
    CHECK_OK(file_write(path, buffer_bytes(&file), 0600, &error));
    store = open_with(&options);
    struct buffer out = {0};
    CHECK_STATUS(store_get(store, SITES, text_bytes("b-site"), &out, &error), CORRUPT);
    CHECK_CONTAINS(error.message, "table sites, key b-site");
    CHECK_OK(store_get(store, SITES, text_bytes("a-site"), &out, &error));
    CHECK_STATUS(store_check(store, NULL, &error), CORRUPT);
    /* A scan gives what is good, names what is not, and goes on after it. */
    struct bytes none = bytes_of(NULL, 0), key, value;
    struct store_scan *scan = store_scan_open(store, SITES, none, none, STORE_ASCENDING);
    CHECK_OK(store_scan_next(scan, &key, &value, &error));
    CHECK_STATUS(store_scan_next(scan, &key, &value, &error), CORRUPT);
    CHECK_CONTAINS(error.message, "b-site");
    CHECK_OK(store_scan_next(scan, &key, &value, &error));
    CHECK(bytes_equal(value, text_bytes("third value")));
    CHECK_STATUS(store_scan_next(scan, &key, &value, &error), NOT_FOUND);
    store_scan_close(scan);
    buffer_deinit(&out);
    buffer_deinit(&file);
    store_close(store);
}

TEST(a_record_moved_to_another_key_or_table_is_reported) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct error error = {0};
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, SITES, text_bytes("key-one"), text_bytes("1"));
    CHECK_OK(store_commit_wait(store, batch, &error));
    store_close(store);
    char *path = data_path(&options);
    struct buffer file = {0};
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    for (uint8_t *at; (at = memmem(file.data, file.size, "key-one", 7)) != NULL;)
        memcpy(at, "key-two", 7);
    CHECK_OK(file_write(path, buffer_bytes(&file), 0600, &error));
    store = open_with(&options);
    struct buffer out = {0};
    CHECK_STATUS(store_get(store, SITES, text_bytes("key-two"), &out, &error), CORRUPT);
    store_close(store);
    /* and the same bytes under another table's name */
    static const char *const swapped[] = {"sites", "ledger"};
    for (uint8_t *at; (at = memmem(file.data, file.size, "key-two", 7)) != NULL;)
        memcpy(at, "key-one", 7);
    CHECK_OK(file_write(path, buffer_bytes(&file), 0600, &error));
    options.tables = swapped;
    store = open_with(&options);
    CHECK_OK(store_get(store, 0, text_bytes("key-one"), &out,
                       &error)); /* tables are known by name, not by number */
    store_close(store);
    buffer_deinit(&out);
    buffer_deinit(&file);
}

/* Every byte of a small store is flipped in turn, each tried in a process of its own. LMDB trusts
 * its pages, so some damage kills the reader or hides a record; what must never happen is a record
 * that reads OK and is not what was written. */
static int try_damaged(const struct store_options *options) {
    struct store *store = NULL;
    if (!freopen("/dev/null", "w", stderr)) return 1;
    struct rlimit limit = {2, 2}; /* a page that leads in a circle */
    setrlimit(RLIMIT_CPU, &limit);
    alarm(10);
    struct store_options look = *options;
    look.read_only = true;
    if (store_open(&look, &store, NULL) != OK) return 1;
    int result = 0;
    for (uint64_t number = 0; number < 40; number++) {
        enum status status = get_number(store, number, NULL); /* exits 97 if the value is wrong */
        if (status == NOT_FOUND && result == 0) result = 2;
        if (status != OK && status != NOT_FOUND) result = 1;
    }
    enum status status = store_check(store, NULL, NULL);
    if (status != OK) result = 1;
    return result;
}

TEST_WITHIN(no_flipped_byte_makes_a_wrong_record_look_right, 120000) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct error error = {0};
    /* one commit, so that most pages of the file are in use */
    struct store_batch *batch = store_batch_create(store);
    for (uint64_t number = 0; number < 40; number++) {
        uint8_t key[STORE_KEY_U64_SIZE], value[600] = {0};
        memcpy(value, &number, sizeof number);
        store_key_u64(number, key);
        store_batch_put(batch, LEDGER, bytes_of(key, sizeof key), bytes_of(value, sizeof value));
    }
    CHECK_OK(store_commit_wait(store, batch, &error));
    store_close(store);
    struct buffer file = {0};
    char *path = data_path(&options);
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    struct random random;
    random_init(&random, 77);
    unsigned healthy = 0, reported = 0, missing = 0, died = 0, rounds = 400;
    for (unsigned round = 0; round < rounds; round++) {
        size_t at = (size_t)random_below(&random, file.size);
        uint8_t flip = (uint8_t)(1u << random_below(&random, 8));
        int data = open(path, O_WRONLY | O_CLOEXEC);
        uint8_t damaged = file.data[at] ^ flip;
        CHECK(data >= 0 && pwrite(data, file.data, file.size, 0) == (ssize_t)file.size &&
              pwrite(data, &damaged, 1, (off_t)at) == 1);
        close(data);
        pid_t child = fork();
        if (child == 0) _exit(try_damaged(&options));
        int how = 0;
        CHECK(waitpid(child, &how, 0) == child);
        if (!WIFEXITED(how))
            died++;
        else if (WEXITSTATUS(how) == 0)
            healthy++; /* a byte that nothing uses: an old page, or space between */
        else if (WEXITSTATUS(how) == 1)
            reported++;
        else if (WEXITSTATUS(how) == 2)
            missing++;
        else
            test_failed(__FILE__, __LINE__,
                        "byte %zu ^ %02x: a wrong record was read as a right one", at, flip);
    }
    printf("    of %u flipped bits: %u without effect, %u reported, %u only as a missing record, "
           "%u ended the process\n",
           rounds, healthy, reported, missing, died);
    CHECK(reported > rounds / 20);
    CHECK_EQUAL(missing, 0); /* store_check counts */
    buffer_deinit(&file);
}

/* What a site's daemon does with its journal: opens it for writing, reads all. What it must tell
 * apart is damage, which a person repairs, from everything that a restart may cure. */
static int open_heavily_damaged(const struct store_options *options) {
    struct store *store = NULL;
    struct error error = {0};
    if (!freopen("/dev/null", "w", stderr)) return 99;
    struct rlimit limit = {2, 2};
    setrlimit(RLIMIT_CPU, &limit);
    alarm(10);
    enum status status = store_open(options, &store, &error);
    if (status == OK) status = store_check(store, NULL, &error);
    if (status != OK && status != CORRUPT && status != NOT_FOUND) {
        printf("    %s: %s\n", status_name(status), error.message);
        fflush(stdout);
    }
    return (int)status;
}

TEST_WITHIN(a_heavily_damaged_store_is_called_damaged, 120000) {
    struct store_options options = options_of("store");
    struct error error = {0};
    struct store *store = open_with(&options);
    for (uint64_t number = 0; number < 100; number++)
        CHECK_OK(put_number(store, number, 300, &error));
    store_close(store);
    struct buffer file = {0};
    char *path = data_path(&options);
    CHECK_OK(file_read(path, 16 << 20, &file, &error));
    struct random random;
    random_init(&random, 78);
    unsigned died = 0, reported = 0, healthy = 0;
    for (unsigned round = 0; round < 300; round++) {
        uint8_t *damaged = xmalloc(file.size);
        memcpy(damaged, file.data, file.size);
        unsigned flips = 1u << random_below(&random, 10);
        for (unsigned i = 0; i < flips; i++)
            damaged[random_below(&random, file.size)] ^= (uint8_t)(1 + random_below(&random, 255));
        int data = open(path, O_WRONLY | O_CLOEXEC);
        CHECK(data >= 0 && pwrite(data, damaged, file.size, 0) == (ssize_t)file.size &&
              ftruncate(data, (off_t)file.size) == 0);
        close(data);
        free(damaged);
        pid_t child = fork();
        if (child == 0) _exit(open_heavily_damaged(&options));
        int how = 0;
        CHECK(waitpid(child, &how, 0) == child);
        if (!WIFEXITED(how))
            died++; /* inside LMDB: a pointer of its own page leads astray */
        else if (WEXITSTATUS(how) == OK)
            healthy++;
        else if (WEXITSTATUS(how) == CORRUPT || WEXITSTATUS(how) == NOT_FOUND)
            reported++;
        else
            test_failed(__FILE__, __LINE__, "round %u: damage was given status %d", round,
                        WEXITSTATUS(how));
    }
    printf("    of 300 damaged files: %u reported, %u ended the process, %u without effect\n",
           reported, died, healthy);
    CHECK(reported > 100);
    buffer_deinit(&file);
}

TEST(a_cut_data_file_is_reported_at_open) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options), *again = NULL;
    struct error error = {0};
    for (uint64_t number = 0; number < 200; number++) {
        struct store_batch *batch = numbered(store, number, 1000);
        while (store_commit(store, batch, NULL, NULL, &error) == FULL) clock_sleep_ms(1);
    }
    store_close(store);
    char *path = data_path(&options);
    struct stat info;
    CHECK(stat(path, &info) == 0);
    CHECK(truncate(path, info.st_size / 2) == 0);
    CHECK_STATUS(store_open(&options, &again, &error), CORRUPT);
    CHECK_CONTAINS(error.message, "cut to");
    static uint8_t zeroes[8192];
    CHECK_OK(file_write(path, bytes_of(zeroes, sizeof zeroes), 0600, &error));
    CHECK_STATUS(store_open(&options, &again, &error), CORRUPT);
}

TEST(a_store_of_another_format_is_refused) {
    struct store_options options = options_of("store");
    store_close(open_with(&options));
    char *path = data_path(&options);
    struct buffer file = {0};
    struct store *store = NULL;
    struct error error = {0};
    CHECK_OK(file_read(path, 1 << 20, &file, &error));
    for (uint8_t *at; (at = memmem(file.data, file.size, "atoll store 1", 13)) != NULL;)
        at[12] = '2';
    CHECK_OK(file_write(path, buffer_bytes(&file), 0600, &error));
    CHECK_STATUS(store_open(&options, &store, &error), INVALID);
    CHECK_CONTAINS(error.message, "made by another version");
    buffer_deinit(&file);
}

/* --- full --- */

static atomic_int fatal_calls;
static void count_fatal(void *context, const struct error *error) {
    (void)context;
    CHECK(error && *error->message);
    atomic_fetch_add(&fatal_calls, 1);
}

/* Everything that a full disk promises; `break_it` and `mend_it` are the disk. */
static void check_full_and_recovery(struct store_options options, void (*break_it)(void),
                                    void (*mend_it)(void)) {
    options.on_fatal = count_fatal;
    struct store *store = open_with(&options);
    struct error error = {0};
    for (uint64_t number = 0; number < 5; number++)
        CHECK_OK(put_number(store, number, 100, &error));
    break_it();
    enum status status = OK;
    uint64_t number = 5;
    for (; status == OK && number < 3000; number++)
        status = put_number(store, number, 4000, &error);
    CHECK_EQUAL(status, FULL);
    CHECK_CONTAINS(error.message, "MiB free on disk");
    uint64_t lost = number - 1;
    CHECK_STATUS(get_number(store, lost, NULL), NOT_FOUND);
    /* reading goes on */
    for (uint64_t i = 0; i < lost; i++) CHECK_OK(get_number(store, i, &error));
    mend_it();
    /* nothing slips in after the lost one */
    CHECK_STATUS(put_number(store, number, 100, &error), FULL);
    CHECK_STATUS(get_number(store, number, NULL), NOT_FOUND);
    struct store_figures figures;
    store_figures(store, &figures);
    CHECK(figures.full && !figures.failed);
    store_resume(store);
    for (uint64_t i = lost; i < lost + 50; i++) CHECK_OK(put_number(store, i, 4000, &error));
    CHECK_OK(store_check(store, NULL, &error));
    store_close(store);
    store = open_with(&options);
    for (uint64_t i = 0; i < lost + 50; i++) CHECK_OK(get_number(store, i, &error));
    store_close(store);
    CHECK_EQUAL(atomic_load(&fatal_calls), 0);
}

static void break_reserve(void) { set_fault(&reserve_fault, 2, ENOSPC, true); }
static void mend_reserve(void) { set_fault(&reserve_fault, 0, 0, false); }
TEST(a_disk_without_room_to_reserve_is_full_and_recovers) {
    check_full_and_recovery(options_of("store"), break_reserve, mend_reserve);
}

static void break_write(void) {
    atomic_store(&spare_meta, true);
    set_fault(&reserve_fault, 1, EOPNOTSUPP, true);
    set_fault(&write_fault, 40, ENOSPC, true);
}
static void mend_write(void) {
    set_fault(&reserve_fault, 0, 0, false);
    set_fault(&write_fault, 0, 0, false);
}
TEST(a_disk_that_is_full_in_the_middle_of_a_commit_is_full_and_recovers) {
    struct store_options options = options_of("store");
    set_fault(&reserve_fault, 1, EOPNOTSUPP, true); /* a file system without fallocate */
    check_full_and_recovery(options, break_write, mend_write);
}

TEST(a_disk_that_is_full_where_the_meta_page_goes_is_fatal) {
    struct store_options options = options_of("store");
    options.on_fatal = count_fatal;
    struct store *store = open_with(&options);
    struct error error = {0};
    CHECK_OK(put_number(store, 0, 10, &error));
    enum status status = OK;
    for (uint64_t number = 1; status == OK && number < 50; number++) {
        /* the pages are the first write, the meta page the second */
        set_fault(&write_fault, 2, ENOSPC, true);
        status = put_number(store, number, 10, &error);
    }
    CHECK_EQUAL(status, FAILED);
    CHECK_EQUAL(atomic_load(&fatal_calls), 1);
    set_fault(&write_fault, 0, 0, false);
    store_close(store);
    store = open_with(&options);
    CHECK_OK(get_number(store, 0, &error));
    store_close(store);
}

static void break_size(void) {
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {3 << 20, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}
static void mend_size(void) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}
TEST(a_limit_on_the_file_size_is_a_full_disk) {
    check_full_and_recovery(options_of("store"), break_size, mend_size);
}

TEST(the_map_limit_is_a_full_disk_until_something_is_deleted) {
    struct store_options options = options_of("store");
    options.map_size = 64 << 10;
    options.map_limit = 512 << 10;
    struct store *store = open_with(&options);
    struct error error = {0};
    uint64_t number = 0;
    enum status status = OK;
    while ((status = put_number(store, number, 2000, &error)) == OK) number++;
    CHECK_EQUAL(status, FULL);
    CHECK_CONTAINS(error.message, "MDB_MAP_FULL");
    CHECK(number > 50);
    store_resume(store);
    struct store_batch *batch = store_batch_create(store);
    for (uint64_t i = 0; i < number / 2; i++) {
        uint8_t key[STORE_KEY_U64_SIZE];
        store_key_u64(i, key);
        store_batch_delete(batch, LEDGER, bytes_of(key, sizeof key));
    }
    /* deleting needs room too, and there is some */
    CHECK_OK(store_commit_wait(store, batch, &error));
    for (uint64_t i = 0; i < 10; i++) CHECK_OK(put_number(store, i, 2000, &error));
    store_close(store);
}

static char mounted[300];
static void unmount(void) { umount2(mounted, MNT_DETACH); }

TEST(a_small_file_system_that_fills_up_loses_nothing) {
    snprintf(mounted, sizeof mounted, "%s/small", test_directory());
    CHECK(mkdir(mounted, 0700) == 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=4m") != 0)
        TEST_SKIP("mounting is not allowed here");
    atexit(unmount);
    struct store_options options = options_of("small/store");
    char *ballast = keep(file_join(mounted, "ballast"));
    int file = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0 && posix_fallocate(file, 0, 1 << 20) == 0);
    struct store *store = open_with(&options);
    struct error error = {0};
    uint64_t number = 0;
    enum status status = OK;
    while ((status = put_number(store, number, 3000, &error)) == OK) number++;
    CHECK_EQUAL(status, FULL);
    CHECK(number > 200);
    CHECK_OK(store_check(store, NULL, &error));
    CHECK(ftruncate(file, 0) == 0); /* somebody makes room */
    store_resume(store);
    for (uint64_t i = number; i < number + 50; i++) CHECK_OK(put_number(store, i, 3000, &error));
    store_close(store);
    store = open_with(&options);
    for (uint64_t i = 0; i < number + 50; i++) CHECK_OK(get_number(store, i, &error));
    store_close(store);
    close(file);
}

/* --- broken --- */

TEST(a_failed_sync_is_fatal_and_everything_after_it_fails_with_the_reason) {
    struct store_options options = options_of("store");
    options.on_fatal = count_fatal;
    struct store *store = open_with(&options);
    struct error error = {0};
    CHECK_OK(put_number(store, 0, 100, &error));
    set_fault(&sync_fault, 1, EIO, false);
    CHECK_STATUS(put_number(store, 1, 100, &error), FAILED);
    CHECK_CONTAINS(error.message, "Input/output error");
    CHECK_EQUAL(atomic_load(&fatal_calls), 1);
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(put_number(store, 2, 100, &error), FAILED);
        CHECK_CONTAINS(error.message, "Input/output error");
        store_resume(store); /* mends only a full disk */
    }
    CHECK_EQUAL(atomic_load(&fatal_calls), 1);
    CHECK_OK(get_number(store, 0, &error));
    store_close(store);
    store = open_with(&options);
    CHECK_OK(get_number(store, 0, &error));
    CHECK_OK(put_number(store, 1, 100, &error));
    store_close(store);
}

struct tally {
    atomic_int ok, failed, other;
};
static void tally(void *context, enum status status, const struct error *error) {
    struct tally *counts = context;
    if (status == OK && !error)
        atomic_fetch_add(&counts->ok, 1);
    else if (status == FAILED && error && error->status == FAILED)
        atomic_fetch_add(&counts->failed, 1);
    else
        atomic_fetch_add(&counts->other, 1);
}

TEST(whichever_write_fails_what_was_acknowledged_is_there_afterwards) {
    for (int kind = 0; kind < 2; kind++) {
        for (int nth = 1; nth <= 12; nth++) {
            char name[32];
            snprintf(name, sizeof name, "store-%d-%d", kind, nth);
            struct store_options options = options_of(name);
            struct store *store = open_with(&options);
            struct error error = {0};
            set_fault(kind ? &write_fault : &sync_fault, nth, EIO, false);
            uint64_t acknowledged = 0;
            while (acknowledged < 20 && put_number(store, acknowledged, 5000, &error) == OK)
                acknowledged++;
            CHECK(acknowledged < 20 && error.status == FAILED);
            store_close(store);
            set_fault(kind ? &write_fault : &sync_fault, 0, 0, false);
            store = open_with(&options);
            for (uint64_t i = 0; i < acknowledged; i++) CHECK_OK(get_number(store, i, &error));
            CHECK_OK(store_check(store, NULL, &error));
            store_close(store);
        }
    }
}

TEST(every_callback_comes_exactly_once_when_a_sync_fails_under_load) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct tally counts = {0};
    int accepted = 0;
    set_fault(&sync_fault, 4, EIO, false);
    for (uint64_t number = 0; number < 2000; number++) {
        struct store_batch *batch = numbered(store, number, 200);
        enum status status = store_commit(store, batch, tally, &counts, NULL);
        if (status == OK)
            accepted++;
        else
            store_batch_destroy(batch);
        if (number % 50 == 0) clock_sleep_ms(1);
    }
    store_close(store);
    CHECK_EQUAL(atomic_load(&counts.ok) + atomic_load(&counts.failed), accepted);
    CHECK_EQUAL(atomic_load(&counts.other), 0);
    CHECK(atomic_load(&counts.failed) > 0);
    uint64_t count = 0;
    struct error error = {0};
    store = open_with(&options);
    CHECK_OK(store_count(store, LEDGER, &count, &error));
    CHECK(count >= (uint64_t)atomic_load(&counts.ok));
    store_close(store);
}
