/* Inside rpc/ only: what the library's log told us in passing. */
#ifndef RPC_ENVIRONMENT_INTERNAL_H
#define RPC_ENVIRONMENT_INTERNAL_H

#include <stdint.h>

/* How often accept has failed in this process for a reason that stops the listener for good. */
uint64_t environment_accept_failures(void);

#endif
