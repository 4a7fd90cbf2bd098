/* A session's memory on a relay's host (relay/relay_mirror.h). */
#include "relay/relay_mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

enum status relay_mirror_begin(const struct frame_memory *part, struct relay_mirror **out,
                               struct error *error) {
    if (part->at != 0 || part->front > part->size || part->front < sizeof(struct wire_shared) ||
        part->size > SIZE_MAX / 4)
        return error_set(error, INVALID, "the node's memory has a front that is none");
    struct relay_mirror *mirror = xcalloc(1, sizeof *mirror);
    *mirror = (struct relay_mirror){
        .uses = 1, .size = (size_t)part->size, .session = part->session, .at.out = part->front};
    mirror->descriptor = memfd_create("atoll-relay", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *memory = MAP_FAILED;
    if (mirror->descriptor >= 0 && ftruncate(mirror->descriptor, (off_t)mirror->size) == 0 &&
        fcntl(mirror->descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        memory =
            mmap(NULL, mirror->size, PROT_READ | PROT_WRITE, MAP_SHARED, mirror->descriptor, 0);
    if (memory == MAP_FAILED) {
        enum status status =
            error_set(error, FULL, "%zu bytes of shared memory: %s", mirror->size, strerror(errno));
        relay_mirror_release(mirror);
        return status;
    }
    mirror->shared = memory;
    *out = mirror;
    return OK;
}

void relay_mirror_release(struct relay_mirror *mirror) {
    if (!mirror || --mirror->uses > 0) return;
    if (mirror->shared) munmap(mirror->shared, mirror->size);
    if (mirror->descriptor >= 0) close(mirror->descriptor);
    free(mirror->tensors);
    free(mirror->held);
    free(mirror);
}

/* The numbers of its front, before they are used. */
static enum status check_front(struct relay_mirror *mirror, struct error *error) {
    const struct wire_shared *shared = mirror->shared;
    struct border_places at = {.ranks = shared->ranks_at,
                               .tensors = shared->tensors_at,
                               .out = shared->out_at,
                               .in = shared->in_at,
                               .size = shared->size};
    bool fine = shared->magic == WIRE_MAGIC && at.size == mirror->size &&
                at.out == mirror->at.out && at.ranks >= sizeof *shared && at.ranks <= at.tensors &&
                at.tensors <= at.out && at.out <= at.in && at.in <= at.size &&
                at.in % sizeof(float) == 0 && at.size - at.in == at.in - at.out &&
                shared->ranks > 0 && shared->ranks <= WIRE_RANKS_LIMIT &&
                shared->ranks <= (at.tensors - at.ranks) / sizeof(struct wire_rank) &&
                shared->tensors <= (at.out - at.tensors) / sizeof(struct wire_tensor);
    if (!fine) return error_set(error, INVALID, "the node's memory is not as it should be");
    mirror->at = at;
    mirror->world = (uint32_t)shared->ranks;
    mirror->tensor_count = (uint32_t)shared->tensors;
    return OK;
}

static void copy_tensors(struct relay_mirror *mirror) {
    const struct wire_tensor *from =
        (const void *)((const char *)mirror->shared + mirror->at.tensors);
    mirror->tensors = xcalloc((size_t)mirror->tensor_count + 1, sizeof *mirror->tensors);
    for (uint32_t i = 0; i < mirror->tensor_count; i++) {
        struct coverage_tensor *to = &mirror->tensors[i];
        memcpy(to->name, from[i].name, sizeof to->name);
        to->name[sizeof to->name - 1] = 0;
        to->offset = from[i].offset;
        to->count = from[i].count;
        to->dimensions = (uint32_t)MIN(from[i].dimensions, (uint64_t)WIRE_DIMENSIONS);
        memcpy(to->shape, from[i].shape, sizeof to->shape);
        for (uint32_t j = 0; j < i; j++) { /* tied weights: another name of the same place */
            if (mirror->tensors[j].offset != to->offset || mirror->tensors[j].count != to->count ||
                to->count == 0 || mirror->tensors[j].is_alias)
                continue;
            to->is_alias = true;
            to->of = j;
            break;
        }
    }
}

enum status relay_mirror_add(struct relay_mirror *mirror, const struct frame_memory *part,
                             const uint8_t *bytes, struct error *error) {
    if (part->session != mirror->session || part->at != mirror->front ||
        part->part > mirror->at.out - mirror->front)
        return error_set(error, INVALID, "the node's memory comes out of order");
    memcpy((char *)mirror->shared + part->at, bytes, (size_t)part->part);
    mirror->front += part->part;
    if (mirror->front < mirror->at.out) return OK;
    TRY(check_front(mirror, error));
    copy_tensors(mirror);
    struct wire_shared *shared = mirror->shared;
    memset((char *)shared + mirror->at.ranks, 0, (size_t)(mirror->at.tensors - mirror->at.ranks));
    atomic_store(&shared->order, 0);
    atomic_store(&shared->orders[0].id, 0);
    atomic_store(&shared->orders[1].id, 0);
    atomic_store(&shared->decided, 0);
    atomic_store(&shared->relayed, WIRE_ELSEWHERE);
    return OK;
}

struct wire_rank *relay_mirror_line(const struct relay_mirror *mirror, uint32_t rank) {
    return (struct wire_rank *)(void *)((char *)mirror->shared + mirror->at.ranks) + rank;
}

const float *relay_mirror_out(const struct relay_mirror *mirror) {
    return (const float *)(const void *)((const char *)mirror->shared + mirror->at.out);
}

/* ---- what the node says ---------------------------------------------------------------------- */

static bool fits(const struct relay_mirror *mirror, uint64_t start, uint64_t count) {
    return count <= (mirror->at.size - mirror->at.in) / sizeof(float) && start <= UINT64_MAX / 8;
}

enum status relay_mirror_offer(struct relay_mirror *mirror, const struct frame_offer *offer,
                               struct error *error) {
    if (mirror->floats_left > 0 || !fits(mirror, offer->start, offer->count))
        return error_set(error, INVALID, "the node offers what cannot be");
    share_walk_begin(&mirror->walk, mirror->tensors, mirror->held, mirror->held_count, offer->start,
                     offer->count);
    mirror->offer = offer->offer;
    mirror->floats_left = share_walk_floats(&mirror->walk);
    if (mirror->floats_left == offer->floats) return OK;
    return error_set(error, INVALID, "the node offers %llu values, and the ranks here hold %llu",
                     (unsigned long long)offer->floats, (unsigned long long)mirror->floats_left);
}

enum status relay_mirror_data(struct relay_mirror *mirror, const uint8_t *bytes, size_t size,
                              struct error *error) {
    float values[RELAY_FRAME_LIMIT / sizeof(float)];
    uint64_t count = size / sizeof(float);
    if (size % sizeof(float) != 0 || count > mirror->floats_left)
        return error_set(error, INVALID, "the node sends more values than it offered");
    memcpy(values, bytes, size);
    mirror->floats_left -= share_walk_scatter(
        &mirror->walk, values, count, (float *)(void *)((char *)mirror->shared + mirror->at.in));
    return OK;
}

/* The fields of the slot that nobody reads by now, then its id, then the newest's. */
enum status relay_mirror_order(struct relay_mirror *mirror, const struct frame_order *order,
                               struct error *error) {
    if (mirror->floats_left > 0 || !fits(mirror, order->start, order->count))
        return error_set(error, INVALID, "the node orders what cannot be");
    struct wire_order *slot = &mirror->shared->orders[order->id & 1];
    mirror->order = *order;
    atomic_store(&slot->id, 0);
    atomic_store(&slot->kind, order->kind);
    atomic_store(&slot->fragment, order->fragment);
    atomic_store(&slot->at, order->at);
    atomic_store(&slot->start, order->start);
    atomic_store(&slot->count, order->count);
    atomic_store(&slot->version, order->version);
    atomic_store(&slot->id, order->id);
    atomic_store(&mirror->shared->order, order->id);
    return OK;
}

void relay_mirror_tell(struct relay_mirror *mirror, const struct frame_tell *tell) {
    atomic_store(&mirror->shared->flags, tell->flags);
    atomic_store(&mirror->shared->inner_steps, tell->inner_steps);
    atomic_store(&mirror->shared->factor, tell->factor);
    atomic_store(&mirror->shared->state, tell->state);
    atomic_store(&mirror->shared->wait_ms, tell->wait_ms);
}
