/* `atoll-sim train`: K virtual sites train a real small model in virtual time; the workbench for
 * convergence experiments.
 *
 * Sites, speeds, links and failures are those of a federation file (topology/topology.h), as in
 * `plan`; what is trained, encoded and merged is real: model/'s trainer, codec/, and the outer step
 * of fed/model_state.h, with quorum, grace window, staleness cap, DyLU, clipping and rebase as
 * docs/architecture.md has them. Only time is simulated: an inner step takes what the file says, a
 * message its transfer over the link. So a day of sixty sites is as long as its arithmetic takes,
 * and a laptop shows the loss of a federation that it could not run.
 *
 * Threads: inner steps are put off until somebody needs their result, then the sites that are due
 * are trained in parallel, each by one thread. What is computed depends on no order between sites,
 * so any number of threads gives the same bits.
 *
 * Memory is for distinct state only. With P parameters, K sites and W threads (train_memory):
 *     K * (12 P + 4 P sparse + 4 P)      theta and AdamW's moments; error feedback; the snapshot of
 *                                        a message under way
 *     (K F + 2 + A) * 4 P at most        versions of the global model that somebody stands on,
 *                                        shared and counted; A of them to be averaged. Those on
 *                                        their way down a slow link come on top
 *     model_state_memory + W * trainer_memory
 * A site that crashes loses what it trained since its last round or checkpoint, by never training
 * it.
 *
 * A site that joins late stands on the newest version, one that leaves takes what it has not sent.
 *
 * Sites can be hostile: they send what poisons the model and breaks no rule of form.
 *
 * The reference is one cluster that has every site's machines and texts: a batch of each site in
 * turn, and an update after each.
 *
 * Of several fragments each has its rounds, one message after the other, as node/node_rounds.c has
 * it. That needs overlap: what sites that wait owe each other is not here.
 *
 * Left out: the admission checks of a broken message, what a coordinator's
 * restart costs beyond its absence. One thread calls; no clock.
 */
#ifndef EXPERIMENT_TRAIN_H
#define EXPERIMENT_TRAIN_H

#include <stdio.h>

#include "fed/manifest.h"
#include "model/data_format.h"
#include "model/history.h"
#include "topology/rules.h"

/* What hostile sites send: `large` is 100 times their delta; the others stay just under the clip:
 * `flip` turns its sign, `random` is noise, `negate` is the last honest contribution's negative. */
enum train_hostile { TRAIN_HONEST = 0, TRAIN_LARGE, TRAIN_FLIP, TRAIN_RANDOM, TRAIN_NEGATE };
extern const char *const train_hostile_names[]; /* in that order, then NULL */

struct train_evaluation {
    double at, loss, heldout; /* seconds; nats: mean of the sites' last rounds; mean over files */
    uint64_t version, tokens, bytes_up;
};

struct train_site_record {
    char name[TOPOLOGY_NAME_SIZE + 12];
    size_t file; /* of data */
    uint32_t inner_steps;
    uint64_t tokens, contributions, refused, clipped, dropped, duplicates, staleness_most;
};

struct train_record {                     /* all zero before; ends with train_record_deinit */
    struct train_evaluation *evaluations; /* [count] */
    double *files;                        /* [count][file_count] held-out nats */
    size_t count, file_count;
    struct train_site_record *sites; /* [site_count] */
    uint32_t site_count;
};
void train_record_deinit(struct train_record *record);

struct train_options {
    const struct topology *topology; /* borrowed */
    const struct manifest *manifest; /* borrowed: model, inner optimizer, outer rules */
    const char *const *data;         /* [data_count]: site i trains on data[i % data_count] */
    size_t data_count;
    enum data_format data_format;
    double heldout;           /* of each file's end */
    uint64_t windows;         /* held-out windows a file and evaluation; 0: all */
    uint32_t sequences;       /* a batch */
    uint32_t threads;         /* 0: one per processor */
    uint64_t seed;            /* of speeds, links and failures */
    uint32_t follow_interval; /* inner steps; 0: a site moves with its own merges only */
    bool one_cluster;         /* the reference: no federation at all */
    bool no_feedback;         /* sparse mode without its error feedback, for comparison */
    double drop, duplicate;   /* shares of messages that are lost (and told so), or come twice */
    uint32_t
        average; /* the mean of so many last versions is evaluated and exported; 0, 1: newest */
    uint64_t token_limit;               /* of all sites together, where it ends; 0: none */
    const char *export_to;              /* a directory for the last version; NULL: none */
    const struct rules_change *changes; /* [change_count], borrowed, in order of time */
    size_t change_count;
    double duration;       /* virtual seconds */
    double evaluate_every; /* virtual seconds */
    enum train_hostile hostile;
    uint32_t hostile_sites;      /* the last so many */
    double hostile_from;         /* virtual seconds */
    FILE *csv;                   /* NULL: none. time_s,site,version,tokens,loss,heldout */
    FILE *progress;              /* NULL: none */
    struct history *history;     /* NULL: none */
    struct train_record *record; /* NULL: none */
};

struct train_result {
    uint64_t dropped, duplicates, clipped;
    double heldout_late; /* mean over the last tenth of evaluations, one at least */
    double seconds;      /* virtual, when it ended */
    uint64_t versions, tokens, steps, contributions, refused, lost_steps, bytes_up, bytes_down;
    uint64_t message_most; /* bytes */
    uint32_t present_most; /* sites at once */
    uint64_t parameters, distinct_versions_most;
    double loss,
        heldout;      /* mean of the sites' last rounds; of the global model, mean over the files */
    double busy;      /* training / time that sites were there */
    double staleness; /* mean */
    uint64_t staleness_most;
    double scale; /* median over the honest sites' contributions; 1: none was clipped */
    uint8_t root[DIGEST_SIZE];
};

/* Bytes by the formula above. INVALID: the manifest's model. */
MUST_USE enum status train_memory(const struct train_options *options, uint64_t *out,
                                  struct error *error);
/* INVALID, NOT_FOUND: settings or data. */
MUST_USE enum status train_run(const struct train_options *options, struct train_result *out,
                               struct error *error);

#endif
