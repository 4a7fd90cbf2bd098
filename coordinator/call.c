/* One RPC: references, and what goes out on it. */
#include "coordinator/call.h"

#include <stdlib.h>

#include "base/memory.h"
#include "proto/messages.h"

struct call *call_retain(struct call *call) {
    if (call) atomic_fetch_add(&call->references, 1);
    return call;
}

void call_release(struct call *call) {
    if (!call || atomic_fetch_sub(&call->references, 1) != 1) return;
    rpc_call_release(call->rpc);
    free_clearing(call->secret.data, call->secret.capacity); /* nobody waited for it */
    buffer_deinit(&call->csr);
    free(call);
}

bool call_has_ended(const struct call *call) { return atomic_load(&call->closed); }

void call_read(struct call *call) { rpc_call_read(call->rpc); }

enum status call_send(struct call *call, struct buffer *head, struct bytes payload) {
    struct rpc_piece pieces[2] = {rpc_piece_of(buffer_bytes(head)), rpc_piece_of(payload)};
    size_t size = head->size + payload.size;
    enum status status = rpc_call_write(call->rpc, pieces, payload.size > 0 ? 2 : 1);
    if (status == OK) atomic_fetch_add(call->bytes_out, size + CALL_FRAME_OVERHEAD);
    buffer_deinit(head);
    return status;
}

void call_answer(struct call *call, struct buffer *head) {
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(head));
    if (rpc_call_reply(call->rpc, &piece, 1) == OK)
        atomic_fetch_add(call->bytes_out, head->size + CALL_FRAME_OVERHEAD);
    buffer_deinit(head);
}

void call_answer_admin(struct call *call, const struct admin_reply *reply) {
    struct buffer head = {0};
    struct error error = {0};
    if (admin_reply_encode(reply, &head, &error) == OK)
        call_answer(call, &head);
    else
        call_finish(call, RPC_INTERNAL, error.message);
}

void call_finish(struct call *call, enum rpc_code code, const char *message) {
    rpc_call_finish(call->rpc, code, message);
}
