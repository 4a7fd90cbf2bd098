/* Measures the kernel tables and keeps the answer (kernels/choice.h). One file per processor and
 * version of the tables, with a checksum; a file that is damaged or not ours is measured anew. */
#include "kernels/choice.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "base/checksum.h"
#include "base/file.h"
#include "base/memory.h"

enum { ROWS = 256, MATRICES = 4, TABLES_MAX = 8, ROUNDS = 7, CACHE_LIMIT = 1 << 20 };
static const double BUDGET_NS = 2e9, MARGIN = 1.03;

/* ---- the work: a layer's products forward and backward, and what is beside them -------------- */

struct choice_shape { /* of a model's layer */
    size_t hidden, ffn, heads;
};
static const struct choice_shape shapes[] = {{160, 448, 5}, {384, 1024, 12}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], LENGTH = 128 };

struct room { /* large enough for all tables and shapes */
    float *x, *y, *dx, *w, *dw, *lse;
    void *forward, *backward, *scratch;
};

static void matrices_of(const struct choice_shape *s, size_t out[MATRICES][2]) {
    const size_t h = s->hidden, f = s->ffn;
    const size_t all[MATRICES][2] = {{3 * h, h}, {h, h}, {2 * f, h}, {h, f}};
    memcpy(out, all, sizeof all);
}

static void room_deinit(struct room *room) {
    void *all[] = {room->x,   room->y,       room->dx,       room->w,      room->dw,
                   room->lse, room->forward, room->backward, room->scratch};
    for (size_t i = 0; i < COUNT_OF(all); i++) free(all[i]);
}

static bool take(size_t bytes, void *out) {
    void *memory;
    if (memory_try(bytes, 1, &memory, NULL) != OK) return false;
    memcpy(out, &memory, sizeof memory);
    return true;
}

static bool room_init(struct room *room, const struct kernels *const *tables, size_t count) {
    size_t widest = 0, largest = 0, forward = 0, backward = 0, scratch = 0, matrices[MATRICES][2];
    for (size_t s = 0; s < SHAPES; s++) {
        matrices_of(&shapes[s], matrices);
        for (size_t m = 0; m < MATRICES; m++) {
            size_t out = matrices[m][0], in = matrices[m][1];
            widest = MAX(widest, MAX(out, in));
            largest = MAX(largest, out * in);
            for (size_t t = 0; t < count; t++) {
                forward = MAX(forward, tables[t]->linear_forward_size(out, in));
                backward = MAX(backward, tables[t]->linear_backward_size(out, in));
                scratch = MAX(scratch, tables[t]->linear_scratch_size(ROWS, out, in));
            }
        }
        const struct attention_shape attention = {LENGTH, shapes[s].heads, shapes[s].heads,
                                                  shapes[s].hidden / shapes[s].heads};
        for (size_t t = 0; t < count; t++)
            scratch = MAX(scratch, tables[t]->attention_scratch_size(&attention));
    }
    size_t activations = ROWS * widest * sizeof(float);
    bool there = take(activations, &room->x) && take(activations, &room->y) &&
                 take(activations, &room->dx) && take(largest * sizeof(float), &room->w) &&
                 take(largest * sizeof(float), &room->dw) &&
                 take(64 * LENGTH * sizeof(float), &room->lse) && take(forward, &room->forward) &&
                 take(backward, &room->backward) && take(scratch, &room->scratch);
    if (!there) return false;
    for (size_t i = 0; i < ROWS * widest; i++) room->x[i] = (float)(i * 7 % 113) * 0.01f - 0.5f;
    for (size_t i = 0; i < largest; i++) room->w[i] = (float)(i * 11 % 127) * 0.001f - 0.06f;
    return true;
}

static void work(const struct kernels *k, const struct choice_shape *s, struct room *r) {
    size_t matrices[MATRICES][2];
    matrices_of(s, matrices);
    for (size_t m = 0; m < MATRICES; m++) {
        size_t out = matrices[m][0], in = matrices[m][1];
        k->linear_pack_forward(out, in, r->w, r->forward);
        k->linear_pack_backward(out, in, r->w, r->backward);
        k->linear_forward(ROWS, out, in, r->x, in, r->forward, NULL, r->y, out, r->scratch);
        k->linear_backward_input(ROWS, out, in, r->y, out, r->backward, r->dx, in, r->scratch);
        k->linear_backward_weight(ROWS, out, in, r->y, out, r->x, in, NULL, r->dw, r->scratch);
    }
    const struct attention_shape attention = {LENGTH, s->heads, s->heads, s->hidden / s->heads};
    size_t sequence = LENGTH * attention_qkv_width(&attention);
    for (size_t at = 0; at < ROWS / LENGTH; at++)
        k->attention_forward(&attention, r->x + at * sequence, r->y + at * LENGTH * s->hidden,
                             r->lse, r->scratch);
    k->attention_backward(&attention, r->x, r->y, r->lse, r->dx, r->y + ROWS * s->hidden,
                          r->scratch);
    k->swiglu_forward(ROWS, s->ffn, r->x, r->y);
}

/* The thread's own time: what others do in between is not in it. */
static double time_of(const struct kernels *k, const struct choice_shape *s, struct room *r) {
    struct timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    work(k, s, r);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    return (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
}

/* Least times, [count] per shape. Once over budget (a build without optimisation, a sanitizer) a
 * single round must do. */
static void measure_all(const struct kernels *const *tables, size_t count, struct room *room,
                        double least[SHAPES][TABLES_MAX]) {
    double spent = 0;
    for (size_t s = 0; s < SHAPES; s++) {
        for (size_t round = 0; round < ROUNDS && (round == 0 || spent < BUDGET_NS); round++)
            for (size_t t = 0; t < count; t++) {
                double took = time_of(tables[t], &shapes[s], room);
                spent += took;
                if (round == 0 || took < least[s][t]) least[s][t] = took;
            }
    }
}

/* A table's time over the fastest's, added up over the shapes: large models do not outvote small
 * ones. */
static void decide(const struct kernels *const *tables, size_t count,
                   double least[SHAPES][TABLES_MAX], struct kernels_choice *out) {
    double cost[TABLES_MAX] = {0}, best = 0;
    size_t used = (size_t)snprintf(out->why, sizeof out->why, "measured:"), chosen = 0;
    for (size_t s = 0; s < SHAPES; s++) {
        double fastest = least[s][0];
        for (size_t t = 0; t < count; t++) fastest = MIN(fastest, least[s][t]);
        for (size_t t = 0; t < count; t++) cost[t] += least[s][t] / MAX(fastest, 1.0);
    }
    for (size_t t = 0; t < count; t++) best = t == 0 ? cost[0] : MIN(best, cost[t]);
    while (cost[chosen] > best * MARGIN) chosen++;
    out->table = tables[chosen];
    for (size_t t = 0; t < count && used < sizeof out->why; t++)
        used += (size_t)snprintf(out->why + used, sizeof out->why - used, "%s %s %.2f+%.2f ms",
                                 t ? "," : "", tables[t]->name, least[0][t] * 1e-6,
                                 least[SHAPES - 1][t] * 1e-6);
}

void kernels_measure(const struct kernels *const *tables, size_t count,
                     struct kernels_choice *out) {
    double least[SHAPES][TABLES_MAX] = {{0}};
    struct room room = {0};
    ASSERT(count >= 1 && count <= TABLES_MAX);
    out->table = tables[count - 1];
    if (count == 1) {
        snprintf(out->why, sizeof out->why, "the only one that this processor can run");
    } else if (!room_init(&room, tables, count)) {
        snprintf(out->why, sizeof out->why,
                 "not measured, there is no memory: the last that this processor can run");
    } else {
        measure_all(tables, count, &room, least);
        decide(tables, count, least, out);
    }
    room_deinit(&room);
}

/* ---- the file: `CHECKSUM PROCESSOR | NAME | WHY` --------------------------------------------- */

static const char separator[] = " | ";

static const struct kernels *named(const struct kernels *const *tables, size_t count,
                                   const char *name, size_t size) {
    for (size_t i = 0; i < count; i++)
        if (strlen(tables[i]->name) == size && memcmp(tables[i]->name, name, size) == 0)
            return tables[i];
    return NULL;
}

/* Whether the line is whole; its text without the checksum. */
static const char *line_text(const char *line) {
    uint64_t sum;
    if (strlen(line) < 18 || line[16] != ' ' || sscanf(line, "%16" SCNx64, &sum) != 1) return NULL;
    const char *text = line + 17;
    return checksum_crc64(bytes_of(text, strlen(text))) == sum ? text : NULL;
}

/* The line's processor is this one. */
static bool is_ours(const char *text, const char *processor) {
    size_t size = strlen(processor);
    return strncmp(text, processor, size) == 0 &&
           strncmp(text + size, separator, sizeof separator - 1) == 0;
}

static bool read_choice(const char *text, const char *processor,
                        const struct kernels *const *tables, size_t count,
                        struct kernels_choice *out) {
    if (!is_ours(text, processor)) return false;
    const char *name = text + strlen(processor) + sizeof separator - 1,
               *why = strstr(name, separator);
    const struct kernels *table = why ? named(tables, count, name, (size_t)(why - name)) : NULL;
    if (!table) return false;
    out->table = table;
    snprintf(out->why, sizeof out->why, "%s", why + sizeof separator - 1);
    return true;
}

/* Goes through the whole lines: true if one is the answer; those of other processors are added to
 * *others. */
static bool read_file(const char *path, const char *processor, const struct kernels *const *tables,
                      size_t count, struct kernels_choice *out, struct buffer *others) {
    struct buffer content = {0};
    bool found = false;
    char *rest = NULL;
    if (file_read(path, CACHE_LIMIT, &content, NULL) == OK) {
        for (char *line = strtok_r((char *)content.data, "\n", &rest); line && !found;
             line = strtok_r(NULL, "\n", &rest)) {
            const char *text = line_text(line);
            if (!text) continue;
            found = read_choice(text, processor, tables, count, out);
            if (!is_ours(text, processor)) buffer_append_text(others, "%s\n", line);
        }
    }
    buffer_deinit(&content);
    return found;
}

/* Who writes at the same time has measured the same, or has another processor: whose line is lost
 * measures again. */
static void keep(const char *path, const char *processor, const struct kernels_choice *choice,
                 struct buffer *others) {
    char *text = xformat("%s%s%s%s%s", processor, separator, choice->table->name, separator,
                         choice->why),
         *folder = xstrdup(path);
    char *slash = strrchr(folder, '/');
    if (slash && slash != folder) *slash = 0;
    buffer_append_text(others, "%016" PRIx64 " %s\n", checksum_crc64(bytes_of(text, strlen(text))),
                       text);
    /* What cannot be kept is measured again, that is all. */
    if (file_make_directory(folder, 0700, NULL) == OK)
        (void)!file_write(path, buffer_bytes(others), 0600, NULL);
    free(folder);
    free(text);
}

void kernels_choose(const char *path, const char *processor, const struct kernels *const *tables,
                    size_t count, struct kernels_choice *out) {
    struct buffer others = {0};
    if (count == 1 || !path || !read_file(path, processor, tables, count, out, &others)) {
        kernels_measure(tables, count, out);
        if (count > 1 && path) keep(path, processor, out, &others);
    }
    buffer_deinit(&others);
}

/* ---- the processor --------------------------------------------------------------------------- */

static void model_text(char *out, size_t size) {
#ifdef __x86_64__
    unsigned a, b, c, d, brand[12] = {0};
    char vendor[13] = "";
    unsigned signature = 0;
    if (__get_cpuid(0, &a, &b, &c, &d))
        memcpy(vendor, &b, 4), memcpy(vendor + 4, &d, 4), memcpy(vendor + 8, &c, 4);
    if (__get_cpuid(1, &a, &b, &c, &d)) signature = a;
    for (unsigned i = 0; i < 3; i++) {
        if (!__get_cpuid(0x80000002u + i, &a, &b, &c, &d)) break;
        const unsigned words[4] = {a, b, c, d};
        memcpy(brand + 4 * i, words, sizeof words);
    }
    snprintf(out, size, "%.12s %08x %.48s", vendor, signature, (const char *)brand);
#else
    snprintf(out, size, "other");
#endif
    for (char *at = out; *at; at++)
        if (*at < ' ' || *at == '|' || *at > '~') *at = ' ';
}

void kernels_processor(const struct kernels *const *tables, size_t count,
                       char out[static PROCESSOR_LINE_SIZE]) {
    char model[96];
    model_text(model, sizeof model);
    size_t used =
        (size_t)snprintf(out, PROCESSOR_LINE_SIZE, "%s, tables %d, compiler " __VERSION__ ":",
                         model, CHOICE_TABLES_VERSION);
    for (size_t i = 0; i < count && used < PROCESSOR_LINE_SIZE; i++)
        used += (size_t)snprintf(out + used, PROCESSOR_LINE_SIZE - used, " %s", tables[i]->name);
}
