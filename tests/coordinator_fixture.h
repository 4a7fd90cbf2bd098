/* The coordinator's brain with a pretended shell around it: disk, workers and clock are the test's
 * to move. What becomes durable is replayed into a second run_state that trusts nothing, so every
 * test also shows that the ledger stays legal. */
#ifndef TESTS_COORDINATOR_FIXTURE_H
#define TESTS_COORDINATOR_FIXTURE_H

#include "coordinator/coordinator_state.h"
#include "tests/fed_fixture.h"

enum { BRAIN_COMMITS = COMMITS_LIMIT + 2 * COMMITS_RESERVED };

struct brain_commit { /* asked for, not durable yet */
    uint64_t number, first_index;
    struct buffer bytes;
};

struct brain {
    struct fixture *f;
    struct bytes payload; /* a good one for any fragment: all have the same size here */
    struct coordinator_options options;
    struct coordinator_state *state;
    struct coordinator_actions out; /* of the last step */
    struct instant now;
    uint64_t last_call;
    struct brain_commit commits[BRAIN_COMMITS];
    size_t commit_count;
    struct run_state *durable;
    bool applying;
    struct ledger_entry step;
    uint64_t timer_ms; /* UINT64_MAX: none */
    bool stopped;
    bool waits;           /* sites say that they do not train meanwhile */
    uint64_t instance;    /* the process that speaks for a site */
    uint32_t turn;        /* ... and the last answer's */
    uint64_t made_plus_1; /* ... as it says when it follows; 0: nothing */
    bool restored;
};

FIXTURE const struct coordinator_action *brain_find(const struct brain *b,
                                                    enum coordinator_action_kind kind) {
    for (size_t i = 0; i < b->out.count; i++)
        if (b->out.items[i].kind == kind) return &b->out.items[i];
    return NULL;
}

FIXTURE size_t brain_count(const struct brain *b, enum coordinator_action_kind kind) {
    size_t count = 0;
    for (size_t i = 0; i < b->out.count; i++) count += b->out.items[i].kind == kind;
    return count;
}

/* The shell's bookkeeping of what was asked for. */
FIXTURE void brain_note(struct brain *b) {
    for (size_t i = 0; i < b->out.count; i++) {
        const struct coordinator_action *action = &b->out.items[i];
        if (action->kind == DO_COMMIT) {
            CHECK(b->commit_count < BRAIN_COMMITS);
            CHECK_EQUAL(action->first_index, run_state_size(b->durable) + b->commit_count);
            struct brain_commit *commit = &b->commits[b->commit_count++];
            *commit = (struct brain_commit){action->commit, action->first_index, {0}};
            buffer_append(&commit->bytes, action->bytes.data, action->bytes.size);
        } else if (action->kind == DO_APPLY) {
            CHECK(!b->applying);
            b->applying = true;
            b->step = action->step;
        } else if (action->kind == DO_SNAPSHOT) {
            CHECK(!b->applying); /* the model stands still at that version */
        } else if (action->kind == DO_TIMER) {
            b->timer_ms = action->at_ms;
        } else if (action->kind == DO_STOP) {
            b->stopped = true;
        }
    }
}

FIXTURE void brain_step(struct brain *b, const struct coordinator_event *event) {
    coordinator_actions_clear(&b->out);
    coordinator_state_step(b->state, event, b->now, &b->out);
    brain_note(b);
}

FIXTURE void brain_start(struct brain *b, struct run_state *run) {
    b->state = coordinator_state_create(&b->options, run);
    b->f->run = run;
    coordinator_actions_clear(&b->out);
    coordinator_state_start(b->state, b->now, &b->out);
    brain_note(b);
}

/* `more` is YAML after the run's name. */
FIXTURE struct brain *brain_open_unstarted(const char *more, uint32_t sites) {
    struct brain *b = xcalloc(1, sizeof *b);
    const char *fragments = strstr(more, "fragments: ");
    b->f = fixture_open(more, 4096 * (fragments ? strtoull(fragments + 11, NULL, 10) : 1));
    fixture_sites(b->f, sites);
    float *delta = fixture_delta(b->f, 0, 1);
    b->payload = fixture_payload_of(b->f, 0, delta);
    free(delta);
    b->options =
        (struct coordinator_options){.key = b->f->coordinator,
                                     .uploads_limit = 8,
                                     .payload_limit = codec_bound(b->f->manifest.codec.kind, 4096),
                                     .presence_ms = 30000,
                                     .retry_ms = 500};
    b->now = (struct instant){1000000, FIXTURE_NOW};
    b->timer_ms = UINT64_MAX;
    b->durable = run_state_create();
    for (uint64_t i = 0; i < b->f->entry_count; i++)
        CHECK(run_state_apply(b->durable, buffer_bytes(&b->f->entries[i]), false, NULL) == OK);
    return b;
}

FIXTURE struct brain *brain_open(const char *more, uint32_t sites) {
    struct brain *b = brain_open_unstarted(more, sites);
    brain_start(b, b->f->run);
    return b;
}

FIXTURE void brain_close(struct brain *b) {
    coordinator_state_destroy(b->state);
    b->f->run = NULL;
    fixture_close(b->f);
    coordinator_actions_deinit(&b->out);
    for (size_t i = 0; i < b->commit_count; i++) buffer_deinit(&b->commits[i].bytes);
    run_state_destroy(b->durable);
    free(b);
}

FIXTURE const struct run_state *brain_run(const struct brain *b) {
    return coordinator_state_run(b->state);
}

/* ---- events ---------------------------------------------------------------------------------- */

FIXTURE void brain_plain(struct brain *b, enum coordinator_event_kind kind, uint64_t call) {
    struct coordinator_event event = {.kind = kind, .call = call};
    brain_step(b, &event);
}

/* Sends a header as it is. Returns the call. */
FIXTURE uint64_t brain_submit(struct brain *b, uint32_t site,
                              const struct ledger_entry *signed_header) {
    struct coordinator_event event = {.kind = COORDINATOR_SUBMIT_OPEN, .call = ++b->last_call};
    event.submit.site = site;
    event.submit.waits = b->waits;
    event.submit.instance = b->instance;
    memcpy(event.submit.header, signed_header->contribution.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.submit.signature, signed_header->contribution.signature, SIGNATURE_SIZE);
    brain_step(b, &event);
    return b->last_call;
}

/* The site's next good contribution. */
FIXTURE struct ledger_entry brain_header(struct brain *b, uint32_t site, uint32_t fragment) {
    struct contribution c =
        fixture_contribution(b->f, site, fragment, run_state_version(b->f->run), b->payload);
    c.signed_at_ms = b->now.wall_ms;
    return fixture_signed(b->f, &c, b->f->keys[site]);
}

FIXTURE void brain_uploaded(struct brain *b, uint64_t call, enum refusal code) {
    struct coordinator_event event = {.kind = COORDINATOR_UPLOADED, .call = call};
    event.uploaded.code = code;
    brain_step(b, &event);
}

FIXTURE void brain_checked(struct brain *b, uint64_t call, enum refusal code) {
    struct coordinator_event event = {.kind = COORDINATOR_CHECKED, .call = call};
    event.checked.code = code;
    brain_step(b, &event);
}

/* The oldest COMMIT becomes durable. */
FIXTURE void brain_durable(struct brain *b) {
    CHECK(b->commit_count > 0);
    struct brain_commit commit = b->commits[0];
    memmove(b->commits, b->commits + 1, --b->commit_count * sizeof commit);
    struct reader reader = reader_of(buffer_bytes(&commit.bytes));
    while (reader_left(&reader) > 0) {
        struct error error = {0};
        uint32_t size = reader_u32(&reader);
        CHECK_OK(run_state_apply(b->durable, reader_take(&reader, size), false, &error));
    }
    buffer_deinit(&commit.bytes);
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = commit.number;
    brain_step(b, &event);
}

FIXTURE void brain_applied(struct brain *b) {
    CHECK(b->applying);
    b->applying = false;
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.version = b->step.step.version;
    memset(event.applied.root, (int)b->step.step.version & 255, DIGEST_SIZE);
    brain_step(b, &event);
}

/* Everything that is under way comes to its end. */
FIXTURE void brain_settle(struct brain *b) {
    while (!b->stopped && (b->commit_count > 0 || b->applying)) {
        if (b->commit_count > 0)
            brain_durable(b);
        else
            brain_applied(b);
    }
}

/* From the header to the COMMIT. Returns the call. */
FIXTURE uint64_t brain_contribute_header(struct brain *b, uint32_t site,
                                         const struct ledger_entry *header) {
    uint64_t call = brain_submit(b, site, header);
    CHECK(brain_find(b, DO_ADMIT));
    brain_uploaded(b, call, ACCEPTED);
    CHECK(brain_find(b, DO_CHECK));
    brain_checked(b, call, ACCEPTED);
    CHECK(brain_find(b, DO_COMMIT));
    return call;
}

FIXTURE uint64_t brain_contribute(struct brain *b, uint32_t site, uint32_t fragment) {
    struct ledger_entry header = brain_header(b, site, fragment);
    return brain_contribute_header(b, site, &header);
}

FIXTURE void brain_wait(struct brain *b, uint64_t ms) {
    b->now.monotonic_ms += ms;
    b->now.wall_ms += ms;
    brain_plain(b, COORDINATOR_TIMER, 0);
}

FIXTURE void brain_following(struct brain *b, uint32_t site, bool open) {
    struct coordinator_event event = {.kind = COORDINATOR_FOLLOWING};
    event.following.site = site;
    event.following.open = open;
    event.following.instance = b->instance;
    event.following.made_plus_1 = b->made_plus_1;
    event.following.restored = b->restored;
    brain_step(b, &event);
}

/* Returns H_w as it was answered. */
FIXTURE uint32_t brain_heartbeat(struct brain *b, uint32_t site) {
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++b->last_call};
    event.heartbeat.site = site;
    event.heartbeat.instance = b->instance;
    event.heartbeat.turn = b->turn;
    brain_step(b, &event);
    const struct coordinator_action *reply = brain_find(b, DO_HEARTBEAT_REPLY);
    CHECK(reply && reply->call == b->last_call && reply->site == site);
    return reply->inner_steps;
}

FIXTURE struct coordinator_event brain_order(struct brain *b, enum admin_order order,
                                             const char *name) {
    struct coordinator_event event = {.kind = COORDINATOR_ADMIN, .call = ++b->last_call};
    event.admin.order = order;
    snprintf(event.admin.name, SITE_NAME_SIZE, "%s", name);
    snprintf(event.admin.reason, REASON_SIZE, "because");
    memset(event.admin.secret_digest, (int)(b->last_call & 255), DIGEST_SIZE);
    memcpy(event.admin.secret_digest, &b->last_call, sizeof b->last_call);
    return event;
}

/* Gives the order and lets it become durable. */
FIXTURE uint64_t brain_admin(struct brain *b, enum admin_order order, const char *name) {
    struct coordinator_event event = brain_order(b, order, name);
    brain_step(b, &event);
    return event.call;
}

FIXTURE struct coordinator_event brain_join_event(struct brain *b, const char *name,
                                                  const uint8_t *secret_digest,
                                                  const struct key_pair *key) {
    struct coordinator_event event = {.kind = COORDINATOR_JOIN, .call = ++b->last_call};
    snprintf(event.join.name, SITE_NAME_SIZE, "%s", name);
    memcpy(event.join.secret_digest, secret_digest, DIGEST_SIZE);
    memcpy(event.join.public_key, key_pair_public(key), PUBLIC_KEY_SIZE);
    return event;
}

FIXTURE void brain_expect_refusal(const struct brain *b, uint64_t call, enum refusal code,
                                  const char *file, int line) {
    const struct coordinator_action *refuse = brain_find(b, DO_REFUSE);
    if (!refuse) test_failed(file, line, "not refused as %s", refusal_name(code));
    if (refuse->code != code)
        test_failed(file, line, "refused as %s (%s), wanted %s", refusal_name(refuse->code),
                    refuse->message, refusal_name(code));
    if (refuse->call != call) test_failed(file, line, "the refusal is for another call");
    if (!*refuse->message) test_failed(file, line, "a refusal without a word");
    if ((refuse->retry_after_ms > 0) != refusal_is_temporary(code))
        test_failed(file, line, "retry_after does not fit the code");
}
#define EXPECT_REFUSAL(b, call, code) brain_expect_refusal(b, call, code, __FILE__, __LINE__)

/* ---- receipts ---- */

FIXTURE void brain_check_receipt(const struct brain *b, const struct buffer *bytes,
                                 const struct ledger_entry *header, struct receipt *out) {
    struct error error = {0};
    CHECK_OK(receipt_verify(buffer_bytes(bytes), key_pair_public(b->f->coordinator),
                            header->contribution.header, header->contribution.signature, out,
                            &error));
}

#endif
