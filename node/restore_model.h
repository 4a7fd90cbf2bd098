/* A restore (node/restore.h) with the run's model and the site's trainer; what is gone is logged.
 */
#ifndef NODE_RESTORE_MODEL_H
#define NODE_RESTORE_MODEL_H

#include "node/restore.h"

struct layout;
struct trainer;

struct restore_model { /* borrowed, all of it, while its port is used */
    const struct manifest *manifest;
    const struct layout *layout;
    const char *initial;     /* the run's initial checkpoint; NULL: none */
    bool lacks_model;        /* and it is fetched: zeros stand in its place */
    struct trainer *trainer; /* NULL: the replica's global part alone, for who only reads */
    float
        *scratch; /* not NULL: of a site that a trainer attaches to, [parameters] for what would be
                       theta_local */
};

struct restore_port restore_model_port(const struct restore_model *model);

#endif
