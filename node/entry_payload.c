/* What a site needs beside an entry that the coordinator sends: asked by the downlink, by the fetch
 * of a payload that was lost, and by the simulated link. */
#include "node/entry_payload.h"

#include <string.h>

enum status entry_payload_of(const struct ledger_entry *entry, uint64_t index,
                             uint64_t payloads_from, bool is_dropped, struct entry_payload *out,
                             struct error *error) {
    struct contribution contribution;
    *out = (struct entry_payload){.index = index};
    if (entry->kind != LEDGER_CONTRIBUTION || index < payloads_from) return OK;
    TRY(contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                            &contribution, error));
    out->is_read = true;
    out->is_due = !is_dropped;
    out->size = contribution.payload_size;
    memcpy(out->digest, contribution.payload_digest, DIGEST_SIZE);
    return OK;
}

enum status entry_payload_check_size(uint64_t index, uint64_t named, uint64_t size,
                                     struct error *error) {
    if (size == named) return OK;
    return error_set(error, INVALID,
                     "the payload of entry %llu has another size than its header says",
                     (unsigned long long)index);
}
