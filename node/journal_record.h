/* The journal's two records as bytes: fixed layout, little-endian, a format number first. Inside
 * node/ only. */
#ifndef NODE_JOURNAL_RECORD_H
#define NODE_JOURNAL_RECORD_H

#include "node/journal.h"

void journal_round_encode(const struct journal_round *round, struct buffer *out);
/* CORRUPT: not what journal_round_encode writes. */
MUST_USE enum status journal_round_decode(struct bytes raw, struct journal_round *out,
                                          struct error *error);
void journal_checkpoint_encode(const struct journal_checkpoint *checkpoint, struct buffer *out);
MUST_USE enum status journal_checkpoint_decode(struct bytes raw, struct journal_checkpoint *out,
                                               struct error *error);

#endif
