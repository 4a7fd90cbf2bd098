/* Many orders in one moment, and a disk that stands still or is full: the coordinator waits, says
 * so, and loses nothing.
 *
 * The disk is this process's: fdatasync and fallocate below stand before libc's, for the store of
 * the server under test. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "tests/malformed_client.h"

static atomic_bool standing_still, full;

int fdatasync(int descriptor) {
    while (atomic_load(&standing_still)) clock_sleep_ms(1);
    return (int)syscall(SYS_fdatasync, descriptor);
}

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    if (atomic_load(&full)) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_fallocate, descriptor, mode, offset, size);
}

/* ---- many unary calls at once ---------------------------------------------------------------- */

enum { INVITATIONS = 600, JOINS = 150, PLACES = 64 }; /* calls of strangers, and of admins */

struct answer {
    struct burst *burst;
    enum status status;
    struct buffer request, bytes;
    bool came;
};

struct burst {
    struct rpc_channel *channel; /* of many connections: the server takes 128 calls on one */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t open;
    struct answer answers[INVITATIONS];
};

static struct burst *burst_create(const struct world *w, bool admin) {
    struct burst *burst = xcalloc(1, sizeof *burst);
    struct buffer chain = {0}, key = {0};
    struct error error = {0};
    char address[64];
    read_pem(w, "admin.pem", &chain);
    read_pem(w, "admin.key", &key);
    snprintf(address, sizeof address, "127.0.0.1:%u", w->port);
    struct rpc_channel_options options = {.address = address,
                                          .root_ca = (const char *)w->ca_pem.data,
                                          .chain = admin ? (const char *)chain.data : NULL,
                                          .private_key = admin ? (const char *)key.data : NULL,
                                          .server_name = "atoll-coordinator",
                                          .connections = 16};
    CHECK_OK(rpc_channel_open(&options, &burst->channel, &error));
    buffer_deinit(&chain);
    buffer_deinit(&key);
    pthread_mutex_init(&burst->lock, NULL);
    pthread_cond_init(&burst->changed, NULL);
    return burst;
}

static void burst_destroy(struct burst *burst) {
    rpc_channel_close(burst->channel);
    for (size_t i = 0; i < INVITATIONS; i++) {
        buffer_deinit(&burst->answers[i].request);
        buffer_deinit(&burst->answers[i].bytes);
    }
    pthread_cond_destroy(&burst->changed);
    pthread_mutex_destroy(&burst->lock);
    free(burst);
}

static void on_answer(void *user, const struct rpc_outcome *outcome, struct buffer *reply) {
    struct answer *answer = user;
    struct burst *burst = answer->burst;
    pthread_mutex_lock(&burst->lock);
    answer->status = outcome->status;
    answer->came = true;
    answer->bytes = *reply;
    *reply = (struct buffer){0};
    burst->open--;
    pthread_cond_signal(&burst->changed);
    pthread_mutex_unlock(&burst->lock);
}

/* A Join that comes again while the first one's entry is being made durable is told to wait. */
static bool is_busy(struct answer *answer) {
    struct error error = {0};
    struct frame frame;
    struct join_reply reply;
    struct arena *arena = arena_new();
    CHECK_OK(frame_split(buffer_bytes(&answer->bytes), &frame, &error));
    CHECK_OK(join_reply_decode(frame, arena, &reply, &error));
    bool busy = reply.code == JOIN_BUSY;
    arena_free(arena);
    return busy;
}

static bool is_answered(struct answer *answer, enum service_method method) {
    return answer->came && answer->status == OK && (method != METHOD_JOIN || !is_busy(answer));
}

/* Asks for all that were not answered yet. */
static void burst_ask(struct burst *burst, size_t count, enum service_method method) {
    struct error error = {0};
    struct rpc_call_options options = {.progress_timeout_ms = PATIENCE_MS,
                                       .wait_for_connection = true};
    for (size_t i = 0; i < count; i++) {
        struct answer *answer = &burst->answers[i];
        if (is_answered(answer, method)) continue;
        struct rpc_piece piece = rpc_piece_of(buffer_bytes(&answer->request));
        buffer_deinit(&answer->bytes);
        answer->burst = burst;
        answer->came = false;
        pthread_mutex_lock(&burst->lock);
        burst->open++;
        pthread_mutex_unlock(&burst->lock);
        CHECK_OK(rpc_channel_unary(burst->channel, service_path(method), &options, &piece, 1,
                                   on_answer, answer, &error));
    }
}

static size_t burst_open(struct burst *burst) {
    pthread_mutex_lock(&burst->lock);
    size_t open = burst->open;
    pthread_mutex_unlock(&burst->lock);
    return open;
}

static void burst_wait(struct burst *burst) {
    pthread_mutex_lock(&burst->lock);
    while (burst->open > 0) pthread_cond_wait(&burst->changed, &burst->lock);
    pthread_mutex_unlock(&burst->lock);
}

/* They are more than the coordinator keeps open at once: those that have to go come again. */
static void burst_until_answered(struct burst *burst, size_t count, enum service_method method) {
    for (size_t answered = 0; answered < count;) {
        burst_wait(burst);
        answered = 0;
        for (size_t i = 0; i < count; i++) answered += is_answered(&burst->answers[i], method);
        if (answered < count) burst_ask(burst, count, method);
    }
}

/* While the disk stands still: all but a few had to go, and nobody got an answer. */
static void burst_stands(struct burst *burst, size_t count) {
    while (burst_open(burst) > PLACES) clock_sleep_ms(5);
    CHECK(burst_open(burst) > 0);
    pthread_mutex_lock(&burst->lock);
    for (size_t i = 0; i < count; i++)
        CHECK(!burst->answers[i].came || burst->answers[i].status != OK);
    pthread_mutex_unlock(&burst->lock);
}

static void invite_all(struct burst *burst, size_t count) {
    struct error error = {0};
    for (size_t i = 0; i < count; i++) {
        char name[SITE_NAME_SIZE];
        snprintf(name, sizeof name, "site-%zu", i);
        struct admin_request request = {
            .protocol = 1, .verb = ADMIN_INVITE, .site_name = name, .reason = ""};
        CHECK_OK(admin_request_encode(&request, &burst->answers[i].request, &error));
    }
    burst_ask(burst, count, METHOD_ADMIN);
}

static void invited(const struct answer *answer, uint8_t secret[static SECRET_SIZE]) {
    struct error error = {0};
    struct frame frame;
    struct admin_reply reply;
    struct arena *arena = arena_new();
    CHECK_EQUAL(answer->status, OK);
    CHECK_OK(frame_split(buffer_bytes(&answer->bytes), &frame, &error));
    CHECK_OK(admin_reply_decode(frame, arena, &reply, &error));
    CHECK_EQUAL(reply.code, ADMIN_OK);
    CHECK_EQUAL(reply.invitation_secret.size, SECRET_SIZE);
    memcpy(secret, reply.invitation_secret.data, SECRET_SIZE);
    arena_free(arena);
}

/* What the coordinator says that it waits for. The question, too, may have to go for another. */
static void world_waits(struct world *w, char out[static 256]) {
    struct admin_request request = {.protocol = 1, .verb = ADMIN_STATUS};
    struct admin_reply reply;
    struct buffer raw = {0};
    struct arena *arena = arena_new();
    while (admin_ask(w->admin, &request, arena, &raw, &reply) != RPC_OK) {
        buffer_deinit(&raw);
        clock_sleep_ms(5);
    }
    snprintf(out, 256, "%s", reply.run.waits);
    buffer_deinit(&raw);
    arena_free(arena);
}

TEST_WITHIN(more_invitations_and_joins_at_once_than_a_disk_that_stands_still_can_take, 120000) {
    struct world w;
    uint8_t(*secrets)[SECRET_SIZE] = xcalloc(INVITATIONS, SECRET_SIZE);
    world_create(&w, "run", SPARSE_RUN);
    world_start(&w);
    struct burst *burst = burst_create(&w, true);
    atomic_store(&standing_still, true);
    invite_all(burst, INVITATIONS);
    burst_stands(burst, INVITATIONS);
    atomic_store(&standing_still, false);
    burst_until_answered(burst, INVITATIONS, METHOD_ADMIN);
    for (size_t i = 0; i < INVITATIONS; i++) invited(&burst->answers[i], secrets[i]);
    /* an order whose call had to go may have been entered all the same, and is given again */
    CHECK(world_look(&w).ledger_size >= 1 + INVITATIONS);
    burst_destroy(burst);

    burst = burst_create(&w, false);
    struct error error = {0};
    uint64_t invited_by = world_look(&w).ledger_size;
    atomic_store(&standing_still, true);
    for (size_t i = 0; i < JOINS; i++) {
        char name[SITE_NAME_SIZE];
        struct key_pair *key = NULL;
        struct buffer csr = {0};
        snprintf(name, sizeof name, "site-%zu", i);
        CHECK_OK(key_pair_create(&key, &error));
        CHECK_OK(certificate_request_create(key, CERTIFICATE_DER, &csr, &error));
        struct join_request request = {.protocol_min = 1,
                                       .protocol_max = 1,
                                       .site_name = name,
                                       .invitation_secret = bytes_of(secrets[i], SECRET_SIZE),
                                       .csr_der = buffer_bytes(&csr),
                                       .software = "test"};
        CHECK_OK(join_request_encode(&request, &burst->answers[i].request, &error));
        buffer_deinit(&csr);
        key_pair_destroy(key);
    }
    burst_ask(burst, JOINS, METHOD_JOIN);
    burst_stands(burst, JOINS);
    atomic_store(&standing_still, false);
    burst_until_answered(burst, JOINS, METHOD_JOIN);
    for (size_t i = 0; i < JOINS; i++) {
        struct frame frame;
        struct join_reply reply;
        struct arena *arena = arena_new();
        CHECK_EQUAL(burst->answers[i].status, OK);
        CHECK_OK(frame_split(buffer_bytes(&burst->answers[i].bytes), &frame, &error));
        CHECK_OK(join_reply_decode(frame, arena, &reply, &error));
        CHECK_EQUAL(reply.code, JOIN_OK);
        arena_free(arena);
    }
    CHECK_EQUAL(world_look(&w).ledger_size, invited_by + JOINS); /* each joined once */
    burst_destroy(burst);
    free(secrets);
    world_stop(&w); /* it had not broken */
    world_destroy(&w);
}

TEST_WITHIN(a_full_disk_is_waited_out_and_named_and_nothing_is_lost, 120000) {
    struct world w;
    char waits[256] = "";
    uint8_t secret[SECRET_SIZE];
    enum { SOME = 600 };
    world_create(&w, "run", SPARSE_RUN);
    world_start(&w);
    struct site *one = world_join(&w, "one");
    struct burst *burst = burst_create(&w, true);
    uint64_t size = world_look(&w).ledger_size;
    atomic_store(&full, true);
    invite_all(burst, SOME); /* more than the room that the store has reserved before */
    while (!*waits) {
        clock_sleep_ms(5);
        if (burst_open(burst) == 0) burst_ask(burst, SOME, METHOD_ADMIN);
        world_waits(&w, waits);
    }
    CHECK(strstr(waits, "disk is full"));
    CHECK(burst_open(burst) > 0);
    clock_sleep_ms(1500); /* it was tried again meanwhile */
    world_waits(&w, waits);
    CHECK(*waits);
    atomic_store(&full, false);
    burst_until_answered(burst, SOME, METHOD_ADMIN);
    for (size_t i = 0; i < SOME; i++) invited(&burst->answers[i], secret);
    while (world_waits(&w, waits), *waits) clock_sleep_ms(5);
    CHECK(world_look(&w).ledger_size >= size + SOME);
    w.orders += world_look(&w).ledger_size - size;
    site_contribute(&w, one);
    CHECK_EQUAL(world_settle(&w).accepted, 1);
    world_stop(&w);
    world_start(&w); /* what is on the disk is a ledger */
    CHECK_EQUAL(world_settle(&w).accepted, 1);
    world_stop(&w);
    burst_destroy(burst);
    world_destroy(&w);
}
