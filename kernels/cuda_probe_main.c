/* What the CUDA backend runs to measure kernels that may end their process
 * (kernels/cuda/attention_choice.cu):
 *     atoll-cuda-probe LIBRARY SEQUENCES LENGTH HEADS KV_HEADS HEAD_SIZE
 * One line: milliseconds of forward and backward by mma.sync, of both by wgmma (0 where the device
 * has none), the distance of their results, and how many sequences that was. Else a line that says
 * why not, and 3 where the device was lost meanwhile, which another try would repeat; 1 for all
 * other reasons. bench/gpu_vs_pytorch.py reads it too. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda_training.h"

enum { LOST = 3 };

static int say(const char *why, int code) {
    printf("%s\n", why);
    fflush(stdout);
    return code;
}

static int measure(const struct cuda_backend *backend, const struct cuda_attention *shape) {
    const struct cuda_training *training = NULL;
    struct cuda_session *session = NULL;
    struct cuda_attention_measure found;
    struct error error = {0};
    if (cuda_training_find(backend, &training, &error) != OK) return say(error.message, 1);
    const char *why = training->open(NULL, &session);
    if (why) return say(why, 1);
    why = training->attention_measure(session, shape, &found);
    int code = 0;
    if (why) code = say(why, backend->operations->failure() == CUDA_FAILURE_LOST ? LOST : 1);
    training->close(session); /* of a lost device too: it says no more */
    if (!why)
        printf("%.6f %.6f %.6f %.6f %.6g %u\n", (double)found.mma_ms[0], (double)found.mma_ms[1],
               (double)found.wgmma_ms[0], (double)found.wgmma_ms[1], found.distance,
               found.sequences);
    return code;
}

int main(int argc, char **argv) {
    uint32_t numbers[5];
    if (argc != 7)
        return say("usage: atoll-cuda-probe LIBRARY SEQUENCES LENGTH HEADS KV_HEADS HEAD_SIZE", 2);
    for (int i = 0; i < 5; i++) {
        char *end = NULL;
        unsigned long value = strtoul(argv[2 + i], &end, 10);
        if (*end || value == 0 || value > 1u << 24)
            return say("a number of the shape is not in 1..16777216", 2);
        numbers[i] = (uint32_t)value;
    }
    if (numbers[2] % numbers[3] != 0) return say("heads must be a multiple of the key heads", 2);
    setenv("ATOLL_ATTENTION", "auto", 1);
    struct cuda_backend backend = {0};
    struct error error = {0};
    if (cuda_backend_open(argv[1], &backend, &error) != OK) return say(error.message, 1);
    const struct cuda_attention shape = {.sequences = numbers[0],
                                         .length = numbers[1],
                                         .heads = numbers[2],
                                         .kv_heads = numbers[3],
                                         .head_size = numbers[4]};
    int code = measure(&backend, &shape);
    cuda_backend_close(&backend);
    return code;
}
