/* The payload that an entry of the ledger names, and whether a site must have it before the entry
 * is in its copy. Pure. */
#ifndef NODE_ENTRY_PAYLOAD_H
#define NODE_ENTRY_PAYLOAD_H

#include "fed/ledger.h"

struct entry_payload {
    bool is_read; /* a replay of ours may read it: it stays where it is there */
    bool is_due;  /* it must be there first */
    uint64_t index, size;
    uint8_t digest[DIGEST_SIZE];
};

/* `payloads_from`: the run's snapshot had those of entries before it. `is_dropped`: the coordinator
 * says that no step will ever merge it; if one does, the step asks for the payload. */
MUST_USE enum status entry_payload_of(const struct ledger_entry *entry, uint64_t index,
                                      uint64_t payloads_from, bool is_dropped,
                                      struct entry_payload *out, struct error *error);
/* INVALID: a payload of `size` bytes is not the one of `named` bytes that entry `index` names. */
MUST_USE enum status entry_payload_check_size(uint64_t index, uint64_t named, uint64_t size,
                                              struct error *error);

#endif
