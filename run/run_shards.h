/* Shards against the index beside them, and both against the run.
 *
 * Numbers do not show which tokenizer made them: shards of another one with as large a vocabulary
 * look alike, and train everybody's model into noise. So scripts/prepare-data writes an index,
 * prepare-data.json, beside its shards: the tokenizer's SHA-256, the vocabulary, the bits per
 * token, and every shard's size and SHA-256. A run may pin the digest of its tokenizer.json
 * (`tokenizer_digest`); then a site's shards must have an index that says the same. Shards without
 * an index are taken where the run pins nothing, or where the site insists on a format.
 */
#ifndef RUN_RUN_SHARDS_H
#define RUN_RUN_SHARDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct manifest;

#define SHARD_INDEX "prepare-data.json"

struct run_shards {
    const char *const *paths;
    size_t count;
    bool insisted;  /* the site says what its files are: an index may be missing */
    bool read_them; /* compare their SHA-256 too, which reads all of them; else only their sizes */
    const char *seen; /* as in struct data_options: what was compared before is not read again;
                         NULL: nothing is known nor kept */
};

/* INVALID: another tokenizer than the run's, a shard that is not what its index says, an index that
 * is none, or none where the run pins its tokenizer. */
MUST_USE enum status run_shards_check(const struct manifest *manifest,
                                      const struct run_shards *shards, struct error *error);

/* Whether every shard has an index that names the tokenizer which the run pins. */
bool run_shards_vouched(const struct manifest *manifest, const struct run_shards *shards);

#endif
