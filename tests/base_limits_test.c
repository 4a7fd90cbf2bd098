#include "base/limits.h"

#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/test.h"

#define MIB(n) (UINT64_C(n) << 20)

static void put(const char *name, const char *text) {
    struct error error = {0};
    char *path = file_join(test_directory(), name), *folder = xstrdup(path);
    *strrchr(folder, '/') = 0;
    CHECK_OK(file_make_directory(folder, 0700, &error));
    CHECK_OK(file_write(path, bytes_of(text, strlen(text)), 0600, &error));
    free(folder), free(path);
}

static uint64_t left(void) { return limits_memory_left(test_directory()); }
static uint32_t processors(void) { return limits_processors(test_directory()); }

#define V2 "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"

static void version2(const char *path) {
    char *own = xformat("0::%s\n", path);
    put("proc/self/cgroup", own);
    put("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" V2);
    free(own);
}

TEST(without_groups_or_limits_there_is_no_limit) {
    CHECK_EQUAL(left(), UINT64_MAX);
    CHECK_EQUAL(processors(), UINT32_MAX);
    version2("/a");
    CHECK_EQUAL(left(), UINT64_MAX);
    put("sys/fs/cgroup/a/memory.max", "max\n");
    put("sys/fs/cgroup/a/memory.current", "1000\n");
    put("sys/fs/cgroup/a/cpu.max", "max 100000\n");
    CHECK_EQUAL(left(), UINT64_MAX);
    CHECK_EQUAL(processors(), UINT32_MAX);
}

TEST(pages_of_files_count_as_free) {
    version2("/system.slice/site.service");
    put("sys/fs/cgroup/system.slice/site.service/memory.max", "1073741824\n"); /* 1024 MiB */
    put("sys/fs/cgroup/system.slice/site.service/memory.current",
        "1069547520\n"); /* 1020: a corpus was copied */
    put("sys/fs/cgroup/system.slice/site.service/memory.stat",
        "anon 104857600\nfile 964689920\nactive_file 10485760\ninactive_file 943718400\nshmem "
        "10485760\n"); /* 10 + 900 */
    CHECK_EQUAL(left(), MIB(914));
}

TEST(the_tightest_of_the_group_and_all_above_it_holds) {
    version2("/user.slice/user-1000.slice/site.scope");
    put("sys/fs/cgroup/user.slice/user-1000.slice/site.scope/memory.max", "max\n");
    put("sys/fs/cgroup/user.slice/user-1000.slice/site.scope/memory.current", "1048576\n");
    put("sys/fs/cgroup/user.slice/user-1000.slice/memory.max", "2147483648\n");
    put("sys/fs/cgroup/user.slice/user-1000.slice/memory.current", "1073741824\n");
    CHECK_EQUAL(left(), MIB(1024));
    put("sys/fs/cgroup/user.slice/memory.high", "1610612736\n"); /* 1536: above it, it crawls */
    put("sys/fs/cgroup/user.slice/memory.max", "max\n");
    put("sys/fs/cgroup/user.slice/memory.current", "1073741824\n");
    CHECK_EQUAL(left(), MIB(512));
    put("sys/fs/cgroup/user.slice/memory.current", "2147483648\n");
    CHECK_EQUAL(left(), 0);
    put("sys/fs/cgroup/user.slice/user-1000.slice/site.scope/cpu.max", "400000 100000\n");
    put("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
    CHECK_EQUAL(processors(), 2); /* one and a half */
    put("sys/fs/cgroup/cpu.max", "5000 100000\n");
    CHECK_EQUAL(processors(), 1); /* at the mount point, too; never none */
}

TEST(version_1_and_both_at_once_are_read_alike) {
    put("proc/self/cgroup",
        "9:name=systemd:/\n4:memory:/jobs/7\n2:cpuacct,cpu:/jobs/7\n0::/jobs\n");
    put("proc/self/mountinfo",
        "31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "32 25 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put("sys/fs/cgroup/memory/jobs/7/memory.usage_in_bytes", "1048576\n");
    CHECK_EQUAL(left(), UINT64_MAX);
    put("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/memory/jobs/memory.stat",
        "inactive_file 0\ntotal_inactive_file 524288000\ntotal_active_file 0\n");
    CHECK_EQUAL(left(), MIB(500));
    put("sys/fs/cgroup/unified/jobs/memory.max", "104857600\n");
    put("sys/fs/cgroup/unified/jobs/memory.current", "0\n");
    CHECK_EQUAL(left(), MIB(100));
    put("sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us", "100000\n");
    CHECK_EQUAL(processors(), UINT32_MAX);
    put("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "300000\n");
    put("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000\n");
    CHECK_EQUAL(processors(), 3);
}

TEST(a_container_that_sees_its_group_as_the_root_finds_its_limit) {
    put("proc/self/cgroup", "4:memory:/docker/abc\n0::/../../elsewhere\n");
    put("proc/self/mountinfo",
        "31 25 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n" V2);
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
    CHECK_EQUAL(left(), MIB(512));
    put("sys/fs/cgroup/memory.max", "268435456\n");
    put("sys/fs/cgroup/memory.current", "0\n");
    CHECK_EQUAL(left(), MIB(256));
}

TEST(what_cannot_be_read_is_no_limit) {
    version2("/a");
    put("sys/fs/cgroup/a/memory.max", "lots\n");
    put("sys/fs/cgroup/a/memory.current", "\n");
    put("sys/fs/cgroup/a/cpu.max", "\n");
    put("proc/self/cgroup", "0::/a\nnonsense\n:\n::\n");
    CHECK_EQUAL(left(), UINT64_MAX);
    CHECK_EQUAL(processors(), UINT32_MAX);
}

TEST(the_least_of_machine_groups_and_address_space_counts) {
    put("proc/meminfo", "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n");
    CHECK_EQUAL(limits_memory(test_directory()), MIB(8));
    version2("/a");
    put("sys/fs/cgroup/a/memory.max", "4194304\n");
    put("sys/fs/cgroup/a/memory.current", "0\n");
    CHECK_EQUAL(limits_memory(test_directory()), MIB(4));
    put("proc/meminfo", "MemAvailable:    4096000000 kB\n");
    put("sys/fs/cgroup/a/memory.max", "max\n");
#if !defined(__SANITIZE_ADDRESS__) &&                                                              \
    !defined(__SANITIZE_THREAD__) /* which take more of it than any limit leaves */
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    if (limit.rlim_max != RLIM_INFINITY) return;
    put("proc/self/status", "Name:\tx\nVmSize:\t   1048576 kB\n");
    const struct rlimit set = {UINT64_C(1) << 40, limit.rlim_max};
    CHECK(setrlimit(RLIMIT_AS, &set) == 0);
    CHECK_EQUAL(limits_memory(test_directory()), (UINT64_C(1) << 40) - MIB(1024));
#endif
}

TEST(the_limit_of_descriptors_is_raised_to_the_hard_one) {
    struct error error = {0};
    struct rlimit limit;
    uint64_t now = 0;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    const struct rlimit set = {MIN((rlim_t)256, limit.rlim_max), limit.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &set) == 0);
    CHECK_OK(limits_raise_descriptors(&now, &error));
    CHECK_EQUAL(now, limit.rlim_max);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_EQUAL(limit.rlim_cur, limit.rlim_max);
}
