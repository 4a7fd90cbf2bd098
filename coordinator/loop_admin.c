/* What the admin asks without changing anything, and the form of every answer. On the loop's
 * thread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "coordinator/loop_internal.h"
#include "crypto/certificate.h"
#include "fed/outer_rate.h"
#include "run/evaluator.h"

static void describe_run(struct loop *loop, struct run_status *out) {
    const struct run_state *run = coordinator_state_run(loop->state);
    memset(out, 0, sizeof *out);
    out->waits = loop_waits(loop, &out->clock_ahead_ms);
    memcpy(out->run_id, loop->options.run_id, RUN_ID_SIZE);
    out->name = loop->options.manifest->name;
    out->phase = run_state_phase(run);
    out->reason = run_state_reason(run);
    out->version = run_state_version(run);
    out->ledger_size = coordinator_state_committed(loop->state);
    out->tokens = run_state_tokens(run);
    out->token_budget = run_state_token_budget(run);
    out->weights = run_state_manifest(run)->weights;
    struct evaluator_report heldout;
    evaluator_report(loop->options.evaluator, &heldout);
    out->has_heldout = heldout.any;
    out->heldout_version = heldout.version;
    out->heldout = heldout.loss;
    out->best_version = heldout.best_version;
    out->best_heldout = heldout.best_loss;
    out->heldout_rises = heldout.rises;
    out->epoch = run_state_epoch(run);
    out->inner_steps = run_state_inner_steps(run);
    out->parameters = loop->options.parameters;
    run_state_root(run, &out->root_version, out->root);
    for (uint32_t fragment = 0; fragment < loop->options.manifest->fragments; fragment++) {
        out->pending += run_state_pending_count(run, fragment);
    }
    for (int code = 1; code < REFUSAL_COUNT; code++) {
        out->refused[code < WIRE_CODES ? code : 0] +=
            coordinator_state_refused(loop->state, (enum refusal)code);
    }
    for (uint32_t site = 1; site <= run_state_site_count(run); site++) {
        out->accepted += run_state_site(run, site)->contributions;
        uint64_t ago;
        out->sites_connected += run_state_site(run, site)->role == SITE_TRAINS &&
                                coordinator_state_connected(loop->state, site, clock_instant());
        out->sites_twice += coordinator_state_copies(loop->state, site, clock_instant(), &ago) > 0;
    }
    out->sites_active = run_state_active_sites(run);
    out->sites_present = run_state_present_sites(run);
    out->uptime_ms = clock_monotonic_ms() - loop->started_ms;
    calls_traffic(loop->options.calls, &out->bytes_in, &out->bytes_out);
}

static void describe_site(struct loop *loop, const struct run_site *site, struct site_status *out) {
    const struct site_report *report = &loop->reports[site->site];
    const struct heartbeat_request *last = &report->last;
    *out = (struct site_status){
        .site = site->site,
        .name = site->name,
        .revoked = site->revoked,
        .presence = (uint32_t)site->presence,
        .role = (uint32_t)site->role,
        .connected = coordinator_state_connected(loop->state, site->site, clock_instant()),
        .inner_steps = coordinator_state_inner_steps(loop->state, site->site, clock_instant()),
        .tokens = site->tokens,
        .tokens_uncounted = site->uncounted,
        .contributions = site->contributions,
        .norm = site->last_norm,
        .clip = site->last_clip,
        .weight = site->last_weight,
        .age = site->last_age,
        .scale = site->last_scale,
        .loss = NAN,
        .last_seen_ms_ago = coordinator_state_silence(loop->state, site->site, clock_instant()),
        .device = report->device,
        .software = report->software};
    out->copies =
        coordinator_state_copies(loop->state, site->site, clock_instant(), &out->copy_ms_ago);
    if (!report->heard) return;
    out->heldout = report->heldout;
    out->version = last->version;
    out->staleness = last->staleness;
    out->loss = last->loss;
    /* else nobody knows, and 0 is the better guess */
    if (out->connected) out->tokens_per_second = last->tokens_per_second;
    out->refused = last->refused;
    out->bytes_up = last->bytes_up;
    out->bytes_down = last->bytes_down;
    out->compute_ms = last->compute_ms;
    memcpy(out->lost_ms, last->lost_ms, sizeof out->lost_ms);
}

static void answer_sites(struct loop *loop, struct call *call, uint32_t first) {
    const struct run_state *run = coordinator_state_run(loop->state);
    struct site_status *sites = xcalloc(WIRE_SITES_LIMIT, sizeof *sites);
    struct admin_reply reply = {.has_run = true, .sites = sites};
    describe_run(loop, &reply.run);
    uint32_t site = MAX(first, 1);
    for (; site <= run_state_site_count(run) && reply.site_count < WIRE_SITES_LIMIT; site++) {
        describe_site(loop, run_state_site(run, site), &sites[reply.site_count++]);
    }
    if (site <= run_state_site_count(run)) reply.next_site = site;
    call_answer_admin(call, &reply);
    free(sites);
}

/* What the ledger holds, durable or not: an invitation that a crash takes back was not told. */
static void answer_invitations(struct loop *loop, struct call *call, uint32_t first) {
    const struct run_state *run = coordinator_state_run(loop->state);
    uint32_t count = run_state_invitation_count(run), at = MAX(first, 1);
    struct invitation_status *list = xcalloc(WIRE_SITES_LIMIT, sizeof *list);
    struct admin_reply reply = {.invitations = list};
    for (; at <= count && reply.invitation_count < WIRE_SITES_LIMIT; at++) {
        const struct run_invitation *from = run_state_invitation_at(run, at - 1);
        bool expired =
            from->end == INVITATION_OPEN && from->expires_ms && clock_wall_ms() > from->expires_ms;
        list[reply.invitation_count++] = (struct invitation_status){
            .name = from->name,
            .made_ms = from->made_ms,
            .expires_ms = from->expires_ms,
            .end = expired ? (uint32_t)INVITATION_EXPIRED : (uint32_t)from->end,
            .role = (uint32_t)from->role};
    }
    if (at <= count) reply.next_site = at;
    call_answer_admin(call, &reply);
    free(list);
}

/* A rule change is an entry; the ledger has those before these. */
static void write_changes(const struct run_state *run, struct buffer *text) {
    for (uint32_t back = run_state_rule_changes(run); back-- > 0;) {
        const struct rule_change *change = run_state_rule_change(run, back);
        char at[CERTIFICATE_TIME_SIZE];
        buffer_append_text(text, "# %s, entry %llu, after version %llu: %s: %s (%s)\n",
                           certificate_time_text(change->time_ms / 1000, at),
                           (unsigned long long)change->index, (unsigned long long)change->version,
                           change->key, change->value,
                           *change->reason ? change->reason : "no reason given");
    }
}

/* What can be changed, as it holds, what `auto` comes to now, and how it came to be so. */
static void answer_rules(struct loop *loop, struct call *call) {
    const struct run_state *run = coordinator_state_run(loop->state);
    const struct manifest *rules = run_state_manifest(run);
    uint32_t present = run_state_present_sites(run);
    struct step_rules step = step_rules_of(rules, run_state_inner_steps(run), present);
    struct buffer text = {0};
    manifest_write_rules(rules, &text);
    buffer_append_text(&text,
                       "# now, with %u sites present: outer rate %g; period %u; staleness cap %u\n",
                       present, (double)step.rate, step.period,
                       staleness_cap_of(rules->merge.staleness_cap, present));
    write_changes(run, &text);
    call_answer_admin(call, &(struct admin_reply){.rules = buffer_bytes(&text)});
    buffer_deinit(&text);
}

static void answer_status(struct loop *loop, struct call *call) {
    struct admin_reply reply = {.has_run = true};
    uint8_t head[HEAD_SIZE];
    describe_run(loop, &reply.run);
    coordinator_state_head(loop->state, head);
    reply.head = bytes_of(head, sizeof head);
    call_answer_admin(call, &reply);
}

/* The state machine carried an order out, or said why not. An invitation's secret waited in the
 * call for this. */
void loop_order_done(struct loop *loop, const struct coordinator_action *action) {
    static const uint32_t codes[] = {[ORDER_DONE] = ADMIN_OK,
                                     [ORDER_NO_SUCH_SITE] = ADMIN_NOT_FOUND,
                                     [ORDER_BAD_VALUE] = ADMIN_INVALID,
                                     [ORDER_CONFLICT] = ADMIN_CONFLICT,
                                     [ORDER_BUSY] = ADMIN_BUSY};
    struct call *call = calls_find(loop->options.calls, action->call);
    if (!call) return;
    struct admin_reply reply = {.code = codes[action->outcome], .message = action->message};
    if (reply.code == ADMIN_OK) {
        reply.invitation_secret = buffer_bytes(&call->secret);
        reply.address = loop->options.advertise;
        reply.value = action->version;
        reply.has_run = true;
        describe_run(loop, &reply.run);
    }
    call_answer_admin(call, &reply);
    clear(call->secret.data, call->secret.size);
    call->secret.size = 0;
    call_release(call);
}

void loop_answer(struct loop *loop, struct call *call, enum admin_verb verb, uint32_t first_site) {
    switch (verb) {
    case ADMIN_STATUS: answer_status(loop, call); break;
    case ADMIN_INVITATIONS: answer_invitations(loop, call, first_site); break;
    case ADMIN_SITES: answer_sites(loop, call, first_site); break;
    case ADMIN_RULES: answer_rules(loop, call); break;
    default:
        call_answer_admin(
            call, &(struct admin_reply){.code = ADMIN_INVALID,
                                        .message = "this coordinator does not know that verb"});
        break;
    }
}
