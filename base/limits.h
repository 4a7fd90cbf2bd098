/* What the system leaves this process of its memory, processors and descriptors.
 *
 * A process lives in a control group, that in another, up to the root: each may have a limit, and
 * the tightest holds. A service's MemoryMax and a container's --memory are such limits, its
 * CPUQuota and --cpus likewise. Versions 1 and 2, and a machine that has both at once, are read
 * alike: where the groups lie says /proc/self/mountinfo, which of them is ours /proc/self/cgroup.
 * What files left in the page cache counts as used there, but gives way when memory is needed, so
 * it counts as free here.
 */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#include <stdint.h>

#include "base/status.h"

/* Bytes that the control groups leave: the least over all that this process is in; UINT64_MAX
 * without a limit. `root` is put before /proc and /sys, and is "" except in tests. */
uint64_t limits_memory_left(const char *root);
/* Bytes that this process may still take: the least of what the machine has free, of
 * limits_memory_left and of what its address-space limit leaves. UINT64_MAX where none can be told.
 */
uint64_t limits_memory(const char *root);
/* Processors' worth of time that the control groups grant, rounded up; UINT32_MAX without a limit.
 */
uint32_t limits_processors(const char *root);
/* Raises the soft limit on open files to the hard one and says what it now is; `out` may be NULL.
 * Every program does so at its start: a list of a thousand shards is more than the usual soft
 * limit. FAILED if the limit cannot be read. */
MUST_USE enum status limits_raise_descriptors(uint64_t *out, struct error *error);

#endif
