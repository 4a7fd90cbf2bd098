/* What a snapshot, a rebase and a capture do to a site's tensors and counts. */
#include "node/training_marks.h"

#include <stdlib.h>

#include "base/memory.h"

void training_mark_snapshot(struct training_mark *mark, struct replica *replica, uint32_t fragment,
                            uint64_t sequence, const float *local) {
    replica_snapshot(replica, fragment, local);
    training_mark_sent(mark, replica->fragments, sequence);
}

void training_mark_sent(struct training_mark *mark, uint32_t fragments, uint64_t sequence) {
    mark->in_flight = sequence;
    mark->baseless = false;
    round_progress_snapshot(&mark->progress, fragments);
}

static bool keeps_all(const struct replica *replica, enum training_move why) {
    if (why == MOVE_ADVANCED || why == MOVE_LOADED) return true;
    return why == MOVE_REFUSED && replica_refused(replica) == REBASE_KEEP;
}

const float *training_move_from(const struct replica *replica, enum training_move why) {
    return keeps_all(replica, why) ? replica->base : replica->snapshot;
}

void training_mark_rebase(struct training_mark *mark, struct replica *replica, uint32_t fragment,
                          uint64_t sequence, enum training_move why, float *local) {
    if (why == MOVE_ADVANCED || why == MOVE_LOADED) {
        replica_follow(replica, fragment, local, mark->in_flight != 0);
        return;
    }
    replica_rebase(replica, fragment, local,
                   why == MOVE_MERGED ? REBASE_SENT : replica_refused(replica));
    mark->in_flight = 0;
    mark->over = sequence;
    mark->kept = why == MOVE_REFUSED && replica_refused(replica) == REBASE_KEEP;
    mark->baseless = false;
    round_progress_over(&mark->progress, why == MOVE_REFUSED);
}

struct training_capture *training_capture_create(const struct training_mark *marks,
                                                 const struct replica *replica) {
    struct training_capture *capture = xcalloc(1, sizeof *capture);
    size_t size = (size_t)replica->parameters * sizeof(float);
    bool in_flight = false;
    for (uint32_t i = 0; i < replica->fragments; i++) {
        capture->fragment[i].base_version = replica->base_version[i];
        capture->fragment[i].mark = marks[i];
        in_flight |= marks[i].in_flight != 0;
    }
    buffer_append(&capture->base, replica->base, size);
    if (in_flight) buffer_append(&capture->snapshot, replica->snapshot, size);
    return capture;
}

void training_capture_destroy(struct training_capture *capture) {
    if (!capture) return;
    struct training_capture freed = *capture;
    buffer_deinit(&capture->trainer);
    buffer_deinit(&capture->base);
    buffer_deinit(&capture->snapshot);
    free(capture);
    if (freed.freed) freed.freed(freed.context, freed.retry_ms);
}
