/* A border and its ranks, for the tests of attach/ and relay/: ranks in threads, the node's part in
 * the test's own. */
#ifndef TESTS_ATTACH_FIXTURE_H
#define TESTS_ATTACH_FIXTURE_H

#include <pthread.h>
#include <stdatomic.h>

#include "attach/border.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "libatoll/atoll.h"
#include "libatoll/wire.h"
#include "tests/test.h"

enum {
    ROWS = 6,
    COLUMNS = 5,
    NORM = 4,
    PARAMETERS = ROWS * COLUMNS + NORM,
    RANKS = 3,
    WORDS = 400
};

static const struct coverage_tensor tensors[] = {
    {.name = "matrix", .count = ROWS * COLUMNS, .dimensions = 2, .shape = {ROWS, COLUMNS}},
    {.name = "norm", .offset = ROWS * COLUMNS, .count = NORM, .dimensions = 1, .shape = {NORM}},
};

struct node {
    struct border *border;
    float model[PARAMETERS]; /* what sessions begin with */
    char said[WORDS];        /* the last complaint */
    char *directory, *socket;
    uint64_t wait_ms; /* 0: long */
};

static inline void fragment_at(void *context, uint32_t fragment, uint64_t *start, uint64_t *count) {
    (void)context;
    *start = fragment == 0 ? 0 : 13; /* in the middle of a row */
    *count = fragment == 0 ? 13 : PARAMETERS - 13;
}

static inline uint64_t load(void *context, uint32_t fragment, float *out, bool *add) {
    struct node *node = context;
    *add = false;
    uint64_t start, count;
    fragment_at(NULL, fragment, &start, &count);
    memcpy(out, node->model + start, count * sizeof(float));
    return 7 + fragment;
}

static inline void complain(void *context, const char *message) {
    struct node *node = context;
    snprintf(node->said, sizeof node->said, "%s", message);
}

static inline struct border_options options_of(struct node *node, const char *socket,
                                               const char *token) {
    return (struct border_options){.socket = socket,
                                   .token_file = token,
                                   .tensors = tensors,
                                   .tensor_count = COUNT_OF(tensors),
                                   .parameters = PARAMETERS,
                                   .fragments = 2,
                                   .timeout_ms = 1000,
                                   .wait_ms = node->wait_ms ? node->wait_ms : 20000,
                                   .context = node,
                                   .range = fragment_at,
                                   .stand = -1,
                                   .load = load,
                                   .complain = complain};
}

static inline struct node *node_start_waiting(uint64_t wait_ms) {
    struct node *node = xcalloc(1, sizeof *node);
    node->wait_ms = wait_ms;
    struct error error = {0};
    node->directory = xstrdup(test_directory());
    node->socket = file_join(node->directory, "attach.sock");
    char *token = file_join(node->directory, "attach.token");
    struct border_options options = options_of(node, node->socket, token);
    for (size_t i = 0; i < PARAMETERS; i++) node->model[i] = (float)i;
    CHECK_OK(border_open(&options, &node->border, &error));
    free(token);
    return node;
}

static inline struct node *node_start(void) { return node_start_waiting(0); }

static inline void node_stop(struct node *node) {
    border_close(node->border);
    free(node->directory);
    free(node->socket);
    free(node);
}

/* ---- ranks, each a thread -------------------------------------------------------------------- */

enum split { SPLIT_NONE, SPLIT_ROWS, SPLIT_COLUMNS, SPLIT_FLAT };

struct job {
    pthread_barrier_t step;
    atomic_bool over; /* says rank 0 */
};

struct member {
    const struct node *node;
    const char *directory; /* where it attaches; NULL: the node's */
    pthread_t thread;
    uint32_t rank, world;
    enum split split;
    uint64_t generation;
    bool misdeclares; /* leaves out a row */
    bool ignores;     /* that it is to publish */
    bool stands;      /* it never trains a step */
    bool paced;       /* a step takes a millisecond */
    atomic_bool stop;
    atomic_ullong steps;
    struct job *job;                          /* whose ranks are in lockstep; NULL: one rank */
    float matrix[ROWS * COLUMNS], norm[NORM]; /* its parts, one value after the other */
    int result;
    char message[WORDS];
};

/* [0, whole) in as many parts as there are ranks, the first ones larger. */
static inline void part_of(const struct member *member, uint64_t whole, uint64_t *from,
                           uint64_t *count) {
    uint64_t each = (whole + member->world - 1) / member->world;
    *from = MIN(member->rank * each, whole);
    *count = MIN(each, whole - *from);
}

static inline void declare(const struct member *member, struct atoll_piece out[2]) {
    uint64_t from, count;
    struct atoll_piece matrix = {.name = "matrix",
                                 .dimensions = 2,
                                 .shape = {ROWS, COLUMNS},
                                 .extent = {ROWS, COLUMNS},
                                 .data = (float *)(uintptr_t)member->matrix};
    struct atoll_piece norm = {.name = "norm",
                               .dimensions = 1,
                               .shape = {NORM},
                               .extent = {NORM},
                               .data = (float *)(uintptr_t)member->norm};
    if (member->split == SPLIT_ROWS || member->split == SPLIT_COLUMNS) {
        int d = member->split == SPLIT_ROWS ? 0 : 1;
        part_of(member, matrix.shape[d], &from, &count);
        matrix.offset[d] = from;
        matrix.extent[d] = count;
    } else if (member->split == SPLIT_FLAT) {
        part_of(member, ROWS * COLUMNS, &from, &count);
        matrix.flat = 1;
        matrix.offset[0] = from;
        matrix.extent[0] = count;
    }
    if (member->misdeclares) matrix.extent[0]--;
    out[0] = matrix;
    out[1] = norm;
}

static inline int carry_out(atoll_site *site, int result) {
    if (result == ATOLL_PUBLISH) return atoll_published(site);
    if (result == ATOLL_ADD || result == ATOLL_LOAD) return atoll_applied(site);
    return result;
}

/* A step adds 1 to everything. */
static inline void train(struct member *member) {
    for (size_t i = 0; i < ROWS * COLUMNS; i++) member->matrix[i] += 1;
    for (size_t i = 0; i < NORM; i++) member->norm[i] += 1;
}

static inline void *live(void *context) {
    struct member *member = context;
    struct atoll_options options = {.directory = member->directory ? member->directory
                                                                   : member->node->directory,
                                    .rank = member->rank,
                                    .world = member->world,
                                    .generation = member->generation,
                                    .timeout_ms = 20000};
    struct atoll_piece pieces[2];
    atoll_site *site = NULL;
    bool over = false;
    declare(member, pieces);
    int result = atoll_attach(&options, &site);
    if (result == ATOLL_OK) result = atoll_declare(site, pieces, 2);
    while (result == ATOLL_OK && (result = atoll_ready(site)) == ATOLL_LOAD)
        result = atoll_applied(site);
    while (result == ATOLL_OK && member->stands && !atomic_load(&member->stop)) clock_sleep_ms(1);
    while (result == ATOLL_OK && !member->stands && !over) {
        if (member->paced) clock_sleep_ms(1);
        train(member);
        if (member->job) pthread_barrier_wait(&member->job->step);
        result = atoll_step(site, 10, 2.5);
        result = member->ignores && result == ATOLL_PUBLISH ? ATOLL_OK : carry_out(site, result);
        atomic_store(&member->steps, atoll_steps(site));
        if (!member->job) {
            over = atomic_load(&member->stop);
            continue;
        }
        if (member->rank == 0) atomic_store(&member->job->over, atoll_stopping(site));
        pthread_barrier_wait(&member->job->step);
        over = atomic_load(&member->job->over);
    }
    member->result = result;
    snprintf(member->message, sizeof member->message, "%s", atoll_message(site));
    atoll_detach(site);
    return NULL;
}

static inline void start(struct member *member) {
    CHECK_EQUAL(pthread_create(&member->thread, NULL, live, member), 0);
}

static inline void poll_until(struct node *node, bool (*holds)(struct node *, void *),
                              void *context) {
    uint64_t until = clock_monotonic_ms() + 30000;
    while (!holds(node, context)) {
        if (clock_monotonic_ms() > until)
            test_failed(__FILE__, __LINE__, "not in time; last said: %s", node->said);
        border_poll(node->border, 1);
    }
}

static inline bool trains(struct node *node, void *context) {
    (void)context;
    return border_session(node->border) != 0;
}
static inline bool has_ended(struct node *node, void *context) {
    (void)context;
    return !border_has_ranks(node->border);
}
static inline bool is_done(struct node *node, void *at) { return border_is_done(node->border, at); }
static inline bool has_said(struct node *node, void *text) {
    return strstr(node->said, text) != NULL;
}

static inline void join(struct member *member) { pthread_join(member->thread, NULL); }

/* ---- what ranks and the node do together ----------------------------------------------------- */

/* directories: of each rank; NULL: the node's. */
static inline void exchange_at(struct node *node, enum split split, uint32_t world,
                               const char *const *directories) {
    struct member members[RANKS] = {0};
    struct job job = {0};
    pthread_barrier_init(&job.step, NULL, world);
    for (uint32_t i = 0; i < world; i++) {
        members[i] =
            (struct member){.node = node, .rank = i, .world = world, .split = split, .job = &job};
        if (directories) members[i].directory = directories[i];
        start(&members[i]);
    }
    poll_until(node, trains, NULL);
    float expected[PARAMETERS], *c;
    uint64_t at, before = 0;
    memcpy(expected, node->model, sizeof expected);
    for (int round = 0; round < 20; round++) {
        uint32_t fragment = (uint32_t)round % 2;
        uint64_t start_at, count;
        fragment_at(NULL, fragment, &start_at, &count);
        border_publish(node->border, fragment);
        poll_until(node, is_done, &at);
        CHECK(at > before);
        for (uint64_t i = 0; i < count; i++)
            CHECK_EQUAL(border_published(node->border)[i], expected[start_at + i] + (float)at);
        border_forget(node->border);
        c = border_correction(node->border);
        for (uint64_t i = 0; i < count; i++) {
            c[i] = (float)(round * 100) + (float)i;
            expected[start_at + i] += c[i];
        }
        border_add(node->border, fragment, 100);
        poll_until(node, is_done, &before);
        CHECK(before > at);
        border_forget(node->border);
    }
    struct border_progress progress;
    border_progress(node->border, &progress);
    CHECK(progress.steps >= before && progress.ranks == world);
    CHECK(progress.tokens >= 10 * progress.steps);
    CHECK_EQUAL(progress.loss, 2.5);
    border_tell(node->border, true, 30, 0.5);
    poll_until(node, has_ended, NULL);
    for (uint32_t i = 0; i < world; i++) join(&members[i]);
    pthread_barrier_destroy(&job.step);
}

#endif
