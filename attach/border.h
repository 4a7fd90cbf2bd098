/* The site's border: where a training job attaches to its node.
 *
 * A Unix socket, and for each session a memory that the node owns and passes over it
 * (libatoll/wire.h). A session is one life of a training job: its ranks attach, declare what they
 * hold, and say that they are ready; once all are and everything is covered, the model is loaded
 * into them, and they train. It ends when a rank detaches, dies, or does what is not allowed, when
 * a higher generation attaches, or when the node ends. What ranks send and write is never trusted:
 * it ends their session at worst, with a message that says why.
 *
 * One thread uses a border. It waits in border_poll alone.
 */
#ifndef ATTACH_BORDER_H
#define ATTACH_BORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "attach/coverage.h"
#include "libatoll/wire.h" /* struct wire_state */

struct border;

/* What becomes of a job that attaches: libatoll/wire.h, struct wire_go. */
struct border_resumed {
    uint64_t steps, tokens, clock, job, lost, ahead, kept;
};
#define BORDER_ORDER_UNKNOWN UINT64_MAX /* ranks differ: of a fragment's last order */

struct border_options {
    const char *socket;                    /* the path; what stands there is replaced */
    const char *token_file;                /* written with a new token, for its owner alone */
    const struct coverage_tensor *tensors; /* borrowed */
    uint32_t tensor_count;
    uint64_t parameters;
    uint32_t fragments;
    uint8_t site[32];    /* of which run and site states are */
    int stand;           /* passed to ranks, for atoll_resume; -1: nothing is */
    uint64_t timeout_ms; /* for all ranks to attach, declare and be ready */
    uint64_t wait_ms;    /* a rank's longest wait, where ranks are on several hosts */
    void *context;
    /* A fragment's place in the flat vector. */
    void (*range)(void *context, uint32_t fragment, uint64_t *start, uint64_t *count);
    /* What all ranks say of where they stand (NULL: nothing, or not the same), and what came with
     * it (-1: nothing; closed by the border). The loads follow, with nothing between. NULL
     * function: every session begins with the model. */
    void (*resume)(void *context, const struct wire_state *state, int stand,
                   struct border_resumed *out);
    /* What a session begins with: [count] floats, and the version that they stand on. *add: they
     * are what is to be added to the parameters. */
    uint64_t (*load)(void *context, uint32_t fragment, float *out, bool *add);
    /* To be logged: something that a trainer did wrong, or that a session ended. */
    void (*complain)(void *context, const char *message);
};

/* INVALID: the socket's path is too long; it says how long it may be. */
MUST_USE enum status border_open(const struct border_options *options, struct border **out,
                                 struct error *error);
/* Ranks find that the node is away, and may attach to its next life. NULL is a no-op. */
void border_close(struct border *border);

/* Waits for something to happen, for at most so long, and deals with what ranks say and write. */
void border_poll(struct border *border, uint64_t timeout_ms);
/* Of the session that trains, counted from 1; 0: none does. */
uint64_t border_session(const struct border *border);
bool border_has_ranks(const struct border *border);      /* somebody is attached */
uint64_t border_session_id(const struct border *border); /* a number that no other one has */

struct border_progress { /* of the session */
    uint64_t steps;      /* that all ranks have reported */
    uint64_t tokens;     /* as rank 0 counts them, at its own last step */
    uint64_t rank_steps; /* that step */
    double loss;
    uint32_t ranks, relayed; /* relayed: of them, on other hosts */
    uint64_t waited_ms;      /* for decisions, of the rank that waited longest */
};
void border_progress(const struct border *border, struct border_progress *out);

/* Gives the order that a fragment is copied out, or that [count] floats are added to it. One at a
 * time; it is given again by itself where it came too late. */
void border_publish(struct border *border, uint32_t fragment);
/* Returns where the correction is to be written; border_add then gives the order. */
float *border_correction(struct border *border);
void border_add(struct border *border, uint32_t fragment, uint64_t version);
/* Likewise, with what replaces the fragment. */
void border_load(struct border *border, uint32_t fragment, uint64_t version);
/* The id of the order that was given last. */
uint64_t border_order(const struct border *border);
/* Rank 0 waits until where it stands is kept; false while it is not yet known to be where the last
 * order that was dealt with left it. */
bool border_asks_to_keep(const struct border *border);
void border_kept(struct border *border);
/* The step after which the last order is carried out; true: it has been, by all ranks. False with
 * step 0: there is no order, or no session; with UINT64_MAX: its data is on the way to other hosts,
 * and its step will be one that no rank has come to. */
bool border_is_done(const struct border *border, uint64_t *at);
/* What was copied out, until the next order. Also after the session has ended. */
const float *border_published(const struct border *border);
/* The order has been dealt with. */
void border_forget(struct border *border);
/* The tensor and the rank that gave the float at `index` of the fragment, for a message. */
void border_blame(const struct border *border, uint32_t fragment, uint64_t index, char *out,
                  size_t size);

/* Where what lies in a session's memory: bytes from the front. */
struct border_places {
    uint64_t ranks, tensors, out, in, size;
};
struct border_places border_places(uint64_t ranks, uint64_t tensors, uint64_t largest_fragment);
/* Bytes of a session's memory: a page, 128 per rank and 280 per tensor in whole pages, and twice
 * the largest fragment in fp32, likewise. */
uint64_t border_memory(uint64_t ranks, uint64_t tensors, uint64_t largest_fragment);
uint64_t border_size(const struct border *border); /* of the last session's; 0: there was none */

/* Ends the session: its ranks are told why. */
void border_refuse(struct border *border, const char *why);
void border_tell(struct border *border, bool stopping, uint64_t inner_steps, double factor);

#endif
