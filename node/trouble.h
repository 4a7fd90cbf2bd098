/* What a site cannot mend by itself and waits out: a full disk, a clock that is off; and a payload
 * that this disk has lost, which the coordinator may have lost too. It goes on by itself once
 * somebody has made room or set the clock; until then this names what is wrong, where people look:
 * in the log at error (at once, then once a minute), in status.json (`troubles`, and `ready` is
 * false) and in `atoll-node status --ready`.
 *
 * Any thread. A thread that waits here is woken when the site is to stop.
 */
#ifndef NODE_TROUBLE_H
#define NODE_TROUBLE_H

#include <stdbool.h>
#include <stdint.h>

enum trouble {
    TROUBLE_DISK_ROUNDS = 0, /* the worker: records of rounds and receipts */
    TROUBLE_DISK_CHECKPOINT, /* the worker: a checkpoint that was left out */
    TROUBLE_DISK_LEDGER,     /* the downlink: entries, payloads, a snapshot of the run */
    TROUBLE_CLOCK,           /* it and the coordinator's are apart */
    TROUBLE_CERTIFICATE,     /* it is outside the certificates' dates */
    TROUBLE_PAYLOAD, /* a step waits for a payload that this disk has damaged: it is asked for */
    TROUBLE_COUNT
};
enum { TROUBLE_TEXT_SIZE = 256 };

struct troubles;

struct troubles *troubles_create(void);
void troubles_destroy(struct troubles *troubles); /* NULL is a no-op */
/* `troubles` may be NULL in these: nobody is told. */
void trouble_begins(struct troubles *troubles, enum trouble trouble, const char *message);
void trouble_ends(struct troubles *troubles, enum trouble trouble);
/* False: there is none of that kind. since_ms: wall clock. */
bool trouble_is(struct troubles *troubles, enum trouble trouble,
                char message[static TROUBLE_TEXT_SIZE], uint64_t *since_ms);
const char *trouble_name(enum trouble trouble); /* "disk", "clock", "payload" */
/* Waits so long before another try. False: there is to be none, the site stops. */
bool trouble_wait(struct troubles *troubles, uint64_t ms);
void troubles_give_up(struct troubles *troubles);

#endif
