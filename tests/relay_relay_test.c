/* Relays and a node's gateway, with real ranks on both sides of them, and with ends that are
 * something else: garbage, another token, frames that cannot be, silence. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/gateway.h"
#include "relay/relay.h"
#include "relay/relay_link.h"
#include "relay/relay_socket.h"
#include "tests/attach_fixture.h"

enum { HOSTS = 3 };

struct host { /* another one, with a relay */
    pthread_t thread;
    struct relay_options options;
    char *directory, *socket, *token, *to;
    bool over;
    enum status status;
    struct error error;
};

struct place { /* the node, its gateway and relays */
    struct node *node;
    struct gateway *gateway;
    uint16_t port;
    struct host hosts[HOSTS];
    size_t host_count;
};

static const uint8_t secret[TLS_SECRET_SIZE] = {1, 2, 3};

static void *live_at_host(void *context) {
    struct host *host = context;
    host->status = relay_run(&host->options, &host->over, &host->error);
    return NULL;
}

static void start_host(struct place *place) {
    struct host *host = &place->hosts[place->host_count];
    struct error error = {0};
    host->directory = xformat("%s/host%zu", test_directory(), place->host_count++);
    CHECK_OK(file_make_directory(host->directory, 0700, &error));
    host->socket = file_join(host->directory, "attach.sock");
    host->token = file_join(host->directory, "attach.token");
    host->to = xformat("127.0.0.1:%u", place->port);
    host->options =
        (struct relay_options){.to = host->to, .socket = host->socket, .token_file = host->token};
    memcpy(host->options.secret, secret, sizeof secret);
    CHECK_EQUAL(pthread_create(&host->thread, NULL, live_at_host, host), 0);
    while (!file_exists(host->socket)) clock_sleep_ms(1); /* once it has reached the node */
}

static struct place *place_start_waiting(size_t hosts, uint64_t wait_ms) {
    struct place *place = xcalloc(1, sizeof *place);
    struct error error = {0};
    (void)signal(SIGPIPE, SIG_IGN);
    place->node = node_start_waiting(wait_ms);
    char *token = file_join(place->node->directory, "attach.token");
    struct gateway_options options = {.address = "127.0.0.1:0",
                                      .socket = place->node->socket,
                                      .token_file = token,
                                      .tensors = tensors,
                                      .tensor_count = COUNT_OF(tensors),
                                      .fragments = 2,
                                      .range = fragment_at};
    memcpy(options.secret, secret, sizeof secret);
    CHECK_OK(gateway_start(&options, &place->gateway, &place->port, &error));
    free(token);
    while (place->host_count < hosts) start_host(place);
    return place;
}

static struct place *place_start(size_t hosts) { return place_start_waiting(hosts, 0); }

/* The run is over, so relays end too. */
static void place_stop(struct place *place) {
    border_tell(place->node->border, true, 30, 1);
    gateway_stop(place->gateway);
    for (size_t i = 0; i < place->host_count; i++) {
        struct host *host = &place->hosts[i];
        pthread_join(host->thread, NULL);
        CHECK_EQUAL(host->status, OK);
        CHECK(host->over);
        free(host->directory);
        free(host->socket);
        free(host->token);
        free(host->to);
    }
    node_stop(place->node);
    free(place);
}

/* ---- what ranks and the node do together, over relays ---------------------------------------- */

/* Rank i is at host where[i] - 1; 0: at the node's. */
static void exchange_over(enum split split, uint32_t world, const size_t *where, size_t hosts) {
    struct place *place = place_start(hosts);
    const char *directories[RANKS] = {0};
    for (uint32_t i = 0; i < world; i++)
        if (where[i] > 0) directories[i] = place->hosts[where[i] - 1].directory;
    exchange_at(place->node, split, world, directories);
    place_stop(place);
}

TEST(one_rank_at_a_relay_publishes_and_is_corrected) {
    exchange_over(SPLIT_NONE, 1, (const size_t[]){1}, 1);
}
TEST(replicas_on_two_hosts_publish_what_one_rank_would) {
    exchange_over(SPLIT_NONE, 2, (const size_t[]){0, 1}, 1);
}
TEST(replicas_at_one_relay_get_each_value_once) {
    exchange_over(SPLIT_NONE, 2, (const size_t[]){1, 1}, 1);
}
TEST(rows_on_three_hosts_publish_what_one_rank_would) {
    exchange_over(SPLIT_ROWS, 3, (const size_t[]){0, 1, 2}, 2);
}
TEST(columns_on_three_hosts_publish_what_one_rank_would) {
    exchange_over(SPLIT_COLUMNS, 3, (const size_t[]){1, 2, 1}, 2);
}
TEST(flat_ranges_on_three_hosts_publish_what_one_rank_would) {
    exchange_over(SPLIT_FLAT, 3, (const size_t[]){1, 2, 3}, 3);
}

TEST(a_rank_at_a_relay_that_ends_ends_the_session_and_the_next_begins_with_the_model) {
    struct place *place = place_start(1);
    for (int life = 0; life < 3; life++) {
        struct member member = {
            .node = place->node, .world = 1, .directory = place->hosts[0].directory};
        start(&member);
        poll_until(place->node, trains, NULL);
        atomic_store(&member.stop, true);
        poll_until(place->node, has_ended, NULL);
        join(&member);
        CHECK_EQUAL(member.result, ATOLL_OK);
        CHECK_EQUAL(member.matrix[8], 8 + (float)atomic_load(&member.steps));
    }
    place_stop(place);
}

/* ---- a publication that takes a while -------------------------------------------------------- */

enum { MANY = 2000000 };
static const struct coverage_tensor large[] = {
    {.name = "large", .count = MANY, .dimensions = 1, .shape = {MANY}}};

static void large_at(void *context, uint32_t fragment, uint64_t *start, uint64_t *count) {
    (void)context;
    (void)fragment;
    *start = 0;
    *count = MANY;
}

static uint64_t load_large(void *context, uint32_t fragment, float *out, bool *add) {
    (void)context;
    (void)fragment;
    *add = false;
    for (size_t i = 0; i < MANY; i++) out[i] = 1;
    return 7;
}

static void *publish_and_leave(void *context) {
    struct member *member = context;
    struct atoll_options options = {
        .directory = member->directory, .world = 1, .timeout_ms = 20000};
    struct atoll_piece piece = {.name = "large",
                                .dimensions = 1,
                                .shape = {MANY},
                                .extent = {MANY},
                                .data = xcalloc(MANY, sizeof(float))};
    atoll_site *site = NULL;
    int result = atoll_attach(&options, &site);
    if (result == ATOLL_OK) result = atoll_declare(site, &piece, 1);
    while (result == ATOLL_OK && (result = atoll_ready(site)) == ATOLL_LOAD)
        result = atoll_applied(site);
    while (result == ATOLL_OK) {
        clock_sleep_ms(1);
        result = atoll_step(site, 10, 2.5);
    }
    member->result = result == ATOLL_PUBLISH ? atoll_published(site) : result;
    atoll_detach(site);
    free(piece.data);
    return NULL;
}

/* As one on the node's host: what it copied out before it left counts. */
TEST(a_rank_at_a_relay_that_publishes_and_leaves_has_published) {
    struct node *node = xcalloc(1, sizeof *node);
    struct place *place = xcalloc(1, sizeof *place);
    place->node = node;
    struct error error = {0};
    uint64_t at;
    (void)signal(SIGPIPE, SIG_IGN);
    node->directory = xstrdup(test_directory());
    node->socket = file_join(node->directory, "attach.sock");
    char *token = file_join(node->directory, "attach.token");
    struct border_options options = options_of(node, node->socket, token);
    options.tensors = large;
    options.tensor_count = options.fragments = 1;
    options.parameters = MANY;
    options.timeout_ms = 20000;
    options.range = large_at;
    options.load = load_large;
    CHECK_OK(border_open(&options, &node->border, &error));
    struct gateway_options gate = {.address = "127.0.0.1:0",
                                   .socket = node->socket,
                                   .token_file = token,
                                   .tensors = large,
                                   .tensor_count = 1,
                                   .fragments = 1,
                                   .range = large_at};
    memcpy(gate.secret, secret, sizeof secret);
    CHECK_OK(gateway_start(&gate, &place->gateway, &place->port, &error));
    free(token);
    start_host(place);
    struct member member = {.node = node, .directory = place->hosts[0].directory};
    CHECK_EQUAL(pthread_create(&member.thread, NULL, publish_and_leave, &member), 0);
    poll_until(node, trains, NULL);
    border_publish(node->border, 0);
    poll_until(node, has_ended, NULL);
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_OK);
    CHECK(border_is_done(node->border, &at));
    for (size_t i = 0; i < MANY; i++) CHECK_EQUAL(border_published(node->border)[i], 1);
    place_stop(place);
}

TEST(what_the_node_refuses_is_told_to_a_rank_at_a_relay) {
    struct place *place = place_start(1);
    struct member member = {.node = place->node,
                            .world = 1,
                            .misdeclares = true,
                            .directory = place->hosts[0].directory};
    start(&member);
    poll_until(place->node, has_said, "tensor \"matrix\": all ranks together declare 25 of its 30");
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_REFUSED);
    CHECK(strstr(member.message, "25 of its 30") != NULL);
    place_stop(place);
}

static void check_serves(struct place *place) {
    struct member member = {
        .node = place->node, .world = 1, .generation = 99, .directory = place->hosts[0].directory};
    start(&member);
    poll_until(place->node, trains, NULL);
    atomic_store(&member.stop, true);
    poll_until(place->node, has_ended, NULL);
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_OK);
}

/* ---- a decision that does not come ----------------------------------------------------------- */

/* Two ranks, of which one never comes so far as to acknowledge an order, so nothing is decided; the
 * other waits at the order's step. */
struct undecided {
    struct place *place;
    struct member stands, waits;
    uint64_t at;
};

static bool waits_at_order(struct node *node, void *context) {
    struct undecided *undecided = context;
    uint64_t at, steps = atomic_load(&undecided->waits.steps);
    (void)border_is_done(node->border, &at);
    if (steps + 1 != at) return false;
    for (int i = 0; i < 30; i++) border_poll(node->border, 1);
    (void)border_is_done(node->border, &undecided->at);
    return undecided->at == at && atomic_load(&undecided->waits.steps) == steps;
}

/* relayed: of the two, the one that waits. */
static void begin_undecided(struct undecided *undecided, uint64_t wait_ms, bool relayed) {
    struct place *place = place_start_waiting(1, wait_ms);
    const char *host = place->hosts[0].directory;
    *undecided = (struct undecided){.place = place,
                                    .stands = {.node = place->node, .world = 2, .stands = true},
                                    .waits = {.node = place->node, .rank = 1, .world = 2}};
    undecided->waits.paced = true;
    if (relayed)
        undecided->waits.directory = host;
    else
        undecided->stands.directory = host;
    start(&undecided->stands);
    start(&undecided->waits);
    poll_until(place->node, trains, NULL);
    border_publish(place->node->border, 0);
}

static void end_undecided(struct undecided *undecided) {
    struct node *node = undecided->place->node;
    struct error error = {0};
    atomic_store(&undecided->stands.stop, true);
    join(&undecided->stands);
    if (!node->border) { /* its next life */
        char *token = file_join(node->directory, "attach.token");
        struct border_options options = options_of(node, node->socket, token);
        CHECK_OK(border_open(&options, &node->border, &error));
        free(token);
    }
    check_serves(undecided->place);
    place_stop(undecided->place);
}

TEST(a_rank_waits_for_a_decision_no_longer_than_it_is_told_and_ends_the_session) {
    struct undecided undecided;
    uint64_t at;
    begin_undecided(&undecided, 1000, true);
    poll_until(undecided.place->node, has_said, "rank 1 is gone");
    CHECK(!border_is_done(undecided.place->node->border, &at));
    join(&undecided.waits);
    CHECK_EQUAL(undecided.waits.result, ATOLL_REFUSED);
    CHECK(strstr(undecided.waits.message, "the node did not say within 1 s") != NULL);
    CHECK(strstr(undecided.waits.message, "start the job again, from its checkpoint") != NULL);
    CHECK_EQUAL(undecided.waits.steps, at); /* it did not go beyond */
    end_undecided(&undecided);
}

TEST(a_rank_on_another_host_whose_node_ends_before_its_decision_does_not_guess) {
    struct undecided undecided;
    begin_undecided(&undecided, 30000, true);
    poll_until(undecided.place->node, waits_at_order, &undecided);
    border_close(undecided.place->node->border);
    undecided.place->node->border = NULL;
    join(&undecided.waits);
    CHECK_EQUAL(undecided.waits.result, ATOLL_REFUSED);
    CHECK(strstr(undecided.waits.message, "the relay is gone, or its node, and did not say"));
    CHECK_EQUAL(undecided.waits.steps, undecided.at);
    end_undecided(&undecided);
}

/* What the node decided stands in the memory that this rank maps, and it decided nothing. */
TEST(a_rank_on_the_nodes_host_knows_that_what_its_node_did_not_write_was_not_decided) {
    struct undecided undecided;
    begin_undecided(&undecided, 30000, false);
    poll_until(undecided.place->node, waits_at_order, &undecided);
    border_close(undecided.place->node->border);
    undecided.place->node->border = NULL;
    join(&undecided.waits);
    CHECK_EQUAL(undecided.waits.result, ATOLL_AWAY);
    CHECK_EQUAL(undecided.waits.steps, undecided.at);
    CHECK_EQUAL(undecided.waits.matrix[8], 8 + (float)undecided.at);
    end_undecided(&undecided);
}

/* ---- ends that are something else ------------------------------------------------------------ */

static int knock(const struct place *place) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(place->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQUAL(connect(descriptor, (struct sockaddr *)&at, sizeof at), 0);
    return descriptor;
}

/* The gateway ends it (after eight seconds). */
static void check_is_ended(int descriptor) {
    char bytes[4096];
    uint64_t from = clock_monotonic_ms();
    struct pollfd wait = {.fd = descriptor, .events = POLLIN};
    ssize_t got = 1;
    while (got > 0 && clock_monotonic_ms() - from < 30000)
        if (poll(&wait, 1, 1000) == 1) got = recv(descriptor, bytes, sizeof bytes, 0);
    CHECK(got <= 0);
    close(descriptor);
}

TEST(strangers_that_say_garbage_or_nothing_or_half_a_hello_are_ended_and_occupy_nothing) {
    struct place *place = place_start(1);
    char garbage[2000];
    memset(garbage, 0xA5, sizeof garbage);
    int talker = knock(place), silent = knock(place), slow = knock(place), many[64];
    CHECK(send(talker, garbage, sizeof garbage, MSG_NOSIGNAL) > 0);
    CHECK(send(slow, "\x16\x03\x01\x02", 4, MSG_NOSIGNAL) == 4); /* a hello's first bytes */
    for (size_t i = 0; i < COUNT_OF(many); i++) many[i] = knock(place);
    check_is_ended(talker);
    check_serves(place); /* a relay that is there already */
    check_is_ended(silent);
    check_is_ended(slow);
    for (size_t i = 0; i < COUNT_OF(many); i++) close(many[i]);
    start_host(place); /* and one that comes now */
    check_serves(place);
    place_stop(place);
}

static struct relay_link *link_with(const struct place *place, uint8_t first,
                                    struct tls_context **context) {
    struct error error = {0};
    uint8_t key[TLS_SECRET_SIZE];
    struct relay_link *link;
    int descriptor;
    char *to = xformat("127.0.0.1:%u", place->port);
    memcpy(key, secret, sizeof key);
    key[0] = first;
    CHECK_OK(tls_context_create(key, false, context, &error));
    CHECK_OK(relay_socket_connect(to, 5000, &descriptor, &error));
    CHECK_OK(relay_link_create(*context, descriptor, &link, &error));
    free(to);
    return link;
}

/* Works until it is ended, or for ten seconds. `said`: the gateway's last words. */
static enum status work_until_ended(struct relay_link *link, char said[static WORDS]) {
    uint64_t until = clock_monotonic_ms() + 10000;
    enum status status = OK;
    struct relay_frame frame;
    bool there;
    while (status == OK && clock_monotonic_ms() < until) {
        status = relay_link_work(link, NULL);
        while (relay_link_next(link, &frame, &there, NULL) == OK && there) {
            if (frame.type == FRAME_WRONG)
                snprintf(said, WORDS, "%.*s", (int)frame.size, (const char *)frame.data);
            relay_link_taken(link);
        }
        clock_sleep_ms(1);
    }
    return status;
}

TEST(a_relay_with_another_token_is_refused) {
    struct place *place = place_start(1);
    struct tls_context *context;
    char said[WORDS] = "";
    struct relay_link *link = link_with(place, 77, &context);
    CHECK_EQUAL(work_until_ended(link, said), REFUSED);
    relay_link_destroy(link);
    tls_context_destroy(context);
    check_serves(place);
    place_stop(place);
}

struct wrong {
    enum frame_type type;
    size_t size;
    const char *said;
};

TEST(frames_that_cannot_be_end_their_relay_with_a_word_and_nothing_else) {
    static const struct wrong wrongs[] = {
        {FRAME_DATA, 64, "a frame of type"},
        {(enum frame_type)9999, 0, "a frame of type"},
        {FRAME_REPORT, 3, "a report of 3 bytes"},
        {FRAME_PUBLISHED, 3, "a publication of 3 bytes"},
        {FRAME_HAS, 0, "an answer of 0 bytes"},
        {FRAME_PING, 99, "a ping of 99 bytes"},
        {FRAME_MESSAGE, 5, "a channel begins with 5 bytes"},
        {FRAME_MESSAGE, sizeof(struct wire_attach), "a channel begins with something else"}};
    struct place *place = place_start(1);
    uint8_t bytes[256];
    memset(bytes, 0xEE, sizeof bytes);
    struct frame_hello hello = {RELAY_MAGIC, RELAY_VERSION, WIRE_BORDER_VERSION};
    for (size_t i = 0; i < COUNT_OF(wrongs); i++) {
        struct tls_context *context;
        char said[WORDS] = "";
        struct relay_link *link = link_with(place, secret[0], &context);
        relay_link_send(link, FRAME_HELLO, 0, &hello, sizeof hello, NULL, 0);
        relay_link_send(link, wrongs[i].type, 1, bytes, wrongs[i].size, NULL, 0);
        CHECK(work_until_ended(link, said) != OK);
        if (!strstr(said, wrongs[i].said)) test_failed(__FILE__, __LINE__, "it said: %s", said);
        relay_link_destroy(link);
        tls_context_destroy(context);
    }
    check_serves(place);
    place_stop(place);
}

TEST(a_relay_of_another_version_is_told_so) {
    struct place *place = place_start(1);
    struct frame_hello hello = {RELAY_MAGIC, RELAY_VERSION + 1, WIRE_BORDER_VERSION};
    struct tls_context *context;
    char said[WORDS] = "";
    struct relay_link *link = link_with(place, secret[0], &context);
    relay_link_send(link, FRAME_HELLO, 0, &hello, sizeof hello, NULL, 0);
    CHECK(work_until_ended(link, said) != OK);
    if (!strstr(said, "install the same Atoll on both hosts"))
        test_failed(__FILE__, __LINE__, "it said: %s", said);
    relay_link_destroy(link);
    tls_context_destroy(context);
    place_stop(place);
}

/* A length beyond the limit, in the stream's own bytes. */
TEST(a_frame_that_is_too_long_ends_its_relay) {
    struct place *place = place_start(1);
    struct error error = {0};
    struct tls_context *context;
    struct tls_stream *stream;
    int descriptor;
    bool done = false;
    char *to = xformat("127.0.0.1:%u", place->port);
    CHECK_OK(tls_context_create(secret, false, &context, &error));
    CHECK_OK(relay_socket_connect(to, 5000, &descriptor, &error));
    CHECK_OK(tls_stream_create(context, descriptor, &stream, &error));
    while (!done) CHECK_OK(tls_stream_handshake(stream, &done, &error));
    struct frame_head head = {FRAME_HELLO, 0, UINT32_MAX};
    size_t taken;
    CHECK_OK(tls_stream_write(stream, &head, sizeof head, &taken, &error));
    check_is_ended(dup(descriptor));
    tls_stream_destroy(stream);
    tls_context_destroy(context);
    close(descriptor);
    free(to);
    check_serves(place);
    place_stop(place);
}

/* What it would be answered waits on its own side, not in the node's memory. */
TEST(a_relay_that_asks_and_does_not_read_is_not_heard_any_more) {
    struct place *place = place_start(1);
    struct frame_hello hello = {RELAY_MAGIC, RELAY_VERSION, WIRE_BORDER_VERSION};
    struct frame_ping ping = {0};
    struct tls_context *context;
    enum { PINGS = 64 * 1024 * 1024 / (sizeof(struct frame_head) + sizeof(struct frame_ping)) };
    struct relay_link *link = link_with(place, secret[0], &context);
    relay_link_send(link, FRAME_HELLO, 0, &hello, sizeof hello, NULL, 0);
    for (size_t i = 0; i < PINGS; i++)
        relay_link_send(link, FRAME_PING, 0, &ping, sizeof ping, NULL, 0);
    size_t before = relay_link_waiting(link), after = 0;
    uint64_t until = clock_monotonic_ms() + 30000, since = clock_monotonic_ms();
    while (clock_monotonic_ms() - since < 1000 && clock_monotonic_ms() < until) {
        CHECK_EQUAL(relay_link_work(link, NULL), OK);
        if (relay_link_waiting(link) != after) since = clock_monotonic_ms();
        after = relay_link_waiting(link);
        clock_sleep_ms(1);
    }
    CHECK(after > before / 8 && after < before);
    check_serves(place);
    relay_link_destroy(link);
    tls_context_destroy(context);
    place_stop(place);
}

/* The last words of an end that is gone, to one that itself has something to send. */
TEST(what_was_said_before_a_connection_ended_is_heard_also_where_an_answer_cannot_be_sent) {
    struct error error = {0};
    struct tls_context *contexts[2];
    struct relay_link *links[2];
    struct relay_frame frame;
    int pair[2];
    bool there = false;
    (void)signal(SIGPIPE, SIG_IGN);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(tls_context_create(secret, i == 1, &contexts[i], &error));
        CHECK_OK(relay_link_create(contexts[i], pair[i], &links[i], &error));
    }
    for (int i = 0; i < 10; i++) CHECK_OK(relay_link_work(links[i % 2], &error));
    CHECK(relay_link_is_secret(links[0]) && relay_link_is_secret(links[1]));
    relay_link_send(links[1], FRAME_DECISION, 0, "12345678", 8, NULL, 0);
    CHECK_OK(relay_link_work(links[1], &error));
    relay_link_destroy(links[1]);
    relay_link_send(links[0], FRAME_REPORT, 1, "87654321", 8, NULL, 0);
    CHECK_EQUAL(relay_link_work(links[0], NULL), UNAVAILABLE);
    CHECK_OK(relay_link_next(links[0], &frame, &there, &error));
    CHECK(there && frame.type == FRAME_DECISION && frame.size == 8);
    relay_link_destroy(links[0]);
    for (int i = 0; i < 2; i++) tls_context_destroy(contexts[i]);
}
