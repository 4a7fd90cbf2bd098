/* Reads what the system leaves this process (base/limits.h): /proc/self/mountinfo and
 * /proc/self/cgroup give the control groups, each level's files their limits, and the tightest one
 * counts. A file that is missing or cannot be parsed sets no limit. */
#include "base/limits.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/memory.h"

enum { LINE_SIZE = 4096, PATH_SIZE_MAX = 4096 };

/* ---- small files ----------------------------------------------------------------------------- */

static FILE *open_below(const char *directory, const char *name) {
    char *path = xformat("%s/%s", directory, name);
    FILE *file = fopen(path, "re");
    free(path);
    return file;
}

/* The whole number at the start of a file; UINT64_MAX for "max", for one that is negative, and
 * where there is none. */
static uint64_t number_in(const char *directory, const char *name) {
    FILE *file = open_below(directory, name);
    if (!file) return UINT64_MAX;
    char text[64] = "", *end;
    if (!fgets(text, sizeof text, file)) text[0] = 0;
    fclose(file);
    if (text[0] < '0' || text[0] > '9') return UINT64_MAX;
    uint64_t value = strtoull(text, &end, 10);
    return end == text ? UINT64_MAX : value;
}

/* The number after `key` in a file of such lines; 0 where there is none. */
static uint64_t number_of(const char *directory, const char *name, const char *key) {
    FILE *file = open_below(directory, name);
    if (!file) return 0;
    char line[256];
    uint64_t value = 0;
    size_t size = strlen(key);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, size) == 0 && (line[size] == ' ' || line[size] == ':'))
            value = strtoull(line + size + 1, NULL, 10);
    fclose(file);
    return value;
}

/* ---- where our groups lie -------------------------------------------------------------------- */

struct group {
    char path[PATH_SIZE_MAX]; /* the directory, with the root before it */
    size_t mount;             /* of its bytes, those of the mount point: not to be gone above */
    bool version2;
};

/* Whether `name` is in a list with commas. */
static bool is_listed(const char *list, const char *name) {
    size_t size = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += size)
        if ((at == list || at[-1] == ',') && (at[size] == 0 || at[size] == ',' || at[size] == '\n'))
            return true;
    return false;
}

/* Our path in the hierarchy of the controller, NULL for version 2's; false if we are in none. */
static bool own_path(const char *root, const char *controller, char out[PATH_SIZE_MAX]) {
    FILE *file = open_below(root, "proc/self/cgroup");
    char line[LINE_SIZE];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        controllers++;
        path[strcspn(path, "\n")] = 0;
        found = controller ? is_listed(controllers, controller) : controllers[0] == 0;
        if (found) snprintf(out, PATH_SIZE_MAX, "%s", path);
    }
    if (file) fclose(file);
    return found;
}

/* mountinfo: id parent device ROOT POINT options... - TYPE source SUPEROPTIONS. Blanks in names are
 * written \040: such a mount is not found, and its limits are not known. */
static bool mount_of(const char *line, const char *controller, char *root, char *point) {
    char type[64], options[1024];
    const char *rest = strstr(line, " - ");
    if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", root, point) != 2) return false;
    if (sscanf(rest + 3, "%63s %*s %1023s", type, options) != 2) return false;
    return controller ? strcmp(type, "cgroup") == 0 && is_listed(options, controller)
                      : strcmp(type, "cgroup2") == 0;
}

/* A container sees its own group mounted as if it were the root, with the outside's path in /proc:
 * what does not lie below the mount's root is the mount point itself. */
static void place(const char *prefix, const char *root, const char *point, const char *path,
                  struct group *out) {
    size_t size = strlen(root);
    if (strcmp(root, "/") == 0) size = 0;
    bool below = strncmp(path, root, size) == 0 && (path[size] == '/' || path[size] == 0) &&
                 !strstr(path, "/..");
    int mount = snprintf(out->path, sizeof out->path, "%s%s", prefix, point);
    out->mount = (size_t)MIN(MAX(mount, 0), PATH_SIZE_MAX - 1);
    if (below && strcmp(path + size, "/") != 0)
        snprintf(out->path + out->mount, sizeof out->path - out->mount, "%s", path + size);
}

static bool find_group(const char *root, const char *controller, struct group *out) {
    static const size_t size = PATH_SIZE_MAX;
    char *path = xmalloc(size), *mount_root = xmalloc(size), *point = xmalloc(size),
         *line = xmalloc(LINE_SIZE);
    FILE *file = own_path(root, controller, path) ? open_below(root, "proc/self/mountinfo") : NULL;
    bool found = false;
    while (file && !found && fgets(line, LINE_SIZE, file)) {
        found = mount_of(line, controller, mount_root, point);
        if (found) place(root, mount_root, point, path, out);
    }
    out->version2 = !controller;
    if (file) fclose(file);
    free(path), free(mount_root), free(point), free(line);
    return found;
}

/* Calls for the group and for each above it, up to the mount point; the least of the answers. */
static uint64_t least_of(struct group *group, uint64_t (*ask)(const struct group *group)) {
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t answer = ask(group);
        least = MIN(least, answer);
        char *slash = strrchr(group->path, '/');
        if (!slash || strlen(group->path) <= group->mount || slash < group->path + group->mount)
            break;
        *slash = 0;
    }
    return least;
}

/* Version 1's hierarchy of the controller, and version 2's: a machine may have both, and a limit in
 * either. */
static uint64_t least_everywhere(const char *root, const char *controller,
                                 uint64_t (*ask)(const struct group *group)) {
    struct group *group = xmalloc(sizeof *group);
    uint64_t first = UINT64_MAX, second = UINT64_MAX;
    if (find_group(root, controller, group)) first = least_of(group, ask);
    if (find_group(root, NULL, group)) second = least_of(group, ask);
    free(group);
    return MIN(first, second);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t left_of(uint64_t limit, uint64_t used) { return limit > used ? limit - used : 0; }

/* Pages of files: they give way. Memory of tmpfs is not among them. */
static uint64_t cache_of(const struct group *group) {
    const char *const *names =
        group->version2 ? (const char *const[]){"inactive_file", "active_file"}
                        : (const char *const[]){"total_inactive_file", "total_active_file"};
    return number_of(group->path, "memory.stat", names[0]) +
           number_of(group->path, "memory.stat", names[1]);
}

static uint64_t memory_left(const struct group *group) {
    uint64_t limit =
        number_in(group->path, group->version2 ? "memory.max" : "memory.limit_in_bytes");
    uint64_t high = group->version2 ? number_in(group->path, "memory.high")
                                    : UINT64_MAX; /* above it, it crawls */
    limit = MIN(limit, high);
    uint64_t used =
        number_in(group->path, group->version2 ? "memory.current" : "memory.usage_in_bytes");
    /* version 1's "none" is a very large number */
    if (limit >= UINT64_C(1) << 62 || used == UINT64_MAX) return UINT64_MAX;
    return left_of(limit, left_of(used, cache_of(group)));
}

uint64_t limits_memory_left(const char *root) {
    return least_everywhere(root, "memory", memory_left);
}

uint64_t limits_memory(const char *root) {
    uint64_t available = limits_memory_left(root),
             free_kib = number_of(root, "proc/meminfo", "MemAvailable");
    if (free_kib) available = MIN(available, free_kib * 1024);
    struct rlimit limit;
    uint64_t taken_kib = number_of(root, "proc/self/status", "VmSize");
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        available = MIN(available, left_of(limit.rlim_cur, taken_kib * 1024));
    return available;
}

/* ---- processors ------------------------------------------------------------------------------ */

static uint64_t quota_of(const struct group *group) {
    uint64_t quota = UINT64_MAX, period = 0;
    if (group->version2) {
        FILE *file = open_below(group->path, "cpu.max");
        unsigned long long a, b;
        if (file && fscanf(file, "%llu %llu", &a, &b) == 2)
            quota = a, period = b; /* "max" is no number */
        if (file) fclose(file);
    } else {
        quota = number_in(group->path, "cpu.cfs_quota_us");
        period = number_in(group->path, "cpu.cfs_period_us");
    }
    if (quota == UINT64_MAX || period == 0 || period == UINT64_MAX) return UINT64_MAX;
    return MAX((quota + period - 1) / period, UINT64_C(1));
}

uint32_t limits_processors(const char *root) {
    uint64_t processors = least_everywhere(root, "cpu", quota_of);
    return processors >= UINT32_MAX ? UINT32_MAX : (uint32_t)processors;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

enum status limits_raise_descriptors(uint64_t *out, struct error *error) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return error_set(error, FAILED, "getrlimit NOFILE: %s", strerror(errno));
    struct rlimit raised = {limit.rlim_max, limit.rlim_max};
    if (limit.rlim_cur < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    if (out) *out = limit.rlim_cur;
    return OK;
}
