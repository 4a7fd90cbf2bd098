/* The calls: the network's side of the coordinator. They say who calls, decode and bound what is
 * said, and keep the registry of open RPCs. A call's identity comes from its certificate alone;
 * whether that site is still welcome is kept here too, and is changed before a site's calls are
 * cut, so no call slips in between.
 *
 * What is said is told as an event, on one of rpc/'s threads, in the order of the call. `tell` must
 * not wait for disk or loop: it posts. Nothing is told after calls_stop.
 */
#ifndef COORDINATOR_CALLS_H
#define COORDINATOR_CALLS_H

#include "coordinator/call.h"
#include "coordinator/coordinator_state.h"
#include "proto/messages.h"
#include "rpc/server.h"

struct calls;

enum call_event_kind {
    CALL_EVENT = 1,   /* `event` is for the state machine */
    CALL_REPORT,      /* Heartbeat: `event` is, and the rest of the report is in `report` */
    CALL_QUESTION,    /* Admin: what changes nothing */
    CALL_CHUNK,       /* Submit: a piece of the payload */
    CALL_HALF_CLOSED, /* Submit: the site has said all */
    CALL_FOLLOW,
    CALL_SNAPSHOT,
    CALL_WRITABLE, /* Follow, Snapshot: there is room for another message */
    CALL_CLOSED    /* the last of each call */
};

struct call_event {
    enum call_event_kind kind;
    struct call *call; /* borrowed */
    struct coordinator_event event;
    union { /* borrowed, except chunk.message, which is taken */
        const struct heartbeat_request *report;
        struct {
            enum admin_verb verb;
            uint32_t first_site;
        } question;
        struct {
            uint64_t offset;
            struct buffer message;
            size_t head_size; /* of the message; the chunk is what follows */
        } chunk;
        const struct follow_request *follow;
        const struct snapshot_request *snapshot;
    };
};

struct calls_options {
    uint8_t run_id[RUN_ID_SIZE];
    void (*tell)(void *context, const struct call_event *event);
    void *context;
};

struct calls *calls_create(const struct calls_options *options);
/* Opens the sockets; of `server` all but methods and limits of messages is the caller's. */
MUST_USE enum status calls_listen(struct calls *calls, const struct rpc_server_options *server,
                                  struct error *error);
uint16_t calls_port(const struct calls *calls);

/* --- from any thread --- */
/* A reference to the open call of that number, or NULL. */
struct call *calls_find(struct calls *calls, uint64_t number);
/* The site of this number has this key: only a certificate for it speaks for the site. Numbers come
 * in order, from 1; again with the same key is a no-op. */
void calls_enrol(struct calls *calls, uint32_t site, const uint8_t key[static PUBLIC_KEY_SIZE]);
/* Ends all calls of the site, now and to come; those that are open are told the reason. */
void calls_cut(struct calls *calls, uint32_t site, const char *reason);
/* Bytes of messages since the start. */
void calls_traffic(const struct calls *calls, uint64_t *in, uint64_t *out);

/* Closes the sockets, with a moment for answers that are on their way. */
void calls_stop(struct calls *calls);
/* stopped, and nobody holds a call any more; NULL is a no-op */
void calls_destroy(struct calls *calls);

#endif
