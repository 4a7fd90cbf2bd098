/* The border and libatoll, one against the other: ranks in threads, the node's part in the test's
 * own. And who does not keep to the protocol. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/attach_fixture.h"

static void exchange(enum split split, uint32_t world) {
    struct node *node = node_start();
    exchange_at(node, split, world, NULL);
    node_stop(node);
}

TEST(one_rank_publishes_and_is_corrected) { exchange(SPLIT_NONE, 1); }
TEST(replicas_publish_what_one_rank_would) { exchange(SPLIT_NONE, 2); }
TEST(rows_on_three_ranks_publish_what_one_rank_would) { exchange(SPLIT_ROWS, 3); }
TEST(columns_on_three_ranks_publish_what_one_rank_would) { exchange(SPLIT_COLUMNS, 3); }
TEST(flat_ranges_on_three_ranks_publish_what_one_rank_would) { exchange(SPLIT_FLAT, 3); }

TEST(a_rank_that_dies_ends_the_session_and_a_new_one_begins_with_the_model) {
    struct node *node = node_start();
    for (int life = 0; life < 3; life++) {
        struct member member = {.node = node, .world = 1};
        start(&member);
        poll_until(node, trains, NULL);
        atomic_store(&member.stop, true);
        poll_until(node, has_ended, NULL);
        join(&member);
        CHECK_EQUAL(member.matrix[8], 8 + (float)atomic_load(&member.steps));
    }
    node_stop(node);
}

TEST(the_end_of_the_node_is_no_error_of_the_trainer) {
    struct node *node = node_start();
    struct member member = {.node = node, .world = 1};
    start(&member);
    poll_until(node, trains, NULL);
    border_close(node->border);
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_AWAY);
    node->border = NULL;
    node_stop(node);
}

TEST(a_job_that_is_not_attached_when_the_run_ends_learns_it_where_there_is_no_node) {
    struct node *node = node_start();
    struct member member = {.node = node, .world = 1};
    struct atoll_options options = {.directory = node->directory, .world = 1};
    atoll_site *site = NULL;
    border_tell(node->border, true, 30, 1);
    border_close(node->border);
    CHECK_EQUAL(atoll_attach(&options, &site), ATOLL_REFUSED);
    CHECK(strcmp(atoll_message(site), "the run is over") == 0);
    CHECK_EQUAL(atoll_stopping(site), 1);
    atoll_detach(site);
    node->border = NULL;
    node_stop(node);
    node = node_start(); /* resumed */
    member.node = node;
    start(&member);
    poll_until(node, trains, NULL);
    atomic_store(&member.stop, true);
    poll_until(node, has_ended, NULL);
    join(&member);
    node_stop(node);
}

TEST(a_higher_generation_replaces_the_one_that_trains_and_a_lower_one_is_refused) {
    struct node *node = node_start();
    struct member old = {.node = node, .world = 1, .generation = 4},
                  late = {.node = node, .world = 1, .generation = 3},
                  again = {.node = node, .world = 1, .generation = 4},
                  young = {.node = node, .world = 1, .generation = 5};
    start(&old);
    poll_until(node, trains, NULL);
    start(&late);
    poll_until(node, has_said, "generation 3 is over: generation 4 is attached");
    start(&again);
    poll_until(node, has_said, "rank 0 of generation 4 is attached already");
    CHECK_EQUAL(border_session(node->border), 1);
    start(&young);
    poll_until(node, has_said, "generation 5 has attached in place of generation 4");
    poll_until(node, trains, NULL);
    CHECK_EQUAL(border_session(node->border), 2);
    atomic_store(&young.stop, true);
    poll_until(node, has_ended, NULL);
    join(&old);
    join(&late);
    join(&again);
    join(&young);
    CHECK_EQUAL(old.result, ATOLL_REFUSED);
    CHECK(strstr(old.message, "generation 5") != NULL);
    CHECK_EQUAL(late.result, ATOLL_REFUSED);
    CHECK_EQUAL(young.result, ATOLL_OK);
    node_stop(node);
}

/* ---- who does not keep to it ----------------------------------------------------------------- */

TEST(what_does_not_cover_the_model_is_refused_and_the_rank_told_why) {
    struct node *node = node_start();
    struct member member = {.node = node, .world = 1, .misdeclares = true};
    start(&member);
    poll_until(node, has_said, "tensor \"matrix\": all ranks together declare 25 of its 30");
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_REFUSED);
    CHECK(strstr(member.message, "25 of its 30") != NULL);
    node_stop(node);
}

TEST(a_rank_that_is_missing_is_named_to_those_that_wait_for_it) {
    struct node *node = node_start();
    struct member member = {.node = node, .world = 3};
    start(&member);
    poll_until(node, has_said, "rank 1 has not attached, rank 2 has not attached");
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_REFUSED);
    CHECK(strstr(member.message, "rank 2 has not attached") != NULL);
    node_stop(node);
}

static int connect_to(const struct node *node) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", node->socket);
    CHECK_EQUAL(connect(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    return descriptor;
}

static void tell(int descriptor, const void *data, size_t size) {
    CHECK_EQUAL(send(descriptor, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void check_still_serves(struct node *node) {
    struct member member = {.node = node, .world = 1, .generation = 99};
    start(&member);
    poll_until(node, trains, NULL);
    atomic_store(&member.stop, true);
    poll_until(node, has_ended, NULL);
    join(&member);
    CHECK_EQUAL(member.result, ATOLL_OK);
}

TEST(a_rank_that_goes_on_without_what_it_was_told_is_named_and_ends_its_session) {
    struct node *node = node_start();
    struct member member = {.node = node, .world = 1, .ignores = true};
    start(&member);
    poll_until(node, trains, NULL);
    border_publish(node->border, 0);
    poll_until(node, has_said, "rank 0 did not carry out what was ordered after step");
    atomic_store(&member.stop, true);
    join(&member);
    check_still_serves(node);
    node_stop(node);
}

TEST(garbage_silence_and_long_messages_end_one_connection_and_nothing_else) {
    struct node *node = node_start();
    uint8_t garbage[WIRE_PACKET_LIMIT + 1];
    memset(garbage, 0xA5, sizeof garbage);
    const size_t sizes[] = {1, 3, 4, 79, sizeof(struct wire_attach), 4096, sizeof garbage};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        int descriptor = connect_to(node);
        node->said[0] = 0;
        tell(descriptor, garbage, sizes[i]);
        poll_until(node, has_said, "");
        while (!*node->said) border_poll(node->border, 1);
        close(descriptor);
    }
    int silent = connect_to(node);
    poll_until(node, has_said, "said nothing");
    close(silent);
    check_still_serves(node);
    node_stop(node);
}

static struct wire_attach hello_of(const struct node *node) {
    struct wire_attach hello = {.type = WIRE_ATTACH, .version = WIRE_BORDER_VERSION, .world = 1};
    struct buffer token = {0};
    struct error error = {0};
    char *path = file_join(node->directory, "attach.token");
    CHECK_OK(file_read(path, WIRE_TOKEN_SIZE, &token, &error));
    memcpy(hello.token, token.data, WIRE_TOKEN_SIZE);
    buffer_deinit(&token);
    free(path);
    return hello;
}

TEST(a_wrong_token_a_wrong_version_and_a_rank_that_is_none_are_refused) {
    struct node *node = node_start();
    struct wire_attach right = hello_of(node), wrong = right;
    struct stat token;
    char *path = file_join(node->directory, "attach.token");
    CHECK_EQUAL(stat(path, &token), 0);
    CHECK_EQUAL(token.st_mode & 0777, 0600);
    free(path);
    wrong.token[63] ^= 1;
    int descriptors[4] = {connect_to(node), connect_to(node), connect_to(node), connect_to(node)};
    tell(descriptors[0], &wrong, sizeof wrong);
    poll_until(node, has_said, "wrong token");
    wrong = right;
    wrong.version++;
    tell(descriptors[1], &wrong, sizeof wrong);
    poll_until(node, has_said, "version");
    wrong = right;
    wrong.rank = 1;
    tell(descriptors[2], &wrong, sizeof wrong);
    poll_until(node, has_said, "rank 1 of 1: there is no such rank");
    wrong.rank = 0;
    wrong.world = UINT32_MAX;
    node->said[0] = 0;
    tell(descriptors[3], &wrong, sizeof wrong);
    poll_until(node, has_said, "there is no such rank");
    for (size_t i = 0; i < 4; i++) close(descriptors[i]);
    check_still_serves(node);
    node_stop(node);
}

TEST(a_rank_that_is_none_does_not_reach_beyond_the_ranks_of_the_session_that_is_there) {
    struct node *node = node_start();
    struct wire_attach hello = hello_of(node);
    hello.world = 2; /* and the other rank is waited for */
    int first = connect_to(node);
    tell(first, &hello, sizeof hello);
    for (int i = 0; i < 3; i++) border_poll(node->border, 1);
    for (int right = 0; right < 2; right++) {
        int stranger = connect_to(node);
        hello.token[63] ^= right ? 0 : 1;
        hello.rank = right ? 5 : UINT32_MAX;
        hello.world = 6;
        node->said[0] = 0;
        tell(stranger, &hello, sizeof hello);
        poll_until(node, has_said, right ? "6" : "wrong token");
        close(stranger);
        hello = hello_of(node);
    }
    close(first);
    check_still_serves(node);
    node_stop(node);
}

/* Attaches by hand; *shared is the memory. */
static int attach_by_hand(struct node *node, struct wire_shared **shared, size_t *size) {
    struct wire_attach hello = hello_of(node);
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct wire_welcome welcome;
    struct iovec part = {&welcome, sizeof welcome};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    int descriptor = connect_to(node), memory;
    tell(descriptor, &hello, sizeof hello);
    while (recvmsg(descriptor, &message, MSG_DONTWAIT) < 0) border_poll(node->border, 1);
    memcpy(&memory, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof memory);
    CHECK(ftruncate(memory, 4096) != 0); /* it is sealed */
    *size = welcome.size;
    *shared = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    CHECK(*shared != MAP_FAILED);
    close(memory);
    return descriptor;
}

/* All that is in the memory, the node's own fields too, before and while the session trains. */
TEST(a_state_with_steps_that_nobody_can_have_trained_is_refused) {
    struct node *node = node_start();
    for (int which = 0; which < 3; which++) {
        struct wire_shared *shared;
        size_t size;
        int descriptor = attach_by_hand(node, &shared, &size);
        struct wire_state state = {.type = WIRE_STATE, .fragments = 1, .steps = 7, .tokens = 70};
        if (which == 0) state.steps = UINT64_C(1) << 62;
        if (which == 1) state.fragment[0].steps = 8;
        if (which == 2) state.fragment[0].tokens = 71;
        node->said[0] = 0;
        tell(descriptor, &state, sizeof state);
        poll_until(node, has_said, "damaged state");
        munmap(shared, size);
        close(descriptor);
    }
    check_still_serves(node);
    node_stop(node);
}

TEST(a_rank_that_writes_all_over_the_memory_ends_its_own_session_at_worst) {
    struct node *node = node_start();
    for (unsigned when = 0; when < 3; when++) {
        struct wire_shared *shared;
        size_t size;
        int descriptor = attach_by_hand(node, &shared, &size);
        struct {
            struct wire_declare head;
            struct wire_piece pieces[2];
        } told = {.head = {WIRE_DECLARE, 2},
                  .pieces = {{.name = "matrix",
                              .dimensions = 2,
                              .shape = {ROWS, COLUMNS},
                              .extent = {ROWS, COLUMNS}},
                             {.name = "norm", .dimensions = 1, .shape = {NORM}, .extent = {NORM}}}};
        struct wire_word ready = {.type = WIRE_READY};
        if (when == 0) memset(shared, 0xFF, size);
        tell(descriptor, &told, sizeof told);
        tell(descriptor, &ready, sizeof ready);
        for (int i = 0; i < 5; i++) border_poll(node->border, 1);
        if (when == 1) memset(shared, 0xFF, size);
        if (when == 2) {
            struct wire_rank *line = (void *)((char *)shared + shared->ranks_at);
            while (border_session(node->border) == 0) {
                atomic_store(&line->done, atomic_load(&shared->order));
                border_poll(node->border, 1);
            }
            border_publish(node->border, 1);
            memset(shared, 0x7F, size);
        }
        for (int i = 0; i < 5; i++) border_poll(node->border, 1);
        struct border_progress progress;
        if (border_session(node->border)) border_progress(node->border, &progress);
        close(descriptor);
        poll_until(node, has_ended, NULL);
        munmap(shared, size);
    }
    check_still_serves(node);
    node_stop(node);
}

TEST(a_socket_path_that_is_too_long_is_refused_at_both_ends_and_says_how_long_it_may_be) {
    struct node node = {0};
    struct error error = {0};
    struct border *border = NULL;
    char *token = file_join(test_directory(), "attach.token");
    char *path = xformat("%s/%0120d", test_directory(), 1);
    struct border_options options = options_of(&node, path, token);
    CHECK_EQUAL(border_open(&options, &border, &error), INVALID);
    CHECK(strstr(error.message, "107 are the limit") != NULL);
    struct atoll_options trainer = {.directory = test_directory(), .socket = path, .world = 1};
    atoll_site *site = NULL;
    CHECK_EQUAL(atoll_attach(&trainer, &site), ATOLL_INVALID);
    CHECK(strstr(atoll_message(site), "107 are the limit") != NULL);
    atoll_detach(site);
    free(token);
    free(path);
}

TEST(a_file_that_is_no_socket_is_not_replaced) {
    struct node node = {0};
    struct error error = {0};
    struct border *border = NULL;
    char *token = file_join(test_directory(), "attach.token");
    struct border_options options = options_of(&node, token, token);
    CHECK_EQUAL(border_open(&options, &border, &error), INVALID);
    CHECK(strstr(error.message, "is not a socket") != NULL);
    free(token);
}
