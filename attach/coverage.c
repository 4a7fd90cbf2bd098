/* Every trained element exactly once (attach/coverage.h). */
#include "attach/coverage.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- one piece ------------------------------------------------------------------------------- */

static const struct coverage_tensor *tensor_named(const struct coverage_tensor *tensors,
                                                  uint32_t count, const char *name) {
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
    return NULL;
}

static enum status check_range(const char *name, uint32_t rank, uint64_t offset, uint64_t extent,
                               uint64_t limit, struct error *error) {
    if (offset <= limit && extent <= limit - offset) return OK;
    return error_set(error, INVALID,
                     "tensor \"%.190s\", rank %u: %llu elements from %llu are beyond its %llu",
                     name, rank, (unsigned long long)extent, (unsigned long long)offset,
                     (unsigned long long)limit);
}

static enum status check_shape(const struct coverage_tensor *tensor, const struct wire_piece *told,
                               uint32_t rank, struct error *error) {
    if (told->dimensions != tensor->dimensions)
        return error_set(error, INVALID,
                         "tensor \"%.190s\", rank %u: %u dimensions; the run has %u", tensor->name,
                         rank, told->dimensions, tensor->dimensions);
    for (uint32_t d = 0; d < tensor->dimensions; d++)
        if (told->shape[d] != tensor->shape[d])
            return error_set(error, INVALID,
                             "tensor \"%.190s\", rank %u: %llu in dimension %u; the run has %llu",
                             tensor->name, rank, (unsigned long long)told->shape[d], d,
                             (unsigned long long)tensor->shape[d]);
    return OK;
}

enum status coverage_take(const struct coverage_tensor *tensors, uint32_t count,
                          const struct wire_piece *told, uint32_t rank, struct coverage_piece *out,
                          struct error *error) {
    if (memchr(told->name, 0, sizeof told->name) == NULL || told->flat > 1 ||
        told->dimensions > WIRE_DIMENSIONS)
        return error_set(error, INVALID, "rank %u: a piece that is none", rank);
    const struct coverage_tensor *tensor = tensor_named(tensors, count, told->name);
    if (!tensor)
        return error_set(error, INVALID, "rank %u: the run has no tensor \"%.190s\"", rank,
                         told->name);
    TRY(check_shape(tensor, told, rank, error));
    *out = (struct coverage_piece){.rank = rank,
                                   .tensor =
                                       tensor->is_alias ? tensor->of : (uint32_t)(tensor - tensors),
                                   .flat = told->flat == 1};
    uint32_t dimensions = out->flat ? 1 : tensor->dimensions;
    for (uint32_t d = 0; d < dimensions; d++) {
        TRY(check_range(tensor->name, rank, told->offset[d], told->extent[d],
                        out->flat ? tensor->count : tensor->shape[d], error));
        out->offset[d] = told->offset[d];
        out->extent[d] = told->extent[d];
    }
    return OK;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static int by_place(const void *left, const void *right) {
    const struct coverage_piece *a = left, *b = right;
    if (a->tensor != b->tensor) return a->tensor < b->tensor ? -1 : 1;
    for (uint32_t d = 0; d < WIRE_DIMENSIONS; d++)
        if (a->offset[d] != b->offset[d]) return a->offset[d] < b->offset[d] ? -1 : 1;
    for (uint32_t d = 0; d < WIRE_DIMENSIONS; d++)
        if (a->extent[d] != b->extent[d]) return a->extent[d] < b->extent[d] ? -1 : 1;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static bool is_same(const struct coverage_piece *a, const struct coverage_piece *b) {
    return a->tensor == b->tensor && a->flat == b->flat &&
           memcmp(a->offset, b->offset, sizeof a->offset) == 0 &&
           memcmp(a->extent, b->extent, sizeof a->extent) == 0;
}

static uint64_t volume(const struct coverage_piece *piece, uint32_t dimensions) {
    uint64_t elements = 1;
    for (uint32_t d = 0; d < (piece->flat ? 1 : dimensions); d++) elements *= piece->extent[d];
    return elements;
}

static bool overlap(const struct coverage_piece *a, const struct coverage_piece *b,
                    uint32_t dimensions) {
    for (uint32_t d = 0; d < dimensions; d++)
        if (a->offset[d] + a->extent[d] <= b->offset[d] ||
            b->offset[d] + b->extent[d] <= a->offset[d])
            return false;
    return true;
}

/* The pieces of one tensor, sorted by place: [count] of them. */
static enum status check_tensor(const struct coverage_tensor *tensor, struct coverage_piece *pieces,
                                size_t count, struct error *error) {
    uint64_t covered = 0;
    for (size_t i = 0; i < count; i++) {
        struct coverage_piece *piece = &pieces[i];
        uint64_t size = volume(piece, tensor->dimensions);
        if (piece->flat != pieces[0].flat)
            return error_set(error, INVALID,
                             "tensor \"%.190s\": ranks %u and %u declare it in two ways, as "
                             "rectangles and as ranges",
                             tensor->name, pieces[0].rank, piece->rank);
        bool again = i > 0 && is_same(&pieces[i - 1], piece);
        if (again && size > 0 && pieces[i - 1].rank == piece->rank)
            return error_set(error, INVALID, "tensor \"%.190s\": rank %u declares it twice",
                             tensor->name, piece->rank);
        piece->owned = !again && size > 0;
        if (!piece->owned) continue;
        covered += size;
        uint32_t dimensions = piece->flat ? 1 : tensor->dimensions;
        for (size_t j = i + 1; j < count; j++) {
            if (dimensions > 0 && pieces[j].offset[0] >= piece->offset[0] + piece->extent[0]) break;
            if (is_same(piece, &pieces[j]) || volume(&pieces[j], tensor->dimensions) == 0 ||
                pieces[j].flat != piece->flat || !overlap(piece, &pieces[j], dimensions))
                continue;
            return error_set(error, INVALID,
                             "tensor \"%.190s\": what ranks %u and %u declare overlaps",
                             tensor->name, piece->rank, pieces[j].rank);
        }
    }
    if (covered == tensor->count) return OK;
    return error_set(error, INVALID,
                     "tensor \"%.190s\": all ranks together declare %llu of its %llu elements",
                     tensor->name, (unsigned long long)covered, (unsigned long long)tensor->count);
}

enum status coverage_check(const struct coverage_tensor *tensors, uint32_t count,
                           struct coverage_piece *pieces, size_t piece_count, struct error *error) {
    size_t from = 0;
    if (piece_count > 0) qsort(pieces, piece_count, sizeof *pieces, by_place);
    for (uint32_t t = 0; t < count; t++) {
        size_t to = from;
        if (tensors[t].is_alias) continue; /* what is declared of it is the tensor's */
        while (to < piece_count && pieces[to].tensor == t) to++;
        TRY(check_tensor(&tensors[t], pieces + from, to - from, error));
        from = to;
    }
    return OK;
}

size_t coverage_distinct(struct coverage_piece *pieces, size_t count) {
    size_t kept = 0;
    if (count > 0) qsort(pieces, count, sizeof *pieces, by_place);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || !is_same(&pieces[kept - 1], &pieces[i])) pieces[kept++] = pieces[i];
    return kept;
}
