/* The site's brain: what it decides at a given point, one event at a time. Whole runs of it are the simulator's (sim_faults_test.c). */
#include "node/node_state.h"
#include "tests/fed_fixture.h"

#define SYNCHRONOUS "fragments: 2\nmerge: {quorum: 3, grace: forever, warmup_steps: 0}\ninner.inner_steps: 10\n"

struct started {
    struct fixture *f;
    struct node_state *state;
    struct node_actions out;
    struct instant now;
};

/* Site 1 at a start, with what the fixture's ledger holds and its message `sequence` of the fragment, which is entry `index`. */
static struct started *site_open(struct fixture *f, bool overlap, uint32_t fragment, uint64_t sequence, uint64_t index) {
    struct started *site = xcalloc(1, sizeof *site);
    struct node_options options = {.site = 1,
                                   .seed = 1,
                                   .last_sequence = sequence,
                                   .overlap = overlap,
                                   .heartbeat_ms = 1000,
                                   .backoff_ms = 100,
                                   .backoff_limit_ms = 1000,
                                   .queue_limit = 64,
                                   .nominal_payload = 1000};
    struct error error = {0};
    site->f = f;
    site->now = (struct instant){1000, FIXTURE_NOW};
    site->state = node_state_create(&options);
    for (uint64_t i = 0; i < f->entry_count; i++) CHECK_OK(node_state_restore(site->state, buffer_bytes(&f->entries[i]), &error));
    struct ledger_entry entry;
    CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[index]), &entry, &error));
    struct node_spooled spooled = {.fragment = fragment, .sequence = sequence};
    memcpy(spooled.header, entry.contribution.header, sizeof spooled.header);
    memcpy(spooled.signature, entry.contribution.signature, sizeof spooled.signature);
    node_state_start(site->state, run_state_version(f->run), &spooled, 1, site->now, &site->out);
    return site;
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

/* A step takes all three. Site 1 has given fragment 1 and waits, site 2 has given fragment 0 and waits. Site 1 was started anew and
 * has trained nothing since: waiting as it is, it would have nothing to give for ever. */
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
