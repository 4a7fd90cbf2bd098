/* Proofs, receipts, entries and the rules by which one may follow a ledger. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "fed/receipt.h"
#include "sim/hostile_input_internal.h"

/* ---- proofs ---------------------------------------------------------------------------------- */

void offer_proof(struct offer *offer) {
    const struct merkle *tree = run_state_tree(offer->run);
    uint8_t old_root[DIGEST_SIZE], root[DIGEST_SIZE], leaf[DIGEST_SIZE], none[DIGEST_SIZE];
    merkle_root(tree, 0, none);
    for (int i = 0; i < 40; i++) {
        struct merkle_proof proof, inclusion;
        uint64_t size = 1 + offer_below(offer, merkle_size(tree)),
                 old = offer_below(offer, size + 1), index = offer_below(offer, size);
        merkle_root(tree, old, old_root);
        merkle_root(tree, size, root);
        merkle_prove_consistency(tree, old, size, &proof);
        merkle_prove_inclusion(tree, index, size, &inclusion);
        merkle_leaf(buffer_bytes(&offer->input->ledger->entries[index]), leaf);
        claim(offer, merkle_check_consistency(old, old_root, size, root, &proof),
              "a proof of consistency is not believed");
        claim(offer, merkle_check_inclusion(leaf, index, size, &inclusion, root),
              "a proof of inclusion is not believed");
        claim(offer, !merkle_check_consistency(size + 1, root, size, root, &proof),
              "a ledger that shrank is believed");
        claim(offer, !merkle_check_inclusion(leaf, size, size, &inclusion, root),
              "an entry beyond the end is believed");
        claim(offer, old == 0 || !merkle_check_consistency(old, none, size, root, &proof),
              "another old root is believed");
        claim(offer, old == 0 || !merkle_check_consistency(old, old_root, size, none, &proof),
              "another root is believed");
        claim(offer, old > 0 || !merkle_check_consistency(0, root, size, root, &proof),
              "a root of nothing is believed");
        (void)merkle_check_consistency(old, old_root, size + 1 + offer_below(offer, 9), root,
                                       &proof);
        (void)merkle_check_inclusion(leaf, index, size + 1 + offer_below(offer, 9), &inclusion,
                                     root);
        struct merkle_proof *bent = i & 1 ? &proof : &inclusion;
        bool counts = i & 1 ? old > 0 : true;
        uint32_t count = bent->count;
        if (i % 3 == 0 && count > 0)
            bent->hashes[offer_below(offer, count)][offer_below(offer, DIGEST_SIZE)] ^= 4;
        else if (i % 3 == 1 && count > 0)
            bent->count -= 1 + (uint32_t)offer_below(offer, count);
        else
            memset(bent->hashes[bent->count++], 0x55, DIGEST_SIZE);
        if (i % 7 == 6) bent->count = PROOF_LIMIT + 1;
        bool believed = i & 1 ? merkle_check_consistency(old, old_root, size, root, &proof)
                              : merkle_check_inclusion(leaf, index, size, &inclusion, root);
        claim(offer, !counts || !believed, "a bent proof is believed");
    }
}

/* ---- receipts -------------------------------------------------------------------------------- */

static struct receipt receipt_of(struct offer *offer, const struct ledger_entry *entry,
                                 uint64_t index) {
    struct contribution c;
    MUST(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                             NULL));
    struct receipt receipt = {.epoch = entry->epoch,
                              .site = c.site,
                              .sequence = c.sequence,
                              .index = index,
                              .entry_time_ms = entry->time_ms,
                              .entry_epoch = entry->epoch,
                              .size = run_state_size(offer->run)};
    memcpy(receipt.run_id, c.run_id, RUN_ID_SIZE);
    contribution_digest(entry->contribution.header, receipt.header_digest);
    merkle_root(run_state_tree(offer->run), receipt.size, receipt.root);
    merkle_prove_inclusion(run_state_tree(offer->run), index, receipt.size, &receipt.proof);
    return receipt;
}

/* Signed by the coordinator itself, and yet for something else. */
static void bend_receipt(struct offer *offer, struct receipt *receipt) {
    switch (offer_below(offer, 8)) {
    case 0: receipt->index++; break;
    case 1: receipt->site++; break;
    case 2: receipt->sequence++; break;
    case 3: receipt->run_id[3] ^= 1; break;
    case 4: receipt->header_digest[3] ^= 1; break;
    case 5: receipt->root[3] ^= 1; break;
    case 6: receipt->entry_time_ms++; break;
    default: receipt->entry_epoch++; break;
    }
}

void offer_receipt(struct offer *offer) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    const uint8_t *key = key_pair_public(offer->input->key);
    uint64_t index;
    for (int i = 0; i < 16 && offer_contribution(offer, entry, &index); i++) {
        struct receipt receipt = receipt_of(offer, entry, index), read;
        struct buffer raw = {0};
        const uint8_t *header = entry->contribution.header,
                      *signature = entry->contribution.signature;
        receipt_sign(&receipt, offer->input->key, &raw);
        claim(offer,
              receipt_verify(buffer_bytes(&raw), key, header, signature, &read, NULL) == OK &&
                  read.index == index,
              "a receipt does not verify");
        offer_bend(offer, &raw);
        claim(offer, receipt_verify(buffer_bytes(&raw), key, header, signature, &read, NULL) != OK,
              "a bent receipt verifies");
        raw.size = 0;
        receipt_sign(&receipt, offer->input->stranger, &raw);
        claim(offer, receipt_verify(buffer_bytes(&raw), key, header, signature, &read, NULL) != OK,
              "a stranger's receipt verifies");
        raw.size = 0;
        bend_receipt(offer, &receipt);
        receipt_sign(&receipt, offer->input->key, &raw);
        claim(offer, receipt_verify(buffer_bytes(&raw), key, header, signature, &read, NULL) != OK,
              "a receipt for something else verifies");
        buffer_deinit(&raw);
    }
    claim(offer, strcmp(refusal_name(99), refusal_name(REFUSED_BUSY)) != 0 && refusal_advice(99)[0],
          "an unknown code is named");
    free(entry);
}

/* ---- entries --------------------------------------------------------------------------------- */

static void claim_entry(struct offer *offer, struct bytes raw, struct ledger_entry *read) {
    struct buffer again = {0};
    struct error why = {0};
    if (ledger_entry_decode(raw, read, &why) != OK) {
        claim(offer, why.message[0], "an entry is refused without a word");
        return;
    }
    ledger_entry_encode(read, &again);
    claim(offer, bytes_equal(raw, buffer_bytes(&again)), "an entry has a second form");
    buffer_deinit(&again);
}

static const enum ledger_kind all_kinds[] = {
    LEDGER_SITE_INVITED,   LEDGER_SITE_ADDED, LEDGER_SITE_REVOKED, LEDGER_CONTRIBUTION, LEDGER_STEP,
    LEDGER_PAUSED,         LEDGER_RESUMED,    LEDGER_STOPPED,      LEDGER_EPOCH,        LEDGER_RULE,
    LEDGER_SITE_UNINVITED, LEDGER_SITE_AWAY,  LEDGER_SITE_BACK,    LEDGER_SITE_LEFT};

/* An entry of that kind with every field in its place. */
static void plain_entry(struct offer *offer, enum ledger_kind kind, struct ledger_entry *entry) {
    memset(entry, 0, sizeof *entry);
    entry->kind = kind;
    entry->epoch = run_state_epoch(offer->run);
    if (kind == LEDGER_SITE_INVITED) snprintf(entry->invited.name, SITE_NAME_SIZE, "islet");
    if (kind == LEDGER_SITE_UNINVITED) snprintf(entry->uninvited.name, SITE_NAME_SIZE, "islet");
    if (kind == LEDGER_SITE_ADDED) snprintf(entry->added.name, SITE_NAME_SIZE, "islet");
    if (kind == LEDGER_SITE_REVOKED) snprintf(entry->revoked.reason, REASON_SIZE, "why not");
    if (kind >= LEDGER_PAUSED && kind <= LEDGER_STOPPED)
        snprintf(entry->note.reason, REASON_SIZE, "why not");
    if (kind != LEDGER_STEP) return;
    entry->step.has_root = true;
    entry->step.count = 3;
    for (uint16_t i = 0; i < 3; i++) entry->step.parts[i] = (struct step_part){i + 4u, 0.5f};
}

void offer_entry(struct offer *offer) {
    struct ledger_entry *entry = xmalloc(sizeof *entry), *read = xmalloc(sizeof *read);
    struct buffer raw = {0};
    for (int i = 0; i < 240; i++) {
        raw.size = 0;
        if (i < 220) {
            plain_entry(offer, all_kinds[offer_below(offer, COUNT_OF(all_kinds))], entry);
            if (i & 1 && entry->kind == LEDGER_STEP) { /* numbers that no step has */
                static const float odd[] = {-1, 0x1p127f * 2, -0.0f};
                uint64_t how = offer_below(offer, 4);
                if (how < 3) entry->step.parts[1].scale = odd[how];
                if (how == 3) entry->step.parts[1].index = offer_below(offer, 5);
            }
            ledger_entry_encode(entry, &raw);
        } else {
            const struct disk *disk = offer->input->ledger;
            const struct buffer *some =
                &disk->entries[i < 224 ? 0 : offer_below(offer, disk->entry_count)];
            buffer_append(&raw, some->data, some->size);
        }
        if (entry->kind == LEDGER_STEP && offer_below(offer, 6) == 0) { /* its flag, its count */
            size_t flag = 1 + 4 + 8 + 4 + 8;
            if (raw.size > flag + 1 + DIGEST_SIZE + 2)
                raw.data[offer_below(offer, 2) ? flag : flag + 2 + DIGEST_SIZE] = 2;
        }
        if (i % 5) offer_bend(offer, &raw);
        claim_entry(offer, buffer_bytes(&raw), read);
    }
    while (raw.size <= LEDGER_ENTRY_LIMIT) buffer_u64(&raw, 0);
    claim(offer, ledger_entry_decode(buffer_bytes(&raw), read, NULL) == INVALID,
          "an endless entry is read");
    buffer_deinit(&raw);
    free(entry);
    free(read);
}

/* ---- rules ----------------------------------------------------------------------------------- */

static void claim_refused(struct offer *offer, const struct ledger_entry *entry, const char *what) {
    struct buffer raw = {0};
    struct error why = {0};
    uint64_t size = run_state_size(offer->run);
    ledger_entry_encode(entry, &raw);
    enum status status =
        run_state_apply(offer->run, buffer_bytes(&raw), offer_below(offer, 2) == 0, &why);
    claim(offer, status == INVALID && why.message[0] && run_state_size(offer->run) == size, what);
    buffer_deinit(&raw);
}

/* True: the run state holds the entry, which was in order. */
static bool enter(struct offer *offer, const struct ledger_entry *entry) {
    struct buffer raw = {0};
    ledger_entry_encode(entry, &raw);
    bool taken = run_state_apply(offer->run, buffer_bytes(&raw), true, NULL) == OK;
    buffer_deinit(&raw);
    return taken;
}

static void bend_sites(struct offer *offer, struct ledger_entry *entry) {
    uint32_t count = run_state_site_count(offer->run);
    plain_entry(offer, LEDGER_SITE_INVITED, entry);
    memset(entry->invited.secret_digest, 0xa5, DIGEST_SIZE);
    bool invited = enter(offer, entry);
    claim_refused(offer, entry, "the same secret is used for another invitation");
    entry->invited.secret_digest[0] = 1;
    entry->invited.name[0] = 'I';
    claim_refused(offer, entry, "an invitation has a name of no form");
    plain_entry(offer, LEDGER_SITE_ADDED, entry);
    entry->added.site = count + 1;
    claim_refused(offer, entry, "a site comes without an invitation");
    if (!invited) return;
    memset(entry->added.secret_digest, 0xa5, DIGEST_SIZE);
    struct ledger_entry *newer = xmalloc(sizeof *newer);
    plain_entry(offer, LEDGER_SITE_INVITED, newer);
    memset(newer->invited.secret_digest, 0xa6, DIGEST_SIZE);
    claim(offer, enter(offer, newer), "a name is not invited again");
    memcpy(entry->added.public_key, key_pair_public(offer->input->stranger), PUBLIC_KEY_SIZE);
    claim_refused(offer, entry, "an older invitation is used after a newer one was made");
    memset(entry->added.public_key, 0, PUBLIC_KEY_SIZE);
    memset(entry->added.secret_digest, 0xa6, DIGEST_SIZE);
    free(newer);
    claim_refused(offer, entry, "a site comes with a key that is none");
    memcpy(entry->added.public_key, key_pair_public(offer->input->stranger), PUBLIC_KEY_SIZE);
    entry->added.site = count + 2;
    claim_refused(offer, entry, "a site's number is left out");
    entry->added.site = count + 1;
    entry->added.name[0] = 'j';
    claim_refused(offer, entry, "a site comes with the invitation of another");
    entry->added.name[0] = 'i';
    for (uint32_t i = 1; i <= count; i++) {
        memcpy(entry->added.public_key, run_state_site(offer->run, i)->public_key, PUBLIC_KEY_SIZE);
        claim_refused(offer, entry, "a key is enrolled twice");
    }
    memcpy(entry->added.public_key, key_pair_public(offer->input->key), PUBLIC_KEY_SIZE);
    if (!enter(offer, entry)) return;
    memcpy(entry->added.public_key, key_pair_public(offer->input->stranger), PUBLIC_KEY_SIZE);
    entry->added.site = count + 2;
    claim_refused(offer, entry, "an invitation is used twice");
    struct ledger_entry *other = xmalloc(sizeof *other);
    plain_entry(offer, LEDGER_SITE_REVOKED, other);
    other->revoked.site = count + 1;
    claim(offer, enter(offer, other), "a site cannot be revoked");
    claim_refused(offer, other, "a site is revoked twice");
    free(other);
}

/* A contribution that is another's, again, or of a site that is gone. */
static void bend_contributions(struct offer *offer, struct ledger_entry *entry) {
    uint64_t index;
    struct contribution c;
    if (!offer_contribution(offer, entry, &index)) return;
    entry->epoch = run_state_epoch(offer->run);
    claim_refused(offer, entry, "a contribution is entered twice");
    MUST(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                             NULL));
    c.site = run_state_site_count(offer->run) + 1;
    contribution_encode(&c, entry->contribution.header);
    claim_refused(offer, entry, "a contribution of nobody is entered");
    c.site = 1 + (uint32_t)offer_below(offer, run_state_site_count(offer->run));
    c.sequence += 1000;
    contribution_encode(&c, entry->contribution.header);
    claim_refused(offer, entry, "a contribution with a hole before it is entered");
    memset(entry->contribution.header, 0xff, CONTRIBUTION_HEADER_SIZE);
    claim_refused(offer, entry, "garbage is entered");
}

static void bend_step(struct offer *offer, struct ledger_entry *entry) {
    const struct manifest *manifest = run_state_manifest(offer->run);
    uint32_t fragment = 0;
    while (fragment < manifest->fragments && run_state_pending_count(offer->run, fragment) == 0)
        fragment++;
    if (fragment == manifest->fragments) return;
    uint16_t most = (uint16_t)MIN(run_state_pending_count(offer->run, fragment), 4u);
    for (unsigned how = 0; how < 6; how++) {
        run_state_plan_step(offer->run, fragment, most, entry);
        entry->step.has_root = entry->step.version % manifest->root_interval == 0;
        if (how == 0) entry->step.fragment = manifest->fragments;
        if (how == 1) entry->step.version++;
        if (how == 2) { entry->step.has_root = !entry->step.has_root; }
        if (how == 3) entry->step.parts[most - 1].index += 100000;
        if (how == 4) entry->step.parts[0].scale *= 0.5f;
        if (how == 5) entry->epoch++;
        claim_refused(offer, entry, "a step that breaks a rule is entered");
    }
}

void offer_rule(struct offer *offer) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    uint8_t root[DIGEST_SIZE];
    const struct run_state *run = offer->run;
    claim(offer, run_state_parameters(run) == offer->input->scenario->parameters,
          "a run has other parameters");
    claim(offer, !run_state_root_at(run, run_state_version(run) + 1, root),
          "a version of tomorrow has a root");
    claim(offer, run_state_site(run, 0) == NULL, "there is a site 0");
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT + 1; f++) {
        claim(offer, run_state_fragment_version(run, f) <= run_state_version(run),
              "a fragment is ahead of its run");
        if (f >= FRAGMENTS_LIMIT)
            claim(offer, run_state_pending_count(run, f) == 0, "a fragment that is none waits");
        claim(offer, run_state_staleness(run, f, run_state_version(run)) == 0,
              "the newest version is stale");
    }
    for (uint32_t i = 0; i < run_state_invitation_count(run); i++)
        claim(offer,
              run_state_invitation(run, run_state_invitation_at(run, i)->secret_digest) != NULL,
              "an invitation is not found");
    bend_step(offer, entry);
    bend_contributions(offer, entry);
    plain_entry(offer, LEDGER_EPOCH, entry);
    claim_refused(offer, entry, "an epoch that is not newer begins");
    plain_entry(offer, LEDGER_RULE, entry);
    claim_refused(offer, entry, "a rule without a key is set");
    plain_entry(offer, LEDGER_SITE_REVOKED, entry);
    claim_refused(offer, entry, "nobody is revoked");
    plain_entry(offer, LEDGER_SITE_AWAY, entry);
    claim_refused(offer, entry, "nobody is away");
    if (run_state_phase(run) != RUN_STOPPED) bend_sites(offer, entry);
    plain_entry(offer, LEDGER_STOPPED, entry);
    (void)enter(offer, entry);
    claim(offer, run_state_phase(run) == RUN_STOPPED && run_state_reason(run)[0],
          "a run does not stop");
    for (size_t i = 0; i < COUNT_OF(all_kinds); i++) {
        plain_entry(offer, all_kinds[i], entry);
        if (entry->kind == LEDGER_EPOCH) continue;
        if (entry->kind == LEDGER_SITE_UNINVITED) continue; /* one that is open may be withdrawn */
        claim_refused(offer, entry, "an entry follows the end of its run");
    }
    free(entry);
}

void offer_genesis(struct offer *offer) {
    static const char comment[] = "# of no consequence\n";
    struct ledger_entry *entry = xmalloc(sizeof *entry), *bent = xmalloc(sizeof *bent);
    struct buffer text = {0};
    struct contribution unread;
    uint8_t root[DIGEST_SIZE];
    uint64_t version;
    MUST(ledger_entry_decode(buffer_bytes(&offer->input->ledger->entries[0]), entry, NULL));
    claim(offer,
          memcmp(run_state_initial_root(offer->run), entry->genesis.initial_root, DIGEST_SIZE) == 0,
          "a run has another root");
    run_state_destroy(offer->run);
    offer->run = run_state_create();
    run_state_root(offer->run, &version, root);
    claim(offer, version == 0 && !run_state_root_at(offer->run, 0, root),
          "a run that has not begun has a root");
    claim(offer,
          run_state_median_norm(offer->run, 0) == 0 && run_state_staleness(offer->run, 0, 0) == 0,
          "nothing has a norm");
    claim(offer,
          admission_header(offer->run, 1, (struct bytes){0}, (struct bytes){0},
                           &(struct admission_limits){0}, &unread, NULL) == REFUSED_RUN,
          "a contribution comes before the run");
    for (unsigned how = 0; how < 6; how++) {
        *bent = *entry;
        text.size = 0;
        buffer_append(&text, comment, how == 0 ? sizeof comment - 1 : 0);
        buffer_append(&text, entry->genesis.manifest.data,
                      entry->genesis.manifest.size - (how == 1 ? 9 : 0));
        bent->genesis.manifest = buffer_bytes(&text);
        if (how == 2) bent->genesis.parameters = 0;
        if (how == 3) bent->genesis.parameters = CODEC_COUNT_MAX + 1;
        if (how == 4) memset(bent->genesis.coordinator_key, 0, PUBLIC_KEY_SIZE);
        if (how == 5) bent->kind = LEDGER_PAUSED;
        if (how == 5) memset(&bent->note, 0, sizeof bent->note);
        claim_refused(offer, bent, "a run begins with an entry that cannot be the first");
    }
    claim(offer, enter(offer, entry), "a run cannot begin");
    claim_refused(offer, entry, "a run begins twice");
    buffer_deinit(&text);
    free(entry);
    free(bent);
}
