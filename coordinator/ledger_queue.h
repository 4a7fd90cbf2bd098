/* The ledger's way to the disk.
 *
 * The state machine's entries gather here, in order, and go to the store as one batch: all that
 * gathered while the one before was being written. At most one batch is out, so neither a thousand
 * orders at once nor a disk that stands still can fill the store's queue; what gathers is bounded
 * by the state machine, which answers BUSY beyond COMMITS_LIMIT.
 *
 * A full disk is waited out. The store gives the batch back (FULL) and takes nothing more until it
 * is told to go on; the entries are still here, so the same ones are tried again after a second
 * until there is room. Nobody is told that they are durable before they are. Any other failure of
 * the store is the end: what the disk holds is then unknown.
 *
 * One thread, the loop's, except for ledger_queue_await, and no clock: the simulator's coordinator
 * has one too, over a store of its own.
 */
#ifndef COORDINATOR_LEDGER_QUEUE_H
#define COORDINATOR_LEDGER_QUEUE_H

#include "base/bytes.h"
#include "storage/store.h"

struct ledger_queue;

struct ledger_queue_options {
    struct store *store; /* borrowed */
    uint64_t durable;    /* entries that are, at the start */
    /* The batch that is out is durable, or not: ledger_queue_taken is to be told on the loop's
     * thread. On the store's writer. */
    void (*written)(void *context, enum status status, const char *message);
    /* The store takes nothing any more: the process must end. */
    void (*broken)(void *context, const char *message);
    /* The disk has no room for the ledger, and has again. On the loop's thread. */
    void (*waits)(void *context, const char *message);
    void (*has_room)(void *context);
    void *context;
};

struct ledger_queue *ledger_queue_create(const struct ledger_queue_options *options);
/* after the store is closed; NULL is a no-op */
void ledger_queue_destroy(struct ledger_queue *queue);
/* Commit `number`: entries from first_index on, each u32 length || bytes; copied. */
void ledger_queue_add(struct ledger_queue *queue, uint64_t number, uint64_t first_index,
                      struct bytes entries);
/* At the end of a wake-up: what has gathered goes to the store. */
void ledger_queue_flush(struct ledger_queue *queue, uint64_t now_ms);
/* When a full disk is to be tried again; UINT64_MAX: it is not full. */
uint64_t ledger_queue_retry_at(const struct ledger_queue *queue);
void ledger_queue_retry(struct ledger_queue *queue, uint64_t now_ms);
/* What `written` said. Returns the number of the batch's last commit; 0: it is tried again. */
uint64_t ledger_queue_taken(struct ledger_queue *queue, enum status status, const char *message,
                            uint64_t now_ms);
/* The loop ends: the rest goes to the store, and nobody waits any more. */
void ledger_queue_end(struct ledger_queue *queue, uint64_t now_ms);
/* Any other thread: waits until the ledger on disk has `size` entries; false: not now, as the disk
 * is full or the loop has ended. */
bool ledger_queue_await(struct ledger_queue *queue, uint64_t size);

#endif
