/* The ledger's way to the disk, between the loop and a real store. */

#include "base/file.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "coordinator/directory.h"
#include "coordinator/disk_watch.h"
#include "coordinator/ledger_queue.h"
#include "tests/storage_sha256.h"
#include "tests/test.h"

static const char *const tables[] = {"ledger", "snapshots"};

struct world {
    struct store *store;
    struct disk_watch *disk;
    struct ledger_queue *ledger;
    struct queue *said; /* statuses, one for each batch that came back */
    bool broken;
};

static void written(void *context, enum status status, const char *message) {
    struct world *world = context;
    enum status *copy = xmalloc(sizeof *copy);
    (void)message;
    *copy = status;
    CHECK(queue_push(world->said, copy) == OK);
}

static void broken(void *context, const char *message) {
    struct world *world = context;
    (void)message;
    world->broken = true;
}

static void waits(void *context, const char *message) {
    disk_watch_waits(((struct world *)context)->disk, DISK_LEDGER, message);
}

static void has_room(void *context) {
    disk_watch_has_room(((struct world *)context)->disk, DISK_LEDGER);
}

static void open_store(struct world *world, size_t map_limit) {
    struct error error = {0};
    char *path = file_join(test_directory(), "store");
    struct store_options options = {.directory = path,
                                    .tables = tables,
                                    .table_count = COUNT_OF(tables),
                                    .digest = &storage_sha256,
                                    .map_limit = map_limit};
    options.map_size = map_limit;
    CHECK_OK(store_open(&options, &world->store, &error));
    free(path);
}

static void begin(struct world *world, size_t map_limit) {
    *world = (struct world){.disk = disk_watch_create(), .said = queue_create(64)};
    open_store(world, map_limit);
    struct ledger_queue_options options = {.store = world->store,
                                           .written = written,
                                           .broken = broken,
                                           .waits = waits,
                                           .has_room = has_room,
                                           .context = world};
    world->ledger = ledger_queue_create(&options);
}

static void end(struct world *world) {
    store_close(world->store);
    ledger_queue_destroy(world->ledger);
    disk_watch_destroy(world->disk);
    void *item;
    while (queue_pop(world->said, 0, &item) == OK) free(item);
    queue_destroy(world->said);
    CHECK(!world->broken);
}

/* Commit `number` of one entry of `size` bytes. */
static void add(struct world *world, uint64_t number, uint64_t index, uint32_t size) {
    struct buffer entries = {0};
    buffer_u32(&entries, size);
    for (uint32_t i = 0; i < size; i++) buffer_u8(&entries, (uint8_t)(index + i));
    ledger_queue_add(world->ledger, number, index, buffer_bytes(&entries));
    buffer_deinit(&entries);
}

/* Waits for the batch that is out, and passes on what came of it as the loop does. */
static uint64_t take(struct world *world, enum status wanted) {
    void *item = NULL;
    CHECK(queue_pop(world->said, 30000, &item) == OK);
    enum status status = *(enum status *)item;
    free(item);
    CHECK_EQUAL(status, wanted);
    return ledger_queue_taken(world->ledger, status, "", 1);
}

static uint64_t stored(struct world *world) {
    uint64_t count = 0;
    CHECK(store_count(world->store, TABLE_LEDGER, &count, NULL) == OK);
    return count;
}

TEST(what_gathers_while_a_batch_is_out_goes_as_one_after_it) {
    struct world world;
    struct store_figures figures;
    begin(&world, 0);
    add(&world, 1, 0, 10);
    ledger_queue_flush(world.ledger, 1);
    for (uint64_t number = 2; number <= 5; number++) {
        add(&world, number, number - 1, 10);
        ledger_queue_flush(world.ledger, 1); /* nothing: one is out */
    }
    CHECK_EQUAL(take(&world, OK), 1);
    ledger_queue_flush(world.ledger, 1);
    CHECK_EQUAL(take(&world, OK), 5);
    CHECK_EQUAL(stored(&world), 5);
    store_figures(world.store, &figures);
    CHECK_EQUAL(figures.batches, 2);
    CHECK(ledger_queue_await(world.ledger, 5));
    end(&world);
}

TEST(what_has_gathered_is_on_disk_when_the_loop_has_ended) {
    struct world world;
    begin(&world, 0);
    add(&world, 1, 0, 10);
    ledger_queue_flush(world.ledger, 1);
    add(&world, 2, 1, 10);
    add(&world, 3, 2, 10);
    ledger_queue_end(world.ledger, 1);
    store_close(world.store);
    open_store(&world, 0);
    CHECK_EQUAL(stored(&world), 3);
    end(&world);
}

struct waiter {
    struct world *world;
    uint64_t size;
    bool reached;
};

static void await(void *context) {
    struct waiter *waiter = context;
    waiter->reached = ledger_queue_await(waiter->world->ledger, waiter->size);
}

TEST(who_awaits_entries_is_let_go_when_they_are_durable_and_when_the_loop_ends) {
    struct world world;
    begin(&world, 0);
    struct waiter durable = {&world, 1, false}, never = {&world, 2, true};
    struct thread *threads[2];
    struct error error = {0};
    CHECK_OK(thread_start("durable", await, &durable, &threads[0], &error));
    CHECK_OK(thread_start("never", await, &never, &threads[1], &error));
    add(&world, 1, 0, 10);
    ledger_queue_flush(world.ledger, 1);
    CHECK_OK(thread_join(threads[0], UINT64_MAX));
    CHECK(durable.reached);
    CHECK_EQUAL(take(&world, OK), 1);
    ledger_queue_end(world.ledger, 1);
    CHECK_OK(thread_join(threads[1], UINT64_MAX));
    CHECK(!never.reached);
    end(&world);
}

TEST(a_full_disk_keeps_the_entries_in_order_and_lets_nobody_wait_for_them) {
    struct world world;
    char text[256];
    begin(&world, 1 << 20);
    uint64_t number = 0;
    enum status status = OK;
    while (status == OK) { /* until the store has no room */
        void *item = NULL;
        CHECK(number < 64);
        add(&world, number + 1, number, 100000);
        number++;
        ledger_queue_flush(world.ledger, 1);
        CHECK(queue_pop(world.said, 30000, &item) == OK);
        status = *(enum status *)item;
        free(item);
        uint64_t last = ledger_queue_taken(world.ledger, status, "no room", 1);
        CHECK_EQUAL(last, status == OK ? number : 0);
    }
    CHECK_EQUAL(status, FULL);
    CHECK_EQUAL(stored(&world), number - 1);
    CHECK_EQUAL(ledger_queue_retry_at(world.ledger), 1001);
    CHECK(disk_watch_waiting(world.disk, text, sizeof text));
    CHECK_CONTAINS(text, "no room");
    CHECK(!ledger_queue_await(world.ledger, number)); /* at once */
    CHECK(ledger_queue_await(world.ledger, number - 1));
    ledger_queue_retry(world.ledger, 1); /* the same entries, and still no room for them */
    CHECK_EQUAL(take(&world, FULL), 0);
    end(&world);
}
