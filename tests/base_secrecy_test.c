#include "base/secrecy.h"

#include <sys/prctl.h>
#include <sys/resource.h>

#include "tests/test.h"

TEST(a_program_with_keys_leaves_no_core_dump) {
    struct rlimit limit = {1, 1};
    CHECK(prctl(PR_GET_DUMPABLE) == 1);
    secrecy_begin();
    CHECK(getrlimit(RLIMIT_CORE, &limit) == 0);
    CHECK_EQUAL(limit.rlim_cur, 0);
    CHECK_EQUAL(limit.rlim_max, 0);
    CHECK(prctl(PR_GET_DUMPABLE) == 0);
}
