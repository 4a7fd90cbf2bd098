/* `atoll-node leave`: the site goes in good order. What is under way is sent and receipted, the
 * coordinator enters in the ledger that the site has left, and the daemon ends; from then on nobody
 * waits for it, and nothing that depends on the number of sites counts it. It comes back as any
 * site does: by `atoll-node run`.
 *
 * The request is a file in the site's directory that the running daemon finds; where none runs, the
 * verb is the daemon, for as long as it takes.
 */
#ifndef NODE_LEAVE_H
#define NODE_LEAVE_H

#include <stdbool.h>

/* What status.json says last of a site that has left. */
#define LEAVE_DONE "the site has left the run"

/* For the daemon at its start: an old request is forgotten. */
void leave_forget(const char *directory);
/* For the daemon now and then: whether it is asked to leave. The request is then taken. */
bool leave_is_asked(const char *directory);

#endif
