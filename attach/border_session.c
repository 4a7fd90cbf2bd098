/* A session's memory, and what happens at its steps: reports, orders, loads (attach/border.h). */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/border_internal.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"

enum {
    PAGE = 4096,
    STEPS_PER_LOOK_LIMIT = 1000000,
    UNKNOWN_STEP_MS = 10,
    READ_TRIES = 1000,
    PACE_NS = 20000000
};

static uint64_t pages(uint64_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

static uint64_t largest_fragment(const struct border *border) {
    uint64_t largest = 0, start, count;
    for (uint32_t i = 0; i < border->options.fragments; i++) {
        border->options.range(border->options.context, i, &start, &count);
        largest = MAX(largest, count);
    }
    return largest;
}

struct border_places border_places(uint64_t ranks, uint64_t tensors, uint64_t largest) {
    uint64_t area = pages(largest * sizeof(float));
    struct border_places at = {.ranks = PAGE};
    at.tensors = pages(at.ranks + ranks * sizeof(struct wire_rank));
    at.out = pages(at.tensors + tensors * sizeof(struct wire_tensor));
    at.in = at.out + area;
    at.size = at.in + area;
    return at;
}

uint64_t border_memory(uint64_t ranks, uint64_t tensors, uint64_t largest) {
    return border_places(ranks, tensors, largest).size;
}

uint64_t border_size(const struct border *border) { return border->session.size; }

/* ---- the memory ------------------------------------------------------------------------------ */

static enum status take_memory(struct session *session, struct error *error) {
    session->memory = memfd_create("atoll-border", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (session->memory < 0)
        return error_set(error, UNAVAILABLE, "memfd_create: %s", strerror(errno));
    if (ftruncate(session->memory, (off_t)session->size) != 0 ||
        fcntl(session->memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return error_set(error, FULL, "%zu bytes of shared memory: %s", session->size,
                         strerror(errno));
    void *memory =
        mmap(NULL, session->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
             session->memory, 0); /* first touch is the cost, and is not to be the trainer's */
    if (memory == MAP_FAILED)
        return error_set(error, FULL, "map %zu bytes of shared memory: %s", session->size,
                         strerror(errno));
    session->shared = memory;
    return OK;
}

static void write_tensors(const struct border *border, uint64_t at) {
    struct wire_tensor *out = (void *)((char *)border->session.shared + at);
    for (uint32_t i = 0; i < border->options.tensor_count; i++) {
        const struct coverage_tensor *tensor = &border->options.tensors[i];
        memcpy(out[i].name, tensor->name, sizeof out[i].name);
        out[i].offset = tensor->offset;
        out[i].count = tensor->count;
        out[i].dimensions = tensor->dimensions;
        memcpy(out[i].shape, tensor->shape, sizeof out[i].shape);
    }
}

enum status session_begin(struct border *border, uint64_t generation, uint32_t world,
                          struct error *error) {
    struct session *session = &border->session;
    uint64_t tensors = border->options.tensor_count;
    struct border_places at = border_places(world, tensors, largest_fragment(border));
    session_free(session);
    session->phase = SESSION_GATHERS;
    session->number = ++border->sessions;
    random_system(&session->id, sizeof session->id);
    session->generation = generation;
    session->world = world;
    session->ranks = xcalloc(world, sizeof *session->ranks);
    session->reports = xcalloc(world, sizeof *session->reports);
    session->news_ms = clock_monotonic_ms();
    session->ranks_at = at.ranks;
    session->out_at = at.out;
    session->in_at = at.in;
    session->size = at.size;
    enum status status = take_memory(session, error);
    if (status != OK) {
        session_free(session);
        return status;
    }
    struct wire_shared *shared = session->shared;
    shared->magic = WIRE_MAGIC;
    shared->size = session->size;
    shared->parameters = border->options.parameters;
    shared->fragments = border->options.fragments;
    shared->ranks = world;
    shared->tensors = tensors;
    shared->ranks_at = at.ranks;
    shared->tensors_at = at.tensors;
    shared->out_at = session->out_at;
    shared->in_at = session->in_at;
    shared->session = session->id;
    memcpy(shared->site, border->options.site, sizeof shared->site);
    atomic_store(&shared->wait_ms, border->options.wait_ms);
    write_tensors(border, at.tensors);
    session_tell(border);
    return OK;
}

void session_free(struct session *session) {
    if (session->shared) munmap(session->shared, session->size);
    if (session->memory > 0) close(session->memory);
    free(session->ranks);
    free(session->reports);
    free(session->pieces);
    *session = (struct session){0};
}

static float *area(const struct session *session, uint64_t at) {
    return (float *)(void *)((char *)session->shared + at);
}

void session_tell(struct border *border) {
    struct wire_shared *shared = border->session.shared;
    uint64_t bits;
    if (!shared) return;
    memcpy(&bits, &border->factor, sizeof bits);
    atomic_store(&shared->flags, border->stopping ? (uint64_t)WIRE_STOPPING : 0);
    atomic_store(&shared->inner_steps, border->inner_steps);
    atomic_store(&shared->factor, bits);
}

/* ---- orders ---------------------------------------------------------------------------------- */

/* The fields of the slot that nobody reads by now, then its id, then the newest's. */
static void write_order(struct border *border) {
    struct session *session = &border->session;
    struct wire_order *slot = &session->shared->orders[session->agreement.id & 1];
    uint64_t start, count;
    border->options.range(border->options.context, session->fragment, &start, &count);
    atomic_store(&slot->id, 0);
    atomic_store(&slot->kind, (uint64_t)session->kind);
    atomic_store(&slot->fragment, session->fragment);
    atomic_store(&slot->at, session->agreement.at);
    atomic_store(&slot->start, start);
    atomic_store(&slot->count, count);
    atomic_store(&slot->version, session->version);
    atomic_store(&slot->id, session->agreement.id);
    atomic_store(&session->shared->order, session->agreement.id);
}

static struct wire_rank *lines_of(const struct session *session) {
    return (void *)((char *)session->shared + session->ranks_at);
}

/* The farthest host's, as it is told: a minute at most. */
static double round_trip_ms(const struct session *session) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < session->world; i++)
        most = MAX(most, atomic_load(&lines_of(session)[i].round_trip_us));
    return (double)MIN(most, (uint64_t)60000000) / 1000;
}

static void give_now(struct border *border) {
    struct session *session = &border->session;
    double step_ms = session->step_ms > 0 ? session->step_ms : UNKNOWN_STEP_MS;
    session->given = true;
    session->fixed = false;
    session->agreement.least =
        session->relayed > 0 ? agreement_lead(round_trip_ms(session), step_ms) : 0;
    agreement_give(&session->agreement, session->reports, session->world);
    write_order(border);
}

/* What is in the memory for ranks to add or load, for other hosts to fetch. */
static void offer(struct session *session) {
    atomic_store(&session->shared->offered, session->fragment);
    atomic_store(&session->shared->offer, ++session->offer);
}

static bool all_have_it(const struct session *session) {
    for (uint32_t i = 0; i < session->world; i++)
        if (session->ranks[i]->hello.relayed &&
            atomic_load(&lines_of(session)[i].has) != session->offer)
            return false;
    return true;
}

static void give(struct border *border, enum wire_order_kind kind, uint32_t fragment,
                 uint64_t version) {
    struct session *session = &border->session;
    ASSERT(session->phase == SESSION_TRAINS && !session->ordered);
    session->ordered = true;
    session->given = false;
    session->kind = kind;
    session->fragment = fragment;
    session->version = version;
    if (session->relayed > 0 && kind != WIRE_PUBLISH)
        offer(session);
    else
        give_now(border);
}

void border_publish(struct border *border, uint32_t fragment) {
    give(border, WIRE_PUBLISH, fragment, 0);
}

float *border_correction(struct border *border) {
    return area(&border->session, border->session.in_at);
}

void border_add(struct border *border, uint32_t fragment, uint64_t version) {
    give(border, WIRE_ADD, fragment, version);
}

void border_load(struct border *border, uint32_t fragment, uint64_t version) {
    give(border, WIRE_LOAD, fragment, version);
}

uint64_t border_order(const struct border *border) {
    const struct session *session = &border->session;
    return session->agreement.id + (session->ordered && !session->given ? 1 : 0);
}

bool border_asks_to_keep(const struct border *border) {
    const struct session *session = &border->session;
    bool carried_out = session->ordered && session->reports[0].done == session->agreement.id;
    return session->phase == SESSION_TRAINS && session->states > session->states_kept &&
           !carried_out;
}

void border_kept(struct border *border) {
    struct session *session = &border->session;
    session->states_kept = session->states;
    atomic_store(&session->shared->state, session->states);
}

const float *border_published(const struct border *border) {
    return area(&border->session, border->session.out_at);
}

void border_forget(struct border *border) { border->session.ordered = false; }

bool border_is_done(const struct border *border, uint64_t *at) {
    const struct session *session = &border->session;
    bool done = session->ordered && session->given && (session->relayed == 0 || session->fixed);
    *at = session->ordered ? session->agreement.at : 0;
    if (session->ordered && !session->given) *at = UINT64_MAX;
    for (uint32_t i = 0; done && i < session->world; i++)
        done = session->reports[i].done == session->agreement.id &&
               session->reports[i].steps >= session->agreement.at;
    return done;
}

/* A load: at step 0, where everybody waits for it. TRAIN ends them. */
static void order_load(struct border *border) {
    struct session *session = &border->session;
    const struct border_options *options = &border->options;
    bool over = session->fragment == options->fragments;
    bool add = false;
    if (over) session->fragment = 0;
    session->agreement.id++;
    session->agreement.at = 0;
    if (!over)
        session->version =
            options->load(options->context, session->fragment, area(session, session->in_at), &add);
    session->kind = over ? WIRE_TRAIN : add ? WIRE_ADD : WIRE_LOAD;
    if (session->relayed > 0 && !over) offer(session);
    write_order(border);
}

/* ---- ready, and every look ------------------------------------------------------------------- */

enum status session_add_piece(struct border *border, const struct wire_piece *told,
                              struct rank_connection *connection, struct error *error) {
    struct session *session = &border->session;
    struct coverage_piece piece;
    if (connection->pieces >= WIRE_PIECES_LIMIT)
        return error_set(error, INVALID, "rank %u declares more than %d pieces",
                         connection->hello.rank, WIRE_PIECES_LIMIT);
    TRY(coverage_take(border->options.tensors, border->options.tensor_count, told,
                      connection->hello.rank, &piece, error));
    piece.index = connection->pieces++;
    if (session->piece_count == session->piece_capacity) {
        session->piece_capacity = MAX(2 * session->piece_capacity, (size_t)256);
        session->pieces =
            xrealloc(session->pieces, session->piece_capacity * sizeof *session->pieces);
    }
    session->pieces[session->piece_count++] = piece;
    return OK;
}

/* What all ranks say. Of a fragment where they differ nothing is known. NULL: they differ in all.
 */
static const struct wire_state *agreed_state(struct session *session) {
    struct wire_state *agreed = session->ranks[0]->state;
    for (uint32_t i = 1; agreed && i < session->world; i++) {
        const struct wire_state *other = session->ranks[i]->state;
        if (!other || other->session != agreed->session || other->steps != agreed->steps ||
            other->fragments != agreed->fragments)
            return NULL;
        for (uint32_t f = 0; f < agreed->fragments; f++)
            if (other->fragment[f].order != agreed->fragment[f].order)
                agreed->fragment[f].order = BORDER_ORDER_UNKNOWN;
    }
    return agreed;
}

/* Rank 0's, or another's: one that is at a relay can pass nothing. -1: none has one. */
static int stand_of(const struct session *session) {
    int stand = -1;
    for (uint32_t i = 0; i < session->world && stand < 0; i++) stand = session->ranks[i]->stand;
    return stand;
}

static bool send_go(const struct session *session, uint32_t rank,
                    const struct border_resumed *resumed) {
    struct rank_connection *connection = session->ranks[rank];
    size_t size = sizeof(struct wire_go) + connection->pieces;
    uint8_t *bytes = xcalloc(1, size);
    struct wire_go go = {.type = WIRE_GO,
                         .count = connection->pieces,
                         .steps = resumed->steps,
                         .tokens = resumed->tokens,
                         .clock = resumed->clock,
                         .job = resumed->job,
                         .lost = resumed->lost,
                         .ahead = resumed->ahead,
                         .kept = resumed->kept};
    memcpy(bytes, &go, sizeof go);
    for (size_t i = 0; i < session->piece_count; i++)
        if (session->pieces[i].rank == rank)
            bytes[sizeof go + session->pieces[i].index] = session->pieces[i].owned;
    bool sent = connection_send(connection, bytes, size, NULL);
    free(bytes);
    return sent;
}

enum status session_go(struct border *border, struct error *error) {
    struct session *session = &border->session;
    TRY(coverage_check(border->options.tensors, border->options.tensor_count, session->pieces,
                       session->piece_count, error));
    struct border_resumed resumed = {0};
    for (uint32_t i = 0; i < session->world; i++)
        session->relayed += session->ranks[i]->hello.relayed ? 1 : 0;
    atomic_store(&session->shared->relayed, session->relayed > 0 ? WIRE_NODE_HOST : WIRE_TOGETHER);
    if (border->options.resume)
        border->options.resume(border->options.context, agreed_state(session), stand_of(session),
                               &resumed);
    for (uint32_t i = 0; i < session->world; i++)
        if (!send_go(session, i, &resumed))
            return error_set(error, UNAVAILABLE, "rank %u cannot be reached", i);
    session->phase = SESSION_LOADS;
    session->fragment = 0;
    session->news_ms = clock_monotonic_ms();
    order_load(border);
    return OK;
}

struct line_seen { /* as a rank, or the gateway for it, wrote it */
    struct agreement_rank rank;
    uint64_t tokens, loss, state;
};

/* state before done: while a rank waits for its state, it carries out no more; steps before the
 * rest: what was done before a step is then seen with it. A relayed one's report is taken whole, or
 * the tokens of many steps could be seen with the steps before. */
static struct line_seen read_line(const struct wire_rank *from) {
    struct line_seen line;
    uint64_t turn;
    unsigned tries = 0; /* somebody may have written over it */
    do {
        turn = atomic_load(&from->turn);
        line.state = atomic_load(&from->state);
        line.rank.steps = atomic_load(&from->steps);
        line.rank.seen = atomic_load(&from->seen);
        line.rank.done = atomic_load(&from->done);
        line.tokens = atomic_load(&from->tokens);
        line.loss = atomic_load(&from->loss);
    } while ((turn & 1 || turn != atomic_load(&from->turn)) && ++tries < READ_TRIES);
    return line;
}

enum status session_read_reports(struct session *session, struct error *error) {
    const struct wire_rank *lines = lines_of(session);
    for (uint32_t i = 0; i < session->world; i++) {
        struct agreement_rank *report = &session->reports[i];
        struct line_seen line = read_line(&lines[i]);
        if (line.rank.steps < report->steps ||
            line.rank.steps - report->steps > STEPS_PER_LOOK_LIMIT)
            return error_set(error, INVALID, "rank %u says that it is at step %llu, after %llu", i,
                             (unsigned long long)line.rank.steps,
                             (unsigned long long)report->steps);
        *report = line.rank;
        if (i > 0) continue;
        session->states = line.state;
        session->tokens = line.tokens;
        session->loss = line.loss;
    }
    return OK;
}

static void next_load(struct border *border) {
    struct session *session = &border->session;
    for (uint32_t i = 0; i < session->world; i++)
        if (session->reports[i].done != session->agreement.id) return;
    session->news_ms = clock_monotonic_ms();
    if (session->kind == WIRE_TRAIN) {
        session->phase = SESSION_TRAINS;
        border->trained++;
        return;
    }
    session->fragment++;
    order_load(border);
}

/* A rank that has seen an order goes no step beyond it before it has carried it out. */
static enum status check_carried_out(const struct session *session, struct error *error) {
    const struct agreement *agreement = &session->agreement;
    if (agreement_steps(session->reports, session->world) < agreement->at) return OK;
    for (uint32_t i = 0; i < session->world; i++) {
        const struct agreement_rank *rank = &session->reports[i];
        if (rank->steps > agreement->at && rank->seen == agreement->id &&
            rank->done != agreement->id)
            return error_set(error, INVALID,
                             "rank %u did not carry out what was ordered after step %llu: what "
                             "atoll_step answers is answered by atoll_published or atoll_applied "
                             "before the next step",
                             i, (unsigned long long)agreement->at);
    }
    return OK;
}

static void note_pace(struct session *session) {
    uint64_t now = clock_monotonic_ns();
    uint64_t steps = agreement_steps(session->reports, session->world);
    if (session->pace_ns != 0 && (steps == session->pace_steps || now - session->pace_ns < PACE_NS))
        return;
    if (session->pace_ns != 0) {
        double ms = (double)(now - session->pace_ns) * 1e-6 / (double)(steps - session->pace_steps);
        session->step_ms = session->step_ms > 0 ? 0.8 * session->step_ms + 0.2 * ms : ms;
    }
    session->pace_ns = now;
    session->pace_steps = steps;
}

/* Where ranks are on several hosts. What is decided stands in the memory before any host is told.
 */
static enum status look_at_relayed(struct border *border, struct error *error) {
    struct session *session = &border->session;
    struct agreement *agreement = &session->agreement;
    uint64_t id = agreement->id;
    if (!session->given) {
        if (all_have_it(session)) give_now(border);
        return OK;
    }
    if (session->fixed) return check_carried_out(session, error);
    switch (agreement_decide(agreement, session->reports, session->world)) {
    case AGREEMENT_FIXED:
        session->fixed = true;
        atomic_store(&session->shared->decided, WIRE_DECISION(id, true));
        break;
    case AGREEMENT_MISSED:
        atomic_store(&session->shared->decided, WIRE_DECISION(id, false));
        give_now(border);
        break;
    default: break;
    }
    return OK;
}

enum status session_look(struct border *border, struct error *error) {
    struct session *session = &border->session;
    if (session->phase != SESSION_LOADS && session->phase != SESSION_TRAINS) return OK;
    TRY(session_read_reports(session, error));
    atomic_fetch_add(&session->shared->beat, 1);
    if (session->phase == SESSION_LOADS) {
        next_load(border);
        return OK;
    }
    note_pace(session);
    if (!session->ordered) return OK;
    if (session->relayed > 0) return look_at_relayed(border, error);
    struct agreement before = session->agreement;
    if (agreement_look(&session->agreement, session->reports, session->world) != AGREEMENT_MISSED) {
        session->agreement = before;
        return check_carried_out(session, error);
    }
    give_now(border);
    return OK;
}

void border_progress(const struct border *border, struct border_progress *out) {
    const struct session *session = &border->session;
    const struct wire_rank *lines =
        (const void *)((const char *)session->shared + session->ranks_at);
    *out = (struct border_progress){.loss = (double)NAN};
    if (session->phase != SESSION_TRAINS && session->phase != SESSION_ENDED) return;
    out->ranks = session->world;
    out->relayed = session->relayed;
    for (uint32_t i = 0; i < session->world; i++)
        out->waited_ms = MAX(out->waited_ms, atomic_load(&lines[i].waited_us) / 1000);
    out->steps = agreement_steps(session->reports, session->world);
    out->rank_steps = session->reports[0].steps;
    out->tokens = session->tokens;
    memcpy(&out->loss, &session->loss, sizeof out->loss);
}

/* ---- blame ----------------------------------------------------------------------------------- */

/* Whether the piece has that element of its tensor. */
static bool holds(const struct coverage_piece *piece, const struct coverage_tensor *tensor,
                  uint64_t element) {
    if (piece->flat)
        return element >= piece->offset[0] && element - piece->offset[0] < piece->extent[0];
    for (uint32_t d = tensor->dimensions; d > 0; d--) {
        uint64_t at = element % tensor->shape[d - 1];
        element /= tensor->shape[d - 1];
        if (at < piece->offset[d - 1] || at - piece->offset[d - 1] >= piece->extent[d - 1])
            return false;
    }
    return true;
}

void border_blame(const struct border *border, uint32_t fragment, uint64_t index, char *out,
                  size_t size) {
    const struct session *session = &border->session;
    uint64_t start, count;
    border->options.range(border->options.context, fragment, &start, &count);
    snprintf(out, size, "a parameter");
    for (size_t i = 0; i < session->piece_count; i++) {
        const struct coverage_piece *piece = &session->pieces[i];
        const struct coverage_tensor *tensor = &border->options.tensors[piece->tensor];
        if (!piece->owned || start + index < tensor->offset ||
            start + index - tensor->offset >= tensor->count ||
            !holds(piece, tensor, start + index - tensor->offset))
            continue;
        snprintf(out, size, "tensor \"%s\", rank %u", tensor->name, piece->rank);
        return;
    }
}
