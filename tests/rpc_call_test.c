#include "rpc/call.h"

#include "base/queue.h"
#include "base/thread.h"
#include "tests/rpc_fixture.h"

TEST(a_unary_call_is_answered_with_its_own_bytes) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct buffer reply = {0};
    enum rpc_code code = RPC_UNKNOWN;
    CHECK_OK(rpc_channel_unary_wait(pair.channel, echo_method.path, NULL, bytes_of("hello", 5),
                                    &reply, &code, &error));
    CHECK_EQUAL(reply.size, 5);
    CHECK_MEMORY(reply.data, "hello", 5);
    CHECK_EQUAL(code, RPC_OK);
    CHECK_OK(rpc_channel_unary_wait(pair.channel, echo_method.path, NULL, bytes_of(NULL, 0), &reply,
                                    &code, &error));
    CHECK_EQUAL(reply.size, 5); /* an empty reply is appended */
    buffer_deinit(&reply);
    pair_close(&pair);
}

/* ---- streams --------------------------------------------------------------------------------- */

struct echo_client {
    int to_send, sent, received;
    atomic_int closed;
    enum status status;
    bool in_order;
};

static void send_next(struct rpc_call *call, void *user) {
    struct echo_client *client = user;
    while (client->sent < client->to_send) {
        struct buffer body = {0};
        buffer_u32(&body, (uint32_t)client->sent);
        struct rpc_piece piece = rpc_piece_of(buffer_bytes(&body));
        enum status status = rpc_call_write(call, &piece, 1);
        buffer_deinit(&body);
        if (status == FULL) return;
        CHECK(status == OK);
        client->sent++;
    }
    rpc_call_half_close(call);
}
static void receive_echo(struct rpc_call *call, void *user, struct buffer *message) {
    struct echo_client *client = user;
    struct reader reader = reader_of(buffer_bytes(message));
    client->in_order = client->in_order && reader_u32(&reader) == (uint32_t)client->received &&
                       reader_left(&reader) == 0;
    client->received++;
    rpc_call_read(call);
}
static void echo_is_closed(struct rpc_call *call, void *user, const struct rpc_outcome *outcome) {
    (void)call;
    struct echo_client *client = user;
    client->status = outcome->status;
    client->closed++;
}
static const struct rpc_handler echo_client_handler = {
    .on_message = receive_echo, .on_writable = send_next, .on_closed = echo_is_closed};

TEST(a_stream_echoes_every_message_in_order_and_ends_well) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct echo_client client = {.to_send = 1000, .in_order = true};
    struct rpc_call *call;
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &echo_client_handler, &client,
                              &call, &error));
    rpc_call_read(call);
    /* The first write comes from here; the rest from on_writable. */
    struct buffer first = {0};
    buffer_u32(&first, 0);
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(&first));
    client.sent = 1;
    CHECK(rpc_call_write(call, &piece, 1) == OK);
    buffer_deinit(&first);
    WAIT_FOR(client.closed);
    CHECK(client.in_order);
    CHECK_EQUAL(client.received, 1000);
    CHECK_EQUAL(client.status, OK);
    rpc_call_release(call);
    pair_close(&pair);
}

TEST(a_reader_that_takes_its_time_still_gets_every_message_before_the_end) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct trace trace = {0};
    struct rpc_call *call;
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &trace, &call,
                              &error));
    rpc_call_read(call);
    rpc_call_read(call); /* asking twice is asking once */
    for (int i = 0; i < 4; i++) {
        struct rpc_piece piece = rpc_piece_of(bytes_of("abc", 3));
        WAIT_FOR(rpc_call_write(call, &piece, 1) == OK);
    }
    rpc_call_half_close(call);
    clock_sleep_ms(200);
    CHECK_EQUAL(trace.messages, 1); /* nothing is delivered that was not asked for */
    CHECK_EQUAL(trace.closed, 0);
    for (int i = 2; i <= 4; i++) {
        rpc_call_read(call);
        WAIT_FOR(trace.messages == i);
        clock_sleep_ms(20);
        CHECK_EQUAL(trace.messages, i);
    }
    rpc_call_read(call);
    WAIT_FOR(trace.closed);
    CHECK_EQUAL(trace.status, OK);
    rpc_call_release(call);
    pair_close(&pair);
}

/* ---- who is there ---------------------------------------------------------------------------- */

TEST(the_server_sees_the_names_in_a_clients_certificate) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct buffer reply = {0};
    CHECK_OK(rpc_channel_unary_wait(pair.channel, who_method.path, NULL, bytes_of("?", 1), &reply,
                                    NULL, &error));
    buffer_u8(&reply, 0);
    CHECK_TEXT((const char *)reply.data, "yes|atoll://demo/site/eu-1|eu-1|pem");
    buffer_deinit(&reply);
    pair_close(&pair);
}

TEST(a_certificate_with_two_names_has_none) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct identity two = identity_make(
        "eu-1", "URI:atoll://demo/site/eu-1,URI:atoll://demo/admin/root", &pair.pki.ca);
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.chain = two.chain;
    options.private_key = two.private_key;
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    struct buffer reply = {0};
    CHECK_OK(rpc_channel_unary_wait(channel, who_method.path, NULL, bytes_of("?", 1), &reply, NULL,
                                    &error));
    buffer_u8(&reply, 0);
    CHECK_TEXT((const char *)reply.data, "yes||eu-1|pem");
    buffer_deinit(&reply);
    rpc_channel_close(channel);
    identity_deinit(&two);
    pair_close(&pair);
}

TEST(a_caller_without_a_certificate_is_let_in_and_seen_as_nobody) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.chain = options.private_key = NULL;
    struct rpc_channel *anonymous;
    CHECK_OK(rpc_channel_open(&options, &anonymous, &error));
    struct buffer reply = {0};
    CHECK_OK(rpc_channel_unary_wait(anonymous, who_method.path, NULL, bytes_of("?", 1), &reply,
                                    NULL, &error));
    buffer_u8(&reply, 0);
    CHECK_TEXT((const char *)reply.data, "no|||");
    buffer_deinit(&reply);
    rpc_channel_close(anonymous);
    pair_close(&pair);
}

/* ---- sizes and pieces ------------------------------------------------------------------------ */

TEST(four_mebibytes_and_a_header_pass_gathered_and_come_back) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct buffer body = {0}, reply = {0};
    buffer_reserve(&body, (4 << 20) + 200);
    for (uint32_t i = 0; i < (1 << 20) + 50; i++) buffer_u32(&body, i * 2654435761u);
    CHECK_OK(rpc_channel_unary_wait(pair.channel, echo_method.path, NULL, buffer_bytes(&body),
                                    &reply, NULL, &error));
    CHECK_EQUAL(reply.size, body.size);
    CHECK_MEMORY(reply.data, body.data, body.size);
    buffer_deinit(&body);
    buffer_deinit(&reply);
    pair_close(&pair);
}

TEST(a_message_over_the_limit_is_refused_here_and_by_the_server_which_goes_on) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct buffer body = {0}, reply = {0};
    buffer_reserve(&body, 8 << 20);
    body.size = 8 << 20;
    memset(body.data, 7, body.size);
    CHECK_STATUS(rpc_channel_unary_wait(pair.channel, echo_method.path, NULL, buffer_bytes(&body),
                                        &reply, NULL, &error),
                 INVALID);
    CHECK_CONTAINS(error.message, "limit");

    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.max_message_size = 16 << 20; /* a client that thinks it may */
    struct rpc_channel *bold;
    enum rpc_code code = RPC_OK;
    CHECK_OK(rpc_channel_open(&options, &bold, &error));
    CHECK_STATUS(rpc_channel_unary_wait(bold, echo_method.path, NULL, buffer_bytes(&body), &reply,
                                        &code, &error),
                 INVALID);
    CHECK_EQUAL(code, RPC_RESOURCE_EXHAUSTED);
    CHECK_CONTAINS(error.message, "larger than max");
    CHECK_OK(rpc_channel_unary_wait(bold, echo_method.path, NULL, bytes_of("ok", 2), &reply, NULL,
                                    &error));
    CHECK_EQUAL(reply.size, 2);
    rpc_channel_close(bold);
    buffer_deinit(&body);
    buffer_deinit(&reply);
    pair_close(&pair);
}

static atomic_int released;
static void count_release(void *context) {
    released++;
    free(context);
}

static struct rpc_piece owned_piece(size_t size) {
    uint8_t *data = xmalloc(size);
    memset(data, 'x', size);
    return (struct rpc_piece){bytes_of(data, size), count_release, data};
}

static void count_reply(void *user, const struct rpc_outcome *outcome, struct buffer *reply) {
    (void)reply;
    if (outcome->status == OK)
        ++*(atomic_int *)user;
    else
        --*(atomic_int *)user;
}

TEST(a_lent_payload_is_released_exactly_once_whatever_happens_to_it) {
    struct pair pair = standard_pair();
    struct error error = {0};
    atomic_int replies = 0;
    struct rpc_piece pieces[3] = {rpc_piece_of(bytes_of("head", 4)), owned_piece(300000),
                                  owned_piece(0)};
    CHECK_OK(rpc_channel_unary(pair.channel, echo_method.path, NULL, pieces, 3, count_reply,
                               &replies, &error));
    WAIT_FOR(replies == 1);
    WAIT_FOR(released == 2);

    struct trace trace = {0};
    struct rpc_call *call; /* cancelled with messages waiting */
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &trace, &call,
                              &error));
    int taken = 0;
    for (int i = 0; i < 10; i++) {
        struct rpc_piece piece = owned_piece(1 << 20);
        enum status status = rpc_call_write(call, &piece, 1);
        if (status == OK)
            taken++;
        else
            free(piece.context); /* not taken */
    }
    CHECK(taken >= 4);
    rpc_call_cancel(call, RPC_CANCELLED, "changed my mind");
    WAIT_FOR(trace.closed);
    CHECK_EQUAL(trace.status, CANCELLED);
    CHECK(trace.local);
    struct rpc_piece late = owned_piece(10);
    CHECK(rpc_call_write(call, &late, 1) == CANCELLED); /* a dead call takes nothing */
    free(late.context);
    rpc_call_release(call);

    pair_close(&pair);
    CHECK_EQUAL(released, 2 + taken);
}

TEST(a_side_that_does_not_stream_may_write_once) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct trace trace = {0};
    struct rpc_call *call;
    CHECK_OK(
        rpc_channel_call(pair.channel, &echo_method, NULL, &trace_handler, &trace, &call, &error));
    struct rpc_piece piece = rpc_piece_of(bytes_of("1", 1));
    CHECK(rpc_call_write(call, &piece, 1) == OK);
    CHECK(rpc_call_write(call, &piece, 1) == INVALID);
    struct rpc_piece many[RPC_PIECES_MAX + 1] = {{{0}, 0, 0}};
    CHECK(rpc_call_write(call, many, RPC_PIECES_MAX + 1) == INVALID);
    WAIT_FOR(trace.closed);
    CHECK_EQUAL(trace.status, OK);
    CHECK_EQUAL(trace.messages, 1);
    rpc_call_release(call);
    pair_close(&pair);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void refuse(struct rpc_call *call, void *user) {
    rpc_call_finish(call, (enum rpc_code) * (atomic_int *)user, "revoked at entry 7");
    rpc_call_finish(call, RPC_OK, "only the first one counts");
}
static const struct rpc_handler refusing_handler = {.on_open = refuse};

TEST(a_refusal_reaches_the_client_with_its_code_and_words) {
    atomic_int code = RPC_PERMISSION_DENIED;
    enum rpc_code got = RPC_OK;
    const struct rpc_server_method methods[] = {
        {.method = echo_method, .handler = &refusing_handler, .user = &code}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct buffer reply = {0};
    CHECK_STATUS(rpc_channel_unary_wait(pair.channel, echo_method.path, NULL, bytes_of("x", 1),
                                        &reply, &got, &error),
                 REFUSED);
    CHECK_EQUAL(got, RPC_PERMISSION_DENIED);
    CHECK_TEXT(error.message, "revoked at entry 7");
    code = RPC_UNAVAILABLE; /* the server's own word for "later" is passed on as it is */
    CHECK_STATUS(rpc_channel_unary_wait(pair.channel, echo_method.path, NULL, bytes_of("x", 1),
                                        &reply, &got, &error),
                 UNAVAILABLE);
    CHECK_TEXT(error.message, "revoked at entry 7");
    CHECK_STATUS(rpc_channel_unary_wait(pair.channel, "/test.Echo/None", NULL, bytes_of("x", 1),
                                        &reply, &got, &error),
                 INVALID);
    CHECK_EQUAL(got, RPC_UNIMPLEMENTED);
    pair_close(&pair);
}

TEST(a_call_that_the_client_cancels_is_seen_to_end_at_the_server) {
    struct trace server = {.read_on = true};
    const struct rpc_server_method methods[] = {
        {.method = stream_method, .handler = &trace_handler, .user = &server}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace client = {0};
    struct rpc_call *call;
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &client, &call,
                              &error));
    WAIT_FOR(server.opened);
    rpc_call_cancel(call, RPC_CANCELLED, NULL);
    WAIT_FOR(server.closed && client.closed);
    CHECK_EQUAL(server.status, UNAVAILABLE);
    CHECK(!server.local);
    CHECK_EQUAL(server.half_closed, 0); /* going away is not saying all */
    rpc_call_release(call);
    pair_close(&pair);
}

TEST(a_call_that_the_server_cancels_ends_at_both_sides) {
    struct trace server = {.keep_call = true};
    const struct rpc_server_method methods[] = {
        {.method = stream_method, .handler = &trace_handler, .user = &server}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace client = {.read_on = true};
    struct rpc_call *call;
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &client, &call,
                              &error));
    rpc_call_read(call);
    WAIT_FOR(server.opened);
    rpc_call_cancel(server.call, RPC_PERMISSION_DENIED, "revoked");
    WAIT_FOR(server.closed && client.closed);
    CHECK_EQUAL(server.code, RPC_PERMISSION_DENIED);
    CHECK(server.local);
    CHECK(client.status != OK);
    rpc_call_release(server.call);
    rpc_call_release(call);
    pair_close(&pair);
}

/* ---- answers from elsewhere ------------------------------------------------------------------ */

struct answerer { /* answers calls on a thread of its own, as a coordinator does */
    struct queue *inbox;
    struct thread *thread;
};

static void hand_over(struct rpc_call *call, void *user, struct buffer *message) {
    struct answerer *answerer = user;
    (void)message;
    CHECK(queue_push(answerer->inbox, rpc_call_retain(call)) == OK);
}
static const struct rpc_handler hand_over_handler = {.on_message = hand_over};

static void answerer_body(void *context) {
    struct answerer *answerer = context;
    void *item;
    while (queue_pop(answerer->inbox, UINT64_MAX, &item) == OK) {
        struct rpc_call *call = item;
        struct rpc_piece piece = rpc_piece_of(bytes_of("thought", 7));
        enum status status = rpc_call_reply(call, &piece, 1);
        CHECK(status == OK || status == CANCELLED);
        rpc_call_finish(call, RPC_INTERNAL, "too late to matter");
        rpc_call_read(call);
        rpc_call_release(call);
    }
}

TEST(two_hundred_calls_at_once_are_answered_by_another_thread) {
    struct answerer answerer = {.inbox = queue_create(1000)};
    struct error error = {0};
    const struct rpc_server_method methods[] = {
        {.method = who_method, .handler = &hand_over_handler, .user = &answerer}};
    struct pair pair = pair_open(methods, 1);
    atomic_int replies = 0;
    for (int i = 0; i < 200; i++) {
        struct rpc_piece piece = rpc_piece_of(bytes_of("q", 1));
        CHECK_OK(rpc_channel_unary(pair.channel, who_method.path, NULL, &piece, 1, count_reply,
                                   &replies, &error));
    }
    /* It only starts when many wait: on one connection at most 128 are open at once, the
     * others queue. */
    WAIT_FOR(queue_size(answerer.inbox) >= 100);
    CHECK_OK(thread_start("answerer", answerer_body, &answerer, &answerer.thread, &error));
    WAIT_FOR(replies == 200);
    pair_close(&pair);
    queue_close(answerer.inbox);
    CHECK(thread_join(answerer.thread, UINT64_MAX) == OK);
    queue_destroy(answerer.inbox);
}

TEST(an_answer_to_a_call_that_died_meanwhile_is_harmless_even_after_the_server_is_gone) {
    struct answerer answerer = {.inbox = queue_create(10)};
    const struct rpc_server_method methods[] = {
        {.method = who_method, .handler = &hand_over_handler, .user = &answerer}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace trace = {0};
    struct rpc_call *call;
    CHECK_OK(
        rpc_channel_call(pair.channel, &who_method, NULL, &trace_handler, &trace, &call, &error));
    struct rpc_piece piece = rpc_piece_of(bytes_of("q", 1));
    CHECK(rpc_call_write(call, &piece, 1) == OK);
    void *item;
    CHECK(queue_pop(answerer.inbox, 10000, &item) == OK);
    rpc_call_cancel(call, RPC_CANCELLED, NULL);
    WAIT_FOR(trace.closed);
    pair_close(&pair);
    struct rpc_call *dead = item;
    CHECK(rpc_call_reply(dead, &piece, 1) == CANCELLED);
    rpc_call_finish(dead, RPC_OK, NULL);
    rpc_call_cancel(dead, RPC_CANCELLED, NULL);
    rpc_call_read(dead);
    CHECK_TEXT(rpc_call_peer(dead)->common_name, "eu-1");
    CHECK_TEXT(rpc_call_path(dead), who_method.path);
    rpc_call_release(dead);
    rpc_call_half_close(call);
    rpc_call_release(call);
    queue_close(answerer.inbox);
    queue_destroy(answerer.inbox);
}

/* ---- progress -------------------------------------------------------------------------------- */

TEST(a_stalled_server_trips_the_clients_progress_timeout) {
    struct trace server = {0}; /* reads nothing, says nothing */
    const struct rpc_server_method methods[] = {
        {.method = deaf_method, .handler = &trace_handler, .user = &server}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace client = {.read_on = true};
    struct rpc_call_options options = {.progress_timeout_ms = 300};
    struct rpc_call *call;
    uint64_t start_ms = clock_monotonic_ms();
    CHECK_OK(rpc_channel_call(pair.channel, &deaf_method, &options, &trace_handler, &client, &call,
                              &error));
    rpc_call_read(call);
    WAIT_FOR(client.closed);
    CHECK_EQUAL(client.status, TIMEOUT);
    CHECK_CONTAINS(client.message, "no progress for 300 ms");
    CHECK(clock_monotonic_ms() - start_ms >= 250);
    WAIT_FOR(server.closed);
    rpc_call_release(call);
    pair_close(&pair);
}

TEST(a_stalled_client_trips_the_servers_progress_timeout_and_is_told_why) {
    struct trace server = {.read_on = true};
    const struct rpc_server_method methods[] = {{.method = stream_method,
                                                 .handler = &trace_handler,
                                                 .user = &server,
                                                 .progress_timeout_ms = 300}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace client = {.read_on = true};
    struct rpc_call *call;
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &client, &call,
                              &error));
    rpc_call_read(call);
    WAIT_FOR(server.closed && client.closed);
    CHECK_EQUAL(server.status, TIMEOUT);
    CHECK_EQUAL(client.code, RPC_DEADLINE_EXCEEDED);
    CHECK_EQUAL(client.status, TIMEOUT);
    rpc_call_release(call);
    pair_close(&pair);
}

TEST(a_slow_peer_that_keeps_moving_trips_nothing) {
    struct trace server = {.read_on = true};
    const struct rpc_server_method methods[] = {{.method = stream_method,
                                                 .handler = &trace_handler,
                                                 .user = &server,
                                                 .progress_timeout_ms = 1000}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace client = {.read_on = true};
    struct rpc_call *call;
    /* The client has asked for a message that never comes; what it can send is its progress. */
    struct rpc_call_options options = {.progress_timeout_ms = 1000};
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, &options, &trace_handler, &client,
                              &call, &error));
    rpc_call_read(call);
    for (int i = 0; i < 8; i++) { /* 2.4 s in all, never a second without a message */
        clock_sleep_ms(300);
        struct rpc_piece piece = rpc_piece_of(bytes_of("tick", 4));
        CHECK(rpc_call_write(call, &piece, 1) == OK);
    }
    WAIT_FOR(server.messages == 8);
    CHECK_EQUAL(server.closed, 0);
    CHECK_EQUAL(client.closed, 0);
    rpc_call_cancel(call, RPC_CANCELLED, NULL);
    WAIT_FOR(server.closed && client.closed);
    rpc_call_release(call);
    pair_close(&pair);
}

TEST(a_server_that_thinks_is_not_a_client_that_stalls) {
    struct answerer answerer = {.inbox = queue_create(10)};
    const struct rpc_server_method methods[] = {{.method = who_method,
                                                 .handler = &hand_over_handler,
                                                 .user = &answerer,
                                                 .progress_timeout_ms = 200}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    atomic_int replies = 0;
    struct rpc_piece piece = rpc_piece_of(bytes_of("q", 1));
    CHECK_OK(rpc_channel_unary(pair.channel, who_method.path, NULL, &piece, 1, count_reply,
                               &replies, &error));
    void *item;
    CHECK(queue_pop(answerer.inbox, 10000, &item) == OK);
    clock_sleep_ms(900);
    CHECK(rpc_call_reply(item, &piece, 1) == OK);
    rpc_call_release(item);
    WAIT_FOR(replies == 1);
    pair_close(&pair);
    queue_close(answerer.inbox);
    queue_destroy(answerer.inbox);
}

/* ---- back pressure --------------------------------------------------------------------------- */

static size_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0, resident = 0;
    CHECK(file && fscanf(file, "%lu %lu", &pages, &resident) == 2);
    fclose(file);
    return resident * 4096;
}

TEST(a_reader_that_stops_holds_the_writer_and_memory_stays_bounded) {
    struct trace server = {.keep_call = true};
    const struct rpc_server_method methods[] = {
        {.method = stream_method, .handler = &trace_handler, .user = &server}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    struct trace client = {0};
    struct rpc_call *call;
    CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &client, &call,
                              &error));
    WAIT_FOR(server.opened);
    size_t before = resident_bytes();
    struct buffer body = {0};
    buffer_reserve(&body, 1 << 20);
    body.size = 1 << 20;
    memset(body.data, 1, body.size);
    int taken = 0;
    uint64_t until_ms = clock_monotonic_ms() + 1500;
    while (clock_monotonic_ms() < until_ms) {
        struct rpc_piece piece = rpc_piece_of(buffer_bytes(&body));
        enum status status = rpc_call_write(call, &piece, 1);
        if (status == OK)
            taken++;
        else
            CHECK(status == FULL);
        clock_sleep_ms(1);
    }
    CHECK(taken >= 4);
    CHECK(taken <= 12); /* the queue of 4 and what flow control lets ahead */
    CHECK(resident_bytes() - before < (size_t)100 << 20);
    int delivered = 0; /* reading lets it go on */
    while (delivered < taken) {
        rpc_call_read(server.call);
        WAIT_FOR(server.messages == delivered + 1);
        delivered++;
    }
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(&body));
    WAIT_FOR(rpc_call_write(call, &piece, 1) == OK);
    rpc_call_cancel(call, RPC_CANCELLED, NULL);
    WAIT_FOR(server.closed && client.closed);
    rpc_call_release(server.call);
    rpc_call_release(call);
    buffer_deinit(&body);
    pair_close(&pair);
}

/* ---- everything at once ---------------------------------------------------------------------- */

struct hammer {
    struct rpc_call *client, *server;
    unsigned seed;
};

static atomic_int hammer_taken, hammer_freed;
static void hammer_release(void *context) {
    hammer_freed++;
    free(context);
}

static void hammer_body(void *context) {
    struct hammer *hammer = context;
    for (int i = 0; i < 60; i++) {
        unsigned dice = (unsigned)rand_r(&hammer->seed) % 100;
        struct rpc_call *call = dice % 2 ? hammer->client : hammer->server;
        if (dice < 60) {
            void *data = xcalloc(1, 5000);
            struct rpc_piece piece = {bytes_of(data, 5000), hammer_release, data};
            hammer_taken++;
            if (rpc_call_write(call, &piece, 1) != OK) hammer_release(data);
        } else if (dice < 90) {
            rpc_call_read(call);
        } else if (dice < 96) {
            rpc_call_set_progress_timeout(call, dice % 3 ? 5000 : 0);
        } else if (i > 30) {
            if (dice == 96) rpc_call_finish(hammer->server, RPC_ABORTED, "enough");
            if (dice == 97) rpc_call_half_close(hammer->client);
            if (dice == 98) rpc_call_cancel(call, RPC_CANCELLED, NULL);
        }
    }
    rpc_call_cancel(hammer->seed % 2 ? hammer->client : hammer->server, RPC_CANCELLED, "done");
    rpc_call_release(hammer->client);
    rpc_call_release(hammer->server);
}

TEST(many_threads_may_do_anything_to_one_call_and_it_ends_once) {
    struct error error = {0};
    for (unsigned round = 0; round < 25; round++) {
        struct trace server = {.keep_call = true};
        const struct rpc_server_method methods[] = {
            {.method = stream_method, .handler = &trace_handler, .user = &server}};
        struct pair pair = pair_open(methods, 1);
        struct trace client = {0};
        struct rpc_call *call;
        CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &client,
                                  &call, &error));
        WAIT_FOR(server.opened == 1);
        struct hammer hammers[4];
        struct thread *threads[4];
        for (unsigned i = 0; i < 4; i++) {
            hammers[i] =
                (struct hammer){rpc_call_retain(call), rpc_call_retain(server.call), round * 4 + i};
            CHECK_OK(thread_start("hammer", hammer_body, &hammers[i], &threads[i], &error));
        }
        for (unsigned i = 0; i < 4; i++) CHECK(thread_join(threads[i], UINT64_MAX) == OK);
        WAIT_FOR(server.closed == 1 && client.closed == 1);
        rpc_call_release(server.call);
        rpc_call_release(call);
        pair_close(&pair);
    }
    CHECK_EQUAL(hammer_taken, hammer_freed);
}
