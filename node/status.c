/* Reads another process's status.json (node/status.h) and says whether that process is there. */
#include "node/status.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "storage/store.h"

static bool is_one_of(const char *text, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0) return true;
    return false;
}

/* The last words of a process that has not spoken for so long, put right. */
static void write_silent(struct json_writer *writer, const struct json_value *last,
                         const char *state, const char *message) {
    static const char *const rates[] = {"tokens_per_second", "steps_per_second"};
    json_begin_object(writer);
    for (size_t i = 0; i < last->count; i++) {
        const struct json_value *item = &last->items[i];
        json_key(writer, item->key);
        if (strcmp(item->key, "state") == 0)
            json_text(writer, state);
        else if (strcmp(item->key, "message") == 0)
            json_text(writer, message);
        else if (strcmp(item->key, "linked") == 0)
            json_bool(writer, false);
        else if (is_one_of(item->key, rates, COUNT_OF(rates)))
            json_f64(writer, 0);
        else
            json_copy(writer, item);
    }
    json_end_object(writer);
}

bool status_is_working(const char *state) {
    static const char *const working[] = {"starting", "training", "waiting"};
    return is_one_of(state, working, COUNT_OF(working));
}

bool status_is_at_work(const char *directory, uint64_t pid) {
    char *journal = file_join(directory, "journal");
    enum store_use use = store_use_of(journal);
    free(journal);
    if (use != STORE_UNKNOWN) return use == STORE_IN_USE;
    return pid > 0 && pid <= INT_MAX && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

enum status status_as_of(struct bytes file, const char *directory, uint64_t now_ms,
                         bool (*is_at_work)(const char *directory, uint64_t pid),
                         struct buffer *out, struct error *error) {
    struct json *json = NULL;
    const char *state = "";
    uint64_t stamp = 0, pid = 0;
    TRY(json_parse(file, NULL, &json, error));
    const struct json_value *last = json_root(json);
    enum status status = json_get_text(last, "state", &state, error);
    if (status == OK) status = json_get_u64(last, "stamp_ms", &stamp, error);
    if (status == OK) status = json_get_u64(last, "pid", &pid, error);
    bool is_old = now_ms > stamp && now_ms - stamp >= STATUS_SILENT_MS;
    bool is_there = status == OK && is_at_work(directory, pid);
    bool starts = strcmp(state, "starting") == 0; /* it says so once, and may take its time */
    if (status == OK && status_is_working(state) && is_old && !(starts && is_there)) {
        char message[192];
        unsigned long long process = pid, seconds = (now_ms - stamp) / 1000;
        snprintf(
            message, sizeof message,
            is_there
                ? "process %llu has written no status for %llu s: it stands still, or the disk does"
                : "process %llu is not running; its last status is %llu s old: start the site "
                  "again (atoll-node run)",
            process, seconds);
        struct json_writer writer = json_writer_of(out, true);
        write_silent(&writer, last, is_there ? "silent" : "gone", message);
        buffer_append_text(out, "\n");
    } else if (status == OK) {
        buffer_append(out, file.data, file.size);
    }
    json_close(json);
    return status;
}
