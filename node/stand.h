/* Where a training job that attached stands, kept beyond the node's and the job's life.
 *
 * theta_local of such a job is base + what was trained since (or theta_s + what was trained since,
 * where a message is in flight). While the node lives it has both. Here they are in a memory that
 * the job's ranks hold too: so after the node's end a job that lives on can say what its
 * parameters stand on, and goes on with c = what the site stands on now - what the job stands on.
 * For a job that ends there are files, of the last two states that it asked to be kept.
 *
 * Where a fragment was published after the state, the steps up to there are in the run already: the
 * job repeats them (it is "ahead" steps behind), they do not count, and the fragment is loaded
 * then. Where the state is not known here any more, the newest model is loaded.
 */
#ifndef NODE_STAND_H
#define NODE_STAND_H

#include "node/training_marks.h"

struct stand;
struct wire_state;

enum { STAND_SITE_SIZE = 32 };

/* Takes the place of the replica's base, snapshot and next, which are empty by now. `files`: two
 * paths, and `job`, that of a file with the job's number; all are copied. */
MUST_USE enum status stand_create(struct replica *replica, const uint8_t site[STAND_SITE_SIZE],
                                  const char *const files[2], const char *job, struct stand **out,
                                  struct error *error);
void stand_destroy(struct stand *stand);         /* the replica's vectors are gone with it; NULL */
int stand_descriptor(const struct stand *stand); /* for others to read */

/* --- as the job moves --- */
/* A session trains: no order has been carried out in it. `repeats`: a bit per fragment of which it
 * trains what was published, until stand_loaded. */
void stand_session(struct stand *stand, uint64_t session, uint64_t repeats);
void stand_loaded(struct stand *stand, uint32_t fragment);
/* An order is out. why 0: to publish. */
void stand_order(struct stand *stand, uint64_t order, uint32_t fragment, enum training_move why);
/* Around what is done to the vectors because it was carried out. */
void stand_changes(struct stand *stand, uint32_t fragment);
void stand_is(struct stand *stand, uint32_t fragment, const struct training_mark *mark);
/* To one of the two files. */
MUST_USE enum status stand_keep(struct stand *stand, struct error *error);
/* Steps were lost with a job: the next one that has no state is told. */
void stand_lose(struct stand *stand, uint64_t steps);

/* --- who comes back --- */
struct stand_plan {
    uint64_t steps, tokens; /* of the job until here */
    uint64_t clock;         /* the same, in steps as the node counts them */
    uint64_t job;
    uint64_t lost, ahead;
    uint64_t kept;                        /* a bit per fragment: it goes on */
    uint64_t reload;                      /* to be loaded after `ahead` steps */
    uint64_t unsent_steps, unsent_tokens; /* trained, kept, and in no message */
};
/* state NULL: nothing is known. passed: another node's memory, or -1. clock: the steps that this
 * node has counted. */
void stand_resume(struct stand *stand, const struct wire_state *state, int passed,
                  const struct training_mark *marks, uint64_t clock, struct stand_plan *out);
/* Of the last plan: what the fragment begins with. True: it is to be added. */
bool stand_load(struct stand *stand, uint32_t fragment, const struct training_mark *mark,
                float *out);
const struct stand_plan *stand_plan(const struct stand *stand);

#endif
