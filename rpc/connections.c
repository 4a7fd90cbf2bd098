/* Finds this process's accepted TCP connections by walking /proc/self/fd, and shuts some down
 * (rpc/connections.h). */
#include "rpc/connections.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/memory.h"

static bool is_accepted_on(int descriptor, uint16_t port) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getsockname(descriptor, (struct sockaddr *)&address, &size) != 0) return false;
    uint16_t local = 0;
    if (address.ss_family == AF_INET)
        local = ntohs(((const struct sockaddr_in *)&address)->sin_port);
    if (address.ss_family == AF_INET6)
        local = ntohs(((const struct sockaddr_in6 *)&address)->sin6_port);
    if (local != port) return false;
    size = sizeof address;
    return getpeername(descriptor, (struct sockaddr *)&address, &size) == 0;
}

static int compare(const void *a, const void *b) {
    int left = *(const int *)a, right = *(const int *)b;
    return (left > right) - (left < right);
}

struct connections connections_of(uint16_t port) {
    struct connections found = {.port = port};
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) return found;
    size_t capacity = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        int descriptor = (int)strtol(entry->d_name, NULL, 10);
        if (!is_accepted_on(descriptor, port)) continue;
        if (found.count == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            found.descriptors = xrealloc(found.descriptors, capacity * sizeof *found.descriptors);
        }
        found.descriptors[found.count++] = descriptor;
    }
    closedir(directory);
    if (found.count > 0) qsort(found.descriptors, found.count, sizeof *found.descriptors, compare);
    return found;
}

void connections_drop(const struct connections *connections, size_t count) {
    for (size_t i = 0; i < count && i < connections->count; i++) {
        int descriptor = connections->descriptors[connections->count - 1 - i];
        /* Asked again just before: the number may have passed to somebody else. */
        if (is_accepted_on(descriptor, connections->port)) shutdown(descriptor, SHUT_RDWR);
    }
}

void connections_deinit(struct connections *connections) {
    free(connections->descriptors);
    *connections = (struct connections){0};
}
