/* The methods of the service, by number: what rpc/ needs to route calls without knowing a message.
 *
 * Paths come from protobuf-c's descriptor of the service, so the schema is the one place where a
 * name is written.
 */
#ifndef PROTO_SERVICE_H
#define PROTO_SERVICE_H

#include <stdbool.h>

enum service_method {
    METHOD_JOIN,      /* unary; the only one without a client certificate */
    METHOD_SUBMIT,    /* frames both ways */
    METHOD_FOLLOW,    /* one request, frames from the server */
    METHOD_SNAPSHOT,  /* one request, frames from the server */
    METHOD_HEARTBEAT, /* unary */
    METHOD_ADMIN,     /* unary; admin certificates */
    METHOD_COUNT
};

/* "/atoll.v1.Atoll/Submit". Static. */
const char *service_path(enum service_method method);
/* METHOD_COUNT if no method has that path. */
enum service_method service_method_of(const char *path);
/* Whether the client, or the server, may send more than one message. */
bool service_client_streams(enum service_method method);
bool service_server_streams(enum service_method method);

#endif
