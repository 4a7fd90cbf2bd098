/* What can happen to a site's disk: a copy is kept and put back, everything is lost, a bit flips.
 */
#include <string.h>

#include "base/memory.h"
#include "sim/site_internal.h"

void site_disk_init(struct simulated_site *site) {
    disk_init(&site->disk, site->world, site->setup.process);
    disk_init(&site->copy.disk, site->world, site->setup.process);
    journal_records_init(&site->records, site->world, site->setup.process);
    journal_records_init(&site->copy.records, site->world, site->setup.process);
    site_progress_init(site);
}

void site_disk_deinit(struct simulated_site *site) {
    journal_records_deinit(&site->records);
    journal_records_deinit(&site->copy.records);
    buffer_deinit(&site->download);
    site_progress_deinit(site);
    disk_deinit(&site->disk);
    disk_deinit(&site->copy.disk);
}

bool site_has_disk(const struct simulated_site *site) { return site->number != 0; }

void site_back_up(struct simulated_site *site) {
    struct site_copy *copy = &site->copy;
    copy->exists = true;
    disk_copy(&copy->disk, &site->disk);
    copy->disk.damaged_entry = site->disk.damaged_entry;
    journal_records_copy(&copy->records, &site->records);
    memcpy(copy->books, site->books, sizeof copy->books);
    site_progress_copy(site, false);
    copy->payloads_had = site->payloads_had;
    check_backed_up(site->setup.check, site->setup.process);
}

bool site_put_back(struct simulated_site *site) {
    struct site_copy *copy = &site->copy;
    if (!copy->exists) return false;
    disk_copy(&site->disk, &copy->disk);
    journal_records_copy(&site->records, &copy->records);
    memcpy(site->books, copy->books, sizeof site->books);
    site_progress_copy(site, true);
    site->payloads_had = copy->payloads_had;
    site->download.size = 0;
    site->records.damaged = DAMAGE_NONE;
    site->restored = true;
    check_put_back(site->setup.check, site->setup.process);
    return true;
}

void site_wipe(struct simulated_site *site) {
    journal_records_deinit(&site->records);
    memset(site->books, 0, sizeof site->books);
    site->payloads_had = 0;
    disk_deinit(&site->disk);
    site->download.size = 0;
    site->restored = true;
    check_wiped(site->setup.check, site->setup.process);
    world_trace(site->world, "%-12s starts from an empty disk", site->name);
}

const struct disk *site_disk(const struct simulated_site *site) { return &site->disk; }

bool site_has_damaged_record(const struct simulated_site *site) {
    return site->records.damaged != DAMAGE_NONE || disk_has_damaged_record(&site->disk);
}

void site_flip_payload(struct simulated_site *site, const uint8_t *digest) {
    (void)disk_flip(&site->disk, digest);
}

bool site_flip(struct simulated_site *site, bool record) {
    struct world *world = site->world;
    uint64_t kind = world_luck_below(world, 3),
             entry = world_luck_below(world, site->disk.entry_count + 1);
    uint64_t blob = world_luck_below(world, site->disk.blob_count + 1);
    if (!record)
        return blob < site->disk.blob_count &&
               disk_flip(&site->disk, site->disk.blobs[blob].digest);
    if (kind == 0 && site->records.set.has_checkpoint) {
        site->records.damaged = DAMAGE_CHECKPOINT;
    } else if (kind == 1 && site->records.set.has_round[0]) {
        site->records.damaged = DAMAGE_ROUND;
    } else if (entry < site->disk.entry_count) {
        site->disk.damaged_entry = entry;
    } else {
        return false;
    }
    return true;
}
