/* The site's core between the coordinator's answers and the ledger: what is accepted, what is
 * asked for again, and whose word counts once another coordinator has taken over. Worker, trainer
 * and network are the test's to move. */
#include "node/node_state.h"
#include "tests/fed_fixture.h"

#define PLAIN "inner: {inner_steps: 10}\nmerge: {quorum: 2, grace: 1h, warmup_steps: 0}\n"
enum { SITE = 1, INCLUSION_MS = 5000, BACKOFF_MS = 100 };

struct site {
    struct fixture *f, *old; /* the coordinator that counts, and one that it supersedes: the same
                                ledger up to the takeover */
    struct node_state *state;
    struct node_actions out;
    uint64_t now_ms, told; /* told: entries that the site has */
    uint64_t timer_ms;     /* UINT64_MAX: none */
    struct contribution contribution;
    struct ledger_entry message; /* as the site signed it */
};

static const struct node_action *find(const struct site *s, enum node_action_kind kind) {
    for (size_t i = 0; i < s->out.count; i++)
        if (s->out.items[i].kind == kind) return &s->out.items[i];
    return NULL;
}

static void note_timer(struct site *s) {
    const struct node_action *timer = find(s, NODE_DO_TIMER);
    if (timer) s->timer_ms = timer->at_ms;
}

static void step(struct site *s, const struct node_event *event) {
    node_actions_clear(&s->out);
    node_state_step(s->state, event, (struct instant){s->now_ms, FIXTURE_NOW}, &s->out);
    note_timer(s);
}

/* Time passes up to the timer that was asked for, and it rings. */
static void wait_for_timer(struct site *s) {
    CHECK(s->timer_ms != UINT64_MAX);
    s->now_ms = s->timer_ms;
    s->timer_ms = UINT64_MAX;
    step(s, &(struct node_event){.kind = NODE_TIMER});
}

/* Until the action is asked for, within so long. */
static bool comes_within(struct site *s, enum node_action_kind kind, uint64_t ms) {
    uint64_t end = s->now_ms + ms;
    while (s->timer_ms <= end) {
        wait_for_timer(s);
        if (find(s, NODE_DO_HEARTBEAT)) step(s, &(struct node_event){.kind = NODE_HEARTBEAT_REPLY});
        if (find(s, kind)) return true;
    }
    s->now_ms = end;
    return false;
}

static void tell_entries(struct site *s) {
    for (; s->told < s->f->entry_count; s->told++)
        step(s, &(struct node_event){.kind = NODE_ENTRY,
                                     .bytes = buffer_bytes(&s->f->entries[s->told])});
}

static struct site *site_open_of(const char *manifest, bool restored) {
    struct site *s = xcalloc(1, sizeof *s);
    struct error error = {0};
    s->f = fixture_open(manifest, 3 * 4096);
    s->old = fixture_open(manifest, 3 * 4096);
    fixture_sites(s->f, 2);
    fixture_sites(s->old, 2);
    s->now_ms = 1000;
    s->timer_ms = UINT64_MAX;
    s->state = node_state_create(&(struct node_options){.site = SITE,
                                                        .seed = 4,
                                                        .overlap = true,
                                                        .heartbeat_ms = 1000000,
                                                        .backoff_ms = BACKOFF_MS,
                                                        .backoff_limit_ms = 10 * BACKOFF_MS,
                                                        .inclusion_ms = INCLUSION_MS,
                                                        .queue_limit = 100,
                                                        .nominal_payload = 1,
                                                        .restored = restored});
    for (; s->told < s->f->entry_count; s->told++)
        CHECK_OK(node_state_restore(s->state, buffer_bytes(&s->f->entries[s->told]), &error));
    node_state_start(s->state, 0, NULL, 0, (struct instant){s->now_ms, FIXTURE_NOW}, &s->out);
    CHECK(find(s, NODE_DO_CONNECT) != NULL);
    note_timer(s);
    step(s, &(struct node_event){.kind = NODE_LINK_UP});
    if (find(s, NODE_DO_HEARTBEAT)) step(s, &(struct node_event){.kind = NODE_HEARTBEAT_REPLY});
    return s;
}

static struct site *site_open_as(bool restored) { return site_open_of(PLAIN, restored); }
static struct site *site_open(void) { return site_open_as(false); }

static void site_close(struct site *s) {
    node_state_destroy(s->state);
    node_actions_deinit(&s->out);
    fixture_close(s->f);
    fixture_close(s->old);
    free(s);
}

/* A round is trained, encoded and on its way. */
static void send_round(struct site *s) {
    float *delta = fixture_delta(s->f, 0, 1);
    struct bytes payload = fixture_payload_of(s->f, 0, delta);
    free(delta);
    struct node_event progress = {.kind = NODE_PROGRESS};
    progress.progress.steps = 10;
    progress.progress.tokens = 1000;
    progress.progress.loss = 2;
    step(s, &progress);
    const struct node_action *action = find(s, NODE_DO_SNAPSHOT);
    CHECK(action != NULL);
    struct node_event event = {.kind = NODE_SNAPSHOTTED, .sequence = action->sequence};
    event.snapshotted.steps = 10;
    event.snapshotted.tokens = 1000;
    step(s, &event);
    CHECK((action = find(s, NODE_DO_ENCODE)) != NULL);
    struct contribution proper = fixture_contribution(s->f, SITE, 0, 0, payload);
    s->contribution = action->contribution;
    s->contribution.payload_size = payload.size;
    memcpy(s->contribution.payload_digest, proper.payload_digest, DIGEST_SIZE);
    s->contribution.norm = proper.norm;
    s->contribution.signed_at_ms = FIXTURE_NOW;
    s->message = fixture_signed(s->f, &s->contribution, s->f->keys[SITE]);
    event = (struct node_event){.kind = NODE_ENCODED, .sequence = s->contribution.sequence};
    memcpy(event.encoded.header, s->message.contribution.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.encoded.signature, s->message.contribution.signature, SIGNATURE_SIZE);
    step(s, &event);
    CHECK(find(s, NODE_DO_UPLOAD) != NULL);
}

/* The coordinator enters the message and signs its receipt. */
static void enter(struct site *s, struct fixture *coordinator, struct buffer *receipt) {
    struct ledger_entry entry = s->message;
    entry.epoch = run_state_epoch(coordinator->run);
    fixture_append(coordinator, &entry);
    struct receipt made = {.epoch = run_state_epoch(coordinator->run),
                           .site = SITE,
                           .sequence = s->contribution.sequence,
                           .index = coordinator->entry_count - 1,
                           .entry_time_ms = entry.time_ms,
                           .entry_epoch = entry.epoch,
                           .size = coordinator->entry_count};
    memcpy(made.run_id, coordinator->run_id, RUN_ID_SIZE);
    contribution_digest(entry.contribution.header, made.header_digest);
    merkle_root(run_state_tree(coordinator->run), made.size, made.root);
    merkle_prove_inclusion(run_state_tree(coordinator->run), made.index, made.size, &made.proof);
    receipt_sign(&made, coordinator->coordinator, receipt);
}

static void answer_duplicate(struct site *s, struct bytes receipt) {
    struct node_event event = {
        .kind = NODE_UPLOAD_REFUSED, .sequence = s->contribution.sequence, .bytes = receipt};
    event.refused.code = REFUSED_DUPLICATE;
    step(s, &event);
}

TEST(a_duplicate_with_a_superseded_coordinators_receipt_is_not_accepted_but_sent_again) {
    struct site *s = site_open();
    struct buffer receipt = {0};
    send_round(s);
    enter(s, s->old, &receipt);
    fixture_note(s->f, LEDGER_EPOCH);
    tell_entries(s);
    answer_duplicate(s, buffer_bytes(&receipt));
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_BACKOFF);
    CHECK(comes_within(s, NODE_DO_UPLOAD, 20 * BACKOFF_MS));
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_UPLOADING);
    buffer_deinit(&receipt);
    site_close(s);
}

TEST(a_duplicate_with_the_receipt_of_another_contribution_ends_the_site) {
    struct site *s = site_open();
    struct buffer receipt = {0};
    send_round(s);
    enter(s, s->f, &receipt);
    receipt.data[receipt.size - 1] ^= 1;
    answer_duplicate(s, buffer_bytes(&receipt));
    CHECK(find(s, NODE_DO_HALT) != NULL);
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message, "does not verify");
    CHECK(node_state_slot(s->state, 0) != SLOT_ACCEPTED);
    buffer_deinit(&receipt);
    site_close(s);
}

TEST(a_duplicate_with_the_old_receipt_is_accepted) {
    struct site *s = site_open();
    struct buffer receipt = {0};
    send_round(s);
    enter(s, s->f, &receipt);
    answer_duplicate(s, buffer_bytes(&receipt));
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_ACCEPTED);
    buffer_deinit(&receipt);
    site_close(s);
}

TEST(an_entry_that_does_not_come_is_asked_for_until_it_does) {
    struct site *s = site_open();
    struct buffer receipt = {0};
    send_round(s);
    answer_duplicate(s, (struct bytes){0}); /* somebody says so, and nothing follows */
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_ACCEPTED);
    CHECK(!comes_within(s, NODE_DO_UPLOAD, INCLUSION_MS - 1));
    CHECK(comes_within(s, NODE_DO_UPLOAD, 1));
    enter(s, s->f, &receipt);
    step(s, &(struct node_event){.kind = NODE_UPLOAD_RECEIPT,
                                 .sequence = s->contribution.sequence,
                                 .bytes = buffer_bytes(&receipt)});
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_ACCEPTED);
    CHECK(comes_within(s, NODE_DO_UPLOAD, INCLUSION_MS)); /* the receipt alone is not the entry */
    answer_duplicate(s, buffer_bytes(&receipt));
    tell_entries(s);
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_ACCEPTED);
    CHECK(!comes_within(s, NODE_DO_UPLOAD, 10 * INCLUSION_MS));
    buffer_deinit(&receipt);
    site_close(s);
}

TEST(while_the_link_is_down_nothing_is_asked_for_and_once_it_is_up_it_is) {
    struct site *s = site_open();
    send_round(s);
    answer_duplicate(s, (struct bytes){0});
    step(s, &(struct node_event){.kind = NODE_LINK_DOWN, .status = UNAVAILABLE});
    CHECK(comes_within(s, NODE_DO_CONNECT, INCLUSION_MS));
    CHECK(!comes_within(s, NODE_DO_UPLOAD, 2 * INCLUSION_MS));
    step(s, &(struct node_event){.kind = NODE_LINK_UP});
    CHECK(find(s, NODE_DO_UPLOAD) != NULL);
    site_close(s);
}

TEST(what_a_superseded_coordinator_accepted_is_asked_for_when_the_new_epoch_begins) {
    struct site *s = site_open();
    struct buffer receipt = {0};
    send_round(s);
    enter(s, s->old, &receipt);
    step(s, &(struct node_event){.kind = NODE_UPLOAD_RECEIPT,
                                 .sequence = s->contribution.sequence,
                                 .bytes = buffer_bytes(&receipt)});
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_ACCEPTED); /* it cannot know yet */
    fixture_note(s->f, LEDGER_EPOCH);
    tell_entries(s);
    CHECK(find(s, NODE_DO_HALT) == NULL);
    CHECK(find(s, NODE_DO_UPLOAD) != NULL);
    /* The receipt was a head over a ledger that is not ours: it is not evidence against the one
     * that took over. */
    for (int i = 0; i < 4; i++) fixture_note(s->f, i % 2 ? LEDGER_RESUMED : LEDGER_PAUSED);
    tell_entries(s);
    CHECK(find(s, NODE_DO_HALT) == NULL);
    buffer_deinit(&receipt);
    site_close(s);
}

static void give_head(struct site *s, struct fixture *coordinator) {
    struct ledger_head head = {.epoch = run_state_epoch(coordinator->run),
                               .size = coordinator->entry_count};
    uint8_t raw[HEAD_SIZE];
    memcpy(head.run_id, coordinator->run_id, RUN_ID_SIZE);
    merkle_root(run_state_tree(coordinator->run), head.size, head.root);
    ledger_head_sign(&head, coordinator->coordinator, raw);
    step(s, &(struct node_event){.kind = NODE_HEAD, .bytes = bytes_of(raw, sizeof raw)});
}

TEST(a_superseded_coordinators_head_counts_no_more_and_the_successors_does) {
    struct site *s = site_open();
    fixture_note(s->old, LEDGER_PAUSED); /* it went on by itself */
    fixture_note(s->f, LEDGER_EPOCH);
    tell_entries(s);
    give_head(s, s->old);
    CHECK(find(s, NODE_DO_HALT) == NULL);
    fixture_note(s->old, LEDGER_EPOCH); /* and here two claim the same epoch: one of them forges */
    fixture_note(s->f, LEDGER_PAUSED);
    tell_entries(s);
    give_head(s, s->old);
    CHECK(find(s, NODE_DO_HALT) != NULL);
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message, "another history");
    site_close(s);
}

/* ---- the ledger has what was not made here --------------------------------------------------- */

TEST(a_contribution_under_our_name_that_was_not_made_here_ends_the_site_and_says_what_it_may_be) {
    struct site *s = site_open();
    fixture_contribute(s->f, 2, 0, 0, 1); /* another site's is none of ours */
    tell_entries(s);
    CHECK(!find(s, NODE_DO_HALT));
    fixture_contribute(s->f, SITE, 0, 0, 1);
    tell_entries(s);
    CHECK(find(s, NODE_DO_HALT) != NULL);
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message,
                   "contribution 1 under this site's name was not made here");
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message, "a copy of this directory");
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message, "older backup");
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message, "--restored");
    site_close(s);
}

TEST(another_message_of_the_number_that_is_under_way_was_not_made_here) {
    struct site *s = site_open();
    send_round(s);
    fixture_contribute(s->f, SITE, 0, 0, 1); /* sequence 1 too */
    tell_entries(s);
    CHECK(find(s, NODE_DO_HALT) != NULL);
    CHECK_CONTAINS(find(s, NODE_DO_HALT)->message,
                   "contribution 1 under this site's name was not made here");
    site_close(s);
}

TEST(our_own_contribution_is_known_for_ours) {
    struct site *s = site_open();
    struct buffer receipt = {0};
    send_round(s);
    enter(s, s->f, &receipt);
    tell_entries(s);
    CHECK(!find(s, NODE_DO_HALT));
    buffer_deinit(&receipt);
    site_close(s);
}

TEST(a_site_that_was_restored_from_a_backup_goes_on_after_what_the_ledger_has_of_it) {
    struct site *s = site_open_as(true);
    fixture_contribute(s->f, SITE, 0, 0, 1);
    tell_entries(s);
    CHECK(!find(s, NODE_DO_HALT));
    CHECK_EQUAL(node_state_sequence(s->state), 1);
    site_close(s);
}

/* ---- heartbeats, and leaving ----------------------------------------------------------------- */

/* Rings until the site beats; the beat is yet to be answered. */
static const struct node_action *next_beat(struct site *s) {
    for (int i = 0; i < 100 && !find(s, NODE_DO_HEARTBEAT); i++) wait_for_timer(s);
    CHECK(find(s, NODE_DO_HEARTBEAT) != NULL);
    return find(s, NODE_DO_HEARTBEAT);
}

TEST(a_site_beats_more_often_than_it_was_told_where_its_silence_would_count_it_away) {
    struct site *s = site_open(); /* told: every 1000 s; away_after is two minutes */
    for (int i = 0; i < 3; i++) {
        uint64_t before = s->now_ms;
        (void)next_beat(s);
        CHECK(s->now_ms - before <= 40000);
        step(s, &(struct node_event){.kind = NODE_HEARTBEAT_REPLY});
    }
    site_close(s);
}

static void turn_away(struct site *s, enum refusal code) {
    struct node_event refused = {.kind = NODE_UPLOAD_REFUSED, .sequence = s->contribution.sequence};
    refused.refused.code = code;
    step(s, &refused);
}

TEST(a_site_leaves_a_paused_run_with_a_message_on_its_hands) {
    struct site *s = site_open();
    send_round(s);
    fixture_note(s->f, LEDGER_PAUSED);
    tell_entries(s);
    turn_away(s, REFUSED_PAUSED);
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_BACKOFF);
    step(s, &(struct node_event){.kind = NODE_LEAVE});
    CHECK(next_beat(s)->leaving);
    struct node_event reply = {.kind = NODE_HEARTBEAT_REPLY};
    reply.heartbeat.has_left = true;
    step(s, &reply);
    CHECK(find(s, NODE_DO_LEFT) != NULL);
    site_close(s);
}

TEST(a_site_that_leaves_a_run_that_goes_on_sends_its_message_first) {
    struct site *s = site_open();
    send_round(s);
    turn_away(s, REFUSED_BUSY);
    step(s, &(struct node_event){.kind = NODE_LEAVE});
    CHECK(!next_beat(s)->leaving);
    site_close(s);
}

/* ---- a trainer that attaches, and fragments that are due together ---------------------------- */

static void train_to(struct site *s, uint64_t steps) {
    struct node_event progress = {.kind = NODE_PROGRESS};
    progress.progress.steps = steps;
    progress.progress.tokens = 100 * steps;
    progress.progress.loss = 2;
    step(s, &progress);
}

/* The snapshot that was asked for just now is made, at so many steps. */
static const struct contribution *snapshot_at(struct site *s, uint64_t steps) {
    const struct node_action *action = find(s, NODE_DO_SNAPSHOT);
    CHECK(action != NULL);
    struct node_event event = {
        .kind = NODE_SNAPSHOTTED, .fragment = action->fragment, .sequence = action->sequence};
    event.snapshotted.steps = steps;
    event.snapshotted.tokens = 100 * steps;
    step(s, &event);
    CHECK((action = find(s, NODE_DO_ENCODE)) != NULL);
    return &action->contribution;
}

/* ---- refused --------------------------------------------------------------------------------- */

/* The worker has taken the message's mass back, and the trainer has moved. */
static void taken_back(struct site *s) {
    CHECK(find(s, NODE_DO_RESTORE) != NULL);
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    step(s, &(struct node_event){.kind = NODE_REBASED, .sequence = s->contribution.sequence});
}

TEST(what_was_refused_for_its_base_is_due_again_at_once_with_all_that_it_had_counted) {
    struct site *s = site_open();
    send_round(s);
    turn_away(s, REFUSED_REBASE);
    taken_back(s);
    CHECK(find(s, NODE_DO_SNAPSHOT) != NULL);
    CHECK_EQUAL(snapshot_at(s, 10)->inner_steps, 10);
    site_close(s);
}

/* Where every message comes too late, what is offered still says how long a round is. */
TEST(what_was_refused_twice_in_a_row_waits_for_the_next_round) {
    struct site *s = site_open();
    send_round(s);
    turn_away(s, REFUSED_REBASE);
    taken_back(s);
    const struct contribution *second = snapshot_at(s, 10);
    s->contribution.sequence = second->sequence;
    struct node_event encoded = {.kind = NODE_ENCODED, .sequence = second->sequence};
    memcpy(encoded.encoded.header, s->message.contribution.header, CONTRIBUTION_HEADER_SIZE);
    step(s, &encoded);
    turn_away(s, REFUSED_REBASE);
    taken_back(s);
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    train_to(s, 20);
    CHECK_EQUAL(snapshot_at(s, 20)->inner_steps, 20);
    site_close(s);
}

/* Whatever is wrong with it, it is no better at once. */
TEST(what_was_refused_as_malformed_comes_again_with_the_next_round) {
    struct site *s = site_open();
    send_round(s);
    turn_away(s, REFUSED_MALFORMED);
    taken_back(s);
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    train_to(s, 19);
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    train_to(s, 20);
    CHECK_EQUAL(snapshot_at(s, 20)->inner_steps, 20);
    site_close(s);
}

/* Steps to fragment 0 alone come one after another, so that its base moves whenever a message is
 * over: it has its turn all the same. */
TEST(a_fragment_whose_base_moves_keeps_its_turn) {
    struct site *s = site_open_of("fragments: 2\n" PLAIN, false);
    struct ledger_entry entry;
    struct error error = {0};
    train_to(s, 2);
    fixture_contribute(s->f, 2, 0, 0, 1);
    fixture_step(s->f, 0, 1);
    tell_entries(s);
    CHECK(find(s, NODE_DO_APPLY) != NULL);
    CHECK_OK(
        ledger_entry_decode(buffer_bytes(&s->f->entries[s->f->entry_count - 1]), &entry, &error));
    struct node_event applied = {.kind = NODE_APPLIED, .status = OK};
    memcpy(applied.applied.root, entry.step.root, DIGEST_SIZE);
    applied.applied.version = entry.step.version;
    step(s, &applied);
    CHECK(find(s, NODE_DO_ADVANCE) != NULL && find(s, NODE_DO_ADVANCE)->fragment == 0);
    train_to(s, 30); /* both are due, fragment 0 for longer */
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    struct node_event moved = {.kind = NODE_REBASED};
    moved.rebased.base_version = 1;
    step(s, &moved);
    CHECK(find(s, NODE_DO_SNAPSHOT) != NULL);
    CHECK_EQUAL(find(s, NODE_DO_SNAPSHOT)->fragment, 0);
    site_close(s);
}

TEST(a_snapshot_that_a_lost_trainer_cannot_make_is_given_up_and_its_steps_are_counted_nowhere) {
    struct site *s = site_open();
    train_to(s, 10);
    const struct node_action *action = find(s, NODE_DO_SNAPSHOT);
    CHECK(action != NULL);
    uint64_t first = action->sequence;
    step(s, &(struct node_event){
                .kind = NODE_SNAPSHOTTED, .sequence = first + 1, .status = CANCELLED});
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_SNAPSHOT); /* another one */
    step(s, &(struct node_event){.kind = NODE_SNAPSHOTTED, .sequence = first, .status = CANCELLED});
    CHECK_EQUAL(node_state_slot(s->state, 0), SLOT_TRAINING);
    train_to(s, 17);
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    step(s, &(struct node_event){.kind = NODE_TRAINER_LOST});
    train_to(s, 26);
    CHECK(find(s, NODE_DO_SNAPSHOT) == NULL);
    train_to(s, 27); /* ten after the loss */
    const struct contribution *sent = snapshot_at(s, 27);
    CHECK_EQUAL(sent->sequence, first + 1);
    CHECK_EQUAL(sent->inner_steps, 10);
    CHECK_EQUAL(sent->tokens, 1000);
    site_close(s);
}

TEST(fragments_that_are_due_together_take_turns) {
    struct site *s = site_open_of("fragments: 3\n" PLAIN, false);
    uint32_t turns[3] = {0};
    train_to(s, 30);
    for (uint64_t steps = 60; steps <= 180; steps += 30) {
        const struct contribution *sent = snapshot_at(s, steps - 30);
        uint32_t fragment = sent->fragment;
        uint64_t sequence = sent->sequence;
        turns[fragment]++;
        train_to(s, steps); /* all are due by the time that this one is over */
        step(s, &(struct node_event){.kind = NODE_ENCODED,
                                     .fragment = fragment,
                                     .sequence = sequence,
                                     .status = INVALID});
    }
    CHECK(turns[0] == 2 && turns[1] == 2 && turns[2] == 1);
    site_close(s);
}
