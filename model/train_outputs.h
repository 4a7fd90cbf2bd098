/* What `train` writes, in order of worth: the state and the export are the work, the log and the
 * plot tell of it.
 *
 * All are tried before the first step, and state and export are kept from other processes while it
 * lasts. What fails by the way (a log on a full disk, a plot) is told at once and decides the exit
 * code at the end, but stops nothing and costs neither state nor export.
 */
#ifndef MODEL_TRAIN_OUTPUTS_H
#define MODEL_TRAIN_OUTPUTS_H

#include "base/output.h"
#include "model/export.h"
#include "model/verbs.h"

struct train_outputs { /* {0} claims nothing */
    struct output *state, *model;
};

/* How the trainer's model is exported, where export_claim has been called; `bytes`: a token is a
 * byte. */
struct export_options train_export_options(const struct verb_settings *settings, bool bytes,
                                           uint64_t steps);
/* INVALID names the flag whose file cannot be written, or is given twice, or is one of the data.
 * Statuses of base/output.h. */
MUST_USE enum status train_outputs_claim(const struct verb_settings *settings,
                                         const struct model_config *model,
                                         struct train_outputs *out, struct error *error);
void train_outputs_release(struct train_outputs *outputs);

/* The first failure of several that do not stop one another. */
struct first_failure {
    enum status status;
    struct error error;
};
/* Keeps it if it is one and the first, says the others aloud under `event`; `by_the_way` says the
 * first at once too. */
void first_failure_keep(struct first_failure *first, enum status status, const struct error *error,
                        const char *event, bool by_the_way);

#endif
