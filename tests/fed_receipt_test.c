#include "tests/fed_fixture.h"

/* A receipt for the contribution at `index`, of the ledger as it is. */
static struct receipt receipt_of(struct fixture *f, uint64_t index, struct ledger_entry *entry) {
    struct error error = {0};
    CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[index]), entry, &error));
    struct contribution c;
    CHECK_OK(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE), &c,
                                 &error));
    struct receipt receipt = {.epoch = run_state_epoch(f->run),
                              .site = c.site,
                              .sequence = c.sequence,
                              .index = index,
                              .entry_time_ms = entry->time_ms,
                              .entry_epoch = entry->epoch,
                              .size = f->entry_count};
    memcpy(receipt.run_id, f->run_id, RUN_ID_SIZE);
    contribution_digest(entry->contribution.header, receipt.header_digest);
    merkle_root(run_state_tree(f->run), f->entry_count, receipt.root);
    merkle_prove_inclusion(run_state_tree(f->run), index, f->entry_count, &receipt.proof);
    return receipt;
}

struct scene {
    struct fixture *f;
    struct receipt receipt;
    struct ledger_entry entry;
};

static struct scene scene_open(void) {
    struct scene scene = {.f = fixture_open("", 5000)};
    fixture_sites(scene.f, 3);
    uint64_t index = fixture_contribute(scene.f, 2, 0, 0, 0.1f);
    fixture_contribute(scene.f, 1, 0, 0, 0.1f);
    fixture_step(scene.f, 0, 2);
    fixture_note(scene.f, LEDGER_EPOCH);
    scene.receipt = receipt_of(scene.f, index, &scene.entry);
    return scene;
}

static enum status verify(const struct scene *scene, struct bytes raw, struct receipt *out,
                          struct error *error) {
    return receipt_verify(raw, key_pair_public(scene->f->coordinator),
                          scene->entry.contribution.header, scene->entry.contribution.signature,
                          out, error);
}

static void check_refused(const struct scene *scene, const struct receipt *receipt,
                          const struct key_pair *key) {
    struct buffer raw = {0};
    struct receipt out;
    struct error error = {0};
    receipt_sign(receipt, key, &raw);
    CHECK_STATUS(verify(scene, buffer_bytes(&raw), &out, &error), INVALID);
    buffer_deinit(&raw);
}

TEST(a_receipt_convinces_the_site_that_its_contribution_is_in_the_ledger) {
    struct scene scene = scene_open();
    struct buffer raw = {0};
    struct receipt out;
    struct error error = {0};
    receipt_sign(&scene.receipt, scene.f->coordinator, &raw);
    CHECK(raw.size <= RECEIPT_LIMIT);
    CHECK_OK(verify(&scene, buffer_bytes(&raw), &out, &error));
    CHECK_EQUAL(out.index, scene.receipt.index);
    CHECK_EQUAL(out.size, scene.f->entry_count);
    CHECK_EQUAL(out.site, 2);
    CHECK_EQUAL(out.epoch, 2);
    CHECK_EQUAL(out.entry_epoch, 1);
    CHECK_MEMORY(out.root, scene.receipt.root, DIGEST_SIZE);
    buffer_deinit(&raw);
    fixture_close(scene.f);
}

TEST(a_receipt_with_any_byte_changed_or_cut_off_is_refused) {
    struct scene scene = scene_open();
    struct buffer raw = {0};
    struct receipt out;
    receipt_sign(&scene.receipt, scene.f->coordinator, &raw);
    for (size_t i = 0; i < raw.size; i++) {
        raw.data[i] ^= 4;
        CHECK_STATUS(verify(&scene, buffer_bytes(&raw), &out, NULL), INVALID);
        raw.data[i] ^= 4;
        CHECK_STATUS(verify(&scene, bytes_of(raw.data, i), &out, NULL), INVALID);
    }
    buffer_u8(&raw, 0);
    CHECK_STATUS(verify(&scene, buffer_bytes(&raw), &out, NULL), INVALID);
    buffer_deinit(&raw);
    fixture_close(scene.f);
}

TEST(a_receipt_that_lies_is_refused_though_it_is_signed) {
    struct scene scene = scene_open();
    struct receipt lie = scene.receipt;
    check_refused(&scene, &lie, scene.f->keys[1]);
    lie.index++;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.size = lie.index; /* a size that is off by little may have the same path: heads and
                             consistency proofs settle that */
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.root[0] ^= 1;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.entry_time_ms++;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.entry_epoch++;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.site = 1;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.sequence++;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.run_id[3] ^= 1;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.header_digest[9] ^= 1;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.proof.count--;
    check_refused(&scene, &lie, scene.f->coordinator);
    lie = scene.receipt;
    lie.proof.hashes[0][0] ^= 1;
    check_refused(&scene, &lie, scene.f->coordinator);
    fixture_close(scene.f);
}

TEST(another_sites_receipt_proves_nothing_to_this_one) {
    struct scene scene = scene_open();
    struct ledger_entry theirs;
    struct receipt receipt = receipt_of(scene.f, scene.receipt.index + 1, &theirs);
    check_refused(&scene, &receipt, scene.f->coordinator);
    scene.entry.contribution.signature[0] ^= 1; /* our header, but not as it stands in the ledger */
    check_refused(&scene, &scene.receipt, scene.f->coordinator);
    fixture_close(scene.f);
}
