/* What any journal says of its entries, by node/journal.h alone. */
#include "node/journal.h"

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
