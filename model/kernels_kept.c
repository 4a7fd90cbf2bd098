/* Appends the kernel table's name to a training state and reads it back (model/kernels_kept.h). */
#include "model/kernels_kept.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/kernels.h"

static const char mark[8] = "kernels";
enum { TAIL_SIZE = sizeof mark + KERNELS_NAME_SIZE, CHECKSUM_SIZE = 8 };

const char *kernels_to_use(const char *asked, const char *kept, const char *where) {
    const struct kernels *table;
    struct error error = {0};
    const char *environment = getenv("ATOLL_KERNELS");
    if (!kept[0] || strcmp(kept, "cuda") == 0) return asked;
    if (!asked && !(environment && *environment)) {
        if (kernels_find(kept, &table, &error) == OK) return kept;
        log_warn("kernels_changed",
                 "where=\"%s\" began_with=%s message=\"%s: the results are another machine's from "
                 "here on\"",
                 where, kept, error.message);
        return NULL;
    }
    if (kernels_find(asked, &table, NULL) == OK && strcmp(table->name, kept) != 0)
        log_warn("kernels_changed",
                 "where=\"%s\" began_with=%s now=%s message=\"as it was asked for: other bits from "
                 "here on\"",
                 where, kept, table->name);
    return asked;
}

void kernels_append(struct buffer *state, const char *name) {
    char padded[KERNELS_NAME_SIZE] = "";
    ASSERT(strlen(name) < sizeof padded);
    memcpy(padded, name, strlen(name));
    buffer_append(state, mark, sizeof mark);
    buffer_append(state, padded, sizeof padded);
}

static bool read_tail(const uint8_t *tail, char *name) {
    if (memcmp(tail, mark, sizeof mark) != 0 || tail[TAIL_SIZE - 1] != 0) return false;
    if (name) memcpy(name, tail + sizeof mark, KERNELS_NAME_SIZE);
    return true;
}

enum status kernels_split(struct bytes *state, char *name, struct error *error) {
    if (state->size < TAIL_SIZE || !read_tail(state->data + state->size - TAIL_SIZE, name))
        return error_set(error, CORRUPT, "it does not name the kernels that it began with");
    state->size -= TAIL_SIZE;
    return OK;
}

void kernels_peek(const char *path, char name[static KERNELS_NAME_SIZE]) {
    int descriptor;
    uint64_t size;
    uint8_t tail[TAIL_SIZE];
    name[0] = 0;
    if (file_open(path, &descriptor, &size, NULL) != OK) return;
    if (size >= TAIL_SIZE + CHECKSUM_SIZE &&
        pread(descriptor, tail, TAIL_SIZE, (off_t)(size - TAIL_SIZE - CHECKSUM_SIZE)) == TAIL_SIZE)
        (void)read_tail(tail, name);
    close(descriptor);
}
