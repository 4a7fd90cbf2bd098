/* The planner against the cores themselves: coordinator_state and node_state with signed headers
 * and a real ledger, in a shell that only moves time. Same federation, same delays: the same
 * contributions, versions and staleness, except what falls on the same millisecond. */
#include "coordinator/coordinator_state.h"
#include "node/node_state.h"
#include "plan/plan.h"
#include "tests/fed_fixture.h"

enum {
    ONE_WAY = 50,
    COMMIT_MS = 8,
    ENCODE_MS = 8,
    INTAKE_MS = 4,
    SITES_OF_TEST = 8,
    QUEUE = 4096,
    LEDGER = 65536
};

struct happening {
    uint64_t at, order;
    uint32_t site; /* 0: the coordinator */
    bool step;     /* the trainer ends a step */
    struct node_event node;
    struct coordinator_event coordinator;
    struct buffer bytes;
};

struct request {
    bool snapshot;
    uint32_t fragment;
    uint64_t sequence;
};

struct shell {
    struct fixture *f;
    struct coordinator_state *coordinator;
    struct node_state *nodes[SITES_OF_TEST + 1];
    uint64_t step_ms[SITES_OF_TEST + 1], steps[SITES_OF_TEST + 1], replica[SITES_OF_TEST + 1];
    struct request requests[SITES_OF_TEST + 1][8];
    size_t request_count[SITES_OF_TEST + 1];
    struct node_event uploads[LEDGER / 8]; /* by call: whose */
    uint32_t upload_site[LEDGER / 8];
    struct {
        uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
    } spool[SITES_OF_TEST + 1][4];
    struct happening queue[QUEUE];
    size_t count;
    uint64_t now, order, calls, published, committed_at, staleness[64], merged, forgotten;
    struct buffer *ledger; /* [ledger_count] */
    uint64_t ledger_count, apply_ms;
    uint64_t upload_ms[SITES_OF_TEST + 1]; /* of a payload, after the opening */
    uint32_t sites;
};

static struct happening *later(struct shell *s, uint64_t delay, uint32_t site) {
    CHECK(s->count < QUEUE);
    struct happening *h = &s->queue[s->count++];
    *h = (struct happening){.at = s->now + delay, .order = s->order++, .site = site};
    return h;
}

static void tell_node(struct shell *s, uint32_t site, const struct node_event *event);

static void run_request(struct shell *s, uint32_t site, const struct request *request) {
    struct node_event event = {.kind = request->snapshot ? NODE_SNAPSHOTTED : NODE_REBASED,
                               .fragment = request->fragment,
                               .sequence = request->sequence};
    if (request->snapshot) {
        event.snapshotted.steps = s->steps[site];
        event.snapshotted.tokens = 100 * s->steps[site];
    } else {
        event.rebased.base_version = s->replica[site];
    }
    tell_node(s, site, &event);
}

static void encode(struct shell *s, uint32_t site, const struct node_action *action) {
    struct contribution c = action->contribution;
    c.payload_size = 64;
    memset(c.payload_digest, (int)(site + 1), DIGEST_SIZE);
    c.norm = 1;
    c.compute_share = 1;
    c.signed_at_ms = FIXTURE_NOW + s->now;
    struct happening *h = later(s, ENCODE_MS, site);
    h->node = (struct node_event){
        .kind = NODE_ENCODED, .fragment = action->fragment, .sequence = action->sequence};
    contribution_encode(&c, h->node.encoded.header);
    contribution_sign(s->f->keys[site], h->node.encoded.header, h->node.encoded.signature);
    memcpy(s->spool[site][action->fragment].header, h->node.encoded.header,
           CONTRIBUTION_HEADER_SIZE);
    memcpy(s->spool[site][action->fragment].signature, h->node.encoded.signature, SIGNATURE_SIZE);
}

static void node_acts(struct shell *s, uint32_t site, const struct node_action *action) {
    struct happening *h;
    struct ledger_entry entry;
    struct error error = {0};
    switch (action->kind) {
    case NODE_DO_CONNECT:
    case NODE_DO_FOLLOW: later(s, 0, site)->node.kind = NODE_LINK_UP; break;
    case NODE_DO_SNAPSHOT:
    case NODE_DO_REBASE:
    case NODE_DO_RESTORE:
    case NODE_DO_ADVANCE:
        s->requests[site][s->request_count[site]++] =
            (struct request){action->kind == NODE_DO_SNAPSHOT, action->fragment, action->sequence};
        break;
    case NODE_DO_ENCODE: encode(s, site, action); break;
    case NODE_DO_UPLOAD:
        h = later(s, ONE_WAY, 0);
        h->coordinator.kind = COORDINATOR_SUBMIT_OPEN;
        h->coordinator.call = ++s->calls;
        CHECK(s->calls < LEDGER / 8);
        s->upload_site[s->calls] = site;
        s->uploads[s->calls] =
            (struct node_event){.fragment = action->fragment, .sequence = action->sequence};
        h->coordinator.submit.site = site;
        memcpy(h->coordinator.submit.header, s->spool[site][action->fragment].header,
               CONTRIBUTION_HEADER_SIZE);
        memcpy(h->coordinator.submit.signature, s->spool[site][action->fragment].signature,
               SIGNATURE_SIZE);
        break;
    case NODE_DO_APPLY:
        CHECK_OK(ledger_entry_decode(buffer_bytes(&action->bytes), &entry, &error));
        h = later(s, 0, site);
        h->node.kind = NODE_APPLIED;
        h->node.applied.version = entry.step.version;
        memcpy(h->node.applied.root, entry.step.root, DIGEST_SIZE);
        break;
    case NODE_DO_HEARTBEAT: later(s, 2 * ONE_WAY, site)->node.kind = NODE_HEARTBEAT_REPLY; break;
    case NODE_DO_TIMER:
        later(s, action->at_ms > s->now ? action->at_ms - s->now : 0, site)->node.kind = NODE_TIMER;
        break;
    case NODE_DO_HALT: test_failed(__FILE__, __LINE__, "site %u: %s", site, action->message);
    default: break;
    }
}

static void tell_node(struct shell *s, uint32_t site, const struct node_event *event) {
    struct node_actions actions = {0};
    if (event->kind == NODE_APPLIED) s->replica[site] = event->applied.version;
    node_state_step(s->nodes[site], event, (struct instant){s->now, FIXTURE_NOW + s->now},
                    &actions);
    for (size_t i = 0; i < actions.count; i++) node_acts(s, site, &actions.items[i]);
    node_actions_deinit(&actions);
}

static void answer(struct shell *s, const struct coordinator_action *action,
                   enum node_event_kind kind) {
    struct happening *h = later(s, ONE_WAY, s->upload_site[action->call]);
    h->node = s->uploads[action->call];
    h->node.kind = kind;
    h->node.refused.code = action->code;
    h->node.refused.retry_after_ms = action->retry_after_ms;
    h->node.refused.current_version = action->current_version;
    if (kind == NODE_UPLOAD_RECEIPT) h->node.refused.code = 0;
    buffer_append(&h->bytes, action->bytes.data, action->bytes.size);
}

static void committing(struct shell *s, const struct coordinator_action *action) {
    struct reader reader = reader_of(buffer_bytes(&action->bytes));
    while (reader_left(&reader) > 0) {
        uint32_t size = reader_u32(&reader);
        struct bytes raw = reader_take(&reader, size);
        CHECK(!reader.failed && s->ledger_count < LEDGER);
        buffer_append(&s->ledger[s->ledger_count++], raw.data, raw.size);
    }
    s->committed_at = MAX(s->committed_at, s->now + COMMIT_MS);
    struct happening *h = later(s, s->committed_at - s->now, 0);
    h->coordinator.kind = COORDINATOR_COMMITTED;
    h->coordinator.committed.commit = action->commit;
}

static void coordinator_acts(struct shell *s, const struct coordinator_action *action) {
    struct happening *h;
    const struct run_state *run = coordinator_state_run(s->coordinator);
    switch (action->kind) {
    case DO_ADMIT:
        h = later(s, 2 * ONE_WAY + s->upload_ms[s->upload_site[action->call]], 0);
        h->coordinator.kind = COORDINATOR_UPLOADED;
        h->coordinator.call = action->call;
        break;
    case DO_CHECK:
        h = later(s, INTAKE_MS, 0);
        h->coordinator.kind = COORDINATOR_CHECKED;
        h->coordinator.call = action->call;
        break;
    case DO_REFUSE: answer(s, action, NODE_UPLOAD_REFUSED); break;
    case DO_RECEIPT: answer(s, action, NODE_UPLOAD_RECEIPT); break;
    case DO_COMMIT: committing(s, action); break;
    case DO_PUBLISH:
        for (; s->published < action->size; s->published++) {
            for (uint32_t site = 1; site <= s->sites; site++) {
                h = later(s, ONE_WAY, site);
                h->node.kind = NODE_ENTRY;
                buffer_append(&h->bytes, s->ledger[s->published].data,
                              s->ledger[s->published].size);
            }
        }
        break;
    case DO_APPLY:
        for (uint16_t i = 0; i < action->step.step.count; i++) {
            const struct run_pending *part = run_state_pending(run, action->step.step.fragment, i);
            uint64_t stale = run_state_staleness(run, action->step.step.fragment,
                                                 part->contribution.base_version);
            if (stale ==
                UINT64_MAX) /* further back than the run state remembers, which is the cap */
                s->forgotten++;
            else
                s->staleness[MIN(stale, 63)]++;
            s->merged++;
        }
        h = later(s, s->apply_ms, 0);
        h->coordinator.kind = COORDINATOR_APPLIED;
        h->coordinator.applied.version = action->step.step.version;
        break;
    case DO_TIMER:
        later(s, action->at_ms > s->now ? action->at_ms - s->now : 0, 0)->coordinator.kind =
            COORDINATOR_TIMER;
        break;
    case DO_STOP: test_failed(__FILE__, __LINE__, "stop: %s", action->message);
    default: break;
    }
}

static void tell_coordinator(struct shell *s, const struct coordinator_event *event) {
    struct coordinator_actions actions = {0};
    coordinator_state_step(s->coordinator, event, (struct instant){s->now, FIXTURE_NOW + s->now},
                           &actions);
    for (size_t i = 0; i < actions.count; i++) coordinator_acts(s, &actions.items[i]);
    coordinator_actions_deinit(&actions);
}

/* What was asked for before a step ended is done after it; what its end causes, after the next. */
static void step_ends(struct shell *s, uint32_t site) {
    struct request asked[8];
    size_t count = s->request_count[site];
    memcpy(asked, s->requests[site], sizeof asked);
    s->request_count[site] = 0;
    s->steps[site]++;
    struct node_event event = {.kind = NODE_PROGRESS,
                               .progress = {s->steps[site], 100 * s->steps[site], 2.0}};
    tell_node(s, site, &event);
    for (size_t i = 0; i < count; i++) run_request(s, site, &asked[i]);
    later(s, s->step_ms[site], site)->step = true;
}

static void open_shell(struct shell *s, const char *manifest, uint32_t sites,
                       const uint64_t *step_ms) {
    s->f = fixture_open(manifest, 4 * 4096);
    s->sites = sites;
    s->ledger = xcalloc(LEDGER, sizeof *s->ledger);
    fixture_sites(s->f, sites);
    for (uint64_t i = 0; i < s->f->entry_count; i++)
        buffer_append(&s->ledger[s->ledger_count++], s->f->entries[i].data, s->f->entries[i].size);
    s->published = s->ledger_count;
    struct coordinator_options options = {.key = s->f->coordinator,
                                          .uploads_limit = 64,
                                          .payload_limit = 1 << 20,
                                          .presence_ms = 30000,
                                          .retry_ms = 500};
    s->coordinator = coordinator_state_create(&options, s->f->run);
    s->f->run = NULL;
    for (uint32_t site = 1; site <= sites; site++) {
        struct node_options node = {.site = site,
                                    .seed = site,
                                    .overlap = true,
                                    .heartbeat_ms = 20000,
                                    .backoff_ms = 1000,
                                    .backoff_limit_ms = 60000,
                                    .inclusion_ms = 600000,
                                    .queue_limit = 1024,
                                    .nominal_payload = 1000};
        struct error error = {0};
        s->nodes[site] = node_state_create(&node);
        for (uint64_t i = 0; i < s->ledger_count; i++)
            CHECK_OK(node_state_restore(s->nodes[site], buffer_bytes(&s->ledger[i]), &error));
        struct node_actions actions = {0};
        node_state_start(s->nodes[site], 0, NULL, 0, (struct instant){0, FIXTURE_NOW}, &actions);
        for (size_t i = 0; i < actions.count; i++) node_acts(s, site, &actions.items[i]);
        node_actions_deinit(&actions);
        s->step_ms[site] = step_ms[site - 1];
        /* as long as the plan takes to join */
        later(s, 4 * ONE_WAY * 2 + s->step_ms[site], site)->step = true;
    }
}

static void run_until(struct shell *s, uint64_t end) {
    while (s->count) {
        size_t first = 0;
        for (size_t i = 1; i < s->count; i++) {
            const struct happening *a = &s->queue[i], *b = &s->queue[first];
            if (a->at < b->at || (a->at == b->at && a->order < b->order)) first = i;
        }
        struct happening h = s->queue[first];
        if (h.at > end) break;
        s->queue[first] = s->queue[--s->count];
        s->now = h.at;
        h.node.bytes = buffer_bytes(&h.bytes);
        if (h.step)
            step_ends(s, h.site);
        else if (h.site)
            tell_node(s, h.site, &h.node);
        else
            tell_coordinator(s, &h.coordinator);
        buffer_deinit(&h.bytes);
    }
}

static void close_shell(struct shell *s) {
    for (uint32_t site = 1; site <= s->sites; site++) node_state_destroy(s->nodes[site]);
    coordinator_state_destroy(s->coordinator);
    for (uint64_t i = 0; i < s->ledger_count; i++) buffer_deinit(&s->ledger[i]);
    for (size_t i = 0; i < s->count; i++) buffer_deinit(&s->queue[i].bytes);
    free(s->ledger);
    fixture_close(s->f);
    free(s);
}

static double mean_staleness(const uint64_t *counts, size_t size) {
    double sum = 0, all = 0;
    for (size_t i = 0; i < size; i++) {
        sum += (double)i * (double)counts[i];
        all += (double)counts[i];
    }
    return all > 0 ? sum / all : 0;
}

static bool near(double a, double b, double share, double slack) {
    return fabs(a - b) <= share * fabs(b) + slack;
}

static void compare(uint32_t quorum, uint32_t grace_s, uint32_t cap, uint32_t fragments,
                    double apply_s) {
    static const uint64_t step_ms[] = {1000, 1130, 1370, 1910};
    char yaml[1024], more[512];
    snprintf(more, sizeof more,
             "inner: {inner_steps: 20, dylu: false}\nfragments: %u\nadmission: {clip_factor: 0}\n"
             "merge: {quorum: %u, grace: %us, staleness_cap: %u, warmup_steps: 0}\n",
             fragments, quorum, grace_s, cap);
    struct shell *s = xcalloc(1, sizeof *s);
    s->apply_ms = (uint64_t)(apply_s * 1000);
    open_shell(s, more, 4, step_ms);
    run_until(s, 3600 * 1000);

    /* Of 100,000 parameters a fragment, so that an outer step takes apply_s, whatever its parts. */
    snprintf(yaml, sizeof yaml,
             "duration: 1h\nmodel: {parameters: %u}\nrun: {inner_steps: 20, dylu: false, "
             "fragments: %u, quorum: %u, grace: %us, "
             "staleness_cap: %u, warmup_steps: 0, bits: 0.01}\ncoordinator: {decode: 0, step: "
             "%.0fns, commit: 8ms}\n"
             "defaults: {encode: 0, decode: 0, copy: 0, link: {rtt: 100ms, up: unlimited, down: "
             "unlimited, window: 1TB}}\n"
             "sites:\n  - {name: a, step: 1s}\n  - {name: b, step: 1130ms}\n  - {name: c, step: "
             "1370ms}\n  - {name: d, step: "
             "1910ms}\n",
             100000 * fragments, fragments, quorum, grace_s, cap, apply_s / 1e5 * 1e9);
    struct topology *topology = NULL;
    struct error error = {0};
    struct plan_result plan;
    CHECK_OK(topology_parse(bytes_of(yaml, strlen(yaml)), "cores", &topology, &error));
    plan_run(topology, NULL, 0, 1, &plan);
    const struct run_state *run = coordinator_state_run(s->coordinator);
    double versions = (double)run_state_version(run), contributions = 0, stale_refusals = 0;
    for (uint32_t site = 1; site <= 4; site++)
        contributions += (double)run_state_site(run, site)->contributions;
    stale_refusals = (double)coordinator_state_refused(s->coordinator, REFUSED_REBASE);
    printf("quorum %u grace %u cap %u fragments %u: cores %.0f contributions, %.0f versions, "
           "staleness %.3f, %.0f too stale; "
           "plan %llu, %llu, %.3f, %llu\n",
           quorum, grace_s, cap, fragments, contributions, versions,
           mean_staleness(s->staleness, 64), stale_refusals, (unsigned long long)plan.contributions,
           (unsigned long long)plan.versions, mean_staleness(plan.staleness, PLAN_STALENESS_MAX),
           (unsigned long long)plan.refused_stale);
    CHECK(contributions > 100);
    CHECK(near((double)plan.contributions, contributions, 0.01, 2));
    CHECK(near((double)plan.versions, versions, 0.02, 2));
    if (s->forgotten == 0)
        CHECK(near(mean_staleness(plan.staleness, PLAN_STALENESS_MAX),
                   mean_staleness(s->staleness, 64), 0.05, 0.03));
    CHECK(near((double)plan.refused_stale, stale_refusals, 0.1, 3));
    plan_result_deinit(&plan);
    topology_destroy(topology);
    close_shell(s);
}

TEST(a_quorum_of_one_gives_the_cores_counts) { compare(1, 10, 16, 1, 0.5); }
TEST(a_quorum_with_a_grace_window_gives_the_cores_counts) { compare(3, 7, 16, 1, 0.5); }
TEST(fragments_take_turns_as_the_cores_let_them) { compare(1, 10, 16, 3, 0.2); }
TEST(a_tight_staleness_cap_refuses_as_the_cores_do) { compare(1, 10, 1, 1, 2); }

/* Three sites make a step every 8 s or so; a payload of the fourth takes 60 s. docs/planning.md has
 * the limit. */
static void slow_upload(uint32_t cap, uint64_t *merged, uint64_t *refused) {
    static const uint64_t step_ms[] = {1000, 1130, 1370, 1000};
    char more[256];
    snprintf(more, sizeof more,
             "inner: {inner_steps: 20, dylu: false}\nadmission: {clip_factor: 0}\n"
             "merge: {quorum: 1, grace: 10s, staleness_cap: %u, warmup_steps: 0}\n",
             cap);
    struct shell *s = xcalloc(1, sizeof *s);
    s->apply_ms = 100;
    s->upload_ms[4] = 60000;
    open_shell(s, more, 4, step_ms);
    run_until(s, 3600 * 1000);
    *merged = run_state_site(coordinator_state_run(s->coordinator), 4)->contributions;
    *refused = coordinator_state_refused(s->coordinator, REFUSED_REBASE);
    close_shell(s);
}

TEST(an_upload_that_outlasts_the_cap_is_refused_by_the_cores_too_and_so_is_every_one_after_it) {
    uint64_t merged, refused;
    slow_upload(4, &merged, &refused);
    CHECK_EQUAL(merged, 0);
    CHECK(refused > 40);
    slow_upload(16, &merged, &refused);
    CHECK(merged > 40);
    CHECK_EQUAL(refused, 0);
}
