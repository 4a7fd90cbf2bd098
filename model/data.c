#include "model/data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"

enum { SCAN_SIZE = 1 << 16 };

struct data_file {
    char *path;
    int descriptor;
    uint64_t start;  /* of the tokens, in bytes */
    uint64_t tokens; /* in all */
    uint64_t training;
    unsigned token_size;    /* 1, 2 or 4 */
    uint32_t limit;         /* no token is at or above it */
    const uint32_t *memory; /* of tokens that are in no file: borrowed; else NULL */
};

struct data {
    struct data_options options;
    struct data_file *files;
    size_t file_count;
};

static uint64_t little_endian(const uint8_t *p, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) value |= (uint64_t)p[i] << 8 * i;
    return value;
}

/* Exactly size bytes at `at`. */
static enum status file_read_at(const struct data_file *file, uint64_t at, void *out, size_t size, struct error *error) {
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(file->descriptor, (uint8_t *)out + done, size - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, FAILED, "read %s: %s", file->path, strerror(errno));
        if (got == 0) return error_set(error, CORRUPT, "%s is shorter than when it was opened", file->path);
        done += (size_t)got;
    }
    return OK;
}

static enum status check_token(const struct data_file *file, uint64_t index, uint32_t token, struct error *error) {
    if (token < file->limit) return OK;
    return error_set(error, INVALID, "%s: token %u at %llu is beyond the vocabulary of %u", file->path, token,
                     (unsigned long long)index, file->limit);
}

static enum status read_tokens(const struct data_file *file, uint64_t at, size_t count, uint32_t *tokens, struct error *error) {
    if (file->memory) {
        memcpy(tokens, file->memory + at, count * sizeof *tokens);
        return OK; /* checked when they came */
    }
    TRY(file_read_at(file, file->start + at * file->token_size, tokens, count * file->token_size, error));
    const uint8_t *raw = (const uint8_t *)tokens; /* widened from the end, so that nothing is overwritten before it is read */
    for (size_t i = count; i-- > 0;) tokens[i] = (uint32_t)little_endian(raw + i * file->token_size, file->token_size);
    for (size_t i = 0; i < count; i++) TRY(check_token(file, at + i, tokens[i], error));
    return OK;
}

static enum status scan_file(const struct data_file *file, struct error *error) {
    if (file->limit >= UINT64_C(1) << 8 * file->token_size) return OK; /* no token can be beyond it */
    uint32_t *tokens = xmalloc(SCAN_SIZE * sizeof *tokens);
    enum status status = OK;
    for (uint64_t at = 0; at < file->tokens && status == OK; at += SCAN_SIZE)
        status = read_tokens(file, at, MIN(file->tokens - at, (uint64_t)SCAN_SIZE), tokens, error);
    free(tokens);
    return status;
}

static enum status read_source(void *context, uint64_t at, void *out, size_t size, struct error *error) {
    return file_read_at(context, at, out, size, error);
}

/* What the file is; see model/data_format.h. */
static enum status tell_format(const struct data_options *options, uint64_t size, struct data_file *file, struct error *error) {
    const struct data_source source = {.read = read_source, .context = file, .name = file->path, .size = size};
    const struct data_demand demand = {options->format, options->tokens, options->vocabulary};
    struct data_shape shape;
    TRY(data_format_detect(&source, &demand, &shape, error));
    file->start = shape.start;
    file->tokens = shape.tokens;
    file->token_size = shape.token_size;
    file->limit = shape.limit;
    if (shape.advice) log_warn("data_looks_odd", "file=\"%s\" message=\"%s\"", file->path, shape.advice);
    return file->tokens ? OK : error_set(error, INVALID, "%s holds no tokens", file->path);
}

static enum status open_file(struct data *data, const char *path, struct data_file *file, struct error *error) {
    *file = (struct data_file){.path = xstrdup(path), .token_size = 1};
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (file->descriptor < 0) return error_set(error, errno == ENOENT ? NOT_FOUND : FAILED, "open %s: %s", path, strerror(errno));
    struct stat stat;
    if (fstat(file->descriptor, &stat) != 0) return error_set(error, FAILED, "stat %s: %s", path, strerror(errno));
    if (!S_ISREG(stat.st_mode)) return error_set(error, INVALID, "%s is not a regular file", path);
    uint64_t size = (uint64_t)stat.st_size;
    if (size == 0) return error_set(error, INVALID, "%s is empty", path);
    TRY(tell_format(&data->options, size, file, error));
    file->training = file->tokens - (uint64_t)((double)file->tokens * data->options.heldout);
    return scan_file(file, error);
}

enum status data_open(const char *const *paths, size_t path_count, const struct data_options *options, struct data **out,
                      struct error *error) {
    if (path_count == 0) return error_set(error, INVALID, "no data files are given");
    if (!(options->heldout >= 0.0 && options->heldout <= 1.0))
        return error_set(error, INVALID, "held-out fraction is %g; it must be in 0..1", options->heldout);
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
    *out = data;
    return OK;
}

enum status data_open_tokens(const char *name, const uint32_t *tokens, uint64_t count, const struct data_options *options,
                             struct data **out, struct error *error) {
    if (count == 0) return error_set(error, INVALID, "%s holds no tokens", name);
    struct data *data = xcalloc(1, sizeof *data);
    *data = (struct data){.options = *options, .files = xcalloc(1, sizeof *data->files), .file_count = 1};
    data->files[0] = (struct data_file){
        .path = xstrdup(name), .descriptor = -1, .tokens = count, .limit = options->vocabulary, .memory = tokens};
    enum status status = OK;
    for (uint64_t i = 0; i < count && status == OK; i++) status = check_token(&data->files[0], i, tokens[i], error);
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
    for (size_t i = 0; i < data->file_count; i++) tokens += data->files[i].tokens - data->files[i].training;
    return tokens;
}

static uint64_t windows_in(uint64_t tokens, uint64_t offset, uint32_t length) {
    return tokens > offset ? (tokens - offset - 1) / length : 0;
}

/* Where a file's windows begin in an epoch: anywhere in the first `length` tokens that costs no more than the last window. */
static uint64_t epoch_offset(const struct data *data, size_t file, uint64_t epoch, uint32_t length) {
    uint64_t tokens = data->files[file].training;
    if (tokens < 2 * (uint64_t)length + 1) return 0;
    return random_hash(data->options.seed ^ UINT64_C(0x6f66667365740000), epoch * UINT64_C(0x10001) + file) % length;
}

/* A permutation of 0..count-1 chosen by key: a four-round Feistel network on the next even number of bits, walked until it
 * lands inside (fewer than four steps on average). */
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

enum status data_next(const struct data *data, struct data_position *position, uint32_t length, uint32_t *tokens,
                      struct error *error) {
    ASSERT(length > 0);
    struct data_position at = *position;
    for (;;) {
        uint64_t windows = 0;
        for (size_t i = 0; i < data->file_count; i++)
            windows += windows_in(data->files[i].training, epoch_offset(data, i, at.epoch, length), length);
        if (windows == 0)
            return error_set(error, INVALID, "no data file has the %u training tokens that one sequence needs", length + 1);
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
            TRY(read_tokens(&data->files[i], offset + window * length, (size_t)length + 1, tokens, error));
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

enum status data_heldout(const struct data *data, uint64_t index, uint32_t length, uint32_t *tokens, struct error *error) {
    for (size_t i = 0; i < data->file_count; i++) {
        const struct data_file *file = &data->files[i];
        uint64_t here = windows_in(file->tokens - file->training, 0, length);
        if (index < here) return read_tokens(file, file->training + index * length, (size_t)length + 1, tokens, error);
        index -= here;
    }
    return error_set(error, NOT_FOUND, "no such held-out window");
}
