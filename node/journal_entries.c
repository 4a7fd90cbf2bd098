/* What any journal says of its entries, by node/journal.h alone. */
#include "node/journal.h"

#include <stdlib.h>

#include "base/memory.h"

static enum status check_stub(const struct journal_stub *stub, const struct ledger_entry *entry,
                              struct error *error) {
    uint8_t digest[DIGEST_SIZE];
    contribution_digest(entry->contribution.header, digest);
    struct reader reader = reader_of(bytes_of(digest, sizeof digest));
    if (stub->header == 0 || stub->header == reader_u32(&reader)) return OK;
    return error_set(error, NOT_FOUND, "sequence %llu in the ledger is another than the journal's",
                     (unsigned long long)stub->sequence);
}

enum status journal_expand(struct journal *journal, const struct journal_stub *stub,
                           struct buffer *raw, struct error *error) {
    struct ledger_entry *entry = xcalloc(1, sizeof *entry);
    entry->kind = LEDGER_CONTRIBUTION;
    entry->epoch = stub->epoch;
    entry->time_ms = stub->time_ms;
    enum status status = journal_sent(journal, stub->sequence, entry->contribution.header,
                                      entry->contribution.signature, error);
    if (status == OK) status = check_stub(stub, entry, error);
    if (status == OK) ledger_entry_encode(entry, raw);
    free(entry);
    return status;
}

enum status journal_contribution(struct journal *journal, uint64_t index,
                                 struct ledger_entry *entry, struct contribution *out,
                                 struct error *error) {
    struct ledger_source source = journal_source(journal);
    struct buffer raw = {0};
    enum status status = source.entry(source.context, index, &raw, error);
    if (status == OK) status = ledger_entry_decode(buffer_bytes(&raw), entry, error);
    if (status == OK && entry->kind != LEDGER_CONTRIBUTION)
        status = error_set(error, CORRUPT, "entry %llu is not a contribution",
                           (unsigned long long)index);
    if (status == OK)
        status = contribution_decode(bytes_of(entry->contribution.header, CONTRIBUTION_HEADER_SIZE),
                                     out, error);
    buffer_deinit(&raw);
    return status;
}
