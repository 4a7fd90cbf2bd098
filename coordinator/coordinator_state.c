/* The coordinator's brain. The header tells its guarantees; this file is in the order of a contribution's way.
 *
 * Two tables hold what is under way. `uploads` has an item for each admitted contribution until its entry is made: by `id`, the
 * call it was admitted with, which worker and blob store answer to; and `call`, the one that gets the answer, which changes when
 * a site comes back over a new connection while its contribution is being checked or committed. `commits` has an item for each
 * COMMIT that is not durable yet, with what to say to whom once it is.
 */
#include "coordinator/coordinator_state.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum upload_phase { UPLOAD_RECEIVING, UPLOAD_CHECKING };

struct upload {
    uint64_t id, call; /* call 0: nobody waits any more */
    enum upload_phase phase;
    uint32_t site;
    uint8_t header[CONTRIBUTION_HEADER_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    struct contribution contribution;
};

enum answer { ANSWER_NOBODY, ANSWER_RECEIPT, ANSWER_JOINED, ANSWER_ADMIN };

struct commit {
    uint64_t number, end; /* end: ledger size once it is durable */
    enum answer answer;
    uint64_t call;
    uint32_t site;     /* JOINED; RECEIPT */
    uint64_t sequence; /* RECEIPT */
    uint64_t entry_time_ms;
    uint8_t header_digest[DIGEST_SIZE]; /* RECEIPT */
    char message[64];                   /* ADMIN */
};

struct presence { /* of site number i + 1 */
    uint64_t heard_ms;
    bool heard;
    uint32_t following; /* open Follow streams */
    double steps_per_second;
};

struct coordinator_state {
    struct coordinator_options options;
    struct run_state *run;
    struct upload *uploads; /* [uploads_limit] */
    size_t upload_count;
    struct commit *commits; /* grows to the commits under way, which uploads and admins bound */
    size_t commit_count, commit_capacity;
    struct presence *presence; /* [presence_count] */
    size_t presence_count;
    uint64_t next_commit, committed;
    bool applying, stopping;
    bool snapshot_wanted;                   /* by the admin, once the step being applied is in the ledger */
    struct ledger_entry step;               /* the one being applied */
    uint64_t window_start[FRAGMENTS_LIMIT]; /* when its first pending contribution came */
    bool window_open[FRAGMENTS_LIMIT];
    uint64_t timer_ms; /* the one asked for; UINT64_MAX: none */
    uint64_t refused[REFUSAL_COUNT];
    struct coordinator_event *deferred; /* revocations that came while a step was being applied */
    size_t deferred_count;
};

static struct coordinator_action *act(struct coordinator_actions *out, enum coordinator_action_kind kind, uint64_t call) {
    if (out->count == out->capacity) {
        out->capacity = out->capacity ? out->capacity * 2 : 8;
        out->items = xrealloc(out->items, out->capacity * sizeof out->items[0]);
    }
    struct coordinator_action *action = &out->items[out->count++];
    memset(action, 0, sizeof *action);
    action->kind = kind;
    action->call = call;
    return action;
}

static void stop(struct coordinator_state *state, struct coordinator_actions *out, const char *format, ...) PRINTF_LIKE(3, 4);
static void stop(struct coordinator_state *state, struct coordinator_actions *out, const char *format, ...) {
    if (state->stopping) return;
    state->stopping = true;
    struct coordinator_action *action = act(out, DO_STOP, 0);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(action->message, sizeof action->message, format, arguments);
    va_end(arguments);
}

/* ---- who is there ------------------------------------------------------------------------------------------------------- */

static struct presence *presence_of(struct coordinator_state *state, uint32_t site) {
    if (site == 0 || site > run_state_site_count(state->run)) return NULL;
    if (site > state->presence_count) {
        size_t count = run_state_site_count(state->run);
        state->presence = xrealloc(state->presence, count * sizeof state->presence[0]);
        memset(state->presence + state->presence_count, 0, (count - state->presence_count) * sizeof state->presence[0]);
        state->presence_count = count;
    }
    return &state->presence[site - 1];
}

static void hear(struct coordinator_state *state, uint32_t site, struct moment now) {
    struct presence *presence = presence_of(state, site);
    if (!presence) return;
    presence->heard = true;
    presence->heard_ms = now.monotonic_ms;
}

bool coordinator_state_connected(const struct coordinator_state *state, uint32_t site, struct moment now) {
    if (site == 0 || site > state->presence_count) return false;
    const struct run_site *enrolled = run_state_site(state->run, site);
    if (!enrolled || enrolled->revoked) return false;
    const struct presence *presence = &state->presence[site - 1];
    return presence->heard && (presence->following > 0 || now.monotonic_ms - presence->heard_ms <= state->options.presence_ms);
}

static uint32_t connected_count(const struct coordinator_state *state, struct moment now) {
    uint32_t count = 0;
    for (uint32_t site = 1; site <= state->presence_count; site++) count += coordinator_state_connected(state, site, now);
    return count;
}

uint32_t coordinator_state_inner_steps(const struct coordinator_state *state, uint32_t site) {
    uint32_t inner_steps = run_state_inner_steps(state->run);
    if (!run_state_manifest(state->run)->inner.dylu || site == 0 || site > state->presence_count) return inner_steps;
    double fastest = 0, own = state->presence[site - 1].steps_per_second;
    for (size_t i = 0; i < state->presence_count; i++) {
        const struct run_site *enrolled = run_state_site(state->run, (uint32_t)i + 1);
        if (enrolled->revoked) continue;
        fastest = fmax(fastest, state->presence[i].steps_per_second);
    }
    if (!(own > 0) || !(fastest > 0)) return inner_steps;
    double scaled = floor(own / fastest * inner_steps);
    return scaled < 1 ? 1 : scaled > inner_steps ? inner_steps : (uint32_t)scaled;
}

/* ---- writing the ledger ------------------------------------------------------------------------------------------------- */

static struct ledger_entry entry_of(const struct coordinator_state *state, enum ledger_kind kind, struct moment now) {
    struct ledger_entry entry;
    memset(&entry, 0, sizeof entry);
    entry.kind = kind;
    entry.epoch = run_state_epoch(state->run);
    entry.time_ms = now.wall_ms;
    return entry;
}

/* Makes the entry the ledger's next, if the rules of the ledger allow it; else NULL, with the rule in *error, and nothing has
 * changed. The result is valid until the next append. */
static struct commit *append_if_legal(struct coordinator_state *state, const struct ledger_entry *entry, enum answer answer,
                                      uint64_t call, struct coordinator_actions *out, struct error *error) {
    struct buffer raw = {0};
    ledger_entry_encode(entry, &raw);
    uint64_t index = run_state_size(state->run);
    if (run_state_apply(state->run, buffer_bytes(&raw), true, error) != OK) {
        buffer_deinit(&raw);
        return NULL;
    }
    struct coordinator_action *action = act(out, DO_COMMIT, 0);
    action->commit = state->next_commit++;
    action->first_index = index;
    buffer_u32(&action->bytes, (uint32_t)raw.size);
    buffer_append(&action->bytes, raw.data, raw.size);
    buffer_deinit(&raw);

    if (state->commit_count == state->commit_capacity) {
        state->commit_capacity = state->commit_capacity ? state->commit_capacity * 2 : 16;
        state->commits = xrealloc(state->commits, state->commit_capacity * sizeof state->commits[0]);
    }
    struct commit *commit = &state->commits[state->commit_count++];
    memset(commit, 0, sizeof *commit);
    commit->number = action->commit;
    commit->end = index + 1;
    commit->answer = answer;
    commit->call = call;
    commit->entry_time_ms = entry->time_ms;
    return commit;
}

/* The same for what this program decided by itself or has checked: a refusal means that it is wrong, and it stops rather than
 * go on from there. NULL then. */
static struct commit *append(struct coordinator_state *state, const struct ledger_entry *entry, enum answer answer, uint64_t call,
                             struct coordinator_actions *out) {
    struct error error = {0};
    struct commit *commit = append_if_legal(state, entry, answer, call, out, &error);
    if (!commit) stop(state, out, "an own %s entry breaks a rule: %.120s", ledger_kind_name(entry->kind), error.message);
    return commit;
}

static void sign_receipt(const struct coordinator_state *state, const struct run_site *site, uint64_t size, struct buffer *out) {
    struct receipt receipt = {.epoch = run_state_epoch(state->run),
                              .site = site->site,
                              .sequence = site->last_sequence,
                              .index = site->last_index,
                              .entry_time_ms = site->last_time_ms,
                              .entry_epoch = site->last_epoch,
                              .size = size};
    memcpy(receipt.run_id, run_state_run_id(state->run), RUN_ID_SIZE);
    memcpy(receipt.header_digest, site->last_digest, DIGEST_SIZE);
    const struct merkle *tree = run_state_tree(state->run);
    merkle_root(tree, size, receipt.root);
    merkle_prove_inclusion(tree, receipt.index, size, &receipt.proof);
    receipt_sign(&receipt, state->options.key, out);
}

void coordinator_state_head(const struct coordinator_state *state, uint8_t out[static HEAD_SIZE]) {
    struct ledger_head head = {.epoch = run_state_epoch(state->run), .size = state->committed};
    memcpy(head.run_id, run_state_run_id(state->run), RUN_ID_SIZE);
    merkle_root(run_state_tree(state->run), head.size, head.root);
    ledger_head_sign(&head, state->options.key, out);
}

/* ---- outer steps -------------------------------------------------------------------------------------------------------- */

static uint32_t quorum_now(const struct coordinator_state *state, struct moment now, uint64_t *grace_ms) {
    const struct manifest *manifest = run_state_manifest(state->run);
    *grace_ms = manifest->merge.grace_ms;
    uint32_t wanted = manifest->merge.quorum;
    if (run_state_phase(state->run) == RUN_STOPPED) {
        wanted = 1; /* nobody else will come: merge what is there */
    } else if (run_state_version(state->run) < manifest->merge.warmup_steps) {
        wanted = connected_count(state, now);
        *grace_ms = manifest->merge.warmup_grace_ms;
    } else {
        wanted = MIN(wanted, run_state_active_sites(state->run));
    }
    return MAX(wanted, 1);
}

static uint64_t window_end(const struct coordinator_state *state, uint32_t fragment, uint64_t grace_ms) {
    uint64_t start = state->window_start[fragment];
    return grace_ms > UINT64_MAX - start ? UINT64_MAX : start + grace_ms;
}

static void begin_step(struct coordinator_state *state, uint32_t fragment, uint32_t pending, struct coordinator_actions *out) {
    uint16_t count = (uint16_t)MIN(pending, (uint32_t)STEP_CONTRIBUTIONS_LIMIT);
    run_state_plan_step(state->run, fragment, count, &state->step);
    state->applying = true;
    state->window_open[fragment] = false;
    act(out, DO_APPLY, 0)->step = state->step;
}

/* Starts the next step if one is due, else asks for the timer that will make it due. Called after everything that could
 * have changed the answer. */
static void consider_step(struct coordinator_state *state, struct moment now, struct coordinator_actions *out) {
    if (state->applying || state->stopping) return;
    uint64_t grace_ms, wake = UINT64_MAX, oldest = UINT64_MAX;
    uint32_t quorum = quorum_now(state, now, &grace_ms), due = UINT32_MAX;
    uint32_t fragments = run_state_manifest(state->run)->fragments;
    for (uint32_t fragment = 0; fragment < fragments; fragment++) {
        uint32_t pending = run_state_pending_count(state->run, fragment);
        if (pending == 0) {
            state->window_open[fragment] = false; /* a revocation may have dropped what it was opened for */
            continue;
        }
        if (!state->window_open[fragment]) {
            state->window_open[fragment] = true;
            state->window_start[fragment] = now.monotonic_ms;
        }
        uint64_t end = window_end(state, fragment, grace_ms);
        if (pending < quorum && now.monotonic_ms < end) {
            wake = MIN(wake, end);
            continue;
        }
        if (state->window_start[fragment] < oldest) { /* whose contribution has waited longest goes first */
            oldest = state->window_start[fragment];
            due = fragment;
        }
    }
    if (due != UINT32_MAX) {
        begin_step(state, due, run_state_pending_count(state->run, due), out);
    } else if (wake != state->timer_ms && wake != UINT64_MAX) {
        state->timer_ms = wake;
        act(out, DO_TIMER, 0)->at_ms = wake;
    }
}

/* Index of the oldest contribution that waits for a step; the ledger's size if none does. */
static uint64_t oldest_pending(const struct coordinator_state *state) {
    uint64_t oldest = run_state_size(state->run);
    uint32_t fragments = run_state_manifest(state->run)->fragments;
    for (uint32_t fragment = 0; fragment < fragments; fragment++) {
        if (run_state_pending_count(state->run, fragment) == 0) continue;
        oldest = MIN(oldest, run_state_pending(state->run, fragment, 0)->index);
    }
    return oldest;
}

/* Of the model as it is after the newest step; only while none is being applied. */
static void snapshot(struct coordinator_state *state, struct coordinator_actions *out) {
    struct coordinator_action *action = act(out, DO_SNAPSHOT, 0);
    action->version = run_state_version(state->run);
    action->size = run_state_size(state->run);
    action->first_index = oldest_pending(state);
    state->snapshot_wanted = false;
}

static void step_applied(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                         struct coordinator_actions *out) {
    if (!state->applying) return;
    state->applying = false;
    if (event->applied.status != OK) {
        stop(state, out, "step %llu cannot be computed: %s", (unsigned long long)state->step.step.version,
             event->applied.message ? event->applied.message : status_name(event->applied.status));
        return;
    }
    const struct manifest *manifest = run_state_manifest(state->run);
    struct ledger_entry entry = state->step;
    entry.epoch = run_state_epoch(state->run);
    entry.time_ms = now.wall_ms;
    entry.step.has_root = entry.step.version % manifest->root_interval == 0;
    if (entry.step.has_root)
        memcpy(entry.step.root, event->applied.root, DIGEST_SIZE);
    else
        memset(entry.step.root, 0, DIGEST_SIZE);
    if (!append(state, &entry, ANSWER_NOBODY, 0, out)) return;
    if (entry.step.version % manifest->snapshot_interval == 0 || state->snapshot_wanted) snapshot(state, out);
}

/* ---- contributions ------------------------------------------------------------------------------------------------------ */

static struct upload *upload_by_id(struct coordinator_state *state, uint64_t id) {
    for (size_t i = 0; i < state->upload_count; i++) {
        if (state->uploads[i].id == id) return &state->uploads[i];
    }
    return NULL;
}

static void upload_remove(struct coordinator_state *state, struct upload *upload) {
    *upload = state->uploads[--state->upload_count];
}

static struct coordinator_action *refuse(struct coordinator_state *state, uint64_t call, enum refusal code, const char *message,
                                         struct coordinator_actions *out) {
    state->refused[code]++;
    if (call == 0) return NULL;
    struct coordinator_action *action = act(out, DO_REFUSE, call);
    action->code = code;
    action->current_version = run_state_version(state->run);
    if (refusal_is_temporary(code)) action->retry_after_ms = state->options.retry_ms;
    snprintf(action->message, sizeof action->message, "%s", message && *message ? message : refusal_advice(code));
    return action;
}

/* A contribution that is in the ledger already. While its commit is under way the new call takes the place of the one that
 * waits for the receipt; afterwards the receipt is signed again. */
static void submit_again(struct coordinator_state *state, uint64_t call, const struct contribution *contribution,
                         struct coordinator_actions *out) {
    for (size_t i = 0; i < state->commit_count; i++) {
        struct commit *commit = &state->commits[i];
        if (commit->answer == ANSWER_RECEIPT && commit->site == contribution->site &&
            commit->sequence == contribution->sequence) {
            if (commit->call) act(out, DO_DROP, commit->call);
            commit->call = call;
            return;
        }
    }
    struct coordinator_action *action = refuse(state, call, REFUSED_DUPLICATE, NULL, out);
    const struct run_site *site = run_state_site(state->run, contribution->site);
    if (action && site->last_sequence == contribution->sequence && site->last_index < state->committed) {
        sign_receipt(state, site, state->committed, &action->bytes);
    }
}

/* True if the new call has been dealt with, because the same contribution is already being checked. An older transfer by the
 * same site for the same fragment gives way: its connection is gone, or soon will be. */
static bool submit_supersedes(struct coordinator_state *state, uint64_t call, const struct upload *fresh,
                              struct coordinator_actions *out) {
    for (size_t i = 0; i < state->upload_count; i++) {
        struct upload *old = &state->uploads[i];
        if (old->site != fresh->site || old->contribution.fragment != fresh->contribution.fragment) continue;
        bool same = memcmp(old->header, fresh->header, sizeof old->header) == 0;
        if (old->phase == UPLOAD_RECEIVING) {
            if (old->call) act(out, DO_DROP, old->call);
            upload_remove(state, old);
            return false;
        }
        if (same) {
            if (old->call) act(out, DO_DROP, old->call);
            old->call = call;
        } else {
            refuse(state, call, REFUSED_BUSY, "an earlier contribution of this site is being checked", out);
        }
        return true;
    }
    return false;
}

/* Why there is no room for another contribution of the site; NULL if there is. What waits for the disk counts too, so a disk
 * that stands still stops the intake; and one site, which may send all fragments at once, gets a quarter of the places. */
static const char *no_room(const struct coordinator_state *state, uint32_t site) {
    uint32_t all = 0, own = 0;
    for (size_t i = 0; i < state->upload_count; i++, all++) own += state->uploads[i].site == site;
    for (size_t i = 0; i < state->commit_count; i++) {
        if (state->commits[i].answer != ANSWER_RECEIPT) continue;
        all++;
        own += state->commits[i].site == site;
    }
    if (all >= state->options.uploads_limit) return "as many uploads as the coordinator takes at once are under way";
    if (own >= MAX(state->options.uploads_limit / 4, 1)) return "as many uploads as one site may have at once are under way";
    return NULL;
}

static enum refusal admit(const struct coordinator_state *state, uint32_t site, const uint8_t *header, const uint8_t *signature,
                          struct moment now, struct contribution *out, struct error *why) {
    struct admission_limits limits = {now.wall_ms, state->options.payload_limit};
    return admission_header(state->run, site, bytes_of(header, CONTRIBUTION_HEADER_SIZE), bytes_of(signature, SIGNATURE_SIZE),
                            &limits, out, why);
}

static void submit_open(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                        struct coordinator_actions *out) {
    struct upload fresh = {.id = event->call, .call = event->call, .site = event->submit.site};
    struct error why = {0};
    memcpy(fresh.header, event->submit.header, sizeof fresh.header);
    memcpy(fresh.signature, event->submit.signature, sizeof fresh.signature);
    enum refusal code = admit(state, fresh.site, fresh.header, fresh.signature, now, &fresh.contribution, &why);
    if (code == REFUSED_DUPLICATE) {
        hear(state, fresh.site, now);
        if (contribution_decode(bytes_of(fresh.header, sizeof fresh.header), &fresh.contribution, &why) == OK) {
            submit_again(state, event->call, &fresh.contribution, out);
            return;
        }
        code = REFUSED_MALFORMED;
    }
    if (code != ACCEPTED) {
        refuse(state, event->call, code, why.message, out);
        return;
    }
    hear(state, fresh.site, now);
    if (submit_supersedes(state, event->call, &fresh, out)) return;
    const char *full = no_room(state, fresh.site);
    if (full) {
        refuse(state, event->call, REFUSED_BUSY, full, out);
        return;
    }
    state->uploads[state->upload_count++] = fresh;
    act(out, DO_ADMIT, event->call)->contribution = fresh.contribution;
}

static void uploaded(struct coordinator_state *state, const struct coordinator_event *event, struct coordinator_actions *out) {
    struct upload *upload = upload_by_id(state, event->call);
    if (!upload || upload->phase != UPLOAD_RECEIVING) return;
    if (event->uploaded.code != ACCEPTED) {
        refuse(state, upload->call, event->uploaded.code, event->uploaded.message, out);
        upload_remove(state, upload);
        return;
    }
    upload->phase = UPLOAD_CHECKING;
    act(out, DO_CHECK, upload->id)->contribution = upload->contribution;
}

/* The world may have moved while the payload came and was checked, so the header's rules are asked again. */
static void checked(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                    struct coordinator_actions *out) {
    struct upload *found = upload_by_id(state, event->call);
    if (!found || found->phase != UPLOAD_CHECKING) return;
    struct upload upload = *found;
    upload_remove(state, found);
    struct error why = {0};
    enum refusal code = event->checked.code;
    const char *message = event->checked.message;
    if (code == ACCEPTED) {
        code = admit(state, upload.site, upload.header, upload.signature, now, &upload.contribution, &why);
        message = why.message;
    }
    if (code != ACCEPTED) {
        refuse(state, upload.call, code, message, out);
        return;
    }
    struct ledger_entry entry = entry_of(state, LEDGER_CONTRIBUTION, now);
    memcpy(entry.contribution.header, upload.header, sizeof upload.header);
    memcpy(entry.contribution.signature, upload.signature, sizeof upload.signature);
    struct commit *commit = append(state, &entry, ANSWER_RECEIPT, upload.call, out);
    if (!commit) return;
    commit->site = upload.site;
    commit->sequence = upload.contribution.sequence;
    contribution_digest(upload.header, commit->header_digest);
    uint64_t budget = run_state_manifest(state->run)->token_budget;
    if (budget && run_state_tokens(state->run) >= budget && run_state_phase(state->run) == RUN_ACTIVE) {
        struct ledger_entry end = entry_of(state, LEDGER_STOPPED, now);
        snprintf(end.note.reason, sizeof end.note.reason, "token budget reached");
        append(state, &end, ANSWER_NOBODY, 0, out);
    }
}

static void call_gone(struct coordinator_state *state, uint64_t call) {
    for (size_t i = 0; i < state->upload_count; i++) {
        struct upload *upload = &state->uploads[i];
        if (upload->call != call) continue;
        if (upload->phase == UPLOAD_RECEIVING)
            upload_remove(state, upload);
        else
            upload->call = 0; /* the check goes on: the site will ask again and find its receipt */
        return;
    }
    for (size_t i = 0; i < state->commit_count; i++) {
        if (state->commits[i].call == call) state->commits[i].call = 0;
    }
}

/* ---- durable ------------------------------------------------------------------------------------------------------------ */

static void answer(struct coordinator_state *state, const struct commit *commit, struct coordinator_actions *out) {
    if (commit->call == 0) return;
    if (commit->answer == ANSWER_RECEIPT) {
        /* At most one contribution of a site is pending a fragment, but the next fragment's may be in the ledger already:
         * the receipt is for this commit's own sequence and index. */
        struct run_site site = *run_state_site(state->run, commit->site);
        site.last_sequence = commit->sequence;
        site.last_index = commit->end - 1;
        site.last_time_ms = commit->entry_time_ms;
        site.last_epoch = run_state_epoch(state->run);
        memcpy(site.last_digest, commit->header_digest, DIGEST_SIZE);
        sign_receipt(state, &site, state->committed, &act(out, DO_RECEIPT, commit->call)->bytes);
    } else if (commit->answer == ANSWER_JOINED) {
        act(out, DO_JOINED, commit->call)->site = commit->site;
    } else if (commit->answer == ANSWER_ADMIN) {
        struct coordinator_action *action = act(out, DO_ADMIN_REPLY, commit->call);
        snprintf(action->message, sizeof action->message, "%s", commit->message);
    }
}

static void committed(struct coordinator_state *state, const struct coordinator_event *event, struct coordinator_actions *out) {
    if (event->committed.status != OK) {
        stop(state, out, "the ledger cannot be written (%s); restart once the cause is gone",
             status_name(event->committed.status));
        return;
    }
    size_t at = 0;
    while (at < state->commit_count && state->commits[at].number != event->committed.commit) at++;
    if (at == state->commit_count) return;
    struct commit commit = state->commits[at];
    memmove(&state->commits[at], &state->commits[at + 1], (state->commit_count - at - 1) * sizeof commit);
    state->commit_count--;
    state->committed = MAX(state->committed, commit.end);
    act(out, DO_PUBLISH, 0)->size = state->committed;
    answer(state, &commit, out);
}

/* ---- joining ------------------------------------------------------------------------------------------------------------ */

static void refuse_join(uint64_t call, enum refusal code, const char *message, struct coordinator_actions *out) {
    struct coordinator_action *action = act(out, DO_JOINED, call);
    action->code = code;
    snprintf(action->message, sizeof action->message, "%s", message);
}

/* The invitation was used. By the same key: the answer was lost on the way and is said again, but not before the entry is
 * durable, for until then nobody is a member. */
static void join_again(struct coordinator_state *state, const struct coordinator_event *event, const struct run_site *named,
                       struct coordinator_actions *out) {
    if (!named || named->revoked || memcmp(named->public_key, event->join.public_key, PUBLIC_KEY_SIZE) != 0) {
        refuse_join(event->call, REFUSED_DUPLICATE, "the invitation was used already, with another key", out);
        return;
    }
    for (size_t i = 0; i < state->commit_count; i++) {
        if (state->commits[i].answer != ANSWER_JOINED || state->commits[i].site != named->site) continue;
        refuse_join(event->call, REFUSED_BUSY, "the site is being enrolled: ask again in a moment", out);
        return;
    }
    act(out, DO_JOINED, event->call)->site = named->site;
}

static void join(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                 struct coordinator_actions *out) {
    const struct run_invitation *invitation = run_state_invitation(state->run, event->join.secret_digest);
    const struct run_site *named = run_state_site_named(state->run, event->join.name);
    if (!invitation || strcmp(invitation->name, event->join.name) != 0) {
        refuse_join(event->call, REFUSED_UNKNOWN_SITE, "no such invitation: ask the admin for a new one (atollctl site invite)",
                    out);
        return;
    }
    if (invitation->used) {
        join_again(state, event, named, out);
        return;
    }
    if (run_state_phase(state->run) == RUN_STOPPED) {
        refuse_join(event->call, REFUSED_STOPPED, refusal_advice(REFUSED_STOPPED), out);
        return;
    }
    if (invitation->expires_ms && now.wall_ms > invitation->expires_ms) {
        refuse_join(event->call, REFUSED_EXPIRED, "the invitation has expired: ask the admin for a new one", out);
        return;
    }
    if (named && !named->revoked) {
        refuse_join(event->call, REFUSED_UNKNOWN_SITE, "a site of that name is enrolled: the admin must revoke it first", out);
        return;
    }
    struct ledger_entry entry = entry_of(state, LEDGER_SITE_ADDED, now);
    entry.added.site = run_state_site_count(state->run) + 1;
    memcpy(entry.added.name, event->join.name, SITE_NAME_SIZE);
    memcpy(entry.added.public_key, event->join.public_key, PUBLIC_KEY_SIZE);
    memcpy(entry.added.secret_digest, event->join.secret_digest, DIGEST_SIZE);
    /* What is left are rules about what the peer chose: a key that was enrolled before, a run that is full. */
    struct error error = {0};
    struct commit *commit = append_if_legal(state, &entry, ANSWER_JOINED, event->call, out, &error);
    if (!commit) {
        refuse_join(event->call, REFUSED_MALFORMED, error.message, out);
        return;
    }
    commit->site = entry.added.site;
    hear(state, entry.added.site, now);
}

/* ---- the admin's orders ------------------------------------------------------------------------------------------------- */

/* The entry for an order, or the reason why there is none. */
static const char *order_entry(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                               struct ledger_entry *entry) {
    enum run_phase phase = run_state_phase(state->run);
    const struct run_site *site = run_state_site_named(state->run, event->admin.name);
    switch (event->admin.order) {
    case ORDER_PAUSE:
        if (phase != RUN_ACTIVE) return phase == RUN_PAUSED ? "the run is paused already" : "the run has been stopped";
        *entry = entry_of(state, LEDGER_PAUSED, now);
        break;
    case ORDER_RESUME:
        if (phase != RUN_PAUSED) return phase == RUN_ACTIVE ? "the run is not paused" : "the run has been stopped";
        *entry = entry_of(state, LEDGER_RESUMED, now);
        break;
    case ORDER_STOP:
        if (phase == RUN_STOPPED) return "the run has been stopped already";
        *entry = entry_of(state, LEDGER_STOPPED, now);
        break;
    case ORDER_INVITE:
        if (name_check(event->admin.name, NULL) != OK) return "a site's name is 1 to 32 of a-z, 0-9 and '-', a letter first";
        if (site && !site->revoked) return "a site of that name is enrolled: revoke it first";
        if (phase == RUN_STOPPED) return "the run has been stopped";
        if (run_state_site_count(state->run) >= SITES_LIMIT) return "the run has as many sites as there can be";
        *entry = entry_of(state, LEDGER_SITE_INVITED, now);
        memcpy(entry->invited.name, event->admin.name, SITE_NAME_SIZE);
        memcpy(entry->invited.secret_digest, event->admin.secret_digest, DIGEST_SIZE);
        entry->invited.expires_ms = event->admin.expires_ms;
        return NULL;
    case ORDER_REVOKE:
        if (!site) return "no site of that name was ever enrolled";
        if (site->revoked) return "the site is revoked already";
        *entry = entry_of(state, LEDGER_SITE_REVOKED, now);
        entry->revoked.site = site->site;
        memcpy(entry->revoked.reason, event->admin.reason, REASON_SIZE);
        return NULL;
    case ORDER_INNER_STEPS:
        if (event->admin.inner_steps == 0) return "the number of inner steps is at least 1";
        *entry = entry_of(state, LEDGER_INNER_STEPS, now);
        entry->inner_steps.inner_steps = event->admin.inner_steps;
        return NULL;
    default: return "there is no such order";
    }
    memcpy(entry->note.reason, event->admin.reason, REASON_SIZE);
    return NULL;
}

static void cut_site(struct coordinator_state *state, uint32_t site, struct coordinator_actions *out) {
    for (size_t i = state->upload_count; i-- > 0;) {
        struct upload *upload = &state->uploads[i];
        if (upload->site != site) continue;
        refuse(state, upload->call, REFUSED_REVOKED, NULL, out);
        upload_remove(state, upload);
    }
    act(out, DO_CUT, 0)->site = site;
}

static void admin(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                  struct coordinator_actions *out) {
    struct ledger_entry entry;
    if (event->admin.order == ORDER_REVOKE && state->applying) {
        /* A revocation drops the site's waiting contributions, and one of them may be in the step under way. */
        state->deferred = xrealloc(state->deferred, (state->deferred_count + 1) * sizeof *event);
        state->deferred[state->deferred_count++] = *event;
        return;
    }
    if (event->admin.order == ORDER_SNAPSHOT) {
        if (state->applying)
            state->snapshot_wanted = true;
        else
            snapshot(state, out);
        snprintf(act(out, DO_ADMIN_REPLY, event->call)->message, 64, "a snapshot is being written");
        return;
    }
    struct error error = {0};
    struct commit *commit = NULL;
    const char *problem = order_entry(state, event, now, &entry);
    if (!problem) commit = append_if_legal(state, &entry, ANSWER_ADMIN, event->call, out, &error);
    if (!commit) {
        struct coordinator_action *action = act(out, DO_ADMIN_REPLY, event->call);
        action->code = REFUSED_MALFORMED;
        snprintf(action->message, sizeof action->message, "%s", problem ? problem : error.message);
        return;
    }
    snprintf(commit->message, sizeof commit->message, "%s", ledger_kind_name(entry.kind));
    if (entry.kind == LEDGER_SITE_REVOKED) cut_site(state, entry.revoked.site, out);
}

static void take_deferred(struct coordinator_state *state, struct moment now, struct coordinator_actions *out) {
    size_t count = state->deferred_count;
    state->deferred_count = 0;
    for (size_t i = 0; i < count && !state->stopping; i++) admin(state, &state->deferred[i], now, out);
}

static void heartbeat(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                      struct coordinator_actions *out) {
    hear(state, event->heartbeat.site, now);
    struct presence *presence = presence_of(state, event->heartbeat.site);
    double speed = event->heartbeat.steps_per_second;
    if (presence && speed >= 0 && speed < 1e12) presence->steps_per_second = speed;
    struct coordinator_action *action = act(out, DO_HEARTBEAT_REPLY, event->call);
    action->site = event->heartbeat.site;
    action->inner_steps = coordinator_state_inner_steps(state, event->heartbeat.site);
}

static void following(struct coordinator_state *state, const struct coordinator_event *event, struct moment now) {
    struct presence *presence = presence_of(state, event->following.site);
    if (!presence) return;
    hear(state, event->following.site, now);
    if (event->following.open)
        presence->following++;
    else if (presence->following > 0)
        presence->following--;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

struct coordinator_state *coordinator_state_create(const struct coordinator_options *options, struct run_state *run) {
    ASSERT(run_state_has_genesis(run) && options->uploads_limit > 0);
    struct coordinator_state *state = xcalloc(1, sizeof *state);
    state->options = *options;
    state->run = run;
    state->uploads = xcalloc(options->uploads_limit, sizeof state->uploads[0]);
    state->committed = run_state_size(run);
    state->next_commit = 1;
    state->timer_ms = UINT64_MAX;
    return state;
}

void coordinator_state_destroy(struct coordinator_state *state) {
    if (!state) return;
    run_state_destroy(state->run);
    free(state->uploads);
    free(state->commits);
    free(state->presence);
    free(state->deferred);
    free(state);
}

void coordinator_state_start(struct coordinator_state *state, struct moment now, struct coordinator_actions *out) {
    consider_step(state, now, out);
}

void coordinator_state_step(struct coordinator_state *state, const struct coordinator_event *event, struct moment now,
                            struct coordinator_actions *out) {
    if (state->stopping) return;
    switch (event->kind) {
    case COORDINATOR_TIMER: state->timer_ms = UINT64_MAX; break;
    case COORDINATOR_SUBMIT_OPEN: submit_open(state, event, now, out); break;
    case COORDINATOR_UPLOADED: uploaded(state, event, out); break;
    case COORDINATOR_CHECKED: checked(state, event, now, out); break;
    case COORDINATOR_CALL_GONE: call_gone(state, event->call); break;
    case COORDINATOR_COMMITTED: committed(state, event, out); break;
    case COORDINATOR_APPLIED:
        step_applied(state, event, now, out);
        take_deferred(state, now, out);
        break;
    case COORDINATOR_JOIN: join(state, event, now, out); break;
    case COORDINATOR_HEARTBEAT: heartbeat(state, event, now, out); break;
    case COORDINATOR_FOLLOWING: following(state, event, now); break;
    case COORDINATOR_ADMIN: admin(state, event, now, out); break;
    }
    consider_step(state, now, out);
}

const struct run_state *coordinator_state_run(const struct coordinator_state *state) { return state->run; }
uint64_t coordinator_state_committed(const struct coordinator_state *state) { return state->committed; }
uint32_t coordinator_state_uploads(const struct coordinator_state *state) { return (uint32_t)state->upload_count; }

uint64_t coordinator_state_refused(const struct coordinator_state *state, enum refusal code) {
    return code < REFUSAL_COUNT ? state->refused[code] : 0;
}
