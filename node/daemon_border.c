/* Of a site that a trainer attaches to: the border with the run's tensors, and what a session is
 * loaded with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "node/daemon_internal.h"

static void fragment_place(void *context, uint32_t fragment, uint64_t *start, uint64_t *count) {
    const struct daemon *daemon = context;
    fragment_range(daemon->layout.count, daemon->site->manifest.fragments, fragment, start, count);
}

/* On the trainer's thread, between two moves of the base: theta_s where a message is in flight, so
 * that what is merged next is not trained on twice, else the base. */
static uint64_t load_fragment(void *context, uint32_t fragment, float *out) {
    const struct daemon *daemon = context;
    const struct replica *replica = &daemon->replica;
    uint64_t start, count;
    fragment_range(replica->parameters, replica->fragments, fragment, &start, &count);
    bool in_flight = training_mark_of(daemon->training, fragment)->in_flight != 0;
    const float *from = in_flight ? replica->snapshot : replica->base;
    memcpy(out, from + start, count * sizeof(float));
    return replica->base_version[fragment];
}

static void complain(void *context, const char *message) {
    (void)context;
    log_warn("trainer_ended", "message=\"%s\"", message);
}

enum status daemon_border_open(struct daemon *daemon, struct error *error) {
    const struct settings *settings = daemon->settings;
    const struct layout *layout = &daemon->layout;
    void *scratch = NULL;
    TRY(memory_try(layout->count, sizeof(float), &scratch, error));
    daemon->scratch = scratch;
    daemon->tensors = xcalloc(layout->tensor_count, sizeof *daemon->tensors);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct layout_tensor *from = &layout->tensors[i];
        struct coverage_tensor *to = &daemon->tensors[i];
        memcpy(to->name, from->name, sizeof from->name);
        to->offset = from->offset;
        to->count = from->count;
        to->dimensions = from->dimensions;
        for (uint32_t d = 0; d < from->dimensions; d++) to->shape[d] = from->shape[d];
    }
    char *socket = settings->attach_socket ? xstrdup(settings->attach_socket)
                                           : site_path(daemon->site, "attach.sock");
    char *token = site_path(daemon->site, "attach.token");
    struct border_options options = {.socket = socket,
                                     .token_file = token,
                                     .tensors = daemon->tensors,
                                     .tensor_count = layout->tensor_count,
                                     .parameters = layout->count,
                                     .fragments = daemon->site->manifest.fragments,
                                     .timeout_ms = settings->attach_timeout_ms,
                                     .context = daemon,
                                     .range = fragment_place,
                                     .load = load_fragment,
                                     .complain = complain};
    enum status status = border_open(&options, &daemon->border, error);
    if (status == OK) log_info("attach_at", "socket=\"%s\"", socket);
    free(socket);
    free(token);
    snprintf(daemon->device, sizeof daemon->device, "attached");
    return status;
}

/* theta_local of before was in a trainer, and the next one that attaches begins from theta_s or the
 * base. */
void daemon_border_restored(struct daemon *daemon) {
    struct replica *replica = &daemon->replica;
    free(daemon->scratch);
    daemon->scratch = NULL;
    for (uint32_t i = 0; i < replica->fragments; i++)
        round_progress_lost(&daemon->restored.fragment[i].progress);
}
