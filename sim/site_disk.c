/* What can happen to a site's disk: a copy is kept and put back, everything is lost, a bit flips. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/site_internal.h"

static void copy_buffer(struct buffer *to, const struct buffer *from) {
    to->size = 0;
    buffer_append(to, from->data, from->size);
}

static void copy_round(struct round *to, const struct round *from) {
    struct buffer feedback = to->feedback, snapshot = to->snapshot;
    *to = *from;
    to->feedback = feedback;
    to->snapshot = snapshot;
    copy_buffer(&to->feedback, &from->feedback);
    copy_buffer(&to->snapshot, &from->snapshot);
}

static void copy_checkpoint(struct checkpoint *to, const struct checkpoint *from) {
    struct buffer global = to->global, local = to->trainer.local, base = to->trainer.base, snapshot = to->trainer.snapshot;
    *to = *from;
    to->global = global;
    to->trainer.local = local;
    to->trainer.base = base;
    to->trainer.snapshot = snapshot;
    copy_buffer(&to->global, &from->global);
    copy_buffer(&to->trainer.local, &from->trainer.local);
    copy_buffer(&to->trainer.base, &from->trainer.base);
    copy_buffer(&to->trainer.snapshot, &from->trainer.snapshot);
}

static void round_deinit(struct round *round) {
    buffer_deinit(&round->feedback);
    buffer_deinit(&round->snapshot);
    *round = (struct round){0};
}

static void checkpoint_deinit(struct checkpoint *checkpoint) {
    buffer_deinit(&checkpoint->global);
    capture_deinit(&checkpoint->trainer);
    *checkpoint = (struct checkpoint){0};
}

void site_disk_deinit(struct site *site) {
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) {
        round_deinit(&site->rounds[f]);
        round_deinit(&site->copy.rounds[f]);
    }
    checkpoint_deinit(&site->checkpoint);
    checkpoint_deinit(&site->copy.checkpoint);
    buffer_deinit(&site->download);
    disk_deinit(&site->disk);
    disk_deinit(&site->copy.disk);
}

bool site_has_disk(const struct site *site) { return site->number != 0; }

void site_back_up(struct site *site) {
    struct site_copy *copy = &site->copy;
    if (!copy->exists) disk_init(&copy->disk, site->world, site->setup.process);
    copy->exists = true;
    disk_copy(&copy->disk, &site->disk);
    copy->disk.damaged_entry = site->disk.damaged_entry;
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) copy_round(&copy->rounds[f], &site->rounds[f]);
    copy_checkpoint(&copy->checkpoint, &site->checkpoint);
    check_backed_up(site->setup.check, site->setup.process);
}

bool site_put_back(struct site *site) {
    struct site_copy *copy = &site->copy;
    if (!copy->exists) return false;
    disk_copy(&site->disk, &copy->disk);
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) copy_round(&site->rounds[f], &copy->rounds[f]);
    copy_checkpoint(&site->checkpoint, &copy->checkpoint);
    site->download.size = 0;
    site->damaged = DAMAGE_NONE;
    site->restored = true;
    check_put_back(site->setup.check, site->setup.process);
    return true;
}

void site_wipe(struct site *site) {
    for (uint32_t f = 0; f < FRAGMENTS_LIMIT; f++) round_deinit(&site->rounds[f]);
    checkpoint_deinit(&site->checkpoint);
    disk_deinit(&site->disk);
    site->download.size = 0;
    site->damaged = DAMAGE_NONE;
    site->restored = true;
    check_wiped(site->setup.check, site->setup.process);
    world_trace(site->world, "%-12s starts from an empty disk", site->name);
}

const struct disk *site_disk(const struct site *site) { return &site->disk; }

bool site_has_damaged_record(const struct site *site) {
    return site->damaged != DAMAGE_NONE || disk_has_damaged_record(&site->disk);
}

void site_flip_payload(struct site *site, const uint8_t *digest) { (void)disk_flip(&site->disk, digest); }

bool site_flip(struct site *site, bool record) {
    struct world *world = site->world;
    uint64_t kind = world_luck_below(world, 3), entry = world_luck_below(world, site->disk.entry_count + 1);
    uint64_t blob = world_luck_below(world, site->disk.blob_count + 1);
    if (!record) return blob < site->disk.blob_count && disk_flip(&site->disk, site->disk.blobs[blob].digest);
    if (kind == 0 && site->checkpoint.exists) {
        site->damaged = DAMAGE_CHECKPOINT;
    } else if (kind == 1 && site->rounds[0].exists) {
        site->damaged = DAMAGE_ROUND;
    } else if (entry < site->disk.entry_count) {
        site->disk.damaged_entry = entry;
    } else {
        return false;
    }
    return true;
}

enum status site_payload(const struct site *site, const uint8_t *wanted, struct bytes *out, struct error *error) {
    const struct buffer *payload = disk_blob_find(&site->disk, wanted);
    uint8_t digest[DIGEST_SIZE];
    if (!payload) return error_set(error, NOT_FOUND, "a payload is not there");
    digest_sha256(payload->data, payload->size, digest);
    if (memcmp(digest, wanted, DIGEST_SIZE) != 0) return error_set(error, CORRUPT, "a payload is damaged");
    *out = buffer_bytes(payload);
    return OK;
}
