/* The simulated coordinator (sim/coordinator.h): its start, crash and restart, and the loop that
 * carries out actions. */
#include "sim/coordinator.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "sim/coordinator_internal.h"

struct instant coordinator_now(const struct coordinator *coordinator) {
    return (struct instant){process_monotonic_ms(coordinator->world, COORDINATOR),
                            process_wall_ms(coordinator->world, COORDINATOR)};
}

struct disk *coordinator_disk(struct coordinator *coordinator) {
    return &coordinator->disk;
}
void coordinator_set_check(struct coordinator *coordinator, struct check *check) {
    coordinator->check = check;
}

const struct run_state *coordinator_run(const struct coordinator *coordinator) {
    return coordinator->state ? coordinator_state_run(coordinator->state) : NULL;
}

/* ---- laying out ------------------------------------------------------------------------------ */

static void put_genesis(struct coordinator *coordinator, struct bytes raw) {
    uint8_t key[STORE_KEY_U64_SIZE];
    struct store_batch *batch = store_batch_create(coordinator->data.store);
    store_key_u64(0, key);
    store_batch_put(batch, TABLE_LEDGER, bytes_of(key, sizeof key), raw);
    MUST(store_commit_wait(coordinator->data.store, batch, NULL));
}

static void put_first_snapshot(struct coordinator *coordinator, const uint8_t *run_id) {
    const struct scenario *scenario = coordinator->setup.scenario;
    struct snapshot_header header = {.epoch = 1, .ledger_size = 1, .payloads_from = 1};
    struct model_state model = {0};
    memcpy(header.run_id, run_id, RUN_ID_SIZE);
    MUST(model_state_init(&model, &scenario->manifest, scenario->parameters, NULL));
    memcpy(model.theta, coordinator->setup.initial, (size_t)scenario->parameters * sizeof(float));
    MUST(directory_snapshot_write(&coordinator->data, &model, &header, coordinator->setup.key,
                                  SNAPSHOTS_KEPT, NULL));
    model_state_deinit(&model);
}

static void write_genesis(struct coordinator *coordinator) {
    const struct scenario *scenario = coordinator->setup.scenario;
    struct ledger_entry *entry = xcalloc(1, sizeof *entry);
    struct buffer manifest = {0}, raw = {0};
    entry->kind = LEDGER_GENESIS;
    entry->epoch = 1;
    entry->time_ms = process_wall_ms(coordinator->world, COORDINATOR);
    for (size_t i = 0; i < RUN_ID_SIZE; i++)
        entry->genesis.run_id[i] = (uint8_t)world_below(coordinator->world, 256);
    memcpy(entry->genesis.coordinator_key, key_pair_public(coordinator->setup.key),
           PUBLIC_KEY_SIZE);
    memset(entry->genesis.layout_digest, 0x1a, DIGEST_SIZE);
    entry->genesis.parameters = scenario->parameters;
    state_root(coordinator->setup.initial, scenario->parameters, entry->genesis.initial_root);
    manifest_write(&scenario->manifest, &manifest);
    entry->genesis.manifest = buffer_bytes(&manifest);
    ledger_entry_encode(entry, &raw);
    put_genesis(coordinator, buffer_bytes(&raw));
    put_first_snapshot(coordinator, entry->genesis.run_id);
    buffer_deinit(&manifest);
    buffer_deinit(&raw);
    free(entry);
}

static void on_grown(void *context) {
    struct coordinator *coordinator = context;
    if (coordinator->check) check_ledger_grew(coordinator->check);
}

static void on_fatal(void *context, struct event *event) {
    (void)event;
    coordinator_break(context, "a sync of the store failed");
}

/* What was under way goes on until the process notices. */
static void on_store_fatal(void *context, const char *message) {
    struct coordinator *coordinator = context;
    (void)message;
    world_post(coordinator->world, world_between(coordinator->world, MS, SECOND), COORDINATOR,
               on_fatal, coordinator, NULL);
}

struct coordinator *coordinator_create(const struct coordinator_setup *setup) {
    struct coordinator *coordinator = xcalloc(1, sizeof *coordinator);
    struct storage_setup storage = {.world = setup->world,
                                    .process = COORDINATOR,
                                    .disk = &coordinator->disk,
                                    .key = key_pair_public(setup->key),
                                    .commit_us = setup->scenario->commit_us,
                                    .grown = on_grown,
                                    .fatal = on_store_fatal,
                                    .context = coordinator};
    coordinator->setup = *setup;
    coordinator->world = setup->world;
    disk_init(&coordinator->disk, setup->world, COORDINATOR);
    storage_init(&coordinator->storage, &storage);
    coordinator->data = (struct directory){.store = coordinator->storage.store,
                                           .blobs = coordinator->storage.blobs};
    process_start(setup->world, COORDINATOR);
    write_genesis(coordinator);
    process_stop(setup->world, COORDINATOR);
    return coordinator;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void forget(struct coordinator *coordinator) {
    coordinator_state_destroy(coordinator->state);
    coordinator->state = NULL;
    coordinator_actions_clear(&coordinator->actions);
    coordinator_model_clear(coordinator);
    transfers_destroy(coordinator->transfers);
    coordinator->transfers = NULL;
    coordinator->call_count = 0;
}

void coordinator_die(struct coordinator *coordinator) {
    forget(coordinator);
    storage_crash(&coordinator->storage);
    ledger_queue_destroy(coordinator->ledger);
    coordinator->ledger = NULL;
}

void coordinator_replace(struct coordinator *coordinator, bool behind_a_receipt) {
    coordinator->new_epoch = 0;
    if (behind_a_receipt)
        coordinator->ends_at_receipt = true;
    else
        coordinator->takeover = true;
}

bool coordinator_is_stepping(const struct coordinator *coordinator) {
    return coordinator->state && coordinator->job_count > 0 &&
           coordinator->jobs[0].kind != JOB_SNAPSHOT;
}

bool coordinator_is_receiving(const struct coordinator *coordinator) {
    return coordinator->state && storage_is_receiving(&coordinator->storage);
}

bool coordinator_has_snapshots(const struct coordinator *coordinator) {
    return storage_has_snapshots(&coordinator->storage);
}

/* Also the last that is whole: the ledger does without. */
bool coordinator_flip_snapshot(struct coordinator *coordinator) {
    return storage_flip_snapshot(&coordinator->storage);
}

void coordinator_mend(struct coordinator *coordinator) {
    coordinator->ends_at_receipt = false;
    storage_mend(&coordinator->storage);
}

bool coordinator_is_called(const struct coordinator *coordinator, uint32_t site) {
    for (size_t i = 0; i < coordinator->call_count; i++) {
        if (coordinator->calls[i].kind == MESSAGE_SUBMIT && coordinator->calls[i].site == site)
            return true;
    }
    return false;
}

void coordinator_break(struct coordinator *coordinator, const char *message) {
    if (process_is_doomed(coordinator->world, COORDINATOR)) return;
    coordinator->setup.stopped(coordinator->setup.context, message);
}

static void keep_receipt(struct coordinator *coordinator, const struct coordinator_action *action) {
    const struct simulated_call *call = coordinator_call(coordinator, action->call);
    struct sent_receipt *kept =
        &coordinator->receipts[coordinator->receipt_count++ % RECEIPTS_KEPT];
    if (!call) return;
    memcpy(kept->header, call->header, sizeof kept->header);
    kept->epoch = run_state_epoch(coordinator_state_run(coordinator->state));
    kept->bytes.size = 0;
    buffer_append(&kept->bytes, action->bytes.data, action->bytes.size);
}

bool coordinator_old_receipt(const struct coordinator *coordinator,
                             const uint8_t header[static CONTRIBUTION_HEADER_SIZE], uint32_t epoch,
                             struct bytes *out) {
    for (size_t i = 0; i < RECEIPTS_KEPT; i++) {
        const struct sent_receipt *kept = &coordinator->receipts[i];
        if (kept->bytes.size == 0 || kept->epoch >= epoch ||
            memcmp(kept->header, header, sizeof kept->header) != 0)
            continue;
        *out = buffer_bytes(&kept->bytes);
        return true;
    }
    return false;
}

bool coordinator_stray_head(const struct coordinator *coordinator, uint8_t out[static HEAD_SIZE]) {
    const struct disk *disk = &coordinator->disk;
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint64_t at = disk->entry_count;
    bool found = false;
    while (at > 0 && !found) {
        at--;
        found = disk->entries[at].data[0] == LEDGER_EPOCH &&
                ledger_entry_decode(buffer_bytes(&disk->entries[at]), entry, NULL) == OK;
    }
    if (found) {
        struct ledger_head head = {.epoch = entry->epoch - 1,
                                   .size = at + 1 + world_luck_below(coordinator->world, 8)};
        memcpy(head.run_id, run_state_run_id(check_run(coordinator->check)), RUN_ID_SIZE);
        head.root[0] = 1;
        ledger_head_sign(&head, coordinator->setup.key, out);
    }
    free(entry);
    return found;
}

void coordinator_destroy(struct coordinator *coordinator) {
    if (!coordinator) return;
    forget(coordinator);
    coordinator_actions_deinit(&coordinator->actions);
    for (size_t i = 0; i < RECEIPTS_KEPT; i++) buffer_deinit(&coordinator->receipts[i].bytes);
    free(coordinator->calls);
    storage_deinit(&coordinator->storage);
    ledger_queue_destroy(coordinator->ledger);
    disk_deinit(&coordinator->disk);
    free(coordinator);
}

/* ---- actions --------------------------------------------------------------------------------- */

static void on_timer(void *context, struct event *event) {
    struct coordinator *coordinator = context;
    if (event->number != coordinator->timer_round) return; /* another was asked for since */
    coordinator_step(coordinator, &(struct coordinator_event){.kind = COORDINATOR_TIMER});
}

static void set_timer(struct coordinator *coordinator, uint64_t at_ms) {
    uint64_t delay = process_delay_until(coordinator->world, COORDINATOR, at_ms);
    world_post(coordinator->world, delay, COORDINATOR, on_timer, coordinator, NULL)->number =
        ++coordinator->timer_round;
}

static void do_refuse(struct coordinator *coordinator, const struct coordinator_action *action) {
    struct message message = {.kind = MESSAGE_REFUSAL,
                              .a = action->code,
                              .b = action->retry_after_ms,
                              .c = action->current_version};
    buffer_append(&message.bytes, action->bytes.data, action->bytes.size);
    if ((unsigned)action->code < COUNT_OF(coordinator->world->tally.refusals))
        coordinator->world->tally.refusals[action->code]++;
    coordinator_answer(coordinator, action->call, &message);
}

static void do_cut(struct coordinator *coordinator, uint32_t site) {
    for (size_t i = coordinator->call_count; i-- > 0;) {
        if (i >= coordinator->call_count) continue;
        struct simulated_call *call = &coordinator->calls[i];
        /* a Submit is answered with its refusal */
        if (call->site != site || call->kind == MESSAGE_SUBMIT) continue;
        struct message denied = {.kind = MESSAGE_DENIED};
        coordinator_answer(coordinator, call->number, &denied);
    }
}

static const char *const action_names[] = {[DO_ADMIT] = "admit",
                                           [DO_REFUSE] = "refuse",
                                           [DO_RECEIPT] = "receipt",
                                           [DO_DROP] = "drop",
                                           [DO_KEEP] = "keep",
                                           [DO_CHECK] = "check",
                                           [DO_COMMIT] = "commit",
                                           [DO_PUBLISH] = "publish",
                                           [DO_APPLY] = "apply",
                                           [DO_SNAPSHOT] = "snapshot",
                                           [DO_JOINED] = "joined",
                                           [DO_HEARTBEAT_REPLY] = "pulse",
                                           [DO_ADMIN_REPLY] = "admin reply",
                                           [DO_END] = "end",
                                           [DO_COPY] = "copy",
                                           [DO_CATCH_UP] = "catch up",
                                           [DO_CUT] = "cut",
                                           [DO_TIMER] = "timer",
                                           [DO_STOP] = "stop"};

static void reply_heartbeat(struct coordinator *coordinator,
                            const struct coordinator_action *action) {
    const struct run_state *run = coordinator_state_run(coordinator->state);
    struct message reply = {.kind = MESSAGE_HEARTBEAT_REPLY,
                            .a = action->inner_steps,
                            .b = (uint64_t)run_state_phase(run),
                            .c = run_state_version(run),
                            .turn = action->turn,
                            .leaving = action->has_left,
                            .code = (uint32_t)action->code};
    coordinator->world->tally.refusals[action->code] += action->code != ACCEPTED;
    for (uint32_t i = 0; i < action->wanted_count; i++) buffer_u64(&reply.bytes, action->wanted[i]);
    coordinator_answer(coordinator, action->call, &reply);
}

static void perform(struct coordinator *coordinator, const struct coordinator_action *action) {
    struct message reply = {0};
    if (action->kind != DO_TIMER && action->kind != DO_HEARTBEAT_REPLY &&
        action->kind != DO_PUBLISH)
        world_trace(coordinator->world,
                    "coordinator  %s call=%llu site=%u code=%s commit=%llu v=%llu %.60s",
                    action_names[action->kind], (unsigned long long)action->call,
                    action->kind == DO_ADMIT ? action->contribution.site : action->site,
                    refusal_name(action->code), (unsigned long long)action->commit,
                    (unsigned long long)(action->kind == DO_APPLY ? action->step.step.version
                                                                  : action->version),
                    action->message);
    switch (action->kind) {
    case DO_ADMIT: coordinator_admit(coordinator, action); break;
    case DO_REFUSE: do_refuse(coordinator, action); break;
    case DO_RECEIPT:
        keep_receipt(coordinator, action);
        if (coordinator->ends_at_receipt) {
            coordinator->ends_at_receipt = false;
            coordinator->takeover = coordinator->world->processes[COORDINATOR].doomed = true;
            break;
        }
        reply.kind = MESSAGE_RECEIPT;
        buffer_append(&reply.bytes, action->bytes.data, action->bytes.size);
        coordinator_answer(coordinator, action->call, &reply);
        break;
    case DO_KEEP:
        transfers_keep(coordinator->transfers, action->contribution.payload_digest);
        break;
    case DO_DROP: {
        struct simulated_call *call = coordinator_call(coordinator, action->call);
        if (!call) break;
        network_close(coordinator->setup.network, call->stream, false);
        coordinator_call_end(coordinator, call);
        break;
    }
    case DO_CHECK: coordinator_check(coordinator, action); break;
    case DO_COMMIT: coordinator_commit(coordinator, action); break;
    case DO_PUBLISH: coordinator_publish(coordinator, action->size); break;
    case DO_APPLY: coordinator_apply(coordinator, action); break;
    case DO_CATCH_UP: coordinator_catch_up(coordinator); break;
    case DO_SNAPSHOT: coordinator_snapshot(coordinator, action); break;
    case DO_JOINED:
        reply = (struct message){.kind = MESSAGE_JOINED, .a = action->code, .b = action->site};
        coordinator_answer(coordinator, action->call, &reply);
        break;
    case DO_HEARTBEAT_REPLY: reply_heartbeat(coordinator, action); break;
    case DO_ADMIN_REPLY: break; /* the admin looks at the ledger */
    case DO_END: {
        struct simulated_call *call = coordinator_call(coordinator, action->call);
        if (!call) break;
        network_close(coordinator->setup.network, call->stream, false);
        coordinator_call_end(coordinator, call);
        break;
    }
    case DO_COPY: /* no site runs twice here, and who is set back says so */
        world_fail(coordinator->world, "copy", "%s", action->message);
        break;
    case DO_CUT: do_cut(coordinator, action->site); break;
    case DO_TIMER: set_timer(coordinator, action->at_ms); break;
    case DO_STOP: coordinator_break(coordinator, action->message); break;
    }
}

static void perform_all(struct coordinator *coordinator) {
    /* what is done may bring more, never while this runs */
    struct coordinator_actions actions = coordinator->actions;
    coordinator->actions = (struct coordinator_actions){0};
    for (size_t i = 0; i < actions.count && !process_is_doomed(coordinator->world, COORDINATOR);
         i++)
        perform(coordinator, &actions.items[i]);
    coordinator_actions_deinit(&actions);
}

void coordinator_step(struct coordinator *coordinator, const struct coordinator_event *event) {
    if (!coordinator->state || process_is_doomed(coordinator->world, COORDINATOR)) return;
    coordinator_state_step(coordinator->state, event, coordinator_now(coordinator),
                           &coordinator->actions);
    perform_all(coordinator);
    coordinator_flush(coordinator);
}

static void on_code(void *context, struct event *event) {
    coordinator_step(context, event->payload);
}

void coordinator_tell_code(struct coordinator *coordinator, enum coordinator_event_kind kind,
                           uint64_t call, enum refusal code, uint64_t delay) {
    struct coordinator_event *event = xcalloc(1, sizeof *event);
    event->kind = kind;
    event->call = call;
    event->uploaded.code = code;
    world_post(coordinator->world, delay, COORDINATOR, on_code, coordinator, event);
}

/* Another coordinator takes over: it goes on until its epoch is in the ledger, however often it has
 * to start. */
static bool begins_epoch(struct coordinator *coordinator, const struct run_state *run) {
    if (!coordinator->takeover) return false;
    if (coordinator->new_epoch == 0) coordinator->new_epoch = run_state_epoch(run) + 1;
    coordinator->takeover = run_state_epoch(run) < coordinator->new_epoch;
    return coordinator->takeover;
}

void coordinator_boot(struct coordinator *coordinator) {
    const struct scenario *scenario = coordinator->setup.scenario;
    process_start(coordinator->world, COORDINATOR);
    check_coordinator_restarted(coordinator->check);
    bool is_behind = false;
    struct run_state *run = coordinator_restore(coordinator, &is_behind);
    if (!run) return;
    uint64_t largest = fragment_largest(scenario->parameters, scenario->manifest.fragments);
    struct coordinator_options options = {
        .key = coordinator->setup.key,
        .uploads_limit = scenario->uploads_limit,
        .payload_limit =
            codec_bound_of_mode((enum codec)scenario->manifest.codec.kind, (size_t)largest),
        .presence_ms = scenario->presence_ms,
        .retry_ms = 200,
        .lost_ms = 4000 * MIN(scenario->pace, 8u),
        .model_behind = is_behind,
        .new_epoch = begins_epoch(coordinator, run)};
    coordinator_begin_work(coordinator, run);
    coordinator->published = run_state_size(run);
    coordinator->state = coordinator_state_create(&options, run);
    world_trace(coordinator->world, "coordinator  up with %llu entries, version %llu",
                (unsigned long long)run_state_size(run),
                (unsigned long long)run_state_version(run));
    coordinator_state_start(coordinator->state, coordinator_now(coordinator),
                            &coordinator->actions);
    perform_all(coordinator);
    coordinator_flush(coordinator);
}

void coordinator_order(struct coordinator *coordinator, struct coordinator_event *event) {
    if (!coordinator->state) return;
    event->kind = COORDINATOR_ADMIN;
    event->call = ++coordinator->next_call;
    coordinator->world->tally.orders[event->admin.order]++;
    coordinator_step(coordinator, event);
}
