/* What the trainer's subcommands share (model/verbs.h): options, exit codes, opening a model,
 * checking memory. */
#include "model/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "kernels/cuda_backend.h"
#include "model/checkpoint.h"
#include "model/fit.h"

const struct command *const verb_commands[] = {&verb_train_command, &verb_eval_command,
                                               &verb_generate_command, &verb_logits_command, NULL};

int verbs_main(const struct command *program, int argc, char **argv) {
    struct verb_settings settings = {0};
    struct options *options = options_create(program, &settings);
    const struct options_setup setup = {.argc = argc, .argv = argv, .environment = environ};
    int code = options_start(options, &setup);
    if (code == OPTIONS_GO_ON) code = options_command(options)->run(options, &settings);
    options_destroy(options);
    return code;
}

int verb_exit_code(const struct options *options, enum status status, const struct error *error) {
    if (status != OK) fprintf(stderr, "%s: %s\n", options_command(options)->name, error->message);
    return status == OK                               ? VERB_DONE
           : status == INVALID || status == NOT_FOUND ? VERB_USAGE
                                                      : VERB_FAILED;
}

/* Whether `auto` will find one; a device that cannot do the model is then the trainer's to say. */
static bool finds_device(const struct trainer_options *options) {
    struct cuda_backend backend = {0};
    bool found =
        !options->forward_only && cuda_backend_open(options->cuda_library, &backend, NULL) == OK;
    cuda_backend_close(&backend);
    return found;
}

enum status verb_check_memory(const struct trainer_options *options, uint64_t also,
                              struct error *error) {
    char wanted[SIZE_TEXT_SIZE], there[SIZE_TEXT_SIZE], device[SIZE_TEXT_SIZE],
        beside[SIZE_TEXT_SIZE + 32] = "";
    struct trainer_options settled = *options;
    if (options->device == DEVICE_AUTO)
        settled.device = finds_device(options) ? DEVICE_CUDA : DEVICE_CPU;
    uint64_t available = memory_available(), there_too = trainer_device_memory(&settled);
    if (there_too)
        snprintf(beside, sizeof beside, ", and %s of the device's", size_text(there_too, device));
    fprintf(stderr, "memory: %s takes %s of the %s that are free%s\n",
            options->forward_only ? "evaluation" : "training",
            size_text(trainer_memory(&settled) + also, wanted), size_text(available, there),
            beside);
    return trainer_fit(&settled, also, available, error);
}

enum status verb_parse_tokens(const char *text, struct buffer *out, struct error *error) {
    while (*text) {
        char *end;
        unsigned long token = strtoul(text, &end, 10);
        if (end == text || *text == '-' || token >= MODEL_VOCABULARY_MAX)
            return error_set(error, INVALID, "\"%.20s\" is not a token: write a number below %d",
                             text, MODEL_VOCABULARY_MAX);
        buffer_u32(out, (uint32_t)token);
        text = end + strspn(end, " ,");
    }
    return out->size ? OK : error_set(error, INVALID, "there are no tokens");
}

int verb_with_model(const struct options *options, const struct verb_settings *s, verb_body *body) {
    struct error error = {0};
    struct layout layout = {0};
    float *parameters = NULL;
    enum status status = checkpoint_load(s->model, &layout, &parameters, &error);
    if (status == OK) status = body(s, &layout, parameters, &error);
    free(parameters);
    layout_deinit(&layout);
    return verb_exit_code(options, status, &error);
}
