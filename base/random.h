/* Randomness of two kinds, never mixed: reproducible streams from a seed, and the operating
 * system's.
 *
 * The stream is xoshiro256** seeded by splitmix64 (Blackman and Vigna, "Scrambled Linear
 * Pseudorandom Number Generators", 2018). It is integers all the way, so it is the same on every
 * machine; random_hash gives the value at a position without walking there, which is how parameters
 * are initialised in any order with the same result.
 */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random {
    uint64_t state[4];
};

void random_init(struct random *random, uint64_t seed);
uint64_t random_u64(struct random *random);
/* uniform in [0, limit), limit > 0, without modulo bias */
uint64_t random_below(struct random *random, uint64_t limit);
double random_unit(struct random *random); /* uniform in [0, 1), 53 bits */

/* A well-mixed function of (seed, position); stateless. */
uint64_t random_hash(uint64_t seed, uint64_t position);

/* Fills with unpredictable bytes (getrandom); aborts if the kernel has none. For keys, tokens and
 * jitter only. */
void random_system(void *out, size_t size);

#endif
