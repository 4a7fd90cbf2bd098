/* The request to leave, and the verb that makes it (node/leave.h). */
#include "node/leave.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "node/status.h"
#include "node/verbs.h"

enum { STATUS_LIMIT = 256 * 1024, LOOK_AGAIN_MS = 200 };

void leave_forget(const char *directory) {
    char *path = file_join(directory, "leave");
    (void)!unlink(path);
    free(path);
}

bool leave_is_asked(const char *directory) {
    char *path = file_join(directory, "leave");
    bool asked = unlink(path) == 0;
    free(path);
    return asked;
}

/* The process that the last status is of; 0: none is at work. *message gets what it said last. */
static uint64_t process_at_work(const char *directory, char *message, size_t size) {
    struct buffer text = {0};
    struct json *json = NULL;
    uint64_t pid = 0;
    const char *state = "", *said = NULL;
    char *path = file_join(directory, "status.json");
    bool is_working = false;
    if (file_read(path, STATUS_LIMIT, &text, NULL) == OK &&
        json_parse(buffer_bytes(&text), NULL, &json, NULL) == OK) {
        const struct json_value *root = json_root(json);
        (void)!json_get_text(root, "state", &state, NULL);
        (void)!json_get_text(root, "message", &said, NULL);
        (void)!json_get_u64(root, "pid", &pid, NULL);
        is_working = status_is_working(state);
        snprintf(message, size, "%s", said ? said : state);
    }
    is_working = is_working && status_is_at_work(directory, pid);
    json_close(json);
    buffer_deinit(&text);
    free(path);
    return is_working ? pid : 0;
}

int verb_leave(struct options *options, void *values) {
    (void)options;
    struct settings *settings = values;
    struct error error = {0};
    char message[256] = "";
    uint64_t pid = process_at_work(settings->directory, message, sizeof message);
    if (pid == 0) {
        settings->leaves = true;
        return verb_run(options, values);
    }
    char *path = file_join(settings->directory, "leave");
    enum status status = file_write(path, bytes_of("", 0), 0600, &error);
    free(path);
    if (status != OK) {
        fprintf(stderr, "atoll-node: leave: %s\n", error.message);
        return EXIT_FAILED;
    }
    fprintf(stderr, "atoll-node: process %llu sends what is under way, and leaves\n",
            (unsigned long long)pid);
    while (process_at_work(settings->directory, message, sizeof message) == pid)
        clock_sleep_ms(LOOK_AGAIN_MS);
    if (strcmp(message, LEAVE_DONE) == 0) return EXIT_DONE;
    fprintf(stderr, "atoll-node: leave: the process ended before it had left: %s\n", message);
    return EXIT_FAILED;
}
