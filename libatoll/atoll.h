/* libatoll: a training job attaches to its site's atoll-node.
 *
 * The node exchanges what is trained with the other sites; the trainer trains. This library needs
 * libc alone, knows no network, and holds no second copy of the model. A rank's life:
 *
 *     struct atoll_options options = {.directory = "/srv/site", .rank = 0, .world = 1};
 *     atoll_site *site;
 *     if (atoll_attach(&options, &site) != ATOLL_OK) fail(atoll_message(site));
 *     if (atoll_declare(site, pieces, count) != ATOLL_OK) fail(atoll_message(site));
 *     while ((result = atoll_ready(site)) > 0) atoll_applied(site);
 *     for (;;) {
 *         train_one_step();
 *         switch (atoll_step(site, tokens, loss)) {
 *         case ATOLL_PUBLISH: atoll_published(site); break;
 *         case ATOLL_ADD:
 *         case ATOLL_LOAD: atoll_applied(site); break;
 *         }
 *         if (atoll_stopping(site)) break;
 *     }
 *     atoll_detach(site);
 *
 * A piece is a part of one named tensor that this rank holds: a rectangle, or a range of the
 * tensor's elements in row-major order. Over all ranks every element must be in exactly one piece;
 * the same piece on several ranks is a replica, and allowed. Values are fp32. Where a piece has
 * `data`, the library copies from and to it in atoll_published and atoll_applied. Where it has
 * none (another device, another type), the caller does so before, with atoll_copy_out, and
 * atoll_copy_in or atoll_add.
 *
 * atoll_step costs two microseconds at most, waits for nothing, and does not fail because of the
 * network between sites. Where ranks of the job are on other hosts than the node (atoll-node
 * relay), it may wait for the site's own network, at a step that has an order whose decision is
 * still under way; what does not come in time (60 s as a rule) is REFUSED, and the job is to be
 * started again. Where the node is away (ATOLL_AWAY) the trainer goes on, and may attach again:
 * with atoll_resume it goes on from where it is, without it is given the newest model. All ranks of
 * a job call atoll_step after the same steps.
 * One thread at a time may use a site.
 */
#ifndef ATOLL_H
#define ATOLL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATOLL_DIMENSIONS 8
#define ATOLL_STATE_SIZE 4096

typedef struct atoll_site atoll_site;

enum atoll_result {
    ATOLL_OK = 0,
    ATOLL_PUBLISH = 1,  /* copy a fragment out; then atoll_published */
    ATOLL_ADD = 2,      /* add a correction in; then atoll_applied */
    ATOLL_LOAD = 3,     /* replace the fragment; then atoll_applied */
    ATOLL_AWAY = -1,    /* there is no node: train on, or attach again */
    ATOLL_REFUSED = -2, /* atoll_message says what is wrong */
    ATOLL_INVALID = -3, /* the same, found on this side */
    ATOLL_TIMED_OUT = -4
};

struct atoll_options {
    const char *directory; /* the site's: has attach.sock and attach.token */
    const char *socket;    /* NULL: attach.sock in the directory */
    const char *token;     /* NULL: the content of attach.token in the directory */
    uint32_t rank, world;
    uint64_t generation; /* of the job: a restart's is higher than the one before */
    uint32_t timeout_ms; /* of attach, declare and ready; 0: 60 s */
};

struct atoll_piece {
    const char *name; /* of the tensor, as in the run's layout */
    uint32_t flat;    /* 1: the range offset[0], extent[0] of its elements */
    uint32_t dimensions;
    uint64_t shape[ATOLL_DIMENSIONS]; /* of the whole tensor */
    uint64_t offset[ATOLL_DIMENSIONS], extent[ATOLL_DIMENSIONS];
    float *data; /* contiguous, row-major; NULL: the caller copies */
};

/* *site is set whenever there is memory, so that atoll_message can say what is wrong; it is ended
 * with atoll_detach in any case. */
int atoll_attach(const struct atoll_options *options, atoll_site **site);
int atoll_declare(atoll_site *site, const struct atoll_piece *pieces, size_t count);
/* Between declare and ready, on every rank: the parameters are those that a state of atoll_state is
 * of. Then what the run did meanwhile is added to them, and what they have that the run has not is
 * kept; except where the node has not kept that state. `before`: the site that this process was
 * attached to until its node was away, not detached yet; NULL. */
int atoll_resume(atoll_site *site, const void *state, size_t size, const atoll_site *before);
/* Waits until all ranks are there. ATOLL_LOAD or ATOLL_ADD, for each fragment: the model's start,
 * to be followed by atoll_applied and another atoll_ready. ATOLL_OK: train. */
int atoll_ready(atoll_site *site);
/* After each optimizer step. `tokens` of the whole job, `loss` NaN where it is not known; those of
 * rank 0 count. */
int atoll_step(atoll_site *site, uint64_t tokens, double loss);
int atoll_published(atoll_site *site);
int atoll_applied(atoll_site *site);

/* Where the parameters stand, between two steps, for a checkpoint of the job: writes *size bytes,
 * at most ATOLL_STATE_SIZE, the same on all ranks. To be called by all ranks after the same step,
 * rank 0 among them: the node then keeps what belongs to it, of the last two such states, and rank
 * 0 waits for that. AWAY, TIMED_OUT: it was written and is good for this process alone, since the
 * node did not keep it. */
int atoll_state(atoll_site *site, void *state, size_t *size);

/* --- pieces without data, between an order and its published or applied --- */
/* 1: the order concerns this piece on this rank. */
int atoll_concerns(const atoll_site *site, size_t piece);
/* `values` is the whole piece. What lies outside of the order's fragment is left as it is. */
int atoll_copy_out(atoll_site *site, size_t piece, const float *values);
int atoll_copy_in(atoll_site *site, size_t piece, float *values); /* values = what was loaded */
int atoll_add(atoll_site *site, size_t piece, float *values);     /* values += the correction */

/* --- looking --- */
int atoll_stopping(const atoll_site *site);           /* 1: the run is over */
double atoll_schedule_factor(const atoll_site *site); /* of the peak learning rate; 1 is the peak */
uint64_t atoll_inner_steps(const atoll_site *site);   /* H: steps in a round */
uint64_t atoll_run_version(const atoll_site *site);   /* of the run, as of the last correction */
uint64_t atoll_steps(const atoll_site *site);         /* since it attached */
uint64_t atoll_job_steps(const atoll_site *site);     /* also before: as its state says */
/* Steps of the job that the run has not and will not have: what was trained since the last
 * publication, when something other than the state was loaded. Of the life before; now, at the end:
 * what a detach would lose. */
uint64_t atoll_lost(const atoll_site *site);
uint64_t atoll_unpublished(const atoll_site *site);
/* After a resume: the next so many steps were published by a life before. They do not count, and
 * after them the model is loaded, so that nothing is in it twice. */
uint64_t atoll_ahead(const atoll_site *site);
uint64_t atoll_parameters(const atoll_site *site);
const char *atoll_message(const atoll_site *site); /* never NULL; valid until the next call */
void atoll_detach(atoll_site *site);               /* NULL is a no-op */

#ifdef __cplusplus
}
#endif

#endif
