/* A run's directory with damage that a restart would only meet again: the programs say which file
 * it is and end with the code that no supervisor restarts; they never crash. */
#include <sys/stat.h>

#include "tests/malformed_client.h"

enum { PAGE = 4096 };

static char *file_of(const struct world *w, const char *name) {
    return xformat("%s/%s", w->directory, name);
}

static void put(const char *path, const struct buffer *text, size_t size) {
    struct error error = {0};
    CHECK_OK(file_write(path, bytes_of(text->data, size), 0600, &error));
}

static void keep(const char *path, struct buffer *out) {
    struct error error = {0};
    out->size = 0;
    CHECK_OK(file_read(path, 64 << 20, out, &error));
}

static void world_with_history(struct world *w) {
    world_create(w, "run", SPARSE_RUN);
    world_start(w);
    struct site *one = world_join(w, "one");
    for (int i = 0; i < 40; i++) site_contribute(w, one);
    world_settle(w);
    world_stop(w);
}

static void halts(const struct world *w, const char *words) {
    struct buffer text = {0};
    char *arguments = xformat("--dir '%s' --listen 127.0.0.1:0", w->directory);
    CHECK_EQUAL(run_program("atoll-coordinator", arguments, true, &text), 3);
    CHECK_CONTAINS((const char *)text.data, words);
    free(arguments);
    buffer_deinit(&text);
}

TEST(a_ledger_that_is_empty_or_not_there_is_no_new_run) {
    struct world w;
    struct buffer whole = {0};
    world_with_history(&w);
    char *path = file_of(&w, "store/data.mdb");
    keep(path, &whole);
    put(path, &whole, 0);
    halts(&w, "data.mdb is empty: the run's ledger is gone");
    CHECK(unlink(path) == 0);
    halts(&w, "data.mdb is not there: the run's ledger is gone");
    CHECK(!file_exists(path)); /* nothing was made in its place */
    put(path, &whole, whole.size);
    world_start(&w);
    CHECK_EQUAL(world_settle(&w).accepted, 40);
    world_stop(&w);
    buffer_deinit(&whole);
    free(path);
    world_destroy(&w);
}

TEST(a_root_key_that_is_not_the_root_certificates_is_seen_before_it_signs_for_anybody) {
    struct world w;
    struct buffer other = {0};
    world_with_history(&w);
    char *path = file_of(&w, "keys/ca.key"), *another = file_of(&w, "keys/admin.key");
    keep(another, &other);
    put(path, &other, other.size);
    halts(&w, "ca.key is not the key of ca.pem");
    buffer_deinit(&other);
    free(path);
    free(another);
    world_destroy(&w);
}

TEST(a_tls_key_that_others_may_read_or_that_is_of_another_certificate_serves_nobody) {
    struct world w;
    struct buffer own = {0}, other = {0};
    world_with_history(&w);
    char *path = file_of(&w, "keys/server.key"), *another = file_of(&w, "keys/admin.key");
    keep(path, &own);
    keep(another, &other);
    CHECK(chmod(path, 0640) == 0);
    halts(&w, "server.key is open to others (mode 640): chmod 600 it");
    CHECK(chmod(path, 0600) == 0);
    put(path, &other, other.size);
    halts(&w, "TLS cannot use the server's certificate");
    put(path, &own, own.size);
    world_start(&w);
    world_stop(&w);
    buffer_deinit(&own);
    buffer_deinit(&other);
    free(path);
    free(another);
    world_destroy(&w);
}

/* Of each page the place that says where its free room ends: what LMDB finds by it lies anywhere.
 */
TEST_WITHIN(a_damaged_page_of_the_ledger_crashes_no_program, 120000) {
    struct world w;
    struct buffer whole = {0}, text = {0};
    unsigned named = 0;
    world_with_history(&w);
    char *path = file_of(&w, "store/data.mdb"),
         *arguments = xformat("ledger verify --dir '%s'", w.directory);
    keep(path, &whole);
    for (size_t page = 2; (page + 1) * PAGE <= whole.size && page < 64; page++) {
        whole.data[page * PAGE + 13] ^= 0x40;
        put(path, &whole, whole.size);
        int code = run_program("atollctl", arguments, true, &text);
        if (code >= 128)
            test_failed(__FILE__, __LINE__, "page %zu: ended by signal %d: %s", page, code - 128,
                        text.data);
        if (strstr((const char *)text.data, "data.mdb is damaged, or its disk cannot be read")) {
            CHECK_EQUAL(code, 4);
            named++;
        }
        whole.data[page * PAGE + 13] ^= 0x40;
    }
    put(path, &whole, whole.size);
    CHECK_EQUAL(run_program("atollctl", arguments, false, &text), 0);
    CHECK(named > 0); /* else this tests nothing */
    buffer_deinit(&whole);
    buffer_deinit(&text);
    free(arguments);
    free(path);
    world_destroy(&w);
}

/* ---- a payload ------------------------------------------------------------------------------- */

static void flip_payload(const struct world *w, const uint8_t digest[static DIGEST_SIZE]) {
    char hex[2 * DIGEST_SIZE + 1];
    struct buffer content = {0};
    (void)hex_encode(digest, DIGEST_SIZE, hex);
    char *path = xformat("%s/blobs/%.2s/%s", w->directory, hex, hex + 2);
    CHECK(chmod(path, 0600) == 0);
    keep(path, &content);
    content.data[content.size / 2] ^= 0x10;
    put(path, &content, content.size);
    buffer_deinit(&content);
    free(path);
}

/* How many payloads the site is asked for; the first one's entry. */
static uint32_t wanted_of(struct site *site, uint64_t *index) {
    struct heartbeat_request request = {.protocol = 1, .epoch = 1, .loss = 2};
    struct heartbeat_reply reply;
    struct buffer bytes = {0}, raw = {0};
    struct frame frame;
    struct error error = {0};
    struct arena *arena = arena_new();
    CHECK_OK(heartbeat_request_encode(&request, &bytes, &error));
    CHECK_EQUAL(unary(site->channel, METHOD_HEARTBEAT, &bytes, &raw), RPC_OK);
    CHECK_OK(frame_split(buffer_bytes(&raw), &frame, &error));
    CHECK_OK(heartbeat_reply_decode(frame, arena, &reply, &error));
    CHECK_EQUAL(reply.code, ACCEPTED);
    uint32_t count = reply.wanted_count;
    *index = count ? reply.wanted[0] : UINT64_MAX;
    buffer_deinit(&bytes);
    buffer_deinit(&raw);
    arena_free(arena);
    return count;
}

TEST(a_damaged_payload_that_the_ledger_names_is_asked_for_at_once_and_forgotten_once_it_is_here) {
    struct world w;
    struct receipt receipt;
    uint64_t index;
    world_create(&w, "run", SPARSE_RUN "snapshot_interval: 1\n");
    world_start(&w);
    struct site *one = world_join(&w, "one"), *two = world_join(&w, "two");
    struct buffer payload = site_payload(&w, one);
    struct contribution c = site_contribution(&w, one, buffer_bytes(&payload));
    struct signed_header header = site_sign(one, &c);
    struct verdict verdict = submit(one, &header, buffer_bytes(&payload));
    CHECK(verdict.accepted);
    check_receipt(&w, &verdict, &header, &receipt);
    world_settle(&w); /* it is merged, and a snapshot covers it */
    CHECK_EQUAL(wanted_of(one, &index), 0);
    flip_payload(&w, c.payload_digest);
    c = site_contribution(&w, two, buffer_bytes(&payload)); /* the same bytes, as it happens */
    header = site_sign(two, &c);
    verdict = submit(two, &header, bytes_of(NULL, 0));
    CHECK(!verdict.accepted);
    CHECK_EQUAL(verdict.code, REFUSED_BUSY);
    CHECK_EQUAL(wanted_of(one, &index), 1);
    CHECK_EQUAL(index, receipt.index);
    verdict = submit(two, &header, buffer_bytes(&payload));
    CHECK(verdict.credited && verdict.accepted);
    CHECK_EQUAL(wanted_of(one, &index), 0);
    world_settle(&w);
    buffer_deinit(&payload);
    world_stop(&w);
    world_destroy(&w);
}
