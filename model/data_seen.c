/* The record of data files that were read whole (model/data_seen.h), by fingerprint, one line per
 * file. A line that cannot be read is ignored, and that file is checked again. */
#include "model/data_seen.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

enum {
    PIECES = 16,
    PIECE_SIZE = 4096,
    QUESTION_SIZE = 64,
    SEEN_LIMIT = 16 << 20,
    LINES_LIMIT = 1 << 16,
    SAVE_MS = 2000
};

struct seen_line {
    struct data_fingerprint print;
    char question[QUESTION_SIZE];
    char *path;
};

struct data_seen {
    char *path;
    struct seen_line *lines;
    size_t count;
    uint64_t saved_ms;
    bool unsaved, warned;
};

/* --- fingerprints ----------------------------------------------------------------------------- */

static uint64_t nanoseconds(struct timespec time) {
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* First and last piece, and those between, evenly. */
static enum status add_pieces(int descriptor, uint64_t size, struct buffer *out,
                              struct error *error) {
    for (uint64_t i = 0; i < PIECES; i++) {
        uint64_t last = size > PIECE_SIZE ? size - PIECE_SIZE : 0, at = last / (PIECES - 1) * i;
        if (i + 1 == PIECES) at = last;
        buffer_reserve(out, out->size + PIECE_SIZE);
        ssize_t got = pread(descriptor, out->data + out->size, PIECE_SIZE, (off_t)at);
        if (got < 0) return error_set(error, FAILED, "read: %s", strerror(errno));
        out->size += (size_t)got;
        if (last == 0) break;
    }
    return OK;
}

enum status data_fingerprint(int descriptor, struct data_fingerprint *out, struct error *error) {
    struct stat info;
    struct buffer pieces = {0};
    if (fstat(descriptor, &info) != 0) return error_set(error, FAILED, "stat: %s", strerror(errno));
    enum status status = add_pieces(descriptor, (uint64_t)info.st_size, &pieces, error);
    if (status == OK)
        *out = (struct data_fingerprint){.size = (uint64_t)info.st_size,
                                         .device = (uint64_t)info.st_dev,
                                         .inode = (uint64_t)info.st_ino,
                                         .modified_ns = nanoseconds(info.st_mtim),
                                         .changed_ns = nanoseconds(info.st_ctim),
                                         .pieces = checksum_crc64(buffer_bytes(&pieces))};
    buffer_deinit(&pieces);
    return status;
}

bool data_fingerprint_equal(const struct data_fingerprint *a, const struct data_fingerprint *b) {
    return a->size == b->size && a->device == b->device && a->inode == b->inode &&
           a->modified_ns == b->modified_ns && a->changed_ns == b->changed_ns &&
           a->pieces == b->pieces;
}

/* --- the file: a head, then `CHECKSUM SIZE DEVICE INODE MODIFIED CHANGED PIECES QUESTION PATH` ---
 */

static const char head[] = "atoll data seen 1\n";

static void write_line(const struct seen_line *line, struct buffer *out) {
    struct buffer text = {0};
    buffer_append_text(
        &text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %016" PRIx64 " %s %s",
        line->print.size, line->print.device, line->print.inode, line->print.modified_ns,
        line->print.changed_ns, line->print.pieces, line->question, line->path);
    buffer_append_text(out, "%016" PRIx64 " ", checksum_crc64(buffer_bytes(&text)));
    buffer_append(out, text.data, text.size);
    buffer_append(out, "\n", 1);
    buffer_deinit(&text);
}

static bool read_line(const char *text, struct seen_line *out) {
    struct seen_line line = {0};
    uint64_t sum;
    int body = 0, path = 0;
    if (sscanf(text, "%16" SCNx64 " %n", &sum, &body) != 1 || body != 17) return false;
    if (checksum_crc64(bytes_of(text + body, strlen(text + body))) != sum) return false;
    struct data_fingerprint *p = &line.print;
    if (sscanf(text + body,
               "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNx64 " %63s %n",
               &p->size, &p->device, &p->inode, &p->modified_ns, &p->changed_ns, &p->pieces,
               line.question, &path) != 7)
        return false;
    line.path = xstrdup(text + body + path);
    *out = line;
    return true;
}

static void read_lines(struct data_seen *seen, char *text) {
    char *rest = NULL;
    for (char *one = strtok_r(text, "\n", &rest); one && seen->count < LINES_LIMIT;
         one = strtok_r(NULL, "\n", &rest)) {
        struct seen_line line;
        if (!read_line(one, &line)) continue;
        seen->lines = xrealloc(seen->lines, (seen->count + 1) * sizeof *seen->lines);
        seen->lines[seen->count++] = line;
    }
}

struct data_seen *data_seen_open(const char *path) {
    struct data_seen *seen = xcalloc(1, sizeof *seen);
    struct buffer text = {0};
    if (!path) return seen;
    seen->path = xstrdup(path);
    if (file_read(path, SEEN_LIMIT, &text, NULL) == OK && text.size >= sizeof head - 1 &&
        memcmp(text.data, head, sizeof head - 1) == 0)
        read_lines(seen, (char *)text.data + sizeof head - 1);
    buffer_deinit(&text);
    return seen;
}

bool data_seen_has(const struct data_seen *seen, const struct data_fingerprint *print,
                   const char *question) {
    for (size_t i = 0; i < seen->count; i++)
        if (data_fingerprint_equal(&seen->lines[i].print, print) &&
            strcmp(seen->lines[i].question, question) == 0)
            return true;
    return false;
}

static void save(struct data_seen *seen) {
    struct buffer text = {0};
    struct error error = {0};
    seen->saved_ms = clock_monotonic_ms();
    seen->unsaved = false;
    buffer_append(&text, head, sizeof head - 1);
    for (size_t i = 0; i < seen->count; i++) write_line(&seen->lines[i], &text);
    if (file_write(seen->path, buffer_bytes(&text), 0644, &error) != OK && !seen->warned) {
        seen->warned = true;
        log_warn("data_not_remembered",
                 "message=\"%s: all data will be read again at the next start\"", error.message);
    }
    buffer_deinit(&text);
}

void data_seen_add(struct data_seen *seen, const struct data_fingerprint *print,
                   const char *question, const char *path) {
    if (!seen->path || strchr(path, '\n') || strlen(question) >= QUESTION_SIZE) return;
    struct seen_line *line = NULL;
    for (size_t i = 0; i < seen->count && !line; i++)
        if (strcmp(seen->lines[i].path, path) == 0 &&
            strcmp(seen->lines[i].question, question) == 0)
            line = &seen->lines[i];
    if (!line && seen->count == LINES_LIMIT) return;
    if (!line) {
        seen->lines = xrealloc(seen->lines, (seen->count + 1) * sizeof *seen->lines);
        line = &seen->lines[seen->count++];
        *line = (struct seen_line){.path = xstrdup(path)};
        snprintf(line->question, sizeof line->question, "%s", question);
    }
    line->print = *print;
    seen->unsaved = true;
    if (clock_monotonic_ms() - seen->saved_ms >= SAVE_MS) save(seen);
}

void data_seen_close(struct data_seen *seen) {
    if (!seen) return;
    if (seen->unsaved) save(seen);
    for (size_t i = 0; i < seen->count; i++) free(seen->lines[i].path);
    free(seen->lines);
    free(seen->path);
    free(seen);
}
