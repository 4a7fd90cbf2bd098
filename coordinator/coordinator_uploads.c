/* A contribution's way: header, payload, verdict, entry. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "coordinator/coordinator_state_internal.h"

/* ---- contributions --------------------------------------------------------------------------- */

static struct admitted *upload_by_id(struct coordinator_state *state, uint64_t id) {
    for (size_t i = 0; i < state->upload_count; i++) {
        if (state->uploads[i].id == id) return &state->uploads[i];
    }
    return NULL;
}

void uploads_remove(struct coordinator_state *state, struct admitted *upload) {
    struct presence *presence = presence_of(state, upload->site);
    ASSERT(presence && presence->uploading > 0);
    presence->uploading--;
    *upload = state->uploads[--state->upload_count];
}

struct coordinator_action *uploads_refuse(struct coordinator_state *state, uint64_t call,
                                          enum refusal code, const char *message,
                                          struct coordinator_actions *out) {
    ASSERT(code != ACCEPTED && code < REFUSAL_COUNT);
    state->refused[code]++;
    if (call == 0) return NULL;
    struct coordinator_action *action = state_act(out, DO_REFUSE, call);
    action->code = code;
    action->current_version = run_state_version(state->run);
    if (refusal_is_temporary(code)) action->retry_after_ms = state->options.retry_ms;
    snprintf(action->message, sizeof action->message, "%s",
             message && *message ? message : refusal_advice(code));
    return action;
}

/* A contribution that is in the ledger already. While its commit is under way the new call takes
 * the place of the one that waits for the receipt; afterwards the receipt is signed again. */
static void submit_again(struct coordinator_state *state, uint64_t call,
                         const struct contribution *contribution, struct coordinator_actions *out) {
    for (size_t i = 0; i < state->commit_count; i++) {
        struct commit *commit = &state->commits[i];
        if (commit->answer == ANSWER_RECEIPT && commit->site == contribution->site &&
            commit->sequence == contribution->sequence) {
            MARK("upload: asked for again while it is being committed");
            if (commit->call) state_act(out, DO_DROP, commit->call);
            commit->call = call;
            return;
        }
    }
    struct coordinator_action *action = uploads_refuse(state, call, REFUSED_DUPLICATE, NULL, out);
    const struct run_site *site = run_state_site(state->run, contribution->site);
    if (action && site->last_sequence == contribution->sequence &&
        site->last_index < state->committed) {
        MARK("upload: a receipt is signed again");
        state_sign_receipt(state, site, state->committed, &action->bytes);
    }
}

/* True if the new call has been dealt with, because the same contribution is already being checked.
 * An older transfer by the same site for the same fragment gives way: its connection is gone, or
 * soon will be. */
static bool submit_supersedes(struct coordinator_state *state, uint64_t call,
                              const struct admitted *fresh, struct coordinator_actions *out) {
    for (size_t i = 0; i < state->upload_count; i++) {
        struct admitted *old = &state->uploads[i];
        if (old->site != fresh->site || old->contribution.fragment != fresh->contribution.fragment)
            continue;
        bool same = memcmp(old->header, fresh->header, sizeof old->header) == 0;
        if (old->phase == UPLOAD_RECEIVING) {
            MARK("upload: a transfer gives way to a newer one");
            if (old->call) state_act(out, DO_DROP, old->call);
            uploads_remove(state, old);
            return false;
        }
        if (same) {
            MARK("upload: asked for again while it is being checked");
            if (old->call) state_act(out, DO_DROP, old->call);
            old->call = call;
        } else {
            MARK("upload: another one is being checked");
            uploads_refuse(state, call, REFUSED_BUSY,
                           "an earlier contribution of this site is being checked", out);
        }
        return true;
    }
    return false;
}

/* Places that the site has, or with site 0 all that are taken. What waits for the disk counts too,
 * so a disk that stands still stops the intake. */
static uint32_t places_taken(const struct coordinator_state *state, uint32_t site) {
    uint32_t taken = 0;
    for (size_t i = 0; i < state->upload_count; i++)
        taken += site == 0 || state->uploads[i].site == site;
    for (size_t i = 0; i < state->commit_count; i++)
        taken += state->commits[i].answer == ANSWER_RECEIPT &&
                 (site == 0 || state->commits[i].site == site);
    return taken;
}

/* The oldest transfer of the site that has most places, if that has two more than `own`: then both
 * sites have their share afterwards. NULL: nobody has too many. */
static struct admitted *gives_way(const struct coordinator_state *state, uint32_t own) {
    struct admitted *found = NULL;
    uint32_t most = own + 1;
    for (size_t i = 0; i < state->upload_count; i++) {
        struct admitted *upload = &state->uploads[i];
        if (upload->phase != UPLOAD_RECEIVING) continue;
        uint32_t taken = places_taken(state, upload->site);
        bool more = taken > most, older = found && taken == most && upload->id < found->id;
        if (!more && !older) continue;
        found = upload;
        most = taken;
    }
    return found;
}

/* Why there is no room for another contribution of the site; NULL if there is, which may have cost
 * another site its oldest transfer. One site, which may send all fragments at once, gets a quarter
 * of the places, and several that do so leave none: then who has most makes room for who has few.
 */
static const char *make_room(struct coordinator_state *state, uint32_t site,
                             struct coordinator_actions *out) {
    uint32_t own = places_taken(state, site), limit = state->options.uploads_limit;
    if (own >= MAX(limit / 4, 1))
        return "as many uploads as one site may have at once are under way";
    if (places_taken(state, 0) < limit) return NULL;
    MARK("upload: all places are taken");
    struct admitted *other = gives_way(state, own);
    if (!other) return "as many uploads as the coordinator takes at once are under way";
    MARK("upload: who has most makes room for who has few");
    if (other->call)
        uploads_refuse(state, other->call, REFUSED_BUSY,
                       "a site with fewer uploads under way needs the place: this goes on later",
                       out);
    speed_turned_away(state, other->site);
    uploads_remove(state, other);
    return NULL;
}

static enum refusal admit(const struct coordinator_state *state, uint32_t site,
                          const uint8_t *header, const uint8_t *signature, struct instant now,
                          struct contribution *out, struct error *why) {
    struct admission_limits limits = {now.wall_ms, state->options.payload_limit};
    return admission_header(state->run, site, bytes_of(header, CONTRIBUTION_HEADER_SIZE),
                            bytes_of(signature, SIGNATURE_SIZE), &limits, out, why);
}

static bool refuse_too_soon(struct coordinator_state *state, uint64_t call,
                            const struct contribution *contribution, struct instant now,
                            struct coordinator_actions *out) {
    uint64_t wait_ms = rate_too_soon(state, contribution->site, contribution->fragment, now);
    if (wait_ms == 0) return false;
    speed_turned_away(state, contribution->site);
    struct coordinator_action *refused =
        uploads_refuse(state, call, REFUSED_BUSY,
                       "this site contributes more than eight times as often as others: train more "
                       "steps for each contribution",
                       out);
    if (refused) refused->retry_after_ms = wait_ms;
    return true;
}

void uploads_submit_open(struct coordinator_state *state, const struct coordinator_event *event,
                         struct instant now, struct coordinator_actions *out) {
    if (event->submit.supply) {
        lost_supply_open(state, event, now, out);
        return;
    }
    struct admitted fresh = {.id = event->call,
                             .call = event->call,
                             .site = event->submit.site,
                             .instance = event->submit.instance};
    struct error why = {0};
    memcpy(fresh.header, event->submit.header, sizeof fresh.header);
    memcpy(fresh.signature, event->submit.signature, sizeof fresh.signature);
    enum refusal code = places_take(state, fresh.site, event->submit.instance, now);
    if (code != ACCEPTED) {
        uploads_refuse(state, event->call, code, NULL, out);
        return;
    }
    code = admit(state, fresh.site, fresh.header, fresh.signature, now, &fresh.contribution, &why);
    if (code == REFUSED_DUPLICATE) {
        presence_hear(state, fresh.site, now);
        if (contribution_decode(bytes_of(fresh.header, sizeof fresh.header), &fresh.contribution,
                                &why) == OK) {
            submit_again(state, event->call, &fresh.contribution, out);
            return;
        }
        code = REFUSED_MALFORMED;
    }
    if (code == REFUSED_SEQUENCE && /* its signature is right */
        contribution_decode(bytes_of(fresh.header, sizeof fresh.header), &fresh.contribution,
                            &why) == OK) {
        code = places_judge_sequence(state, &fresh.contribution, event->submit.instance, now, out);
        if (code == REFUSED_COPY)
            places_behind_message(state, fresh.site, fresh.contribution.sequence, why.message,
                                  sizeof why.message);
        if (code == REFUSED_HELD) why.message[0] = 0;
    }
    if (code == ACCEPTED || code == REFUSED_REBASE) {
        presence_hear(state, fresh.site, now);
        if (contribution_decode(bytes_of(fresh.header, sizeof fresh.header), &fresh.contribution,
                                NULL) == OK)
            rate_note_offer(state, &fresh.contribution, now);
    }
    if (code != ACCEPTED) {
        uploads_refuse(state, event->call, code, why.message, out);
        return;
    }
    /* also where there is no room for it now */
    speed_offered(state, &fresh.contribution, event->submit.waits, now);
    if (submit_supersedes(state, event->call, &fresh, out)) return;
    if (refuse_too_soon(state, event->call, &fresh.contribution, now, out)) return;
    const char *full = make_room(state, fresh.site, out);
    if (full) {
        speed_turned_away(state, fresh.site);
        uploads_refuse(state, event->call, REFUSED_BUSY, full, out);
        return;
    }
    ASSERT(state->upload_count < state->options.uploads_limit);
    ASSERT(!upload_by_id(state, fresh.id) && fresh.contribution.site == fresh.site);
    state->uploads[state->upload_count++] = fresh;
    presence_of(state, fresh.site)->uploading++;
    state_act(out, DO_ADMIT, event->call)->contribution = fresh.contribution;
}

void uploads_received(struct coordinator_state *state, const struct coordinator_event *event,
                      struct coordinator_actions *out) {
    if (lost_supply_uploaded(state, event, out)) return;
    struct admitted *upload = upload_by_id(state, event->call);
    if (!upload || upload->phase != UPLOAD_RECEIVING) return;
    if (event->uploaded.code != ACCEPTED) {
        uploads_refuse(state, upload->call, event->uploaded.code, event->uploaded.message, out);
        uploads_remove(state, upload);
        return;
    }
    MARK("upload: checking");
    upload->phase = UPLOAD_CHECKING;
    state_act(out, DO_CHECK, upload->id)->contribution = upload->contribution;
}

/* The world may have moved while the payload came and was checked, so the header's rules are asked
 * again. */
void uploads_checked(struct coordinator_state *state, const struct coordinator_event *event,
                     struct instant now, struct coordinator_actions *out) {
    struct admitted *found = upload_by_id(state, event->call);
    if (!found || found->phase != UPLOAD_CHECKING) return;
    struct admitted upload = *found;
    uploads_remove(state, found);
    struct error why = {0};
    enum refusal code = event->checked.code;
    const char *message = event->checked.message;
    if (code == ACCEPTED) lost_found(state, &upload.contribution, out);
    if (code == ACCEPTED) {
        code = admit(state, upload.site, upload.header, upload.signature, now, &upload.contribution,
                     &why);
        message = why.message;
        if (code != ACCEPTED) MARK("upload: the world has moved while it was checked");
    }
    if (code != ACCEPTED) {
        uploads_refuse(state, upload.call, code, message, out);
        return;
    }
    struct ledger_entry entry = state_entry(state, LEDGER_CONTRIBUTION, now);
    memcpy(entry.contribution.header, upload.header, sizeof upload.header);
    memcpy(entry.contribution.signature, upload.signature, sizeof upload.signature);
    struct commit *commit = state_append(state, &entry, ANSWER_RECEIPT, upload.call, out);
    if (!commit) return;
    commit->site = upload.site;
    commit->sequence = upload.contribution.sequence;
    speed_accepted(state, &upload.contribution);
    struct presence *presence = presence_of(state, upload.site);
    rate_note_accepted(state, upload.site, upload.contribution.fragment, now);
    if (presence->holder == upload.instance) presence->own_sequence = upload.contribution.sequence;
    contribution_digest(upload.header, commit->header_digest);
}

void uploads_call_gone(struct coordinator_state *state, uint64_t call) {
    if (lost_supply_gone(state, call)) return;
    for (size_t i = 0; i < state->upload_count; i++) {
        struct admitted *upload = &state->uploads[i];
        if (upload->call != call) continue;
        MARK("upload: its caller has gone");
        if (upload->phase == UPLOAD_RECEIVING)
            uploads_remove(state, upload);
        else
            upload->call = 0; /* the check goes on: the site will ask again and find its receipt */
        return;
    }
    for (size_t i = 0; i < state->commit_count; i++) {
        if (state->commits[i].call == call) state->commits[i].call = 0;
    }
}
