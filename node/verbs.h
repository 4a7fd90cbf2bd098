/* What atoll-node can be told to do. Each returns the process's exit code. */
#ifndef NODE_VERBS_H
#define NODE_VERBS_H

#include "node/settings.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_HALTED = 3 };

int verb_join(struct options *options, void *values);
int verb_run(struct options *options, void *values);
int verb_leave(struct options *options, void *values);
int verb_relay(struct options *options, void *values);
int verb_status(struct options *options, void *values);
int verb_eval(struct options *options, void *values);
int verb_generate(struct options *options, void *values);
int verb_export(struct options *options, void *values);
int verb_validate(struct options *options, void *values);

#endif
