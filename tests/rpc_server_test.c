#include "rpc/server.h"

#include <arpa/inet.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/limits.h"
#include "base/thread.h"
#include "tests/rpc_fixture.h"

static enum status call_once(struct rpc_channel *channel, struct error *error) {
    struct buffer reply = {0};
    struct rpc_call_options options = {.progress_timeout_ms = 10000};
    enum status status = rpc_channel_unary_wait(channel, echo_method.path, &options,
                                                bytes_of("x", 1), &reply, NULL, error);
    buffer_deinit(&reply);
    return status;
}

/* ---- starting and stopping ------------------------------------------------------------------- */

TEST(shutdown_with_open_streams_ends_in_bounded_time_and_every_side_hears_of_it) {
    struct trace server = {.read_on = true};
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
    rpc_server_close(pair.server, 100);
    CHECK_EQUAL(server.closed, 1); /* before close returned */
    CHECK_EQUAL(server.status, UNAVAILABLE);
    CHECK(server.local);
    WAIT_FOR(client.closed);
    CHECK_EQUAL(client.status, UNAVAILABLE);
    rpc_call_release(call);
    pair.server = NULL;
    pair_close(&pair);
}

static void finish_later(struct rpc_call *call, void *user, struct buffer *message) {
    (void)message;
    struct trace *trace = user;
    trace->call = rpc_call_retain(call);
    trace->messages++;
}
static const struct rpc_handler later_handler = {.on_message = finish_later};

static void count_outcome(void *user, const struct rpc_outcome *outcome, struct buffer *reply) {
    (void)reply;
    if (outcome->status == OK)
        ++*(atomic_int *)user;
    else
        --*(atomic_int *)user;
}

static void answer_soon(void *context) {
    struct trace *trace = context;
    clock_sleep_ms(300);
    struct rpc_piece piece = rpc_piece_of(bytes_of("late", 4));
    CHECK(rpc_call_reply(trace->call, &piece, 1) == OK);
    rpc_call_release(trace->call);
}

TEST(an_open_call_may_end_by_itself_within_the_grace_of_a_shutdown) {
    struct trace server = {0};
    const struct rpc_server_method methods[] = {
        {.method = who_method, .handler = &later_handler, .user = &server}};
    struct pair pair = pair_open(methods, 1);
    struct error error = {0};
    atomic_int replies = 0;
    struct rpc_piece piece = rpc_piece_of(bytes_of("q", 1));
    CHECK_OK(rpc_channel_unary(pair.channel, who_method.path, NULL, &piece, 1, count_outcome,
                               &replies, &error));
    WAIT_FOR(server.messages == 1);
    struct thread *thread;
    CHECK_OK(thread_start("late", answer_soon, &server, &thread, &error));
    rpc_server_close(pair.server, 10000);
    CHECK(thread_join(thread, UINT64_MAX) == OK);
    WAIT_FOR(replies == 1);
    pair.server = NULL;
    pair_close(&pair);
}

TEST(a_client_reconnects_after_the_server_restarts_on_its_port) {
    struct pair pair = standard_pair();
    struct error error = {0};
    CHECK_OK(call_once(pair.channel, &error));
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", rpc_server_port(pair.server));
    rpc_server_close(pair.server, 0);
    CHECK_STATUS(call_once(pair.channel, &error), UNAVAILABLE);
    struct rpc_server_options options =
        server_options(&pair.pki, standard_methods, COUNT_OF(standard_methods));
    const char *const addresses[] = {address};
    options.addresses = addresses;
    CHECK_OK(rpc_server_create(&options, &pair.server, &error));
    uint64_t until_ms = clock_monotonic_ms() + 20000;
    enum status status;
    while ((status = call_once(pair.channel, &error)) != OK && clock_monotonic_ms() < until_ms) {
        CHECK_EQUAL(status, UNAVAILABLE);
        clock_sleep_ms(50);
    }
    CHECK_EQUAL(status, OK);
    pair_close(&pair);
}

TEST(two_servers_do_not_share_a_port) {
    struct pair pair = standard_pair();
    struct error error = {0};
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", rpc_server_port(pair.server));
    const char *const addresses[] = {address};
    struct rpc_server_options options =
        server_options(&pair.pki, standard_methods, COUNT_OF(standard_methods));
    options.addresses = addresses;
    struct rpc_server *second = NULL;
    CHECK_STATUS(rpc_server_create(&options, &second, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, address);
    CHECK(!second);
    CHECK_OK(call_once(pair.channel, &error));
    pair_close(&pair);
}

TEST(a_server_with_a_certificate_that_cannot_work_does_not_start) {
    struct pki pki = pki_make();
    struct error error = {0};
    struct rpc_server *server = NULL;
    struct rpc_server_options options =
        server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    options.certificate.private_key = pki.site.private_key; /* another one's */
    CHECK_STATUS(rpc_server_create(&options, &server, &error), INVALID);
    CHECK_CONTAINS(error.message, "key");
    options.certificate.private_key = NULL;
    CHECK_STATUS(rpc_server_create(&options, &server, &error), INVALID);
    options = server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    options.certificate.client_ca =
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    CHECK_STATUS(rpc_server_create(&options, &server, &error), INVALID);
    options = server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    options.address_count = 0;
    CHECK_STATUS(rpc_server_create(&options, &server, &error), INVALID);
    CHECK(!server);
    pki_deinit(&pki);
}

/* ---- limits ---------------------------------------------------------------------------------- */

TEST(a_call_over_the_limit_is_told_to_come_later) {
    struct pki pki = pki_make();
    struct error error = {0};
    struct trace trace[2] = {0};
    struct rpc_server_options options =
        server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    options.max_calls = 2;
    struct pair pair = {.pki = pki};
    CHECK_OK(rpc_server_create(&options, &pair.server, &error));
    struct rpc_channel_options client = channel_options(&pki, rpc_server_port(pair.server));
    CHECK_OK(rpc_channel_open(&client, &pair.channel, &error));
    struct rpc_call *calls[2];
    for (int i = 0; i < 2; i++)
        CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &trace[i],
                                  &calls[i], &error));
    struct rpc_server_counts counts = {0};
    WAIT_FOR((rpc_server_count(pair.server, &counts), counts.calls_open == 2));
    CHECK_STATUS(call_once(pair.channel, &error), FULL);
    for (int i = 0; i < 2; i++) {
        rpc_call_cancel(calls[i], RPC_CANCELLED, NULL);
        rpc_call_release(calls[i]);
    }
    WAIT_FOR(call_once(pair.channel, &error) == OK);
    rpc_server_count(pair.server, &counts);
    CHECK(counts.calls_refused >= 1);
    pair_close(&pair);
}

static int connect_raw(uint16_t port) {
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0) return descriptor;
    close(descriptor);
    return -1;
}

TEST(connections_over_the_limit_are_dropped_and_the_server_serves_on) {
    struct pki pki = pki_make();
    struct error error = {0};
    struct rpc_server_options options =
        server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    options.max_connections = 5;
    /* not what ends them: the test's deadline is before it */
    options.handshake_timeout_ms = 3600 * 1000;
    struct pair pair = {.pki = pki};
    CHECK_OK(rpc_server_create(&options, &pair.server, &error));
    struct rpc_channel_options client = channel_options(&pki, rpc_server_port(pair.server));
    CHECK_OK(rpc_channel_open(&client, &pair.channel, &error));
    CHECK_OK(call_once(pair.channel, &error));
    int raw[20];
    for (size_t i = 0; i < COUNT_OF(raw); i++)
        CHECK((raw[i] = connect_raw(rpc_server_port(pair.server))) >= 0);
    struct rpc_server_counts counts = {0};
    WAIT_FOR((rpc_server_count(pair.server, &counts), counts.connections_dropped >= 16));
    WAIT_FOR((rpc_server_count(pair.server, &counts), counts.connections_open <= 5));
    for (size_t i = 0; i < COUNT_OF(raw); i++) close(raw[i]);
    WAIT_FOR(call_once(pair.channel, &error) == OK);
    pair_close(&pair);
}

/* ---- strangers ------------------------------------------------------------------------------- */

TEST(garbage_on_the_port_and_storms_of_resets_do_not_hurt_the_server) {
    struct pair pair = standard_pair();
    struct error error = {0};
    uint64_t noise = 88172645463325252u;
    for (int i = 0; i < 200; i++) {
        int descriptor = connect_raw(rpc_server_port(pair.server));
        CHECK(descriptor >= 0);
        if (i % 2) { /* some noise, now and then made to look like the start of TLS */
            uint8_t bytes[200];
            for (size_t j = 0; j < sizeof bytes; j++) {
                noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
                bytes[j] = (uint8_t)noise;
            }
            if (i % 4 == 1) memcpy(bytes, "\x16\x03\x01\x00\xc0\x01\x00\x00\xbc\x03\x03", 11);
            CHECK(send(descriptor, bytes, sizeof bytes, MSG_NOSIGNAL) > 0);
        }
        struct linger reset = {1, 0};
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(descriptor);
    }
    CHECK_OK(call_once(pair.channel, &error));
    /* never says a word, and does not hold up the shutdown */
    int silent = connect_raw(rpc_server_port(pair.server));
    CHECK_OK(call_once(pair.channel, &error));
    rpc_server_close(pair.server, 100);
    close(silent);
    pair.server = NULL;
    pair_close(&pair);
}

/* A handshake by OpenSSL itself; true if it succeeds with this version of TLS. */
static bool shake_hands(uint16_t port, int version) {
    int descriptor = connect_raw(port);
    CHECK(descriptor >= 0);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\x02h2", 3);
    SSL *session = SSL_new(context);
    SSL_set_fd(session, descriptor);
    bool shaken = SSL_connect(session) == 1;
    SSL_free(session);
    SSL_CTX_free(context);
    close(descriptor);
    return shaken;
}

TEST(tls_1_3_is_spoken_and_tls_1_2_is_not) {
    struct pair pair = standard_pair();
    signal(SIGPIPE, SIG_IGN);
    CHECK(shake_hands(rpc_server_port(pair.server), TLS1_3_VERSION));
    CHECK(!shake_hands(rpc_server_port(pair.server), TLS1_2_VERSION));
    pair_close(&pair);
}

TEST(an_expired_client_certificate_is_refused) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct identity old = identity_make("eu-1", "URI:atoll://demo/site/eu-1", &pair.pki.ca);
    X509_gmtime_adj(X509_getm_notBefore(old.certificate), -7200);
    X509_gmtime_adj(X509_getm_notAfter(old.certificate), -3600);
    identity_sign(&old, &pair.pki.ca);
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.chain = old.chain;
    options.private_key = old.private_key;
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "expired");
    rpc_channel_close(channel);
    identity_deinit(&old);
    pair_close(&pair);
}

/* A client in a process of its own, forked before the library is started; it waits to be told the
 * port. */
struct child {
    pid_t pid;
    int pipe[2];
};

static struct child child_start(const struct pki *pki,
                                void (*body)(const struct pki *pki, uint16_t port)) {
    struct child child;
    CHECK(pipe(child.pipe) == 0);
    child.pid = fork();
    CHECK(child.pid >= 0);
    if (child.pid == 0) {
        uint16_t port;
        CHECK(read(child.pipe[0], &port, sizeof port) == sizeof port);
        body(pki, port);
        _exit(0);
    }
    return child;
}

static void child_go(struct child *child, uint16_t port) {
    CHECK(write(child->pipe[1], &port, sizeof port) == sizeof port);
}

static int child_wait(struct child *child) {
    int status = -1;
    CHECK(waitpid(child->pid, &status, 0) == child->pid);
    close(child->pipe[0]);
    close(child->pipe[1]);
    return status;
}

static void stream_until_killed(const struct pki *pki, uint16_t port) {
    struct error error = {0};
    struct rpc_channel_options options = channel_options(pki, port);
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    struct trace trace = {.read_on = true};
    struct rpc_call *call;
    CHECK_OK(
        rpc_channel_call(channel, &stream_method, NULL, &trace_handler, &trace, &call, &error));
    for (;;) {
        struct rpc_piece piece = rpc_piece_of(bytes_of("still here", 10));
        enum status status = rpc_call_write(call, &piece, 1);
        CHECK(status == OK || status == FULL);
        clock_sleep_ms(5);
    }
}

static void lose_a_client(int with_signal, uint32_t keepalive_ms) {
    struct pki pki = pki_make();
    struct child child = child_start(&pki, stream_until_killed);
    struct trace trace = {.read_on = true};
    const struct rpc_server_method methods[] = {
        {.method = stream_method, .handler = &trace_handler, .user = &trace}};
    struct rpc_server_options options = server_options(&pki, methods, 1);
    options.keepalive_time_ms = options.keepalive_timeout_ms = keepalive_ms;
    struct error error = {0};
    struct rpc_server *server;
    CHECK_OK(rpc_server_create(&options, &server, &error));
    child_go(&child, rpc_server_port(server));
    WAIT_FOR(trace.messages >= 10);
    CHECK(kill(child.pid, with_signal) == 0);
    WAIT_FOR(trace.closed);
    CHECK_EQUAL(trace.status, UNAVAILABLE);
    CHECK_EQUAL(trace.half_closed, 0);
    kill(child.pid, SIGKILL);
    child_wait(&child);
    rpc_server_close(server, 0);
    pki_deinit(&pki);
}

TEST(a_client_killed_in_mid_stream_is_noticed) { lose_a_client(SIGKILL, 60000); }
TEST(a_client_frozen_in_mid_stream_is_noticed_by_keepalive) { lose_a_client(SIGSTOP, 1000); }

/* 64 MiB of zeros, which the client's library squeezes to 64 KiB. */
static void send_bomb(const struct pki *pki, uint16_t port) {
    grpc_init();
    grpc_ssl_pem_key_cert_pair key = {pki->site.private_key, pki->site.chain};
    grpc_channel_credentials *credentials =
        grpc_ssl_credentials_create_ex(pki->ca.chain, &key, NULL, NULL);
    static char name_key[] = GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, name[] = "atoll-coordinator";
    grpc_arg argument = {.type = GRPC_ARG_STRING, .key = name_key, .value.string = name};
    grpc_channel_args arguments = {1, &argument};
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    grpc_channel *channel = grpc_channel_create(address, credentials, &arguments);
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    grpc_call *call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
                                               grpc_slice_from_static_string(echo_method.path),
                                               NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    grpc_slice zeros = grpc_slice_malloc(64 << 20);
    memset(GRPC_SLICE_START_PTR(zeros), 0, 64 << 20);
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&zeros, 1);
    grpc_metadata metadata = {.key =
                                  grpc_slice_from_static_string("grpc-internal-encoding-request"),
                              .value = grpc_slice_from_static_string("gzip")};
    grpc_metadata_array initial, trailing;
    grpc_metadata_array_init(&initial);
    grpc_metadata_array_init(&trailing);
    grpc_status_code code = GRPC_STATUS_OK;
    grpc_slice details;
    grpc_op ops[4];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = 1;
    ops[0].data.send_initial_metadata.metadata = &metadata;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = message;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &initial;
    CHECK(grpc_call_start_batch(call, ops, 4, ops, NULL) == GRPC_CALL_OK);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[0].data.recv_status_on_client.trailing_metadata = &trailing;
    ops[0].data.recv_status_on_client.status = &code;
    ops[0].data.recv_status_on_client.status_details = &details;
    CHECK(grpc_call_start_batch(call, ops, 1, ops, NULL) == GRPC_CALL_OK);
    for (int i = 0; i < 2; i++)
        grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    CHECK_EQUAL(code, GRPC_STATUS_UNIMPLEMENTED);
}

static size_t peak_bytes(void) {
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    char line[256];
    unsigned long kilobytes = 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmHWM: %lu", &kilobytes) == 1) break;
    }
    fclose(file);
    return (size_t)kilobytes * 1024;
}

TEST(a_compressed_bomb_is_refused_without_being_inflated) {
    struct pki pki = pki_make();
    struct child child = child_start(&pki, send_bomb);
    struct rpc_server_options options =
        server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    struct error error = {0};
    struct rpc_server *server;
    CHECK_OK(rpc_server_create(&options, &server, &error));
    size_t before = peak_bytes();
    child_go(&child, rpc_server_port(server));
    CHECK_EQUAL(child_wait(&child), 0);
    CHECK(peak_bytes() - before < (size_t)16 << 20);
    rpc_server_close(server, 0);
    pki_deinit(&pki);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static void exhaust_then_call(const struct pki *pki, uint16_t port) {
    int raw[150];
    for (size_t i = 0; i < COUNT_OF(raw); i++) raw[i] = connect_raw(port);
    clock_sleep_ms(300);
    struct linger reset = {1, 0};
    for (size_t i = 0; i < COUNT_OF(raw); i++) {
        if (raw[i] < 0) continue;
        setsockopt(raw[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(raw[i]);
    }
    struct error error = {0};
    struct rpc_channel_options options = channel_options(pki, port);
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    struct buffer reply = {0};
    struct rpc_call_options patient = {.progress_timeout_ms = 1000};
    uint64_t until_ms = clock_monotonic_ms() + 30000;
    enum status status;
    while ((status = rpc_channel_unary_wait(channel, echo_method.path, &patient, bytes_of("x", 1),
                                            &reply, NULL, &error)) != OK &&
           clock_monotonic_ms() < until_ms)
        clock_sleep_ms(50);
    CHECK_OK(status);
    _exit(0);
}

TEST(who_comes_while_descriptors_are_short_is_served_once_they_are_not) {
    struct pki pki = pki_make();
    struct child child = child_start(&pki, exhaust_then_call);
    struct rlimit few = {64, 64};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    struct rpc_server_options options =
        server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    int taken[32]; /* by others in this process: fewer are left than connections are allowed */
    for (size_t i = 0; i < COUNT_OF(taken); i++) CHECK((taken[i] = dup(0)) >= 0);
    struct error error = {0};
    struct rpc_server *server;
    CHECK_OK(rpc_server_create(&options, &server, &error));
    child_go(&child, rpc_server_port(server));
    CHECK_EQUAL(child_wait(&child), 0);
    struct rpc_server_counts counts;
    rpc_server_count(server, &counts);
    CHECK(counts.calls_total >= 1);
    rpc_server_close(server, 1000);
    pki_deinit(&pki);
}

TEST(the_descriptor_limit_is_raised_to_the_hard_one) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 100;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    uint64_t now = 0;
    struct error error = {0};
    CHECK_OK(limits_raise_descriptors(&now, &error));
    CHECK_EQUAL(now, limit.rlim_max);
    uint64_t before = rpc_descriptors_open();
    int extra = dup(0);
    CHECK_EQUAL(rpc_descriptors_open(), before + 1);
    close(extra);
}

/* ---- certificates ---------------------------------------------------------------------------- */

TEST(a_rotated_certificate_is_shown_at_the_next_handshake_and_connections_stay) {
    struct pair pair = standard_pair();
    struct error error = {0};
    CHECK_OK(call_once(pair.channel, &error));
    struct identity next =
        identity_make("coordinator", "DNS:atoll-coordinator", &pair.pki.other_ca);
    struct rpc_server_certificate certificate = {next.chain, next.private_key,
                                                 pair.pki.other_ca.chain};

    struct rpc_server_certificate broken = certificate;
    broken.private_key = pair.pki.site.private_key;
    CHECK_STATUS(rpc_server_set_certificate(pair.server, &broken, &error), INVALID);
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error)); /* a refused one changed nothing */
    CHECK_OK(call_once(channel, &error));
    rpc_channel_close(channel);

    CHECK_OK(rpc_server_set_certificate(pair.server, &certificate, &error));
    CHECK_OK(call_once(pair.channel, &error)); /* the old connection lives */
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    /* who trusts only the old CA is not served any more */
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    rpc_channel_close(channel);
    options.root_ca = pair.pki.other_ca.chain;
    options.chain = pair.pki.stranger.chain; /* of the new CA, no stranger now */
    options.private_key = pair.pki.stranger.private_key;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_OK(call_once(channel, &error));
    rpc_channel_close(channel);
    identity_deinit(&next);
    pair_close(&pair);
}
