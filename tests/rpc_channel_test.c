#include "rpc/channel.h"

#include "tests/rpc_fixture.h"

static enum status call_once(struct rpc_channel *channel, struct error *error) {
    struct buffer reply = {0};
    struct rpc_call_options options = {.progress_timeout_ms = 15000};
    enum status status = rpc_channel_unary_wait(channel, echo_method.path, &options,
                                                bytes_of("x", 1), &reply, NULL, error);
    buffer_deinit(&reply);
    return status;
}

TEST(a_refused_connection_says_which_address_and_what_to_check) {
    struct pki pki = pki_make();
    struct error error = {0};
    struct rpc_channel_options options = channel_options(&pki, 1); /* nobody listens on port 1 */
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "127.0.0.1:1");
    CHECK_CONTAINS(error.message, "check the address");
    rpc_channel_close(channel);
    pki_deinit(&pki);
}

TEST(a_server_of_another_ca_is_refused_and_the_message_names_the_root_certificate) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.root_ca = pair.pki.other_ca.chain;
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "root certificate");
    rpc_channel_close(channel);
    pair_close(&pair);
}

TEST(a_server_with_another_name_is_refused) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.server_name = "atoll-impostor";
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "name");
    rpc_channel_close(channel);
    pair_close(&pair);
}

TEST(a_client_of_another_ca_is_refused_by_the_server_and_told_what_to_check) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.chain = pair.pki.stranger.chain;
    options.private_key = pair.pki.stranger.private_key;
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "certificate");
    CHECK_OK(call_once(pair.channel, &error)); /* the others go on */
    struct rpc_server_counts counts;
    rpc_server_count(pair.server, &counts);
    CHECK_EQUAL(counts.calls_total, 1); /* no call of the stranger's reached a handler */
    rpc_channel_close(channel);
    pair_close(&pair);
}

TEST(options_that_cannot_work_are_refused_when_the_channel_is_opened) {
    struct pki pki = pki_make();
    struct error error = {0};
    struct rpc_channel *channel = NULL;
    struct rpc_channel_options options = channel_options(&pki, 1);
    options.root_ca = "not PEM";
    CHECK_STATUS(rpc_channel_open(&options, &channel, &error), INVALID);
    options = channel_options(&pki, 1);
    options.private_key = NULL;
    CHECK_STATUS(rpc_channel_open(&options, &channel, &error), INVALID);
    options = channel_options(&pki, 1);
    options.connections = 17;
    CHECK_STATUS(rpc_channel_open(&options, &channel, &error), INVALID);
    options = channel_options(&pki, 1);
    options.address = NULL;
    CHECK_STATUS(rpc_channel_open(&options, &channel, &error), INVALID);
    options = channel_options(&pki, 1);
    options.private_key = pki.server.private_key; /* of another certificate */
    CHECK_STATUS(rpc_channel_open(&options, &channel, &error), INVALID);
    CHECK_CONTAINS(error.message, "key belongs");
    options = channel_options(&pki, 1);
    options.root_ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    CHECK_STATUS(rpc_channel_open(&options, &channel, &error), INVALID);
    CHECK(!channel);
    options.chain = options.private_key = NULL; /* then it is found at the first call */
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);
    CHECK_CONTAINS(error.message, "root certificate");
    rpc_channel_close(channel);
    pki_deinit(&pki);
}

TEST(closing_a_channel_ends_its_open_calls_and_takes_no_new_ones) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct trace trace[20] = {0};
    for (size_t i = 0; i < COUNT_OF(trace); i++) {
        struct rpc_call *call;
        trace[i].read_on = true;
        CHECK_OK(rpc_channel_call(pair.channel, &stream_method, NULL, &trace_handler, &trace[i],
                                  &call, &error));
        rpc_call_read(call);
        rpc_call_release(call);
    }
    rpc_channel_close(pair.channel);
    for (size_t i = 0; i < COUNT_OF(trace); i++) {
        CHECK_EQUAL(trace[i].closed, 1);
        CHECK_EQUAL(trace[i].status, CANCELLED);
        CHECK(trace[i].local);
    }
    rpc_channel_close(NULL);
    pair.channel = NULL;
    pair_close(&pair);
}

TEST(several_connections_are_really_several) {
    struct pair pair = standard_pair();
    struct error error = {0};
    struct rpc_channel_options options = channel_options(&pair.pki, rpc_server_port(pair.server));
    options.connections = 4;
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    for (int i = 0; i < 8; i++) CHECK_OK(call_once(channel, &error));
    struct rpc_call_options fifth = {.connection = 5};
    struct buffer reply = {0};
    CHECK_STATUS(rpc_channel_unary_wait(channel, echo_method.path, &fifth, bytes_of("x", 1), &reply,
                                        NULL, &error),
                 INVALID);
    struct rpc_server_counts counts;
    uint64_t until_ms = clock_monotonic_ms() + 5000;
    do {
        rpc_server_count(pair.server, &counts);
        clock_sleep_ms(10);
    } while (counts.connections_open != 4 && clock_monotonic_ms() < until_ms);
    CHECK_EQUAL(counts.connections_open, 4);
    rpc_channel_close(channel);
    pair_close(&pair);
}

TEST(a_call_that_may_wait_is_answered_once_the_server_is_there) {
    struct pki pki = pki_make();
    struct error error = {0};
    struct rpc_server_options server_settings =
        server_options(&pki, standard_methods, COUNT_OF(standard_methods));
    struct rpc_server *server; /* find a free port, then leave it */
    CHECK_OK(rpc_server_create(&server_settings, &server, &error));
    uint16_t port = rpc_server_port(server);
    rpc_server_close(server, 0);
    struct rpc_channel_options options = channel_options(&pki, port);
    struct rpc_channel *channel;
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    CHECK_STATUS(call_once(channel, &error), UNAVAILABLE);

    struct rpc_call_options impatient = {.progress_timeout_ms = 200, .wait_for_connection = true};
    struct buffer reply = {0};
    CHECK_STATUS(rpc_channel_unary_wait(channel, echo_method.path, &impatient, bytes_of("x", 1),
                                        &reply, NULL, &error),
                 TIMEOUT);

    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    const char *const addresses[] = {address};
    server_settings.addresses = addresses;
    CHECK_OK(rpc_server_create(&server_settings, &server, &error));
    struct rpc_call_options patient = {.progress_timeout_ms = 30000, .wait_for_connection = true};
    CHECK_OK(rpc_channel_unary_wait(channel, echo_method.path, &patient, bytes_of("x", 1), &reply,
                                    NULL, &error));
    buffer_deinit(&reply);
    rpc_channel_close(channel);
    rpc_server_close(server, 1000);
    pki_deinit(&pki);
}
