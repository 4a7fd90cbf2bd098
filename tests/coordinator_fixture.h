/* The coordinator's core with a pretended shell around it: disk, workers and clock are the test's
 * to move. What becomes durable is replayed into a second run_state that trusts nothing, so every
 * test also shows that the ledger stays legal. */
#ifndef TESTS_COORDINATOR_FIXTURE_H
#define TESTS_COORDINATOR_FIXTURE_H

#include "coordinator/coordinator_state.h"
#include "tests/fed_fixture.h"

enum { SHELL_COMMITS = COMMITS_LIMIT + 2 * COMMITS_RESERVED };

struct shell_commit { /* asked for, not durable yet */
    uint64_t number, first_index;
    struct buffer bytes;
};

struct shell {
    struct fixture *f;
    struct bytes payload; /* a good one for any fragment: all have the same size here */
    struct coordinator_options options;
    struct coordinator_state *state;
    struct coordinator_actions out; /* of the last step */
    struct instant now;
    uint64_t last_call;
    struct shell_commit commits[SHELL_COMMITS];
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
    struct shell_follow { /* open streams: the call, and whose it is; call 0: none */
        uint64_t call, instance;
        uint32_t site;
    } follows[16];
};

FIXTURE const struct coordinator_action *shell_find(const struct shell *s,
                                                    enum coordinator_action_kind kind) {
    for (size_t i = 0; i < s->out.count; i++)
        if (s->out.items[i].kind == kind) return &s->out.items[i];
    return NULL;
}

FIXTURE size_t shell_count(const struct shell *s, enum coordinator_action_kind kind) {
    size_t count = 0;
    for (size_t i = 0; i < s->out.count; i++) count += s->out.items[i].kind == kind;
    return count;
}

/* The shell's bookkeeping of what was asked for. */
FIXTURE void shell_note(struct shell *s) {
    for (size_t i = 0; i < s->out.count; i++) {
        const struct coordinator_action *action = &s->out.items[i];
        if (action->kind == DO_COMMIT) {
            CHECK(s->commit_count < SHELL_COMMITS);
            CHECK_EQUAL(action->first_index, run_state_size(s->durable) + s->commit_count);
            struct shell_commit *commit = &s->commits[s->commit_count++];
            *commit = (struct shell_commit){action->commit, action->first_index, {0}};
            buffer_append(&commit->bytes, action->bytes.data, action->bytes.size);
        } else if (action->kind == DO_APPLY) {
            CHECK(!s->applying);
            s->applying = true;
            s->step = action->step;
        } else if (action->kind == DO_SNAPSHOT) {
            CHECK(!s->applying); /* the model stands still at that version */
        } else if (action->kind == DO_TIMER) {
            s->timer_ms = action->at_ms;
        } else if (action->kind == DO_STOP) {
            s->stopped = true;
        }
    }
}

FIXTURE void shell_step(struct shell *s, const struct coordinator_event *event) {
    coordinator_actions_clear(&s->out);
    coordinator_state_step(s->state, event, s->now, &s->out);
    shell_note(s);
}

FIXTURE void shell_start(struct shell *s, struct run_state *run) {
    s->state = coordinator_state_create(&s->options, run);
    s->f->run = run;
    coordinator_actions_clear(&s->out);
    coordinator_state_start(s->state, s->now, &s->out);
    shell_note(s);
}

/* `more` is YAML after the run's name. */
FIXTURE struct shell *shell_open_unstarted(const char *more, uint32_t sites) {
    struct shell *s = xcalloc(1, sizeof *s);
    const char *fragments = strstr(more, "fragments: ");
    s->f = fixture_open(more, 4096 * (fragments ? strtoull(fragments + 11, NULL, 10) : 1));
    fixture_sites(s->f, sites);
    float *delta = fixture_delta(s->f, 0, 1);
    s->payload = fixture_payload_of(s->f, 0, delta);
    free(delta);
    s->options =
        (struct coordinator_options){.key = s->f->coordinator,
                                     .uploads_limit = 8,
                                     .payload_limit = codec_bound(s->f->manifest.codec.kind, 4096),
                                     .presence_ms = 30000,
                                     .retry_ms = 500};
    s->now = (struct instant){1000000, FIXTURE_NOW};
    s->timer_ms = UINT64_MAX;
    s->durable = run_state_create();
    for (uint64_t i = 0; i < s->f->entry_count; i++)
        CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[i]), false, NULL) == OK);
    return s;
}

/* Of shell_open_unstarted, with one more site, which observes: its number, after all others. */
FIXTURE void shell_start_with_observer(struct shell *s, uint8_t site) {
    struct ledger_entry entry = fixture_invited(s->f, "watch", site);
    entry.invited.role = SITE_OBSERVES;
    fixture_append(s->f, &entry);
    entry = fixture_added(s->f, site, "watch", site);
    fixture_append(s->f, &entry);
    for (uint64_t i = run_state_size(s->durable); i < s->f->entry_count; i++)
        CHECK(run_state_apply(s->durable, buffer_bytes(&s->f->entries[i]), false, NULL) == OK);
    shell_start(s, s->f->run);
}

FIXTURE struct shell *shell_open(const char *more, uint32_t sites) {
    struct shell *s = shell_open_unstarted(more, sites);
    shell_start(s, s->f->run);
    return s;
}

FIXTURE void shell_close(struct shell *s) {
    coordinator_state_destroy(s->state);
    s->f->run = NULL;
    fixture_close(s->f);
    coordinator_actions_deinit(&s->out);
    for (size_t i = 0; i < s->commit_count; i++) buffer_deinit(&s->commits[i].bytes);
    run_state_destroy(s->durable);
    free(s);
}

FIXTURE const struct run_state *shell_run(const struct shell *s) {
    return coordinator_state_run(s->state);
}

/* ---- events ---------------------------------------------------------------------------------- */

FIXTURE void shell_plain(struct shell *s, enum coordinator_event_kind kind, uint64_t call) {
    struct coordinator_event event = {.kind = kind, .call = call};
    shell_step(s, &event);
}

/* Sends a header as it is. Returns the call. */
FIXTURE uint64_t shell_submit(struct shell *s, uint32_t site,
                              const struct ledger_entry *signed_header) {
    struct coordinator_event event = {.kind = COORDINATOR_SUBMIT_OPEN, .call = ++s->last_call};
    event.submit.site = site;
    event.submit.waits = s->waits;
    event.submit.instance = s->instance;
    memcpy(event.submit.header, signed_header->contribution.header, CONTRIBUTION_HEADER_SIZE);
    memcpy(event.submit.signature, signed_header->contribution.signature, SIGNATURE_SIZE);
    shell_step(s, &event);
    return s->last_call;
}

/* The site's next good contribution. */
FIXTURE struct ledger_entry shell_header(struct shell *s, uint32_t site, uint32_t fragment) {
    struct contribution c =
        fixture_contribution(s->f, site, fragment, run_state_version(s->f->run), s->payload);
    c.signed_at_ms = s->now.wall_ms;
    return fixture_signed(s->f, &c, s->f->keys[site]);
}

FIXTURE void shell_uploaded(struct shell *s, uint64_t call, enum refusal code) {
    struct coordinator_event event = {.kind = COORDINATOR_UPLOADED, .call = call};
    event.uploaded.code = code;
    shell_step(s, &event);
}

FIXTURE void shell_checked(struct shell *s, uint64_t call, enum refusal code) {
    struct coordinator_event event = {.kind = COORDINATOR_CHECKED, .call = call};
    event.checked.code = code;
    shell_step(s, &event);
}

/* The oldest COMMIT becomes durable. */
FIXTURE void shell_durable(struct shell *s) {
    CHECK(s->commit_count > 0);
    struct shell_commit commit = s->commits[0];
    memmove(s->commits, s->commits + 1, --s->commit_count * sizeof commit);
    struct reader reader = reader_of(buffer_bytes(&commit.bytes));
    while (reader_left(&reader) > 0) {
        struct error error = {0};
        uint32_t size = reader_u32(&reader);
        CHECK_OK(run_state_apply(s->durable, reader_take(&reader, size), false, &error));
    }
    buffer_deinit(&commit.bytes);
    struct coordinator_event event = {.kind = COORDINATOR_COMMITTED};
    event.committed.commit = commit.number;
    shell_step(s, &event);
}

FIXTURE void shell_applied(struct shell *s) {
    CHECK(s->applying);
    s->applying = false;
    struct coordinator_event event = {.kind = COORDINATOR_APPLIED};
    event.applied.version = s->step.step.version;
    memset(event.applied.root, (int)s->step.step.version & 255, DIGEST_SIZE);
    shell_step(s, &event);
}

/* Everything that is under way comes to its end. */
FIXTURE void shell_settle(struct shell *s) {
    while (!s->stopped && (s->commit_count > 0 || s->applying)) {
        if (s->commit_count > 0)
            shell_durable(s);
        else
            shell_applied(s);
    }
}

/* From the header to the COMMIT. Returns the call. */
FIXTURE uint64_t shell_contribute_header(struct shell *s, uint32_t site,
                                         const struct ledger_entry *header) {
    uint64_t call = shell_submit(s, site, header);
    CHECK(shell_find(s, DO_ADMIT));
    shell_uploaded(s, call, ACCEPTED);
    CHECK(shell_find(s, DO_CHECK));
    shell_checked(s, call, ACCEPTED);
    CHECK(shell_find(s, DO_COMMIT));
    return call;
}

FIXTURE uint64_t shell_contribute(struct shell *s, uint32_t site, uint32_t fragment) {
    struct ledger_entry header = shell_header(s, site, fragment);
    return shell_contribute_header(s, site, &header);
}

FIXTURE void shell_wait(struct shell *s, uint64_t ms) {
    s->now.monotonic_ms += ms;
    s->now.wall_ms += ms;
    shell_plain(s, COORDINATOR_TIMER, 0);
}

/* Of the streams that the site's process of now has opened the newest, or the place of another. */
FIXTURE struct shell_follow *shell_follow_of(struct shell *s, uint32_t site, bool open) {
    struct shell_follow *found = NULL;
    for (size_t i = 0; i < COUNT_OF(s->follows); i++) {
        struct shell_follow *one = &s->follows[i];
        bool matches = one->site == site && one->instance == s->instance && one->call;
        if (open ? !one->call : matches && (!found || one->call > found->call)) found = one;
    }
    return found;
}

FIXTURE void shell_follow_call(struct shell *s, uint32_t site, bool open, uint64_t call) {
    struct coordinator_event event = {.kind = COORDINATOR_FOLLOWING, .call = call};
    event.following.site = site;
    event.following.open = open;
    event.following.instance = s->instance;
    event.following.made_plus_1 = s->made_plus_1;
    event.following.restored = s->restored;
    shell_step(s, &event);
}

FIXTURE void shell_following(struct shell *s, uint32_t site, bool open) {
    struct shell_follow *one = shell_follow_of(s, site, open);
    uint64_t call = open || !one ? ++s->last_call : one->call;
    if (one)
        *one = open ? (struct shell_follow){call, s->instance, site} : (struct shell_follow){0};
    shell_follow_call(s, site, open, call);
}

/* Returns H_w as it was answered. */
FIXTURE uint32_t shell_heartbeat(struct shell *s, uint32_t site) {
    struct coordinator_event event = {.kind = COORDINATOR_HEARTBEAT, .call = ++s->last_call};
    event.heartbeat.site = site;
    event.heartbeat.instance = s->instance;
    event.heartbeat.turn = s->turn;
    shell_step(s, &event);
    const struct coordinator_action *reply = shell_find(s, DO_HEARTBEAT_REPLY);
    CHECK(reply && reply->call == s->last_call && reply->site == site);
    return reply->inner_steps;
}

FIXTURE struct coordinator_event shell_order(struct shell *s, enum admin_order order,
                                             const char *name) {
    struct coordinator_event event = {.kind = COORDINATOR_ADMIN, .call = ++s->last_call};
    event.admin.order = order;
    snprintf(event.admin.name, SITE_NAME_SIZE, "%s", name);
    snprintf(event.admin.reason, REASON_SIZE, "because");
    memset(event.admin.secret_digest, (int)(s->last_call & 255), DIGEST_SIZE);
    memcpy(event.admin.secret_digest, &s->last_call, sizeof s->last_call);
    return event;
}

/* Gives the order and lets it become durable. */
FIXTURE uint64_t shell_admin(struct shell *s, enum admin_order order, const char *name) {
    struct coordinator_event event = shell_order(s, order, name);
    shell_step(s, &event);
    return event.call;
}

/* As shell_admin: a key of the manifest from here on. */
FIXTURE void shell_set(struct shell *s, const char *key, const char *value) {
    struct coordinator_event event = shell_order(s, ORDER_RULE, "");
    snprintf(event.admin.key, RULE_KEY_SIZE, "%s", key);
    snprintf(event.admin.value, RULE_VALUE_SIZE, "%s", value);
    shell_step(s, &event);
}

FIXTURE struct coordinator_event shell_join_event(struct shell *s, const char *name,
                                                  const uint8_t *secret_digest,
                                                  const struct key_pair *key) {
    struct coordinator_event event = {.kind = COORDINATOR_JOIN, .call = ++s->last_call};
    snprintf(event.join.name, SITE_NAME_SIZE, "%s", name);
    memcpy(event.join.secret_digest, secret_digest, DIGEST_SIZE);
    memcpy(event.join.public_key, key_pair_public(key), PUBLIC_KEY_SIZE);
    return event;
}

FIXTURE void shell_expect_refusal(const struct shell *s, uint64_t call, enum refusal code,
                                  const char *file, int line) {
    const struct coordinator_action *refuse = shell_find(s, DO_REFUSE);
    if (!refuse) test_failed(file, line, "not refused as %s", refusal_name(code));
    if (refuse->code != code)
        test_failed(file, line, "refused as %s (%s), wanted %s", refusal_name(refuse->code),
                    refuse->message, refusal_name(code));
    if (refuse->call != call) test_failed(file, line, "the refusal is for another call");
    if (!*refuse->message) test_failed(file, line, "a refusal without a word");
    if ((refuse->retry_after_ms > 0) != refusal_is_temporary(code))
        test_failed(file, line, "retry_after does not fit the code");
}
#define EXPECT_REFUSAL(s, call, code) shell_expect_refusal(s, call, code, __FILE__, __LINE__)

/* ---- receipts ---- */

FIXTURE void shell_check_receipt(const struct shell *s, const struct buffer *bytes,
                                 const struct ledger_entry *header, struct receipt *out) {
    struct error error = {0};
    CHECK_OK(receipt_verify(buffer_bytes(bytes), key_pair_public(s->f->coordinator),
                            header->contribution.header, header->contribution.signature, out,
                            &error));
}

#endif
