/* Pieces as runs of a fragment (attach/share.h). */
#include "attach/share.h"

#include <string.h>

#include "base/memory.h"

void share_walk_begin(struct share_walk *walk, const struct coverage_tensor *tensors,
                      const struct coverage_piece *pieces, size_t count, uint64_t start,
                      uint64_t floats) {
    *walk = (struct share_walk){
        .tensors = tensors, .pieces = pieces, .count = count, .from = start, .to = start + floats};
}

/* The first dimension of which a run takes several rows: all after it are whole. */
static uint32_t run_dimension(const struct coverage_piece *piece,
                              const struct coverage_tensor *tensor) {
    uint32_t at = tensor->dimensions;
    while (at > 0 && piece->offset[at - 1] == 0 && piece->extent[at - 1] == tensor->shape[at - 1])
        at--;
    return at > 0 ? at - 1 : 0;
}

static bool is_empty(const struct coverage_piece *piece, const struct coverage_tensor *tensor) {
    uint32_t dimensions = piece->flat ? 1 : tensor->dimensions;
    for (uint32_t d = 0; d < dimensions; d++)
        if (piece->extent[d] == 0) return true;
    return false;
}

/* The run at the walk's index, then the index of the next; inside is false after the last. */
static uint64_t pass_run(struct share_walk *walk, const struct coverage_piece *piece,
                         const struct coverage_tensor *tensor, uint64_t *at) {
    if (piece->flat) {
        walk->inside = false;
        *at = tensor->offset + piece->offset[0];
        return piece->extent[0];
    }
    uint64_t stride = 1, run = 1, place = tensor->offset;
    uint32_t runs_in = run_dimension(piece, tensor);
    for (uint32_t d = tensor->dimensions; d > 0; d--) {
        place += (piece->offset[d - 1] + (d - 1 < runs_in ? walk->index[d - 1] : 0)) * stride;
        if (d - 1 >= runs_in) run *= piece->extent[d - 1];
        stride *= tensor->shape[d - 1];
    }
    uint32_t d = runs_in;
    while (d > 0 && ++walk->index[d - 1] == piece->extent[d - 1]) walk->index[--d] = 0;
    walk->inside = d > 0;
    *at = place;
    return run;
}

/* Whether anything of the piece's tensor is in the fragment. */
static bool concerns(const struct share_walk *walk, const struct coverage_piece *piece) {
    const struct coverage_tensor *tensor = &walk->tensors[piece->tensor];
    return !is_empty(piece, tensor) && tensor->offset < walk->to &&
           tensor->offset + tensor->count > walk->from;
}

static bool begin_run(struct share_walk *walk) {
    while (walk->piece < walk->count) {
        const struct coverage_piece *piece = &walk->pieces[walk->piece];
        if (!walk->inside) {
            if (!concerns(walk, piece)) {
                walk->piece++;
                continue;
            }
            memset(walk->index, 0, sizeof walk->index);
            walk->inside = true;
        }
        uint64_t at, count = pass_run(walk, piece, &walk->tensors[piece->tensor], &at);
        if (!walk->inside) walk->piece++;
        uint64_t first = MAX(at, walk->from), last = MIN(at + count, walk->to);
        if (first >= last) continue;
        walk->at = first - walk->from;
        walk->left = last - first;
        return true;
    }
    return false;
}

uint64_t share_walk_next(struct share_walk *walk, uint64_t limit, uint64_t *at) {
    if (limit == 0 || (walk->left == 0 && !begin_run(walk))) return 0;
    uint64_t count = MIN(limit, walk->left);
    *at = walk->at;
    walk->at += count;
    walk->left -= count;
    return count;
}

uint64_t share_walk_floats(const struct share_walk *walk) {
    struct share_walk copy = *walk;
    uint64_t at, floats = 0, count;
    while ((count = share_walk_next(&copy, UINT64_MAX, &at)) > 0) floats += count;
    return floats;
}

uint64_t share_walk_gather(struct share_walk *walk, const float *fragment, uint64_t limit,
                           float *out) {
    uint64_t at, done = 0, count;
    while ((count = share_walk_next(walk, limit - done, &at)) > 0) {
        memcpy(out + done, fragment + at, (size_t)count * sizeof(float));
        done += count;
    }
    return done;
}

uint64_t share_walk_scatter(struct share_walk *walk, const float *in, uint64_t limit,
                            float *fragment) {
    uint64_t at, done = 0, count;
    while ((count = share_walk_next(walk, limit - done, &at)) > 0) {
        memcpy(fragment + at, in + done, (size_t)count * sizeof(float));
        done += count;
    }
    return done;
}
