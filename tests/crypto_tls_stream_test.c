/* TLS by a shared secret: two ends of a socket pair, and ends that are something else. */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crypto/tls_stream.h"
#include "tests/test.h"

struct end {
    struct tls_context *context;
    struct tls_stream *stream;
    int descriptor;
};

static void pair(int out[2]) {
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, out), 0);
}

static struct end end_of(int descriptor, uint8_t key, bool is_server) {
    struct end end = {.descriptor = descriptor};
    struct error error = {0};
    uint8_t secret[TLS_SECRET_SIZE];
    memset(secret, key, sizeof secret);
    CHECK_OK(tls_context_create(secret, is_server, &end.context, &error));
    CHECK_OK(tls_stream_create(end.context, descriptor, &end.stream, &error));
    return end;
}

static void end_deinit(struct end *end) {
    tls_stream_destroy(end->stream);
    tls_context_destroy(end->context);
    close(end->descriptor);
}

/* What the two handshakes come to. */
static void shake(struct end *a, struct end *b, enum status *of_a, enum status *of_b) {
    bool done_a = false, done_b = false;
    *of_a = *of_b = OK;
    for (int i = 0; i < 20; i++) {
        if (*of_a == OK && !done_a) *of_a = tls_stream_handshake(a->stream, &done_a, NULL);
        if (*of_b == OK && !done_b) *of_b = tls_stream_handshake(b->stream, &done_b, NULL);
    }
    if (*of_a == OK && !done_a) *of_a = TIMEOUT;
    if (*of_b == OK && !done_b) *of_b = TIMEOUT;
}

TEST(two_ends_with_one_secret_hear_each_other) {
    int ends[2];
    enum status of_client, of_server;
    char said[] = "four words of text", heard[64];
    size_t size;
    struct error error = {0};
    (void)signal(SIGPIPE, SIG_IGN);
    pair(ends);
    struct end client = end_of(ends[0], 7, false), server = end_of(ends[1], 7, true);
    shake(&client, &server, &of_client, &of_server);
    CHECK_EQUAL(of_client, OK);
    CHECK_EQUAL(of_server, OK);
    CHECK_OK(tls_stream_read(server.stream, heard, sizeof heard, &size, &error));
    CHECK_EQUAL(size, 0);
    CHECK_OK(tls_stream_write(client.stream, said, sizeof said, &size, &error));
    CHECK_EQUAL(size, sizeof said);
    CHECK_OK(tls_stream_read(server.stream, heard, 4, &size, &error));
    CHECK_EQUAL(size, 4);
    CHECK(tls_stream_holds_bytes(server.stream));
    CHECK_OK(tls_stream_read(server.stream, heard + 4, sizeof heard - 4, &size, &error));
    CHECK(strcmp(heard, said) == 0);
    end_deinit(&client);
    CHECK_EQUAL(tls_stream_read(server.stream, heard, sizeof heard, &size, &error), UNAVAILABLE);
    end_deinit(&server);
}

TEST(ends_with_two_secrets_refuse_each_other) {
    int ends[2];
    enum status of_client, of_server;
    pair(ends);
    struct end client = end_of(ends[0], 7, false), server = end_of(ends[1], 8, true);
    shake(&client, &server, &of_client, &of_server);
    CHECK_EQUAL(of_server, REFUSED);
    CHECK_EQUAL(of_client, REFUSED);
    end_deinit(&client);
    end_deinit(&server);
}

TEST(garbage_is_refused_in_the_handshake_and_found_after_it) {
    int ends[2];
    enum status of_client, of_server;
    char garbage[256];
    size_t size;
    memset(garbage, 'x', sizeof garbage);
    pair(ends);
    struct end server = end_of(ends[1], 7, true);
    bool done;
    CHECK_EQUAL(write(ends[0], garbage, sizeof garbage), (ssize_t)sizeof garbage);
    CHECK_EQUAL(tls_stream_handshake(server.stream, &done, NULL), REFUSED);
    close(ends[0]);
    end_deinit(&server);
    pair(ends);
    struct end client = end_of(ends[0], 7, false);
    server = end_of(ends[1], 7, true);
    shake(&client, &server, &of_client, &of_server);
    CHECK_EQUAL(of_server, OK);
    /* a record of the right form, and not of this connection */
    char record[40] = {23, 3, 3, 0, 35};
    CHECK_EQUAL(write(ends[0], record, sizeof record), (ssize_t)sizeof record);
    CHECK_EQUAL(tls_stream_read(server.stream, garbage, sizeof garbage, &size, NULL), INVALID);
    end_deinit(&client);
    end_deinit(&server);
}

/* What one connection said, said again on another. */
TEST(what_was_said_before_cannot_be_said_again) {
    int ends[2], between[2];
    char recorded[4096];
    struct error error = {0};
    bool done;
    pair(ends);
    pair(between);
    struct end client = end_of(ends[0], 7, false), server = end_of(between[1], 7, true);
    CHECK_OK(tls_stream_handshake(client.stream, &done, NULL));
    ssize_t first = read(ends[1], recorded, sizeof recorded); /* its hello */
    CHECK(first > 0);
    CHECK_EQUAL(write(between[0], recorded, (size_t)first), first);
    CHECK_OK(tls_stream_handshake(server.stream, &done, NULL));
    char answer[4096];
    ssize_t size = read(between[0], answer, sizeof answer);
    CHECK_EQUAL(write(ends[1], answer, (size_t)size), size);
    CHECK_OK(tls_stream_handshake(client.stream, &done, NULL));
    CHECK(done);
    ssize_t second = read(ends[1], recorded + first, sizeof recorded - (size_t)first);
    CHECK(second > 0);
    end_deinit(&server);
    close(between[0]);
    pair(between);
    server = end_of(between[1], 7, true);
    CHECK_EQUAL(write(between[0], recorded, (size_t)(first + second)), first + second);
    enum status status = OK;
    for (int i = 0; i < 5 && status == OK && !done; i++)
        status = tls_stream_handshake(server.stream, &done, NULL);
    done = false;
    for (int i = 0; i < 5 && status == OK && !done; i++)
        status = tls_stream_handshake(server.stream, &done, NULL);
    CHECK_EQUAL(status, REFUSED);
    end_deinit(&server);
    end_deinit(&client);
    close(between[0]);
    close(ends[1]);
}
