/* What a rank holds (relay/rank_share.h). */
#include "relay/rank_share.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void rank_share_deinit(struct rank_share *share) {
    free(share->pieces);
    free(share->owned);
    *share = (struct rank_share){0};
}

enum status rank_share_declare(struct rank_share *share, const struct coverage_tensor *tensors,
                               uint32_t count, uint32_t rank, const uint8_t *bytes, size_t size,
                               struct error *error) {
    struct wire_declare head;
    struct wire_piece piece;
    if (size < sizeof head) return error_set(error, INVALID, "rank %u declares nothing", rank);
    memcpy(&head, bytes, sizeof head);
    if (head.count > WIRE_PIECES_PER_MESSAGE || size != sizeof head + head.count * sizeof piece ||
        share->count + head.count > WIRE_PIECES_LIMIT)
        return error_set(error, INVALID, "rank %u declares %u pieces in %zu bytes", rank,
                         head.count, size);
    for (uint32_t i = 0; i < head.count; i++) {
        if (share->count == share->capacity) {
            share->capacity = MAX(2 * share->capacity, (size_t)64);
            share->pieces = xrealloc(share->pieces, share->capacity * sizeof *share->pieces);
        }
        memcpy(&piece, bytes + sizeof head + i * sizeof piece, sizeof piece);
        struct coverage_piece *out = &share->pieces[share->count];
        TRY(coverage_take(tensors, count, &piece, rank, out, error));
        out->index = (uint32_t)share->count++;
    }
    return OK;
}

enum status rank_share_go(struct rank_share *share, const uint8_t *bytes, size_t size,
                          struct error *error) {
    struct wire_go go;
    if (size >= sizeof go) memcpy(&go, bytes, sizeof go);
    if (size < sizeof go || go.count != share->count || size != sizeof go + go.count)
        return error_set(error, INVALID, "the node answers other pieces than were declared");
    free(share->owned);
    share->owned = xcalloc(share->count + 1, sizeof *share->owned);
    share->owned_count = 0;
    for (size_t i = 0; i < share->count; i++)
        if (bytes[sizeof go + i]) share->owned[share->owned_count++] = share->pieces[i];
    return OK;
}
