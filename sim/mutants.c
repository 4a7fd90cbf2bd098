/* The table of mutants (sim/mutants.h). Each entry is text of a shipped file and what replaces
 * it: when that file changes, change the text here alike, and let scripts/sim-mutants find the bug.
 * A bug in the simulator itself would prove nothing of what ships: no file of sim/ is named. */
#include "sim/mutants.h"

#include <string.h>

/* clang-format off */
const struct mutant mutants[] = {
    /* --- the coordinator --- */
    {"ack_before_durable", "a commit is told durable before it is", "coordinator/ledger_queue.c",
     "        queue->sent = sent;\n        return;\n",
     "        queue->sent = sent;\n"
     "        if (MUTATED(\"ack_before_durable\")) "
     "queue->options.written(queue->options.context, OK, \"\");\n"
     "        return;\n"},
    {"sync_error_ignored", "a commit that failed counts as one that worked",
     "coordinator/ledger_queue.c",
     "    queue->options.written(queue->options.context, status,",
     "    if ((status == FAILED || status == FULL) && MUTATED(\"sync_error_ignored\")) status = "
     "OK;\n"
     "    queue->options.written(queue->options.context, status,"},
    {"shared_payload_deleted", "a refused payload is deleted although the ledger names it",
     "coordinator/transfers.c",
     "    if (!transfer->fresh) return;", "    if (!transfer->fresh && "
     "!MUTATED(\"shared_payload_deleted\")) return;"},
    {"receipt_before_commit", "a contribution's receipt is signed when its entry is made",
     "coordinator/coordinator_uploads.c",
     "    contribution_digest(upload.header, commit->header_digest);\n",
     "    contribution_digest(upload.header, commit->header_digest);\n"
     "    if (MUTATED(\"receipt_before_commit\") && upload.call)\n"
     "        state_sign_receipt(state, run_state_site(state->run, upload.site), "
     "run_state_size(state->run),\n"
     "                           &state_act(out, DO_RECEIPT, upload.call)->bytes);\n"},
    {"check_not_repeated", "the header's rules are not asked again once the payload was checked",
     "coordinator/coordinator_uploads.c",
     "    if (code == ACCEPTED) {\n        code = admit(",
     "    if (code == ACCEPTED && !MUTATED(\"check_not_repeated\")) {\n        code = admit("},
    {"revocation_not_deferred", "a site is revoked while its contribution is being merged",
     "coordinator/coordinator_orders.c",
     "        (event->admin.order == ORDER_REVOKE || ",
     "        ((event->admin.order == ORDER_REVOKE && !MUTATED(\"revocation_not_deferred\")) || "},
    {"presence_in_a_step", "a site's presence is entered while a step is computed",
     "coordinator/coordinator_presence.c",
     "    if (state->applying || state->stopping || run",
     "    if ((state->applying && !MUTATED(\"presence_in_a_step\")) || state->stopping || run"},
    {"rule_in_a_step", "a rule is changed while a step is computed",
     "coordinator/coordinator_orders.c",
     "         event->admin.order == ORDER_RULE)) {",
     "         (event->admin.order == ORDER_RULE && !MUTATED(\"rule_in_a_step\")))) {"},
    {"join_in_a_step", "a site joins while a step is computed", "coordinator/coordinator_orders.c",
     "    if (state->applying) { /* the step's rate",
     "    if (state->applying && !MUTATED(\"join_in_a_step\")) { /* the step's rate"},
    {"snapshot_too_early", "a snapshot says that no payload before its ledger's end is needed",
     "coordinator/coordinator_steps.c",
     "action->first_index = oldest_pending(state);",
     "action->first_index = MUTATED(\"snapshot_too_early\") ? run_state_size(state->run) + 1 : "
     "oldest_pending(state);"},
    {"snapshot_of_another_version", "a snapshot names the version before its content's",
     "coordinator/directory_contents.c",
     "    header.version = model->version;",
     "    header.version = model->version - (MUTATED(\"snapshot_of_another_version\") && "
     "model->version > 0);"},
    {"end_not_made_up_for", "a run whose tokens are spent is paused by the contribution that "
     "spends them, or never", "coordinator/coordinator_state.c",
     "    pause_if_spent(state, now, out);\n",
     "    if (!MUTATED(\"end_not_made_up_for\") ||\n"
     "        (state->commit_count > 0 && state->commits[state->commit_count - 1].answer == "
     "ANSWER_RECEIPT))\n"
     "        pause_if_spent(state, now, out);\n"},
    {"robbed_for_good", "a name is not invited again although its site was revoked",
     "coordinator/coordinator_orders.c",
     "        if (site && !site->revoked) return conflict(\"a site of that name is enrolled: "
     "revoke it first\");",
     "        if (site && (!site->revoked || MUTATED(\"robbed_for_good\"))) return conflict(\"a "
     "site of that name is enrolled: revoke it first\");"},
    {"fastest_for_ever", "a site that has left still counts as the fastest",
     "coordinator/coordinator_speed.c",
     "        if (state->presence[site - 1].steps_ms > 0 && run",
     "        const struct presence *ever = &state->presence[site - 1];\n"
     "        if (MUTATED(\"fastest_for_ever\") && ever->steps_ms > 0)\n"
     "            for (int twice = 0; twice < 2; twice++) dylu_note(&rates, ever->steps * 1000 / "
     "ever->steps_ms);\n"
     "        if (state->presence[site - 1].steps_ms > 0 && run"},
    {"away_for_never", "a site that is silent counts for ever",
     "coordinator/coordinator_presence.c",
     "    uint64_t away = away_at(state, presence), due",
     "    uint64_t away = MUTATED(\"away_for_never\") ? UINT64_MAX : away_at(state, presence), "
     "due"},
    {"away_for_good", "a site that was away and is heard again does not count",
     "coordinator/coordinator_presence.c",
     "    if (!presence->heard || is_away) return",
     "    if (!presence->heard || is_away || (enrolled->presence == SITE_AWAY && "
     "MUTATED(\"away_for_good\"))) return"},
    {"left_for_good", "a site that has left does not count when it comes back",
     "coordinator/coordinator_presence.c",
     "    if (presence->is_leaving) return SITE_LEFT;",
     "    if (enrolled->presence == SITE_LEFT && MUTATED(\"left_for_good\")) return SITE_LEFT;\n"
     "    if (presence->is_leaving) return SITE_LEFT;"},
    {"leaves_undrained", "a site leaves while what it has sent is not acknowledged",
     "node/node_rounds.c",
     "        if (phase != SLOT_TRAINING && phase != SLOT_ACCEPTED) return false;",
     "        if (phase != SLOT_TRAINING && phase != SLOT_ACCEPTED && "
     "!MUTATED(\"leaves_undrained\")) return false;"},
    {"pace_of_one_voice", "the fastest site alone sets the others' inner steps", "fed/run_state.c",
     "    return rates->count > 2 ? rates->second",
     "    return rates->count > 2 && !MUTATED(\"pace_of_one_voice\") ? rates->second"},
    {"tokens_as_told", "tokens count as they are told", "fed/run_tokens.c",
     "    if (is_measured(state, site, time_ms)) {", "    if (is_measured(state, site, time_ms) && "
     "!MUTATED(\"tokens_as_told\")) {"},
    {"step_tokens_unbounded", "a contribution may tell any number of tokens in a step",
     "fed/admission.c",
     "    if (c->tokens > c->inner_steps *", "    if (!MUTATED(\"step_tokens_unbounded\") && "
     "c->tokens > c->inner_steps *"},
    {"sequence_leads", "a sequence may lead the last by any number", "fed/admission.c",
     "site->site.last_sequence > SEQUENCE_LEAD_LIMIT)",
     "site->site.last_sequence > (MUTATED(\"sequence_leads\") ? UINT64_MAX : "
     "SEQUENCE_LEAD_LIMIT))"},
    {"loudest_voice", "the largest norm stands for the median", "fed/scale.c",
     "        double median = lower_median(norms, count), before = clip->median;",
     "        double median = lower_median(norms, count), before = clip->median;\n"
     "        for (uint32_t i = 0; i < count && MUTATED(\"loudest_voice\"); i++) median = "
     "fmax(median, norms[i]);"},
    {"median_jumps", "the median follows the voices at once", "fed/scale.c",
     "        median = within_a_factor_of_two(median, before);",
     "        if (!MUTATED(\"median_jumps\")) median = within_a_factor_of_two(median, before);"},
    {"no_first_bound", "before there is a median nothing is clipped", "fed/scale.c",
     "rules->factor * clip->median : rules->bound;",
     "rules->factor * clip->median : MUTATED(\"no_first_bound\") ? (double)INFINITY : "
     "rules->bound;"},
    {"revoked_voice", "a revoked site's norm still counts", "fed/scale.c",
     "    if (site <= clip->count) clip", "    if (site <= clip->count && "
     "!MUTATED(\"revoked_voice\")) clip"},
    {"budget_of_the_manifest", "a larger token budget is not taken", "fed/run_apply.c",
     "        if (entry->note.token_budget) state",
     "        if (entry->note.token_budget && !MUTATED(\"budget_of_the_manifest\")) state"},
    {"time_of_any_fragment", "a fragment's steps are taken over the time since the last "
     "contribution of any",
     "coordinator/coordinator_speed.c", "    uint64_t *from_ms = "
     "&presence->timed_from_ms[contribution->fragment], bit = UINT64_C(1) << "
     "contribution->fragment;",
     "    uint32_t of = MUTATED(\"time_of_any_fragment\") ? 0 : contribution->fragment;\n"
     "    uint64_t *from_ms = &presence->timed_from_ms[of], bit = UINT64_C(1) << of;"},
    {"lost_payload_stops", "a payload that cannot be read is the end of the coordinator",
     "coordinator/coordinator_steps.c",
     "    if (event->applied.lost_count > 0) {", "    if (event->applied.lost_count > 0 && "
     "!MUTATED(\"lost_payload_stops\")) {"},
    {"disk_not_asked_again", "what a person puts back on the disk is found by a restart alone",
     "coordinator/coordinator_steps.c",
     "    if (state->behind && !state->stopping) lost",
     "    if (state->behind && !state->stopping && !MUTATED(\"disk_not_asked_again\")) lost"},
    {"damaged_payload_forgotten", "a payload that the ledger names is deleted as damaged, and "
     "nobody is asked for it", "coordinator/transfers.c",
     "    if (event.applied.lost_count == 0) return;",
     "    if (event.applied.lost_count == 0 || MUTATED(\"damaged_payload_forgotten\")) return;"},
    {"lost_payload_kept", "a payload that nobody has is waited for, for ever",
     "coordinator/coordinator_lost.c",
     "uint64_t end = state->options.lost_ms >", "uint64_t end = MUTATED(\"lost_payload_kept\") "
     "|| state->options.lost_ms >"},
    {"lost_payload_blocks_start", "a restart needs every payload at once",
     "coordinator/directory_restore.c",
     "    if (status != OK && report->lost_payload) status",
     "    if (status != OK && report->lost_payload && !MUTATED(\"lost_payload_blocks_start\")) "
     "status"},
    {"snapshot_is_the_source", "without a readable snapshot the coordinator does not start",
     "coordinator/directory_restore.c",
     "    if (status == NOT_FOUND)\n        status = begin_anew(",
     "    if (status == NOT_FOUND && !MUTATED(\"snapshot_is_the_source\"))\n        status = "
     "begin_anew("},
    {"payload_withheld", "an entry goes to a site without the payload that it lacks",
     "coordinator/follow_place.c", "    out->has_payload = !out->is_dropped && index",
     "    out->has_payload = !MUTATED(\"payload_withheld\") && !out->is_dropped && index"},
    {"place_given_back_twice", "the end of an upload is counted twice",
     "coordinator/coordinator_uploads.c",
     "    presence->uploading--;\n    *upload", "    presence->uploading -= "
     "MUTATED(\"place_given_back_twice\") ? 2 : 1;\n    *upload"},
    {"rate_unbounded", "a site may contribute as often as it likes",
     "coordinator/coordinator_rate.c",
     "    if (since_ms >= least_ms) return 0;",
     "    if (since_ms >= least_ms || MUTATED(\"rate_unbounded\")) return 0;"},
    {"rate_of_its_own", "how often a site may contribute follows from what it does itself",
     "coordinator/coordinator_rate.c",
     "        if (other == site || run", "        if ((other == site) != "
     "MUTATED(\"rate_of_its_own\") || run"},
    {"offers_say_nothing", "who is refused as stale again and again does not say how long a round "
     "is", "coordinator/coordinator_rate.c",
     "    if (presence->offered_round_ms > 0) return",
     "    if (presence->offered_round_ms > 0 && !MUTATED(\"offers_say_nothing\")) return"},
    {"nobody_gives_way", "who has most uploads under way makes no room for who has few",
     "coordinator/coordinator_uploads.c",
     "    struct admitted *other = gives_way(state, own);",
     "    struct admitted *other = MUTATED(\"nobody_gives_way\") ? NULL : gives_way(state, own);"},
    {"all_places_for_one", "one site may have all places", "coordinator/coordinator_uploads.c",
     "    if (own >= MAX(limit / 4, 1))", "    if (own >= (MUTATED(\"all_places_for_one\") ? "
     "limit : MAX(limit / 4, 1)))"},
    {"comes_and_goes", "a site may come and go as often as it likes",
     "coordinator/coordinator_presence.c", "    if (now.monotonic_ms < due) {",
     "    if (now.monotonic_ms < due && !MUTATED(\"comes_and_goes\")) {"},
    {"observer_counts", "an observer counts as a site that trains", "fed/run_apply.c",
     "    if (slot->site.role == SITE_TRAINS) {\n        state->active_sites++;",
     "    if (slot->site.role == SITE_TRAINS || MUTATED(\"observer_counts\")) {\n"
     "        state->active_sites++;"},
    {"observer_away", "an observer that is silent is entered as away",
     "coordinator/coordinator_presence.c",
     "        if (enrolled->revoked || enrolled->role == SITE_OBSERVES) continue;",
     "        if (enrolled->revoked || (enrolled->role == SITE_OBSERVES && "
     "!MUTATED(\"observer_away\"))) continue;"},
    {"commit_kept", "the newest of the commits that are durable stays in the table",
     "coordinator/coordinator_state.c",
     "    state->commit_count -= count;\n", "    state->commit_count -= MUTATED(\"commit_kept\") "
     "? count - 1 : count;\n"},
    /* --- the rules --- */
    {"sequence_unchecked", "a number that was used is taken again", "fed/admission.c",
     "    if (c->sequence <= site->site.last_sequence)",
     "    if (c->sequence <= site->site.last_sequence && !MUTATED(\"sequence_unchecked\"))"},
    {"duplicate_unnoticed", "a repetition is taken for something new", "fed/admission.c",
     "    PASS(rules_of_sequence(site, c, header_digest, why));",
     "    if (!MUTATED(\"duplicate_unnoticed\")) PASS(rules_of_sequence(site, c, header_digest, "
     "why));"},
    {"epoch_unchecked", "a contribution of a superseded epoch is taken", "fed/admission.c",
     "    if (c->epoch != state->epoch)", "    if (c->epoch != state->epoch && "
     "!MUTATED(\"epoch_unchecked\"))"},
    {"chain_unchecked", "a contribution need not name the one before it", "fed/admission.c",
     "    if (memcmp(c->previous, site->site.last_digest, DIGEST_SIZE) != 0)",
     "    if (!MUTATED(\"chain_unchecked\") && memcmp(c->previous, site->site.last_digest, "
     "DIGEST_SIZE) != 0)"},
    {"base_unchecked", "a contribution may start from a version that does not exist",
     "fed/admission.c",
     "    if (c->base_version > state->version)", "    if (c->base_version > state->version && "
     "!MUTATED(\"base_unchecked\"))"},
    {"norm_unchecked", "the norm in a header is believed", "fed/admission.c",
     "    if (!(norm == contribution->norm))", "    if (!(norm == contribution->norm) && "
     "!MUTATED(\"norm_unchecked\"))"},
    {"revoked_admitted", "a revoked site is let in", "fed/admission.c",
     "    if (slot->site.revoked) REFUSE", "    if (slot->site.revoked && "
     "!MUTATED(\"revoked_admitted\")) REFUSE"},
    {"revoked_not_dropped", "what waits from a revoked site is merged", "fed/run_apply.c",
     "if (slot->pending[i].pending.contribution.site != entry->revoked.site) slot",
     "if (MUTATED(\"revoked_not_dropped\") || slot->pending[i].pending.contribution.site != "
     "entry->revoked.site) slot"},
    {"clip_dropped", "norms are not clipped", "fed/scale.c",
     "    if (!(norm > limit)) return 1;", "    if (!(norm > limit) || "
     "MUTATED(\"clip_dropped\")) return 1;"},
    {"scale_to_nearest", "a scale is rounded to the nearest, which may be above the limit",
     "fed/scale.c",
     "    if (!((double)nearest > value)) return nearest;",
     "    if (!((double)nearest > value) || MUTATED(\"scale_to_nearest\")) return nearest;"},
    {"clip_by_norm_alone", "a clip does not ask how many steps a norm is of", "fed/run_apply.c",
     "                    .clip = clip_of(limit, norm),",
     "                    .clip = clip_of(limit, MUTATED(\"clip_by_norm_alone\") ? c->norm : "
     "norm),"},
    {"influence_uncapped", "a weight has no upper limit", "fed/weight.c",
     "    return fmax(fmin(weight, WEIGHT_MOST), WEIGHT_LEAST);",
     "    return MUTATED(\"influence_uncapped\") ? weight : "
     "fmax(fmin(weight, WEIGHT_MOST), WEIGHT_LEAST);"},
    {"quorum_of_the_gone", "a quorum waits for sites that are not enrolled any more",
     "fed/merge_policy.c",
     "        quorum = MIN(settings->quorum, view->present);",
     "        quorum = MUTATED(\"quorum_of_the_gone\") ? settings->quorum : "
     "MIN(settings->quorum, view->present);"},
    {"over_but_waits", "what waits when the run ends is not merged", "fed/merge_policy.c",
     "        quorum = 1;\n", "        quorum = MUTATED(\"over_but_waits\") ? UINT32_MAX : 1;\n"},
    {"norm_limit_forgotten", "a norm that no step can bear is taken", "fed/admission.c",
     "    if (!(c->norm <= NORM_LIMIT)) REFUSE", "    if (!(c->norm <= NORM_LIMIT) && "
     "!MUTATED(\"norm_limit_forgotten\")) REFUSE"},
    /* --- the site --- */
    {"rebase_forgotten", "a merge is told without having been done", "node/training_marks.c",
     "    replica_rebase(replica, fragment, local,",
     "    if (!MUTATED(\"rebase_forgotten\") || why != MOVE_MERGED) replica_rebase(replica, "
     "fragment, local,"},
    {"pruned_by_digest", "a merged payload is deleted although another contribution has the same "
     "bytes", "node/claims.c",
     "        if (claims_list_has(claims, &list, ended->items[i])) continue;",
     "        if (claims_list_has(claims, &list, ended->items[i]) && "
     "!MUTATED(\"pruned_by_digest\")) continue;"},
    {"spool_after_send", "a message is told, and so sent, before its record is durable",
     "node/keeper.c",
     "        enum status status = write_round(keeper, job);",
     "        if (MUTATED(\"spool_after_send\")) tell(keeper, &event);\n        enum status "
     "status = write_round(keeper, job);"},
    {"encoded_twice", "a message whose record found no room is made once more", "node/keeper.c",
     "    if (!job->made) make_message(keeper, job);",
     "    if (!job->made || MUTATED(\"encoded_twice\")) {\n        job->payload.size = 0;\n      "
     "  make_message(keeper, job);\n    }"},
    {"applied_twice", "a checkpoint names the version before its content's", "node/keeper.c",
     "{.version = replica->global.version,",
     "{.version = replica->global.version - (MUTATED(\"applied_twice\") && "
     "replica->global.version > 0),"},
    {"old_feedback", "a record holds no feedback", "node/keeper.c",
     "        .feedback = fragment_floats(replica, replica->feedback, fragment),",
     "        .feedback = fragment_floats(replica, MUTATED(\"old_feedback\") ? NULL : "
     "replica->feedback, fragment),"},
    {"refusal_unrecorded", "the end of a refused round holds no feedback", "node/keeper.c",
     "    if (refused) feedback =", "    if (refused && !MUTATED(\"refusal_unrecorded\")) "
     "feedback ="},
    {"refusal_not_counted", "a restart forgets the steps that a refused message had counted",
     "node/restore.c",
     "        if (!in_flight) round_progress_over(&progress, round->refused);",
     "        if (!in_flight) round_progress_over(&progress, round->refused && "
     "!MUTATED(\"refusal_not_counted\"));"},
    {"lost_step_passed", "a restart goes by entries that its replica could not follow",
     "node/restore.c",
     "            out->entries = run_state_size(run);",
     "            if (!MUTATED(\"lost_step_passed\")) out->entries = run_state_size(run);"},
    {"snapshot_refetched", "a checkpoint forgets what the run's snapshot had", "node/keeper.c",
     "    keeper->options.payloads_from = snapshot->payloads_from;",
     "    if (!MUTATED(\"snapshot_refetched\")) keeper->options.payloads_from = "
     "snapshot->payloads_from;"},
    {"stray_answer_taken", "an answer to a transfer that is over is taken for one to the next",
     "node/node_messages.c",
     "    return slot->phase == SLOT_UPLOADING && slot",
     "    return (slot->phase == SLOT_UPLOADING || MUTATED(\"stray_answer_taken\")) && slot"},
    {"residual_dropped", "a refused message's mass does not go back", "node/replica.c",
     "    if (replica->feedback) { TRY(codec_restore(",
     "    if (replica->feedback && !MUTATED(\"residual_dropped\")) { TRY(codec_restore("},
    {"late_receipt_taken", "a receipt of an epoch that is over counts", "node/node_messages.c",
     "    if (got.epoch < run_state_epoch(state->run)) {",
     "    if (got.epoch < run_state_epoch(state->run) && !MUTATED(\"late_receipt_taken\")) {"},
    {"verdict_overwritten", "a duplicate's receipt is rejected, and the contribution accepted "
     "all the same", "node/node_messages.c",
     "        take_duplicate(state, slot, event->bytes, now, out);\n",
     "        take_duplicate(state, slot, event->bytes, now, out);\n        if "
     "(MUTATED(\"verdict_overwritten\")) slot->phase = SLOT_ACCEPTED;\n"},
    {"inclusion_not_asked", "what was accepted is waited for, for ever", "node/node_messages.c",
     "    return slot->phase == SLOT_ACCEPTED && !slot->in_ledger",
     "    return !MUTATED(\"inclusion_not_asked\") && slot->phase == SLOT_ACCEPTED && "
     "!slot->in_ledger"},
    {"stray_head_believed", "a superseded coordinator's head is held against its successor",
     "node/node_ledger.c",
     "    if (head.epoch < run_state_epoch(state->run)) {",
     "    if (head.epoch < run_state_epoch(state->run) && !MUTATED(\"stray_head_believed\")) {"},
    {"counts_forgotten", "a restart forgets the steps and tokens that no message has counted",
     "node/node_state.c",
     "    slot->steps_unsent = progress->steps;\n    slot->tokens_unsent = progress->tokens;\n",
     "    slot->steps_unsent = MUTATED(\"counts_forgotten\") ? 0 : progress->steps;\n"
     "    slot->tokens_unsent = MUTATED(\"counts_forgotten\") ? 0 : progress->tokens;\n"},
    {"round_begins_anew", "a restart forgets how far a round was", "node/node_rounds.c",
     "        slot->steps_mark -= (int64_t)slot->round_steps;\n",
     "        if (!MUTATED(\"round_begins_anew\")) slot->steps_mark -= "
     "(int64_t)slot->round_steps;\n"},
    {"payloads_from_forgotten", "a restart forgets what the run's snapshot had",
     "node/node_state.c",
     "    state->payloads_from = options->payloads_from;\n",
     "    if (!MUTATED(\"payloads_from_forgotten\")) state->payloads_from = "
     "options->payloads_from;\n"},
    {"receipt_forgotten", "a restart forgets that a message was accepted", "node/node_messages.c",
     "        if (spooled->accepted.size > 0 && ", "        if (!MUTATED(\"receipt_forgotten\") "
     "&& spooled->accepted.size > 0 && "},
    {"upload_forgotten", "an upload that broke is never resumed", "node/node_messages.c",
     "    if (slot) wait_and_retry(state, slot, 0, now);",
     "    if (slot && !MUTATED(\"upload_forgotten\")) wait_and_retry(state, slot, 0, now);"},
    {"busy_is_final", "a refusal for now is taken for one for good, and forgotten",
     "node/node_messages.c",
     "    if (refusal_is_temporary(code)) {", "    if (MUTATED(\"busy_is_final\") && "
     "refusal_is_temporary(code)) return;\n    if (refusal_is_temporary(code)) {"},
    {"base_too_young", "a header names the newest version as its base", "node/node_messages.c",
     "                                 .base_version = slot->base_version,",
     "                                 .base_version = MUTATED(\"base_too_young\") ? "
     "run_state_version(state->run) : slot->base_version,"},
    {"waits_for_merge", "training waits although overlap is on", "node/node_rounds.c",
     "    if (state->options.overlap) return false;",
     "    if (state->options.overlap && !MUTATED(\"waits_for_merge\")) return false;"},
    {"nothing_to_give", "a site that waits does not train although others wait for a fragment of "
     "which it has nothing", "node/node_rounds.c",
     "        if (waits_for_merge(state) && owes_a_step(state)) {",
     "        if (waits_for_merge(state) && owes_a_step(state) && !MUTATED(\"nothing_to_give\")) "
     "{"},
    {"sequence_forgotten", "a restart forgets which numbers were used", "node/node_state.c",
     "    state->sequence = options->last_sequence;",
     "    state->sequence = MUTATED(\"sequence_forgotten\") ? 0 : options->last_sequence;"},
    {"leaves_no_paused_run", "a site does not leave while the run is paused", "node/node_rounds.c",
     "        if (phase == SLOT_BACKOFF && run_state_phase(state->run) == RUN_PAUSED) continue;",
     "        if (phase == SLOT_BACKOFF && run_state_phase(state->run) == RUN_PAUSED && "
     "!MUTATED(\"leaves_no_paused_run\")) continue;"},
    {"beats_too_seldom", "a site beats as seldom as its operator says, whatever the run's "
     "away_after", "node/node_link.c",
     "               run_state_manifest(state->run)->merge.away_after_ms / 3);",
     "               MUTATED(\"beats_too_seldom\") ? UINT64_MAX : "
     "run_state_manifest(state->run)->merge.away_after_ms / 3);"},
    {"stub_unchecked", "a stub is taken for whatever of that number is here",
     "node/journal_entries.c",
     "    if (stub->header == 0 || ", "    if (stub->header == 0 || MUTATED(\"stub_unchecked\") "
     "|| "},
    {"entry_without_payload", "an entry is believed without the payload that it names",
     "node/entry_payload.c", "    out->is_due = !is_dropped;",
     "    out->is_due = !is_dropped && !MUTATED(\"entry_without_payload\");"},
    {"damaged_payload_halts", "a site whose copy of a payload is damaged gives up",
     "node/node_ledger.c",
     "    if (event->status != OK && event->applied.lost) {",
     "    if (event->status != OK && event->applied.lost && !MUTATED(\"damaged_payload_halts\")) "
     "{"},
    /* --- following --- */
    {"follow_leaves_theta_s", "what is followed goes to theta_local alone, not to a message in "
     "flight", "node/replica.c",
     "    if (in_flight) elementwise_rebase(", "    if (in_flight && "
     "!MUTATED(\"follow_leaves_theta_s\")) elementwise_rebase("},
    {"follow_in_name", "the base's version moves, and nothing else", "node/replica.c",
     "    replica_rebase(replica, fragment, local, REBASE_KEEP);",
     "    if (MUTATED(\"follow_in_name\")) replica->base_version[fragment] = "
     "replica->next_version[fragment];\n"
     "    else replica_rebase(replica, fragment, local, REBASE_KEEP);"},
    {"follow_of_the_next", "a version that is still being applied is followed",
     "node/node_rounds.c",
     "    bool applies = state->applying && !state->lost;",
     "    bool applies = state->applying && !state->lost && !MUTATED(\"follow_of_the_next\");"},
    {"gives_unknown", "a site gives before its ledger shows its own entry", "node/node_rounds.c",
     "run_state_phase(state->run) == RUN_ACTIVE &&\n"
     "           run_state_site(state->run, state->options.site);",
     "run_state_phase(state->run) == RUN_ACTIVE &&\n"
     "           (run_state_site(state->run, state->options.site) || MUTATED(\"gives_unknown\"));"},
    {"zeros_kept", "a checkpoint is written before the model has come", "node/keeper.c",
     "    if (keeper->options.lacks_model && (!keeper->loaded",
     "    if (!MUTATED(\"zeros_kept\") && keeper->options.lacks_model && (!keeper->loaded"},
    {"zeros_followed", "who lacks the model follows without it", "node/node_link.c",
     "    } else if (cheaper || state->lacks_model) {",
     "    } else if (cheaper || (state->lacks_model && !MUTATED(\"zeros_followed\"))) {"},
    {"restored_forgotten", "what a person says of a site's directory is not heard",
     "coordinator/coordinator_places.c",
     "    presence->is_restored |= event->following.restored;",
     "    presence->is_restored |= event->following.restored && !MUTATED(\"restored_forgotten\");"},
    {"never_follows", "a site stands on its own merges", "node/node_rounds.c",
     "        if (!may_advance(slot)) continue;",
     "        if (!may_advance(slot) || MUTATED(\"never_follows\")) continue;"},
    {"follow_while_encoding", "the base moves while a delta is made from it",
     "node/node_rounds.c",
     "slot->phase == SLOT_TRAINING || slot->phase == SLOT_UPLOADING ||",
     "slot->phase == SLOT_TRAINING || (slot->phase == SLOT_ENCODING && "
     "MUTATED(\"follow_while_encoding\")) || slot->phase == SLOT_UPLOADING ||"},
    {"orders_overtake", "a second order to move is given while the first is under way",
     "node/node_rounds.c",
     "    if (slot->moving) { MARK(\"slot: an order waits until the base has moved\");",
     "    if (slot->moving && !MUTATED(\"orders_overtake\")) { MARK(\"slot: an order waits until "
     "the base has moved\");"},
    {"loaded_steps_again", "a step that a loaded snapshot has is applied once more",
     "node/node_ledger.c",
     "    } else if (entry.step.version <= state->replica_version) {",
     "    } else if (entry.step.version <= state->replica_version && "
     "!MUTATED(\"loaded_steps_again\")) {"},
    {"baseless_follows", "a message whose base is gone follows from anywhere",
     "node/node_rounds.c",
     "    return !slot->moving && !slot->baseless &&",
     "    return !slot->moving && (!slot->baseless || MUTATED(\"baseless_follows\")) &&"},
    {"capture_ahead", "a capture in the middle of a move names the version that it goes to",
     "node/training_marks.c",
     "        capture->fragment[i].base_version = replica->base_version[i];",
     "        capture->fragment[i].base_version = MUTATED(\"capture_ahead\") ? "
     "replica->next_version[i] : replica->base_version[i];"},
    {"replay_past_the_base", "a restart takes the base of a message in flight from where the "
     "replay ends", "node/restore.c",
     "round->base_version != global->version) continue;",
     "(MUTATED(\"replay_past_the_base\") ? round->base_version > global->version : "
     "round->base_version != global->version)) continue;"},
    {"base_of_the_record", "a restart takes a base that has moved for the one that was signed",
     "node/restore.c",
     "        kept ? r->checkpoint->fragment[fragment].base_version : round->base_version;",
     "        kept && !MUTATED(\"base_of_the_record\") ? "
     "r->checkpoint->fragment[fragment].base_version : round->base_version;"},
    {"baseless_forgotten", "a second restart takes a base that is gone for one that is there",
     "node/restore.c",
     "        spooled->baseless = r->checkpoint->fragment[fragment].baseless;\n",
     "        spooled->baseless = r->checkpoint->fragment[fragment].baseless && "
     "!MUTATED(\"baseless_forgotten\");\n"},
    {"follow_forgets_its_own", "the step with a part of ours is followed, not merged",
     "node/training_marks.c",
     "why == MOVE_MERGED ? REBASE_SENT :",
     "why == MOVE_MERGED ? (MUTATED(\"follow_forgets_its_own\") ? REBASE_KEEP : REBASE_SENT) :"},
    /* --- the codec and the model --- */
    {"decay_forgotten", "old feedback is not decayed", "codec/codec.c",
     "x[i] = CODEC_FEEDBACK_DECAY * e[i] + x[i];", "x[i] = (MUTATED(\"decay_forgotten\") ? 1.0f "
     ": CODEC_FEEDBACK_DECAY) * e[i] + x[i];"},
    {"payload_digest_unchecked", "a payload is what lies under its digest, whatever that is",
     "fed/payload.c",
     "    if (!digest_equal(digest, terms->digest))",
     "    if (!digest_equal(digest, terms->digest) && !MUTATED(\"payload_digest_unchecked\"))"},
    {"replay_off_by_one", "a replay applies the snapshot's own step again", "fed/replay.c",
     "    if (version > replay->options->tensors_from) {",
     "    if (version > replay->options->tensors_from || (MUTATED(\"replay_off_by_one\") && "
     "version == replay->options->tensors_from)) {"},
    {"count_of_parts", "a snapshot forgets half of the contributions in D", "fed/snapshot.c",
     "buffer_u32(out, state->sums[f].count);",
     "buffer_u32(out, MUTATED(\"count_of_parts\") ? state->sums[f].count / 2 : "
     "state->sums[f].count);"},
    {"older_invitation_valid", "a newer invitation leaves an older one of its name open",
     "fed/run_apply.c",
     "    end_invitations(state, entry->invited.name, INVITATION_REPLACED);\n",
     "    if (!MUTATED(\"older_invitation_valid\")) end_invitations(state, entry->invited.name, "
     "INVITATION_REPLACED);\n"},
    /* --- what strangers offer --- */
    {"inclusion_unchecked", "a receipt's proof is believed", "fed/receipt.c",
     "    if (!merkle_check_inclusion(leaf, read.index, read.size, &read.proof, read.root))",
     "    if (!merkle_check_inclusion(leaf, read.index, read.size, &read.proof, read.root) && "
     "!MUTATED(\"inclusion_unchecked\"))"},
    {"snapshot_digest_unchecked", "a snapshot's content need not be the one that its header names",
     "fed/snapshot.c",
     "    if (memcmp(digest, header->content_digest, DIGEST_SIZE) != 0)",
     "    if (memcmp(digest, header->content_digest, DIGEST_SIZE) != 0 && "
     "!MUTATED(\"snapshot_digest_unchecked\"))"},
    {"old_history_unchecked", "a proof of consistency need not lead to the old root",
     "fed/merkle.c",
     "digest_equal(old_hash, old_root) && digest_equal(hash, root);",
     "(digest_equal(old_hash, old_root) || MUTATED(\"old_history_unchecked\")) && "
     "digest_equal(hash, root);"},
};
/* clang-format on */
const size_t mutant_count = sizeof mutants / sizeof mutants[0];

static const char *active;

bool mutant_choose(const char *name, FILE *out) {
    for (size_t i = 0; i < mutant_count; i++) {
        if (strcmp(mutants[i].name, name) == 0) active = mutants[i].name;
        if (strcmp(name, "list") == 0) fprintf(out, "%s\n", mutants[i].name);
    }
    if (!active && strcmp(name, "list") != 0) fprintf(out, "there is no mutant \"%s\"\n", name);
    return active != NULL;
}

bool mutant_is(const char *name) { return active && strcmp(active, name) == 0; }
