/* The trainer's end of the border (libatoll/atoll.h): libc alone. A stack trace here is in a
 * training job, between two of its steps. */
#include "libatoll/atoll.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "libatoll/wire.h"

enum { DEFAULT_TIMEOUT_MS = 60000 };
_Static_assert(ATOLL_DIMENSIONS == (int)WIRE_DIMENSIONS, "one number of dimensions");

struct held_piece {       /* what this rank declared */
    uint64_t base, total; /* the tensor's place in the flat vector, floats */
    uint32_t flat, dimensions;
    uint64_t shape[WIRE_DIMENSIONS], offset[WIRE_DIMENSIONS], extent[WIRE_DIMENSIONS];
    float *data;
    bool owned; /* this rank copies it out */
};

struct border_order { /* as read from the memory */
    uint64_t id, kind, fragment, at, start, count, version;
};

struct atoll_site {
    int descriptor;
    struct wire_shared *shared;
    struct wire_rank *line; /* this rank's */
    size_t size;
    uint32_t rank, world, timeout_ms;
    struct held_piece *pieces;
    size_t piece_count;
    uint64_t steps, tokens, version;
    struct border_order order; /* the one that was seen last */
    bool due;                  /* and it is to be carried out now */
    bool ready_sent, going, relayed;
    int stand; /* the node's memory of where a job is; -1: none */
    struct wire_state
        position; /* where the parameters stand; of before, until the loads are over */
    uint64_t first_steps, first_tokens, first_clock, lost, ahead, states;
    bool over; /* the run: found where there is no node any more */
    int ended; /* 0: attached; else AWAY or REFUSED */
    char message[WIRE_TEXT_SIZE];
};

static int complain(struct atoll_site *site, int result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int complain(struct atoll_site *site, int result, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(site->message, sizeof site->message, format, arguments);
    va_end(arguments);
    if (result == ATOLL_AWAY || result == ATOLL_REFUSED) site->ended = result;
    return result;
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the socket ------------------------------------------------------------------------------ */

static int send_message(struct atoll_site *site, const void *head, size_t head_size,
                        const void *tail, size_t tail_size) {
    struct iovec parts[2] = {{.iov_base = (void *)(uintptr_t)head, .iov_len = head_size},
                             {.iov_base = (void *)(uintptr_t)tail, .iov_len = tail_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = tail_size > 0 ? 2 : 1};
    while (sendmsg(site->descriptor, &message, MSG_NOSIGNAL) < 0) {
        if (errno != EINTR)
            return complain(site, ATOLL_AWAY, "the node cannot be told: %s", strerror(errno));
    }
    return ATOLL_OK;
}

enum { PASSED_LIMIT = 2 };

/* The next message, at most `limit_ms` from now; -1: none. Descriptors that come with it go to
 * passed[PASSED_LIMIT]. */
static ssize_t receive(struct atoll_site *site, void *out, size_t size, int *passed,
                       uint64_t limit_ms) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(PASSED_LIMIT * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = out, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    uint64_t until = now_ms() + limit_ms;
    for (;;) {
        struct pollfd wait = {.fd = site->descriptor, .events = POLLIN};
        uint64_t now = now_ms();
        int found = poll(&wait, 1, until > now ? (int)(until - now) : 0);
        if (found < 0 && errno == EINTR) continue;
        if (found == 0) return -1;
        ssize_t got = recvmsg(site->descriptor, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (got >= 0 && header && header->cmsg_type == SCM_RIGHTS && passed)
            memcpy(passed, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
        return got < 0 ? 0 : got;
    }
}

static int send_passing(struct atoll_site *site, const void *data, size_t size, int passed) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed >= 0) {
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof passed)};
        memcpy(CMSG_DATA(&control.header), &passed, sizeof passed);
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
    }
    if (sendmsg(site->descriptor, &message, MSG_NOSIGNAL) != (ssize_t)size)
        return complain(site, ATOLL_AWAY, "the node cannot be told: %s", strerror(errno));
    return ATOLL_OK;
}

/* What came instead of what was expected: the node's refusal, its end, or nonsense. */
static int judge(struct atoll_site *site, const void *bytes, ssize_t size) {
    struct wire_refused refused;
    if (size < 0) return complain(site, ATOLL_TIMED_OUT, "the node does not answer in time");
    if (size == 0) return complain(site, ATOLL_AWAY, "the node ended the connection");
    if ((size_t)size == sizeof refused) {
        memcpy(&refused, bytes, sizeof refused);
        refused.text[sizeof refused.text - 1] = 0;
        if (refused.type == WIRE_REFUSED) return complain(site, ATOLL_REFUSED, "%s", refused.text);
        if (refused.type == WIRE_APART) return complain(site, ATOLL_AWAY, "%s", refused.text);
    }
    return complain(site, ATOLL_INVALID, "the node said something unknown: is it another version?");
}

/* Whether the node has said something, or is gone; costs one call into the kernel. */
static void look_at_socket(struct atoll_site *site) {
    struct wire_refused refused;
    ssize_t got = recv(site->descriptor, &refused, sizeof refused, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    (void)judge(site, &refused, got < 0 ? 0 : got);
}

/* ---- attach ---------------------------------------------------------------------------------- */

static int read_token(struct atoll_site *site, const char *path, char *token) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = descriptor < 0 ? -1 : read(descriptor, token, WIRE_TOKEN_SIZE);
    int number = errno;
    if (descriptor >= 0) close(descriptor);
    if (descriptor < 0)
        return complain(site, ATOLL_AWAY, "%s: %s; does atoll-node run there, with --attach?", path,
                        strerror(number));
    if (size == sizeof WIRE_OVER - 1 && memcmp(token, WIRE_OVER, sizeof WIRE_OVER - 1) == 0) {
        site->over = true;
        return complain(site, ATOLL_REFUSED, "the run is over");
    }
    if (size != WIRE_TOKEN_SIZE) return complain(site, ATOLL_INVALID, "%s holds no token", path);
    return ATOLL_OK;
}

static int find_token(struct atoll_site *site, const struct atoll_options *options, char *token) {
    char path[4096];
    if (options->token) {
        if (strlen(options->token) != WIRE_TOKEN_SIZE)
            return complain(site, ATOLL_INVALID, "the token has not %d digits", WIRE_TOKEN_SIZE);
        memcpy(token, options->token, WIRE_TOKEN_SIZE);
        return ATOLL_OK;
    }
    if (!options->directory)
        return complain(site, ATOLL_INVALID, "neither the site's directory nor a token is given");
    snprintf(path, sizeof path, "%s/attach.token", options->directory);
    return read_token(site, path, token);
}

static int open_socket(struct atoll_site *site, const struct atoll_options *options) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[4096];
    if (!options->socket && !options->directory)
        return complain(site, ATOLL_INVALID, "neither the site's directory nor a socket is given");
    if (options->socket)
        snprintf(path, sizeof path, "%s", options->socket);
    else
        snprintf(path, sizeof path, "%s/attach.sock", options->directory);
    if (strlen(path) >= sizeof address.sun_path)
        return complain(site, ATOLL_INVALID,
                        "the socket's path has %zu bytes, and %zu are the limit: %.300s",
                        strlen(path), sizeof address.sun_path - 1, path);
    memcpy(address.sun_path, path, strlen(path));
    site->descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (site->descriptor < 0) return complain(site, ATOLL_AWAY, "no socket: %s", strerror(errno));
    if (connect(site->descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        return complain(site, ATOLL_AWAY, "%.400s: %s; does atoll-node run there, with --attach?",
                        path, strerror(errno));
    return ATOLL_OK;
}

static bool memory_is_sound(const struct atoll_site *site) {
    const struct wire_shared *shared = site->shared;
    size_t size = site->size, floats = size / sizeof(float);
    return shared->magic == WIRE_MAGIC && shared->size == size && shared->ranks == site->world &&
           shared->ranks_at <= size &&
           shared->ranks <= (size - shared->ranks_at) / sizeof(struct wire_rank) &&
           shared->tensors_at <= size &&
           shared->tensors <= (size - shared->tensors_at) / sizeof(struct wire_tensor) &&
           shared->fragments > 0 && shared->fragments <= WIRE_FRAGMENTS_LIMIT &&
           shared->out_at <= size && shared->in_at <= size && floats > 0;
}

static int map_memory(struct atoll_site *site, int descriptor, uint64_t size) {
    struct stat found;
    if (fstat(descriptor, &found) != 0 || (uint64_t)found.st_size != size ||
        size < sizeof(struct wire_shared))
        return complain(site, ATOLL_INVALID, "the node's memory has another size than it says");
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED)
        return complain(site, ATOLL_INVALID, "map the node's memory: %s", strerror(errno));
    site->shared = memory;
    site->size = size;
    if (!memory_is_sound(site))
        return complain(site, ATOLL_INVALID, "the node's memory is of another version");
    site->line = (struct wire_rank *)(void *)((char *)memory + site->shared->ranks_at) + site->rank;
    return ATOLL_OK;
}

static int greet(struct atoll_site *site, const struct atoll_options *options) {
    struct wire_attach hello = {.type = WIRE_ATTACH,
                                .version = WIRE_BORDER_VERSION,
                                .rank = options->rank,
                                .world = options->world,
                                .generation = options->generation};
    union {
        struct wire_welcome welcome;
        struct wire_refused refused;
    } answer;
    int passed[PASSED_LIMIT] = {-1, -1}, result = find_token(site, options, hello.token);
    if (result == ATOLL_OK) result = open_socket(site, options);
    if (result == ATOLL_OK) result = send_message(site, &hello, sizeof hello, NULL, 0);
    if (result != ATOLL_OK) return result;
    ssize_t got = receive(site, &answer, sizeof answer, passed, site->timeout_ms);
    if (got != sizeof answer.welcome || answer.welcome.type != WIRE_WELCOME || passed[0] < 0)
        result = judge(site, &answer, got);
    else
        result = map_memory(site, passed[0], answer.welcome.size);
    if (passed[0] >= 0) close(passed[0]);
    site->stand = passed[1];
    return result;
}

int atoll_attach(const struct atoll_options *options, atoll_site **out) {
    struct atoll_site *site = calloc(1, sizeof *site);
    *out = site;
    if (!site) return ATOLL_INVALID;
    site->descriptor = site->stand = -1;
    site->rank = options->rank;
    site->world = options->world;
    site->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    if (options->world == 0 || options->world > WIRE_RANKS_LIMIT || options->rank >= options->world)
        return complain(site, ATOLL_INVALID, "rank %u of %u: there is no such rank", options->rank,
                        options->world);
    return greet(site, options);
}

void atoll_detach(atoll_site *site) {
    struct wire_word bye = {.type = WIRE_BYE};
    if (!site) return;
    if (site->descriptor >= 0 && !site->ended)
        (void)!send(site->descriptor, &bye, sizeof bye, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (site->descriptor >= 0) close(site->descriptor);
    if (site->stand >= 0) close(site->stand);
    if (site->shared) munmap(site->shared, site->size);
    free(site->pieces);
    free(site);
}

/* ---- what this rank holds -------------------------------------------------------------------- */

static const struct wire_tensor *find_tensor(const struct atoll_site *site, const char *name) {
    const struct wire_tensor *tensors =
        (const void *)((const char *)site->shared + site->shared->tensors_at);
    for (uint64_t i = 0; i < site->shared->tensors; i++)
        if (strncmp(tensors[i].name, name, sizeof tensors[i].name) == 0) return &tensors[i];
    return NULL;
}

static int hold(struct atoll_site *site, const struct atoll_piece *piece, struct held_piece *out,
                struct wire_piece *told) {
    const struct wire_tensor *tensor = NULL;
    if (strlen(piece->name) < sizeof told->name) tensor = find_tensor(site, piece->name);
    if (!tensor)
        return complain(site, ATOLL_INVALID, "the run has no tensor \"%.200s\"", piece->name);
    if (piece->dimensions > WIRE_DIMENSIONS || (piece->flat && piece->dimensions == 0))
        return complain(site, ATOLL_INVALID, "tensor \"%.200s\" has %u dimensions; at most %d",
                        piece->name, piece->dimensions, WIRE_DIMENSIONS);
    *told = (struct wire_piece){.flat = piece->flat, .dimensions = piece->dimensions};
    memcpy(told->name, piece->name, strlen(piece->name));
    size_t size = piece->dimensions * sizeof(uint64_t),
           range = piece->flat ? sizeof(uint64_t) : size;
    memcpy(told->shape, piece->shape, size);
    memcpy(told->offset, piece->offset, range);
    memcpy(told->extent, piece->extent, range);
    *out = (struct held_piece){.base = tensor->offset,
                               .total = tensor->count,
                               .flat = piece->flat,
                               .dimensions = piece->dimensions,
                               .data = piece->data};
    memcpy(out->shape, told->shape, sizeof out->shape);
    memcpy(out->offset, told->offset, sizeof out->offset);
    memcpy(out->extent, told->extent, sizeof out->extent);
    return ATOLL_OK;
}

int atoll_declare(atoll_site *site, const struct atoll_piece *pieces, size_t count) {
    struct wire_piece *told = calloc(WIRE_PIECES_PER_MESSAGE, sizeof *told);
    struct held_piece *held = calloc(count + 1, sizeof *held);
    int result = ATOLL_OK;
    if (site->ended || !site->shared) result = complain(site, ATOLL_INVALID, "not attached");
    if (result == ATOLL_OK && (!told || !held || site->pieces || count > WIRE_PIECES_LIMIT))
        result = complain(site, ATOLL_INVALID, "%zu pieces: declared twice, or more than %d", count,
                          WIRE_PIECES_LIMIT);
    for (size_t from = 0; result == ATOLL_OK && from < count; from += WIRE_PIECES_PER_MESSAGE) {
        size_t left = count - from, part = WIRE_PIECES_PER_MESSAGE;
        if (left < part) part = left;
        struct wire_declare head = {.type = WIRE_DECLARE, .count = (uint32_t)part};
        for (size_t i = 0; result == ATOLL_OK && i < part; i++)
            result = hold(site, &pieces[from + i], &held[from + i], &told[i]);
        if (result == ATOLL_OK)
            result = send_message(site, &head, sizeof head, told, part * sizeof *told);
    }
    free(told);
    if (result != ATOLL_OK) {
        free(held);
        return result;
    }
    site->pieces = held;
    site->piece_count = count;
    return ATOLL_OK;
}

/* ---- orders ---------------------------------------------------------------------------------- */

/* False: it is being written, and stands there at the next look. */
static bool read_order(const struct atoll_site *site, uint64_t id, struct border_order *out) {
    const struct wire_order *slot = &site->shared->orders[id & 1];
    if (atomic_load(&slot->id) != id) return false;
    *out = (struct border_order){.id = id,
                                 .kind = atomic_load(&slot->kind),
                                 .fragment = atomic_load(&slot->fragment),
                                 .at = atomic_load(&slot->at),
                                 .start = atomic_load(&slot->start),
                                 .count = atomic_load(&slot->count),
                                 .version = atomic_load(&slot->version)};
    return atomic_load(&slot->id) == id && out->fragment < site->shared->fragments &&
           out->start <= site->shared->parameters &&
           out->count <= site->shared->parameters - out->start;
}

static bool all_have_seen(const struct atoll_site *site, uint64_t id) {
    const struct wire_rank *lines =
        (const void *)((const char *)site->shared + site->shared->ranks_at);
    for (uint32_t i = 0; i < site->world; i++)
        if (atomic_load(&lines[i].seen) != id) return false;
    return true;
}

enum decision { DECISION_FIXED, DECISION_WITHDRAWN, DECISION_OPEN };

/* Of an order that this rank has acknowledged, at its step. Where another one has been decided
 * since, it was withdrawn: after a fixed one comes none before it has been carried out by all. */
static enum decision decision_of(const struct atoll_site *site, uint64_t id) {
    if (!site->relayed) return all_have_seen(site, id) ? DECISION_FIXED : DECISION_WITHDRAWN;
    uint64_t decided = atomic_load(&site->shared->decided);
    if (decided < WIRE_DECISION(id, false)) return DECISION_OPEN;
    return decided == WIRE_DECISION(id, true) ? DECISION_FIXED : DECISION_WITHDRAWN;
}

/* What others do is not known here, and will not be: their parameters may differ by the order. */
static int leave_undecided(struct atoll_site *site, const char *why) {
    (void)!shutdown(site->descriptor, SHUT_RDWR); /* the session is over for all */
    return complain(site, ATOLL_REFUSED,
                    "%s whether what was ordered for after step %llu is carried out, so this "
                    "rank might come to differ from the others: start the job again, from its "
                    "checkpoint",
                    why, (unsigned long long)site->steps);
}

/* The one wait of a step: for the site's own network. */
static int await_decision(struct atoll_site *site, enum decision *out) {
    uint64_t from = now_ms(), limit = atomic_load(&site->shared->wait_ms), id = site->order.id;
    char why[96];
    for (;;) {
        /* what it said stands before its end */
        bool gone = site->ended != 0;
        *out = decision_of(site, id);
        if (*out != DECISION_OPEN) break;
        if (site->ended == ATOLL_REFUSED) return site->ended; /* it said so */
        if (gone && atomic_load(&site->shared->relayed) == WIRE_NODE_HOST) {
            *out = DECISION_WITHDRAWN; /* the node has told nobody what it has not written here */
            break;
        }
        if (gone) return leave_undecided(site, "the relay is gone, or its node, and did not say");
        if (now_ms() - from > limit) {
            snprintf(why, sizeof why, "the node did not say within %llu s",
                     (unsigned long long)limit / 1000);
            return leave_undecided(site, why);
        }
        struct timespec pause = {.tv_nsec = 100000};
        (void)nanosleep(&pause, NULL);
        look_at_socket(site);
    }
    atomic_fetch_add(&site->line->waited_us, (now_ms() - from) * 1000);
    return ATOLL_OK;
}

static int result_of(const struct atoll_site *site) {
    switch (site->order.kind) {
    case WIRE_PUBLISH: return ATOLL_PUBLISH;
    case WIRE_ADD: return ATOLL_ADD;
    case WIRE_LOAD: return ATOLL_LOAD;
    default: return ATOLL_OK;
    }
}

static int look_for_order(struct atoll_site *site) {
    uint64_t id = atomic_load(&site->shared->order);
    struct border_order order;
    if (!site->ended && id != 0 && id != site->order.id && read_order(site, id, &order) &&
        order.at > site->steps) {
        site->order = order;
        atomic_store(&site->line->seen, id);
    }
    site->due = false;
    if (site->order.id == 0 || site->order.at != site->steps ||
        atomic_load(&site->line->done) == site->order.id)
        return ATOLL_OK;
    enum decision decision = decision_of(site, site->order.id);
    if (decision == DECISION_OPEN) {
        int result = await_decision(site, &decision);
        if (result != ATOLL_OK) return result;
    }
    site->due = decision == DECISION_FIXED;
    return site->due ? result_of(site) : ATOLL_OK;
}

/* Where the node is away, what all ranks have acknowledged is carried out by all of them all the
 * same: they may not notice its end after the same step, and would differ by it. */
static bool awaits_order(const struct atoll_site *site) {
    return site->ended == ATOLL_AWAY && site->order.id != 0 && site->order.at > site->steps;
}

int atoll_step(atoll_site *site, uint64_t tokens, double loss) {
    uint64_t bits;
    site->steps++;
    if (!site->going || (site->ended && site->ended != ATOLL_AWAY))
        return site->ended ? site->ended : ATOLL_INVALID;
    site->tokens += tokens;
    memcpy(&bits, &loss, sizeof bits);
    atomic_store_explicit(&site->line->tokens, site->tokens, memory_order_relaxed);
    atomic_store_explicit(&site->line->loss, bits, memory_order_relaxed);
    atomic_store(&site->line->steps, site->steps);
    int result = look_for_order(site);
    if (result != ATOLL_OK) return result;
    if (!site->ended) look_at_socket(site);
    return awaits_order(site) ? ATOLL_OK : site->ended;
}

/* ---- ready: the model is loaded, fragment by fragment ---------------------------------------- */

static int take_go(struct atoll_site *site) {
    size_t size = sizeof(struct wire_go) + site->piece_count;
    char *bytes = calloc(1, size + sizeof(struct wire_refused));
    struct wire_go go;
    if (!bytes) return complain(site, ATOLL_INVALID, "memory is out");
    ssize_t got = receive(site, bytes, size + sizeof(struct wire_refused), NULL, site->timeout_ms);
    int result = ATOLL_OK;
    memcpy(&go, bytes, sizeof go);
    if (got < 0 || (size_t)got != size || go.type != WIRE_GO || go.count != site->piece_count)
        result = judge(site, bytes, got);
    for (size_t i = 0; result == ATOLL_OK && i < site->piece_count; i++)
        site->pieces[i].owned = bytes[sizeof go + i] != 0;
    free(bytes);
    if (result != ATOLL_OK) return result;
    site->relayed = atomic_load(&site->shared->relayed) != WIRE_TOGETHER;
    site->first_steps = go.steps;
    site->first_tokens = go.tokens;
    site->lost = go.lost;
    site->ahead = go.ahead;
    for (uint64_t i = 0; i < site->shared->fragments; i++) {
        struct wire_state_fragment *fragment = &site->position.fragment[i];
        bool kept = go.kept >> i & 1;
        *fragment = (struct wire_state_fragment){.steps = kept ? fragment->steps : go.steps,
                                                 .tokens = kept ? fragment->tokens : go.tokens};
    }
    site->position.type = WIRE_STATE;
    site->position.fragments = (uint32_t)site->shared->fragments;
    site->position.session = site->shared->session;
    site->position.job = go.job;
    site->first_clock = go.clock;
    memcpy(site->position.site, site->shared->site, sizeof site->position.site);
    return ATOLL_OK;
}

/* Loads stand at step 0, and everybody waits for them: there is nothing to agree on. An order of
 * another kind means that they are over. */
static int next_load(struct atoll_site *site) {
    uint64_t until = now_ms() + site->timeout_ms;
    while (!site->ended && now_ms() < until) {
        uint64_t id = atomic_load(&site->shared->order);
        struct border_order order;
        if (id != site->order.id && read_order(site, id, &order)) {
            site->order = order;
            if (order.kind != WIRE_LOAD && order.kind != WIRE_ADD) {
                site->going = true;
                atomic_store(&site->line->done, order.id);
                return ATOLL_OK;
            }
            site->due = true;
            return result_of(site);
        }
        look_at_socket(site);
        poll(NULL, 0, 1);
    }
    return site->ended ? site->ended : complain(site, ATOLL_TIMED_OUT, "the model does not come");
}

/* ---- where the parameters stand -------------------------------------------------------------- */

static size_t size_of_state(uint64_t fragments) {
    return offsetof(struct wire_state, fragment) + fragments * sizeof(struct wire_state_fragment);
}
_Static_assert(sizeof(struct wire_state) <= ATOLL_STATE_SIZE, "as is promised");

static uint64_t sum_of_state(const struct wire_state *state) {
    struct wire_state copy = *state;
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    copy.check = 0;
    for (size_t i = 0; i < size_of_state(copy.fragments); i++)
        sum = (sum ^ ((const uint8_t *)&copy)[i]) * UINT64_C(0x100000001b3);
    return sum;
}

uint64_t atoll_job_steps(const atoll_site *site) {
    return site->first_steps + (site->going ? site->steps : 0);
}

static void note_order(struct atoll_site *site) {
    struct wire_state_fragment *fragment = &site->position.fragment[site->order.fragment];
    if (!site->going) return;
    fragment->order = site->order.id;
    if (site->order.kind == WIRE_ADD) return;
    fragment->steps = atoll_job_steps(site);
    fragment->tokens = site->first_tokens + site->tokens;
}

static int ask_to_keep(struct atoll_site *site) {
    uint64_t until = now_ms() + site->timeout_ms;
    atomic_store(&site->line->state, ++site->states);
    while (!site->ended) {
        if (atomic_load(&site->shared->state) >= site->states) return ATOLL_OK;
        if (now_ms() > until)
            return complain(site, ATOLL_TIMED_OUT, "the node does not keep the state in time");
        poll(NULL, 0, 1);
        look_at_socket(site);
    }
    return site->ended;
}

int atoll_state(atoll_site *site, void *state, size_t *size) {
    *size = 0;
    if (!site->going) return complain(site, ATOLL_INVALID, "not attached: there is no state");
    site->position.steps = atoll_job_steps(site);
    site->position.tokens = site->first_tokens + site->tokens;
    site->position.clock = site->first_clock + site->steps;
    site->position.check = sum_of_state(&site->position);
    *size = size_of_state(site->position.fragments);
    memcpy(state, &site->position, *size);
    if (site->ended) return site->ended;
    return site->rank == 0 ? ask_to_keep(site) : ATOLL_OK;
}

int atoll_resume(atoll_site *site, const void *state, size_t size, const atoll_site *before) {
    struct wire_state told = {0};
    if (size >= size_of_state(0) && size <= sizeof told) memcpy(&told, state, size);
    if (site->ended || !site->pieces || site->ready_sent)
        return complain(site, ATOLL_INVALID, "resume comes between declare and ready");
    if (told.type != WIRE_STATE || told.fragments > WIRE_FRAGMENTS_LIMIT ||
        size != size_of_state(told.fragments))
        return complain(site, ATOLL_INVALID, "these %zu bytes are no state of atoll_state", size);
    if (told.check != sum_of_state(&told))
        return complain(site, ATOLL_INVALID,
                        "this state is damaged: take an older checkpoint, or attach without one");
    site->position = told;
    int passed = before ? before->stand : -1;
    return send_passing(site, &told, sizeof told, passed);
}

uint64_t atoll_lost(const atoll_site *site) { return site->lost; }
uint64_t atoll_ahead(const atoll_site *site) { return site->ahead; }

uint64_t atoll_unpublished(const atoll_site *site) {
    uint64_t most = 0, now = atoll_job_steps(site);
    for (uint32_t i = 0; site->going && i < site->position.fragments; i++)
        if (now - site->position.fragment[i].steps > most)
            most = now - site->position.fragment[i].steps;
    return most;
}

int atoll_ready(atoll_site *site) {
    struct wire_word ready = {.type = WIRE_READY};
    if (site->ended) return site->ended;
    if (site->going || !site->pieces) return complain(site, ATOLL_INVALID, "nothing is declared");
    if (!site->ready_sent) {
        int result = send_message(site, &ready, sizeof ready, NULL, 0);
        if (result == ATOLL_OK) result = take_go(site);
        if (result != ATOLL_OK) return result;
        site->ready_sent = true;
    }
    return next_load(site);
}

/* ---- copies ---------------------------------------------------------------------------------- */

enum copy { COPY_OUT, COPY_IN, COPY_ADD };

static void copy_run(float *shared, float *values, uint64_t count, enum copy what) {
    if (what == COPY_OUT)
        memcpy(shared, values, count * sizeof(float));
    else if (what == COPY_IN)
        memcpy(values, shared, count * sizeof(float));
    else
        for (uint64_t i = 0; i < count; i++) values[i] += shared[i];
}

/* A run of the piece: `count` values that lie together here and in the flat vector, at `at`. */
static void copy_clipped(const struct atoll_site *site, uint64_t at, float *values, uint64_t count,
                         enum copy what) {
    uint64_t from = site->order.start, to = from + site->order.count;
    uint64_t first = at > from ? at : from, last = at + count < to ? at + count : to;
    if (first >= last) return;
    uint64_t area = what == COPY_OUT ? site->shared->out_at : site->shared->in_at;
    float *shared = (float *)(void *)((char *)site->shared + area);
    copy_run(shared + (first - from), values + (first - at), last - first, what);
}

/* The first dimension of which a run takes several rows: all after it are whole. */
static uint32_t run_dimension(const struct held_piece *piece) {
    uint32_t at = piece->dimensions;
    while (at > 0 && piece->offset[at - 1] == 0 && piece->extent[at - 1] == piece->shape[at - 1])
        at--;
    return at > 0 ? at - 1 : 0;
}

static void copy_rectangle(const struct atoll_site *site, const struct held_piece *piece,
                           float *values, enum copy what) {
    uint64_t stride[WIRE_DIMENSIONS + 1] = {0}, index[WIRE_DIMENSIONS] = {0};
    uint32_t dimensions = piece->dimensions, runs_in = run_dimension(piece);
    stride[dimensions] = 1;
    for (uint32_t d = dimensions; d > 0; d--) stride[d - 1] = stride[d] * piece->shape[d - 1];
    /* stride[d + 1] is how far apart two neighbours in dimension d are */
    uint64_t run = dimensions ? piece->extent[runs_in] * stride[runs_in + 1] : 1;
    for (;;) {
        uint64_t at = piece->base;
        for (uint32_t d = 0; d < dimensions; d++)
            at += (piece->offset[d] + index[d]) * stride[d + 1];
        copy_clipped(site, at, values, run, what);
        values += run;
        uint32_t d = runs_in;
        while (d > 0 && ++index[d - 1] == piece->extent[d - 1]) index[--d] = 0;
        if (d == 0) return;
    }
}

static bool is_empty(const struct held_piece *piece) {
    uint32_t dimensions = piece->flat ? 1 : piece->dimensions;
    for (uint32_t d = 0; d < dimensions; d++)
        if (piece->extent[d] == 0) return true;
    return false;
}

static void copy_piece(const struct atoll_site *site, const struct held_piece *piece, float *values,
                       enum copy what) {
    if (is_empty(piece)) return;
    if (piece->flat)
        copy_clipped(site, piece->base + piece->offset[0], values, piece->extent[0], what);
    else
        copy_rectangle(site, piece, values, what);
}

int atoll_concerns(const atoll_site *site, size_t piece) {
    if (!site->due || piece >= site->piece_count) return 0;
    const struct held_piece *held = &site->pieces[piece];
    bool here = held->base < site->order.start + site->order.count &&
                held->base + held->total > site->order.start;
    return here && !is_empty(held) && (site->order.kind != WIRE_PUBLISH || held->owned);
}

static int copy_one(atoll_site *site, size_t piece, float *values, uint64_t kind, enum copy what) {
    if (site->ended && !site->due) return site->ended;
    if (!site->due || site->order.kind != kind || piece >= site->piece_count)
        return complain(site, ATOLL_INVALID, "nothing of the kind is due");
    if (atoll_concerns(site, piece)) copy_piece(site, &site->pieces[piece], values, what);
    return ATOLL_OK;
}

int atoll_copy_out(atoll_site *site, size_t piece, const float *values) {
    return copy_one(site, piece, (float *)(uintptr_t)values, WIRE_PUBLISH, COPY_OUT);
}

int atoll_copy_in(atoll_site *site, size_t piece, float *values) {
    return copy_one(site, piece, values, WIRE_LOAD, COPY_IN);
}

int atoll_add(atoll_site *site, size_t piece, float *values) {
    return copy_one(site, piece, values, WIRE_ADD, COPY_ADD);
}

static int finish(atoll_site *site, bool is_publish) {
    if (site->ended && !site->due) return site->ended;
    if (!site->due || (site->order.kind == WIRE_PUBLISH) != is_publish)
        return complain(site, ATOLL_INVALID, "nothing of the kind is due");
    enum copy what = COPY_OUT;
    if (!is_publish) what = site->order.kind == WIRE_ADD ? COPY_ADD : COPY_IN;
    for (size_t i = 0; i < site->piece_count; i++)
        if (site->pieces[i].data && atoll_concerns(site, i))
            copy_piece(site, &site->pieces[i], site->pieces[i].data, what);
    if (!is_publish) site->version = site->order.version;
    site->due = false;
    note_order(site);
    atomic_store(&site->line->done, site->order.id);
    return ATOLL_OK;
}

int atoll_published(atoll_site *site) { return finish(site, true); }
int atoll_applied(atoll_site *site) { return finish(site, false); }

/* ---- looking --------------------------------------------------------------------------------- */

int atoll_stopping(const atoll_site *site) {
    if (site->over) return 1;
    return site->shared && (atomic_load(&site->shared->flags) & WIRE_STOPPING) ? 1 : 0;
}

double atoll_schedule_factor(const atoll_site *site) {
    double factor = 1;
    uint64_t bits = site->shared ? atomic_load(&site->shared->factor) : 0;
    if (bits != 0) memcpy(&factor, &bits, sizeof factor);
    return factor;
}

uint64_t atoll_inner_steps(const atoll_site *site) {
    return site->shared ? atomic_load(&site->shared->inner_steps) : 0;
}

uint64_t atoll_run_version(const atoll_site *site) { return site->version; }
uint64_t atoll_steps(const atoll_site *site) { return site->steps; }
uint64_t atoll_parameters(const atoll_site *site) {
    return site->shared ? site->shared->parameters : 0;
}
const char *atoll_message(const atoll_site *site) { return site ? site->message : "memory is out"; }
