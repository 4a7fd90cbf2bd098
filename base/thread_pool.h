/* Threads that work through numbered jobs together and sleep in between.
 *
 * thread_pool_run hands out jobs 0..count-1 in order to any free thread, the caller included, and
 * returns when all are done: one join. Which thread does which job is open, so results must not
 * depend on it; `worker` (0 is the caller) picks scratch memory. Waiting is on a condition
 * variable, never spinning: a pool on a busy machine loses time only in proportion.
 */
#ifndef BASE_THREAD_POOL_H
#define BASE_THREAD_POOL_H

#include <stdint.h>

#include "base/status.h"

struct thread_pool;

typedef void thread_pool_job(void *context, uint64_t job, uint32_t worker);

/* `workers` in all, the caller's thread being one of them: 1 makes no thread; 0: one per processor.
 * Their threads have this name. UNAVAILABLE where the system gives none. */
MUST_USE enum status thread_pool_create(const char *name, uint32_t workers,
                                        struct thread_pool **out, struct error *error);
void thread_pool_destroy(struct thread_pool *pool); /* not while running; NULL is a no-op */
uint32_t thread_pool_workers(const struct thread_pool *pool); /* of NULL: 1 */
/* One caller at a time. NULL: the caller does all jobs. */
void thread_pool_run(struct thread_pool *pool, uint64_t count, thread_pool_job *job, void *context);

#endif
