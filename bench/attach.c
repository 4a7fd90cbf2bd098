/* What attaching costs a training job: 124 M parameters in fp32, two ranks that hold half of the
 * rows each, two fragments. The node's part is the border alone.
 *     build/release/bench/attach [PARAMETERS [ROUNDS]]
 *
 * A step here is one pass over the rank's parameters, which is less than any training does: so what
 * a step of libatoll's costs beside it is an upper bound of its share. Steps that publish or add
 * are counted apart, beside a memory copy of as many bytes by the same ranks at the same time.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/border.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "libatoll/atoll.h"

enum { RANKS = 2, FRAGMENTS = 2, COLUMNS = 1024, PLAIN_STEPS = 50 };

struct counters { /* of a rank */
    uint64_t steps, step_ns, library_ns;
    uint64_t published, publish_ns, added, add_ns;
    uint64_t copies, copy_ns;
    uint64_t anonymous_before, anonymous_after; /* kB */
};

struct common {
    pthread_barrier_t barrier;
    struct counters rank[RANKS];
    volatile int over;
};

static struct common *common;
static uint64_t rows, parameters;

static uint64_t anonymous_kb(void) {
    char line[256];
    uint64_t found = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "RssAnon:", 8) == 0) found = strtoull(line + 8, NULL, 10);
    if (file) fclose(file);
    return found;
}

static void place(void *context, uint32_t fragment, uint64_t *start, uint64_t *count) {
    (void)context;
    *start = fragment * (parameters / FRAGMENTS);
    *count = parameters / FRAGMENTS;
}

static uint64_t load(void *context, uint32_t fragment, float *out, bool *add) {
    uint64_t start, count;
    (void)context;
    place(NULL, fragment, &start, &count);
    memset(out, 0, count * sizeof(float));
    *add = false;
    return 0;
}

static void complain(void *context, const char *message) {
    (void)context;
    printf("the session ended: %s\n", message);
}

/* ---- a rank ---------------------------------------------------------------------------------- */

static void one_pass(float *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) values[i] = values[i] * 0.999f + 1e-3f;
}

/* What a publication or a correction is beside: as many bytes, by all ranks at once. */
static void copy_beside(struct counters *counters, const float *values, float *other,
                        uint64_t count) {
    pthread_barrier_wait(&common->barrier);
    uint64_t from = clock_monotonic_ns();
    memcpy(other, values, count * sizeof(float));
    counters->copy_ns += clock_monotonic_ns() - from;
    counters->copies++;
}

static void carry_out(atoll_site *site, int result, uint64_t from, struct counters *counters) {
    if (result == ATOLL_PUBLISH) {
        (void)atoll_published(site);
        counters->publish_ns += clock_monotonic_ns() - from;
        counters->published++;
    } else if (result == ATOLL_ADD) {
        (void)atoll_applied(site);
        counters->add_ns += clock_monotonic_ns() - from;
        counters->added++;
    }
}

static int live(uint32_t rank, const char *directory) {
    uint64_t own = rows / RANKS, count = own * COLUMNS;
    struct counters *counters = &common->rank[rank];
    float *values = xcalloc(count, sizeof *values);
    float *other = mmap(NULL, count / FRAGMENTS * sizeof(float), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    struct atoll_options options = {.directory = directory, .rank = rank, .world = RANKS};
    struct atoll_piece piece = {.name = "matrix",
                                .dimensions = 2,
                                .shape = {rows, COLUMNS},
                                .offset = {rank * own, 0},
                                .extent = {own, COLUMNS},
                                .data = values};
    atoll_site *site = NULL;
    one_pass(values, count);
    counters->anonymous_before = anonymous_kb();
    int result = atoll_attach(&options, &site);
    if (result == ATOLL_OK) result = atoll_declare(site, &piece, 1);
    while (result == ATOLL_OK && (result = atoll_ready(site)) > 0) result = atoll_applied(site);
    while (result == ATOLL_OK && !common->over) {
        pthread_barrier_wait(&common->barrier);
        uint64_t begun = clock_monotonic_ns();
        one_pass(values, count);
        pthread_barrier_wait(&common->barrier);
        uint64_t from = clock_monotonic_ns();
        result = atoll_step(site, 1024, 2.0);
        uint64_t now = clock_monotonic_ns();
        if (result == ATOLL_OK) {
            counters->steps++;
            counters->step_ns += now - begun;
            counters->library_ns += now - from;
        } else if (result > 0) {
            carry_out(site, result, from, counters);
            copy_beside(counters, values, other, count / FRAGMENTS);
            result = ATOLL_OK;
        }
        if (rank == 0 && atoll_stopping(site)) common->over = 1;
        pthread_barrier_wait(&common->barrier);
    }
    counters->anonymous_after = anonymous_kb();
    if (result != ATOLL_OK) printf("rank %u: %s\n", rank, atoll_message(site));
    atoll_detach(site);
    return result == ATOLL_OK ? 0 : 1;
}

/* ---- the node -------------------------------------------------------------------------------- */

static void wait_done(struct border *border) {
    uint64_t at;
    while (!border_is_done(border, &at)) border_poll(border, 1);
    border_forget(border);
}

static void exchange(struct border *border, int rounds) {
    uint64_t start, count;
    struct border_progress progress = {0};
    while (border_session(border) == 0) border_poll(border, 1);
    for (int round = 0; round < rounds * FRAGMENTS; round++) {
        uint32_t fragment = (uint32_t)round % FRAGMENTS;
        place(NULL, fragment, &start, &count);
        border_publish(border, fragment);
        wait_done(border);
        memset(border_correction(border), 0, count * sizeof(float));
        border_add(border, fragment, (uint64_t)round);
        wait_done(border);
    }
    uint64_t until = (border_progress(border, &progress), progress.steps) + PLAIN_STEPS;
    while (border_progress(border, &progress), progress.steps < until) border_poll(border, 5);
    border_tell(border, true, 1, 1);
    while (border_has_ranks(border)) border_poll(border, 5);
}

static void say(const char *what, uint64_t count, uint64_t ns, double copy_ms, uint64_t bytes) {
    double ms = count ? (double)ns / (double)count * 1e-6 : 0;
    printf("%-8s %6.1f ms for %llu MB a rank, %3.0f %% of a memory copy's rate (%.1f ms)\n", what,
           ms, (unsigned long long)bytes / 1000000, ms > 0 ? 100 * copy_ms / ms : 0, copy_ms);
}

static void report(uint64_t border_bytes, uint32_t tensors) {
    uint64_t bytes = parameters / FRAGMENTS / RANKS * sizeof(float), extra = 0;
    struct counters all = {0};
    for (int i = 0; i < RANKS; i++) {
        const struct counters *one = &common->rank[i];
        all.steps += one->steps;
        all.step_ns += one->step_ns;
        all.library_ns += one->library_ns;
        all.published += one->published;
        all.publish_ns += one->publish_ns;
        all.added += one->added;
        all.add_ns += one->add_ns;
        all.copies += one->copies;
        all.copy_ns += one->copy_ns;
        if (one->anonymous_after > one->anonymous_before)
            extra = MAX(extra, one->anonymous_after - one->anonymous_before);
    }
    double copy_ms = all.copies ? (double)all.copy_ns / (double)all.copies * 1e-6 : 0;
    printf("%llu parameters, %d ranks, %d fragments\n", (unsigned long long)parameters, RANKS,
           FRAGMENTS);
    printf("step     %6.0f ns in libatoll, %.4f %% of a step that is one pass over the parameters "
           "(%.1f ms); %llu steps\n",
           (double)all.library_ns / (double)all.steps,
           100 * (double)all.library_ns / (double)all.step_ns,
           (double)all.step_ns / (double)all.steps * 1e-6, (unsigned long long)all.steps);
    say("publish", all.published, all.publish_ns, copy_ms, bytes);
    say("add", all.added, all.add_ns, copy_ms, bytes);
    printf("trainer  %.1f MiB more in each rank, beside the node's memory\n", (double)extra / 1024);
    printf("node     %llu bytes are shared, %llu by the formula\n",
           (unsigned long long)border_bytes,
           (unsigned long long)border_memory(RANKS, tensors, parameters / FRAGMENTS));
}

int main(int argc, char **argv) {
    char directory[] = "/tmp/atoll-bench-XXXXXX";
    struct border *border = NULL;
    struct error error = {0};
    int rounds = argc > 2 ? atoi(argv[2]) : 5;
    pid_t ranks[RANKS];
    parameters = argc > 1 ? strtoull(argv[1], NULL, 10) : UINT64_C(124000000);
    rows = MAX(parameters / COLUMNS / 4 * 4, (uint64_t)4);
    parameters = rows * COLUMNS;
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (common == MAP_FAILED || !mkdtemp(directory)) return 1;
    pthread_barrierattr_t shared;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&common->barrier, &shared, RANKS);
    char *socket = file_join(directory, "attach.sock"),
         *token = file_join(directory, "attach.token");
    struct coverage_tensor tensor = {
        .name = "matrix", .count = parameters, .dimensions = 2, .shape = {rows, COLUMNS}};
    struct border_options options = {.socket = socket,
                                     .token_file = token,
                                     .tensors = &tensor,
                                     .tensor_count = 1,
                                     .parameters = parameters,
                                     .fragments = FRAGMENTS,
                                     .stand = -1,
                                     .timeout_ms = 60000,
                                     .range = place,
                                     .load = load,
                                     .complain = complain};
    if (border_open(&options, &border, &error) != OK) {
        printf("%s\n", error.message);
        return 1;
    }
    fflush(stdout);
    for (uint32_t i = 0; i < RANKS; i++) {
        ranks[i] = fork();
        if (ranks[i] == 0) _exit(live(i, directory));
    }
    exchange(border, rounds);
    for (uint32_t i = 0; i < RANKS; i++) waitpid(ranks[i], NULL, 0);
    report(border_size(border), 1);
    border_close(border);
    free(socket);
    free(token);
    (void)!file_remove_tree(directory, NULL);
    return 0;
}
