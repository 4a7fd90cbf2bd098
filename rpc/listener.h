/* Inside rpc/ only: one listening core server on the engine's queues, and the TLS material that it
 * shows.
 *
 * A rpc_server has one, and for a while a second one after accept failed in the first (server.h).
 * The material is shared by all listeners of a server and fetched by the library at each handshake,
 * which is how a certificate is rotated without touching connections.
 */
#ifndef RPC_LISTENER_H
#define RPC_LISTENER_H

#include <grpc/grpc.h>
#include <pthread.h>

#include "rpc/engine.h"
#include "rpc/server.h"

struct material {
    pthread_mutex_t lock;
    char *chain, *private_key, *client_ca; /* under lock; client_ca may be NULL */
    uint64_t generation;                   /* under lock; counts from 1 */
};

/* INVALID if the library would not take this certificate, which messages call `whose` ("server's").
 * Nothing is changed. */
MUST_USE enum status material_check(const struct rpc_server_certificate *certificate,
                                    const char *whose, struct error *error);
void material_init(struct material *material, const struct rpc_server_certificate *certificate);
void material_set(struct material *material, const struct rpc_server_certificate *certificate);
void material_deinit(struct material *material);

struct listener;

/* Opens a core server on all addresses and starts it. *port: of the first address; given as 0 it is
 * filled in, otherwise it replaces the port 0 of the address. accept is called on a queue's thread
 * for each call that comes, and takes `core`. UNAVAILABLE: an address cannot be bound. */
typedef void listener_accept(void *context, struct engine_queue *queue, grpc_call *core,
                             const char *path);
MUST_USE enum status listener_open(struct engine *engine, const struct rpc_server_options *options,
                                   struct material *material, uint16_t *port,
                                   listener_accept *accept, void *context, struct listener **out,
                                   struct error *error);
/* Stops listening, tells connected clients to go elsewhere, lets calls go on. Idempotent, returns
 * at once. */
void listener_shut(struct listener *listener);
/* After listener_shut: whether the last of its calls and connections is gone. engine->changed is
 * signalled then. */
bool listener_is_over(struct listener *listener);
void listener_cancel_calls(struct listener *listener); /* after listener_shut */
/* once it is over and, at the end, the queues are drained */
void listener_close(struct listener *listener);

#endif
