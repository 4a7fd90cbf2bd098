#include "kernels/choice.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/kernels_kept.h"
#include "tests/test.h"

/* Tables of known speed: a product that takes its time, and nothing else. */
static unsigned measured;
static volatile float sink;

static void spend(unsigned turns) {
    measured++;
    for (unsigned i = 0; i < turns; i++) sink = sink + 1.0f;
}
static void slow(size_t rows, size_t out, size_t in, const float *x, size_t x_stride,
                 const void *packed, const float *add, float *y, size_t y_stride, void *scratch) {
    (void)rows, (void)out, (void)in, (void)x, (void)x_stride, (void)packed, (void)add, (void)y,
        (void)y_stride, (void)scratch;
    spend(200000);
}
static void fast(size_t rows, size_t out, size_t in, const float *x, size_t x_stride,
                 const void *packed, const float *add, float *y, size_t y_stride, void *scratch) {
    (void)rows, (void)out, (void)in, (void)x, (void)x_stride, (void)packed, (void)add, (void)y,
        (void)y_stride, (void)scratch;
    spend(20000);
}
static void no_pack(size_t out, size_t in, const float *w, void *packed) {
    (void)out, (void)in, (void)w, (void)packed;
}
static void no_input(size_t rows, size_t out, size_t in, const float *dy, size_t dy_stride,
                     const void *packed, float *dx, size_t dx_stride, void *scratch) {
    (void)rows, (void)out, (void)in, (void)dy, (void)dy_stride, (void)packed, (void)dx,
        (void)dx_stride, (void)scratch;
}
static void no_weight(size_t rows, size_t out, size_t in, const float *dy, size_t dy_stride,
                      const float *x, size_t x_stride, const float *add, float *dw, void *scratch) {
    (void)rows, (void)out, (void)in, (void)dy, (void)dy_stride, (void)x, (void)x_stride, (void)add,
        (void)dw, (void)scratch;
}
static void no_forward(const struct attention_shape *shape, const float *qkv, float *out,
                       float *lse, void *scratch) {
    (void)shape, (void)qkv, (void)out, (void)lse, (void)scratch;
}
static void no_backward(const struct attention_shape *shape, const float *qkv, const float *out,
                        const float *lse, const float *d_out, float *d_qkv, void *scratch) {
    (void)shape, (void)qkv, (void)out, (void)lse, (void)d_out, (void)d_qkv, (void)scratch;
}
static void no_swiglu(size_t rows, size_t width, const float *gate_up, float *h) {
    (void)rows, (void)width, (void)gate_up, (void)h;
}

static struct kernels named(const char *name, bool is_slow) {
    struct kernels k = *kernels_at(0);
    k.name = name;
    k.linear_forward = is_slow ? slow : fast;
    k.linear_pack_forward = k.linear_pack_backward = no_pack;
    k.linear_backward_input = no_input;
    k.linear_backward_weight = no_weight;
    k.attention_forward = no_forward;
    k.attention_backward = no_backward;
    k.swiglu_forward = no_swiglu;
    return k;
}

static char *cache(void) { return xformat("%s/deep/er/kernels", test_directory()); }

TEST(the_fastest_is_chosen_wherever_it_stands_and_the_line_says_what_each_took) {
    for (unsigned at = 0; at < 3; at++) {
        const struct kernels tables[] = {named("a", at != 0), named("b", at != 1),
                                         named("c", at != 2)};
        const struct kernels *const list[] = {&tables[0], &tables[1], &tables[2]};
        struct kernels_choice choice;
        kernels_measure(list, 3, &choice);
        CHECK_TEXT(choice.table->name, tables[at].name);
        for (unsigned i = 0; i < 3; i++) CHECK_CONTAINS(choice.why, tables[i].name);
        CHECK_CONTAINS(choice.why, " ms");
    }
}

TEST(what_has_no_alternative_is_not_measured) {
    const struct kernels a = named("a", false);
    const struct kernels *const one[] = {&a};
    struct kernels_choice choice;
    measured = 0;
    kernels_measure(one, 1, &choice);
    CHECK_TEXT(choice.table->name, "a");
    CHECK_EQUAL(measured, 0); /* there is nothing to choose */
    CHECK_CONTAINS(choice.why, "only one");
}

TEST(an_answer_is_kept_per_processor_and_not_measured_again) {
    const struct kernels quick = named("fast", false), other = named("other", true);
    const struct kernels *const list[] = {&other, &quick};
    struct kernels_choice choice;
    char *path = cache();
    measured = 0;
    kernels_choose(path, "one processor", list, 2, &choice);
    CHECK_TEXT(choice.table->name, "fast");
    unsigned once = measured;
    CHECK(once > 0);
    kernels_choose(path, "one processor", list, 2, &choice);
    CHECK_EQUAL(measured, once);
    CHECK_TEXT(choice.table->name, "fast");
    CHECK_CONTAINS(choice.why, "measured: ");
    kernels_choose(path, "one processo", list, 2,
                   &choice); /* another one, though its name begins alike */
    CHECK(measured > once);
    once = measured;
    kernels_choose(path, "one processor", list, 2, &choice); /* both are kept */
    kernels_choose(path, "one processo", list, 2, &choice);
    CHECK_EQUAL(measured, once);
    const struct kernels *const without[] = {&other, &other};
    kernels_choose(path, "one processor", without, 2,
                   &choice); /* it names one that cannot run: as if it were not there */
    CHECK_TEXT(choice.table->name, "other");
    free(path);
}

TEST(a_damaged_a_bogus_and_an_unwritable_file_mean_measuring_and_nothing_else) {
    const struct kernels quick = named("fast", false), other = named("other", true);
    const struct kernels *const list[] = {&other, &quick};
    struct kernels_choice choice;
    struct error error = {0};
    struct buffer content = {0};
    char *path = cache();
    kernels_choose(path, "p", list, 2, &choice);
    CHECK_OK(file_read(path, 1 << 20, &content, &error));
    for (size_t i = 0; i < content.size; i += 7) {
        char *bad = xmalloc(content.size);
        memcpy(bad, content.data, content.size);
        bad[i] ^= 2;
        CHECK_OK(file_write(path, bytes_of(bad, content.size), 0600, &error));
        measured = 0;
        kernels_choose(path, "p", list, 2, &choice);
        CHECK(measured > 0);
        CHECK_TEXT(choice.table->name, "fast");
        free(bad);
        if (i > 70) i += 30;
    }
    static const char bogus[] =
        "p | other | because I say so\n0000000000000000 p | other | no\n\0\xff\n";
    CHECK_OK(file_write(path, bytes_of(bogus, sizeof bogus), 0600, &error));
    kernels_choose(path, "p", list, 2, &choice);
    CHECK_TEXT(choice.table->name, "fast");
    CHECK(unlink(path) == 0 && mkfifo(path, 0600) == 0); /* nor does it hang */
    kernels_choose(path, "p", list, 2, &choice);
    kernels_choose("/proc/nowhere/kernels", "p", list, 2, &choice);
    kernels_choose(NULL, "p", list, 2, &choice);
    CHECK_TEXT(choice.table->name, "fast");
    buffer_deinit(&content);
    free(path);
}

TEST(who_writes_at_the_same_time_leaves_a_file_that_can_be_read) {
    const struct kernels quick = named("fast", false), other = named("other", true);
    const struct kernels *const list[] = {&other, &quick};
    char *path = cache();
    pid_t children[6];
    for (unsigned i = 0; i < COUNT_OF(children); i++)
        if ((children[i] = fork()) == 0) {
            struct kernels_choice choice;
            char processor[16];
            snprintf(processor, sizeof processor, "p%u", i / 2);
            kernels_choose(path, processor, list, 2, &choice);
            _exit(choice.table == &quick ? 0 : 1);
        }
    for (unsigned i = 0; i < COUNT_OF(children); i++) {
        int status = 1;
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECK_EQUAL(status, 0);
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < 3; i++) {
        struct kernels_choice choice;
        char processor[16];
        snprintf(processor, sizeof processor, "p%u", i);
        measured = 0;
        kernels_choose(path, processor, list, 2, &choice);
        kept += measured == 0;
    }
    CHECK(kept >= 1); /* the last writer */
    free(path);
}

TEST(the_default_is_the_kept_answer_and_says_why) {
    unsetenv("ATOLL_KERNELS");
    setenv("ATOLL_CACHE", test_directory(), 1);
    const struct kernels *table;
    struct error error = {0};
    CHECK_OK(kernels_default(&table, &error));
    if (kernels_at(1)) {
        char *path = file_cache("kernels");
        struct buffer content = {0};
        CHECK_OK(file_read(path, 1 << 20, &content, &error));
        char *name = xformat(" | %s | measured: ", table->name);
        CHECK_CONTAINS((const char *)content.data, name);
        CHECK_CONTAINS(kernels_why(table), "measured: ");
        CHECK_TEXT(kernels_why(kernels_at(0)), "asked for by name");
        free(name), free(path);
        buffer_deinit(&content);
    } else {
        CHECK_CONTAINS(kernels_why(table), "only one");
    }
    setenv("ATOLL_KERNELS", table->name, 1);
    CHECK_CONTAINS(kernels_why(table), "ATOLL_KERNELS");
}

TEST(a_cache_is_where_the_variables_say_and_nowhere_without_them) {
    const char *const names[] = {"ATOLL_CACHE", "XDG_CACHE_HOME", "HOME"}, *const wanted[] = {
                                                                               "x", "atoll/x",
                                                                               ".cache/atoll/x"};
    for (unsigned i = 0; i < 3; i++) unsetenv(names[i]);
    CHECK(file_cache("x") == NULL);
    for (unsigned i = 3; i-- > 0;) {
        setenv(names[i], "relative", 1);
        if (i == 2) CHECK(file_cache("x") == NULL);
        setenv(names[i], test_directory(), 1);
        char *path = file_cache("x"), *expected = file_join(test_directory(), wanted[i]);
        CHECK_TEXT(path, expected);
        free(path), free(expected);
    }
}

TEST(a_training_goes_on_with_the_table_it_began_with_unless_told_otherwise) {
    unsetenv("ATOLL_KERNELS");
    CHECK(kernels_to_use(NULL, "", "here") == NULL);
    CHECK_TEXT(kernels_to_use(NULL, "portable", "here"), "portable");
    CHECK_TEXT(kernels_to_use("portable", "avx2", "here"), "portable");
    CHECK(kernels_to_use(NULL, "amx9000", "here") ==
          NULL); /* not of this processor: said, and the default */
    CHECK(kernels_to_use(NULL, "cuda", "here") == NULL);
    setenv("ATOLL_KERNELS", "portable", 1);
    CHECK(kernels_to_use(NULL, "avx2", "here") == NULL); /* the environment says */
    struct buffer state = {0};
    struct error error = {0};
    char name[KERNELS_NAME_SIZE];
    buffer_append(&state, "state", 5);
    kernels_append(&state, "portable");
    struct bytes bytes = buffer_bytes(&state);
    CHECK_OK(kernels_split(&bytes, name, &error));
    CHECK_TEXT(name, "portable");
    CHECK_EQUAL(bytes.size, 5);
    CHECK_STATUS(kernels_split(&bytes, name, &error), CORRUPT);
    buffer_deinit(&state);
}
