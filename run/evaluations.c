/* The log of held-out losses (run/evaluations.h). */
#include "run/evaluations.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

void evaluations_note(struct evaluations *evaluations, const struct evaluated_version *evaluation) {
    if (evaluations->count == 0 || evaluation->loss < evaluations->best.loss)
        evaluations->best = *evaluation;
    evaluations->last = *evaluation;
    evaluations->count++;
}

static enum status read_texts(const struct json_value *object, struct evaluated_version *out,
                              struct error *error) {
    const struct json_value *texts;
    TRY(json_get_object(object, "texts", &texts, error));
    for (size_t i = 0; i < texts->count && out->count < EVALUATION_TEXTS; i++) {
        const struct json_value *text = &texts->items[i];
        if (text->type != JSON_NUMBER) return error_set(error, INVALID, "a loss is not a number");
        snprintf(out->texts[out->count].name, EVALUATION_NAME_SIZE, "%s", text->key);
        out->texts[out->count++].loss = text->is_u64 ? (double)text->integer : text->number;
    }
    return OK;
}

static enum status read_line(struct bytes line, struct evaluated_version *out,
                             struct error *error) {
    struct json *json = NULL;
    *out = (struct evaluated_version){0};
    TRY(json_parse(line, NULL, &json, error));
    const struct json_value *root = json_root(json);
    enum status status = json_get_u64(root, "version", &out->version, error);
    if (status == OK) status = json_get_u64(root, "time_ms", &out->time_ms, error);
    if (status == OK) status = json_get_f64(root, "loss", &out->loss, error);
    if (status == OK) status = read_texts(root, out, error);
    json_close(json);
    if (status == OK && !(out->loss >= 0 && isfinite(out->loss)))
        return error_set(error, INVALID, "%s: a loss of %g", EVALUATIONS_FILE, out->loss);
    return status;
}

static struct bytes next_line(struct bytes *rest) {
    const uint8_t *end = memchr(rest->data, '\n', rest->size);
    size_t size = end ? (size_t)(end - rest->data) : rest->size;
    struct bytes line = bytes_of(rest->data, size);
    size_t taken = end ? size + 1 : size;
    *rest = bytes_of(rest->data + taken, rest->size - taken);
    return line;
}

static void note_all(struct bytes rest, struct evaluations *out) {
    while (rest.size > 0) {
        struct evaluated_version evaluation;
        if (read_line(next_line(&rest), &evaluation, NULL) == OK)
            evaluations_note(out, &evaluation);
    }
}

static enum status read_log(const char *path, struct buffer *out, struct error *error) {
    enum status status = file_read(path, 2 * (size_t)EVALUATIONS_SIZE, out, error);
    return status == NOT_FOUND ? OK : status;
}

enum status evaluations_read(const char *directory, struct evaluations *out, struct error *error) {
    struct buffer text = {0};
    char *path = file_join(directory, EVALUATIONS_FILE);
    *out = (struct evaluations){0};
    enum status status = read_log(path, &text, error);
    if (status == OK) note_all(buffer_bytes(&text), out);
    buffer_deinit(&text);
    free(path);
    return status;
}

static void write_line(const struct evaluated_version *evaluation, struct buffer *out) {
    struct json_writer writer = json_writer_of(out, false);
    json_begin_object(&writer);
    json_put_u64(&writer, "version", evaluation->version);
    json_put_u64(&writer, "time_ms", evaluation->time_ms);
    json_put_f64(&writer, "loss", evaluation->loss);
    json_key(&writer, "texts");
    json_begin_object(&writer);
    for (uint32_t i = 0; i < evaluation->count; i++) {
        json_put_f64(&writer, evaluation->texts[i].name, evaluation->texts[i].loss);
    }
    json_end_object(&writer);
    json_end_object(&writer);
    buffer_u8(out, '\n');
}

enum status evaluations_forget_after(const char *directory, uint64_t version, struct error *error) {
    struct buffer text = {0}, kept = {0};
    char *path = file_join(directory, EVALUATIONS_FILE);
    enum status status = read_log(path, &text, error);
    struct bytes rest = buffer_bytes(&text);
    bool any = false;
    while (rest.size > 0) {
        struct evaluated_version evaluation;
        if (read_line(next_line(&rest), &evaluation, NULL) != OK) continue;
        if (evaluation.version <= version)
            write_line(&evaluation, &kept);
        else
            any = true;
    }
    if (status == OK && any) status = file_write(path, buffer_bytes(&kept), 0644, error);
    buffer_deinit(&kept);
    buffer_deinit(&text);
    free(path);
    return status;
}

/* The best line, and the newer half of the others. */
static enum status shorten(const char *path, struct bytes text, struct error *error) {
    struct evaluations all = {0};
    struct buffer kept = {0};
    note_all(text, &all);
    if (all.count > 0) write_line(&all.best, &kept);
    struct bytes rest = bytes_of(text.data + text.size / 2, text.size - text.size / 2);
    (void)next_line(&rest); /* the middle of one */
    buffer_append(&kept, rest.data, rest.size);
    enum status status = file_write(path, buffer_bytes(&kept), 0644, error);
    buffer_deinit(&kept);
    return status;
}

static enum status append(const char *path, struct bytes line, struct error *error) {
    char reason[FILE_REASON_SIZE];
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) return error_set(error, FAILED, "open %s: %s", path, file_reason(errno, reason));
    enum status status = file_write_all(file, line.data, line.size, error);
    (void)close(file);
    return status;
}

enum status evaluations_append(const char *directory, const struct evaluated_version *evaluation,
                               struct error *error) {
    struct buffer text = {0}, line = {0};
    char *path = file_join(directory, EVALUATIONS_FILE);
    enum status status = read_log(path, &text, error);
    if (status == OK && text.size > EVALUATIONS_SIZE)
        status = shorten(path, buffer_bytes(&text), error);
    /* after half a line begins another one */
    if (text.size > 0 && text.size <= EVALUATIONS_SIZE && text.data[text.size - 1] != '\n')
        buffer_u8(&line, '\n');
    write_line(evaluation, &line);
    if (status == OK) status = append(path, buffer_bytes(&line), error);
    buffer_deinit(&line);
    buffer_deinit(&text);
    free(path);
    return status;
}
