/* Claims what `train` will write before it starts, in order of worth (model/train_outputs.h). */
#include "model/train_outputs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"

struct export_options train_export_options(const struct verb_settings *s, bool bytes,
                                           uint64_t steps) {
    static const enum tensor_dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    return (struct export_options){.version = (int64_t)steps,
                                   .byte_tokenizer = bytes,
                                   .beside = s->start,
                                   .dtype = &types[s->dtype],
                                   .shard_size = s->shard_size,
                                   .claimed = true};
}

/* Whether both name one file, links and ways of writing apart. */
static bool is_same(const char *a, const char *b) {
    if (strcmp(a, b) == 0) return true;
    char *real_a = realpath(a, NULL), *real_b = realpath(b, NULL);
    bool same = real_a && real_b && strcmp(real_a, real_b) == 0;
    free(real_a);
    free(real_b);
    return same;
}

static enum status check_distinct(const struct verb_settings *s, struct error *error) {
    const struct {
        const char *flag, *path;
    } outputs[] = {
        {"state", s->state}, {"export", s->export_to}, {"log", s->log}, {"plot", s->plot}};
    for (size_t i = 0; i < COUNT_OF(outputs); i++) {
        const char *path = outputs[i].path;
        struct stat info;
        /* /dev/stderr */
        if (!path || (stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)))
            continue;
        for (size_t j = 0; j < i; j++)
            if (outputs[j].path && is_same(path, outputs[j].path))
                return error_set(error, INVALID, "--%s and --%s are the same file, %s",
                                 outputs[j].flag, outputs[i].flag, path);
        for (size_t j = 0; j < s->data.count; j++)
            if (is_same(path, s->data.items[j]))
                return error_set(error, INVALID, "--%s %s would overwrite the data",
                                 outputs[i].flag, path);
    }
    return OK;
}

static enum status claim_model(const struct verb_settings *s, const struct model_config *model,
                               struct train_outputs *out, struct error *error) {
    const struct export_options options = train_export_options(s, false, 0);
    struct layout layout;
    TRY(layout_init(model, &layout, error));
    enum status status = export_claim(s->export_to, &layout, &options, &out->model, error);
    layout_deinit(&layout);
    return status == OK ? OK : error_wrap(error, status, "--export");
}

static uint64_t state_size(const struct verb_settings *s, const struct model_config *model) {
    struct layout layout;
    if (layout_init(model, &layout, NULL) != OK) return 0;
    uint64_t size =
        layout.count * (sizeof(float) + 2 * (s->bf16_moments ? sizeof(uint16_t) : sizeof(float)));
    layout_deinit(&layout);
    return size;
}

enum status train_outputs_claim(const struct verb_settings *s, const struct model_config *model,
                                struct train_outputs *out, struct error *error) {
    enum status status = check_distinct(s, error);
    if (status == OK && s->state) {
        status = output_claim_file(s->state, state_size(s, model), &out->state, error);
        if (status != OK) error_wrap(error, status, "--state");
    }
    if (status == OK && s->export_to) status = claim_model(s, model, out, error);
    if (status == OK && s->plot) {
        status = output_check_file(s->plot, 0, error);
        if (status != OK) error_wrap(error, status, "--plot");
    }
    if (status != OK) train_outputs_release(out);
    return status;
}

void train_outputs_release(struct train_outputs *outputs) {
    output_release(outputs->model);
    output_release(outputs->state);
    *outputs = (struct train_outputs){0};
}

void first_failure_keep(struct first_failure *first, enum status status, const struct error *error,
                        const char *event, bool by_the_way) {
    if (status == OK) return;
    bool is_first = first->status == OK;
    if (is_first) *first = (struct first_failure){status, *error};
    if (!is_first || by_the_way) log_error(event, "message=\"%s\"", error->message);
}
