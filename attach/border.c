/* The border's socket: who may attach, what ranks declare, and when a session begins and ends
 * (attach/border.h). */
#include "attach/border.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "attach/border_internal.h"
#include "attach/border_socket.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"

/* ---- a connection ---------------------------------------------------------------------------- */

void connection_free(struct rank_connection *connection) {
    if (connection->descriptor >= 0) close(connection->descriptor);
    if (connection->stand >= 0) close(connection->stand);
    free(connection->state);
    free(connection);
}

bool connection_send(struct rank_connection *connection, const void *data, size_t size,
                     const int passed[2]) {
    return border_socket_send(connection->descriptor, data, size, passed);
}

void connection_refuse(struct rank_connection *connection, const char *why) {
    struct wire_refused refused = {.type = WIRE_REFUSED};
    snprintf(refused.text, sizeof refused.text, "%s", why);
    if (connection->descriptor < 0) return;
    (void)connection_send(connection, &refused, sizeof refused, NULL);
    close(connection->descriptor);
    connection->descriptor = -1;
}

static bool in_session(const struct border *border, const struct rank_connection *connection) {
    const struct session *session = &border->session;
    return session->phase != SESSION_NONE && session->phase != SESSION_ENDED &&
           connection->greeted && !connection->waits && connection->hello.rank < session->world &&
           session->ranks[connection->hello.rank] == connection;
}

void session_end(struct border *border, const char *why) {
    struct session *session = &border->session;
    if (session->phase == SESSION_NONE || session->phase == SESSION_ENDED) return;
    for (uint32_t i = 0; i < session->world; i++)
        if (session->ranks[i]) connection_refuse(session->ranks[i], why);
    /* what all had copied out by then has been published */
    if (session->phase == SESSION_TRAINS) (void)!session_read_reports(session, NULL);
    session->phase = SESSION_ENDED;
    if (border->options.complain) border->options.complain(border->options.context, why);
}

static void refuse_one(struct border *border, struct rank_connection *connection, const char *why) {
    if (in_session(border, connection)) {
        session_end(border, why);
        return;
    }
    connection_refuse(connection, why);
    if (border->options.complain) border->options.complain(border->options.context, why);
}

/* ---- what ranks say -------------------------------------------------------------------------- */

static enum status check_hello(const struct border *border, const struct wire_attach *hello,
                               struct error *error) {
    if (hello->version != WIRE_BORDER_VERSION)
        return error_set(error, INVALID, "the trainer's libatoll speaks version %u, this node %d",
                         hello->version, WIRE_BORDER_VERSION);
    if (!border_token_is(border->token, hello->token))
        return error_set(error, INVALID,
                         "wrong token: it is in attach.token of the site's directory, and changes "
                         "when the node starts");
    if (hello->world == 0 || hello->world > WIRE_RANKS_LIMIT || hello->rank >= hello->world)
        return error_set(error, INVALID, "rank %u of %u: there is no such rank", hello->rank,
                         hello->world);
    if (hello->relayed > 1) return error_set(error, INVALID, "a rank is relayed, or it is not");
    return OK;
}

/* True: the greeting waits, because the session it replaces ends first. */
static bool replaces(struct border *border, struct rank_connection *connection) {
    struct session *session = &border->session;
    bool live = session->phase != SESSION_NONE && session->phase != SESSION_ENDED;
    char why[128];
    if (!live || connection->hello.generation <= session->generation) return false;
    snprintf(why, sizeof why, "generation %llu has attached in place of generation %llu",
             (unsigned long long)connection->hello.generation,
             (unsigned long long)session->generation);
    session_end(border, why);
    connection->waits = true;
    return true;
}

static enum status enter_session(struct border *border, struct rank_connection *connection,
                                 struct error *error) {
    struct session *session = &border->session;
    const struct wire_attach *hello = &connection->hello;
    if (session->phase == SESSION_NONE || session->phase == SESSION_ENDED)
        TRY(session_begin(border, hello->generation, hello->world, error));
    if (hello->generation < session->generation)
        return error_set(error, INVALID, "generation %llu is over: generation %llu is attached",
                         (unsigned long long)hello->generation,
                         (unsigned long long)session->generation);
    if (hello->world != session->world)
        return error_set(error, INVALID, "rank %u says that there are %u ranks, others say %u",
                         hello->rank, hello->world, session->world);
    if (session->ranks[hello->rank] || session->phase != SESSION_GATHERS)
        return error_set(error, INVALID,
                         "rank %u of generation %llu is attached already: a restarted job needs a "
                         "higher generation",
                         hello->rank, (unsigned long long)hello->generation);
    session->ranks[hello->rank] = connection;
    session->news_ms = clock_monotonic_ms();
    struct wire_welcome welcome = {
        .type = WIRE_WELCOME, .version = WIRE_BORDER_VERSION, .size = session->size};
    int passed[2] = {session->memory, border->options.stand};
    if (!connection_send(connection, &welcome, sizeof welcome, passed))
        return error_set(error, UNAVAILABLE, "rank %u cannot be reached", hello->rank);
    return OK;
}

static void judge_hello(struct border *border, struct rank_connection *connection) {
    struct error error = {0};
    enum status status = check_hello(border, &connection->hello, &error);
    if (status == OK && !connection->waits && replaces(border, connection)) return;
    connection->waits = false;
    if (status == OK) status = enter_session(border, connection, &error);
    if (status != OK) refuse_one(border, connection, error.message);
}

static enum status take_declare(struct border *border, struct rank_connection *connection,
                                const uint8_t *bytes, size_t size, struct error *error) {
    struct wire_declare head;
    struct wire_piece piece;
    memcpy(&head, bytes, sizeof head);
    if (connection->ready || head.count > WIRE_PIECES_PER_MESSAGE ||
        size != sizeof head + head.count * sizeof piece)
        return error_set(error, INVALID, "rank %u declares %u pieces in %zu bytes",
                         connection->hello.rank, head.count, size);
    for (uint32_t i = 0; i < head.count; i++) {
        memcpy(&piece, bytes + sizeof head + i * sizeof piece, sizeof piece);
        TRY(session_add_piece(border, &piece, connection, error));
    }
    return OK;
}

static enum status take_state(struct rank_connection *connection, const uint8_t *bytes, int *passed,
                              struct error *error) {
    if (connection->ready || connection->state)
        return error_set(error, INVALID, "rank %u says twice where it stands",
                         connection->hello.rank);
    connection->state = xmalloc(sizeof *connection->state);
    memcpy(connection->state, bytes, sizeof *connection->state);
    connection->stand = *passed;
    *passed = -1;
    if (connection->state->fragments > WIRE_FRAGMENTS_LIMIT)
        return error_set(error, INVALID, "rank %u stands at %u fragments", connection->hello.rank,
                         connection->state->fragments);
    for (uint32_t i = 0; i < connection->state->fragments; i++) {
        const struct wire_state_fragment *fragment = &connection->state->fragment[i];
        uint64_t steps = connection->state->steps, tokens = connection->state->tokens;
        if (fragment->steps > steps || fragment->tokens > tokens ||
            steps - fragment->steps > UINT32_MAX)
            return error_set(error, INVALID,
                             "rank %u has a damaged state: step %llu, after a publication at %llu",
                             connection->hello.rank, (unsigned long long)steps,
                             (unsigned long long)fragment->steps);
    }
    return OK;
}

static enum status take_ready(struct border *border, struct rank_connection *connection,
                              struct error *error) {
    struct session *session = &border->session;
    if (connection->ready) return error_set(error, INVALID, "a rank is ready twice");
    connection->ready = true;
    for (uint32_t i = 0; i < session->world; i++)
        if (!session->ranks[i] || !session->ranks[i]->ready) return OK;
    return session_go(border, error);
}

static enum status take_message(struct border *border, struct rank_connection *connection,
                                const uint8_t *bytes, size_t size, int *passed,
                                struct error *error) {
    uint32_t type = 0;
    if (size >= sizeof type) memcpy(&type, bytes, sizeof type);
    if (!connection->greeted) {
        if (size != sizeof connection->hello || type != WIRE_ATTACH)
            return error_set(error, INVALID,
                             "something that does not speak libatoll's protocol connected");
        memcpy(&connection->hello, bytes, sizeof connection->hello);
        connection->greeted = true;
        judge_hello(border, connection);
        return OK;
    }
    bool gathers = border->session.phase == SESSION_GATHERS;
    if (size == sizeof(struct wire_word) && type == WIRE_BYE) {
        char why[64];
        snprintf(why, sizeof why, "rank %u has detached", connection->hello.rank);
        session_end(border, why);
        return OK;
    }
    if (gathers && size >= sizeof(struct wire_declare) && type == WIRE_DECLARE)
        return take_declare(border, connection, bytes, size, error);
    if (gathers && size == sizeof(struct wire_state) && type == WIRE_STATE)
        return take_state(connection, bytes, passed, error);
    if (gathers && size == sizeof(struct wire_word) && type == WIRE_READY)
        return take_ready(border, connection, error);
    return error_set(error, INVALID, "rank %u says something unknown", connection->hello.rank);
}

/* One message. False: nothing is there. */
static bool read_one(struct border *border, struct rank_connection *connection) {
    static const size_t limit = WIRE_PACKET_LIMIT;
    struct error error = {0};
    if (connection->descriptor < 0) return false;
    uint8_t *bytes = xmalloc(limit);
    int passed[BORDER_PASSED_LIMIT];
    ssize_t got = border_socket_receive(connection->descriptor, bytes, limit, passed);
    int number = errno;
    bool again = got > 0;
    if (got > 0 && (size_t)got <= limit) {
        connection->since_ms = clock_monotonic_ms();
        if (in_session(border, connection)) border->session.news_ms = connection->since_ms;
        if (take_message(border, connection, bytes, (size_t)got, &passed[0], &error) != OK)
            refuse_one(border, connection, error.message);
    } else if (got > 0) {
        refuse_one(border, connection, "a message is longer than any that libatoll sends");
    } else if (got == 0 || (number != EAGAIN && number != EINTR)) {
        char why[96];
        snprintf(why, sizeof why, "rank %u is gone: its connection ended", connection->hello.rank);
        if (in_session(border, connection)) session_end(border, why);
        if (connection->descriptor >= 0) close(connection->descriptor);
        connection->descriptor = -1;
    }
    for (size_t i = 0; i < BORDER_PASSED_LIMIT; i++)
        if (passed[i] >= 0) close(passed[i]); /* nobody asked for it */
    free(bytes);
    return again;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void accept_all(struct border *border) {
    for (;;) {
        int descriptor = accept4(border->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (descriptor < 0) return;
        if (border->connection_count == CONNECTIONS_LIMIT) {
            close(descriptor);
            continue;
        }
        struct rank_connection *connection = xcalloc(1, sizeof *connection);
        connection->descriptor = descriptor;
        connection->stand = -1;
        connection->since_ms = clock_monotonic_ms();
        border->connections = xrealloc(border->connections, (border->connection_count + 1) *
                                                                sizeof(border->connections[0]));
        border->connections[border->connection_count++] = connection;
    }
}

/* Those that are closed go, except where the session still names them. */
static void sweep(struct border *border) {
    size_t kept = 0;
    for (size_t i = 0; i < border->connection_count; i++) {
        struct rank_connection *connection = border->connections[i];
        if (connection->descriptor >= 0 || in_session(border, connection))
            border->connections[kept++] = connection;
        else
            connection_free(connection);
    }
    border->connection_count = kept;
}

static void name_missing(const struct session *session, char *out, size_t size) {
    int at = snprintf(out, size, "not all ranks are ready in time:");
    for (uint32_t i = 0; i < session->world && at > 0 && (size_t)at < size - 32; i++) {
        if (session->ranks[i] && session->ranks[i]->ready) continue;
        at += snprintf(out + at, size - (size_t)at, " rank %u %s", i,
                       session->ranks[i] ? "has not declared all," : "has not attached,");
    }
    if (at > 0 && (size_t)at < size) out[at - 1] = 0;
}

static void end_what_waits_too_long(struct border *border) {
    struct session *session = &border->session;
    uint64_t now = clock_monotonic_ms(), limit = border->options.timeout_ms;
    for (size_t i = 0; i < border->connection_count; i++) {
        struct rank_connection *connection = border->connections[i];
        if (connection->descriptor >= 0 && !connection->greeted &&
            now - connection->since_ms > limit)
            refuse_one(border, connection, "something connected and said nothing");
    }
    if (session->phase != SESSION_GATHERS && session->phase != SESSION_LOADS) return;
    if (now - session->news_ms <= limit) return;
    char why[WIRE_TEXT_SIZE] = "a rank does not load the model in time";
    if (session->phase == SESSION_GATHERS) name_missing(session, why, sizeof why);
    session_end(border, why);
}

/* Whatever waits at the front: sockets, then what stands in the memory. */
static void look(struct border *border) {
    struct error error = {0};
    uint64_t sessions_ended = border->session.phase == SESSION_ENDED;
    for (size_t i = 0; i < border->connection_count; i++) {
        struct rank_connection *connection = border->connections[i];
        if (connection->waits) judge_hello(border, connection);
        while (read_one(border, connection))
            if (connection->waits) break;
        /* who uses the border looks at what has ended before another begins */
        if (border->session.phase == SESSION_ENDED && !sessions_ended) return;
    }
    if (session_look(border, &error) != OK) session_end(border, error.message);
}

void border_poll(struct border *border, uint64_t timeout_ms) {
    size_t count = border->connection_count + 1;
    struct pollfd *waits = xcalloc(count, sizeof *waits);
    waits[0] = (struct pollfd){.fd = border->listener, .events = POLLIN};
    for (size_t i = 1; i < count; i++)
        waits[i] = (struct pollfd){.fd = border->connections[i - 1]->descriptor, .events = POLLIN};
    (void)poll(waits, count, (int)MIN(timeout_ms, (uint64_t)1000));
    free(waits);
    accept_all(border);
    look(border);
    end_what_waits_too_long(border);
    sweep(border);
}

/* ---- life ------------------------------------------------------------------------------------ */

enum status border_open(const struct border_options *options, struct border **out,
                        struct error *error) {
    struct border *border = xcalloc(1, sizeof *border);
    border->options = *options;
    border->listener = -1;
    border->socket_path = xstrdup(options->socket);
    border->token_path = xstrdup(options->token_file);
    border->factor = 1;
    enum status status = border_token_create(border->token_path, border->token, error);
    if (status == OK) status = border_socket_listen(border->socket_path, &border->listener, error);
    if (status == OK)
        *out = border;
    else
        border_close(border);
    return status;
}

void border_close(struct border *border) {
    if (!border) return;
    for (size_t i = 0; i < border->connection_count; i++) connection_free(border->connections[i]);
    free(border->connections);
    session_free(&border->session);
    if (border->listener >= 0) {
        close(border->listener);
        (void)unlink(border->socket_path);
    }
    free(border->socket_path);
    free(border->token_path);
    free_clearing(border, sizeof *border);
}

uint64_t border_session(const struct border *border) {
    return border->session.phase == SESSION_TRAINS ? border->trained : 0;
}

bool border_has_ranks(const struct border *border) {
    return border->session.phase != SESSION_NONE && border->session.phase != SESSION_ENDED;
}

uint64_t border_session_id(const struct border *border) { return border->session.id; }

void border_refuse(struct border *border, const char *why) { session_end(border, why); }

void border_tell(struct border *border, bool stopping, uint64_t inner_steps, double factor) {
    if (border->stopping == stopping && border->inner_steps == inner_steps &&
        border->factor == factor)
        return;
    /* for who is not attached now, and will find no node */
    if (stopping && !border->stopping)
        (void)!file_write(border->token_path, bytes_of(WIRE_OVER, sizeof WIRE_OVER - 1), 0600,
                          NULL);
    border->stopping = stopping;
    border->inner_steps = inner_steps;
    border->factor = factor;
    session_tell(border);
}
