/* One RPC, from its first byte to its end, as the coordinator's threads hand it on.
 *
 * Counted references: coordinator/calls.h has one while the RPC is open, and every message that
 * names the call has another, so what a thread was posted may be answered at any time; on a call
 * that has ended meanwhile each function is a no-op.
 */
#ifndef COORDINATOR_CALL_H
#define COORDINATOR_CALL_H

#include <stdatomic.h>

#include "base/bytes.h"
#include "proto/service.h"
#include "rpc/call.h"

struct calls;
struct admin_reply;

enum { CALL_FRAME_OVERHEAD = 5 /* bytes: gRPC's own prefix of a message */ };

struct call {
    /* fixed once it is open */
    uint64_t number; /* never reused within a process */
    enum service_method method;
    struct rpc_call *rpc;
    struct calls *calls; /* who opened it; for coordinator/calls.c alone */
    uint32_t site;       /* from the certificate; 0: none */
    _Atomic uint64_t *bytes_out;

    atomic_uint references;
    atomic_bool closed;

    bool submits; /* Submit, rpc's thread: the first frame came */
    /* Join: this and the CSR are set before the call is told, then the loop's */
    uint32_t protocol;
    struct buffer csr;
    struct buffer secret; /* of an invitation: the loop's, until it is sent */
};

struct call *call_retain(struct call *call); /* returns it; NULL is a no-op */
void call_release(struct call *call);        /* likewise; the last one clears the secret */
/* Nobody is there any more: what is begun for it now would never be ended. */
bool call_has_ended(const struct call *call);
/* Asks for the next message. */
void call_read(struct call *call);
/* Sends head (a frame's encoding, taken and freed) and the payload after it, and counts the bytes.
 * Statuses: rpc_call_write's. */
enum status call_send(struct call *call, struct buffer *head, struct bytes payload);
/* The same as the last message of a unary or Submit call. */
void call_answer(struct call *call, struct buffer *head);
/* The same, for an admin. */
void call_answer_admin(struct call *call, const struct admin_reply *reply);
void call_finish(struct call *call, enum rpc_code code, const char *message);

#endif
