/* What atollctl's subcommands print alike: failures, sizes, counts, durations. */
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/atollctl/atollctl.h"

int report_failure(const struct error *error) {
    fprintf(stderr, "atollctl: %s\n", error->message);
    return error->status == CORRUPT ? EXIT_DAMAGED : EXIT_FAILED;
}

void print_buffer(const struct buffer *buffer) {
    fwrite(buffer->data, 1, buffer->size, stdout);
    if (buffer->size == 0 || buffer->data[buffer->size - 1] != '\n') putchar('\n');
}

void print_done(const struct ctl_settings *settings, const char *what, const char *detail) {
    if (settings->format == FORMAT_TEXT) {
        printf("%s%s%s\n", what, *detail ? ": " : "", detail);
        return;
    }
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    json_begin_object(&writer);
    json_key(&writer, "done");
    json_text(&writer, what);
    json_key(&writer, "detail");
    json_text(&writer, detail);
    json_end_object(&writer);
    print_buffer(&out);
    buffer_deinit(&out);
}

static char *scaled(double value, double step, const char *const *units, size_t count, char *out) {
    size_t unit = 0;
    while (value >= step && unit + 1 < count) {
        value /= step;
        unit++;
    }
    snprintf(out, HUMAN_SIZE, value >= 100 || unit == 0 ? "%.0f%s" : "%.1f%s", value, units[unit]);
    return out;
}

char *human_bytes(uint64_t bytes, char out[static HUMAN_SIZE]) {
    static const char *const units[] = {" B", " kB", " MB", " GB", " TB", " PB"};
    return scaled((double)bytes, 1000, units, 6, out);
}

char *human_count(double count, char out[static HUMAN_SIZE]) {
    static const char *const units[] = {"", "k", "M", "G", "T"};
    return scaled(count, 1000, units, 5, out);
}

char *human_duration(uint64_t duration_ms, char out[static HUMAN_SIZE]) {
    double seconds = (double)duration_ms / 1000;
    if (seconds < 120)
        snprintf(out, HUMAN_SIZE, "%.1f s", seconds);
    else if (seconds < 7200)
        snprintf(out, HUMAN_SIZE, "%.1f min", seconds / 60);
    else if (seconds < 172800)
        snprintf(out, HUMAN_SIZE, "%.1f h", seconds / 3600);
    else
        snprintf(out, HUMAN_SIZE, "%.1f days", seconds / 86400);
    return out;
}
