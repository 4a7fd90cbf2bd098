/* A coordinator that says what a test tells it to, over real TLS, and the events that a site's
 * threads made of it. */
#ifndef TESTS_NODE_FAKE_COORDINATOR_H
#define TESTS_NODE_FAKE_COORDINATOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "node/journal_files.h"
#include "node/node_state.h"
#include "node/stream.h"
#include "proto/messages.h"
#include "rpc/environment.h"
#include "rpc/server.h"
#include "tests/test.h"

#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        uint64_t until_ = clock_monotonic_ms() + 20000;                                            \
        while (!(condition)) {                                                                     \
            if (clock_monotonic_ms() > until_)                                                     \
                test_failed(__FILE__, __LINE__, "waited 20 s for %s", #condition);                 \
            clock_sleep_ms(1);                                                                     \
        }                                                                                          \
    } while (0)

/* ---- events, as the core would get them ----------------------------------------------------- */

enum { EVENTS_MAX = 512 };
struct told {
    pthread_mutex_t lock;
    struct node_event events[EVENTS_MAX];
    struct buffer bytes[EVENTS_MAX];
    atomic_size_t count;
};

static inline void told_event(struct told *told, const struct node_event *event) {
    pthread_mutex_lock(&told->lock);
    size_t at = atomic_load(&told->count);
    CHECK(at < EVENTS_MAX);
    told->events[at] = *event;
    told->events[at].message = NULL;
    if (event->bytes.size) buffer_append(&told->bytes[at], event->bytes.data, event->bytes.size);
    atomic_store(&told->count, at + 1);
    pthread_mutex_unlock(&told->lock);
}

static inline const struct node_event *told_wait(struct told *told, size_t at) {
    WAIT_FOR(atomic_load(&told->count) > at);
    return &told->events[at];
}

static inline void told_deinit(struct told *told) {
    for (size_t i = 0; i < EVENTS_MAX; i++) buffer_deinit(&told->bytes[i]);
}

/* ---- the coordinator ------------------------------------------------------------------------- */

enum { SCRIPT_MAX = 64, REQUESTS_MAX = 16 };

struct fake { /* what it does is set before the site's thread starts, or between two of its calls */
    struct rpc_server *server;
    struct rpc_channel *channel; /* the site's */
    struct buffer ca, chain, key, site_chain, site_key;
    struct key_pair *ca_key, *server_key, *site_key_pair;

    /* Follow and Snapshot: the frames of each call, one list a call; then the call ends if `ends`,
     * else stays open */
    struct buffer frames[REQUESTS_MAX][SCRIPT_MAX];
    size_t frame_count[REQUESTS_MAX];
    bool ends[REQUESTS_MAX];
    atomic_size_t calls; /* Follow or Snapshot calls that came */
    struct follow_request follows[REQUESTS_MAX];
    struct snapshot_request snapshots[REQUESTS_MAX];
    atomic_size_t sent; /* frames that went out, in all */

    /* Submit */
    uint64_t credit_offset;
    uint32_t chunk_limit;
    size_t answer_after;   /* bytes of payload */
    struct buffer answer;  /* receipt or refusal; empty: the call is broken off */
    struct buffer payload; /* what came, from credit_offset on */
    size_t largest_chunk;
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    atomic_size_t submits;

    /* Join and Admin calls that there is no room for, and then such that are answered as busy;
     * after that joins are told that the run is over, orders that they are done */
    atomic_size_t no_room, busy;
    atomic_size_t asked; /* Join and Admin calls */

    uint64_t version; /* in heartbeats */
    atomic_size_t heartbeats;
};

static inline void fake_write(struct rpc_call *call, const struct buffer *frame) {
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(frame));
    CHECK(rpc_call_write(call, &piece, 1) == OK);
}

struct fake_stream { /* a Follow or Snapshot call being served */
    struct fake *fake;
    size_t call, next;
};

static inline void fake_pump(struct rpc_call *call, struct fake_stream *stream) {
    struct fake *fake = stream->fake;
    while (stream->next < fake->frame_count[stream->call]) {
        struct rpc_piece piece =
            rpc_piece_of(buffer_bytes(&fake->frames[stream->call][stream->next]));
        if (rpc_call_write(call, &piece, 1) != OK) return;
        stream->next++;
        atomic_fetch_add(&fake->sent, 1);
    }
    if (fake->ends[stream->call]) rpc_call_finish(call, RPC_UNAVAILABLE, "the script is over");
}

static inline void fake_open(struct rpc_call *call, void *user) {
    struct fake_stream *stream = xcalloc(1, sizeof *stream);
    stream->fake = user;
    rpc_call_set_user(call, stream);
    rpc_call_read(call);
}

static inline void fake_request(struct rpc_call *call, void *user, struct buffer *message) {
    struct fake_stream *stream = user;
    struct fake *fake = stream->fake;
    struct frame frame;
    struct arena arena = {0};
    struct error error = {0};
    arena_create(&arena, ARENA_SIZE);
    stream->call = atomic_load(&fake->calls);
    CHECK(stream->call < REQUESTS_MAX);
    CHECK_OK(frame_split(buffer_bytes(message), &frame, &error));
    if (strcmp(rpc_call_path(call), service_path(METHOD_FOLLOW)) == 0)
        CHECK_OK(follow_request_decode(frame, &arena, &fake->follows[stream->call], &error));
    else
        CHECK_OK(snapshot_request_decode(frame, &arena, &fake->snapshots[stream->call], &error));
    arena_deinit(&arena);
    atomic_store(&fake->calls, stream->call + 1);
    fake_pump(call, stream);
}

/* What the n-th Follow or Snapshot call asked for. */
static inline const struct follow_request *fake_follow(struct fake *fake, size_t n) {
    WAIT_FOR(atomic_load(&fake->calls) > n);
    return &fake->follows[n];
}
static inline const struct snapshot_request *fake_snapshot(struct fake *fake, size_t n) {
    WAIT_FOR(atomic_load(&fake->calls) > n);
    return &fake->snapshots[n];
}

static inline void fake_writable(struct rpc_call *call, void *user) { fake_pump(call, user); }

static inline void fake_closed(struct rpc_call *call, void *user,
                               const struct rpc_outcome *outcome) {
    (void)call;
    (void)outcome;
    free(user);
}

static inline void fake_submit_open(struct rpc_call *call, void *user) {
    (void)user;
    rpc_call_read(call);
}

static inline void fake_submit(struct rpc_call *call, void *user, struct buffer *message) {
    struct fake *fake = user;
    struct frame frame;
    struct submit_frame got;
    struct arena arena = {0};
    struct error error = {0};
    arena_create(&arena, ARENA_SIZE);
    CHECK_OK(frame_split(buffer_bytes(message), &frame, &error));
    CHECK_OK(submit_frame_decode(frame, &arena, &got, &error));
    if (got.kind == SUBMIT_OPEN) {
        memcpy(fake->header, got.open.header, sizeof fake->header);
        struct submit_reply credit = {
            .kind = SUBMIT_CREDIT,
            .credit = {.resume_offset = fake->credit_offset, .chunk_limit = fake->chunk_limit}};
        struct buffer raw = {0};
        CHECK_OK(submit_reply_encode(&credit, &raw, &error));
        fake_write(call, &raw);
        buffer_deinit(&raw);
        atomic_fetch_add(&fake->submits, 1);
    } else {
        CHECK_EQUAL(got.chunk.offset, fake->credit_offset + fake->payload.size);
        buffer_append(&fake->payload, got.payload.data, got.payload.size);
        fake->largest_chunk = MAX(fake->largest_chunk, got.payload.size);
    }
    arena_deinit(&arena);
    if (got.kind == SUBMIT_CHUNK && fake->payload.size >= fake->answer_after) {
        if (fake->answer.size == 0) {
            rpc_call_finish(call, RPC_UNAVAILABLE, "broken off");
            return;
        }
        fake_write(call, &fake->answer);
        rpc_call_finish(call, RPC_OK, NULL);
        return;
    }
    rpc_call_read(call);
}

static inline void fake_heartbeat(struct rpc_call *call, void *user, struct buffer *message) {
    struct fake *fake = user;
    (void)message;
    struct heartbeat_reply reply = {.version = fake->version};
    struct buffer raw = {0};
    struct error error = {0};
    CHECK_OK(heartbeat_reply_encode(&reply, &raw, &error));
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(&raw));
    CHECK(rpc_call_reply(call, &piece, 1) == OK);
    buffer_deinit(&raw);
    atomic_fetch_add(&fake->heartbeats, 1);
}

static inline void fake_answer(struct rpc_call *call, struct buffer *raw) {
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(raw));
    CHECK(rpc_call_reply(call, &piece, 1) == OK);
    buffer_deinit(raw);
}

/* Whether the call has been answered, as there is no room for it. */
static inline bool fake_turns_away(struct fake *fake, struct rpc_call *call, bool *busy) {
    size_t asked = atomic_fetch_add(&fake->asked, 1);
    *busy = asked - fake->no_room < fake->busy;
    if (asked >= fake->no_room) return false;
    rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "as the test says");
    return true;
}

static inline void fake_join(struct rpc_call *call, void *user, struct buffer *message) {
    struct fake *fake = user;
    bool busy;
    (void)message;
    if (fake_turns_away(fake, call, &busy)) return;
    struct join_reply reply = {.code = busy ? JOIN_BUSY : JOIN_STOPPED,
                               .message = "as the test says"};
    struct buffer raw = {0};
    struct error error = {0};
    CHECK_OK(join_reply_encode(&reply, &raw, &error));
    fake_answer(call, &raw);
}

static inline void fake_admin(struct rpc_call *call, void *user, struct buffer *message) {
    struct fake *fake = user;
    bool busy;
    (void)message;
    if (fake_turns_away(fake, call, &busy)) return;
    struct admin_reply reply = {.code = busy ? ADMIN_BUSY : ADMIN_OK,
                                .message = "as the test says"};
    struct buffer raw = {0};
    struct error error = {0};
    CHECK_OK(admin_reply_encode(&reply, &raw, &error));
    fake_answer(call, &raw);
}

static inline void fake_certificate(const struct fake *fake, const struct key_pair *key,
                                    bool server, struct buffer *chain, struct buffer *pem) {
    struct error error = {0};
    struct buffer request = {0};
    uint64_t now_s = clock_wall_ms() / 1000;
    struct certificate_terms terms = {.common_name = server ? "coordinator" : "site",
                                      .uri = server ? NULL : "atoll://site",
                                      .server = server,
                                      .client = !server,
                                      .not_before_s = now_s - 60,
                                      .not_after_s = now_s + 3600};
    if (server) terms.dns[0] = "atoll-coordinator";
    CHECK_OK(certificate_request_create(key, CERTIFICATE_DER, &request, &error));
    CHECK_OK(certificate_issue(buffer_bytes(&fake->ca), fake->ca_key, buffer_bytes(&request),
                               &terms, CERTIFICATE_PEM, chain, &error));
    buffer_u8(chain, 0);
    CHECK_OK(key_pair_to_pem(key, pem, &error));
    buffer_u8(pem, 0);
    buffer_deinit(&request);
}

static const struct rpc_handler fake_stream_handler = {.on_open = fake_open,
                                                       .on_message = fake_request,
                                                       .on_writable = fake_writable,
                                                       .on_closed = fake_closed};
static const struct rpc_handler fake_submit_handler = {.on_open = fake_submit_open,
                                                       .on_message = fake_submit};
static const struct rpc_handler fake_join_handler = {.on_open = fake_submit_open,
                                                     .on_message = fake_join};
static const struct rpc_handler fake_admin_handler = {.on_open = fake_submit_open,
                                                      .on_message = fake_admin};
static const struct rpc_handler fake_heartbeat_handler = {.on_open = fake_submit_open,
                                                          .on_message = fake_heartbeat};

static inline struct rpc_server_method
fake_method(enum service_method method, const struct rpc_handler *handler, struct fake *fake) {
    return (struct rpc_server_method){.method = {service_path(method),
                                                 service_client_streams(method),
                                                 service_server_streams(method)},
                                      .handler = handler,
                                      .user = fake};
}

static inline struct fake *fake_start(void) {
    struct fake *fake = xcalloc(1, sizeof *fake);
    struct error error = {0};
    uint64_t now_s = clock_wall_ms() / 1000;
    CHECK_OK(rpc_environment_open(&error));
    CHECK_OK(key_pair_create(&fake->ca_key, &error));
    CHECK_OK(key_pair_create(&fake->server_key, &error));
    CHECK_OK(key_pair_create(&fake->site_key_pair, &error));
    CHECK_OK(certificate_create_authority(fake->ca_key, "federation", now_s - 120, now_s + 7200,
                                          CERTIFICATE_PEM, &fake->ca, &error));
    fake_certificate(fake, fake->server_key, true, &fake->chain, &fake->key);
    fake_certificate(fake, fake->site_key_pair, false, &fake->site_chain, &fake->site_key);
    buffer_u8(&fake->ca, 0);
    const char *address = "127.0.0.1:0";
    struct rpc_server_method methods[] = {
        fake_method(METHOD_FOLLOW, &fake_stream_handler, fake),
        fake_method(METHOD_SNAPSHOT, &fake_stream_handler, fake),
        fake_method(METHOD_SUBMIT, &fake_submit_handler, fake),
        fake_method(METHOD_HEARTBEAT, &fake_heartbeat_handler, fake),
        fake_method(METHOD_JOIN, &fake_join_handler, fake),
        fake_method(METHOD_ADMIN, &fake_admin_handler, fake)};
    struct rpc_server_options server = {.addresses = &address,
                                        .address_count = 1,
                                        .certificate = {(const char *)fake->chain.data,
                                                        (const char *)fake->key.data,
                                                        (const char *)fake->ca.data},
                                        .methods = methods,
                                        .method_count = COUNT_OF(methods),
                                        .threads = 1};
    CHECK_OK(rpc_server_create(&server, &fake->server, &error));
    char target[32];
    snprintf(target, sizeof target, "127.0.0.1:%u", rpc_server_port(fake->server));
    struct rpc_channel_options channel = {.address = target,
                                          .root_ca = (const char *)fake->ca.data,
                                          .chain = (const char *)fake->site_chain.data,
                                          .private_key = (const char *)fake->site_key.data,
                                          .server_name = "atoll-coordinator"};
    CHECK_OK(rpc_channel_open(&channel, &fake->channel, &error));
    fake->chunk_limit = 4096;
    return fake;
}

static inline void fake_stop(struct fake *fake) {
    rpc_channel_close(fake->channel);
    rpc_server_close(fake->server, 0);
    rpc_environment_close();
    key_pair_destroy(fake->ca_key);
    key_pair_destroy(fake->server_key);
    key_pair_destroy(fake->site_key_pair);
    struct buffer *owned[] = {&fake->ca,       &fake->chain,  &fake->key,    &fake->site_chain,
                              &fake->site_key, &fake->answer, &fake->payload};
    for (size_t i = 0; i < COUNT_OF(owned); i++) buffer_deinit(owned[i]);
    for (size_t i = 0; i < REQUESTS_MAX * SCRIPT_MAX; i++)
        buffer_deinit(&fake->frames[i / SCRIPT_MAX][i % SCRIPT_MAX]);
    free(fake);
}

#endif
