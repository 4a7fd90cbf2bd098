/* The places of Follow: the publisher cuts frames from them, the simulator sends them as they are.
 */
#include "coordinator/follow_place.h"

static void make_stub(const struct ledger_entry *entry, uint64_t sequence,
                      struct follow_place *out) {
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(entry->contribution.header, digest);
    struct reader reader = reader_of(bytes_of(digest, sizeof digest));
    out->stub.sequence = sequence;
    out->stub.time_ms = entry->time_ms;
    out->stub.epoch = entry->epoch;
    out->stub.header = reader_u32(&reader);
}

enum status follow_place_of(struct bytes raw, uint64_t index, const struct follower *follower,
                            struct follow_place *out, struct error *error) {
    struct ledger_entry entry;
    *out = (struct follow_place){0};
    TRY(ledger_entry_decode(raw, &entry, error));
    if (entry.kind != LEDGER_CONTRIBUTION) return OK;
    TRY(contribution_decode(bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE),
                            &out->contribution, error));
    out->is_own = out->contribution.site == follower->site && follower->omit_own;
    if (out->is_own) {
        make_stub(&entry, out->contribution.sequence, out);
        return OK;
    }
    out->is_dropped = follower->is_dropped(follower->context, index);
    out->has_payload = !out->is_dropped && index >= follower->payloads_from;
    return OK;
}
