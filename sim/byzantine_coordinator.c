/* What no honest coordinator says: heads of another history, entries that break a rule, receipts
 * for something else.
 *
 * A site's core is made once more from what is on its disk, is told one such thing, and is thrown
 * away: the run itself goes on undisturbed. It must give up, and it must not have taken what it was
 * told. The same for a replay of a damaged copy of the ledger: an auditor must stop at it. Keys
 * that a false coordinator would need to have are the coordinator's own: it is the worst one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/byzantine_coordinator.h"

const char *const byzantine_coordinator_names[FALSEHOOD_COUNT] = {
    [FALSE_HEAD] = "another_history",         [FALSE_HEAD_KEY] = "head_of_a_stranger",
    [FALSE_HEAD_RUN] = "head_of_another_run", [FALSE_HEAD_SHORT] = "head_cut_short",
    [FALSE_ENTRY] = "entry_cut_short",        [FALSE_KIND] = "entry_of_no_kind",
    [FALSE_STEP] = "step_of_nothing",         [FALSE_VERSION] = "step_too_far",
    [FALSE_GENESIS] = "second_genesis",       [FALSE_SITE] = "site_without_invitation",
    [FALSE_REVOKED] = "revocation_of_nobody", [FALSE_EPOCH] = "epoch_that_goes_back",
    [FALSE_STEPS] = "no_inner_steps",         [FALSE_SIGNATURE] = "contribution_nobody_signed",
    [FALSE_RESUMED] = "resumed_while_active", [FALSE_INVITED] = "invitation_of_a_member"};

struct false_one {
    const struct byzantine_coordinator_input *input;
    const struct run_state *run;
    struct ledger_entry entry;
    struct buffer bytes;
    enum node_event_kind kind;
};

static void make_head(struct false_one *f, enum byzantine_coordinator kind) {
    struct ledger_head head = {.epoch = run_state_epoch(f->run), .size = run_state_size(f->run)};
    const struct key_pair *key = kind == FALSE_HEAD_KEY ? f->input->stranger : f->input->key;
    uint8_t raw[HEAD_SIZE];
    memcpy(head.run_id, run_state_run_id(f->run), RUN_ID_SIZE);
    merkle_root(run_state_tree(f->run), head.size, head.root);
    if (kind == FALSE_HEAD) head.root[7] ^= 1;
    if (kind == FALSE_HEAD_RUN) head.run_id[7] ^= 1;
    ledger_head_sign(&head, key, raw);
    buffer_append(&f->bytes, raw, kind == FALSE_HEAD_SHORT ? sizeof raw - 1 : sizeof raw);
    f->kind = NODE_HEAD;
}

/* An entry of the ledger again, changed so that nobody has signed it. */
static bool forge_contribution(struct false_one *f) {
    for (uint64_t i = f->input->disk->entry_count; i-- > 0;) {
        if (ledger_entry_decode(buffer_bytes(&f->input->disk->entries[i]), &f->entry, NULL) != OK)
            continue;
        if (f->entry.kind != LEDGER_CONTRIBUTION) continue;
        f->entry.contribution.header[40] ^= 1;
        return true;
    }
    return false;
}

static bool make_entry(struct false_one *f, enum byzantine_coordinator kind) {
    struct ledger_entry *entry = &f->entry;
    entry->kind = LEDGER_PAUSED;
    switch (kind) {
    case FALSE_STEP:
    case FALSE_VERSION:
        entry->kind = LEDGER_STEP;
        entry->step.version = run_state_version(f->run) + (kind == FALSE_VERSION ? 2 : 1);
        entry->step.count = 1;
        entry->step.parts[0] = (struct step_part){run_state_size(f->run) - 1, 1};
        break;
    case FALSE_SITE:
        entry->kind = LEDGER_SITE_ADDED;
        entry->added.site = run_state_site_count(f->run) + 1;
        snprintf(entry->added.name, sizeof entry->added.name, "nobody");
        break;
    case FALSE_REVOKED:
        entry->kind = LEDGER_SITE_REVOKED;
        entry->revoked.site = run_state_site_count(f->run) + 1;
        break;
    case FALSE_EPOCH: entry->kind = LEDGER_EPOCH; break;
    case FALSE_STEPS:
        entry->kind = LEDGER_RULE;
        snprintf(entry->rule.key, sizeof entry->rule.key, "inner.inner_steps");
        snprintf(entry->rule.value, sizeof entry->rule.value, "0");
        break;
    case FALSE_RESUMED:
        entry->kind = LEDGER_RESUMED;
        if (run_state_phase(f->run) == RUN_PAUSED) return false;
        break;
    case FALSE_INVITED:
        entry->kind = LEDGER_SITE_INVITED;
        if (run_state_site_count(f->run) == 0 || run_state_site(f->run, 1)->revoked) return false;
        snprintf(entry->invited.name, sizeof entry->invited.name, "%s",
                 run_state_site(f->run, 1)->name);
        break;
    case FALSE_SIGNATURE:
        if (!forge_contribution(f)) return false;
        break;
    default: break;
    }
    if (kind != FALSE_SIGNATURE) entry->epoch = run_state_epoch(f->run);
    if (kind == FALSE_GENESIS)
        buffer_append(&f->bytes, f->input->disk->entries[0].data, f->input->disk->entries[0].size);
    else
        ledger_entry_encode(entry, &f->bytes);
    if (kind == FALSE_ENTRY) f->bytes.size--;
    if (kind == FALSE_KIND) f->bytes.data[0] = 99;
    f->kind = NODE_ENTRY;
    return true;
}

static bool has_halted(const struct node_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) {
        if (actions->items[i].kind == NODE_DO_HALT) return true;
    }
    return false;
}

/* Steps are not applied here, so what follows from their being taken is told at once: with another
 * root than the entry has. */
static void answer_apply(struct node_state *state, struct node_actions *actions) {
    bool asked = false;
    for (size_t i = 0; i < actions->count; i++) asked |= actions->items[i].kind == NODE_DO_APPLY;
    if (!asked) return;
    struct node_event applied = {
        .kind = NODE_APPLIED, .status = CORRUPT, .message = "the step is refused"};
    node_state_step(state, &applied, (struct instant){1, 1}, actions);
}

bool byzantine_coordinator_tell(const struct byzantine_coordinator_input *input,
                                enum byzantine_coordinator kind, struct error *error) {
    struct false_one *f = xcalloc(1, sizeof *f);
    struct node_options options = {.site = input->site,
                                   .seed = 1,
                                   .overlap = true,
                                   .heartbeat_ms = 1000,
                                   .backoff_ms = 100,
                                   .backoff_limit_ms = 1000,
                                   .inclusion_ms = 1000,
                                   .queue_limit = 16,
                                   .nominal_payload = 1};
    struct node_state *state = node_state_create(&options);
    struct node_actions actions = {0};
    bool possible = input->disk->entry_count > 1, noticed = true;
    for (uint64_t i = 0; i < input->disk->entry_count && possible; i++)
        possible = node_state_restore(state, buffer_bytes(&input->disk->entries[i]), NULL) == OK;
    f->input = input;
    f->run = node_state_run(state);
    if (possible && kind <= FALSE_HEAD_SHORT) make_head(f, kind);
    if (possible && kind > FALSE_HEAD_SHORT) possible = make_entry(f, kind);
    if (possible) {
        uint64_t size = run_state_size(f->run);
        node_state_start(state, run_state_version(f->run), NULL, 0, (struct instant){1, 1},
                         &actions);
        node_state_step(state,
                        &(struct node_event){.kind = f->kind, .bytes = buffer_bytes(&f->bytes)},
                        (struct instant){1, 1}, &actions);
        answer_apply(state, &actions);
        noticed = has_halted(&actions) && run_state_size(f->run) == size;
    }
    if (!noticed)
        (void)error_set(error, FAILED, "%s is believed", byzantine_coordinator_names[kind]);
    node_actions_deinit(&actions);
    node_state_destroy(state);
    buffer_deinit(&f->bytes);
    free(f);
    return noticed;
}
