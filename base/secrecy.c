/* Core dumps off (base/secrecy.h). The limit serves files; a core_pattern that is a pipe does not
 * look at it, and "not dumpable" serves both. */
#include "base/secrecy.h"

#include <sys/prctl.h>
#include <sys/resource.h>

void secrecy_begin(void) {
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
}
