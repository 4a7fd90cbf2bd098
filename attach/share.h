/* What some ranks hold of a fragment, as runs of floats that lie together in the flat vector. Both
 * ends of a relay walk the same pieces in the same order, so what travels between them is values
 * alone, without places. Pure. */
#ifndef ATTACH_SHARE_H
#define ATTACH_SHARE_H

#include "attach/coverage.h"

struct share_walk {
    const struct coverage_tensor *tensors; /* borrowed, as the pieces */
    const struct coverage_piece *pieces;
    size_t count;
    uint64_t from, to; /* of the fragment, in the flat vector */
    /* where it stands: */
    size_t piece;
    bool inside; /* at index[] of that piece */
    uint64_t index[WIRE_DIMENSIONS];
    uint64_t at, left; /* of a run that has been begun, from the fragment's front */
};

void share_walk_begin(struct share_walk *walk, const struct coverage_tensor *tensors,
                      const struct coverage_piece *pieces, size_t count, uint64_t start,
                      uint64_t floats);
/* The next run, of at most `limit` floats: *at from the fragment's front. Returns how many; 0: that
 * was all. */
uint64_t share_walk_next(struct share_walk *walk, uint64_t limit, uint64_t *at);
/* Of all that is left. */
uint64_t share_walk_floats(const struct share_walk *walk);
/* From the fragment to `out`, or from `in` to it: as many as are left, at most `limit`. */
uint64_t share_walk_gather(struct share_walk *walk, const float *fragment, uint64_t limit,
                           float *out);
uint64_t share_walk_scatter(struct share_walk *walk, const float *in, uint64_t limit,
                            float *fragment);

#endif
