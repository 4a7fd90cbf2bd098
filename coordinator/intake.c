/* The intake's thread (coordinator/intake.h): a queue, and what a transfer says to its call. */
#include "coordinator/intake.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "base/thread.h"
#include "proto/messages.h"

enum { MESSAGES_LIMIT = 65536 };

struct intake {
    struct intake_options options;
    struct queue *queue;
    struct thread *thread;
    struct transfers *transfers;
};

/* ---- what transfers say ---------------------------------------------------------------------- */

static void on_event(void *context, const struct coordinator_event *event) {
    const struct intake *intake = context;
    intake->options.tell(intake->options.context, event);
}

static void on_broken(void *context, const char *message) {
    const struct intake *intake = context;
    intake->options.broken(intake->options.context, message);
}

static void on_waits(void *context, const char *message) {
    disk_watch_waits(((const struct intake *)context)->options.disk, DISK_PAYLOADS, message);
}

static void on_room(void *context) {
    disk_watch_has_room(((const struct intake *)context)->options.disk, DISK_PAYLOADS);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void give_credit(struct intake *intake, struct call *call, uint64_t offset) {
    struct submit_reply reply = {.kind = SUBMIT_CREDIT};
    struct buffer head = {0};
    struct error error = {0};
    reply.credit.resume_offset = offset;
    reply.credit.chunk_limit = intake->options.chunk_limit;
    if (submit_reply_encode(&reply, &head, &error) != OK) {
        call_finish(call, RPC_INTERNAL, error.message);
        return;
    }
    if (call_send(call, &head, bytes_of(NULL, 0)) == OK) call_read(call);
}

static void admit(struct intake *intake, const struct intake_message *message) {
    struct call *call = message->call;
    uint64_t offset = 0;
    if (call_has_ended(call)) return;
    if (transfers_admit(intake->transfers, call->number, &message->admit.contribution,
                        message->admit.supply, clock_monotonic_ms(), &offset) == TRANSFER_CREDIT)
        give_credit(intake, call, offset);
}

static void take_chunk(struct intake *intake, const struct intake_message *message) {
    const struct buffer *all = &message->chunk.message;
    struct bytes content =
        bytes_of(all->data + message->chunk.head_size, all->size - message->chunk.head_size);
    enum transfer_next next =
        transfers_chunk(intake->transfers, message->call->number, message->chunk.offset, content);
    if (next == TRANSFER_MORE) call_read(message->call);
    if (next == TRANSFER_STRAY)
        call_finish(message->call, RPC_INVALID_ARGUMENT, "a chunk that was not asked for");
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void message_destroy(struct intake_message *message) {
    if (message->kind == INTAKE_CHUNK) buffer_deinit(&message->chunk.message);
    call_release(message->call);
    free(message);
}

static void act(struct intake *intake, const struct intake_message *message) {
    struct transfers *transfers = intake->transfers;
    switch (message->kind) {
    case INTAKE_ADMIT: admit(intake, message); break;
    case INTAKE_CHUNK: take_chunk(intake, message); break;
    case INTAKE_HALF_CLOSE: transfers_half_close(transfers, message->call->number); break;
    case INTAKE_CLOSE: transfers_close(transfers, message->call->number); break;
    case INTAKE_CHECK:
        transfers_check(transfers, message->check.number, &message->check.contribution);
        break;
    case INTAKE_KEEP: transfers_keep(transfers, message->keep.digest); break;
    }
}

static void run(void *context) {
    struct intake *intake = context;
    void *popped;
    while (queue_pop(intake->queue, UINT64_MAX, &popped) == OK) {
        act(intake, popped);
        message_destroy(popped);
    }
}

enum status intake_start(const struct intake_options *options, struct intake **out,
                         struct error *error) {
    struct intake *intake = xcalloc(1, sizeof *intake);
    struct transfers_options transfers = {.data = options->data,
                                          .manifest = options->manifest,
                                          .parameters = options->parameters,
                                          .tell = on_event,
                                          .broken = on_broken,
                                          .waits = on_waits,
                                          .has_room = on_room,
                                          .context = intake};
    intake->options = *options;
    intake->queue = queue_create(MESSAGES_LIMIT);
    enum status status =
        transfers_create(&transfers, clock_monotonic_ms(), &intake->transfers, error);
    if (status == OK) status = thread_start("intake", run, intake, &intake->thread, error);
    if (status == OK)
        *out = intake;
    else
        intake_stop(intake);
    return status;
}

void intake_post(struct intake *intake, const struct intake_message *message) {
    struct intake_message *copy = xmalloc(sizeof *copy);
    *copy = *message;
    call_retain(copy->call);
    if (queue_push_wait(intake->queue, copy) != OK) message_destroy(copy);
}

void intake_stop(struct intake *intake) {
    if (!intake) return;
    queue_close(intake->queue);
    if (thread_join(intake->thread, UINT64_MAX) != OK) log_error("thread_stuck", "thread=intake");
    queue_destroy(intake->queue);
    transfers_destroy(intake->transfers);
    free(intake);
}
