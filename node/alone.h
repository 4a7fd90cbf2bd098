/* atoll-node without a coordinator: model/verbs.h's verbs, under the node's name.
 *
 *     atoll-node train --standalone FILE...     the flag must be said: a site of a run trains by
 *                                               `join` and `run`
 *     atoll-node logits MODEL ...
 *     atoll-node eval MODEL FILE...             the model directory stands right after the verb;
 *     atoll-node generate MODEL ...             without one these two are about the run's newest
 *                                               model (--dir)
 */
#ifndef NODE_ALONE_H
#define NODE_ALONE_H

#include <stdbool.h>

#include "base/options.h"

/* Whether these arguments ask for one of them. */
bool alone_is_meant(int argc, char **argv);
/* The process's exit code: that of model/verbs.h. */
int alone_main(int argc, char **argv);
/* node_command with a word about these verbs in its help; lent for the process's life. */
const struct command *alone_extend(const struct command *node);

#endif
