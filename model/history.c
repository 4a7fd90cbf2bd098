/* A run's curve as CSV or JSON lines while it runs, and as SVG at its end (model/history.h). */
#include "model/history.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

struct history {
    int descriptor; /* -1: no file */
    bool json;
    struct history_point *points;
    size_t count, capacity;
};

/* Appended to, so not a file_write; O_NONBLOCK is for a pipe that came in between. */
static enum status open_log(const char *path, int *out, uint64_t *size, struct error *error) {
    struct stat info;
    TRY(file_check_kind(path, error));
    *out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
    if (*out < 0 || fstat(*out, &info) != 0)
        return error_set(error, FAILED, "open %s: %s", path, strerror(errno));
    *size = (uint64_t)info.st_size;
    return OK;
}

static const char head[] =
    "step,tokens,loss,heldout_loss,gradient_norm,learning_rate,tokens_per_second,seconds\n";

enum status history_open(const char *path, struct history **out, struct error *error) {
    struct history *history = xcalloc(1, sizeof *history);
    history->descriptor = -1;
    enum status status = OK;
    if (path) {
        size_t size = strlen(path);
        history->json = size > 6 && strcmp(path + size - 6, ".jsonl") == 0;
        uint64_t written = 0;
        status = open_log(path, &history->descriptor, &written, error);
        if (status == OK && !history->json && written == 0)
            status = file_write_all(history->descriptor, head, sizeof head - 1, error);
    }
    if (status != OK) {
        history_close(history);
        return status;
    }
    *out = history;
    return OK;
}

void history_close(struct history *history) {
    if (!history) return;
    if (history->descriptor >= 0) close(history->descriptor);
    free(history->points);
    free(history);
}

static void write_csv(const struct history_point *p, struct buffer *out) {
    buffer_append_text(out, "%llu,%llu,%.6f,", (unsigned long long)p->step,
                       (unsigned long long)p->tokens, p->loss);
    if (isfinite(p->heldout)) buffer_append_text(out, "%.6f", p->heldout);
    buffer_append_text(out, ",%.6g,%.6g,%.1f,%.3f\n", p->gradient_norm, p->learning_rate,
                       p->tokens_per_second, p->seconds);
}

static void write_json(const struct history_point *p, struct buffer *out) {
    struct json_writer w = json_writer_of(out, false);
    json_begin_object(&w);
    json_key(&w, "step");
    json_u64(&w, p->step);
    json_key(&w, "tokens");
    json_u64(&w, p->tokens);
    const struct {
        const char *name;
        double value;
    } members[] = {{"loss", p->loss},
                   {"heldout_loss", p->heldout},
                   {"gradient_norm", p->gradient_norm},
                   {"learning_rate", p->learning_rate},
                   {"tokens_per_second", p->tokens_per_second},
                   {"seconds", p->seconds}};
    for (size_t i = 0; i < COUNT_OF(members); i++) {
        json_key(&w, members[i].name);
        json_f64(&w, members[i].value); /* null where not finite */
    }
    json_end_object(&w);
    buffer_u8(out, '\n');
}

enum status history_add(struct history *history, const struct history_point *point,
                        struct error *error) {
    if (history->count == history->capacity) {
        history->capacity = history->capacity ? 2 * history->capacity : 256;
        history->points = xrealloc(history->points, history->capacity * sizeof *history->points);
    }
    history->points[history->count++] = *point;
    if (history->descriptor < 0) return OK;
    struct buffer line = {0};
    history->json ? write_json(point, &line) : write_csv(point, &line);
    enum status status = file_write_all(history->descriptor, line.data, line.size, error);
    buffer_deinit(&line);
    return status;
}

/* --- the picture ------------------------------------------------------------------------------ */

enum { WIDTH = 800, HEIGHT = 480, LEFT = 64, RIGHT = 20, TOP = 40, BOTTOM = 48, TICKS = 5 };

struct plot_frame {
    double x_most, y_least, y_most;
};

static double x_of(const struct plot_frame *f, double tokens) {
    return LEFT + (WIDTH - LEFT - RIGHT) * tokens / f->x_most;
}
static double y_of(const struct plot_frame *f, double loss) {
    return TOP + (HEIGHT - TOP - BOTTOM) * (f->y_most - loss) / (f->y_most - f->y_least);
}

static struct plot_frame frame_of(const struct history *history) {
    struct plot_frame f = {1, INFINITY, -INFINITY};
    for (size_t i = 0; i < history->count; i++) {
        const struct history_point *p = &history->points[i];
        f.x_most = fmax(f.x_most, (double)p->tokens);
        f.y_least = fmin(f.y_least, fmin(p->loss, p->heldout)); /* fmin passes over NaN */
        f.y_most = fmax(f.y_most, fmax(p->loss, p->heldout));
    }
    if (!(f.y_most - f.y_least > 1e-6)) { /* nothing, or a flat line */
        double middle = isfinite(f.y_least) ? f.y_least : 0;
        f.y_least = middle - 0.5, f.y_most = middle + 0.5;
    }
    return f;
}

static void plot_axes(const struct plot_frame *f, struct buffer *out) {
    for (int i = 0; i <= TICKS; i++) {
        double loss = f->y_least + (f->y_most - f->y_least) * i / TICKS,
               tokens = f->x_most * i / TICKS;
        buffer_append_text(out, "<line x1='%d' y1='%.1f' x2='%d' y2='%.1f' stroke='#ddd'/>\n", LEFT,
                           y_of(f, loss), WIDTH - RIGHT, y_of(f, loss));
        buffer_append_text(out, "<text x='%d' y='%.1f' text-anchor='end'>%.3g</text>\n", LEFT - 6,
                           y_of(f, loss) + 4, loss);
        buffer_append_text(out, "<text x='%.1f' y='%d' text-anchor='middle'>%.3g</text>\n",
                           x_of(f, tokens), HEIGHT - BOTTOM + 18, tokens);
    }
    buffer_append_text(out, "<text x='%d' y='%d' text-anchor='middle'>tokens</text>\n", WIDTH / 2,
                       HEIGHT - 10);
    buffer_append_text(out,
                       "<text x='14' y='%d' text-anchor='middle' transform='rotate(-90 14 "
                       "%d)'>loss, nats per token</text>\n",
                       HEIGHT / 2, HEIGHT / 2);
}

static void plot_title(const char *title, struct buffer *out) {
    buffer_append_text(out, "<text x='%d' y='24' text-anchor='middle' font-size='15'>", WIDTH / 2);
    for (; *title; title++) {
        if (*title == '<' || *title == '&')
            buffer_append_text(out, *title == '<' ? "&lt;" : "&amp;");
        else
            buffer_u8(out, (uint8_t)*title);
    }
    buffer_append_text(out, "</text>\n");
}

void history_plot(const struct history *history, const char *title, struct buffer *out) {
    struct plot_frame f = frame_of(history);
    buffer_append_text(out,
                       "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
                       "font-family='sans-serif' font-size='12'>\n"
                       "<rect width='100%%' height='100%%' fill='white'/>\n",
                       WIDTH, HEIGHT);
    plot_title(title, out);
    plot_axes(&f, out);
    double smooth = 0, weight = 0;
    for (int line = 0; line < 2; line++) {
        buffer_append_text(out, "<polyline fill='none' stroke='%s' stroke-width='%d' points='",
                           line ? "#1f5fbf" : "#bcd0ee", 1 + line);
        for (size_t i = 0; i < history->count; i++) {
            const struct history_point *p = &history->points[i];
            if (!isfinite(p->loss)) continue;
            smooth = 0.9 * smooth + 0.1 * p->loss;
            weight = 0.9 * weight + 0.1; /* so that the start is not drawn towards zero */
            buffer_append_text(out, "%.1f,%.1f ", x_of(&f, (double)p->tokens),
                               y_of(&f, line ? smooth / weight : p->loss));
        }
        smooth = weight = 0;
        buffer_append_text(out, "'/>\n");
    }
    for (size_t i = 0; i < history->count; i++)
        if (isfinite(history->points[i].heldout))
            buffer_append_text(out, "<circle cx='%.1f' cy='%.1f' r='3' fill='#c0392b'/>\n",
                               x_of(&f, (double)history->points[i].tokens),
                               y_of(&f, history->points[i].heldout));
    buffer_append_text(out, "</svg>\n");
}
