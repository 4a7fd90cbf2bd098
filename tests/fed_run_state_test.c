#include "tests/fed_fixture.h"

/* --- genesis --- */
TEST(a_ledger_begins_with_genesis_and_has_one) {
    struct fixture *f = fixture_open("", 5000);
    CHECK_EQUAL(run_state_size(f->run), 1);
    CHECK_EQUAL(run_state_version(f->run), 0);
    CHECK_EQUAL(run_state_parameters(f->run), 5000);
    CHECK_MEMORY(run_state_run_id(f->run), f->run_id, RUN_ID_SIZE);
    CHECK_MEMORY(run_state_layout_digest(f->run), f->layout, DIGEST_SIZE);
    CHECK_MEMORY(run_state_coordinator_key(f->run), key_pair_public(f->coordinator),
                 PUBLIC_KEY_SIZE);
    uint8_t digest[DIGEST_SIZE], root[DIGEST_SIZE];
    manifest_digest(&f->manifest, digest);
    CHECK_MEMORY(run_state_manifest_digest(f->run), digest, DIGEST_SIZE);
    state_root(f->model.theta, f->parameters, digest);
    CHECK(run_state_root_at(f->run, 0, root));
    CHECK_MEMORY(root, digest, DIGEST_SIZE);
    CHECK_MEMORY(run_state_initial_root(f->run), digest, DIGEST_SIZE);
    struct buffer manifest = {0};
    struct ledger_entry entry = fixture_genesis(f, &manifest);
    fixture_refused(f, &entry, "one genesis entry");
    buffer_deinit(&manifest);
    fixture_close(f);
}

TEST(nothing_but_genesis_comes_first) {
    struct fixture *f = fixture_open("", 5000);
    struct run_state *empty = run_state_create();
    struct ledger_entry entry = fixture_invited(f, "a", 1);
    struct buffer raw = {0};
    ledger_entry_encode(&entry, &raw);
    struct error error = {0};
    CHECK_STATUS(run_state_apply(empty, buffer_bytes(&raw), true, &error), INVALID);
    CHECK_EQUAL(run_state_size(empty), 0);
    CHECK_STATUS(run_state_apply(empty, bytes_of("junk", 4), true, &error), INVALID);
    CHECK(!run_state_has_genesis(empty));
    buffer_deinit(&raw);
    run_state_destroy(empty);
    fixture_close(f);
}

static void genesis_refused(const char *yaml, uint64_t parameters, bool bad_key, const char *part) {
    struct fixture *f = fixture_open("", 5000);
    struct run_state *empty = run_state_create();
    struct buffer manifest = {0}, raw = {0};
    struct ledger_entry entry = fixture_genesis(f, &manifest);
    if (yaml) entry.genesis.manifest = bytes_of(yaml, strlen(yaml));
    entry.genesis.parameters = parameters;
    if (bad_key) memset(entry.genesis.coordinator_key, 0, PUBLIC_KEY_SIZE);
    ledger_entry_encode(&entry, &raw);
    struct error error = {0};
    CHECK_STATUS(run_state_apply(empty, buffer_bytes(&raw), true, &error), INVALID);
    CHECK_CONTAINS(error.message, part);
    CHECK_EQUAL(run_state_size(empty), 0);
    buffer_deinit(&raw);
    buffer_deinit(&manifest);
    run_state_destroy(empty);
    fixture_close(f);
}

TEST(a_genesis_with_a_manifest_that_is_wrong_or_not_canonical_is_refused) {
    genesis_refused("name: demo\n", 5000, false, "canonical");
    genesis_refused("name: demo\nmodel.hidden: 0\n", 5000, false, "model.hidden");
    genesis_refused("", 5000, false, "name");
    genesis_refused(NULL, 0, false, "parameters");
    genesis_refused(NULL, UINT64_C(1) << 41, false, "parameters");
    genesis_refused(NULL, 5000, true, "key");
}

TEST(a_model_too_small_for_its_fragments_is_refused) {
    struct fixture *f = fixture_open("fragments: 2\n", 8192);
    struct run_state *empty = run_state_create();
    struct buffer manifest = {0}, raw = {0};
    struct ledger_entry entry = fixture_genesis(f, &manifest);
    entry.genesis.parameters = 8191;
    ledger_entry_encode(&entry, &raw);
    struct error error = {0};
    CHECK_STATUS(run_state_apply(empty, buffer_bytes(&raw), true, &error), INVALID);
    CHECK_CONTAINS(error.message, "with 2 fragments, 8192 to");
    buffer_deinit(&raw);
    buffer_deinit(&manifest);
    run_state_destroy(empty);
    fixture_close(f);
}

/* --- sites --- */
TEST(a_site_is_added_once_with_its_own_invitation_and_key) {
    struct fixture *f = fixture_open("", 5000);
    struct ledger_entry entry = fixture_added(f, 1, "berlin", 1);
    fixture_refused(f, &entry, "without an invitation");
    entry = fixture_invited(f, "Berlin!", 1);
    fixture_refused(f, &entry, "name");
    entry = fixture_invited(f, "berlin", 1);
    fixture_append(f, &entry);
    fixture_refused(f, &entry, "used for another invitation");
    CHECK_EQUAL(run_state_invitation_count(f->run), 1);
    uint8_t digest[DIGEST_SIZE];
    memset(digest, 1, sizeof digest);
    CHECK(run_state_invitation(f->run, digest));
    CHECK_EQUAL(run_state_invitation(f->run, digest)->end, INVITATION_OPEN);
    CHECK(run_state_open_invitation(f->run, "berlin") == run_state_invitation(f->run, digest));
    digest[0] = 2;
    CHECK(!run_state_invitation(f->run, digest));

    entry = fixture_added(f, 1, "paris", 1);
    fixture_refused(f, &entry, "invitation of berlin");
    entry = fixture_added(f, 2, "berlin", 1);
    fixture_refused(f, &entry, "number 2 where 1 follows");
    entry = fixture_added(f, 1, "berlin", 1);
    memset(entry.added.public_key, 0, PUBLIC_KEY_SIZE);
    fixture_refused(f, &entry, "key");
    entry = fixture_added(f, 1, "berlin", 1);
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_active_sites(f->run), 1);
    CHECK_TEXT(run_state_site(f->run, 1)->name, "berlin");
    CHECK(run_state_site_named(f->run, "berlin") == run_state_site(f->run, 1));
    CHECK(!run_state_site(f->run, 0) && !run_state_site(f->run, 2) &&
          !run_state_site(f->run, UINT32_MAX));
    CHECK(!run_state_site_named(f->run, "paris"));

    entry = fixture_added(f, 2, "berlin", 1);
    fixture_refused(f, &entry, "used before");
    entry = fixture_invited(f, "berlin", 3);
    fixture_refused(f, &entry, "a site berlin already");
    entry = fixture_invited(f, "paris", 3);
    fixture_append(f, &entry);
    entry = fixture_added(f, 2, "paris", 3);
    memcpy(entry.added.public_key, key_pair_public(f->keys[1]), PUBLIC_KEY_SIZE);
    fixture_refused(f, &entry, "enrolled for site 1 before");
    fixture_close(f);
}

static struct ledger_entry uninvited(struct fixture *f, const char *name) {
    struct ledger_entry entry = fixture_entry(f, LEDGER_SITE_UNINVITED);
    snprintf(entry.uninvited.name, SITE_NAME_SIZE, "%s", name);
    return entry;
}

TEST(a_newer_invitation_ends_an_older_one_of_its_name_and_no_other) {
    struct fixture *f = fixture_open("", 5000);
    struct ledger_entry entry = fixture_invited(f, "oslo", 1);
    fixture_append(f, &entry);
    entry = fixture_invited(f, "paris", 2);
    fixture_append(f, &entry);
    entry = fixture_invited(f, "oslo", 3);
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_invitation_at(f->run, 0)->end, INVITATION_REPLACED);
    CHECK_EQUAL(run_state_invitation_at(f->run, 1)->end, INVITATION_OPEN);
    entry = fixture_added(f, 1, "oslo", 1);
    fixture_refused(f, &entry, "the invitation of oslo holds no more");
    entry = fixture_added(f, 1, "oslo", 3);
    fixture_append(f, &entry);
    entry = fixture_added(f, 2, "paris", 2);
    fixture_append(f, &entry);
    fixture_close(f);
}

TEST(after_a_revocation_no_earlier_invitation_opens_the_name) {
    struct fixture *f = fixture_open("", 5000);
    struct ledger_entry entry = fixture_invited(f, "oslo", 1);
    fixture_append(f, &entry);
    entry = fixture_invited(f, "oslo", 2);
    fixture_append(f, &entry);
    entry = fixture_added(f, 1, "oslo", 2);
    fixture_append(f, &entry);
    fixture_revoke(f, 1);
    CHECK(!run_state_open_invitation(f->run, "oslo"));
    entry = fixture_added(f, 2, "oslo", 1);
    fixture_refused(f, &entry, "holds no more");
    entry = fixture_added(f, 2, "oslo", 2);
    fixture_refused(f, &entry, "used before");
    fixture_close(f);
}

TEST(a_withdrawn_invitation_admits_nobody_and_the_name_can_be_invited_again) {
    struct fixture *f = fixture_open("", 5000);
    struct ledger_entry entry = uninvited(f, "oslo");
    fixture_refused(f, &entry, "no invitation of \"oslo\" is open");
    entry = fixture_invited(f, "oslo", 1);
    fixture_append(f, &entry);
    entry = uninvited(f, "paris");
    fixture_refused(f, &entry, "is open");
    entry = uninvited(f, "oslo");
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_invitation_at(f->run, 0)->end, INVITATION_WITHDRAWN);
    fixture_refused(f, &entry, "is open");
    entry = fixture_added(f, 1, "oslo", 1);
    fixture_refused(f, &entry, "holds no more");
    entry = fixture_invited(f, "oslo", 2);
    fixture_append(f, &entry);
    entry = fixture_added(f, 1, "oslo", 2);
    fixture_append(f, &entry);
    entry = uninvited(f, "oslo");
    fixture_refused(f, &entry, "is open");
    fixture_close(f);
}

TEST(two_invitations_of_one_name_make_one_site) {
    struct fixture *f = fixture_open("", 5000);
    struct ledger_entry entry = fixture_invited(f, "oslo", 1);
    fixture_append(f, &entry);
    entry = fixture_invited(f, "oslo", 2);
    fixture_append(f, &entry);
    entry = fixture_added(f, 1, "oslo", 2);
    fixture_append(f, &entry);
    entry = fixture_added(f, 2, "oslo", 1);
    fixture_refused(f, &entry, "holds no more");
    fixture_close(f);
}

static struct ledger_entry presence(struct fixture *f, enum ledger_kind kind, uint32_t site) {
    struct ledger_entry entry = fixture_entry(f, kind);
    entry.presence.site = site;
    return entry;
}

TEST(sites_count_from_their_enrolment_until_they_are_away_gone_or_revoked) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 3);
    CHECK_EQUAL(run_state_present_sites(f->run), 3);
    struct ledger_entry entry = presence(f, LEDGER_SITE_BACK, 1);
    fixture_refused(f, &entry, "is present already");
    entry = presence(f, LEDGER_SITE_AWAY, 4);
    fixture_refused(f, &entry, "no site 4");
    entry = presence(f, LEDGER_SITE_AWAY, 1);
    fixture_append(f, &entry);
    entry = presence(f, LEDGER_SITE_AWAY, 1);
    fixture_refused(f, &entry, "is away already");
    entry = presence(f, LEDGER_SITE_LEFT, 2);
    fixture_append(f, &entry);
    entry = presence(f, LEDGER_SITE_LEFT, 2);
    fixture_refused(f, &entry, "is gone already");
    entry = presence(f, LEDGER_SITE_AWAY, 2);
    fixture_refused(f, &entry, "is gone already");
    CHECK_EQUAL(run_state_present_sites(f->run), 1);
    CHECK_EQUAL(run_state_active_sites(f->run), 3);
    CHECK(run_state_is_present(f->run, 3) && !run_state_is_present(f->run, 1));
    CHECK(!run_state_is_present(f->run, 0) && !run_state_is_present(f->run, 9));
    entry = presence(f, LEDGER_SITE_BACK, 2);
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_present_sites(f->run), 2);
    CHECK_EQUAL(run_state_site(f->run, 2)->presence_at, f->entry_count - 1);
    fixture_revoke(f, 1); /* away already: it is not counted twice */
    CHECK_EQUAL(run_state_present_sites(f->run), 2);
    fixture_revoke(f, 3);
    CHECK_EQUAL(run_state_present_sites(f->run), 1);
    entry = presence(f, LEDGER_SITE_BACK, 3);
    fixture_refused(f, &entry, "was revoked");
    fixture_close(f);
}

TEST(a_revoked_site_can_come_back_as_another_but_never_with_its_key) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 1);
    struct ledger_entry entry = fixture_entry(f, LEDGER_SITE_REVOKED);
    entry.revoked.site = 2;
    fixture_refused(f, &entry, "no site 2");
    fixture_revoke(f, 1);
    CHECK(run_state_site(f->run, 1)->revoked);
    CHECK_EQUAL(run_state_site(f->run, 1)->revoked_at, f->entry_count - 1);
    CHECK_EQUAL(run_state_active_sites(f->run), 0);
    entry.revoked.site = 1;
    fixture_refused(f, &entry, "revoked before");
    entry = fixture_invited(f, "site-1", 9);
    fixture_append(f, &entry);
    entry = fixture_added(f, 2, "site-1", 9);
    memcpy(entry.added.public_key, key_pair_public(f->keys[1]), PUBLIC_KEY_SIZE);
    fixture_refused(f, &entry, "enrolled for site 1 before");
    entry = fixture_added(f, 2, "site-1", 9);
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_site_named(f->run, "site-1")->site, 2);
    CHECK_EQUAL(run_state_site_count(f->run), 2);
    fixture_close(f);
}

/* --- contributions --- */
static struct ledger_entry next_of(struct fixture *f, uint32_t site, uint32_t fragment,
                                   uint64_t base, struct contribution *c) {
    float *delta = fixture_delta(f, fragment, 0.01f);
    *c = fixture_contribution(f, site, fragment, base, fixture_payload_of(f, fragment, delta));
    free(delta);
    return fixture_signed(f, c, f->keys[site]);
}

TEST(a_contribution_is_entered_found_and_pending) {
    struct fixture *f = fixture_open("", 5000);
    fixture_sites(f, 2);
    uint64_t first = fixture_contribute(f, 1, 0, 0, 0.1f),
             second = fixture_contribute(f, 2, 0, 0, 0.1f), at = 0;
    CHECK_EQUAL(run_state_pending_count(f->run, 0), 2);
    CHECK_EQUAL(run_state_pending(f->run, 0, 1)->index, second);
    CHECK(run_state_find(f->run, 1, 1, &at) && at == first);
    CHECK(run_state_find(f->run, 2, 1, &at) && at == second);
    CHECK(!run_state_find(f->run, 1, 2, &at));
    CHECK(!run_state_find(f->run, 3, 1, &at));
    CHECK(!run_state_find(f->run, 0, 1, &at));
    CHECK_EQUAL(run_state_site(f->run, 1)->contributions, 1);
    CHECK_EQUAL(run_state_site(f->run, 1)->last_index, first);
    /* a repeated receipt is made of these */
    CHECK_EQUAL(run_state_site(f->run, 1)->last_time_ms, FIXTURE_NOW + first);
    CHECK_EQUAL(run_state_site(f->run, 1)->last_epoch, run_state_epoch(f->run));
    CHECK_EQUAL(run_state_site(f->run, 1)->tokens, 1000);
    CHECK_EQUAL(run_state_site(f->run, 1)->uncounted, 1000); /* until there is a median */
    fixture_step(f, 0, 2);
    CHECK_EQUAL(run_state_pending_count(f->run, 0), 0);
    CHECK_EQUAL(run_state_version(f->run), 1);
    CHECK(run_state_find(f->run, 1, 1, &at) && at == first);
    fixture_close(f);
}

TEST(sequences_may_skip_but_not_repeat_or_go_back) {
    struct fixture *f = fixture_open("", 5000);
    struct contribution c;
    uint64_t at;
    fixture_sites(f, 1);
    struct ledger_entry entry = next_of(f, 1, 0, 0, &c);
    c.sequence = 7;
    entry = fixture_signed(f, &c, f->keys[1]);
    fixture_append(f, &entry);
    fixture_step(f, 0, 1);
    fixture_refused(f, &entry, "duplicate");
    next_of(f, 1, 0, 1, &c);
    c.sequence = 7;
    entry = fixture_signed(f, &c, f->keys[1]);
    fixture_refused(f, &entry, "sequence 7 after 7");
    c.sequence = 3;
    entry = fixture_signed(f, &c, f->keys[1]);
    fixture_refused(f, &entry, "sequence 3 after 7");
    c.sequence = 0;
    entry = fixture_signed(f, &c, f->keys[1]);
    fixture_refused(f, &entry, "begin at 1");
    c.sequence = 8;
    memset(c.previous, 0, DIGEST_SIZE);
    entry = fixture_signed(f, &c, f->keys[1]);
    fixture_refused(f, &entry, "does not follow");
    entry = next_of(f, 1, 0, 1, &c);
    fixture_append(f, &entry);
    CHECK(run_state_find(f->run, 1, 7, &at) && run_state_find(f->run, 1, 8, &at) &&
          !run_state_find(f->run, 1, 3, &at));
    fixture_close(f);
}

TEST(a_site_has_one_pending_contribution_a_fragment) {
    struct fixture *f = fixture_open("fragments: 2\n", 9000);
    struct contribution c;
    fixture_sites(f, 1);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    struct ledger_entry entry = next_of(f, 1, 0, 0, &c);
    fixture_refused(f, &entry, "busy");
    fixture_contribute(f, 1, 1, 0, 0.1f);
    fixture_step(f, 0, 1);
    entry = next_of(f, 1, 1, 0, &c);
    fixture_refused(f, &entry, "busy");
    fixture_contribute(f, 1, 0, 1, 0.1f);
    fixture_close(f);
}

TEST(signatures_are_verified_unless_the_ledger_is_our_own) {
    struct fixture *f = fixture_open("", 5000);
    struct contribution c;
    fixture_sites(f, 2);
    next_of(f, 1, 0, 0, &c);
    struct ledger_entry entry = fixture_signed(f, &c, f->keys[2]);
    fixture_refused(f, &entry, "signature is not site 1's");
    struct buffer raw = {0};
    struct error error = {0};
    ledger_entry_encode(&entry, &raw);
    CHECK_OK(run_state_apply(f->run, buffer_bytes(&raw), true, &error));
    buffer_deinit(&raw);
    fixture_close(f);
}

TEST(nothing_by_a_revoked_site_is_entered_or_merged) {
    struct fixture *f = fixture_open("fragments: 2\nouter.period: 4\n", 9000);
    struct contribution c;
    fixture_sites(f, 2);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_contribute(f, 2, 0, 0, 0.1f);
    fixture_contribute(f, 1, 1, 0, 0.1f);
    struct ledger_entry planned, entry = next_of(f, 1, 0, 0, &c);
    run_state_plan_step(f->run, 0, 2, &planned);
    planned.step.has_root = true;
    fixture_revoke(f, 1);
    CHECK_EQUAL(run_state_pending_count(f->run, 0), 1);
    CHECK_EQUAL(run_state_pending_count(f->run, 1), 0);
    CHECK_EQUAL(run_state_pending(f->run, 0, 0)->contribution.site, 2);
    fixture_refused(f, &entry, "revoked by entry");
    fixture_refused(f, &planned, "not a waiting contribution");
    fixture_step(f, 0, 1);
    fixture_close(f);
}

TEST(an_observer_never_counts_and_contributes_nothing) {
    struct fixture *f = fixture_open("", 5000);
    struct contribution c;
    fixture_sites(f, 2);
    struct ledger_entry entry = fixture_invited(f, "watch", 3);
    entry.invited.role = SITE_OBSERVES;
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_open_invitation(f->run, "watch")->role, SITE_OBSERVES);
    entry = fixture_added(f, 3, "watch", 3);
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_site(f->run, 3)->role, SITE_OBSERVES);
    CHECK_EQUAL(run_state_site(f->run, 2)->role, SITE_TRAINS);
    CHECK_EQUAL(run_state_present_sites(f->run), 2);
    CHECK_EQUAL(run_state_active_sites(f->run), 2);
    CHECK_EQUAL(run_state_site_count(f->run), 3);
    CHECK(!run_state_is_present(f->run, 3));
    entry = presence(f, LEDGER_SITE_AWAY, 3);
    fixture_refused(f, &entry, "observes");
    entry = presence(f, LEDGER_SITE_LEFT, 3);
    fixture_refused(f, &entry, "observes");
    entry = next_of(f, 3, 0, 0, &c);
    fixture_refused(f, &entry, "observes");
    struct admission_limits limits = {.now_ms = FIXTURE_NOW, .max_payload = UINT64_MAX};
    struct error why = {0};
    CHECK_EQUAL(
        admission_header(f->run, 3, bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                         bytes_of(entry.contribution.signature, SIGNATURE_SIZE), &limits, &c, &why),
        REFUSED_OBSERVER);
    CHECK_CONTAINS(why.message, "site 3 observes");
    fixture_revoke(f, 3); /* nor is it taken from the count */
    CHECK_EQUAL(run_state_present_sites(f->run), 2);
    CHECK_EQUAL(run_state_active_sites(f->run), 2);
    entry = fixture_invited(f, "other", 4);
    entry.invited.role = (enum site_role)2;
    struct buffer raw = {0};
    ledger_entry_encode(&entry, &raw);
    CHECK_STATUS(ledger_entry_decode(buffer_bytes(&raw), &entry, &why), INVALID);
    buffer_deinit(&raw);
    fixture_close(f);
}

/* --- phases and epochs --- */
TEST(a_paused_run_takes_nothing_but_merges_what_it_has) {
    struct fixture *f = fixture_open("", 5000);
    struct contribution c;
    fixture_sites(f, 2);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_note(f, LEDGER_PAUSED);
    CHECK_EQUAL(run_state_phase(f->run), RUN_PAUSED);
    CHECK_TEXT(run_state_reason(f->run), "maintenance");
    struct ledger_entry entry = next_of(f, 2, 0, 0, &c);
    fixture_refused(f, &entry, "paused");
    struct ledger_entry again = fixture_entry(f, LEDGER_PAUSED);
    fixture_refused(f, &again, "the run is paused");
    fixture_step(f, 0, 1);
    fixture_sites(f, 1);
    fixture_note(f, LEDGER_RESUMED);
    again = fixture_entry(f, LEDGER_RESUMED);
    fixture_refused(f, &again, "the run is active");
    fixture_append(f, &entry);
    fixture_close(f);
}

TEST(a_stopped_run_stays_stopped_but_drains) {
    struct fixture *f = fixture_open("", 5000);
    struct contribution c;
    fixture_sites(f, 2);
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_note(f, LEDGER_STOPPED);
    struct ledger_entry entry = next_of(f, 2, 0, 0, &c);
    fixture_refused(f, &entry, "stopped");
    const enum ledger_kind over[] = {LEDGER_PAUSED, LEDGER_RESUMED, LEDGER_STOPPED};
    for (size_t i = 0; i < COUNT_OF(over); i++) {
        entry = fixture_entry(f, over[i]);
        fixture_refused(f, &entry, "the run is stopped");
    }
    entry = fixture_invited(f, "late", 77);
    fixture_refused(f, &entry, "the run is stopped");
    entry = fixture_rule(f, "inner.inner_steps", "9");
    fixture_refused(f, &entry, "the run is stopped");
    fixture_step(f, 0, 1);
    fixture_note(f, LEDGER_EPOCH);
    fixture_revoke(f, 2);
    fixture_close(f);
}

TEST(a_budget_that_ends_before_the_warmup_does_not_resume_a_run) {
    struct fixture *f = fixture_open("token_budget: 9000\ninner: {schedule: linear, "
                                     "warmup_tokens: 5000}\n",
                                     5000);
    fixture_sites(f, 1);
    fixture_note(f, LEDGER_PAUSED);
    struct ledger_entry resumed = fixture_entry(f, LEDGER_RESUMED);
    resumed.note.token_budget = 5000; /* the schedule ends with it */
    fixture_refused(f, &resumed, "warmup_tokens");
    resumed.note.token_budget = 5001;
    fixture_append(f, &resumed);
    fixture_close(f);
}

TEST(a_spent_token_budget_takes_no_more) {
    struct fixture *f = fixture_open("token_budget: 2000\n", 5000);
    struct contribution c;
    fixture_sites(f, 1);
    for (uint64_t v = 0; v < 2; v++) {
        fixture_contribute(f, 1, 0, v, 0.1f);
        fixture_step(f, 0, 1);
    }
    struct ledger_entry entry = next_of(f, 1, 0, 2, &c);
    fixture_refused(f, &entry, "2000 tokens are spent");
    fixture_note(f, LEDGER_PAUSED);
    struct ledger_entry resumed = fixture_entry(f, LEDGER_RESUMED);
    fixture_refused(f, &resumed, "2000 tokens are spent");
    resumed.note.token_budget = 2000;
    fixture_refused(f, &resumed, "2000 tokens are spent");
    resumed.note.token_budget = TOKEN_BUDGET_LIMIT + 1;
    fixture_refused(f, &resumed, "at most");
    resumed.note.token_budget = 2001;
    fixture_append(f, &resumed);
    CHECK_EQUAL(run_state_token_budget(f->run), 2001);
    entry = next_of(f, 1, 0, 2, &c);
    fixture_append(f, &entry);
    CHECK(run_state_is_spent(f->run));
    fixture_close(f);
}

TEST(epochs_only_rise_and_bind_every_entry) {
    struct fixture *f = fixture_open("", 5000);
    struct contribution c;
    fixture_sites(f, 1);
    struct ledger_entry entry = fixture_entry(f, LEDGER_EPOCH);
    fixture_refused(f, &entry, "epoch 1 in a ledger of epoch 1");
    struct ledger_entry old = next_of(f, 1, 0, 0, &c), old_note = fixture_entry(f, LEDGER_PAUSED);
    entry.epoch = 9;
    fixture_append(f, &entry);
    CHECK_EQUAL(run_state_epoch(f->run), 9);
    fixture_refused(f, &old_note, "epoch 1 in a ledger of epoch 9");
    fixture_refused(f, &old, "epoch 1");
    old.epoch = 9; /* a new entry around a header for the old coordinator */
    fixture_refused(f, &old, "made for the coordinator of epoch 1");
    entry = fixture_entry(f, LEDGER_PAUSED);
    entry.epoch = 10;
    fixture_refused(f, &entry, "epoch 10");
    entry = fixture_entry(f, LEDGER_EPOCH);
    entry.epoch = 8;
    fixture_refused(f, &entry, "epoch 8");
    fixture_contribute(f, 1, 0, 0, 0.1f);
    fixture_close(f);
}

TEST(the_inner_steps_change_within_bounds) {
    struct fixture *f = fixture_open("", 5000);
    struct ledger_entry entry = fixture_rule(f, "inner.inner_steps", "0");
    fixture_refused(f, &entry, "inner_steps");
    entry = fixture_rule(f, "inner.inner_steps", "1000001");
    fixture_refused(f, &entry, "inner_steps");
    CHECK_EQUAL(run_state_inner_steps(f->run), 30);
    fixture_set(f, "inner.inner_steps", "77");
    CHECK_EQUAL(run_state_inner_steps(f->run), 77);
    fixture_close(f);
}

/* --- limits --- */
static enum status apply_raw(struct fixture *f, const struct ledger_entry *entry,
                             struct error *error) {
    struct buffer raw = {0};
    ledger_entry_encode(entry, &raw);
    enum status status = run_state_apply(f->run, buffer_bytes(&raw), true, error);
    buffer_deinit(&raw);
    return status;
}

TEST(sites_and_invitations_have_a_limit_and_a_ledger_beyond_it_is_refused) {
    struct fixture *f = fixture_open("", 5000);
    struct error error = {0};
    struct ledger_entry entry;
    for (uint32_t i = 1; i <= 4 * SITES_LIMIT; i++) {
        char name[SITE_NAME_SIZE];
        snprintf(name, sizeof name, "s%u", i);
        entry = fixture_invited(f, name, 0);
        memcpy(entry.invited.secret_digest, &i, sizeof i);
        CHECK_OK(apply_raw(f, &entry, &error));
        if (i > SITES_LIMIT + 1) continue;
        uint8_t seed[KEY_SEED_SIZE] = {0};
        memcpy(seed, &i, sizeof i);
        struct key_pair *key = NULL;
        CHECK_OK(key_pair_from_seed(seed, &key, &error));
        entry = fixture_entry(f, LEDGER_SITE_ADDED);
        entry.added.site = i;
        memcpy(entry.added.name, name, sizeof name);
        memcpy(entry.added.public_key, key_pair_public(key), PUBLIC_KEY_SIZE);
        memcpy(entry.added.secret_digest, &i, sizeof i);
        CHECK_EQUAL(apply_raw(f, &entry, &error), i <= SITES_LIMIT ? OK : INVALID);
        key_pair_destroy(key);
    }
    CHECK_CONTAINS(error.message, "4096 sites are the limit");
    CHECK_EQUAL(run_state_site_count(f->run), SITES_LIMIT);
    entry = fixture_invited(f, "one-more", 0xFF);
    CHECK_STATUS(apply_raw(f, &entry, &error), INVALID);
    CHECK_CONTAINS(error.message, "invitations are the limit");
    CHECK_EQUAL(run_state_invitation_count(f->run), 4 * SITES_LIMIT);
    fixture_close(f);
}
