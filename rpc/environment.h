/* What a process that talks to peers does once, before its first server or channel.
 *
 * The library beneath keeps process-wide state: its own threads, a log, and the file-descriptor
 * table that it shares with everything else. Opening the environment starts it (references are
 * counted: servers and channels hold one each), turns its log into ours (its errors become `warn
 * grpc_log`, the rest `debug grpc_log`), switches TLS 1.2 off (for Ed25519 and EC certificates; the
 * library has no such setting for RSA), and ignores SIGPIPE. Never fork without exec once it is
 * open.
 */
#ifndef RPC_ENVIRONMENT_H
#define RPC_ENVIRONMENT_H

#include <stdint.h>

#include "base/status.h"

/* UNAVAILABLE if the system does not give the threads that the library needs. It is asked first,
 * because the library takes a thread that could not be started for one that runs, and waits for it:
 * at its start, or at its end for ever. */
MUST_USE enum status rpc_environment_open(struct error *error);
/* The last one shuts the library down and waits until its threads are gone, within a limit: see
 * base/ending.h. */
void rpc_environment_close(void);
/* The same question, before a server or channel with so many threads of its own: the library starts
 * some of its threads with it. */
MUST_USE enum status rpc_threads_there(uint32_t own, struct error *error);

/* Open descriptors of this process; 0 where the system does not say. */
uint64_t rpc_descriptors_open(void);

#endif
