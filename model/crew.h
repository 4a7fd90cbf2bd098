/* Threads that work through numbered jobs together and sleep in between.
 *
 * crew_run hands out jobs 0..count-1 in order to any free thread, the caller included, and returns
 * when all are done: one join. Which thread does which job is open, so results must not depend on
 * it; `worker` (0 is the caller) picks scratch memory. Waiting is on a condition variable, never
 * spinning: a crew on a busy machine loses time only in proportion.
 */
#ifndef MODEL_CREW_H
#define MODEL_CREW_H

#include <stdint.h>

#include "base/status.h"

struct crew;

typedef void crew_job(void *context, uint64_t job, uint32_t worker);

/* `workers` in all, the caller's thread being one of them: 1 makes no thread. UNAVAILABLE where the
 * system gives none. */
MUST_USE enum status crew_create(uint32_t workers, struct crew **out, struct error *error);
void crew_destroy(struct crew *crew); /* not while running; NULL is a no-op */
void crew_run(struct crew *crew, uint64_t count, crew_job *job, void *context);

#endif
