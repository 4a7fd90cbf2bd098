/* Named threads that are joined with a deadline. Signals are blocked in all of them: the main
 * thread takes those. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <stdint.h>

#include "base/status.h"

struct thread;

/* Runs body(context) in a new thread; name is cut to 15 characters. UNAVAILABLE if the system gives
 * no more threads. */
MUST_USE enum status thread_start(const char *name, void (*body)(void *context), void *context,
                                  struct thread **out, struct error *error);
/* Waits for its end and frees it. TIMEOUT (and the thread goes on, still owned) if it has not ended
 * by then; UINT64_MAX waits for ever. NULL is OK. */
MUST_USE enum status thread_join(struct thread *thread, uint64_t timeout_ms);
/* The processors this process may run on, or as many as its control groups grant time of if they
 * are fewer; at least 1. */
unsigned thread_processor_count(void);

#endif
