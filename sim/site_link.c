/* The site's network: joining, the downlink (connection attempt, offer, snapshot, Follow), uploads
 * one after another, heartbeats. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "node/entry_payload.h"
#include "sim/coordinator.h"
#include "sim/site_internal.h"

static uint32_t open_call(struct simulated_site *site, struct message *message) {
    uint32_t stream = network_open(site->setup.network, site->setup.process, site->number);
    network_send(site->setup.network, stream, true, message);
    return stream;
}

static void close_call(struct simulated_site *site, uint32_t *stream) {
    uint32_t number = *stream;
    *stream = 0;
    if (number) network_close(site->setup.network, number, true);
}

/* ---- joining --------------------------------------------------------------------------------- */

static void on_join_again(void *context, struct event *event) {
    struct simulated_site *site = context;
    (void)event;
    if (!site->number && !site->join_stream) site_join(site);
}

void site_join(struct simulated_site *site) {
    struct message message = {.kind = MESSAGE_JOIN};
    char name[SITE_NAME_SIZE] = {0};
    memcpy(name, site->name, strlen(site->name));
    buffer_append(&message.bytes, site->setup.secret_digest, DIGEST_SIZE);
    buffer_append(&message.bytes, key_pair_public(site->setup.key), PUBLIC_KEY_SIZE);
    buffer_append(&message.bytes, name, sizeof name);
    site->join_stream = open_call(site, &message);
}

static void join_again(struct simulated_site *site) {
    close_call(site, &site->join_stream);
    world_post(site->world, world_between(site->world, 300 * MS, 1500 * MS), site->setup.process,
               on_join_again, site, NULL);
}

void site_take_invitation(struct simulated_site *site,
                          const uint8_t secret_digest[static DIGEST_SIZE]) {
    memcpy(site->setup.secret_digest, secret_digest, DIGEST_SIZE);
    site->robbed = false;
    if (site->join_stream) join_again(site); /* nobody waits for what is said about the old one */
}

static void joined(struct simulated_site *site, const struct message *message) {
    if (message->a != ACCEPTED) {
        if (message->a == REFUSED_DUPLICATE) site->robbed = true;
        join_again(site);
        return;
    }
    close_call(site, &site->join_stream);
    if (process_write(site->world, site->setup.process) != OK) {
        site->setup.halted(site->setup.context, site->setup.process,
                           "the certificate cannot be written");
        return;
    }
    site->number = (uint32_t)message->b;
    site->world->tally.joins++;
    if (!process_is_doomed(site->world, site->setup.process)) site_enter(site);
}

/* ---- the downlink ---------------------------------------------------------------------------- */

static void link_down(struct simulated_site *site) {
    close_call(site, &site->down_stream);
    site->down = DOWN_IDLE;
    site_tell(site, FROM_DOWNLINK,
              &(struct node_event){.kind = NODE_LINK_DOWN, .status = UNAVAILABLE});
}

static uint64_t instance_of(const struct simulated_site *site) {
    return site->world->processes[site->setup.process].incarnation + 1;
}

/* A faulty site's lies are not in its books. */
static bool says_restored(const struct simulated_site *site) {
    return site->restored || site->setup.scenario->site[site->setup.process].faulty;
}

static void run_follow(struct simulated_site *site) {
    struct message message = {.kind = MESSAGE_FOLLOW,
                              .instance = instance_of(site),
                              .b = site->payloads_from,
                              .c = site->omit_own};
    message.made_plus_1 = site->made_plus_1;
    message.restored = says_restored(site);
    site->next = message.a = MAX(site->from, site->disk.entry_count);
    site->down = DOWN_FOLLOWING;
    site->down_stream = open_call(site, &message);
    site_tell(site, FROM_DOWNLINK, &(struct node_event){.kind = NODE_LINK_UP});
}

static uint32_t site_attempt(struct simulated_site *site, bool leaving) {
    struct message message = {.kind = MESSAGE_HEARTBEAT,
                              .instance = instance_of(site),
                              .turn = site->turn,
                              .leaving = leaving};
    return open_call(site, &message);
}

/* What a snapshot had need never be asked for again, whatever happened since. */
static void take_payloads_from(struct simulated_site *site, uint64_t index) {
    site->payloads_from = index;
    if (index < site->payloads_had)
        world_fail(site->world, "restart",
                   "%s asks for payloads from entry %llu on, its snapshot had those before %llu",
                   site->name, (unsigned long long)index, (unsigned long long)site->payloads_had);
}

void site_connect(struct simulated_site *site, const struct node_action *action) {
    close_call(site, &site->down_stream);
    site->ask_offer = action->ask_offer;
    site->from = action->index;
    take_payloads_from(site, action->payloads_from);
    site->made_plus_1 = action->sequence + 1;
    site->omit_own = true;
    site->down = DOWN_KNOCKING;
    site->down_stream = site_attempt(site, false);
}

void site_follow(struct simulated_site *site, const struct node_action *action) {
    close_call(site, &site->down_stream);
    site->from = action->index;
    take_payloads_from(site, action->payloads_from);
    site->made_plus_1 = action->sequence + 1;
    site->omit_own = true;
    run_follow(site);
}

static void fetch_from(struct simulated_site *site, uint64_t version, bool offer_alone) {
    struct message message = {.kind = MESSAGE_FETCH, .a = version, .c = offer_alone};
    if (!offer_alone) message.b = site->download.size;
    site->down = offer_alone ? DOWN_ASKING : DOWN_FETCHING;
    site->down_stream = open_call(site, &message);
}

void site_fetch(struct simulated_site *site) {
    if (memcmp(site->download_digest, site->offer.content_digest, DIGEST_SIZE) != 0)
        site->download.size = 0;
    memcpy(site->download_digest, site->offer.content_digest, DIGEST_SIZE);
    fetch_from(site, site->offer.version, false);
}

static void fetch_failed(struct simulated_site *site, enum status status) {
    close_call(site, &site->down_stream);
    site->down = DOWN_IDLE;
    site_tell(site, FROM_DOWNLINK,
              &(struct node_event){.kind = NODE_SNAPSHOT_LOADED, .status = status});
}

static void take_offer(struct simulated_site *site, const struct message *message) {
    struct node_event event = {.kind = NODE_OFFER};
    struct error error = {0};
    close_call(site, &site->down_stream);
    site->down = DOWN_IDLE;
    event.offer.exists = message->a != 0;
    if (event.offer.exists &&
        snapshot_header_verify(bytes_of(message->bytes.data, SNAPSHOT_HEADER_SIZE),
                               run_state_coordinator_key(check_run(site->setup.check)),
                               &event.offer.header, &error) != OK)
        world_fail(site->world, "snapshot", "an offer does not verify: %s", error.message);
    site->offer = event.offer.header;
    site_tell(site, FROM_DOWNLINK, &event);
}

static void take_snapshot_piece(struct simulated_site *site, const struct message *message) {
    if (!message->a || message->c != site->offer.content_size ||
        message->b != site->download.size) {
        if (!message->a) site->download.size = 0; /* that one is gone: ask for an offer again */
        fetch_failed(site, UNAVAILABLE);
        return;
    }
    buffer_append(&site->download, message->bytes.data + SNAPSHOT_HEADER_SIZE,
                  message->bytes.size - SNAPSHOT_HEADER_SIZE);
    if (site->download.size < site->offer.content_size) return;
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(site->download.data, site->download.size, digest);
    if (memcmp(digest, site->offer.content_digest, DIGEST_SIZE) !=
        0) { /* a piece of it was torn by a crash */
        site->download.size = 0;
        fetch_failed(site, UNAVAILABLE);
        return;
    }
    journal_payload_hold(site->journal, digest); /* until the keeper has read it */
    enum status status = disk_blob_write(&site->disk, buffer_bytes(&site->download), digest);
    site->download.size = 0; /* where there was no room, all of it is asked for again */
    if (status != OK) {
        journal_payload_unhold(site->journal, digest);
        fetch_failed(site, status);
        return;
    }
    close_call(site, &site->down_stream);
    site->down = DOWN_IDLE;
    site_job(site, &(struct keeper_job){.kind = KEEPER_LOAD, .snapshot = site->offer});
}

static enum status payload_of(const struct simulated_site *site, uint64_t index, struct bytes raw,
                              bool is_dropped, struct entry_payload *out) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    enum status status = ledger_entry_decode(raw, entry, NULL);
    if (status == OK)
        status = entry_payload_of(entry, index, site->payloads_from, is_dropped, out, NULL);
    free(entry);
    return status;
}

/* An entry of ours came as a stub: it is in a round's record, or must be asked for in full. */
static bool take_stub(struct simulated_site *site, struct bytes bytes, struct buffer *raw) {
    struct reader reader = reader_of(bytes);
    struct journal_stub stub = {.epoch = reader_u32(&reader)};
    stub.time_ms = reader_u64(&reader);
    stub.sequence = reader_u64(&reader);
    stub.header = reader_u32(&reader);
    return journal_expand(site->journal, &stub, raw, NULL) == OK;
}

/* CORRUPT: it is another than the one named; as storage/blob.h says it of an upload's end. */
static enum status write_payload(struct simulated_site *site, struct bytes payload,
                                 const uint8_t named[static DIGEST_SIZE]) {
    uint8_t digest[DIGEST_SIZE];
    digest_sha256(payload.data, payload.size, digest);
    if (memcmp(digest, named, DIGEST_SIZE) != 0) return CORRUPT;
    return disk_blob_write(&site->disk, payload, digest);
}

/* The payload that an entry needs is stored, or there already. NOT_FOUND: of an entry of ours it
 * does not come, and is not here. */
static enum status take_payload(struct simulated_site *site, uint64_t index, struct bytes raw,
                                uint8_t mark, struct bytes payload) {
    struct entry_payload needed;
    TRY(payload_of(site, index, raw, mark == ENTRY_DROPPED, &needed));
    if (!needed.is_due || disk_blob_find(&site->disk, needed.digest)) return OK;
    if (mark == ENTRY_OWN) return NOT_FOUND;
    TRY(entry_payload_check_size(index, needed.size, payload.size, NULL));
    return write_payload(site, payload, needed.digest);
}

static void tell_entries(struct simulated_site *site, const struct bytes *entries, size_t count) {
    for (size_t i = 0; i < count; i++) {
        site->next++;
        site->world->tally.entries++;
        site_tell(site, FROM_DOWNLINK,
                  &(struct node_event){.kind = NODE_ENTRY, .bytes = entries[i]});
    }
}

/* Payloads first, then the entries in one write; then the core is told. NOT_FOUND: a stub could
 * not be made whole. */
static enum status take_entries(struct simulated_site *site, const struct message *message) {
    struct reader reader = reader_of(buffer_bytes(&message->bytes));
    size_t count = (size_t)message->b, expanded = 0;
    struct bytes *entries = xcalloc(count + 1, sizeof *entries);
    struct buffer *whole = xcalloc(count + 1, sizeof *whole); /* [expanded]: of stubs */
    enum status status = OK;
    for (uint64_t i = 0; i < count && status == OK; i++) {
        uint8_t mark = reader_u8(&reader);
        struct bytes raw = reader_take(&reader, reader_u32(&reader));
        struct bytes payload = reader_take(&reader, reader_u32(&reader));
        if (mark == ENTRY_OWN) {
            if (!take_stub(site, raw, &whole[expanded])) status = NOT_FOUND;
            raw = buffer_bytes(&whole[expanded++]);
        }
        if (status == OK) status = take_payload(site, message->a + i, raw, mark, payload);
        if (status == OK && mark != ENTRY_DROPPED && message->a + i >= site->payloads_from)
            check_payload_there(site->setup.check, site->name, &site->disk, message->a + i, raw);
        entries[i] = raw;
    }
    if (status == OK) status = journal_append(site->journal, entries, count, NULL);
    if (status == OK) tell_entries(site, entries, count);
    while (expanded > 0) buffer_deinit(&whole[--expanded]);
    free(whole);
    free(entries);
    return status;
}

static void follow_message(struct simulated_site *site, const struct message *message) {
    if (message->kind == MESSAGE_HEAD) {
        site_tell(site, FROM_DOWNLINK,
                  &(struct node_event){.kind = NODE_HEAD, .bytes = buffer_bytes(&message->bytes)});
        return;
    }
    if (message->kind != MESSAGE_ENTRIES) return;
    enum status status = message->a == site->next ? take_entries(site, message) : INVALID;
    if (status == FULL || status == FAILED) {
        site_tell(
            site, FROM_DOWNLINK,
            &(struct node_event){.kind = NODE_FAULT, .status = status, .message = "the disk"});
    } else if (status == INVALID || status == CORRUPT) {
        link_down(site);
    } else if (status == NOT_FOUND) { /* once more, in full; the link stays up for the core */
        struct message again = {.kind = MESSAGE_FOLLOW,
                                .instance = instance_of(site),
                                .a = site->disk.entry_count,
                                .b = site->payloads_from};
        again.restored = says_restored(site);
        close_call(site, &site->down_stream);
        site->omit_own = false;
        site->next = again.a;
        site->down_stream = open_call(site, &again);
    }
}

static void denied(struct simulated_site *site) {
    char message[96];
    snprintf(message, sizeof message, "the coordinator refuses this site");
    site_tell(site, FROM_DOWNLINK,
              &(struct node_event){.kind = NODE_FAULT, .status = REFUSED, .message = message});
}

static void down_message(struct simulated_site *site, const struct message *message) {
    if (message->kind == MESSAGE_DENIED) {
        denied(site);
        return;
    }
    switch (site->down) {
    case DOWN_KNOCKING:
        if (message->code != ACCEPTED) { /* an earlier life of ours is not known to be over */
            link_down(site);
            break;
        }
        close_call(site, &site->down_stream);
        if (site->ask_offer)
            fetch_from(site, 0, true);
        else
            run_follow(site);
        break;
    case DOWN_ASKING: take_offer(site, message); break;
    case DOWN_FETCHING: take_snapshot_piece(site, message); break;
    case DOWN_FOLLOWING: follow_message(site, message); break;
    case DOWN_IDLE: break;
    }
}

/* ---- uploads and heartbeats ------------------------------------------------------------------ */

static const struct journal_round *round_of(const struct simulated_site *site,
                                            const struct upload_order *order) {
    const struct journal_round *round = journal_round(site->journal, order->fragment);
    return round && round->in_flight && round->sequence == order->sequence ? round : NULL;
}

static void upload_over(struct simulated_site *site, struct node_event *event);

static bool take_old_receipt(struct simulated_site *site, uint64_t sequence) {
    struct node_event receipt = {.kind = NODE_UPLOAD_RECEIPT};
    struct bytes bytes;
    if (!site->upload_stream || site->upload_count == 0 || site->uploads[0].sequence != sequence)
        return false;
    const struct journal_round *round = round_of(site, &site->uploads[0]);
    uint32_t epoch = run_state_epoch(node_state_run(site->state));
    if (!round || !coordinator_old_receipt(site->setup.coordinator, round->header, epoch, &bytes))
        return false;
    bool repeated = world_luck(site->world, 0.5);
    if (!world_fault(site->world, FAULT_LATE_RECEIPT, site->setup.process)) return false;
    receipt.bytes = bytes;
    if (repeated) { /* the site had asked that one again */
        receipt.kind = NODE_UPLOAD_REFUSED;
        receipt.refused.code = REFUSED_DUPLICATE;
    }
    upload_over(site, &receipt);
    return true;
}

/* A coordinator that was superseded and does not know it went on with a ledger of its own: it signs
 * heads over that, and says of what it has taken there that it is in the ledger. */
static void take_stray_answer(struct simulated_site *site, uint64_t sequence) {
    uint8_t head[HEAD_SIZE];
    bool is_head = world_luck(site->world, 0.5);
    if (!world_luck(site->world, 0.05) || !coordinator_stray_head(site->setup.coordinator, head))
        return;
    if (!world_fault(site->world, FAULT_STRAY_ANSWER, site->setup.process)) return;
    if (is_head)
        site_tell(site, FROM_DOWNLINK,
                  &(struct node_event){.kind = NODE_HEAD, .bytes = bytes_of(head, sizeof head)});
    else if (site->upload_stream && site->upload_count > 0 && site->uploads[0].sequence == sequence)
        upload_over(site, &(struct node_event){.kind = NODE_UPLOAD_REFUSED,
                                               .refused.code = REFUSED_DUPLICATE});
}

static void on_old_receipt(void *context, struct event *event) {
    struct simulated_site *site = context;
    if (take_old_receipt(site, event->number) ||
        site->world->now >= site->setup.scenario->fault_phase_us)
        return;
    take_stray_answer(site, event->number);
}

/* The answer to an earlier call for the same contribution, given by a coordinator that has been
 * superseded, comes at last. */
static void bring_old_receipt(struct simulated_site *site, const struct upload_order *order) {
    uint64_t delay = world_luck_below(site->world, 400 * MS);
    world_post(site->world, delay, site->setup.process, on_old_receipt, site, NULL)->number =
        order->sequence;
}

static void upload_next(struct simulated_site *site) {
    if (site->upload_stream || site->upload_count == 0) return;
    const struct upload_order *order = &site->uploads[0];
    const struct journal_round *round = round_of(site, order);
    if (!round) { /* it was merged while it waited after another: the journal does not have it any
                     more */
        upload_over(site, &(struct node_event){.kind = NODE_UPLOAD_BROKEN, .status = NOT_FOUND});
        return;
    }
    struct message message = {.kind = MESSAGE_SUBMIT, .instance = instance_of(site)};
    buffer_append(&message.bytes, round->header, CONTRIBUTION_HEADER_SIZE);
    buffer_append(&message.bytes, round->signature, SIGNATURE_SIZE);
    check_sent(site->setup.check, site->setup.process, order->sequence, round->header);
    site->upload_stream = open_call(site, &message);
    bring_old_receipt(site, order);
}

void site_upload(struct simulated_site *site, uint32_t fragment, uint64_t sequence) {
    ASSERT(site->upload_count < COUNT_OF(site->uploads));
    site->uploads[site->upload_count++] = (struct upload_order){fragment, sequence};
    upload_next(site);
}

static void upload_over(struct simulated_site *site, struct node_event *event) {
    event->fragment = site->uploads[0].fragment;
    event->sequence = site->uploads[0].sequence;
    memmove(site->uploads, site->uploads + 1, --site->upload_count * sizeof site->uploads[0]);
    site_tell(site, FROM_UPLINK, event);
    close_call(site, &site->upload_stream);
    upload_next(site);
}

static void send_chunks(struct simulated_site *site, const struct message *credit) {
    const struct journal_round *round = round_of(site, &site->uploads[0]);
    const struct buffer *payload =
        round ? disk_blob_find(&site->disk, round->payload_digest) : NULL;
    if (!payload) {
        world_fail(site->world, "shell", "%s has lost the payload of a message under way",
                   site->name);
        return;
    }
    size_t limit = MAX((size_t)credit->b, 1);
    for (size_t at = (size_t)credit->a; at < payload->size; at += limit) {
        struct message chunk = {.kind = MESSAGE_CHUNK, .a = at};
        buffer_append(&chunk.bytes, payload->data + at, MIN(limit, payload->size - at));
        network_send(site->setup.network, site->upload_stream, true, &chunk);
    }
}

static void upload_message(struct simulated_site *site, const struct message *message) {
    struct node_event event = {.bytes = buffer_bytes(&message->bytes)};
    const struct journal_round *round = round_of(site, &site->uploads[0]);
    /* It overtakes the answer of who has taken over. */
    if (message->kind != MESSAGE_CREDIT && take_old_receipt(site, site->uploads[0].sequence))
        return;
    switch (message->kind) {
    case MESSAGE_CREDIT: send_chunks(site, message); return;
    case MESSAGE_RECEIPT: event.kind = NODE_UPLOAD_RECEIPT; break;
    case MESSAGE_REFUSAL:
        event.kind = NODE_UPLOAD_REFUSED;
        event.refused.code = (enum refusal)message->a;
        event.refused.retry_after_ms = message->b;
        event.refused.current_version = message->c;
        break;
    default:
        event.kind = NODE_UPLOAD_BROKEN;
        event.bytes = (struct bytes){0};
        break;
    }
    if (event.bytes.size > 0 && round)
        check_receipt(site->setup.check, site->number, round->header, round->signature,
                      event.bytes);
    upload_over(site, &event);
}

/* ---- payloads that were lost ----------------------------------------------------------------- */

static void refetched(struct simulated_site *site, enum status status) {
    close_call(site, &site->refetch_stream);
    if (status == OK) site->world->tally.refetched++;
    site_tell(site, FROM_REFETCH, &(struct node_event){.kind = NODE_REFETCHED, .status = status});
}

void site_refetch(struct simulated_site *site, uint64_t index,
                  const struct contribution *contribution) {
    struct message message = {
        .kind = MESSAGE_FOLLOW, .instance = instance_of(site), .a = index, .b = index};
    message.restored = says_restored(site);
    site->refetch_index = index;
    memcpy(site->refetch_digest, contribution->payload_digest, DIGEST_SIZE);
    site->refetch_stream = open_call(site, &message);
}

static void refetch_message(struct simulated_site *site, const struct message *message) {
    struct reader reader = reader_of(buffer_bytes(&message->bytes));
    enum status status = UNAVAILABLE;
    if (message->kind == MESSAGE_ENTRIES && message->a == site->refetch_index) {
        reader_u8(&reader);
        reader_take(&reader, reader_u32(&reader));
        struct bytes payload = reader_take(&reader, reader_u32(&reader));
        status = write_payload(site, payload, site->refetch_digest);
    }
    refetched(site, status);
}

static void supplied(struct simulated_site *site) {
    close_call(site, &site->supply_stream);
    site_tell(site, FROM_REFETCH, &(struct node_event){.kind = NODE_SUPPLIED});
}

void site_supply(struct simulated_site *site, uint64_t index) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct contribution c;
    struct buffer payload = {0};
    if (journal_contribution(site->journal, index, entry, &c, NULL) == OK &&
        journal_payload_read(site->journal, c.payload_digest, SIZE_MAX, &payload, NULL) == OK) {
        struct message message = {.kind = MESSAGE_SUBMIT, .instance = instance_of(site), .a = 1};
        buffer_append(&message.bytes, entry->contribution.header, CONTRIBUTION_HEADER_SIZE);
        buffer_append(&message.bytes, entry->contribution.signature, SIGNATURE_SIZE);
        site->supply_index = index;
        site->supply_stream = open_call(site, &message);
    } else {
        supplied(site);
    }
    buffer_deinit(&payload);
    free(entry);
}

static void supply_message(struct simulated_site *site, const struct message *message) {
    struct ledger_entry *entry = xmalloc(sizeof *entry);
    struct contribution c;
    struct buffer payload = {0};
    size_t limit = MAX((size_t)message->b, 1);
    if (message->kind == MESSAGE_CREDIT &&
        journal_contribution(site->journal, site->supply_index, entry, &c, NULL) == OK &&
        journal_payload_read(site->journal, c.payload_digest, SIZE_MAX, &payload, NULL) == OK) {
        for (size_t at = (size_t)message->a; at < payload.size; at += limit) {
            struct message chunk = {.kind = MESSAGE_CHUNK, .a = at};
            buffer_append(&chunk.bytes, payload.data + at, MIN(limit, payload.size - at));
            network_send(site->setup.network, site->supply_stream, true, &chunk);
        }
    } else {
        if (message->kind == MESSAGE_REFUSAL && message->a == REFUSED_DUPLICATE)
            site->world->tally.supplied++;
        supplied(site);
    }
    buffer_deinit(&payload);
    free(entry);
}

/* ---- heartbeats ------------------------------------------------------------------------------ */

void site_pulse(struct simulated_site *site, bool leaving) {
    close_call(site, &site->pulse_stream);
    site->pulse_stream = site_attempt(site, leaving);
}

static void pulse_message(struct simulated_site *site, const struct message *message) {
    struct node_event event = {.kind = NODE_HEARTBEAT_REPLY};
    close_call(site, &site->pulse_stream);
    if (message->kind == MESSAGE_DENIED) {
        denied(site);
        return;
    }
    if (message->code != ACCEPTED) event.status = UNAVAILABLE;
    site->turn = message->turn;
    event.heartbeat.inner_steps = (uint32_t)message->a;
    event.heartbeat.phase = (enum run_phase)message->b;
    event.heartbeat.version = message->c;
    event.heartbeat.has_left = message->leaving;
    struct reader reader = reader_of(buffer_bytes(&message->bytes));
    while (reader_left(&reader) >= sizeof(uint64_t) &&
           event.heartbeat.wanted_count < NODE_WANTED_LIMIT)
        event.heartbeat.wanted[event.heartbeat.wanted_count++] = reader_u64(&reader);
    site_tell(site, FROM_PULSE, &event);
}

/* ---- from the network ------------------------------------------------------------------------ */

void site_message(struct simulated_site *site, uint32_t stream, const struct message *message) {
    if (process_is_doomed(site->world, site->setup.process) || stream == 0) return;
    if (stream == site->join_stream) {
        joined(site, message);
    } else if (site->changed.runs) {
        site_changed_message(site, stream, message);
    } else if (!site->running) {
        return;
    } else if (stream == site->down_stream) {
        down_message(site, message);
    } else if (stream == site->upload_stream) {
        upload_message(site, message);
    } else if (stream == site->refetch_stream) {
        refetch_message(site, message);
    } else if (stream == site->supply_stream) {
        supply_message(site, message);
    } else if (stream == site->pulse_stream) {
        pulse_message(site, message);
    }
}

void site_closed(struct simulated_site *site, uint32_t stream) {
    if (process_is_doomed(site->world, site->setup.process) || stream == 0) return;
    if (stream == site->join_stream) {
        join_again(site);
    } else if (site->changed.runs) {
        site_changed_closed(site, stream);
    } else if (!site->running) {
        return;
    } else if (stream == site->down_stream) {
        if (site->down == DOWN_FETCHING)
            fetch_failed(site, UNAVAILABLE);
        else
            link_down(site);
    } else if (stream == site->upload_stream) {
        upload_over(site, &(struct node_event){.kind = NODE_UPLOAD_BROKEN, .status = UNAVAILABLE});
    } else if (stream == site->refetch_stream) {
        refetched(site, UNAVAILABLE);
    } else if (stream == site->supply_stream) {
        supplied(site);
    } else if (stream == site->pulse_stream) {
        site->pulse_stream = 0;
        site_tell(site, FROM_PULSE,
                  &(struct node_event){.kind = NODE_HEARTBEAT_REPLY, .status = UNAVAILABLE});
    }
}

void site_link_clear(struct simulated_site *site) {
    site->down = DOWN_IDLE;
    site->down_stream = site->pulse_stream = site->join_stream = site->upload_stream = 0;
    site->refetch_stream = site->supply_stream = 0;
    site->upload_count = 0;
    site->turn = 0;
}
