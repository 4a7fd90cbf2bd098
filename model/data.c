/* Training data (model/data.h): opens the files, checks every token once, and draws windows by a
 * seeded permutation, so that a position and a seed give the same batch on every machine. */
#include "model/data.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/utf8.h"
#include "model/data_seen.h"

enum { SCAN_SIZE = 1 << 20, TELL_MS = 5000 };

struct data_file {
    char *path;
    int descriptor;
    uint64_t start;  /* of the tokens, in bytes */
    uint64_t tokens; /* in all */
    uint64_t training;
    unsigned token_size;    /* 1, 2 or 4 */
    uint32_t limit;         /* no token is at or above it */
    bool bytes;             /* the tokens are bytes of text */
    const uint32_t *memory; /* of tokens that are in no file: borrowed; else NULL */
};

struct data {
    struct data_options options;
    struct data_file *files;
    size_t file_count;
    struct data_seen *seen; /* while opening */
    /* while opening: bytes; when progress was told last, when it began */
    uint64_t scanned, to_scan, told_ms, old_ms;
};

static uint64_t little_endian(const uint8_t *p, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) value |= (uint64_t)p[i] << 8 * i;
    return value;
}

/* Exactly size bytes at `at`. */
static enum status file_read_at(const struct data_file *file, uint64_t at, void *out, size_t size,
                                struct error *error) {
    for (size_t done = 0; done < size;) {
        ssize_t got =
            pread(file->descriptor, (uint8_t *)out + done, size - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, FAILED, "read %s: %s", file->path, strerror(errno));
        if (got == 0)
            return error_set(error, CORRUPT, "%s is shorter than when it was opened", file->path);
        done += (size_t)got;
    }
    return OK;
}

static enum status check_token(const struct data_file *file, uint64_t index, uint32_t token,
                               struct error *error) {
    if (token < file->limit) return OK;
    return error_set(error, INVALID, "%s: token %u at %llu is beyond the vocabulary of %u",
                     file->path, token, (unsigned long long)index, file->limit);
}

static enum status read_tokens(const struct data_file *file, uint64_t at, size_t count,
                               uint32_t *tokens, struct error *error) {
    if (file->memory) {
        memcpy(tokens, file->memory + at, count * sizeof *tokens);
        return OK; /* checked when they came */
    }
    TRY(file_read_at(file, file->start + at * file->token_size, tokens, count * file->token_size,
                     error));
    /* widened from the end, so that nothing is overwritten before it is read */
    const uint8_t *raw = (const uint8_t *)tokens;
    for (size_t i = count; i-- > 0;)
        tokens[i] = (uint32_t)little_endian(raw + i * file->token_size, file->token_size);
    for (size_t i = 0; i < count; i++) TRY(check_token(file, at + i, tokens[i], error));
    return OK;
}

/* Long reads say how far they are: silence for minutes looks like a program that hangs. */
static void tell_progress(struct data *data, const struct data_file *file) {
    uint64_t now_ms = clock_monotonic_ms();
    if (now_ms - data->told_ms < TELL_MS) return;
    data->told_ms = now_ms;
    double part = data->to_scan ? (double)data->scanned / (double)data->to_scan : 0,
           spent = (double)(now_ms - data->old_ms) / 1000;
    log_info("checking_data", "file=\"%s\" read_mb=%llu of_mb=%llu percent=%.0f seconds_left=%.0f",
             file->path, (unsigned long long)(data->scanned >> 20),
             (unsigned long long)(data->to_scan >> 20), 100 * part,
             part > 0 ? spent / part - spent : 0.0);
}

static bool is_scanned(const struct data_file *file) {
    return file->limit < UINT64_C(1) << 8 * file->token_size; /* else no token can be beyond it */
}

/* The largest token of a piece is enough to know that none is beyond the vocabulary; which it is,
 * the slow way says. */
static uint64_t largest_token(const uint8_t *raw, size_t count, unsigned size) {
    uint64_t largest = 0;
    for (size_t i = 0; i < count; i++) largest = MAX(largest, little_endian(raw + i * size, size));
    return largest;
}

static enum status scan_tokens(struct data *data, const struct data_file *file,
                               struct error *error) {
    uint8_t *raw = xmalloc(SCAN_SIZE);
    uint32_t *tokens = NULL;
    uint64_t piece = SCAN_SIZE / file->token_size;
    enum status status = OK;
    for (uint64_t at = 0; at < file->tokens && status == OK; at += piece) {
        size_t count = (size_t)MIN(file->tokens - at, piece);
        status = file_read_at(file, file->start + at * file->token_size, raw,
                              count * file->token_size, error);
        if (status == OK && largest_token(raw, count, file->token_size) >= file->limit) {
            if (!tokens) tokens = xmalloc((size_t)piece * sizeof *tokens);
            status = read_tokens(file, at, count, tokens, error);
        }
        data->scanned += count * file->token_size;
        tell_progress(data, file);
    }
    free(tokens);
    free(raw);
    return status;
}

/* Once per file, if what was found is kept. What was written to while it was read is not kept. */
static enum status scan_file(struct data *data, const struct data_file *file, struct error *error) {
    struct data_fingerprint before, after;
    char question[96];
    if (!is_scanned(file)) return OK;
    snprintf(question, sizeof question, "tokens-%u-bytes-from-%llu-below-%u", file->token_size,
             (unsigned long long)file->start, file->limit);
    TRY(data_fingerprint(file->descriptor, &before, error));
    if (data_seen_has(data->seen, &before, question)) return OK;
    TRY(scan_tokens(data, file, error));
    TRY(data_fingerprint(file->descriptor, &after, error));
    if (data_fingerprint_equal(&before, &after))
        data_seen_add(data->seen, &after, question, file->path);
    return OK;
}

static enum status scan_files(struct data *data, struct error *error) {
    data->told_ms = data->old_ms = clock_monotonic_ms();
    data->seen = data_seen_open(data->options.seen);
    for (size_t i = 0; i < data->file_count; i++)
        if (is_scanned(&data->files[i]))
            data->to_scan += data->files[i].tokens * data->files[i].token_size;
    enum status status = OK;
    for (size_t i = 0; i < data->file_count && status == OK; i++)
        status = scan_file(data, &data->files[i], error);
    data_seen_close(data->seen);
    data->seen = NULL;
    return status;
}

static enum status read_source(void *context, uint64_t at, void *out, size_t size,
                               struct error *error) {
    return file_read_at(context, at, out, size, error);
}

/* A byte order mark is not text, unless somebody insists on every byte. */
static enum status skip_mark(const struct data_options *options, struct data_file *file,
                             struct error *error) {
    uint8_t head[3];
    if (options->format == DATA_BYTES || !file->bytes || file->token_size != 1 ||
        file->start != 0 || file->tokens < sizeof head)
        return OK;
    TRY(file_read_at(file, 0, head, sizeof head, error));
    file->start = utf8_mark(head, sizeof head);
    file->tokens -= file->start;
    return OK;
}

/* What the file is; see model/data_format.h. */
static enum status tell_format(const struct data_options *options, uint64_t size,
                               struct data_file *file, struct error *error) {
    const struct data_source source = {
        .read = read_source, .context = file, .name = file->path, .size = size};
    const struct data_demand demand = {options->format, options->tokens, options->vocabulary,
                                       options->vouched};
    struct data_shape shape;
    TRY(data_format_detect(&source, &demand, &shape, error));
    file->start = shape.start;
    file->tokens = shape.tokens;
    file->token_size = shape.token_size;
    file->limit = shape.limit;
    file->bytes = shape.bytes;
    TRY(skip_mark(options, file, error));
    if (shape.advice)
        log_warn("data_looks_odd", "file=\"%s\" message=\"%s\"", file->path, shape.advice);
    return file->tokens ? OK : error_set(error, INVALID, "%s has no tokens", file->path);
}

static enum status open_file(struct data *data, const char *path, struct data_file *file,
                             struct error *error) {
    *file = (struct data_file){.path = xstrdup(path), .token_size = 1, .descriptor = -1};
    uint64_t size = 0;
    TRY(file_open(path, &file->descriptor, &size, error));
    if (size == 0) return error_set(error, INVALID, "%s is empty", path);
    TRY(tell_format(&data->options, size, file, error));
    file->training = file->tokens - (uint64_t)((double)file->tokens * data->options.heldout);
    return OK;
}

enum status data_open(const char *const *paths, size_t path_count,
                      const struct data_options *options, struct data **out, struct error *error) {
    if (path_count == 0) return error_set(error, INVALID, "no data files are given");
    if (!(options->heldout >= 0.0 && options->heldout <= 1.0))
        return error_set(error, INVALID, "held-out fraction is %g; it must be in 0..1",
                         options->heldout);
    if (options->vocabulary == 0) return error_set(error, INVALID, "vocabulary is 0");
    struct data *data = xcalloc(1, sizeof *data);
    data->options = *options;
    data->files = xcalloc(path_count, sizeof *data->files);
    for (size_t i = 0; i < path_count; i++) {
        data->file_count = i + 1;
        enum status status = open_file(data, paths[i], &data->files[i], error);
        if (status != OK) {
            data_close(data);
            return status;
        }
    }
    enum status scanned = scan_files(data, error);
    if (scanned != OK) {
        data_close(data);
        return scanned;
    }
    *out = data;
    return OK;
}

enum status data_open_tokens(const char *name, const uint32_t *tokens, uint64_t count,
                             const struct data_options *options, struct data **out,
                             struct error *error) {
    if (count == 0) return error_set(error, INVALID, "%s has no tokens", name);
    struct data *data = xcalloc(1, sizeof *data);
    *data = (struct data){
        .options = *options, .files = xcalloc(1, sizeof *data->files), .file_count = 1};
    data->files[0] = (struct data_file){.path = xstrdup(name),
                                        .descriptor = -1,
                                        .tokens = count,
                                        .limit = options->vocabulary,
                                        .memory = tokens};
    enum status status = OK;
    for (uint64_t i = 0; i < count && status == OK; i++)
        status = check_token(&data->files[0], i, tokens[i], error);
    if (status == OK)
        *out = data;
    else
        data_close(data);
    return status;
}

void data_close(struct data *data) {
    if (!data) return;
    for (size_t i = 0; i < data->file_count; i++) {
        if (data->files[i].descriptor >= 0) close(data->files[i].descriptor);
        free(data->files[i].path);
    }
    free(data->files);
    free(data);
}

uint64_t data_training_tokens(const struct data *data) {
    uint64_t tokens = 0;
    for (size_t i = 0; i < data->file_count; i++) tokens += data->files[i].training;
    return tokens;
}

uint64_t data_heldout_tokens(const struct data *data) {
    uint64_t tokens = 0;
    for (size_t i = 0; i < data->file_count; i++)
        tokens += data->files[i].tokens - data->files[i].training;
    return tokens;
}

bool data_is_bytes(const struct data *data) {
    for (size_t i = 0; i < data->file_count; i++)
        if (!data->files[i].bytes) return false;
    return true;
}

static uint64_t windows_in(uint64_t tokens, uint64_t offset, uint32_t length) {
    return tokens > offset ? (tokens - offset - 1) / length : 0;
}

/* Where a file's windows begin in an epoch: anywhere in the first `length` tokens that costs no
 * more than the last window. */
static uint64_t epoch_offset(const struct data *data, size_t file, uint64_t epoch,
                             uint32_t length) {
    uint64_t tokens = data->files[file].training;
    if (tokens < 2 * (uint64_t)length + 1) return 0;
    return random_hash(data->options.seed ^ UINT64_C(0x6f66667365740000),
                       epoch * UINT64_C(0x10001) + file) %
           length;
}

/* A permutation of 0..count-1 chosen by key: a four-round Feistel network on the next even number
 * of bits, walked until it lands inside (fewer than four steps on average). */
static uint64_t permute(uint64_t index, uint64_t count, uint64_t key) {
    unsigned half = 1;
    while (half < 32 && count > UINT64_C(1) << 2 * half) half++;
    uint64_t mask = (UINT64_C(1) << half) - 1;
    do {
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (random_hash(key, round << 32 | right) & mask);
            left = right;
            right = next;
        }
        index = left << half | right;
    } while (index >= count);
    return index;
}

enum status data_next(const struct data *data, struct data_position *position, uint32_t length,
                      uint32_t *tokens, struct error *error) {
    ASSERT(length > 0);
    struct data_position at = *position;
    for (;;) {
        uint64_t windows = 0;
        for (size_t i = 0; i < data->file_count; i++)
            windows += windows_in(data->files[i].training, epoch_offset(data, i, at.epoch, length),
                                  length);
        if (windows == 0)
            return error_set(error, INVALID,
                             "no data file has the %u training tokens that one sequence needs",
                             length + 1);
        if (at.index >= windows) {
            at = (struct data_position){at.epoch + 1, 0};
            continue;
        }
        uint64_t window = permute(at.index, windows, random_hash(data->options.seed, at.epoch));
        for (size_t i = 0; i < data->file_count; i++) {
            uint64_t offset = epoch_offset(data, i, at.epoch, length);
            uint64_t here = windows_in(data->files[i].training, offset, length);
            if (window >= here) {
                window -= here;
                continue;
            }
            TRY(read_tokens(&data->files[i], offset + window * length, (size_t)length + 1, tokens,
                            error));
            break;
        }
        *position = (struct data_position){at.epoch, at.index + 1};
        return OK;
    }
}

uint64_t data_heldout_count(const struct data *data, uint32_t length) {
    uint64_t windows = 0;
    for (size_t i = 0; i < data->file_count; i++)
        windows += windows_in(data->files[i].tokens - data->files[i].training, 0, length);
    return windows;
}

enum status data_heldout(const struct data *data, uint64_t index, uint32_t length, uint32_t *tokens,
                         struct error *error) {
    for (size_t i = 0; i < data->file_count; i++) {
        const struct data_file *file = &data->files[i];
        uint64_t here = windows_in(file->tokens - file->training, 0, length);
        if (index < here)
            return read_tokens(file, file->training + index * length, (size_t)length + 1, tokens,
                               error);
        index -= here;
    }
    return error_set(error, NOT_FOUND, "no such held-out window");
}
