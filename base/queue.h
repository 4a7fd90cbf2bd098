/* A bounded queue of pointers between threads. Full is an answer, not a wait: the producer decides
 * what "try later" means.
 *
 * Order is first in, first out. Any number of producers and consumers. After queue_close, pushes
 * fail with CANCELLED and pops drain what is left, then fail with CANCELLED: nothing pushed is lost
 * at shutdown.
 */
#ifndef BASE_QUEUE_H
#define BASE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct queue;

struct queue *queue_create(size_t capacity);
void queue_destroy(struct queue *queue); /* must be empty or closed and drained; NULL is a no-op */
/* The queue takes the item. FULL at once where there is no room. */
MUST_USE enum status queue_push(struct queue *queue, void *item);
/* Waits for room; CANCELLED once closed. */
MUST_USE enum status queue_push_wait(struct queue *queue, void *item);
/* Waits at most timeout_ms (UINT64_MAX: for ever). TIMEOUT, or CANCELLED when closed and empty. */
MUST_USE enum status queue_pop(struct queue *queue, uint64_t timeout_ms, void **out);
size_t queue_size(struct queue *queue);
void queue_close(struct queue *queue);

#endif
