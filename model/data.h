/* Training data: a list of files, sampled in a random but reproducible order, with a part held out.
 *
 * A file is text, whose bytes are tokens (vocabulary >= 256), or tokens of 16 or 32 bits, with
 * llm.c's header or nanoGPT's without one. Which it is, its content says, not its name
 * (model/data_format.h); what does not fit the model is refused. Files are read whole at opening,
 * so that a bad token is found before training; with `seen`, once per file and not once per start.
 * A read that takes long says every few seconds how far it is. Then they are read with pread a
 * sequence at a time: memory does not grow with the data, and a file that shrinks later, or has a
 * bad token after all, is an error and not a crash.
 *
 * An epoch cuts the training part of every file into windows of `length` tokens (plus the next
 * token as last target) from an offset that changes by epoch, and visits every window once in an
 * order given by (seed, epoch). The whole state is a struct data_position, so a restart repeats and
 * skips nothing; it holds as long as files, seed and length stay the same. The held-out part is the
 * last `heldout` of each file; no training window ever touches it. After opening a struct data is
 * only read: any number of threads may share one, each with its own position.
 */
#ifndef MODEL_DATA_H
#define MODEL_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/data_format.h"

struct data;

struct data_options {
    uint32_t vocabulary;     /* a token at or above it is INVALID, named with its file and place */
    double heldout;          /* fraction in [0, 1] of each file's end that is never trained on */
    uint64_t seed;           /* of the order of sampling */
    enum data_format format; /* what the files are, where somebody insists */
    enum data_tokens tokens; /* whose numbers they hold */
    bool vouched;            /* as in struct data_demand */
    const char *seen;        /* file in which it is kept which files were read whole and found good
                                (model/data_seen.h); NULL: none */
};

struct data_position { /* where sampling stands; {0, 0} is the start */
    uint64_t epoch, index;
};

/* NOT_FOUND or FAILED: a file cannot be opened; INVALID: none given, empty, truncated, of another
 * kind, a token beyond the vocabulary. Messages name the file. */
MUST_USE enum status data_open(const char *const *paths, size_t path_count,
                               const struct data_options *options, struct data **out,
                               struct error *error);
/* The same over tokens in memory, for reading and not for training: all are held out. Borrows
 * `tokens`; `name` is for messages. */
MUST_USE enum status data_open_tokens(const char *name, const uint32_t *tokens, uint64_t count,
                                      const struct data_options *options, struct data **out,
                                      struct error *error);
void data_close(struct data *data);
uint64_t data_training_tokens(const struct data *data); /* outside the held-out part */
uint64_t data_heldout_tokens(const struct data *data);
/* the tokens are bytes of text, as far as can be told */
bool data_is_bytes(const struct data *data);

/* The next sequence: length + 1 tokens to `tokens`, and *position moves on. INVALID if no file has
 * length + 1 training tokens; FAILED or CORRUPT if a file changed under us. *position is unchanged
 * on failure. */
MUST_USE enum status data_next(const struct data *data, struct data_position *position,
                               uint32_t length, uint32_t *tokens, struct error *error);

/* Held-out windows in file order, without overlap: how many there are, and the index-th (length + 1
 * tokens). */
uint64_t data_heldout_count(const struct data *data, uint32_t length);
MUST_USE enum status data_heldout(const struct data *data, uint64_t index, uint32_t length,
                                  uint32_t *tokens, struct error *error);

#endif
