/* From an invitation to a site's directory: one Join call over TLS that the token's CA
 * authenticates.
 *
 * The key is made first and kept: a join that lost its reply, or a process that died in between, is
 * repeated with the same key, and the coordinator answers again. A directory that is complete is
 * left as it is, and must be of the site that the token names. */
#ifndef NODE_JOIN_H
#define NODE_JOIN_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/status.h"

struct manifest;

struct join_setup {
    const char *address;
    const char *proxy; /* rpc/proxy.h's setting */
    const char *token, *directory;
    /* Asked, with the run's manifest, before the invitation is used: anything but OK ends the join,
     * and the token is as good as before. NULL: nothing to ask. */
    enum status (*check)(void *context, const struct manifest *manifest, struct bytes layout,
                         bool observes, struct error *error);
    void *context;
};

/* REFUSED with the coordinator's reason and what to do about it; INVALID: the token, or a reply
 * that does not fit it; UNAVAILABLE, TIMEOUT: try again. *already (may be NULL): there was nothing
 * to do. */
MUST_USE enum status join_run(const struct join_setup *setup, bool *already, struct error *error);

#endif
