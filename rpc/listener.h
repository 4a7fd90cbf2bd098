/* Inside rpc/ only: a core server on the engine's queues, which is given connections
 * (rpc/acceptor.h), and the TLS material that it shows: fetched by the library at each handshake,
 * which is how a certificate is rotated without touching connections. */
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

/* accept is called on a queue's thread for each call that comes, and takes `core`. UNAVAILABLE: the
 * library is not one that can be given connections. */
typedef void listener_accept(void *context, struct engine_queue *queue, grpc_call *core,
                             const char *path);
MUST_USE enum status listener_open(struct engine *engine, const struct rpc_server_options *options,
                                   struct material *material, listener_accept *accept,
                                   void *context, struct listener **out, struct error *error);
/* A connected socket; taken. From any thread, not after listener_shut. */
void listener_give(struct listener *listener, int descriptor);
/* Tells connected clients to go elsewhere, lets calls go on. Idempotent, returns at once. */
void listener_shut(struct listener *listener);
/* After listener_shut: whether the last of its calls and connections is gone. engine->changed is
 * signalled then. */
bool listener_is_over(struct listener *listener);
void listener_cancel_calls(struct listener *listener); /* after listener_shut */
/* once it is over and, at the end, the queues are drained */
void listener_close(struct listener *listener);

#endif
