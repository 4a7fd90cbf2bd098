/* The site's trainer: inner steps and, between two of them, what it was asked for, in order. What
 * it does to tensors and counts is the daemon's (node/training_marks.h); what a step does is a toy.
 * Its saved state is theta_local, its count of steps, and the checker's books of them. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/site_internal.h"

static void trainer_go(struct simulated_site *site);

/* A pull of an eighth of the coordinates towards this site's own optimum, with some noise. */
static void inner_step(struct simulated_site *site) {
    uint64_t count = site->setup.scenario->parameters, some = count < 64 ? count : count / 8;
    for (uint64_t i = 0; i < some; i++) {
        uint64_t at = (site->trainer_steps * 31 + i * 7) % count;
        uint64_t mixed = random_hash(site->setup.process, at);
        float target = (float)(int32_t)(mixed & 0xffff) * 0x1p-15f - 1.0f;
        float noise = (float)(int32_t)(random_hash(site->trainer_steps, at) & 0xff) * 0x1p-14f;
        float before = site->local[at];
        site->local[at] += 0.05f * (target - site->local[at]) + noise;
        site_progress_changed(site, at, before);
    }
}

static void on_capture_freed(void *context, uint64_t retry_ms) {
    struct simulated_site *site = context;
    uint64_t interval = site->setup.scenario->checkpoint_us;
    site->capture_out = false;
    site->capture_at = site->world->now + (retry_ms ? MIN(retry_ms * MS, interval) : interval);
    trainer_go(site);
}

static void save(const struct simulated_site *site, bool all, struct buffer *out) {
    buffer_u8(out, all);
    buffer_u64(out, site->trainer_steps);
    if (!all) return;
    buffer_append(out, site->local, (size_t)site->replica.parameters * sizeof(float));
    buffer_append(out, site->trained, site->replica.fragments * sizeof site->trained[0]);
    buffer_append(out, site->own.baseless, sizeof site->own.baseless);
    site_progress_save(site, out);
}

enum status site_trainer_load(struct simulated_site *site, struct bytes state,
                              struct error *error) {
    struct reader reader = reader_of(state);
    bool all = reader_u8(&reader) != 0;
    site->trainer_steps = reader_u64(&reader);
    if (all) {
        struct bytes local = reader_take(&reader, (size_t)site->replica.parameters * sizeof(float));
        struct bytes trained = reader_take(&reader, site->replica.fragments * sizeof site->kept[0]);
        if (!reader.failed) memcpy(site->local, local.data, local.size);
        if (!reader.failed) memcpy(site->kept, trained.data, trained.size);
        reader_copy(&reader, site->own.kept_baseless, sizeof site->own.kept_baseless);
        site_progress_load(site, &reader);
    }
    return reader.failed || reader_left(&reader) > 0
               ? error_set(error, CORRUPT, "a trainer's state of %zu bytes", state.size)
               : OK;
}

static void saved_release(void *pointer) {
    struct training_capture *capture = pointer;
    if (capture) capture->freed = NULL;
    training_capture_destroy(capture);
}

static void on_saved(void *context, struct event *event) {
    struct simulated_site *site = context;
    struct training_capture *capture = event->payload;
    event->payload = NULL;
    site->saving = false;
    site_job(site, &(struct keeper_job){.kind = KEEPER_CAPTURED, .capture = capture});
    trainer_go(site);
}

/* Saving takes a few steps' time, in which the trainer does nothing else; the keeper does. */
static void capture_now(struct simulated_site *site) {
    uint64_t step = site->setup.scenario->site[site->setup.process].step_us;
    struct training_capture *capture = training_capture_create(site->marks, &site->replica);
    for (uint32_t f = 0; f < site->replica.fragments; f++)
        if (!site->own.baseless[f] && !site->lacks_model)
            check_base(site->setup.check, site->name, &site->replica, f,
                       capture->fragment[f].base_version);
    capture->freed = on_capture_freed;
    capture->context = site;
    capture->trainer_steps = site->trainer_steps;
    save(site, true, &capture->trainer);
    site->capture_out = true;
    site->capture_wanted = false;
    site->saving = true;
    world_post(site->world, world_below(site->world, 4 * step), site->setup.process, on_saved, site,
               capture)
        ->release = saved_release;
}

static void snapshot_now(struct simulated_site *site, const struct request *request) {
    struct keeper_job job = {.kind = KEEPER_SNAPSHOTTED,
                             .fragment = request->fragment,
                             .sequence = request->sequence,
                             .trainer_steps = site->trainer_steps};
    training_mark_snapshot(&site->marks[request->fragment], &site->replica, request->fragment,
                           request->sequence, site->local);
    site->trained[request->fragment].snapshot = site->trained[request->fragment].local;
    site->trained[request->fragment].round = 0;
    site_progress_snapshot(site, request->fragment);
    /* as the daemon: with one fragment alone */
    if (site->replica.fragments == 1) save(site, false, &job.bytes);
    site_job(site, &job); /* first, so that the encoding finds it */
    struct node_event event = {
        .kind = NODE_SNAPSHOTTED, .fragment = request->fragment, .sequence = request->sequence};
    event.snapshotted.steps = site->steps;
    event.snapshotted.tokens = site->tokens;
    event.snapshotted.began = site->marks[request->fragment].progress.began_in_flight;
    site_tell(site, FROM_TRAINER, &event);
}

static void rebase_now(struct simulated_site *site, const struct request *request) {
    bool sent = request->why == MOVE_MERGED ||
                (request->why == MOVE_REFUSED && replica_refused(&site->replica) == REBASE_SENT);
    training_mark_rebase(&site->marks[request->fragment], &site->replica, request->fragment,
                         request->sequence, request->why, site->local);
    if (sent) site->trained[request->fragment].local -= site->trained[request->fragment].snapshot;
    site_progress_moved(site, request->fragment, request->why);
    site_job(site, &(struct keeper_job){.kind = KEEPER_REBASED,
                                        .fragment = request->fragment,
                                        .sequence = request->sequence,
                                        .why = request->why});
}

static void on_inner_step(void *context, struct event *event) {
    struct simulated_site *site = context;
    (void)event;
    inner_step(site);
    site->stepping = false;
    site->steps++;
    site->trainer_steps++;
    site->tokens += TOKENS_A_STEP;
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        round_progress_step(&site->marks[f].progress, TOKENS_A_STEP, 2.0,
                            site->replica.base_version[f]);
        site->trained[f].local++;
        site->trained[f].round++;
    }
    site_progress_step(site);
    struct node_event progress = {.kind = NODE_PROGRESS};
    progress.progress.steps = site->steps;
    progress.progress.tokens = site->tokens;
    progress.progress.loss = 2.0;
    site_tell(site, FROM_TRAINER, &progress);
    trainer_go(site);
}

static void trainer_go(struct simulated_site *site) {
    if (site->stepping || site->saving || process_is_doomed(site->world, site->setup.process))
        return;
    while (site->request_count > 0) {
        struct request request = site->requests[0];
        memmove(site->requests, site->requests + 1, --site->request_count * sizeof request);
        switch (request.kind) {
        case REQUEST_SNAPSHOT: snapshot_now(site, &request); break;
        case REQUEST_REBASE: rebase_now(site, &request); break;
        case REQUEST_CAPTURE: site->capture_wanted = true; break;
        }
    }
    bool train = site->train && site->steps < site->until_steps,
         due = train && site->world->now >= site->capture_at;
    if ((due || site->capture_wanted) && !site->capture_out) {
        capture_now(site);
        return;
    }
    if (!train) return;
    site->stepping = true;
    uint64_t step = site->setup.scenario->site[site->setup.process].step_us;
    world_post(site->world, step * 9 / 10 + world_below(site->world, step / 5), site->setup.process,
               on_inner_step, site, NULL);
}

void site_train(struct simulated_site *site, bool train, uint64_t until_steps) {
    site->train = train;
    site->until_steps = until_steps;
    trainer_go(site);
}

void site_request(struct simulated_site *site, struct request request) {
    ASSERT(site->request_count < COUNT_OF(site->requests));
    site->requests[site->request_count++] = request;
    trainer_go(site);
}

void site_trainer_clear(struct simulated_site *site) {
    site->train = site->stepping = site->saving = site->capture_out = site->capture_wanted = false;
    site->steps = site->tokens = site->trainer_steps = 0;
    site->request_count = 0;
    memset(site->is_staged, 0, sizeof site->is_staged);
    memset(site->marks, 0, sizeof site->marks);
    memset(site->trained, 0, sizeof site->trained);
    memset(site->kept, 0, sizeof site->kept);
    site_progress_clear(site);
}
