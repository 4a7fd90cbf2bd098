/* The site's core: what it decides at a given point, one event at a time. Whole runs of it are the
 * simulator's (sim_faults_test.c). */
#include "node/node_state.h"
#include "tests/fed_fixture.h"

#define SYNCHRONOUS                                                                                \
    "fragments: 2\nmerge: {quorum: 3, grace: forever, warmup_steps: 0}\ninner.inner_steps: 10\n"

struct started {
    struct fixture *f;
    struct node_state *state;
    struct node_actions out;
    struct instant now;
};

/* Site 1 at a start, with what the fixture's ledger holds and its message `sequence` of the
 * fragment, which is entry `index`. */
static struct started *site_open_with(struct fixture *f, bool overlap, uint32_t fragment,
                                      uint64_t sequence, uint64_t index, uint32_t interval,
                                      bool baseless) {
    struct started *site = xcalloc(1, sizeof *site);
    struct node_options options = {.site = 1,
                                   .seed = 1,
                                   .last_sequence = sequence,
                                   .overlap = overlap,
                                   .follow_interval = interval,
                                   .heartbeat_ms = 1000,
                                   .backoff_ms = 100,
                                   .backoff_limit_ms = 1000,
                                   .queue_limit = 64,
                                   .nominal_payload = 1000};
    struct error error = {0};
    site->f = f;
    site->now = (struct instant){1000, FIXTURE_NOW};
    site->state = node_state_create(&options);
    for (uint64_t i = 0; i < f->entry_count; i++)
        CHECK_OK(node_state_restore(site->state, buffer_bytes(&f->entries[i]), &error));
    struct ledger_entry entry;
    CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[index]), &entry, &error));
    struct node_spooled spooled = {
        .fragment = fragment, .sequence = sequence, .baseless = baseless};
    memcpy(spooled.header, entry.contribution.header, sizeof spooled.header);
    memcpy(spooled.signature, entry.contribution.signature, sizeof spooled.signature);
    node_state_start(site->state, run_state_version(f->run), &spooled, 1, site->now, &site->out);
    return site;
}

static struct started *site_open_following(struct fixture *f, bool overlap, uint32_t fragment,
                                           uint64_t sequence, uint64_t index, uint32_t interval) {
    return site_open_with(f, overlap, fragment, sequence, index, interval, false);
}

static struct started *site_open(struct fixture *f, bool overlap, uint32_t fragment,
                                 uint64_t sequence, uint64_t index) {
    return site_open_following(f, overlap, fragment, sequence, index, 1);
}

static void site_close(struct started *site) {
    node_actions_deinit(&site->out);
    node_state_destroy(site->state);
    fixture_close(site->f);
    free(site);
}

static const struct node_action *find(const struct started *site, enum node_action_kind kind) {
    for (size_t i = 0; i < site->out.count; i++)
        if (site->out.items[i].kind == kind) return &site->out.items[i];
    return NULL;
}

static void step(struct started *site, const struct node_event *event) {
    node_actions_clear(&site->out);
    node_state_step(site->state, event, site->now, &site->out);
}

static void progress(struct started *site, uint64_t steps) {
    struct node_event event = {.kind = NODE_PROGRESS};
    event.progress.steps = steps;
    event.progress.tokens = steps * 64;
    event.progress.loss = 2;
    step(site, &event);
}

/* A step takes all three. Site 1 has given fragment 1 and waits, site 2 has given fragment 0 and
 * waits. Site 1 was started anew and has trained nothing since: waiting as it is, it would have
 * nothing to give for ever. */
TEST(with_overlap_off_a_site_that_others_wait_for_trains_a_step_and_gives_it) {
    struct fixture *f = fixture_open(SYNCHRONOUS, 2 * 4096);
    fixture_sites(f, 3);
    uint64_t own = fixture_contribute(f, 1, 1, 0, 1);
    fixture_contribute(f, 2, 0, 0, 1);
    struct started *site = site_open(f, false, 1, 1, own);
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_TRAINING);
    CHECK_EQUAL(node_state_slot(site->state, 1), SLOT_ACCEPTED);
    const struct node_action *train = find(site, NODE_DO_TRAIN);
    CHECK(train && train->train);
    CHECK_EQUAL(train->until_steps, 1);
    progress(site, 1);
    const struct node_action *snapshot = find(site, NODE_DO_SNAPSHOT);
    CHECK(snapshot != NULL);
    CHECK_EQUAL(snapshot->fragment, 0);
    train = find(site, NODE_DO_TRAIN);
    CHECK(train && !train->train); /* nobody waits for more of it: now it waits */
    CHECK_EQUAL(train->wait, NODE_WAIT_MERGE);
    site_close(site);
}

TEST(with_overlap_off_a_site_whose_turn_is_over_waits) {
    struct fixture *f = fixture_open(SYNCHRONOUS, 2 * 4096);
    fixture_sites(f, 3);
    uint64_t own = fixture_contribute(f, 1, 1, 0, 1);
    fixture_contribute(f, 2, 1, 0, 1);
    struct started *site = site_open(f, false, 1, 1, own);
    const struct node_action *train = find(site, NODE_DO_TRAIN);
    CHECK(train && !train->train);
    CHECK_EQUAL(train->wait, NODE_WAIT_MERGE);
    site_close(site);
}

TEST(with_overlap_on_a_site_trains_whoever_waits) {
    struct fixture *f = fixture_open(SYNCHRONOUS, 2 * 4096);
    fixture_sites(f, 3);
    uint64_t own = fixture_contribute(f, 1, 1, 0, 1);
    fixture_contribute(f, 2, 0, 0, 1);
    struct started *site = site_open(f, true, 1, 1, own);
    const struct node_action *train = find(site, NODE_DO_TRAIN);
    CHECK(train && train->train);
    CHECK(train->until_steps == UINT64_MAX);
    CHECK(!find(site, NODE_DO_SNAPSHOT));
    site_close(site);
}

/* ---- payloads that a disk has lost ----------------------------------------------------------- */

#define ALONE "merge: {quorum: 1, grace: 10s, warmup_steps: 0}\ninner.inner_steps: 10\n"

static size_t count(const struct started *site, enum node_action_kind kind) {
    size_t found = 0;
    for (size_t i = 0; i < site->out.count; i++) found += site->out.items[i].kind == kind;
    return found;
}

static void tell(struct started *site, enum node_event_kind kind, enum status status) {
    step(site, &(struct node_event){.kind = kind, .status = status});
}

static void beat(struct started *site, const uint64_t *wanted, uint32_t wanted_count) {
    struct node_event event = {.kind = NODE_HEARTBEAT_REPLY};
    event.heartbeat.wanted_count = wanted_count;
    for (uint32_t i = 0; i < wanted_count; i++) event.heartbeat.wanted[i] = wanted[i];
    step(site, &event);
}

static void entry_comes(struct started *site, uint64_t index) {
    step(site,
         &(struct node_event){.kind = NODE_ENTRY, .bytes = buffer_bytes(&site->f->entries[index])});
}

TEST(a_step_whose_payload_is_damaged_here_waits_until_the_coordinator_has_sent_it_again) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 2);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1), theirs = fixture_contribute(f, 2, 0, 0, 1);
    struct started *site = site_open(f, true, 0, 1, own);
    fixture_step(f, 0, 2);
    uint64_t made = f->entry_count - 1;
    entry_comes(site, made);
    CHECK_EQUAL(count(site, NODE_DO_APPLY), 1);
    struct node_event damaged = {
        .kind = NODE_APPLIED, .status = CORRUPT, .message = "not its digest"};
    damaged.applied.lost = theirs;
    step(site, &damaged);
    CHECK(!find(site, NODE_DO_HALT) && !find(site, NODE_DO_APPLY));
    CHECK_EQUAL(node_state_lost(site->state), theirs);
    CHECK(!find(site, NODE_DO_REFETCH)); /* the link is down */
    tell(site, NODE_LINK_UP, OK);
    CHECK_EQUAL(count(site, NODE_DO_REFETCH), 1);
    CHECK_EQUAL(find(site, NODE_DO_REFETCH)->index, theirs);
    /* so that a damaged record does not matter */
    CHECK(find(site, NODE_DO_REFETCH)->contribution.payload_size > 0);
    tell(site, NODE_TIMER, OK);
    CHECK(!find(site, NODE_DO_REFETCH)); /* one at a time */
    tell(site, NODE_REFETCHED, UNAVAILABLE);
    CHECK(!find(site, NODE_DO_REFETCH) && !find(site, NODE_DO_HALT));
    CHECK_EQUAL(node_state_lost(site->state), theirs);
    progress(site, 3); /* training goes on meanwhile */
    CHECK(!find(site, NODE_DO_HALT));
    site->now.monotonic_ms += 2000; /* beyond any pause between two tries */
    tell(site, NODE_TIMER, OK);
    CHECK_EQUAL(count(site, NODE_DO_REFETCH), 1);
    CHECK(!find(site, NODE_DO_APPLY));
    tell(site, NODE_REFETCHED, OK);
    CHECK_EQUAL(node_state_lost(site->state), 0);
    CHECK_EQUAL(count(site, NODE_DO_APPLY), 1);
    const struct buffer *again = &find(site, NODE_DO_APPLY)->bytes;
    CHECK_EQUAL(again->size, f->entries[made].size);
    CHECK(memcmp(again->data, f->entries[made].data, again->size) == 0);
    struct node_event applied = {.kind = NODE_APPLIED, .status = OK};
    struct ledger_entry entry;
    struct error error = {0};
    CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[made]), &entry, &error));
    memcpy(applied.applied.root, entry.step.root, DIGEST_SIZE);
    applied.applied.version = 1;
    step(site, &applied);
    CHECK_EQUAL(run_state_version(node_state_run(site->state)), 1);
    CHECK_EQUAL(count(site, NODE_DO_REBASE), 1);
    site_close(site);
}

TEST(what_the_coordinator_has_lost_is_brought_one_by_one_and_only_what_is_known_here) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 3);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1), theirs = fixture_contribute(f, 2, 0, 0, 1);
    struct started *site = site_open(f, true, 0, 1, own);
    const uint64_t wanted[] = {own, 1000, theirs}, later[] = {theirs};
    tell(site, NODE_LINK_UP, OK);
    beat(site, wanted, 3);
    CHECK_EQUAL(count(site, NODE_DO_SUPPLY), 1);
    CHECK_EQUAL(find(site, NODE_DO_SUPPLY)->index, own);
    beat(site, later, 1); /* a later answer does not start another */
    CHECK(!find(site, NODE_DO_SUPPLY));
    tell(site, NODE_SUPPLIED,
         UNAVAILABLE); /* it went wrong: the coordinator asks again if it still lacks it */
    CHECK_EQUAL(count(site, NODE_DO_SUPPLY), 1);
    /* and nothing of entry 1000, which is not here */
    CHECK_EQUAL(find(site, NODE_DO_SUPPLY)->index, theirs);
    tell(site, NODE_LINK_DOWN, UNAVAILABLE);
    tell(site, NODE_SUPPLIED, UNAVAILABLE);
    CHECK(!find(site, NODE_DO_SUPPLY));
    tell(site, NODE_LINK_UP, OK);
    CHECK(!find(site, NODE_DO_SUPPLY));
    beat(site, later, 1);
    CHECK_EQUAL(count(site, NODE_DO_SUPPLY), 1);
    site_close(site);
}

TEST(a_contribution_that_is_dropped_gives_its_mass_back_and_anothers_does_not) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 2);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1), theirs = fixture_contribute(f, 2, 0, 0, 1);
    struct started *site = site_open(f, true, 0, 1, own);
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_ACCEPTED);
    for (int which = 0; which < 2; which++) {
        struct ledger_entry entry = fixture_entry(f, LEDGER_DROPPED);
        entry.dropped.index = which == 0 ? theirs : own;
        snprintf(entry.dropped.reason, sizeof entry.dropped.reason, "its payload was lost");
        fixture_append(f, &entry);
        entry_comes(site, f->entry_count - 1);
        CHECK(!find(site, NODE_DO_HALT));
        CHECK_EQUAL(count(site, NODE_DO_RESTORE), which);
        CHECK_EQUAL(node_state_slot(site->state, 0), which == 0 ? SLOT_ACCEPTED : SLOT_RESTORING);
    }
    struct node_event restored = {.kind = NODE_REBASED, .fragment = 0, .sequence = 1};
    step(site, &restored);
    /* the next message has what this one had, and is due at once */
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_SNAPSHOT);
    site_close(site);
}

/* ---- following ------------------------------------------------------------------------------- */

/* The fixture's newest entry is a step: it comes, and the worker applies it. */
static void step_comes(struct started *site) {
    uint64_t made = site->f->entry_count - 1;
    struct ledger_entry entry;
    struct error error = {0};
    entry_comes(site, made);
    CHECK_EQUAL(count(site, NODE_DO_APPLY), 1);
    CHECK(!find(site, NODE_DO_ADVANCE)); /* the worker is in the middle of it */
    CHECK_OK(ledger_entry_decode(buffer_bytes(&site->f->entries[made]), &entry, &error));
    struct node_event applied = {.kind = NODE_APPLIED, .status = OK};
    memcpy(applied.applied.root, entry.step.root, DIGEST_SIZE);
    applied.applied.version = entry.step.version;
    step(site, &applied);
    CHECK(!find(site, NODE_DO_HALT));
}

static void moved(struct started *site, uint32_t fragment, uint64_t version) {
    struct node_event event = {.kind = NODE_REBASED, .fragment = fragment};
    event.rebased.base_version = version;
    step(site, &event);
}

TEST(a_step_without_a_part_of_ours_is_followed_and_the_one_with_it_waits_for_that_move) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 2);
    fixture_contribute(f, 2, 0, 0, 1);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1);
    struct started *site = site_open(f, true, 0, 1, own);
    progress(site, 1);
    fixture_step(f, 0, 1); /* theirs alone */
    step_comes(site);
    CHECK_EQUAL(count(site, NODE_DO_ADVANCE), 1);
    CHECK_EQUAL(find(site, NODE_DO_ADVANCE)->sequence, 0); /* no message is over */
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_ACCEPTED);
    progress(site, 2);
    CHECK(!find(site, NODE_DO_ADVANCE)); /* one at a time */
    fixture_step(f, 0, 1);               /* ours */
    step_comes(site);
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_MERGING);
    CHECK(!find(site, NODE_DO_REBASE) && !find(site, NODE_DO_ADVANCE));
    moved(site, 0, 1);
    CHECK_EQUAL(count(site, NODE_DO_REBASE), 1);
    CHECK_EQUAL(find(site, NODE_DO_REBASE)->sequence, 1);
    moved(site, 0, 2);
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_TRAINING);
    CHECK(!find(site, NODE_DO_ADVANCE));               /* that was the newest */
    CHECK_EQUAL(node_state_staleness(site->state), 1); /* of the base that was signed */
    site_close(site);
}

TEST(versions_that_come_faster_than_the_interval_are_followed_in_one_move) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 3);
    fixture_contribute(f, 2, 0, 0, 1);
    fixture_contribute(f, 3, 0, 0, 1);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1);
    struct started *site = site_open_following(f, true, 0, 1, own, 5);
    progress(site, 4);
    for (int i = 0; i < 2; i++) {
        fixture_step(f, 0, 1);
        step_comes(site);
        CHECK(!find(site, NODE_DO_ADVANCE));
    }
    progress(site, 5);
    CHECK_EQUAL(count(site, NODE_DO_ADVANCE), 1);
    moved(site, 0, 2);
    progress(site, 10);
    CHECK(!find(site, NODE_DO_ADVANCE)); /* nothing new */
    site_close(site);
}

/* Somebody makes versions faster than a base moves: the coordinator has to hear from this site, or
 * it never knows how long a round is. */
TEST(a_base_that_stays_beyond_the_cap_goes_forward_once_and_then_the_round_is_offered) {
    struct fixture *f = fixture_open("merge: {quorum: 1, grace: 10s, warmup_steps: 0, "
                                     "staleness_cap: 1}\ninner.inner_steps: 10\n",
                                     4096);
    fixture_sites(f, 2);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1);
    struct started *site = site_open_following(f, true, 0, 1, own, 1000);
    fixture_step(f, 0, 1);
    step_comes(site);
    moved(site, 0, 1);
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_TRAINING);
    for (uint64_t version = 1; version <= 2; version++) {
        fixture_contribute(f, 2, 0, version, 1);
        entry_comes(site, f->entry_count - 1);
        fixture_step(f, 0, 1);
        step_comes(site);
    }
    progress(site, 12);
    CHECK_EQUAL(count(site, NODE_DO_ADVANCE), 1);
    CHECK(!find(site, NODE_DO_SNAPSHOT));
    for (uint64_t version = 3; version <= 4; version++) {
        fixture_contribute(f, 2, 0, version, 1);
        entry_comes(site, f->entry_count - 1);
        fixture_step(f, 0, 1);
        step_comes(site);
    }
    moved(site, 0, 3);
    CHECK(!find(site, NODE_DO_ADVANCE));
    CHECK_EQUAL(count(site, NODE_DO_SNAPSHOT), 1);
    site_close(site);
}

TEST(with_overlap_off_a_site_that_waits_follows_at_once) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 2);
    fixture_contribute(f, 2, 0, 0, 1);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1);
    struct started *site = site_open_following(f, false, 0, 1, own, 1000);
    CHECK_EQUAL(find(site, NODE_DO_TRAIN)->wait, NODE_WAIT_MERGE);
    fixture_step(f, 0, 1);
    step_comes(site);
    CHECK_EQUAL(count(site, NODE_DO_ADVANCE), 1);
    site_close(site);
}

TEST(nothing_is_followed_while_a_delta_is_made) {
    struct fixture *f = fixture_open("fragments: 2\n" ALONE, 2 * 4096);
    fixture_sites(f, 2);
    uint64_t own = fixture_contribute(f, 1, 1, 0, 1);
    fixture_contribute(f, 2, 0, 0, 1);
    struct started *site = site_open(f, true, 1, 1, own);
    progress(site, 10);
    CHECK_EQUAL(count(site, NODE_DO_SNAPSHOT), 1);
    uint64_t sequence = find(site, NODE_DO_SNAPSHOT)->sequence;
    fixture_step(f, 0, 1);
    step_comes(site);
    CHECK(!find(site, NODE_DO_ADVANCE));
    struct node_event event = {.kind = NODE_SNAPSHOTTED, .sequence = sequence};
    event.snapshotted.steps = 11;
    event.snapshotted.tokens = 11 * 64;
    step(site, &event);
    CHECK_EQUAL(count(site, NODE_DO_ENCODE), 1);
    CHECK(!find(site, NODE_DO_ADVANCE));
    struct contribution made = find(site, NODE_DO_ENCODE)->contribution;
    CHECK_EQUAL(made.base_version, 0);
    made.payload_size = 1;
    event = (struct node_event){.kind = NODE_ENCODED, .sequence = sequence};
    contribution_encode(&made, event.encoded.header);
    step(site, &event);
    CHECK_EQUAL(count(site, NODE_DO_ADVANCE), 1);
    CHECK_EQUAL(find(site, NODE_DO_ADVANCE)->fragment, 0);
    site_close(site);
}

TEST(a_message_whose_base_did_not_come_back_follows_nothing_until_its_merge) {
    struct fixture *f = fixture_open(ALONE, 4096);
    fixture_sites(f, 2);
    fixture_contribute(f, 2, 0, 0, 1);
    uint64_t own = fixture_contribute(f, 1, 0, 0, 1);
    struct started *site = site_open_with(f, true, 0, 1, own, 1, true);
    fixture_step(f, 0, 1);
    step_comes(site);
    progress(site, 3);
    CHECK(!find(site, NODE_DO_ADVANCE));
    fixture_step(f, 0, 1);
    step_comes(site);
    CHECK_EQUAL(count(site, NODE_DO_REBASE), 1);
    moved(site, 0, 2);
    CHECK_EQUAL(node_state_slot(site->state, 0), SLOT_TRAINING);
    site_close(site);
}

/* A site that has no copy of what the run starts from. */
static struct started *site_open_without_model(void) {
    struct started *site = xcalloc(1, sizeof *site);
    struct node_options options = {.site = 1,
                                   .seed = 1,
                                   .overlap = true,
                                   .follow_interval = 1,
                                   .heartbeat_ms = 1000,
                                   .backoff_ms = 100,
                                   .backoff_limit_ms = 1000,
                                   .queue_limit = 64,
                                   .nominal_payload = 1000,
                                   .lacks_model = true};
    site->f = fixture_open(SYNCHRONOUS, 2 * 4096);
    site->now = (struct instant){1000, FIXTURE_NOW};
    site->state = node_state_create(&options);
    node_state_start(site->state, 0, NULL, 0, site->now, &site->out);
    return site;
}

TEST(a_site_without_version_0_follows_nothing_before_a_snapshot_is_loaded) {
    struct started *site = site_open_without_model();
    CHECK(find(site, NODE_DO_CONNECT) && find(site, NODE_DO_CONNECT)->ask_offer);
    struct node_event offer = {.kind = NODE_OFFER};
    step(site, &offer); /* there is none: it must not follow from parameters that are zero */
    CHECK(!find(site, NODE_DO_FOLLOW) && !find(site, NODE_DO_FETCH));
    site->now.monotonic_ms += 2000;
    step(site, &(struct node_event){.kind = NODE_TIMER});
    CHECK(find(site, NODE_DO_CONNECT) && find(site, NODE_DO_CONNECT)->ask_offer);
    offer.offer.exists = true; /* of version 0, which saves no step, and costs a lot */
    offer.offer.header.content_size = UINT64_C(1) << 40;
    step(site, &offer);
    CHECK(!find(site, NODE_DO_FOLLOW) && find(site, NODE_DO_FETCH));
    step(site, &(struct node_event){.kind = NODE_SNAPSHOT_LOADED, .status = UNAVAILABLE});
    CHECK(!find(site, NODE_DO_FOLLOW)); /* a link that breaks meanwhile changes nothing */
    site->now.monotonic_ms += 2000;
    step(site, &(struct node_event){.kind = NODE_TIMER});
    CHECK(find(site, NODE_DO_CONNECT)->ask_offer);
    step(site, &offer);
    CHECK(find(site, NODE_DO_FETCH));
    step(site, &(struct node_event){.kind = NODE_SNAPSHOT_LOADED, .status = OK});
    CHECK(find(site, NODE_DO_FOLLOW));
    site_close(site);
}
