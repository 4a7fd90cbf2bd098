/* What a trainer and its site's node share: messages on a Unix socket and the layout of the memory
 * that the node passes over it. Both ends are on one machine, so numbers are in its own order.
 *
 * The socket (SOCK_SEQPACKET) carries what happens once: attach, declare, ready, go, refused. All
 * that happens at a step is in the shared memory, so that a step costs no call into the kernel:
 *
 *     a page for the node's order and flags       written by the node, read by ranks
 *     a line per rank: steps, what it has seen    written by the rank, read by the node and ranks
 *     the run's tensors: names, shapes, places    written by the node before the memory is passed
 *     out, in: one fragment each, fp32            ranks copy out, and add or load from in
 *
 * An order is {kind, fragment, at}: to be carried out after step `at`. It stands in a slot that is
 * chosen by the lowest bit of its id, and the id is written last. A rank acknowledges an order only
 * in the call of a step before `at`. In the call of step `at` it carries it out if every rank has
 * acknowledged it. Ranks are in lockstep within a step, so by then no acknowledgement can be under
 * way: all ranks come to the same answer, and an order that came too late for one of them is
 * carried out by none and given again.
 *
 * Where ranks are on several hosts (`relayed`) acknowledgements are under way for a while, and no
 * exchange of messages could make two hosts know the same at step `at`. There the node decides,
 * once, in `decided`: the order is fixed when all have acknowledged it, withdrawn when a rank came
 * to step `at` without. It stands in the node's memory before any host is told. A rank that comes
 * to step `at`, and has acknowledged, waits there for the decision, at most wait_ms; orders are
 * given for a step so far ahead that it need not. What is added or loaded is on all hosts before an
 * order is given (`offer`).
 *
 * The node never reads back what it wrote here: a trainer may have written over it. The memory is
 * sealed, so nobody can make it smaller under the other.
 */
#ifndef LIBATOLL_WIRE_H
#define LIBATOLL_WIRE_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    WIRE_BORDER_VERSION = 4,
    WIRE_TOKEN_SIZE = 64, /* hexadecimal digits */
    WIRE_TENSOR_NAME_SIZE = 192,
    WIRE_DIMENSIONS = 8,
    WIRE_RANKS_LIMIT = 4096,
    WIRE_PIECES_LIMIT = 65536, /* of a rank */
    WIRE_PIECES_PER_MESSAGE = 64,
    WIRE_PACKET_LIMIT = 128 * 1024,
    WIRE_TEXT_SIZE = 512,
    WIRE_FRAGMENTS_LIMIT = 64
};
#define WIRE_MAGIC UINT64_C(0x316c6c6f74610a0d) /* 8 bytes at the front of the memory */

enum wire_message_type {
    /* from a rank */
    WIRE_ATTACH = 0x41544c01,
    WIRE_DECLARE,
    WIRE_STATE, /* with the descriptor of the stand that it is about, where there is one */
    WIRE_READY,
    WIRE_BYE,
    /* from the node */
    WIRE_WELCOME, /* with the memory's descriptor, and that of the node's stand */
    WIRE_REFUSED, /* the last message of a connection */
    WIRE_GO,      /* all ranks are there and everything is covered */
    WIRE_APART    /* a relay's, as REFUSED: it has no connection to the node now */
};

struct wire_attach {
    uint32_t type, version;
    uint32_t rank, world;
    uint64_t generation;
    uint64_t relayed; /* 1: the rank is on another host, at a relay */
    char token[WIRE_TOKEN_SIZE];
};

struct wire_welcome {
    uint32_t type, version;
    uint64_t size; /* bytes of the memory */
};

/* A part of a tensor: a rectangle, or with `flat` a range of its elements in row-major order, which
 * is offset[0] and extent[0]. `shape` is the whole tensor's, as the trainer knows it. */
struct wire_piece {
    char name[WIRE_TENSOR_NAME_SIZE];
    uint32_t flat, dimensions;
    uint64_t shape[WIRE_DIMENSIONS], offset[WIRE_DIMENSIONS], extent[WIRE_DIMENSIONS];
};

struct wire_declare { /* then [count] pieces; several messages add up */
    uint32_t type, count;
};

/* Where the parameters of a job are, as it keeps it with its checkpoint: in which session, and for
 * each fragment the last order that was carried out on it there (0: none since the loads), and its
 * last publication (or load), in steps and tokens of the job. */
struct wire_state_fragment {
    uint64_t order, steps, tokens;
};
struct wire_state {
    uint32_t type, fragments;
    uint64_t session, job; /* numbers that no other one has */
    uint64_t steps, tokens;
    uint64_t clock; /* the same step, as the node counts them */
    uint64_t check; /* FNV-1a of the others: a checkpoint may be damaged, or cut off */
    uint8_t site[32];
    struct wire_state_fragment fragment[WIRE_FRAGMENTS_LIMIT];
};

struct wire_word { /* READY, BYE */
    uint32_t type, unused;
};

struct wire_refused { /* REFUSED, APART */
    uint32_t type, unused;
    char text[WIRE_TEXT_SIZE];
};

struct wire_go { /* then a byte per piece of this rank: 1 where this rank copies it out */
    uint32_t type, count;
    uint64_t steps, tokens; /* of the job until here, where its state was taken up */
    uint64_t clock, job;
    uint64_t lost;  /* steps of before, that are in no publication and never will be */
    uint64_t ahead; /* steps after this one that were published by a life before */
    uint64_t kept;  /* a bit per fragment that goes on from the state */
};

/* TRAIN ends the loads that a session begins with. */
enum wire_order_kind { WIRE_PUBLISH = 1, WIRE_ADD, WIRE_LOAD, WIRE_TRAIN };

struct wire_order {
    _Atomic uint64_t id; /* of the slot; written last */
    _Atomic uint64_t kind, fragment, at;
    _Atomic uint64_t start, count; /* floats: the fragment's place in the flat vector */
    _Atomic uint64_t version;      /* ADD, LOAD: of the run, that the fragment then stands on */
};

struct wire_rank {                  /* a cache line pair of its own */
    _Atomic uint64_t steps, tokens; /* since it attached */
    _Atomic uint64_t loss;          /* of the last step: a double's bits */
    _Atomic uint64_t seen;          /* the last order that was seen before its step */
    _Atomic uint64_t done;          /* the last order that was carried out */
    _Atomic uint64_t state;         /* how many states it has asked to be kept */
    _Atomic uint64_t waited_us;     /* in all, for decisions */
    _Atomic uint64_t has;           /* of a relayed one: the offer that its host has whole, ... */
    _Atomic uint64_t round_trip_us; /* ... and how far away that is */
    _Atomic uint64_t turn;          /* of a relayed one: odd while the gateway writes the line */
    uint64_t unused[6];
};

struct wire_tensor {
    char name[WIRE_TENSOR_NAME_SIZE];
    uint64_t offset, count; /* floats */
    uint64_t dimensions, shape[WIRE_DIMENSIONS];
};

/* What the token's file says instead of a token once the run is over: there is no node any more. */
#define WIRE_OVER "the run is over\n"
enum { WIRE_STOPPING = 1 /* the run is over: the trainer may end */ };

/* Of a session; written before GO. */
enum wire_relayed {
    WIRE_TOGETHER,  /* all ranks see each other's lines */
    WIRE_NODE_HOST, /* some are elsewhere, and this is the node's own memory */
    WIRE_ELSEWHERE  /* this is a relay's */
};
/* A decision: the order's id, and whether it was fixed. */
#define WIRE_DECISION(id, fixed) ((id) << 1 | ((fixed) ? 1U : 0U))

struct wire_shared {
    uint64_t magic, size;
    uint64_t parameters, fragments, ranks, tensors;
    uint64_t ranks_at, tensors_at, out_at, in_at; /* bytes from the front */
    _Atomic uint64_t order;                       /* id of the newest; 0: none yet */
    struct wire_order orders[2];
    _Atomic uint64_t flags;
    _Atomic uint64_t inner_steps; /* H, as the run has it now */
    _Atomic uint64_t factor;      /* of the learning rate's schedule: a double's bits */
    _Atomic uint64_t beat;        /* grows while the node lives */
    uint64_t session;             /* a number that no other session has */
    uint8_t site[32];             /* which run and site this is */
    _Atomic uint64_t state;       /* of rank 0's states: those that were kept */
    _Atomic uint64_t relayed;     /* enum wire_relayed */
    _Atomic uint64_t decided;     /* the last order's WIRE_DECISION */
    _Atomic uint64_t wait_ms;     /* the longest wait for one */
    _Atomic uint64_t offer;       /* counts what has been put into `in` for relays to fetch */
    _Atomic uint64_t offered;     /* its fragment */
};

#endif
