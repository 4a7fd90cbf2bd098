/* What a training run was like: a point every few steps, as lines of a file while it runs and as a
 * picture when it is done.
 *
 * The file is CSV, or JSON lines where its name ends in .jsonl. It is appended to, so that a run
 * that was resumed goes on in the same one; the CSV's head is written once. A line is written whole
 * and at once: what was cut off is at most the last.
 */
#ifndef MODEL_HISTORY_H
#define MODEL_HISTORY_H

#include "base/bytes.h"
#include "base/status.h"

struct history_point {
    uint64_t step, tokens;
    double loss, heldout; /* nats per token; heldout is NaN where it was not measured */
    double gradient_norm, learning_rate, tokens_per_second, seconds;
};

struct history; /* one thread */

/* `path` NULL: no file. FAILED if it cannot be written. */
MUST_USE enum status history_open(const char *path, struct history **out, struct error *error);
void history_close(struct history *history); /* NULL is a no-op */
MUST_USE enum status history_add(struct history *history, const struct history_point *point,
                                 struct error *error);
/* Appends an SVG picture of loss over tokens: training, smoothed training and, as dots, held-out
 * loss. */
void history_plot(const struct history *history, const char *title, struct buffer *out);

#endif
