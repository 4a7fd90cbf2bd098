/* The admin: aims that are looked after, orders at random moments, half of them wrong; and
 * strangers who try to connect. */
#include <string.h>

#include "base/memory.h"
#include "sim/federation_internal.h"

/* ---- the admin ------------------------------------------------------------------------------- */

static void order(struct federation *f, struct coordinator_event *event, const char *what) {
    world_trace(&f->world, "admin        %s %s", what, event->admin.name);
    coordinator_order(f->coordinator, event);
}

static void plain_order(struct federation *f, enum admin_order kind, const char *what) {
    struct coordinator_event event = {0};
    event.admin.order = kind;
    snprintf(event.admin.reason, sizeof event.admin.reason, "because");
    order(f, &event, what);
}

static void invite_with(struct federation *f, uint32_t process,
                        const uint8_t secret_digest[static DIGEST_SIZE]) {
    struct coordinator_event event = {0};
    event.admin.order = ORDER_INVITE;
    snprintf(event.admin.name, sizeof event.admin.name, "%s", site_name(f->sites[process]));
    memcpy(event.admin.secret_digest, secret_digest, DIGEST_SIZE);
    if (f->scenario.site[process].observes) event.admin.role = SITE_OBSERVES;
    order(f, &event, "invite");
}

static void invite(struct federation *f, uint32_t process) {
    invite_with(f, process, f->secrets[process]);
}

static void revoke(struct federation *f, uint32_t process) {
    struct coordinator_event event = {0};
    event.admin.order = ORDER_REVOKE;
    snprintf(event.admin.name, sizeof event.admin.name, "%s", site_name(f->sites[process]));
    order(f, &event, "revoke");
}

/* A site says that its invitation was used with another key: the thief is thrown out, and once that
 * is durable the site is invited again. A coordinator that crashes before has the thief back. */
static void help_the_robbed(struct federation *f, uint32_t process,
                            const struct run_site *in_its_name) {
    const struct run_site *durable =
        run_state_site_named(check_run(f->check), site_name(f->sites[process]));
    if (in_its_name && !in_its_name->revoked) {
        revoke(f, process);
        return;
    }
    if (durable && !durable->revoked) return;
    for (size_t i = 0; i < DIGEST_SIZE; i++)
        f->secrets[process][i] = (uint8_t)world_luck_below(&f->world, 256);
    site_take_invitation(f->sites[process], f->secrets[process]);
    f->world.tally.robbed++;
}

static void ask_to_join(struct federation *f, uint32_t process, const uint8_t *secret_digest,
                        const struct key_pair *key, const char *name) {
    struct message message = {.kind = MESSAGE_JOIN};
    char padded[SITE_NAME_SIZE] = {0};
    snprintf(padded, sizeof padded, "%s", name);
    buffer_append(&message.bytes, secret_digest, DIGEST_SIZE);
    buffer_append(&message.bytes, key_pair_public(key), PUBLIC_KEY_SIZE);
    buffer_append(&message.bytes, padded, sizeof padded);
    network_send(f->network, network_open(f->network, process, 0), true, &message);
}

/* A thief of the admin's mail comes first, from the machine of the first site, with a key of their
 * own. */
static void on_theft(void *context, struct event *event) {
    struct federation *f = context;
    uint32_t process = (uint32_t)event->number;
    if (!f->fault_phase || !f->world.processes[1].alive ||
        !world_fault(&f->world, FAULT_THEFT, process))
        return;
    ask_to_join(f, 1, f->secrets[process], f->keys[COORDINATOR], site_name(f->sites[process]));
}

/* Of the first message to that site, which went astray: the admin sent another. */
static void old_secret(const struct federation *f, uint32_t process,
                       uint8_t out[static DIGEST_SIZE]) {
    memcpy(out, f->secrets[process], DIGEST_SIZE);
    out[0] ^= 0xff;
}

/* Who finds the first message comes when the second is in the ledger for good: at once, or, where
 * the site was faster, in vain either way. */
static void on_old_token(void *context, struct event *event) {
    struct federation *f = context;
    uint32_t process = (uint32_t)event->number;
    uint8_t secret[DIGEST_SIZE];
    if (!f->fault_phase) return;
    if (!run_state_invitation(check_run(f->check), f->secrets[process]) ||
        !f->world.processes[1].alive) {
        world_post(&f->world, 10 * MS, NO_PROCESS, on_old_token, f, NULL)->number = process;
        return;
    }
    if (!world_fault(&f->world, FAULT_THEFT, process)) return;
    old_secret(f, process, secret);
    ask_to_join(f, 1, secret, f->keys[COORDINATOR], site_name(f->sites[process]));
}

static bool is_mislaid(const struct federation *f, uint32_t process) {
    return process == f->scenario.sites + 1 &&
           random_hash(f->world.seed, UINT64_C(0x7ef7)) % 6 >= 4;
}

static bool is_stolen(const struct federation *f, uint32_t process) {
    return process == f->scenario.sites + 1 &&
           random_hash(f->world.seed, UINT64_C(0x7ef7)) % 6 == 0;
}

/* With more tokens where they are spent: what is tried is not a run that is out of them. */
static void resume(struct federation *f, const struct run_state *run) {
    struct coordinator_event event = {.admin.order = ORDER_RESUME};
    if (run_state_is_spent(run)) event.admin.token_budget = 2 * run_state_tokens(run) + 1000;
    order(f, &event, "resume");
}

/* The admin's aims, looked after until the durable ledger shows them. */
void federation_on_admin(void *context, struct event *event) {
    struct federation *f = context;
    const struct run_state *run = check_run(f->check);
    const struct run_state *now = coordinator_run(f->coordinator);
    (void)event;
    for (uint32_t process = 1; now && process <= f->site_count; process++) {
        const struct run_site *site = run_state_site_named(now, site_name(f->sites[process]));
        if (federation_is_absent(f, process)) continue;
        bool wanted = f->world.now >= f->invited_from[process] && !f->revoking[process];
        if (wanted && site_is_robbed(f->sites[process])) help_the_robbed(f, process, site);
        now = coordinator_run(f->coordinator);
        if (!now) break;
        site = run_state_site_named(now, site_name(f->sites[process]));
        if (wanted && (!site || site->revoked) && !run_state_invitation(now, f->secrets[process])) {
            if (!site && is_mislaid(f, process)) {
                uint8_t secret[DIGEST_SIZE];
                old_secret(f, process, secret);
                invite_with(f, process, secret);
                if (!coordinator_run(f->coordinator)) break;
                world_post(&f->world, 0, NO_PROCESS, on_old_token, f, NULL)->number = process;
            }
            invite(f, process);
            if (!site && is_stolen(f, process))
                world_post(&f->world, 0, NO_PROCESS, on_theft, f, NULL)->number = process;
        }
        now = coordinator_run(f->coordinator);
        if (!now) break;
        site = run_state_site_named(now, site_name(f->sites[process]));
        if (f->revoking[process] && site && !site->revoked) revoke(f, process);
        now = coordinator_run(f->coordinator);
    }
    if (now && !f->pause_wanted && (!f->fault_phase || run_state_is_spent(now)) &&
        run_state_phase(now) == RUN_PAUSED)
        resume(f, now);
    now = coordinator_run(f->coordinator);
    if (now && f->stop_wanted && run_state_phase(now) != RUN_STOPPED)
        plain_order(f, ORDER_STOP, "stop");
    (void)run;
    world_post(&f->world, 400 * MS * f->scenario.pace, NO_PROCESS, federation_on_admin, f, NULL);
}

static void rule_order(struct coordinator_event *event, const char *key, const char *value) {
    event->admin.order = ORDER_RULE;
    snprintf(event->admin.key, sizeof event->admin.key, "%s", key);
    snprintf(event->admin.value, sizeof event->admin.value, "%s", value);
}

/* Half of what an admin types is wrong, or too late. */
static void wrong_order(struct federation *f, uint64_t kind, uint32_t process) {
    struct coordinator_event event = {0};
    const struct run_state *run = coordinator_run(f->coordinator);
    snprintf(event.admin.name, sizeof event.admin.name, "%s", site_name(f->sites[process]));
    switch (kind) {
    case 0: rule_order(&event, "inner.inner_steps", ""); break; /* none at all */
    case 1: rule_order(&event, "inner.inner_steps", "1000001"); break;
    case 2: { /* an enrolled site is not invited again, another cannot be revoked */
        const struct run_site *site = run ? run_state_site_named(run, event.admin.name) : NULL;
        event.admin.order = site && !site->revoked ? ORDER_INVITE : ORDER_REVOKE;
        break;
    }
    case 3:
        event.admin.order = ORDER_INVITE;
        snprintf(event.admin.name, sizeof event.admin.name, "No Name");
        break;
    case 4: /* the same secret for another */
        if (!run || !run_state_invitation(run, f->secrets[process])) return;
        event.admin.order = ORDER_INVITE;
        snprintf(event.admin.name, sizeof event.admin.name, "somebody");
        memcpy(event.admin.secret_digest, f->secrets[process], DIGEST_SIZE);
        break;
    case 5: /* one that will have expired */
        event.admin.order = ORDER_INVITE;
        snprintf(event.admin.name, sizeof event.admin.name, "late");
        event.admin.secret_digest[0] = 7;
        event.admin.expires_ms = 1;
        break;
    default: event.admin.order = (enum admin_order)11; break; /* of a program that is newer */
    }
    order(f, &event, "wrongly orders");
}

/* Somebody tries to connect with an invitation that is not theirs, or not good any more. */
static void stranger_attempt(struct federation *f, uint64_t kind, uint32_t process) {
    static const uint8_t late[DIGEST_SIZE] = {7};
    if (!f->world.processes[process].alive || f->halted[process]) return;
    if (kind == 0) {
        wrong_order(f, 5, process);
        ask_to_join(f, process, late, f->keys[process], "late");
    } else {
        ask_to_join(f, process, f->secrets[process], f->keys[kind == 1 ? COORDINATOR : process],
                    site_name(f->sites[process]));
    }
}

static void order_snapshot(struct federation *f, uint32_t process) {
    (void)process;
    plain_order(f, ORDER_SNAPSHOT, "snapshot");
}

static void order_revocation(struct federation *f, uint32_t process) {
    f->revoking[process] = true; /* the admin sees to it */
    revoke(f, process);
}

/* Rules that no check here keeps a book of its own of; the first ones change what a step does. */
enum { RULES_OF_STEPS = 5 };

static void order_rule_of(struct federation *f, bool of_steps) {
    static const char *const rules[][2] = {{"outer.learning_rate", "auto"},
                                           {"outer.learning_rate", "0.5"},
                                           {"outer.period", "auto"},
                                           {"outer.period", "1"},
                                           {"merge.staleness_weight", "polynomial"},
                                           {"merge.quorum", "1"},
                                           {"merge.quorum", "3"},
                                           {"merge.staleness_cap", "2"},
                                           {"merge.staleness_cap", "40"},
                                           {"merge.staleness_cap", "auto"},
                                           {"inner.inner_steps", "5"},
                                           {"model.hidden", "3"},
                                           {"merge.quorum", "none"}};
    struct coordinator_event event = {0};
    uint64_t at = world_luck_below(&f->world, of_steps ? RULES_OF_STEPS : COUNT_OF(rules));
    if (f->scenario.site[f->scenario.sites].changed == CHANGED_FLOODS &&
        strcmp(rules[at][0], "merge.staleness_cap") == 0)
        return; /* as in sim/scenario.c */
    rule_order(&event, rules[at][0], rules[at][1]);
    order(f, &event, "sets a rule");
}

static void order_rule_of_steps(struct federation *f, uint32_t process) {
    (void)process;
    order_rule_of(f, true);
}

static void order_inner_steps(struct federation *f) {
    struct coordinator_event event = {0};
    char value[RULE_VALUE_SIZE];
    snprintf(value, sizeof value, "%u", (unsigned)world_between(&f->world, 2, 10));
    rule_order(&event, "inner.inner_steps", value);
    order(f, &event, "inner steps");
}

void federation_on_order(void *context, struct event *event) {
    struct federation *f = context;
    (void)event;
    if (!federation_again(f, f->scenario.every.order, federation_on_order)) return;
    uint64_t kind = world_plan(&f->world, 0, 17), wrong = world_plan(&f->world, 0, 6);
    bool in_step = world_plan(&f->world, 0, 1) == 1;
    uint32_t process = federation_planned_site(f);
    uint32_t revoked = 0;
    for (uint32_t i = 1; i <= f->site_count; i++) revoked += f->revoking[i];
    if (!world_fault(&f->world, FAULT_ORDER, process)) return;
    if (kind < 2)
        plain_order(f, ORDER_PAUSE, "pause");
    else if (kind < 5)
        plain_order(f, ORDER_RESUME, "resume");
    else if (kind < 7)
        order_inner_steps(f);
    else if (kind == 14)
        order_rule_of(f, false);
    else if (kind == 15)
        federation_at_moment(f, federation_is_stepping, order_rule_of_steps, process);
    else if (kind < 9)
        federation_at_moment(f, federation_is_stepping, order_snapshot, process);
    else if (kind < 12)
        wrong_order(f, wrong, process);
    else if (kind < 14)
        stranger_attempt(f, wrong % 3, process);
    else if (revoked == 0 && f->scenario.sites >= 3 &&
             f->world.now > f->scenario.fault_phase_us / 3)
        federation_at_moment(f, in_step ? federation_is_stepping : federation_is_submitting,
                             order_revocation, process);
}

void federation_pause(struct federation *f) {
    f->pause_wanted = true;
    plain_order(f, ORDER_PAUSE, "pause");
}

void federation_invite_latecomer(struct federation *f) {
    struct coordinator_event event = {0};
    event.admin.order = ORDER_INVITE;
    snprintf(event.admin.name, sizeof event.admin.name, "latecomer");
    event.admin.secret_digest[0] = 9;
    order(f, &event, "invites");
}

void federation_latecomer_attempts(struct federation *f) {
    static const uint8_t secret[DIGEST_SIZE] = {9};
    ask_to_join(f, 1, secret, f->keys[COORDINATOR], "latecomer");
}
