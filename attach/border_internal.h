/* The inside of the border: border.c has the socket and what is said on it, border_session.c a
 * session's memory and what happens at its steps. Nobody else includes it. */
#ifndef ATTACH_BORDER_INTERNAL_H
#define ATTACH_BORDER_INTERNAL_H

#include "attach/agreement.h"
#include "attach/border.h"

enum { CONNECTIONS_LIMIT = WIRE_RANKS_LIMIT + 64 };

struct rank_connection {
    int descriptor;
    uint64_t since_ms;        /* it came, or last said something */
    bool greeted, waits;      /* waits: its greeting is to be judged at the next poll */
    struct wire_attach hello; /* once greeted */
    bool ready;
    uint32_t pieces;
    struct wire_state *state; /* where it says that it stands; NULL: it does not */
    int stand;                /* what came with it; -1: nothing */
};

enum session_phase { SESSION_NONE, SESSION_GATHERS, SESSION_LOADS, SESSION_TRAINS, SESSION_ENDED };

struct session {
    enum session_phase phase;
    uint64_t number, generation, id;
    uint32_t world;
    struct rank_connection **ranks; /* [world]; NULL: not attached */
    uint64_t news_ms;               /* somebody last got further */
    int memory;                     /* its descriptor */
    struct wire_shared *shared;
    size_t size;
    uint64_t ranks_at, out_at, in_at; /* ours: what is in the memory may have been written over */
    struct agreement_rank *reports;   /* [world], as last read */
    struct coverage_piece *pieces;
    size_t piece_count, piece_capacity;
    struct agreement agreement;
    bool ordered;                 /* an order is under way */
    uint32_t relayed;             /* ranks on other hosts; 0: they see each other's lines */
    bool given;                   /* the order: its data is where it is to be */
    bool fixed;                   /* and that all carry it out is decided */
    uint64_t offer;               /* of data to other hosts, counted */
    double step_ms;               /* lately; 0: unknown */
    uint64_t pace_steps, pace_ns; /* from where it is measured */
    enum wire_order_kind kind;
    uint32_t fragment;
    uint64_t version, states, states_kept; /* that rank 0 asked for */
    uint64_t tokens, loss;                 /* rank 0's, with its last report */
};

struct border {
    struct border_options options;
    char *socket_path, *token_path;
    int listener;
    char token[WIRE_TOKEN_SIZE + 1];
    struct rank_connection **connections;
    size_t connection_count;
    struct session session;
    uint64_t sessions, trained; /* counted */
    bool stopping;
    uint64_t inner_steps;
    double factor;
};

/* ---- border.c ---- */
/* The last words; the connection is closed at the next poll. */
void connection_refuse(struct rank_connection *connection, const char *why);
bool connection_send(struct rank_connection *connection, const void *data, size_t size,
                     const int passed[2]); /* descriptors, -1: none; NULL */
void connection_free(struct rank_connection *connection);
/* Tells all ranks and the log. */
void session_end(struct border *border, const char *why);

/* ---- border_session.c ---- */
MUST_USE enum status session_begin(struct border *border, uint64_t generation, uint32_t world,
                                   struct error *error);
void session_free(struct session *session);
MUST_USE enum status session_add_piece(struct border *border, const struct wire_piece *told,
                                       struct rank_connection *connection, struct error *error);
/* All ranks are ready: coverage, then the first load. */
MUST_USE enum status session_go(struct border *border, struct error *error);
/* Reads what ranks wrote. INVALID: something that no step leaves. session_look also deals with it.
 */
MUST_USE enum status session_read_reports(struct session *session, struct error *error);
MUST_USE enum status session_look(struct border *border, struct error *error);
void session_tell(struct border *border);

#endif
