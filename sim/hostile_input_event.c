/* Cores that are told what is late, doubled, of nobody, or of a fragment that does not exist; and
 * a coordinator that comes back from an old copy of its disk. They are made once more from a prefix
 * of the ledger, told, and thrown away. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "coordinator/coordinator_state.h"
#include "node/node_state.h"
#include "sim/hostile_input_internal.h"

static struct node_state *site_of(struct offer *offer, uint32_t site) {
    struct node_options options = {.site = site,
                                   .seed = 1,
                                   .overlap = offer_below(offer, 2) == 0,
                                   .heartbeat_ms = 1000,
                                   .backoff_ms = 100,
                                   .backoff_limit_ms = 1000,
                                   .inclusion_ms = 1000,
                                   .queue_limit = 16,
                                   .nominal_payload = 1};
    struct node_state *state = node_state_create(&options);
    for (uint64_t i = 0; i < run_state_size(offer->run); i++)
        MUST(node_state_restore(state, buffer_bytes(&offer->input->ledger->entries[i]), NULL));
    return state;
}

static bool halts(const struct node_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) {
        if (actions->items[i].kind == NODE_DO_HALT) return true;
    }
    return false;
}

static const enum status statuses[] = {OK, OK, OK, FAILED, CORRUPT, INVALID};

static void odd_event(struct offer *offer, const struct node_state *state, struct node_event *event,
                      struct buffer *bytes) {
    const struct disk *disk = offer->input->ledger;
    *event = (struct node_event){.kind = (enum node_event_kind)(
                                     NODE_TIMER + offer_below(offer, NODE_FAULT - NODE_TIMER + 1))};
    if (event->kind == NODE_FAULT && offer_below(offer, 6)) event->kind = NODE_PROGRESS;
    event->fragment = (uint32_t)offer_below(offer, offer->input->scenario->manifest.fragments +
                                                       (offer_below(offer, 3) == 0));
    event->sequence = offer_below(offer, 2) ? node_state_sequence(state) : offer_below(offer, 40);
    event->status = statuses[offer_below(offer, COUNT_OF(statuses))];
    event->message = offer_below(offer, 2) ? NULL : offer_below(offer, 3) ? "a story" : "";
    bytes->size = 0;
    if (event->kind == NODE_ENTRY && run_state_size(node_state_run(state)) < disk->entry_count) {
        const struct buffer *next = &disk->entries[run_state_size(node_state_run(state))];
        buffer_append(bytes, next->data, next->size);
    }
    if (event->kind == NODE_ENTRY && offer_below(offer, 8) == 0) offer_bend(offer, bytes);
    if (event->kind == NODE_PROGRESS) {
        event->progress.steps = offer_below(offer, 60);
        event->progress.tokens = event->progress.steps * 10;
        event->progress.loss = offer_below(offer, 4) ? 2.5 : (double)NAN;
    }
    if (event->kind == NODE_SNAPSHOTTED)
        event->snapshotted.steps = event->snapshotted.tokens = offer_below(offer, 60);
    if (event->kind == NODE_UPLOAD_REFUSED)
        event->refused.code = (enum refusal)offer_below(offer, REFUSAL_COUNT + 2);
    if (event->kind == NODE_OFFER) {
        event->offer.exists = offer_below(offer, 2) == 0;
        event->offer.header.version =
            run_state_version(node_state_run(state)) + offer_below(offer, 5);
        event->offer.header.content_size = offer_below(offer, 3);
    }
    if (event->kind == NODE_APPLIED || event->kind == NODE_SNAPSHOT_LOADED)
        event->applied.version = offer_below(offer, 9);
    if (event->kind == NODE_REBASED)
        event->rebased.base_version = run_state_version(node_state_run(state));
    if (event->kind == NODE_HEARTBEAT_REPLY)
        event->heartbeat.inner_steps = (uint32_t)offer_below(offer, 12);
    event->bytes = buffer_bytes(bytes);
}

/* What the core asked for, done: so that odd events find it in the midst of its work. */
static bool answer(struct offer *offer, const struct node_action *action,
                   struct node_event *event) {
    *event = (struct node_event){.fragment = action->fragment, .sequence = action->sequence};
    bool fails = offer_below(offer, 3) == 0;
    switch (action->kind) {
    case NODE_DO_CONNECT: event->kind = NODE_LINK_UP; return true;
    case NODE_DO_SNAPSHOT:
        event->kind = NODE_SNAPSHOTTED;
        event->snapshotted.steps = event->snapshotted.tokens = 10;
        return true;
    case NODE_DO_ENCODE:
        event->kind = NODE_ENCODED;
        event->status = fails ? INVALID : OK;
        contribution_encode(&action->contribution, event->encoded.header);
        return true;
    case NODE_DO_UPLOAD:
        event->kind = fails ? NODE_UPLOAD_RECEIPT : NODE_UPLOAD_REFUSED;
        event->refused.code = REFUSED_MALFORMED;
        event->message = "it is malformed";
        if (fails) event->bytes = bytes_of("no receipt", 10);
        return true;
    case NODE_DO_RESTORE:
    case NODE_DO_REBASE:
    case NODE_DO_ADVANCE:
        event->kind = NODE_REBASED;
        event->rebased.base_version = run_state_version(offer->run);
        return true;
    case NODE_DO_APPLY: event->kind = NODE_APPLIED; return fails;
    default: return false;
    }
}

void offer_site_event(struct offer *offer) {
    uint32_t count = run_state_site_count(offer->run);
    if (count == 0) return;
    struct node_state *state = site_of(offer, 1 + (uint32_t)offer_below(offer, count));
    struct node_actions actions = {0};
    struct buffer bytes = {0};
    struct node_event event;
    struct node_spooled odd = {.fragment = FRAGMENTS_LIMIT};
    bool halted = false, answers = offer_below(offer, 3) > 0;
    uint64_t now = 1, steps = 0;
    node_state_start(state, run_state_version(offer->run), &odd, 1, (struct instant){now, now},
                     &actions);
    for (int i = 0; i < 160; i++) {
        struct node_action todo = {0};
        bool asked = false;
        for (size_t j = 0; j < actions.count && answers && !asked; j++) {
            todo = actions.items[j];
            asked = offer_below(offer, 4) > 0 && answer(offer, &todo, &event);
        }
        if (!asked) odd_event(offer, state, &event, &bytes);
        if (!asked && answers && offer_below(offer, 2)) {
            event = (struct node_event){.kind = NODE_PROGRESS, .message = NULL};
            event.progress.steps = ++steps * 4;
            event.progress.tokens = steps * 40;
            event.progress.loss = 2;
        }
        struct buffer kept = {0};
        buffer_append(&kept, event.bytes.data, event.bytes.size);
        event.bytes = buffer_bytes(&kept);
        uint64_t size = run_state_size(node_state_run(state));
        node_actions_clear(&actions);
        now += offer_below(offer, 900);
        node_state_step(state, &event, (struct instant){now, now}, &actions);
        claim(offer,
              !halted || (actions.count == 0 && run_state_size(node_state_run(state)) == size),
              "who gave up goes on");
        halted |= halts(&actions);
        buffer_deinit(&kept);
    }
    uint64_t refused = 0;
    for (unsigned i = 0; i < REFUSAL_COUNT + 2; i++) refused += node_state_refused(state, i);
    claim(offer,
          refused <= 160 && node_state_staleness(state) <= run_state_version(node_state_run(state)),
          "counts beyond all events");
    claim(offer, node_state_inner_steps(state) > 0, "no inner steps are to be done");
    (void)node_state_linked(state);
    (void)node_state_backlog(state);
    node_actions_deinit(&actions);
    node_state_destroy(state);
    node_state_destroy(NULL);
    buffer_deinit(&bytes);
}

/* ---- a coordinator --------------------------------------------------------------------------- */

static void odd_call(struct offer *offer, struct coordinator_event *event, const char *name) {
    static const char *const keys[] = {"", "inner.inner_steps", "merge.quorum", "codec.kind"};
    static const char *const values[] = {"", "0", "3", "auto", "many"};
    uint32_t site = (uint32_t)offer_below(offer, run_state_site_count(offer->run) + 3u);
    *event = (struct coordinator_event){
        .kind = (enum coordinator_event_kind)(COORDINATOR_TIMER + offer_below(offer, 11))};
    event->call = offer_below(offer, 30);
    switch (event->kind) {
    case COORDINATOR_SUBMIT_OPEN: {
        struct ledger_entry *entry = xmalloc(sizeof *entry);
        uint64_t index;
        if (offer_contribution(offer, entry, &index)) {
            memcpy(event->submit.header, entry->contribution.header, CONTRIBUTION_HEADER_SIZE);
            memcpy(event->submit.signature, entry->contribution.signature, SIGNATURE_SIZE);
        }
        event->submit.site = site;
        free(entry);
        break;
    }
    case COORDINATOR_UPLOADED:
    case COORDINATOR_CHECKED:
        event->uploaded.code = (enum refusal)offer_below(offer, REFUSAL_COUNT);
        break;
    case COORDINATOR_COMMITTED: event->committed.commit = offer_below(offer, 12); break;
    case COORDINATOR_JOIN:
        snprintf(event->join.name, SITE_NAME_SIZE, "%s", name);
        memset(event->join.secret_digest, (int)offer_below(offer, 3), DIGEST_SIZE);
        if (offer_below(offer, 2))
            memcpy(event->join.public_key, key_pair_public(offer->input->stranger),
                   PUBLIC_KEY_SIZE);
        break;
    case COORDINATOR_HEARTBEAT: event->heartbeat.site = site; break;
    case COORDINATOR_FOLLOWING:
        event->following.site = site;
        event->following.open = offer_below(offer, 2) == 0;
        break;
    case COORDINATOR_ADMIN:
        event->admin.order = (enum admin_order)offer_below(offer, ORDER_RULE + 2);
        snprintf(event->admin.name, SITE_NAME_SIZE, "%s", name);
        memset(event->admin.secret_digest, (int)offer_below(offer, 3), DIGEST_SIZE);
        event->admin.expires_ms = offer_below(offer, 3);
        snprintf(event->admin.key, RULE_KEY_SIZE, "%s", keys[offer_below(offer, COUNT_OF(keys))]);
        snprintf(event->admin.value, RULE_VALUE_SIZE, "%s",
                 values[offer_below(offer, COUNT_OF(values))]);
        break;
    default: break;
    }
}

/* The commits that it asked for, in order, durable or failed. */
static void commit_all(struct offer *offer, struct coordinator_state *state,
                       struct coordinator_actions *actions, uint64_t *last) {
    for (size_t i = 0; i < actions->count; i++) {
        if (actions->items[i].kind == DO_COMMIT) *last = actions->items[i].commit;
    }
    coordinator_actions_clear(actions);
    if (*last == 0 || offer_below(offer, 2)) return;
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = *last;
    coordinator_state_step(state, &event, (struct instant){5, 5}, actions);
}

/* The coordinator is an old copy: a site that saw more of the ledger hears a head of another
 * history, and must give up. */
static void offer_old_copy(struct offer *offer, const struct coordinator_state *state) {
    uint8_t head[HEAD_SIZE];
    coordinator_state_head(state, head);
    uint64_t size = run_state_size(coordinator_state_run(state)); /* the epoch, and a step if due */
    if (offer->input->ledger->entry_count < size) return;
    struct node_actions done = {0};
    struct node_state *same = site_of(offer, 1);
    struct node_event heard = {.kind = NODE_HEAD, .bytes = bytes_of(head, sizeof head)};
    node_state_start(same, run_state_version(offer->run), NULL, 0, (struct instant){1, 1}, &done);
    node_state_step(same, &heard, (struct instant){1, 1}, &done);
    claim(offer, !halts(&done), "a site that saw no more than the copy has gives up");
    node_actions_clear(&done);
    node_state_destroy(same);
    run_state_destroy(offer->run);
    offer->run = offer_run(offer, size);
    struct node_state *ahead = site_of(offer, 1);
    node_state_start(ahead, run_state_version(offer->run), NULL, 0, (struct instant){1, 1}, &done);
    node_state_step(ahead, &heard, (struct instant){1, 1}, &done);
    /* Where the original began an epoch in the same place, both wrote the same entry. */
    uint8_t copied[DIGEST_SIZE], original[DIGEST_SIZE];
    merkle_root(run_state_tree(coordinator_state_run(state)), size, copied);
    merkle_root(run_state_tree(offer->run), size, original);
    claim(offer, halts(&done) == (memcmp(copied, original, DIGEST_SIZE) != 0),
          "a site follows a coordinator that came back from an old copy");
    node_actions_deinit(&done);
    node_state_destroy(ahead);
}

/* The copy may end right behind the contribution that spent the last token. */
static uint64_t where_it_is_cut(struct offer *offer) {
    uint64_t size = run_state_size(offer->run), at = 0;
    if (offer->input->scenario->manifest.token_budget == 0 || !run_state_is_spent(offer->run))
        return size;
    struct run_state *run = run_state_create();
    while (at < size && !(run_state_has_genesis(run) && run_state_is_spent(run)))
        MUST(run_state_apply(run, buffer_bytes(&offer->input->ledger->entries[at++]), true, NULL));
    run_state_destroy(run);
    return at;
}

void offer_coordinator_event(struct offer *offer) {
    static const char *const names[] = {"late", "islet", "No Name", "site-1", "site-2"};
    struct coordinator_options options = {.key = offer->input->key,
                                          .uploads_limit = 3,
                                          .payload_limit = UINT64_MAX,
                                          .presence_ms = 900,
                                          .retry_ms = 200,
                                          .new_epoch = true};
    uint64_t cut = where_it_is_cut(offer), last = 0;
    if (cut != run_state_size(offer->run)) {
        run_state_destroy(offer->run);
        offer->run = offer_run(offer, cut);
    }
    uint32_t sites = run_state_site_count(offer->run);
    struct coordinator_state *state = coordinator_state_create(&options, offer_run(offer, cut));
    struct coordinator_actions actions = {0};
    struct coordinator_event event;
    coordinator_state_start(state, (struct instant){1, 1}, &actions);
    claim(offer, run_state_epoch(coordinator_state_run(state)) == run_state_epoch(offer->run) + 1,
          "a new epoch does not begin");
    claim(offer,
          !run_state_is_spent(coordinator_state_run(state)) ||
              run_state_phase(coordinator_state_run(state)) != RUN_ACTIVE,
          "a run whose tokens are spent goes on");
    struct coordinator_event durable = {.kind = COORDINATOR_COMMITTED};
    for (size_t i = 0; i < actions.count; i++) {
        if (actions.items[i].kind == DO_COMMIT) durable.committed.commit = actions.items[i].commit;
    }
    coordinator_actions_clear(&actions);
    coordinator_state_step(state, &durable, (struct instant){2, 2}, &actions);
    if (sites > 0) offer_old_copy(offer, state);
    for (int i = 0; i < 120; i++) {
        commit_all(offer, state, &actions, &last);
        odd_call(offer, &event, names[offer_below(offer, COUNT_OF(names))]);
        if (event.kind == COORDINATOR_APPLIED && offer_below(offer, 8)) continue;
        uint64_t now = 10 + (uint64_t)i * offer_below(offer, 90);
        coordinator_state_step(state, &event, (struct instant){now, now}, &actions);
        (void)coordinator_state_connected(state, (uint32_t)offer_below(offer, 20),
                                          (struct instant){now, now});
        claim(offer,
              coordinator_state_inner_steps(state, (uint32_t)offer_below(offer, 20),
                                            (struct instant){now, now}) > 0,
              "no inner steps are to be done");
        claim(offer, coordinator_state_uploads(state) <= options.uploads_limit,
              "more uploads than are allowed");
    }
    uint64_t refused = 0;
    for (unsigned i = 0; i < REFUSAL_COUNT + 2; i++)
        refused += coordinator_state_refused(state, (enum refusal)i);
    claim(offer, refused <= 240, "counts beyond all events");
    coordinator_actions_deinit(&actions);
    coordinator_state_destroy(state);
    coordinator_state_destroy(NULL);
}
