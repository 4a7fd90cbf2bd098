/* A simulated site (sim/site.h): its start, crash and restart, and the loop that carries out
 * actions. */
#include "sim/site.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "node/restore.h"
#include "sim/site_internal.h"

struct instant site_now(const struct simulated_site *site) {
    return (struct instant){process_monotonic_ms(site->world, site->setup.process),
                            process_wall_ms(site->world, site->setup.process)};
}

const char *site_name(const struct simulated_site *site) { return site->name; }
uint32_t site_number(const struct simulated_site *site) { return site->number; }
bool site_is_robbed(const struct simulated_site *site) { return site->robbed; }
bool site_is_finished(const struct simulated_site *site) { return site->finished; }
const struct node_state *site_core(const struct simulated_site *site) {
    return site->running ? site->state : NULL;
}
bool site_lacks_model(const struct simulated_site *site) { return site->lacks_model; }

const struct replica *site_replica(const struct simulated_site *site) {
    return site->running ? &site->replica : NULL;
}

struct simulated_site *site_create(const struct site_setup *setup) {
    struct simulated_site *site = xcalloc(1, sizeof *site);
    site->setup = *setup;
    site->world = setup->world;
    snprintf(site->name, sizeof site->name, "site-%u", setup->process);
    snprintf(site->world->processes[setup->process].name, sizeof site->world->processes[0].name,
             "%s", site->name);
    site_disk_init(site);
    return site;
}

static void forget(struct simulated_site *site) {
    if (site->running) {
        node_state_destroy(site->state);
        replica_deinit(&site->replica);
        free(site->local);
    }
    site_keeper_clear(site);
    journal_close(site->journal);
    site->journal = NULL;
    site->state = NULL;
    site->local = NULL;
    site->running = false;
    node_actions_clear(&site->actions);
    site_trainer_clear(site);
    site_changed_clear(site);
    site_link_clear(site);
    memset(site->told_until, 0, sizeof site->told_until);
}

void site_die(struct simulated_site *site) { forget(site); }

void site_destroy(struct simulated_site *site) {
    if (!site) return;
    forget(site);
    node_actions_deinit(&site->actions);
    site_disk_deinit(site);
    free(site);
}

/* ---- actions --------------------------------------------------------------------------------- */

static void step(struct simulated_site *site, const struct node_event *event);

static void on_timer(void *context, struct event *event) {
    struct simulated_site *site = context;
    if (event->number == site->timer_round) step(site, &(struct node_event){.kind = NODE_TIMER});
}

static void set_timer(struct simulated_site *site, uint64_t at_ms) {
    uint64_t delay = process_delay_until(site->world, site->setup.process, at_ms);
    world_post(site->world, delay, site->setup.process, on_timer, site, NULL)->number =
        ++site->timer_round;
}

static const char *const names[] = {
    [NODE_DO_CONNECT] = "connect",   [NODE_DO_FETCH] = "fetch",   [NODE_DO_FOLLOW] = "follow",
    [NODE_DO_SNAPSHOT] = "snapshot", [NODE_DO_ENCODE] = "encode", [NODE_DO_UPLOAD] = "upload",
    [NODE_DO_APPLY] = "apply",       [NODE_DO_REBASE] = "rebase", [NODE_DO_RESTORE] = "restore",
    [NODE_DO_ADVANCE] = "advance",   [NODE_DO_TRAIN] = "train",   [NODE_DO_HEARTBEAT] = "pulse",
    [NODE_DO_REFETCH] = "refetch",   [NODE_DO_SUPPLY] = "supply", [NODE_DO_ACCEPTED] = "accepted",
    [NODE_DO_TIMER] = "timer",       [NODE_DO_FINISH] = "finish", [NODE_DO_LEFT] = "left",
    [NODE_DO_HALT] = "halt"};

static void apply(struct simulated_site *site, const struct node_action *action) {
    struct keeper_job job = {.kind = KEEPER_APPLY, .run = node_state_run(site->state)};
    buffer_append(&job.bytes, action->bytes.data, action->bytes.size);
    site_job(site, &job);
}

/* Who has left has nothing under way that nobody has acknowledged, but what a paused run takes from
 * nobody. */
static void check_left(struct simulated_site *site) {
    for (uint32_t f = 0; f < site->setup.scenario->manifest.fragments; f++) {
        enum slot_phase phase = node_state_slot(site->state, f);
        bool waits =
            phase == SLOT_BACKOFF && run_state_phase(node_state_run(site->state)) == RUN_PAUSED;
        if (phase >= SLOT_SNAPSHOT && phase <= SLOT_BACKOFF && !waits)
            world_fail(site->world, "leave", "%s has left while fragment %u is in phase %d",
                       site->name, f, (int)phase);
    }
}

static void perform(struct simulated_site *site, const struct node_action *action) {
    const struct scenario *scenario = site->setup.scenario;
    if (action->kind != NODE_DO_TIMER && action->kind != NODE_DO_HEARTBEAT)
        world_trace(site->world, "%-12s %s fragment=%u sequence=%llu index=%llu train=%d/%d %.60s",
                    site->name, names[action->kind], action->fragment,
                    (unsigned long long)action->sequence, (unsigned long long)action->index,
                    action->train, (int)action->wait, action->message);
    switch (action->kind) {
    case NODE_DO_CONNECT: site_connect(site, action); break;
    case NODE_DO_FETCH: site_fetch(site); break;
    case NODE_DO_FOLLOW: site_follow(site, action); break;
    case NODE_DO_SNAPSHOT:
        site_request(site,
                     (struct request){REQUEST_SNAPSHOT, action->fragment, action->sequence, 0});
        break;
    case NODE_DO_ENCODE:
        site_job(site, &(struct keeper_job){.kind = KEEPER_ENCODE,
                                            .fragment = action->fragment,
                                            .sequence = action->sequence,
                                            .contribution = action->contribution});
        break;
    case NODE_DO_UPLOAD: site_upload(site, action->fragment, action->sequence); break;
    case NODE_DO_APPLY: apply(site, action); break;
    case NODE_DO_REBASE:
        site_job(site, &(struct keeper_job){.kind = KEEPER_REBASE,
                                            .fragment = action->fragment,
                                            .sequence = action->sequence});
        break;
    case NODE_DO_RESTORE:
        site->world->tally.restores++;
        site_job(site, &(struct keeper_job){.kind = KEEPER_RESTORE,
                                            .fragment = action->fragment,
                                            .sequence = action->sequence});
        break;
    case NODE_DO_ACCEPTED:
        site_job(site, &(struct keeper_job){.kind = KEEPER_ACCEPTED,
                                            .fragment = action->fragment,
                                            .sequence = action->sequence,
                                            .head = action->head});
        break;
    case NODE_DO_ADVANCE:
        site->world->tally.advances++;
        site_job(site, &(struct keeper_job){.kind = KEEPER_ADVANCE, .fragment = action->fragment});
        break;
    case NODE_DO_TRAIN:
        check_waits(site->setup.check, site->name, scenario->overlap,
                    !action->train && action->wait == NODE_WAIT_MERGE);
        site_train(site, action->train && !scenario->site[site->setup.process].observes,
                   action->until_steps);
        break;
    case NODE_DO_HEARTBEAT: site_pulse(site, action->leaving); break;
    case NODE_DO_REFETCH: site_refetch(site, action->index, &action->contribution); break;
    case NODE_DO_SUPPLY: site_supply(site, action->index); break;
    case NODE_DO_TIMER: set_timer(site, action->at_ms); break;
    case NODE_DO_FINISH:
        site->finished = true;
        site_train(site, false, UINT64_MAX);
        break;
    case NODE_DO_LEFT:
        site_train(site, false, UINT64_MAX);
        check_left(site);
        site->setup.left(site->setup.context, site->setup.process);
        break;
    case NODE_DO_HALT:
        site->halted = true;
        site_train(site, false, UINT64_MAX);
        site->setup.halted(site->setup.context, site->setup.process, action->message);
        break;
    }
}

static void perform_all(struct simulated_site *site) {
    struct node_actions actions = site->actions;
    site->actions = (struct node_actions){0};
    for (size_t i = 0; i < actions.count && !process_is_doomed(site->world, site->setup.process);
         i++)
        perform(site, &actions.items[i]);
    node_actions_deinit(&actions);
}

static bool site_receipt_is_late(const struct simulated_site *site, struct bytes receipt) {
    struct reader reader = reader_of(receipt);
    reader_take(&reader, RUN_ID_SIZE);
    uint32_t epoch = reader_u32(&reader);
    return !reader.failed && run_state_has_genesis(node_state_run(site->state)) &&
           epoch < run_state_epoch(node_state_run(site->state));
}

static const char *const slot_names[] = {"training", "snapshot", "encoding", "uploading",
                                         "backoff",  "accepted", "merging",  "restoring"};

static void step(struct simulated_site *site, const struct node_event *event) {
    if (!site->running || process_is_doomed(site->world, site->setup.process)) return;
    uint64_t size = run_state_size(node_state_run(site->state));
    if (event->kind != NODE_PROGRESS && event->kind != NODE_TIMER)
        world_trace(
            site->world, "%-12s event %d fragment=%u (%s) sequence=%llu status=%s", site->name,
            (int)event->kind, event->fragment,
            slot_names[node_state_slot(site->state, MIN(event->fragment, FRAGMENTS_LIMIT - 1u))],
            (unsigned long long)event->sequence, status_name(event->status));
    bool late = (event->kind == NODE_UPLOAD_RECEIPT || event->kind == NODE_UPLOAD_REFUSED) &&
                event->bytes.size > 0 && site_receipt_is_late(site, event->bytes);
    node_state_step(site->state, event, site_now(site), &site->actions);
    if (late && node_state_slot(site->state, event->fragment) == SLOT_ACCEPTED)
        world_fail(site->world, "I6", "%s takes a receipt of an epoch that is over", site->name);
    const struct run_state *run = node_state_run(site->state);
    if (run_state_size(run) != size) check_prefix(site->setup.check, site->name, run);
    perform_all(site);
}

/* ---- what the core is told ------------------------------------------------------------------ */

struct heard {
    struct node_event event;
    struct buffer bytes;
    char message[160];
};

static void told_release(void *pointer) {
    struct heard *told = pointer;
    buffer_deinit(&told->bytes);
    free(told);
}

static void on_told(void *context, struct event *event) {
    struct heard *told = event->payload;
    told->event.bytes = buffer_bytes(&told->bytes);
    told->event.message = told->message;
    step(context, &told->event);
}

void site_tell(struct simulated_site *site, enum source source, const struct node_event *event) {
    struct world *world = site->world;
    if (process_is_doomed(world, site->setup.process)) return;
    struct heard *told = xcalloc(1, sizeof *told);
    told->event = *event;
    buffer_append(&told->bytes, event->bytes.data, event->bytes.size);
    if (event->message) snprintf(told->message, sizeof told->message, "%s", event->message);
    uint64_t at = world->now + world_below(world, 2 * MS);
    at = MAX(at, site->told_until[source]);
    site->told_until[source] = at;
    world_post(world, at - world->now, site->setup.process, on_told, site, told)->release =
        told_release;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What must have survived the restart, by the books of the disk and of the tensors. */
static void check_resumed(const struct simulated_site *site, const struct node_spooled *spooled,
                          size_t count) {
    const struct run_state *run = node_state_run(site->state);
    if (!run_state_has_genesis(run)) return;
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        int64_t trained = site->trained[f].round;
        /* what the ledger has given up is due at once, with the round that has begun since */
        if (node_state_slot(site->state, f) == SLOT_RESTORING) trained += site->trained[f].sent;
        if (!site->marks[f].progress.begun || node_state_round_steps(site->state, f) == trained)
            continue;
        if (node_state_slot(site->state, f) == SLOT_RESTORING) continue; /* dropped: due at once */
        world_fail(site->world, "restart",
                   "%s, fragment %u: a round of %lld steps goes on with %lld", site->name, f,
                   (long long)trained, (long long)node_state_round_steps(site->state, f));
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t fragment = spooled[i].fragment;
        const struct ledger_head *accepted = &spooled[i].accepted;
        if (accepted->size == 0 || accepted->epoch < run_state_epoch(run)) continue;
        uint64_t index; /* nobody had its payload any more: the ledger has given it up since */
        if (run_state_find(run, site_number(site), spooled[i].sequence, &index) &&
            run_state_dropped(run, index))
            continue;
        enum slot_phase slot = node_state_slot(site->state, fragment);
        if (slot != SLOT_ACCEPTED && slot != SLOT_MERGING)
            world_fail(site->world, "restart", "%s, fragment %u: a recorded receipt is forgotten",
                       site->name, fragment);
    }
}

/* As a person stops it: the last thing that it does is a checkpoint of what it has. */
static void stop_without_model(struct simulated_site *site) {
    const struct scenario *scenario = site->setup.scenario;
    if (!site->lacks_model || site->world->now >= scenario->fault_phase_us ||
        random_hash(site->world->seed, site->world->now + site->setup.process) % 3 != 0 ||
        !world_fault(site->world, FAULT_SITE_CRASH, site->setup.process))
        return;
    site->stops = true;
    site_request(site, (struct request){.kind = REQUEST_CAPTURE});
}

/* ---- from the disk --------------------------------------------------------------------------- */

static enum status initialise(void *context, float *theta, struct error *error) {
    const struct simulated_site *site = context;
    (void)error;
    size_t size = (size_t)site->setup.scenario->parameters * sizeof *theta;
    if (site->lacks_model)
        memset(theta, 0, size);
    else
        memcpy(theta, site->setup.initial, size);
    return OK;
}

static float *local(void *context) {
    const struct simulated_site *site = context;
    return site->local;
}

static enum status load(void *context, struct bytes state, struct error *error) {
    return site_trainer_load(context, state, error);
}

static void payload_lost(void *context, uint64_t entry, const struct error *why) {
    const struct simulated_site *site = context;
    world_trace(site->world, "%-12s entry %llu: %.80s", site->name, (unsigned long long)entry,
                why->message);
}

static void message_lost(void *context, const struct journal_round *round,
                         const struct error *why) {
    const struct simulated_site *site = context;
    world_trace(site->world, "%-12s sequence %llu is lost: %.80s", site->name,
                (unsigned long long)round->sequence, why->message);
}

/* Steps in the vectors that have just come back, by the table in node/restore.h: as those were, not
 * as anything was counted. */
static struct trained trained_of(const struct simulated_site *site, uint32_t fragment) {
    const struct journal_round *round = journal_round(site->journal, fragment);
    const struct journal_checkpoint *checkpoint = journal_checkpoint(site->journal);
    const struct round_books *books = &site->books[fragment];
    const struct trained *kept = &site->kept[fragment];
    struct trained trained = {.sent = books->steps_sent, .feedback = books->steps_in_feedback};
    uint64_t last = round ? round->sequence : 0;
    bool snapshot_kept = checkpoint && checkpoint->fragment[fragment].in_flight == last &&
                         checkpoint->snapshot.size > 0;
    if (round && round->in_flight) {
        trained.snapshot = snapshot_kept ? kept->snapshot : books->steps_in_snapshot;
        trained.local = snapshot_kept ? kept->local : books->steps_in_snapshot;
        trained.round = snapshot_kept ? kept->round : 0;
    } else if (checkpoint && checkpoint->fragment[fragment].over == last) {
        trained.local = kept->local;
        trained.round = kept->round;
    } else if (snapshot_kept) {
        bool back = round && round->refused && !site->replica.feedback;
        trained.local = back ? kept->local : kept->local - kept->snapshot;
        trained.round = kept->round;
    }
    return trained;
}

/* Where the base of a message is gone the core hears of it at each start, until the message is
 * over. In dense mode a base is rebuilt. */
static void check_baseless(const struct simulated_site *site, const struct restored *restored) {
    for (size_t i = 0; i < restored->spooled_count; i++) {
        const struct node_spooled *spooled = &restored->spooled[i];
        if (site->replica.feedback && site->own.baseless[spooled->fragment] && !spooled->baseless)
            world_fail(site->world, "restart",
                       "%s, fragment %u: a base that is gone is taken for one that is there",
                       site->name, spooled->fragment);
    }
}

static enum status restore(struct simulated_site *site, struct restored *restored,
                           struct error *error) {
    struct restore_input input = {.journal = site->journal,
                                  .replica = &site->replica,
                                  .port = {.context = site,
                                           .initialise = initialise,
                                           .local = local,
                                           .load = load,
                                           .payload_lost = payload_lost,
                                           .message_lost = message_lost}};
    const struct model_state *global = &site->replica.global;
    uint8_t root[DIGEST_SIZE];
    site->lacks_model = site->setup.scenario->site[site->setup.process].lacks_model &&
                        journal_size(site->journal) == 0 && !journal_checkpoint(site->journal);
    TRY(restore_site(&input, restored, error));
    if (journal_size(site->journal) > 0) {
        state_root(global->theta, global->parameters, root);
        check_root(site->setup.check, site->name, global->version, root);
    }
    check_feedback(site->setup.check, site->setup.process, &site->replica);
    for (uint32_t f = 0; f < site->replica.fragments; f++) {
        site->marks[f] = restored->fragment[f];
        site->trained[f] = trained_of(site, f);
        site_progress_restored(site, f);
    }
    check_baseless(site, restored);
    return OK;
}

static void create_state(struct simulated_site *site, const struct restored *restored) {
    const struct scenario *scenario = site->setup.scenario;
    struct node_options options = {.site = site->number,
                                   .seed = random_hash(site->world->seed, site->world->now),
                                   .overlap = scenario->overlap,
                                   .follow_interval = scenario->follow_interval,
                                   .heartbeat_ms = scenario->heartbeat_ms,
                                   .backoff_ms = 100,
                                   .backoff_limit_ms = 3000 * MIN(scenario->pace, 8u),
                                   .inclusion_ms = 2000 * MIN(scenario->pace, 8u),
                                   .queue_limit = 1024,
                                   .nominal_payload = scenario->nominal_payload,
                                   .payloads_from = restored->payloads_from,
                                   .last_sequence = restored->last_sequence,
                                   .lacks_model = site->lacks_model,
                                   .restored = site->restored ||
                                               scenario->site[site->setup.process].faulty};
    site->state = node_state_create(&options);
}

static enum status come_back(struct simulated_site *site, struct restored *restored,
                             struct error *error) {
    TRY(journal_open_simulated(&site->disk, &site->records, &site->journal, error));
    TRY(restore(site, restored, error));
    create_state(site, restored);
    for (uint64_t i = 0; i < restored->entries; i++)
        TRY(node_state_restore(site->state, buffer_bytes(&site->disk.entries[i]), error));
    site_keeper_start(site, restored->payloads_from);
    return OK;
}

void site_enter(struct simulated_site *site) {
    const struct scenario *scenario = site->setup.scenario;
    struct error error = {0};
    struct restored restored;
    site->local = xcalloc((size_t)scenario->parameters, sizeof(float));
    site->running = true;
    MUST(replica_init(&site->replica, &scenario->manifest, scenario->parameters, NULL));
    if (come_back(site, &restored, &error) != OK) {
        site->setup.halted(site->setup.context, site->setup.process, error.message);
        return;
    }
    world_trace(site->world, "%-12s up with %llu entries, version %llu, %zu messages in flight",
                site->name, (unsigned long long)site->disk.entry_count,
                (unsigned long long)site->replica.global.version, restored.spooled_count);
    site->capture_at = site->world->now + scenario->checkpoint_us;
    /* one that is made while the message is still under way */
    for (uint32_t f = 0; f < scenario->manifest.fragments; f++)
        if (site->own.baseless[f]) site->capture_at = site->world->now;
    for (uint32_t f = 0; f < scenario->manifest.fragments; f++)
        node_state_resume(site->state, f, &site->marks[f].progress);
    node_state_start(site->state, site->replica.global.version, restored.spooled,
                     restored.spooled_count, site_now(site), &site->actions);
    check_resumed(site, restored.spooled, restored.spooled_count);
    perform_all(site);
    stop_without_model(site);
    /* as if they had just come */
    for (uint64_t i = restored.entries; i < site->disk.entry_count; i++)
        step(site, &(struct node_event){.kind = NODE_ENTRY,
                                        .bytes = buffer_bytes(&site->disk.entries[i])});
}

bool site_is_at(const struct simulated_site *site, enum site_moment moment) {
    if (!site->running) return false;
    const struct journal_checkpoint *checkpoint = journal_checkpoint(site->journal);
    for (uint32_t f = 0; moment == MOMENT_UNDER_WAY && f < site->replica.fragments; f++)
        if (site->setup.scenario->loads && node_state_slot(site->state, f) == SLOT_ACCEPTED)
            return true;
    if (moment == MOMENT_ON_ITS_WAY)
        return checkpoint && site->disk.entry_count > 0 &&
               checkpoint->version > run_state_version(node_state_run(site->state));
    for (uint32_t f = 0; checkpoint && f < site->replica.fragments; f++) {
        const struct journal_round *round = journal_round(site->journal, f);
        if (!round) continue;
        bool kept = checkpoint->fragment[f].in_flight == round->sequence &&
                    checkpoint->snapshot.size > 0,
             lost = checkpoint->version > round->base_version &&
                    checkpoint->fragment[f].base_version != round->base_version;
        if (moment == MOMENT_REFUSED && !round->in_flight && round->refused && kept) return true;
        if (moment == MOMENT_LEFT && round->in_flight && !kept && lost && site->replica.feedback)
            return true;
        if (moment == MOMENT_BASELESS && round->in_flight && kept && site->own.baseless[f])
            return true;
    }
    return false;
}

bool site_leave(struct simulated_site *site) {
    if (!site->running || site->finished || process_is_doomed(site->world, site->setup.process))
        return false;
    step(site, &(struct node_event){.kind = NODE_LEAVE});
    return true;
}

void site_boot(struct simulated_site *site) {
    process_start(site->world, site->setup.process);
    site->finished = site->halted = false;
    if (site->number)
        site_enter(site);
    else
        site_join(site);
}
