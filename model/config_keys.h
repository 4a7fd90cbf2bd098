/* What the many keys of a config.json that is called "llama" say of the mathematics, beside those
 * of the shape.
 *
 * The reference is transformers' LlamaForCausalLM: it reads few keys, and passes over all others,
 * and so do we. But files of other architectures and of patched ones are called "llama" too, and
 * their keys, which transformers passes over as well, tell that the tensors were trained with
 * another computation. So:
 *
 *     config_keys.c lists the keys that change what a forward pass computes, each with the values
 *     that leave it as it is; any other value is
 *     refused by name, and so is a key that is in no list but has a telling part in its name
 *         ("softcap", "expert", "rope", ...);
 *     what remains (how to generate, how to load, who made it) is passed over, and what is in no
 *     list is told once.
 */
#ifndef MODEL_CONFIG_KEYS_H
#define MODEL_CONFIG_KEYS_H

#include "base/json.h"

enum config_key { CONFIG_KEY_HARMLESS, CONFIG_KEY_UNKNOWN, CONFIG_KEY_CHANGES };

/* What a member of the file is. CHANGES: *wanted is what its value must be, for a message.
 * `context`: max_position_embeddings, 0 where it has none. */
enum config_key config_key_of(const struct json_value *member, uint64_t context,
                              const char **wanted);

#endif
