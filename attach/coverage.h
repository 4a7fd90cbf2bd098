/* Whether what the ranks of a training job declare is the run's model: every trained element in
 * exactly one piece. Pure.
 *
 * A piece is a rectangle of a named tensor, or a range of its elements in row-major order. The same
 * piece on several ranks is a replica, of which the lowest rank copies out. Two pieces of a tensor
 * that overlap and are not the same are refused, naming the tensor and both ranks; so is a tensor
 * of which something is missing. What a rank says is bounded and checked here, never trusted.
 */
#ifndef ATTACH_COVERAGE_H
#define ATTACH_COVERAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "libatoll/wire.h"

struct coverage_tensor { /* of the run's layout, in its order */
    char name[WIRE_TENSOR_NAME_SIZE];
    uint64_t offset, count; /* floats, in the flat vector */
    uint32_t dimensions;
    uint64_t shape[WIRE_DIMENSIONS];
    bool is_alias; /* another name of tensor `of`, with its place: tied weights */
    uint32_t of;
};

struct coverage_piece {
    uint32_t rank, tensor;
    bool flat, owned; /* owned: no lower rank has the same */
    uint64_t offset[WIRE_DIMENSIONS], extent[WIRE_DIMENSIONS];
    uint32_t index; /* among those of its rank */
};

/* One piece against the layout: its tensor is there, has that shape, and the piece lies within. */
MUST_USE enum status coverage_take(const struct coverage_tensor *tensors, uint32_t count,
                                   const struct wire_piece *told, uint32_t rank,
                                   struct coverage_piece *out, struct error *error);
/* All pieces of all ranks: sorts them and sets `owned`. INVALID names tensor and ranks. */
MUST_USE enum status coverage_check(const struct coverage_tensor *tensors, uint32_t count,
                                    struct coverage_piece *pieces, size_t piece_count,
                                    struct error *error);
/* Sorts them and leaves each place once, whichever ranks have it. Returns how many are left. */
size_t coverage_distinct(struct coverage_piece *pieces, size_t count);

#endif
