/* Of a site that a trainer attaches to: the border with the run's tensors, and what a session is
 * loaded with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "node/daemon_internal.h"

static void fragment_place(void *context, uint32_t fragment, uint64_t *start, uint64_t *count) {
    const struct daemon *daemon = context;
    fragment_range(daemon->layout.count, daemon->site->manifest.fragments, fragment, start, count);
}

/* On the trainer's thread, and the next one, between two moves of the base. */
static void resume_job(void *context, const struct wire_state *state, int passed,
                       struct border_resumed *out) {
    const struct daemon *daemon = context;
    struct training_figures figures;
    struct stand_plan plan;
    training_figures(daemon->training, &figures);
    stand_resume(daemon->stand, state, passed, training_mark_of(daemon->training, 0),
                 figures.trainer_steps, &plan);
    *out = (struct border_resumed){.steps = plan.steps,
                                   .tokens = plan.tokens,
                                   .clock = plan.clock,
                                   .job = plan.job,
                                   .lost = plan.lost,
                                   .ahead = plan.ahead,
                                   .kept = plan.kept};
}

/* theta_s where a message is in flight, so that what is merged next is not trained on twice, else
 * the base; or what leads there. */
static uint64_t load_fragment(void *context, uint32_t fragment, float *out, bool *add) {
    const struct daemon *daemon = context;
    *add = stand_load(daemon->stand, fragment, training_mark_of(daemon->training, fragment), out);
    return daemon->replica.base_version[fragment];
}

static void complain(void *context, const char *message) {
    (void)context;
    log_warn("trainer_ended", "message=\"%s\"", message);
}

/* Where a job's state is of. */
static void site_identity(const struct site *site, uint8_t out[STAND_SITE_SIZE]) {
    _Static_assert(RUN_ID_SIZE + sizeof site->number <= STAND_SITE_SIZE, "both have room");
    memset(out, 0, STAND_SITE_SIZE);
    memcpy(out, site->run_id, RUN_ID_SIZE);
    memcpy(out + RUN_ID_SIZE, &site->number, sizeof site->number);
}

static enum status open_stand(struct daemon *daemon, struct error *error) {
    uint8_t identity[STAND_SITE_SIZE];
    char *first = site_path(daemon->site, "attach.state.0");
    char *second = site_path(daemon->site, "attach.state.1");
    char *job = site_path(daemon->site, "attach.job");
    site_identity(daemon->site, identity);
    enum status status =
        stand_create(&daemon->replica, identity, (const char *const[2]){first, second}, job,
                     &daemon->stand, error);
    free(first);
    free(second);
    free(job);
    return status;
}

_Static_assert((int)LAYOUT_NAME_SIZE == (int)WIRE_TENSOR_NAME_SIZE &&
                   (int)LAYOUT_DIMENSIONS == (int)WIRE_DIMENSIONS,
               "every layout can cross the border");

/* The layout's tensors, then their other names. Returns how many. */
static uint32_t make_tensors(struct daemon *daemon) {
    const struct layout *layout = &daemon->layout;
    uint32_t count = layout->tensor_count;
    daemon->tensors = xcalloc((size_t)count + layout->other_count, sizeof *daemon->tensors);
    for (uint32_t i = 0; i < count; i++) {
        const struct layout_tensor *from = &layout->tensors[i];
        struct coverage_tensor *to = &daemon->tensors[i];
        memcpy(to->name, from->name, sizeof from->name);
        to->offset = from->offset;
        to->count = from->count;
        to->dimensions = from->dimensions;
        memcpy(to->shape, from->shape, sizeof from->shape);
    }
    for (uint32_t i = 0; i < layout->other_count; i++) {
        const struct layout_other *from = &layout->others[i];
        if (from->tied == LAYOUT_FROZEN) continue;
        struct coverage_tensor *to = &daemon->tensors[count++];
        *to = daemon->tensors[from->tied];
        memcpy(to->name, from->name, sizeof from->name);
        to->is_alias = true;
        to->of = from->tied;
    }
    return count;
}

static void tell_memory(const struct daemon *daemon) {
    uint64_t largest = 0, start, count;
    for (uint32_t i = 0; i < daemon->site->manifest.fragments; i++) {
        fragment_place((void *)(uintptr_t)daemon, i, &start, &count);
        largest = MAX(largest, count);
    }
    log_info("attach_memory",
             "one_rank=%llu formula=\"4096 + 128 * ranks, + 280 * tensors, + 4 * the largest "
             "fragment, twice; each in whole pages\" tensors=%u largest_fragment=%llu",
             (unsigned long long)border_memory(1, daemon->layout.tensor_count, largest),
             daemon->layout.tensor_count, (unsigned long long)largest);
}

/* Made once, and copied to the site's other hosts by a person. */
static enum status relay_secret(const char *path, uint8_t secret[TLS_SECRET_SIZE],
                                struct error *error) {
    char text[2 * TLS_SECRET_SIZE + 2];
    char *token = NULL;
    if (!file_exists(path)) {
        random_system(secret, TLS_SECRET_SIZE);
        hex_encode(secret, TLS_SECRET_SIZE, text);
        text[2 * TLS_SECRET_SIZE] = '\n';
        enum status status = file_write(path, bytes_of(text, sizeof text - 1), 0600, error);
        clear(text, sizeof text);
        return status;
    }
    TRY(settings_read_token_file(path, &token, error));
    bool fits = strlen(token) == (size_t)2 * TLS_SECRET_SIZE &&
                hex_decode(token, secret, TLS_SECRET_SIZE, NULL) == OK;
    free_clearing(token, strlen(token));
    if (fits) return OK;
    return error_set(error, INVALID, "%s holds no token: delete it, and a new one is made", path);
}

static enum status open_gateway(struct daemon *daemon, const struct border_options *border,
                                struct error *error) {
    const char *address = daemon->settings->trainer_listen;
    uint16_t port = 0;
    if (!address) return OK;
    char *path = site_path(daemon->site, "relay.token");
    struct gateway_options options = {.address = address,
                                      .socket = border->socket,
                                      .token_file = border->token_file,
                                      .tensors = border->tensors,
                                      .tensor_count = border->tensor_count,
                                      .fragments = border->fragments,
                                      .context = daemon,
                                      .range = fragment_place};
    enum status status = relay_secret(path, options.secret, error);
    if (status == OK) status = gateway_start(&options, &daemon->gateway, &port, error);
    clear(options.secret, sizeof options.secret);
    if (status == OK)
        log_info("trainer_listen", "address=\"%s\" port=%u token_file=\"%s\"", address, port, path);
    free(path);
    return status == OK ? OK : error_wrap(error, status, "--trainer-listen");
}

enum status daemon_border_open(struct daemon *daemon, struct error *error) {
    const struct settings *settings = daemon->settings;
    const struct layout *layout = &daemon->layout;
    void *scratch = NULL;
    TRY(memory_try(layout->count, sizeof(float), &scratch, error));
    daemon->scratch = scratch;
    uint32_t count = make_tensors(daemon);
    TRY(open_stand(daemon, error));
    char *socket = settings->attach_socket ? xstrdup(settings->attach_socket)
                                           : site_path(daemon->site, "attach.sock");
    char *token = site_path(daemon->site, "attach.token");
    struct border_options options = {.socket = socket,
                                     .token_file = token,
                                     .tensors = daemon->tensors,
                                     .tensor_count = count,
                                     .parameters = layout->count,
                                     .fragments = daemon->site->manifest.fragments,
                                     .timeout_ms = settings->attach_timeout_ms,
                                     .wait_ms = settings->relay_wait_ms,
                                     .context = daemon,
                                     .range = fragment_place,
                                     .stand = stand_descriptor(daemon->stand),
                                     .resume = resume_job,
                                     .load = load_fragment,
                                     .complain = complain};
    site_identity(daemon->site, options.site);
    enum status status = border_open(&options, &daemon->border, error);
    if (status == OK) status = open_gateway(daemon, &options, error);
    if (status == OK) {
        log_info("attach_at", "socket=\"%s\"", socket);
        tell_memory(daemon);
    }
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
