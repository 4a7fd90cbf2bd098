/* The k largest of a chunk by magnitude: exact, with the same answer whichever way it is found.
 *
 * Magnitudes are compared as the floats' bit patterns without the sign, which order as the values
 * do; equal magnitudes go to the lowest index; zeroes are never selected. So the answer is a
 * function of the chunk alone. The hint only changes how fast it comes: the k-th largest moves
 * little from chunk to chunk, and one counting pass confirms a guess.
 */
#ifndef CODEC_SELECT_H
#define CODEC_SELECT_H

#include <stddef.h>
#include <stdint.h>

/* x is [count], finite, count <= 4096. Writes at most k indices, increasing, to index and returns
 * how many: fewer than k only where fewer than k elements are not zero. *hint is private: 0 at
 * first, then what the last call left. */
size_t select_largest(const float *x, size_t count, size_t k, uint32_t *hint, uint16_t *index);

#endif
