/* How attention's way is chosen on a device that has two (kernels/cuda/attention_choice.cu):
 * emulated alone, for a GPU's kernels cannot be made to be wrong. What each way computes is
 * kernels_cuda_training_test's. */
#include "kernels/cuda_training.h"

#include <stdio.h>
#include <sys/wait.h>

#include "base/memory.h"
#include "tests/cuda_fixture.h"

static struct cuda_backend backend;
static const struct cuda_training *training;
static const struct cuda_attention shape = {
    .sequences = 1, .length = 64, .heads = 2, .kv_heads = 1, .head_size = 64};

static void start(void) {
    struct error error = {0};
    setenv("EMULATED_TENSOR_MAPS", "1", 1);
    unsetenv("ATOLL_ATTENTION");
    open_emulation(&backend);
    CHECK_OK(cuda_training_find(&backend, &training, &error));
}

/* What is chosen by a new session; its line, to be freed. */
static char *line_of(const char *cache) {
    struct cuda_session *session = NULL;
    must(training->open(cache, &session));
    must(training->attention_prepare(session, &shape));
    char *line = xformat("%s", training->attention_line(session));
    training->close(session);
    return line;
}

static char *file_text(const char *path) {
    char *text = xcalloc(1, 4096);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    CHECK(fread(text, 1, 4095, file) > 0);
    fclose(file);
    return text;
}

TEST(the_faster_way_is_measured_once_and_kept) {
    start();
    char *cache = file_join(test_directory(), "cache"),
         *kept = file_join(test_directory(), "cache.attention");
    char *first = line_of(cache);
    CHECK_CONTAINS(first, " ms, wgmma ");
    CHECK(strncmp(first, "attention by ", 13) == 0);
    char *text = file_text(kept);
    CHECK_CONTAINS(text, "atoll attention 1, emulated on the CPU");
    CHECK_CONTAINS(text, "\n1 64 2 1 64 ");
    setenv("EMULATED_STUCK", "1", 1); /* another probe would say so */
    char *second = line_of(cache);
    CHECK_TEXT(second, first);
    char *without = line_of(NULL);
    CHECK_CONTAINS(without, "attention by mma.sync: wgmma was not measured: ");
    free(first), free(second), free(without), free(text), free(cache), free(kept);
}

TEST(a_damaged_file_is_measured_anew) {
    start();
    char *cache = file_join(test_directory(), "cache"),
         *kept = file_join(test_directory(), "cache.attention");
    char *first = line_of(cache), *text = file_text(kept);
    char *digit = strstr(text, " ms, wgmma ");
    CHECK(digit != NULL);
    digit[-1] = digit[-1] == '1' ? '2' : '1';
    FILE *file = fopen(kept, "w");
    fputs(text, file);
    fclose(file);
    setenv("EMULATED_WRONG_PRODUCTS", "1", 1);
    char *second = line_of(cache);
    CHECK_CONTAINS(second, "attention by mma.sync: wgmma has other results, ");
    free(first), free(second), free(text), free(cache), free(kept);
}

/* The probe waits for a barrier that never opens, traps, and the device is lost: to the probe. */
TEST(kernels_that_hang_cost_the_probe_its_device_and_nobody_elses) {
    start();
    char *cache = file_join(test_directory(), "cache");
    setenv("EMULATED_STUCK", "1", 1);
    char *line = line_of(cache);
    CHECK_CONTAINS(line, "attention by mma.sync: wgmma was not measured: ");
    CHECK_CONTAINS(line, "attention by wgmma waited too long for ");
    struct device_memory memory = {0};
    must(backend.operations->allocate(64, &memory));
    backend.operations->release(memory);
    unsetenv("EMULATED_STUCK");
    char *again = line_of(cache); /* it would end so each time: it is not tried at each start */
    CHECK_TEXT(again, line);
    free(line), free(again), free(cache);
}

TEST(kernels_with_other_results_are_not_used) {
    start();
    char *cache = file_join(test_directory(), "cache");
    setenv("EMULATED_WRONG_PRODUCTS", "1", 1);
    char *line = line_of(cache);
    CHECK_CONTAINS(line, "attention by mma.sync: wgmma has other results, ");
    CHECK_CONTAINS(line, "0.01 is the most");
    free(line), free(cache);
}

/* Another device for a while, or none free: the next start tries again. */
TEST(a_probe_that_finds_no_device_is_tried_again) {
    start();
    char *cache = file_join(test_directory(), "cache");
    setenv("EMULATED_DEVICES", "0", 1);
    char *line = line_of(cache);
    CHECK_CONTAINS(line, "attention by mma.sync: wgmma was not measured: no CUDA, using the CPU: ");
    unsetenv("EMULATED_DEVICES");
    char *again = line_of(cache);
    CHECK_CONTAINS(again, " ms, wgmma ");
    free(line), free(again), free(cache);
}

TEST(without_the_probe_attention_goes_by_mma_sync) {
    struct error error = {0};
    char *library = beside_the_test("atoll-kernels-emulated.so"),
         *alone = file_join(test_directory(), "alone.so");
    char *command = xformat("cp %s %s", library, alone);
    setenv("EMULATED_TENSOR_MAPS", "1", 1);
    if (file_exists(library)) {
        CHECK(system(command) == 0);
        CHECK_OK(cuda_backend_open(alone, &backend, &error));
        CHECK_OK(cuda_training_find(&backend, &training, &error));
        char *line = line_of(NULL);
        CHECK_CONTAINS(
            line,
            "attention by mma.sync: wgmma was not measured: there is no atoll-cuda-probe beside ");
        free(line);
    }
    free(command), free(alone), free(library);
}

TEST(a_wish_is_followed_unmeasured_or_refused) {
    start();
    struct cuda_session *session = NULL;
    setenv("EMULATED_STUCK", "1", 1);
    setenv("ATOLL_ATTENTION", "wgmma", 1);
    char *wgmma = line_of(NULL);
    CHECK_TEXT(wgmma, "attention by wgmma, as ATOLL_ATTENTION says");
    setenv("ATOLL_ATTENTION", "mma", 1);
    char *mma = line_of(NULL);
    CHECK_TEXT(mma, "attention by mma.sync, as ATOLL_ATTENTION says");
    setenv("ATOLL_ATTENTION", "fast", 1);
    CHECK_CONTAINS(training->open(NULL, &session),
                   "ATOLL_ATTENTION is \"fast\"; it must be auto, mma or wgmma");
    setenv("EMULATED_TENSOR_MAPS", "0", 1);
    setenv("ATOLL_ATTENTION", "wgmma", 1);
    CHECK_CONTAINS(training->open(NULL, &session), "needs compute 9.0 and a driver for CUDA 12");
    setenv("ATOLL_ATTENTION", "auto", 1);
    char *only = line_of(NULL);
    CHECK_TEXT(only, "attention by mma.sync");
    free(wgmma), free(mma), free(only);
}

TEST(the_probe_refuses_shapes_that_are_none) {
    char *probe = beside_the_test("../bin/atoll-cuda-probe");
    static const char *const arguments[] = {
        "", "x 1 2 3", "x 1 64 2 1 0", "x 1 64 3 2 64", "x 1 64 2 1 99999999999", "x 1 6z 2 1 64"};
    for (size_t i = 0; i < COUNT_OF(arguments) && file_exists(probe); i++) {
        char *command = xformat("%s %s >/dev/null", probe, arguments[i]);
        int status = system(command);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 2);
        free(command);
    }
    free(probe);
}
