/* The digest that storage uses, handed in by the program: adapters do not include each other.
 *
 * `struct digest` is declared, not defined, here: storage only passes on pointers to `state_size`
 * bytes of it, aligned for anything. The functions have the types of crypto/digest.h, so a program
 * writes
 *
 *     static const struct storage_digest sha256 = {
 *         sizeof(struct digest), digest_pieces, digest_init, digest_update, digest_final};
 *
 * Called from any thread, also at once. The struct is borrowed for as long as what was opened with
 * it is open.
 */
#ifndef STORAGE_DIGEST_H
#define STORAGE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { STORAGE_DIGEST_SIZE = 32 };

struct digest;

struct storage_digest {
    size_t state_size; /* of struct digest */
    void (*pieces)(const struct bytes *pieces, size_t count,
                   uint8_t out[static STORAGE_DIGEST_SIZE]);
    void (*init)(struct digest *state);
    void (*update)(struct digest *state, const void *data, size_t size);
    void (*final)(struct digest *state, uint8_t out[static STORAGE_DIGEST_SIZE]);
};

#endif
