/* xoshiro256** and splitmix64 for reproducible streams, getrandom(2) for the rest (base/random.h).
 */
#include "base/random.h"

#include <errno.h>
#include <sys/random.h>

#include "base/status.h"

static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

void random_init(struct random *random, uint64_t seed) {
    for (int i = 0; i < 4; i++) random->state[i] = splitmix64(&seed);
}

uint64_t random_u64(struct random *random) {
    uint64_t *s = random->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t random_below(struct random *random, uint64_t limit) {
    ASSERT(limit > 0);
    uint64_t reject_under = (0 - limit) % limit;
    for (;;) {
        uint64_t value = random_u64(random);
        if (value >= reject_under) return value % limit;
    }
}

double random_unit(struct random *random) { return (double)(random_u64(random) >> 11) * 0x1p-53; }

uint64_t random_hash(uint64_t seed, uint64_t position) {
    uint64_t state = seed;
    uint64_t mixed = splitmix64(&state) ^ (position * 0xd1342543de82ef95u);
    splitmix64(&mixed);
    return splitmix64(&mixed);
}

void random_system(void *out, size_t size) {
    unsigned char *at = out;
    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0 && errno == EINTR) continue;
        ASSERT(got > 0);
        at += got;
        size -= (size_t)got;
    }
}
