/* The kinds of hostile input (sim/hostile_input.h), and the one that an event draws; each kind is
 * in a hostile_input_*.c file. */
#include "sim/hostile_input.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/hostile_input_internal.h"

static const struct {
    const char *name;
    void (*run)(struct offer *);
} kinds[HOSTILE_COUNT] = {
    [HOSTILE_MANIFEST] = {"manifest", offer_manifest},
    [HOSTILE_SETTING] = {"setting", offer_setting},
    [HOSTILE_IDENTITY] = {"identity", offer_identity},
    [HOSTILE_INVITATION] = {"invitation", offer_invitation},
    [HOSTILE_PROOF] = {"proof", offer_proof},
    [HOSTILE_RECEIPT] = {"receipt", offer_receipt},
    [HOSTILE_ENTRY] = {"entry", offer_entry},
    [HOSTILE_RULE] = {"rule", offer_rule},
    [HOSTILE_GENESIS] = {"genesis", offer_genesis},
    [HOSTILE_REPLAY] = {"replay", offer_replay},
    [HOSTILE_STEP] = {"step", offer_step},
    [HOSTILE_SNAPSHOT] = {"snapshot", offer_snapshot},
    [HOSTILE_MESSAGE] = {"message", offer_message},
    [HOSTILE_DELTA] = {"delta", offer_delta},
    [HOSTILE_SUBMISSION] = {"submission", offer_submission},
    [HOSTILE_SITE_EVENT] = {"site_event", offer_site_event},
    [HOSTILE_COORDINATOR_EVENT] = {"coordinator_event", offer_coordinator_event}};

const char *hostile_input_name(enum hostile_input_kind kind) { return kinds[kind].name; }

void claim(struct offer *offer, bool holds, const char *what) {
    if (holds || offer->failed) return;
    offer->failed = true;
    (void)error_set(offer->error, FAILED, "%s", what);
}

uint64_t offer_below(struct offer *offer, uint64_t limit) {
    return random_below(&offer->random, limit);
}

void offer_bend(struct offer *offer, struct buffer *bytes) {
    static const uint8_t odd[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    uint64_t how = offer_below(offer, 10);
    if (bytes->size == 0 || how == 0) {
        buffer_u8(bytes, (uint8_t)offer_below(offer, 256));
        return;
    }
    if (how == 1) {
        bytes->size -= 1 + offer_below(offer, bytes->size);
        return;
    }
    size_t at = (size_t)offer_below(offer, how < 6 ? MIN(bytes->size, (size_t)48) : bytes->size);
    uint8_t value;
    if (how & 1)
        value = odd[offer_below(offer, sizeof odd)];
    else
        value = (uint8_t)(bytes->data[at] ^ 1u << offer_below(offer, 8));
    bytes->data[at] = value == bytes->data[at] ? (uint8_t)(value ^ 1) : value;
}

struct run_state *offer_run(struct offer *offer, uint64_t size) {
    struct run_state *run = run_state_create();
    for (uint64_t i = 0; i < size; i++)
        MUST(run_state_apply(run, buffer_bytes(&offer->input->ledger->entries[i]), true, NULL));
    return run;
}

bool offer_contribution(struct offer *offer, struct ledger_entry *out, uint64_t *index) {
    for (int tries = 0; tries < 20; tries++) {
        *index = offer_below(offer, run_state_size(offer->run));
        if (ledger_entry_decode(buffer_bytes(&offer->input->ledger->entries[*index]), out, NULL) !=
            OK)
            continue;
        if (out->kind == LEDGER_CONTRIBUTION) return true;
    }
    return false;
}

bool hostile_input_offer(const struct hostile_input *input, enum hostile_input_kind kind,
                         struct error *error) {
    struct offer offer = {.input = input, .error = error};
    random_init(&offer.random, random_hash(world_luck_below(input->world, UINT64_MAX), kind));
    uint64_t size = 1 + offer_below(&offer, input->ledger->entry_count);
    if (input->whole) size = input->ledger->entry_count;
    offer.run = offer_run(&offer, size);
    kinds[kind].run(&offer);
    run_state_destroy(offer.run);
    return !offer.failed;
}
