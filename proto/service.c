/* Paths and kinds of the service's methods (proto/service.h), from protobuf-c's descriptor. */
#include "proto/service.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "proto/atoll.pb-c.h"

/* protobuf-c's descriptor does not say who streams; in the order of enum service_method, which is
 * the schema's. */
static const struct {
    bool client, server;
} streams[METHOD_COUNT] = {
    [METHOD_JOIN] = {false, false},      [METHOD_SUBMIT] = {true, true},
    [METHOD_FOLLOW] = {false, true},     [METHOD_SNAPSHOT] = {false, true},
    [METHOD_HEARTBEAT] = {false, false}, [METHOD_ADMIN] = {false, false},
};

/* Written once, behind a lock, and only read from then on. */
static char paths[METHOD_COUNT][64];
static pthread_once_t paths_once = PTHREAD_ONCE_INIT;

static void paths_make(void) {
    const ProtobufCServiceDescriptor *service = &atoll__v1__atoll__descriptor;
    ASSERT(service->n_methods == METHOD_COUNT);
    for (unsigned i = 0; i < METHOD_COUNT; i++) {
        int size =
            snprintf(paths[i], sizeof paths[i], "/%s/%s", service->name, service->methods[i].name);
        ASSERT(size > 0 && (size_t)size < sizeof paths[i]);
    }
}

const char *service_path(enum service_method method) {
    ASSERT((unsigned)method < METHOD_COUNT);
    pthread_once(&paths_once, paths_make);
    return paths[method];
}

enum service_method service_method_of(const char *path) {
    for (unsigned i = 0; i < METHOD_COUNT; i++)
        if (strcmp(path, service_path((enum service_method)i)) == 0) return (enum service_method)i;
    return METHOD_COUNT;
}

bool service_client_streams(enum service_method method) {
    ASSERT((unsigned)method < METHOD_COUNT);
    return streams[method].client;
}

bool service_server_streams(enum service_method method) {
    ASSERT((unsigned)method < METHOD_COUNT);
    return streams[method].server;
}
