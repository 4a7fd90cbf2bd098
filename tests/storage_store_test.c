#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "storage/lmdb_env.h"
#include "tests/storage_sha256.h"
#include "tests/test.h"

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

static void put_now(struct store *store, unsigned table, const char *key, const char *value) {
    struct error error = {0};
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, table, text_bytes(key), text_bytes(value));
    CHECK_OK(store_commit_wait(store, batch, &error));
}

static void check_value(struct store *store, unsigned table, const char *key, const char *wanted) {
    struct buffer out = {0};
    struct error error = {0};
    CHECK_OK(store_get(store, table, text_bytes(key), &out, &error));
    CHECK(bytes_equal(buffer_bytes(&out), text_bytes(wanted)));
    buffer_deinit(&out);
}

static void put_numbers(struct store *store, uint64_t first, uint64_t count, size_t value_size) {
    struct error error = {0};
    uint8_t key[STORE_KEY_U64_SIZE], *value = xcalloc(1, value_size + 8);
    struct store_batch *batch = store_batch_create(store);
    for (uint64_t i = first; i < first + count; i++) {
        store_key_u64(i, key);
        memcpy(value, &i, sizeof i);
        store_batch_put(batch, LEDGER, bytes_of(key, sizeof key), bytes_of(value, value_size));
    }
    CHECK_OK(store_commit_wait(store, batch, &error));
    free(value);
}

/* --- what it is for --- */

TEST(what_was_committed_is_read_back_now_and_after_reopening) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    put_now(store, SITES, "eu-1", "first");
    put_now(store, SITES, "eu-1", "second");
    put_now(store, LEDGER, "eu-1", "other table");
    put_now(store, SITES, "empty", "");
    for (int round = 0; round < 2; round++) {
        struct error error = {0};
        struct buffer out = {0};
        uint64_t count = 0;
        check_value(store, SITES, "eu-1", "second");
        check_value(store, LEDGER, "eu-1", "other table");
        check_value(store, SITES, "empty", "");
        CHECK_STATUS(store_get(store, SITES, text_bytes("us-1"), &out, &error), NOT_FOUND);
        CHECK_CONTAINS(error.message, "table sites has no us-1");
        CHECK_OK(store_has(store, SITES, text_bytes("eu-1"), &error));
        CHECK_STATUS(store_has(store, LEDGER, text_bytes("empty"), &error), NOT_FOUND);
        CHECK_OK(store_count(store, SITES, &count, &error));
        CHECK_EQUAL(count, 2);
        buffer_deinit(&out);
        store_close(store);
        store = open_with(&options);
    }
    store_close(store);
    store_close(NULL);
}

TEST(a_batch_is_stored_as_a_whole_and_in_its_own_order) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct error error = {0};
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, SITES, text_bytes("a"), text_bytes("1"));
    store_batch_put(batch, SITES, text_bytes("a"), text_bytes("2"));
    store_batch_put(batch, SITES, text_bytes("b"), text_bytes("3"));
    store_batch_delete(batch, SITES, text_bytes("b"));
    store_batch_delete(batch, SITES, text_bytes("never was"));
    store_batch_put(batch, LEDGER, text_bytes("c"), text_bytes("4"));
    CHECK_EQUAL(store_batch_count(batch), 6);
    CHECK_OK(store_commit_wait(store, batch, &error));
    check_value(store, SITES, "a", "2");
    check_value(store, LEDGER, "c", "4");
    CHECK_STATUS(store_has(store, SITES, text_bytes("b"), NULL), NOT_FOUND);
    store_close(store);
}

TEST(an_empty_batch_is_acknowledged_too) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct error error = {0};
    CHECK_OK(store_commit_wait(store, store_batch_create(store), &error));
    store_close(store);
}

TEST(wrong_puts_are_refused_at_the_commit_and_nothing_of_the_batch_is_stored) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    static uint8_t big[STORE_VALUE_SIZE_MAX + 1], key[STORE_KEY_SIZE_MAX + 1];
    struct error error = {0};
    for (int wrong = 0; wrong < 4; wrong++) {
        struct store_batch *batch = store_batch_create(store);
        store_batch_put(batch, SITES, text_bytes("good"), text_bytes("1"));
        if (wrong == 0) store_batch_put(batch, SITES, bytes_of(key, 0), text_bytes("1"));
        if (wrong == 1) store_batch_put(batch, SITES, bytes_of(key, sizeof key), text_bytes("1"));
        if (wrong == 2) store_batch_put(batch, SITES, text_bytes("k"), bytes_of(big, sizeof big));
        if (wrong == 3) store_batch_put(batch, 2, text_bytes("k"), text_bytes("1"));
        CHECK_STATUS(store_commit(store, batch, NULL, NULL, &error), INVALID);
        CHECK_STATUS(store_commit_wait(store, batch, &error), INVALID);
        CHECK_STATUS(store_has(store, SITES, text_bytes("good"), NULL), NOT_FOUND);
    }
    struct store_batch *batch = store_batch_create(store);
    /* just fits */
    store_batch_put(batch, SITES, bytes_of(key, STORE_KEY_SIZE_MAX),
                    bytes_of(big, STORE_VALUE_SIZE_MAX));
    CHECK_OK(store_commit_wait(store, batch, &error));
    struct buffer out = {0};
    CHECK_OK(store_get(store, SITES, bytes_of(key, STORE_KEY_SIZE_MAX), &out, &error));
    CHECK_EQUAL(out.size, STORE_VALUE_SIZE_MAX);
    CHECK_STATUS(store_get(store, SITES, bytes_of(key, sizeof key), &out, &error), INVALID);
    CHECK_STATUS(store_get(store, SITES, bytes_of(key, 0), &out, &error), INVALID);
    buffer_deinit(&out);
    store_close(store);
}

TEST(wrong_options_are_refused) {
    static const char *const bad[][2] = {
        {"ok", "_format"}, {"ok", ""},         {"ok", "Upper"},
        {"ok", "a/b"},     {"twice", "twice"}, {"ok", "a_name_of_more_than_thirty_two_chars"}};
    struct store_options options = options_of("store");
    struct store *store = NULL;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        options.tables = bad[i];
        CHECK_STATUS(store_open(&options, &store, NULL), INVALID);
    }
    options.table_count = 0;
    CHECK_STATUS(store_open(&options, &store, NULL), INVALID);
}

/* --- the writer thread --- */

struct order {
    atomic_uint next;
    atomic_uint wrong;
};
struct ticket {
    struct order *order;
    unsigned number;
};

static void check_order(void *context, enum status status, const struct error *error) {
    struct ticket *ticket = context;
    if (status != OK || error || atomic_fetch_add(&ticket->order->next, 1) != ticket->number)
        atomic_fetch_add(&ticket->order->wrong, 1);
}

TEST(callbacks_come_in_the_order_of_the_commits_and_closing_waits_for_them) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    enum { COUNT = 500 };
    static struct ticket tickets[COUNT];
    struct order order = {0};
    for (unsigned i = 0; i < COUNT; i++) {
        uint8_t key[STORE_KEY_U64_SIZE];
        struct error error = {0};
        struct store_batch *batch = store_batch_create(store);
        store_key_u64(0, key);
        store_batch_put(batch, LEDGER, bytes_of(key, sizeof key),
                        bytes_of(&i, sizeof i)); /* all write one key: the last must win */
        tickets[i] = (struct ticket){&order, i};
        CHECK_OK(store_commit(store, batch, check_order, &tickets[i], &error));
    }
    store_close(store);
    CHECK_EQUAL(atomic_load(&order.next), COUNT);
    CHECK_EQUAL(atomic_load(&order.wrong), 0);
    store = open_with(&options);
    struct buffer key = {0}, value = {0};
    struct error error = {0};
    CHECK_OK(store_last(store, LEDGER, &key, &value, &error));
    unsigned last;
    memcpy(&last, value.data, sizeof last);
    CHECK_EQUAL(last, COUNT - 1);
    buffer_deinit(&key);
    buffer_deinit(&value);
    store_close(store);
}

struct crowd {
    struct store *store;
    unsigned number;
    atomic_uint *stop;
};

static void *write_many(void *context) {
    struct crowd *one = context;
    for (unsigned i = 0; i < 60; i++) {
        char key[32];
        struct error error = {0};
        snprintf(key, sizeof key, "%u-%u", one->number, i);
        struct store_batch *batch = store_batch_create(one->store);
        store_batch_put(batch, SITES, text_bytes(key), text_bytes(key));
        CHECK_OK(store_commit_wait(one->store, batch, &error));
        check_value(one->store, SITES, key, key);
    }
    return NULL;
}

static void *read_many(void *context) {
    struct crowd *one = context;
    while (!atomic_load(one->stop)) {
        struct error error = {0};
        struct bytes key, value, none = bytes_of(NULL, 0);
        struct store_scan *scan = store_scan_open(one->store, SITES, none, none, STORE_ASCENDING);
        enum status status;
        while ((status = store_scan_next(scan, &key, &value, &error)) == OK)
            CHECK(bytes_equal(key, value));
        CHECK_EQUAL(status, NOT_FOUND);
        store_scan_close(scan);
        struct store_figures figures;
        store_figures(one->store, &figures);
    }
    return NULL;
}

TEST(many_threads_write_and_read_at_once_and_share_commits) {
    struct store_options options = options_of("store");
    options.map_size = 64 << 10; /* so that it grows under the readers */
    struct store *store = open_with(&options);
    enum { WRITERS = 8, READERS = 2 };
    pthread_t threads[WRITERS + READERS];
    struct crowd crowd[WRITERS + READERS];
    atomic_uint stop = 0;
    for (unsigned i = 0; i < WRITERS + READERS; i++) {
        crowd[i] = (struct crowd){store, i, &stop};
        CHECK(pthread_create(&threads[i], NULL, i < WRITERS ? write_many : read_many, &crowd[i]) ==
              0);
    }
    for (unsigned i = 0; i < WRITERS; i++) pthread_join(threads[i], NULL);
    atomic_store(&stop, 1);
    for (unsigned i = WRITERS; i < WRITERS + READERS; i++) pthread_join(threads[i], NULL);
    struct store_figures figures;
    store_figures(store, &figures);
    CHECK_EQUAL(figures.batches, WRITERS * 60);
    CHECK_EQUAL(figures.records, WRITERS * 60);
    CHECK(figures.transactions < figures.batches); /* groups did form */
    CHECK(figures.map_size > 64 << 10);
    CHECK_EQUAL(figures.queued_batches, 0);
    store_close(store);
}

struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool entered, open;
};

static void wait_at_gate(void *context, enum status status, const struct error *error) {
    (void)status, (void)error;
    struct gate *gate = context;
    pthread_mutex_lock(&gate->mutex);
    gate->entered = true;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open) pthread_cond_wait(&gate->changed, &gate->mutex);
    pthread_mutex_unlock(&gate->mutex);
}

static struct store_batch *small_batch(struct store *store) {
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, SITES, text_bytes("k"), text_bytes("v"));
    return batch;
}

TEST(a_full_queue_says_so_at_once_and_leaves_the_batch_with_the_caller) {
    struct store_options options = options_of("store");
    options.queue_batches = 3;
    struct store *store = open_with(&options);
    struct gate gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct error error = {0};
    CHECK_OK(store_commit(store, small_batch(store), wait_at_gate, &gate, &error));
    pthread_mutex_lock(&gate.mutex);
    while (!gate.entered) pthread_cond_wait(&gate.changed, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
    CHECK_OK(store_commit(store, small_batch(store), NULL, NULL, &error));
    CHECK_OK(store_commit(store, small_batch(store), NULL, NULL, &error));
    struct store_batch *batch = small_batch(store);
    CHECK_STATUS(store_commit(store, batch, NULL, NULL, &error), FULL);
    CHECK_CONTAINS(error.message, "3 batches");
    pthread_mutex_lock(&gate.mutex);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
    CHECK_OK(store_commit_wait(store, batch, &error)); /* the same batch, once there is room */
    store_close(store);
}

TEST(a_queue_is_bounded_in_bytes_and_a_batch_beyond_that_is_invalid) {
    struct store_options options = options_of("store");
    options.queue_bytes = 4096;
    struct store *store = open_with(&options);
    struct error error = {0};
    static uint8_t value[5000];
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, SITES, text_bytes("k"), bytes_of(value, sizeof value));
    CHECK_STATUS(store_commit(store, batch, NULL, NULL, &error), INVALID);
    store_batch_destroy(batch);
    store_close(store);
}

/* --- scans and keys --- */

TEST(number_keys_sort_as_numbers) {
    static const uint64_t numbers[] = {0, 1, 255, 256, 65535, 1ull << 32, UINT64_MAX};
    uint8_t before[8] = {0}, key[8];
    struct error error = {0};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        uint64_t back = 7;
        store_key_u64(numbers[i], key);
        if (i > 0) CHECK(memcmp(before, key, 8) < 0);
        CHECK_OK(store_key_u64_read(bytes_of(key, 8), &back, &error));
        CHECK(back == numbers[i]);
        memcpy(before, key, 8);
    }
    CHECK_STATUS(store_key_u64_read(bytes_of(key, 7), &(uint64_t){0}, &error), CORRUPT);
}

static void check_scan(struct store *store, uint64_t from, uint64_t to, enum store_order order) {
    uint8_t low[8], high[8];
    struct bytes key, value;
    struct error error = {0};
    store_key_u64(from, low);
    store_key_u64(to, high);
    struct store_scan *scan =
        store_scan_open(store, LEDGER, bytes_of(low, 8), bytes_of(high, 8), order);
    for (uint64_t i = from; i < to; i++) {
        uint64_t wanted = order == STORE_ASCENDING ? i : to - 1 - (i - from), got = 0, stored = 0;
        CHECK_OK(store_scan_next(scan, &key, &value, &error));
        CHECK_OK(store_key_u64_read(key, &got, &error));
        memcpy(&stored, value.data, sizeof stored);
        CHECK_EQUAL(got, wanted);
        CHECK_EQUAL(stored, wanted);
    }
    CHECK_STATUS(store_scan_next(scan, &key, &value, &error), NOT_FOUND);
    CHECK_STATUS(store_scan_next(scan, &key, &value, &error), NOT_FOUND);
    store_scan_close(scan);
}

TEST(scans_go_over_a_range_in_both_directions_and_over_portions) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    put_numbers(store, 0, 1000, 40);
    static const uint64_t ends[] = {0, 1, 8, 9, 72, 73, 255, 256, 257, 999, 1000};
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        for (size_t j = i; j < COUNT_OF(ends); j++) {
            check_scan(store, ends[i], ends[j], STORE_ASCENDING);
            check_scan(store, ends[i], ends[j], STORE_DESCENDING);
        }
    }
    put_numbers(store, 2000, 20, 300000); /* portions bounded by bytes */
    check_scan(store, 2000, 2020, STORE_ASCENDING);
    check_scan(store, 2000, 2020, STORE_DESCENDING);
    store_close(store);
}

TEST(an_empty_table_has_no_last_key_and_a_full_one_has) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct buffer key = {0}, value = {0};
    struct error error = {0};
    CHECK_STATUS(store_last(store, LEDGER, &key, NULL, &error), NOT_FOUND);
    put_numbers(store, 0, 300, 16);
    uint64_t last = 0;
    CHECK_OK(store_last(store, LEDGER, &key, &value, &error));
    CHECK_OK(store_key_u64_read(buffer_bytes(&key), &last, &error));
    CHECK_EQUAL(last, 299);
    CHECK_STATUS(store_last(store, SITES, &key, NULL, &error), NOT_FOUND);
    buffer_deinit(&key);
    buffer_deinit(&value);
    store_close(store);
}

static unsigned count_scan(struct store_scan *scan) {
    struct bytes key, value;
    struct error error = {0};
    unsigned count = 0;
    enum status status;
    while ((status = store_scan_next(scan, &key, &value, &error)) == OK) count++;
    CHECK_EQUAL(status, NOT_FOUND);
    store_scan_close(scan);
    return count;
}

TEST(bounds_longer_than_any_key_are_taken_for_what_they_are) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    struct error error = {0};
    uint8_t longest[STORE_KEY_SIZE_MAX + 1];
    memset(longest, 'x', sizeof longest);
    struct store_batch *batch = store_batch_create(store);
    store_batch_put(batch, SITES, bytes_of(longest, STORE_KEY_SIZE_MAX), text_bytes("1"));
    store_batch_put(batch, SITES, text_bytes("y"), text_bytes("2"));
    CHECK_OK(store_commit_wait(store, batch, &error));
    struct bytes bound = bytes_of(longest, sizeof longest), none = bytes_of(NULL, 0);
    for (int order = 0; order < 2; order++) {
        CHECK_EQUAL(count_scan(store_scan_open(store, SITES, bound, none, (enum store_order)order)),
                    1);
        CHECK_EQUAL(count_scan(store_scan_open(store, SITES, none, bound, (enum store_order)order)),
                    1);
    }
    store_close(store);
}

TEST(a_scan_lives_on_while_records_come_and_go) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    put_numbers(store, 0, 1000, 8);
    struct bytes none = bytes_of(NULL, 0), key, value;
    struct error error = {0};
    struct store_scan *scan = store_scan_open(store, LEDGER, none, none, STORE_ASCENDING);
    uint64_t seen = 0, last = 0;
    enum status status;
    while ((status = store_scan_next(scan, &key, &value, &error)) == OK) {
        uint64_t number = 0;
        CHECK_OK(store_key_u64_read(key, &number, &error));
        CHECK(seen == 0 || number > last);
        last = number;
        if (++seen % 300 == 1) { /* delete where it stands and where it goes */
            uint8_t gone[8];
            struct store_batch *batch = store_batch_create(store);
            store_batch_delete(batch, LEDGER, key);
            store_key_u64(number + 500, gone);
            store_batch_delete(batch, LEDGER, bytes_of(gone, 8));
            CHECK_OK(store_commit_wait(store, batch, &error));
        }
    }
    CHECK_EQUAL(status, NOT_FOUND);
    CHECK(seen >= 990 && last == 999);
    store_scan_close(scan);
    store_close(store);
}

/* --- one writer --- */

TEST(a_second_opener_is_refused_and_told_who_has_it) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options), *second = NULL;
    struct error error = {0};
    CHECK_STATUS(store_open(&options, &second, &error), UNAVAILABLE);
    char mine[64];
    snprintf(mine, sizeof mine, "in use by process %ld", (long)getpid());
    CHECK_CONTAINS(error.message, mine);
    pid_t child = fork();
    if (child == 0) _exit(store_open(&options, &second, NULL) == UNAVAILABLE ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
    put_now(store, SITES, "k", "v"); /* and the first goes on */
    store_close(store);
    store = open_with(&options);
    check_value(store, SITES, "k", "v");
    store_close(store);
}

TEST(a_reading_process_follows_a_writer_whose_map_grows) {
    struct store_options options = options_of("store");
    options.map_size = 64 << 10;
    struct store *store = open_with(&options);
    put_now(store, SITES, "k", "v");
    int go[2], ready[2];
    CHECK(pipe(go) == 0 && pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct store_options look = options;
        look.read_only = true;
        struct store *reader = open_with(&look);
        check_value(reader, SITES, "k", "v");
        char byte = 0;
        CHECK(write(ready[1], &byte, 1) == 1);
        CHECK(read(go[0], &byte, 1) == 1);
        check_scan(reader, 0, 2000, STORE_ASCENDING);
        struct store_batch *batch = small_batch(reader);
        CHECK_STATUS(store_commit_wait(reader, batch, NULL), INVALID);
        store_close(reader);
        _exit(0);
    }
    char byte = 0;
    CHECK(read(ready[0], &byte, 1) == 1);
    put_numbers(store, 0, 2000, 400);
    CHECK(write(go[1], &byte, 1) == 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
    store_close(store);
}

TEST(looking_at_a_store_that_is_not_there_is_not_found) {
    struct store_options options = options_of("nowhere");
    options.read_only = true;
    struct store *store = NULL;
    CHECK_STATUS(store_open(&options, &store, NULL), NOT_FOUND);
    CHECK(!file_exists(options.directory));
}

/* ---- reading without write access ------------------------------------------------------------ */

/* Files as an auditor finds them: readable, and not this process's to write. A child that calls it
 * is nobody where it was root. */
static void become_an_auditor(const char *directory) {
    static const char *const names[] = {"", "/data.mdb", "/lock.mdb", "/writer.lock"};
    CHECK(chmod(test_directory(), 0755) == 0);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char *path = xformat("%s%s", directory, names[i]);
        CHECK(chmod(path, i == 0 ? 0555 : 0444) == 0);
        free(path);
    }
    if (geteuid() == 0) CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
}

static void check_child(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
}

TEST(a_store_that_may_not_be_written_can_be_read) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    put_numbers(store, 0, 1000, 100);
    put_now(store, SITES, "k", "v");
    store_close(store);
    pid_t child = fork();
    if (child == 0) {
        become_an_auditor(options.directory);
        options.read_only = true;
        struct error error = {0};
        uint64_t records = 0;
        store = open_with(&options);
        CHECK(store->unlisted);
        check_value(store, SITES, "k", "v");
        check_scan(store, 0, 1000, STORE_ASCENDING);
        CHECK_OK(store_check(store, &records, &error));
        CHECK_EQUAL(records, 1001);
        store_close(store);
        _exit(0);
    }
    check_child(child);
}

TEST(looking_at_a_store_makes_no_file) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    put_now(store, SITES, "k", "v");
    store_close(store);
    char *lock = keep(file_join(options.directory, "lock.mdb")),
         *writer = keep(file_join(options.directory, "writer.lock"));
    CHECK(unlink(lock) == 0 && unlink(writer) == 0); /* a copy of what counts */
    options.read_only = true;
    store = open_with(&options);
    check_value(store, SITES, "k", "v");
    store_close(store);
    CHECK(!file_exists(lock) && !file_exists(writer)); /* root's would keep the owner out */
}

/* What a reader read in one version is dropped once a writer may have reused that version's pages,
 * and not before. */
TEST(an_unlisted_reader_that_was_overtaken_knows_it) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    put_now(store, SITES, "k", "0");
    int go[2], ready[2];
    CHECK(pipe(go) == 0 && pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct store_options look = options;
        struct error error = {0};
        MDB_txn *txn = NULL;
        char byte = 0;
        close(go[1]), close(ready[0]);
        become_an_auditor(options.directory);
        look.read_only = true;
        struct store *reader = open_with(&look);
        CHECK_OK(read_begin(reader, &txn, &error));
        for (int commits = 0; commits <= 3; commits++) {
            CHECK_EQUAL(read_is_whole(reader, txn), commits <= 1);
            CHECK(write(ready[1], &byte, 1) == 1);
            CHECK(read(go[0], &byte, 1) == 1);
        }
        CHECK(!read_end(reader, txn));
        check_value(reader, SITES, "k", "4");
        store_close(reader);
        _exit(0);
    }
    close(go[0]), close(ready[1]); /* a child that fails ends the wait */
    for (int i = 1; i <= 4; i++) {
        char byte = 0, text[8];
        CHECK(read(ready[0], &byte, 1) == 1);
        snprintf(text, sizeof text, "%d", i);
        put_now(store, SITES, "k", text);
        CHECK(write(go[1], &byte, 1) == 1);
    }
    check_child(child);
    store_close(store);
}

/* Every commit rewrites all records with one number: whatever is read must have a right digest, and
 * never go back. */
TEST(an_unlisted_reader_beside_a_busy_writer_reads_only_what_was_committed) {
    struct store_options options = options_of("store");
    struct store *store = open_with(&options);
    enum { RECORDS = 200, READINGS = 1500 };
    uint8_t value[600] = {0};
    pid_t child = 0;
    int ended = -1;
    for (uint64_t round = 0; child == 0 || waitpid(child, &ended, WNOHANG) == 0; round++) {
        struct error error = {0};
        struct store_batch *batch = store_batch_create(store);
        memcpy(value, &round, sizeof round);
        for (uint64_t i = 0; i < RECORDS; i++) {
            uint8_t key[STORE_KEY_U64_SIZE];
            store_key_u64(i, key);
            store_batch_put(batch, LEDGER, bytes_of(key, sizeof key),
                            bytes_of(value, sizeof value));
        }
        CHECK_OK(store_commit_wait(store, batch, &error));
        if (round > 0) continue;
        child = fork();
        if (child == 0) {
            become_an_auditor(options.directory);
            options.read_only = true;
            struct store *reader = open_with(&options);
            uint64_t newest = 0;
            for (int reading = 0; reading < READINGS; reading++) {
                struct store_scan *scan = store_scan_open(reader, LEDGER, bytes_of(NULL, 0),
                                                          bytes_of(NULL, 0), STORE_ASCENDING);
                struct bytes key, found;
                for (int i = 0; i < RECORDS; i++) {
                    uint64_t number;
                    CHECK_OK(store_scan_next(scan, &key, &found, &error));
                    CHECK_EQUAL(found.size, sizeof value);
                    memcpy(&number, found.data, sizeof number);
                    CHECK(number >= newest);
                    newest = number;
                }
                CHECK_STATUS(store_scan_next(scan, &key, &found, &error), NOT_FOUND);
                store_scan_close(scan);
            }
            CHECK(newest > 0);
            store_close(reader);
            _exit(0);
        }
    }
    CHECK_EQUAL(ended, 0);
    store_close(store);
}
