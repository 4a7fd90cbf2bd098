/* Keys that sort as numbers (storage/store.h). */
#include "storage/store.h"

void store_key_u64(uint64_t value, uint8_t out[static STORE_KEY_U64_SIZE]) {
    for (unsigned i = 0; i < STORE_KEY_U64_SIZE; i++) out[i] = (uint8_t)(value >> (56 - 8 * i));
}

enum status store_key_u64_read(struct bytes key, uint64_t *out, struct error *error) {
    if (key.size != STORE_KEY_U64_SIZE)
        return error_set(error, CORRUPT, "a key of %zu bytes where a number is", key.size);
    uint64_t value = 0;
    for (unsigned i = 0; i < STORE_KEY_U64_SIZE; i++) value = value << 8 | key.data[i];
    *out = value;
    return OK;
}
