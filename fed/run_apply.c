/* The rules by which an entry may follow a ledger, and what it then changes.
 *
 * Every entry goes through run_check, which only reads, and then run_commit, which cannot fail: so
 * a refused entry leaves no trace. What is allowed when:
 *
 *                   ACTIVE   PAUSED   STOPPED
 *   SITE_INVITED      x        x
 *   SITE_UNINVITED    x        x         x
 *   SITE_ADDED        x        x
 *   SITE_REVOKED      x        x         x
 *   SITE_AWAY         x        x                   of a site that is present and no observer
 *   SITE_BACK         x        x                   of one that is not
 *   SITE_LEFT         x        x                   of one that has not left
 *   CONTRIBUTION      x                            none while the token budget is spent
 *   STEP              x        x         x         what was acknowledged is merged, whatever
 *                                                  happens
 *   PAUSED            x
 *   RESUMED                    x                   with a larger token budget if it is spent
 *   STOPPED           x        x                   for good
 *   EPOCH             x        x         x         a coordinator that serves an ended run restarts
 *                                                  too
 *   DROPPED           x        x         x         of a contribution that waits
 *
 * Epochs: entry 0 begins with any; an EPOCH entry carries a higher one than the ledger's, every
 * other entry exactly the ledger's. Contributions name the epoch of the coordinator that they were
 * made for, and it must be the ledger's.
 *
 * Revocation: contributions of the site that wait are dropped: they stay in the ledger and are
 * never merged, for the key's holder may be who wrote them. What was merged stays merged (excision
 * is a replay of its own). A key is enrolled once: neither a revoked key nor a second site can come
 * back with it.
 *
 * Invitations: at most one of a name is open. A newer one takes an older one's place, and the
 * enrolment or the revocation of a site of that name ends what is open: a token that went astray
 * opens nothing once its name was invited again, and a revoked site's name opens again only by a
 * new decision of the admin. Times are not looked at: the expiry of invitations is the
 * coordinator's to enforce.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "codec/codec.h"
#include "fed/run_internal.h"

/* --- genesis ---------------------------------------------------------------------------------- */
static enum status check_genesis(const struct ledger_entry *entry, struct error *error) {
    struct manifest manifest;
    TRY(manifest_parse(entry->genesis.manifest, &manifest, error));
    struct buffer canonical = {0};
    manifest_write(&manifest, &canonical);
    bool same = bytes_equal(buffer_bytes(&canonical), entry->genesis.manifest);
    buffer_deinit(&canonical);
    if (!same) return error_set(error, INVALID, "the manifest is not in its canonical form");
    TRY(public_key_check(entry->genesis.coordinator_key, error));
    return manifest_check_count(&manifest, entry->genesis.parameters, error);
}

static void commit_genesis(struct run_state *state, const struct ledger_entry *entry) {
    MUST(manifest_parse(entry->genesis.manifest, &state->manifest, NULL));
    state->genesis = state->manifest;
    state->has_genesis = true;
    digest_sha256(entry->genesis.manifest.data, entry->genesis.manifest.size,
                  state->manifest_digest);
    memcpy(state->run_id, entry->genesis.run_id, RUN_ID_SIZE);
    memcpy(state->coordinator_key, entry->genesis.coordinator_key, PUBLIC_KEY_SIZE);
    memcpy(state->layout_digest, entry->genesis.layout_digest, DIGEST_SIZE);
    memcpy(state->initial_root, entry->genesis.initial_root, DIGEST_SIZE);
    state->parameters = entry->genesis.parameters;
    state->epoch = entry->epoch;
    state->inner_steps = state->manifest.inner.inner_steps;
    state->token_budget = state->manifest.token_budget;
    state->began_ms = entry->time_ms;
    uint32_t cap = state->manifest.merge.staleness_cap;
    cap_changes_note(&state->caps, 0, cap);
    run_note_codec(state, 0);
    for (uint32_t f = 0; f < state->manifest.fragments; f++) {
        uint64_t start;
        fragment_range(state->parameters, state->manifest.fragments, f, &start,
                       &state->fragments[f].parameters);
    }
    /* A base may be as old as the cap of every fragment in turn. */
    run_remember(state, cap);
    state->roots[0].known = true;
    memcpy(state->roots[0].root, entry->genesis.initial_root, DIGEST_SIZE);
}

/* --- sites ------------------------------------------------------------------------------------ */
static bool name_is_active(const struct run_state *state, const char *name) {
    for (uint32_t i = 0; i < state->site_count; i++)
        if (!state->sites[i].site.revoked && strcmp(state->sites[i].site.name, name) == 0)
            return true;
    return false;
}

static enum status check_invited(const struct run_state *state, const struct ledger_entry *entry,
                                 struct error *error) {
    TRY(name_check(entry->invited.name, error));
    if (name_is_active(state, entry->invited.name))
        return error_set(error, INVALID, "there is a site %s already", entry->invited.name);
    if (run_state_invitation(state, entry->invited.secret_digest))
        return error_set(error, INVALID, "the secret of %s was used for another invitation",
                         entry->invited.name);
    if (state->invitation_count >= INVITATIONS_LIMIT)
        return error_set(error, INVALID, "%d invitations are the limit of a run",
                         INVITATIONS_LIMIT);
    return OK;
}

static enum status check_uninvited(const struct run_state *state, const struct ledger_entry *entry,
                                   struct error *error) {
    if (run_state_open_invitation(state, entry->uninvited.name)) return OK;
    return error_set(error, INVALID, "no invitation of \"%s\" is open", entry->uninvited.name);
}

static enum status check_added(const struct run_state *state, const struct ledger_entry *entry,
                               struct error *error) {
    if (entry->added.site != state->site_count + 1)
        return error_set(error, INVALID, "site number %u where %u follows", entry->added.site,
                         state->site_count + 1);
    if (state->site_count >= SITES_LIMIT)
        return error_set(error, INVALID, "%d sites are the limit of a run", SITES_LIMIT);
    const struct run_invitation *invitation =
        run_state_invitation(state, entry->added.secret_digest);
    if (!invitation)
        return error_set(error, INVALID, "site %s comes without an invitation", entry->added.name);
    if (invitation->end != INVITATION_OPEN)
        return error_set(error, INVALID,
                         invitation->end == INVITATION_USED ? "the invitation of %s was used before"
                                                            : "the invitation of %s holds no more",
                         entry->added.name);
    if (strcmp(invitation->name, entry->added.name) != 0)
        return error_set(error, INVALID, "site %s comes with the invitation of %s",
                         entry->added.name, invitation->name);
    if (name_is_active(state, entry->added.name))
        return error_set(error, INVALID, "there is a site %s already", entry->added.name);
    for (uint32_t i = 0; i < state->site_count; i++)
        if (memcmp(state->sites[i].site.public_key, entry->added.public_key, PUBLIC_KEY_SIZE) == 0)
            return error_set(
                error, INVALID,
                "the key of %s was enrolled for site %u before: a site needs one of its own",
                entry->added.name, i + 1);
    return public_key_check(entry->added.public_key, error);
}

static enum status check_revoked(const struct run_state *state, const struct ledger_entry *entry,
                                 struct error *error) {
    const struct run_site *site = run_state_site(state, entry->revoked.site);
    if (!site) return error_set(error, INVALID, "there is no site %u", entry->revoked.site);
    if (site->revoked)
        return error_set(error, INVALID, "site %u was revoked before", entry->revoked.site);
    return OK;
}

static void end_invitations(struct run_state *state, const char *name, enum invitation_end end) {
    for (uint32_t i = 0; i < state->invitation_count; i++) {
        struct run_invitation *invitation = &state->invitations[i];
        if (invitation->end != INVITATION_OPEN || strcmp(invitation->name, name) != 0) continue;
        MARK("invitation: ended before it was used");
        invitation->end = end;
    }
}

static void commit_invited(struct run_state *state, const struct ledger_entry *entry) {
    end_invitations(state, entry->invited.name, INVITATION_REPLACED);
    if (state->invitation_count == state->invitation_capacity) {
        state->invitation_capacity =
            state->invitation_capacity ? state->invitation_capacity * 2 : 8;
        state->invitations =
            xrealloc(state->invitations, state->invitation_capacity * sizeof *state->invitations);
    }
    struct run_invitation *invitation = &state->invitations[state->invitation_count++];
    *invitation = (struct run_invitation){.made_ms = entry->time_ms,
                                          .expires_ms = entry->invited.expires_ms,
                                          .role = entry->invited.role};
    memcpy(invitation->name, entry->invited.name, SITE_NAME_SIZE);
    memcpy(invitation->secret_digest, entry->invited.secret_digest, DIGEST_SIZE);
}

static void commit_added(struct run_state *state, const struct ledger_entry *entry) {
    if (state->site_count == state->site_capacity) {
        state->site_capacity = state->site_capacity ? state->site_capacity * 2 : 8;
        state->sites = xrealloc(state->sites, state->site_capacity * sizeof *state->sites);
    }
    struct site_slot *slot = &state->sites[state->site_count++];
    uint64_t now_ms = run_active_ms(state, entry->time_ms);
    *slot = (struct site_slot){.site.site = entry->added.site,
                               .site.presence_at = state->size,
                               .rate = {.since_ms = now_ms, .settled_ms = now_ms}};
    memcpy(slot->site.name, entry->added.name, SITE_NAME_SIZE);
    memcpy(slot->site.public_key, entry->added.public_key, PUBLIC_KEY_SIZE);
    for (uint32_t i = 0; i < state->invitation_count; i++) {
        struct run_invitation *invitation = &state->invitations[i];
        if (!digest_equal(invitation->secret_digest, entry->added.secret_digest)) continue;
        invitation->end = INVITATION_USED;
        slot->site.role = invitation->role;
    }
    if (slot->site.role == SITE_TRAINS) {
        state->active_sites++;
        state->present_sites++;
        run_note_present(state);
    }
    end_invitations(state, entry->added.name, INVITATION_VOID);
}

static void note_dropped(struct run_state *state, uint64_t index) {
    state->dropped =
        xrealloc(state->dropped, (state->dropped_count + 1) * sizeof state->dropped[0]);
    state->dropped[state->dropped_count++] = index;
}

static void commit_revoked(struct run_state *state, const struct ledger_entry *entry) {
    struct site_slot *site = &state->sites[entry->revoked.site - 1];
    site->site.revoked = true;
    site->site.revoked_at = state->size;
    site->pending = 0;
    if (site->site.role == SITE_TRAINS) {
        state->active_sites--;
        state->present_sites -= site->site.presence == SITE_PRESENT;
    }
    end_invitations(state, site->site.name, INVITATION_VOID);
    for (uint32_t f = 0; f < state->manifest.fragments; f++) {
        struct fragment_slot *slot = &state->fragments[f];
        uint32_t kept = 0;
        clip_silence(&slot->clip, entry->revoked.site);
        weighing_silence(&slot->weights, entry->revoked.site);
        for (uint32_t i = 0; i < slot->count; i++)
            if (slot->pending[i].pending.contribution.site != entry->revoked.site)
                slot->pending[kept++] = slot->pending[i];
            else
                note_dropped(state, slot->pending[i].pending.index);
        slot->count = kept;
    }
}

/* --- who is present --------------------------------------------------------------------------- */
static enum status check_presence(const struct run_state *state, const struct ledger_entry *entry,
                                  struct error *error) {
    static const char *const words[] = {
        [SITE_PRESENT] = "present", [SITE_AWAY] = "away", [SITE_LEFT] = "gone"};
    const struct site_slot *site = run_site_slot(state, entry->presence.site);
    if (!site) return error_set(error, INVALID, "there is no site %u", entry->presence.site);
    if (site->site.revoked)
        return error_set(error, INVALID, "site %u was revoked by entry %llu", entry->presence.site,
                         (unsigned long long)site->site.revoked_at);
    if (site->site.role != SITE_TRAINS)
        return error_set(error, INVALID, "site %u observes, and never counts",
                         entry->presence.site);
    enum site_presence is = site->site.presence;
    bool may = entry->kind == LEDGER_SITE_AWAY   ? is == SITE_PRESENT
               : entry->kind == LEDGER_SITE_BACK ? is != SITE_PRESENT
                                                 : is != SITE_LEFT;
    return may ? OK
               : error_set(error, INVALID, "site %u is %s already", entry->presence.site,
                           words[is]);
}

static void commit_presence(struct run_state *state, const struct ledger_entry *entry) {
    struct run_site *site = &state->sites[entry->presence.site - 1].site;
    state->present_sites -= site->presence == SITE_PRESENT;
    site->presence = entry->kind == LEDGER_SITE_AWAY   ? SITE_AWAY
                     : entry->kind == LEDGER_SITE_BACK ? SITE_PRESENT
                                                       : SITE_LEFT;
    state->present_sites += site->presence == SITE_PRESENT;
    run_note_present(state);
    /* who is not there trains nothing: the others' weights are by each other's flow alone */
    for (uint32_t f = 0; f < state->manifest.fragments && site->presence != SITE_PRESENT; f++)
        weighing_silence(&state->fragments[f].weights, site->site);
    site->presence_at = state->size;
}

/* --- giving up a contribution ----------------------------------------------------------------- */
static uint32_t fragment_of_pending(const struct run_state *state, uint64_t index) {
    uint32_t fragment = 0;
    while (fragment < state->manifest.fragments && run_pending_at(state, fragment, index) < 0)
        fragment++;
    return fragment;
}

static enum status check_dropped(const struct run_state *state, const struct ledger_entry *entry,
                                 struct error *error) {
    if (fragment_of_pending(state, entry->dropped.index) < state->manifest.fragments) return OK;
    return error_set(error, INVALID, "entry %llu is not a contribution that waits to be merged",
                     (unsigned long long)entry->dropped.index);
}

static void commit_dropped(struct run_state *state, const struct ledger_entry *entry) {
    uint32_t fragment = fragment_of_pending(state, entry->dropped.index);
    struct fragment_slot *slot = &state->fragments[fragment];
    size_t at = (size_t)run_pending_at(state, fragment, entry->dropped.index);
    const struct contribution *contribution = &slot->pending[at].pending.contribution;
    struct site_slot *site = &state->sites[contribution->site - 1];
    site->pending &= ~(UINT64_C(1) << fragment);
    run_uncount_tokens(state, site, contribution->tokens);
    memmove(&slot->pending[at], &slot->pending[at + 1],
            (--slot->count - at) * sizeof slot->pending[0]);
    note_dropped(state, entry->dropped.index);
    MARK("run: a contribution is dropped");
}

/* --- contributions ---------------------------------------------------------------------------- */
static enum status check_contribution(const struct run_state *state,
                                      const struct ledger_entry *entry, bool trusted,
                                      struct contribution *decoded, struct error *error) {
    const uint8_t *header = entry->contribution.header;
    TRY(contribution_decode(bytes_of(header, CONTRIBUTION_HEADER_SIZE), decoded, error));
    const struct site_slot *site = run_site_slot(state, decoded->site);
    if (!site) return error_set(error, INVALID, "there is no site %u", decoded->site);
    if (site->site.revoked)
        return error_set(error, INVALID, "site %u was revoked by entry %llu", decoded->site,
                         (unsigned long long)site->site.revoked_at);
    if (site->site.role != SITE_TRAINS)
        return error_set(error, INVALID, "site %u observes", decoded->site);
    if (!trusted &&
        !contribution_verify(site->site.public_key, header, entry->contribution.signature))
        return error_set(error, INVALID, "the signature is not site %u's", decoded->site);
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(header, digest);
    enum refusal refusal = contribution_rules(state, site, decoded, digest, error);
    return refusal == ACCEPTED ? OK : error_restate(error, INVALID, refusal_name(refusal));
}

static void push_record(struct site_slot *site, const struct sequence_record *record) {
    if (site->count == site->capacity) {
        site->capacity = site->capacity ? site->capacity * 2 : 4;
        site->records = xrealloc(site->records, (size_t)site->capacity * sizeof *site->records);
    }
    site->records[site->count++] = *record;
}

static void push_pending(struct run_state *state, const struct contribution *c, uint64_t time_ms,
                         const uint8_t digest[static DIGEST_SIZE]) {
    struct fragment_slot *slot = &state->fragments[c->fragment];
    if (slot->count == slot->capacity) {
        slot->capacity = slot->capacity ? slot->capacity * 2 : 4;
        slot->pending = xrealloc(slot->pending, slot->capacity * sizeof *slot->pending);
    }
    double limit = run_state_norm_limit(state, c->fragment),
           norm = clip_norm(c->norm, c->inner_steps, state->inner_steps);
    weighing_note(&slot->weights, c->site, c->tokens,
                  weight_share(&state->manifest, state->sites[c->site - 1].site.name), time_ms,
                  run_active_ms(state, time_ms));
    struct pending_slot *pending = &slot->pending[slot->count++];
    *pending = (struct pending_slot){
        .pending = {.index = state->size,
                    .contribution = *c,
                    .clip = clip_of(limit, norm),
                    .weight = weighing_of(&slot->weights, &state->manifest, c->site, time_ms)},
        .staleness = run_state_staleness(state, c->fragment, c->base_version),
        .steps = slot->steps,
    };
    memcpy(pending->pending.header_digest, digest, DIGEST_SIZE);
}

static void commit_contribution(struct run_state *state, const struct ledger_entry *entry,
                                const struct contribution *c) {
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(entry->contribution.header, digest);
    struct site_slot *site = &state->sites[c->site - 1];
    push_pending(state, c, entry->time_ms, digest);
    struct fragment_slot *fragment = &state->fragments[c->fragment];
    site->site.last_norm = c->norm;
    site->site.last_clip = fragment->pending[fragment->count - 1].pending.clip;
    site->site.last_age = state->version - c->began_version;
    site->site.last_weight = fragment->pending[fragment->count - 1].pending.weight;
    clip_note(&fragment->clip, c->site, clip_norm(c->norm, c->inner_steps, state->inner_steps),
              entry->time_ms);
    push_record(site, &(struct sequence_record){c->sequence, state->size, digest_prefix(digest)});
    site->pending |= UINT64_C(1) << c->fragment;
    site->site.last_sequence = c->sequence;
    site->site.last_index = state->size;
    run_count_tokens(state, site, c->tokens, entry->time_ms);
    site->site.last_time_ms = entry->time_ms;
    site->site.last_epoch = entry->epoch;
    memcpy(site->site.last_digest, digest, DIGEST_SIZE);
    site->site.contributions++;
}

/* --- another rule ----------------------------------------------------------------------------- */
static enum status check_rule(const struct run_state *state, const struct ledger_entry *entry,
                              struct error *error) {
    struct manifest changed;
    struct buffer canonical = {0};
    const char *value = entry->rule.value;
    enum status status =
        manifest_change(&state->manifest, entry->rule.key, value, &changed, &canonical, error);
    bool same = bytes_equal(buffer_bytes(&canonical), bytes_of(value, strlen(value)));
    buffer_deinit(&canonical);
    if (status == OK && !same)
        status = error_set(error, INVALID, "%s: the value is not in its one form", entry->rule.key);
    return status;
}

static void note_change(struct run_state *state, const struct ledger_entry *entry) {
    if (!state->changes) state->changes = xcalloc(RULE_CHANGES_KEPT, sizeof *state->changes);
    struct rule_change *change = &state->changes[state->change_count++ % RULE_CHANGES_KEPT];
    *change = (struct rule_change){
        .index = state->size, .version = state->version, .time_ms = entry->time_ms};
    memcpy(change->key, entry->rule.key, sizeof change->key);
    memcpy(change->value, entry->rule.value, sizeof change->value);
    memcpy(change->reason, entry->rule.reason, sizeof change->reason);
}

/* A message is judged by the cap and the codec of its base version, so another one is for bases to
 * come. */
static void commit_rule(struct run_state *state, const struct ledger_entry *entry) {
    uint32_t cap = state->manifest.merge.staleness_cap, codec = state->manifest.codec.kind;
    MUST(manifest_change(&state->manifest, entry->rule.key, entry->rule.value, &state->manifest,
                         NULL, NULL));
    MARK("run: another rule");
    note_change(state, entry);
    if (strcmp(entry->rule.key, "inner.inner_steps") == 0)
        state->inner_steps = state->manifest.inner.inner_steps;
    if (strcmp(entry->rule.key, "token_budget") == 0)
        state->token_budget = state->manifest.token_budget;
    if (state->manifest.codec.kind != codec) run_note_codec(state, state->version + 1);
    if (state->manifest.merge.staleness_cap == cap) return;
    cap = state->manifest.merge.staleness_cap;
    run_remember(state, cap);
    cap_changes_note(&state->caps, state->version + 1, cap);
}

/* --- a budget that is spent --------------------------------------------------------------------
 */
static enum status check_budget_of(const struct run_state *state, const struct ledger_entry *entry,
                                   struct error *error) {
    uint64_t budget = entry->note.token_budget ? entry->note.token_budget : state->token_budget;
    if (budget > TOKEN_BUDGET_LIMIT)
        return error_set(error, INVALID, "a token budget of %llu: at most %llu",
                         (unsigned long long)budget, (unsigned long long)TOKEN_BUDGET_LIMIT);
    if (budget != 0 && budget <= state->tokens)
        return error_set(
            error, INVALID,
            "%llu tokens are spent: resume with a token budget above that, or stop the run",
            (unsigned long long)state->tokens);
    if (entry->note.token_budget == 0) return OK;
    /* a schedule may end with the budget: no site could train by one that cannot be */
    char value[24];
    struct manifest changed;
    snprintf(value, sizeof value, "%llu", (unsigned long long)budget);
    return manifest_change(&state->manifest, "token_budget", value, &changed, NULL, error);
}

/* --- the whole -------------------------------------------------------------------------------- */
static const char *const phase_names[] = {
    [RUN_ACTIVE] = "active", [RUN_PAUSED] = "paused", [RUN_STOPPED] = "stopped"};

static bool phase_allows(enum run_phase phase, enum ledger_kind kind) {
    switch (kind) {
    case LEDGER_SITE_REVOKED:
    case LEDGER_SITE_UNINVITED:
    case LEDGER_STEP:
    case LEDGER_DROPPED:
    case LEDGER_EPOCH: return true;
    case LEDGER_CONTRIBUTION: return true; /* contribution_rules says it with its own code */
    case LEDGER_PAUSED: return phase == RUN_ACTIVE;
    case LEDGER_RESUMED: return phase == RUN_PAUSED;
    default: return phase != RUN_STOPPED;
    }
}

static enum status check_kind(const struct run_state *state, const struct ledger_entry *entry,
                              bool trusted, struct contribution *decoded, struct error *error) {
    switch (entry->kind) {
    case LEDGER_GENESIS: return check_genesis(entry, error);
    case LEDGER_SITE_INVITED: return check_invited(state, entry, error);
    case LEDGER_SITE_UNINVITED: return check_uninvited(state, entry, error);
    case LEDGER_SITE_ADDED: return check_added(state, entry, error);
    case LEDGER_SITE_REVOKED: return check_revoked(state, entry, error);
    case LEDGER_SITE_AWAY:
    case LEDGER_SITE_BACK:
    case LEDGER_SITE_LEFT: return check_presence(state, entry, error);
    case LEDGER_CONTRIBUTION: return check_contribution(state, entry, trusted, decoded, error);
    case LEDGER_STEP: return run_check_step(state, entry, error);
    case LEDGER_DROPPED: return check_dropped(state, entry, error);
    case LEDGER_RULE: return check_rule(state, entry, error);
    case LEDGER_RESUMED: return check_budget_of(state, entry, error);
    case LEDGER_PAUSED:
    case LEDGER_STOPPED:
    case LEDGER_EPOCH: return OK;
    }
    return error_set(error, INVALID, "kind %d is unknown", (int)entry->kind);
}

static enum status check_order(const struct run_state *state, const struct ledger_entry *entry,
                               struct error *error) {
    if (state->has_genesis == (entry->kind == LEDGER_GENESIS))
        return error_set(error, INVALID, "a ledger begins with its one genesis entry");
    if (!state->has_genesis) return OK;
    if (entry->kind == LEDGER_EPOCH ? entry->epoch <= state->epoch : entry->epoch != state->epoch)
        return error_set(error, INVALID, "epoch %u in a ledger of epoch %u", entry->epoch,
                         state->epoch);
    if (!phase_allows(state->phase, entry->kind))
        return error_set(error, INVALID, "the run is %s", phase_names[state->phase]);
    return OK;
}

enum status run_check(const struct run_state *state, const struct ledger_entry *entry, bool trusted,
                      struct contribution *decoded, struct error *error) {
    enum status status = check_order(state, entry, error);
    if (status == OK) status = check_kind(state, entry, trusted, decoded, error);
    if (status == OK) return OK;
    return error_wrap(error, status, "ledger entry %llu (%s)", (unsigned long long)state->size,
                      ledger_kind_name(entry->kind));
}

void run_commit(struct run_state *state, const struct ledger_entry *entry,
                const struct contribution *decoded, struct bytes raw) {
    switch (entry->kind) {
    case LEDGER_GENESIS: commit_genesis(state, entry); break;
    case LEDGER_SITE_INVITED: commit_invited(state, entry); break;
    case LEDGER_SITE_UNINVITED:
        end_invitations(state, entry->uninvited.name, INVITATION_WITHDRAWN);
        break;
    case LEDGER_SITE_ADDED: commit_added(state, entry); break;
    case LEDGER_SITE_REVOKED: commit_revoked(state, entry); break;
    case LEDGER_SITE_AWAY:
    case LEDGER_SITE_BACK:
    case LEDGER_SITE_LEFT: commit_presence(state, entry); break;
    case LEDGER_CONTRIBUTION: commit_contribution(state, entry, decoded); break;
    case LEDGER_STEP: run_commit_step(state, entry); break;
    case LEDGER_PAUSED:
        MARK("run: paused");
        state->phase = RUN_PAUSED;
        state->paused_since_ms = entry->time_ms;
        memcpy(state->reason, entry->note.reason, REASON_SIZE);
        break;
    case LEDGER_RESUMED:
        MARK("run: resumed");
        state->phase = RUN_ACTIVE;
        if (entry->time_ms > state->paused_since_ms)
            state->paused_ms += entry->time_ms - state->paused_since_ms;
        if (entry->note.token_budget)
            state->token_budget = state->manifest.token_budget = entry->note.token_budget;
        memset(state->reason, 0, REASON_SIZE); /* it was the pause's, which is over */
        break;
    case LEDGER_STOPPED:
        MARK("run: stopped");
        state->phase = RUN_STOPPED;
        memcpy(state->reason, entry->note.reason, REASON_SIZE);
        break;
    case LEDGER_EPOCH:
        MARK("run: another epoch");
        state->epoch = entry->epoch;
        break;
    case LEDGER_DROPPED: commit_dropped(state, entry); break;
    case LEDGER_RULE: commit_rule(state, entry); break;
    }
    uint8_t leaf[DIGEST_SIZE];
    merkle_leaf(raw, leaf);
    merkle_append(state->tree, leaf);
    state->size++;
}

enum status run_state_apply(struct run_state *state, struct bytes raw, bool trusted,
                            struct error *error) {
    struct ledger_entry entry;
    struct contribution decoded = {0};
    enum status status = ledger_entry_decode(raw, &entry, error);
    if (status != OK)
        return error_wrap(error, status, "ledger entry %llu", (unsigned long long)state->size);
    TRY(run_check(state, &entry, trusted, &decoded, error));
    run_commit(state, &entry, &decoded, raw);
    return OK;
}
