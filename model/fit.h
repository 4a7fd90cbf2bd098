/* Whether training fits into memory, said before it starts: a process that the kernel kills after
 * an hour says nothing.
 */
#ifndef MODEL_FIT_H
#define MODEL_FIT_H

#include "model/trainer.h"

/* limits_memory of this process. */
uint64_t memory_available(void);
/* OK if trainer_memory(options) + also fits into `available`. Else FULL, and the message says how
 * much is wanted, how much there is, and what of the following, tried in this order and added up,
 * would make it fit: recompute, bf16 moments, 2 shards, 1 shard; or the largest preset that fits.
 * Where only the forward pass is wanted: 1 thread, then ever shorter sequences. */
MUST_USE enum status trainer_fit(const struct trainer_options *options, uint64_t also,
                                 uint64_t available, struct error *error);
/* "1.3 GiB". Returns out. */
enum { SIZE_TEXT_SIZE = 32 };
const char *size_text(uint64_t size, char out[static SIZE_TEXT_SIZE]);

#endif
