/* Frames of Follow: places into entries, pieces into payloads, both into the journal, and then to
 * the core, in order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "node/downlink_internal.h"
#include "node/journal_files.h"

enum { BACKLOG_POLL_MS = 20 };

/* ---- payloads -------------------------------------------------------------------------------- */

static struct partial *partial_of(struct follow *follow, uint64_t index) {
    for (size_t i = 0; i < PARTIAL_LIMIT; i++) {
        if (follow->partials[i].used && follow->partials[i].index == index)
            return &follow->partials[i];
    }
    return NULL;
}

static void drop_partial(struct partial *partial) {
    if (partial->upload) blob_upload_discard(partial->upload);
    *partial = (struct partial){0};
}

static struct waiting_entry *waiting_of(struct follow *follow, uint64_t index) {
    for (size_t i = 0; i < follow->waiting_count; i++) {
        if (follow->waiting[i].index == index) return &follow->waiting[i];
    }
    return NULL;
}

/* A payload that nobody waits for (we have it, or its entry is durable already) is counted through
 * and dropped. */
static bool is_unwanted(struct downlink *downlink, struct follow *follow, uint64_t index) {
    const struct waiting_entry *entry = waiting_of(follow, index);
    return entry ? !entry->needs_payload : index < journal_size(downlink->options.journal);
}

static enum status begin_partial(struct downlink *downlink, struct follow *follow,
                                 const struct follow_frame *frame, struct partial **out,
                                 struct error *error) {
    struct partial *partial = NULL;
    for (size_t i = 0; i < PARTIAL_LIMIT && !partial; i++) {
        if (!follow->partials[i].used) partial = &follow->partials[i];
    }
    if (!partial) return error_set(error, INVALID, "more than %d payloads at once", PARTIAL_LIMIT);
    if (frame->payload_total > downlink->options.payload_limit)
        return error_set(error, INVALID, "a payload of %llu bytes, at most %llu",
                         (unsigned long long)frame->payload_total,
                         (unsigned long long)downlink->options.payload_limit);
    struct blob_upload *upload = NULL;
    if (!is_unwanted(downlink, follow, frame->payload_index)) {
        char name[64];
        snprintf(name, sizeof name, "payload-%llu", (unsigned long long)frame->payload_index);
        struct blob_store *blobs = journal_payloads(downlink->options.journal);
        TRY(blob_upload_open(blobs, name, frame->payload_total, &upload, error));
        if (blob_upload_size(upload) > 0) { /* pieces of a link that broke: a new one begins anew */
            blob_upload_discard(upload);
            TRY(blob_upload_open(blobs, name, frame->payload_total, &upload, error));
        }
    }
    *partial = (struct partial){.index = frame->payload_index,
                                .total = frame->payload_total,
                                .upload = upload,
                                .used = true};
    *out = partial;
    return OK;
}

/* Once both the entry and the last byte are there. */
static enum status finish_payload(struct follow *follow, struct waiting_entry *entry,
                                  struct error *error) {
    struct partial *partial = partial_of(follow, entry->index);
    if (!partial || !partial->upload || partial->received < partial->total) return OK;
    TRY(entry_payload_check_size(entry->index, entry->payload.size, partial->total, error));
    enum status status = blob_upload_finish(partial->upload, entry->payload.digest, error);
    blob_upload_close(partial->upload);
    *partial = (struct partial){0};
    if (status == OK) entry->needs_payload = false;
    return status;
}

static enum status take_piece(struct downlink *downlink, struct follow *follow,
                              const struct follow_frame *frame, struct error *error) {
    struct partial *partial = partial_of(follow, frame->payload_index);
    if (!partial) TRY(begin_partial(downlink, follow, frame, &partial, error));
    if (frame->payload_offset != partial->received || frame->payload_total != partial->total)
        return error_set(error, INVALID, "a piece of the payload of entry %llu is out of order",
                         (unsigned long long)frame->payload_index);
    if (partial->upload)
        TRY(blob_upload_append(partial->upload, frame->payload_offset, frame->payload, error));
    partial->received += frame->payload.size;
    if (partial->received < partial->total) return OK;
    if (!partial->upload) {
        *partial = (struct partial){0};
        return OK;
    }
    struct waiting_entry *entry = waiting_of(follow, frame->payload_index);
    return entry ? finish_payload(follow, entry, error) : OK;
}

/* ---- places ---------------------------------------------------------------------------------- */

static bool is_dropped(const struct follow_frame *frame, uint64_t index) {
    for (uint32_t i = 0; i < frame->dropped_count; i++) {
        if (frame->dropped[i] == index) return true;
    }
    return false;
}

/* Looks into the entry as far as its payload goes; what else is wrong with it is the core's to
 * say. */
static enum status find_payload(struct downlink *downlink, const struct follow *follow,
                                const struct follow_frame *frame, struct waiting_entry *waiting,
                                struct error *error) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    enum status status = ledger_entry_decode(buffer_bytes(&waiting->raw), entry, error);
    if (status == OK && waiting->index == 0)
        status = downlink->options.check_genesis(downlink->options.context, entry, error);
    struct entry_payload *payload = &waiting->payload;
    if (status == OK)
        status = entry_payload_of(entry, waiting->index, follow->payloads_from,
                                  is_dropped(frame, waiting->index), payload, error);
    if (status == OK && payload->is_read) {
        /* first, so that it stays if it is there */
        journal_payload_hold(downlink->options.journal, payload->digest);
        waiting->held = true;
        waiting->needs_payload =
            payload->is_due &&
            !blob_exists(journal_payloads(downlink->options.journal), payload->digest);
    }
    free(entry);
    return status;
}

static void waiting_deinit(struct downlink *downlink, struct waiting_entry *waiting) {
    if (waiting->held) journal_payload_unhold(downlink->options.journal, waiting->payload.digest);
    buffer_deinit(&waiting->raw);
}

static enum status take_place(struct downlink *downlink, struct follow *follow,
                              const struct follow_frame *frame, const struct follow_item *item,
                              struct error *error) {
    if (follow->waiting_count == WAITING_LIMIT)
        return error_set(error, INVALID, "%d entries came while a payload was missing",
                         WAITING_LIMIT);
    struct waiting_entry waiting = {.index = follow->next};
    enum status status = OK;
    if (item->own) {
        struct journal_stub stub = {.sequence = item->own->sequence,
                                    .time_ms = item->own->time_ms,
                                    .epoch = item->own->epoch,
                                    .header = item->own->header};
        status = journal_expand(downlink->options.journal, &stub, &waiting.raw, error);
    } else {
        buffer_append(&waiting.raw, item->entry.data, item->entry.size);
    }
    if (status == OK) status = find_payload(downlink, follow, frame, &waiting, error);
    bool lost = item->own && (status == NOT_FOUND || (status == OK && waiting.needs_payload));
    if (lost) { /* we should have it and have not: the whole entry, and its payload, must come */
        follow->ask_again = true;
        status = error_set(error, NOT_FOUND, "sequence %llu of ours is not in the journal any more",
                           (unsigned long long)item->own->sequence);
    }
    if (status != OK) {
        waiting_deinit(downlink, &waiting);
        return status;
    }
    follow->waiting[follow->waiting_count++] = waiting;
    follow->next++;
    return finish_payload(follow, &follow->waiting[follow->waiting_count - 1], error);
}

static enum status take_places(struct downlink *downlink, struct follow *follow,
                               const struct follow_frame *frame, struct error *error) {
    if (frame->entry_count + frame->own_count == 0) return OK;
    uint64_t first = frame->has_first_index ? frame->first_index : follow->next;
    if (first != follow->next)
        return error_set(error, INVALID, "entry %llu came where %llu was due",
                         (unsigned long long)first, (unsigned long long)follow->next);
    struct follow_cursor cursor = {0};
    struct follow_item item;
    while (follow_next(frame, &cursor, &item))
        TRY(take_place(downlink, follow, frame, &item, error));
    return OK;
}

/* ---- to the journal and the core ------------------------------------------------------------ */

static enum status flush(struct downlink *downlink, struct follow *follow, struct error *error) {
    size_t count = 0;
    while (count < follow->waiting_count && !follow->waiting[count].needs_payload) count++;
    if (count == 0) return OK;
    struct bytes *entries = xmalloc(count * sizeof *entries);
    for (size_t i = 0; i < count; i++) entries[i] = buffer_bytes(&follow->waiting[i].raw);
    enum status status = journal_append(downlink->options.journal, entries, count, error);
    for (size_t i = 0; i < count && status == OK; i++)
        downlink_tell(downlink, &(struct node_event){.kind = NODE_ENTRY, .bytes = entries[i]});
    free(entries);
    if (status != OK) return status;
    trouble_ends(downlink->options.troubles, TROUBLE_DISK_LEDGER);
    for (size_t i = 0; i < count; i++) waiting_deinit(downlink, &follow->waiting[i]);
    follow->waiting_count -= count;
    memmove(follow->waiting, follow->waiting + count,
            follow->waiting_count * sizeof follow->waiting[0]);
    return OK;
}

static enum status take_frame(struct downlink *downlink, struct follow *follow,
                              struct bytes message, struct error *error) {
    struct frame frame;
    struct follow_frame got;
    arena_reset(&downlink->arena);
    TRY(frame_split(message, &frame, error));
    TRY(follow_frame_decode(frame, &downlink->arena, &got, error));
    TRY(take_places(downlink, follow, &got, error));
    if (got.payload_total > 0) TRY(take_piece(downlink, follow, &got, error));
    TRY(flush(downlink, follow, error));
    if (got.head.size > 0)
        downlink_tell(downlink, &(struct node_event){.kind = NODE_HEAD, .bytes = got.head});
    return OK;
}

static void wait_for_core(struct downlink *downlink) {
    while (!downlink_is_stopping(downlink) &&
           downlink->options.backlog(downlink->options.context) >= downlink->options.backlog_limit)
        clock_sleep_ms(BACKLOG_POLL_MS);
}

static enum status open_follow(struct downlink *downlink, const struct follow *follow,
                               struct stream **out, struct error *error) {
    struct follow_request request = {.protocol = PROTOCOL_VERSION,
                                     .from_index = follow->from,
                                     .payloads_from_index = follow->payloads_from,
                                     .omit_own = follow->omit_own,
                                     .instance = downlink->options.instance,
                                     .made_plus_1 = follow->made_plus_1,
                                     .restored = downlink->options.restored};
    struct buffer encoded = {0};
    enum status status = follow_request_encode(&request, &encoded, error);
    if (status == OK)
        status = downlink_open(downlink, METHOD_FOLLOW, 0, buffer_bytes(&encoded), out, error);
    buffer_deinit(&encoded);
    return status;
}

static enum status read_frames(struct downlink *downlink, struct follow *follow,
                               struct stream *stream, struct error *error) {
    struct buffer message = {0};
    enum status status = OK;
    while (status == OK) {
        wait_for_core(downlink);
        status = stream_read(stream, UINT64_MAX, &message, error);
        if (status == NOT_FOUND)
            status = error_set(error, UNAVAILABLE, "the coordinator ended the stream");
        if (status != OK) break;
        status = take_frame(downlink, follow, buffer_bytes(&message), error);
        if (status ==
            FAILED) /* our own disk, and what it holds is unknown: no other link will do better */
            downlink_tell(downlink, &(struct node_event){.kind = NODE_FAULT,
                                                         .status = status,
                                                         .message = error->message});
    }
    buffer_deinit(&message);
    return status;
}

static void follow_deinit(struct downlink *downlink, struct follow *follow) {
    for (size_t i = 0; i < follow->waiting_count; i++)
        waiting_deinit(downlink, &follow->waiting[i]);
    for (size_t i = 0; i < PARTIAL_LIMIT; i++) drop_partial(&follow->partials[i]);
    free(follow->waiting);
}

enum status downlink_run_follow(struct downlink *downlink, uint64_t from, uint64_t payloads_from,
                                uint64_t sequence, struct error *error) {
    bool omit_own = true, told = false;
    enum status status;
    do {
        struct follow follow = {.payloads_from = payloads_from,
                                .made_plus_1 = told ? 0 : sequence + 1,
                                .omit_own = omit_own};
        follow.from = follow.next = MAX(from, journal_size(downlink->options.journal));
        follow.waiting = xcalloc(WAITING_LIMIT, sizeof *follow.waiting);
        struct stream *stream = NULL;
        status = open_follow(downlink, &follow, &stream, error);
        if (status == OK) {
            if (!told) {
                log_info("link_up", "from=%llu", (unsigned long long)follow.from);
                downlink_tell(downlink, &(struct node_event){.kind = NODE_LINK_UP});
                told = true;
            }
            status = read_frames(downlink, &follow, stream, error);
            downlink_close(downlink, stream);
        }
        omit_own = !follow.ask_again;
        follow_deinit(downlink, &follow);
    } while (!omit_own && status == NOT_FOUND && !downlink_is_stopping(downlink));
    return status;
}
