/* The inside of the server, shared by its server_*.c files, each of which is one thread's or one kind of call's. */
#ifndef COORDINATOR_SERVER_INTERNAL_H
#define COORDINATOR_SERVER_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "base/queue.h"
#include "base/thread.h"
#include "coordinator/call.h"
#include "coordinator/coordinator_state.h"
#include "coordinator/directory.h"
#include "coordinator/disk.h"
#include "coordinator/intake.h"
#include "coordinator/model_thread.h"
#include "coordinator/publisher.h"
#include "coordinator/server.h"
#include "proto/messages.h"
#include "proto/service.h"
#include "rpc/call.h"
#include "rpc/server.h"

enum { FRAME_OVERHEAD = 5 /* gRPC's own prefix of a message */, JOBS_LIMIT = 65536 };

struct server;

/* What the brain is given: an event of its state machine, or a question that only its thread can answer. */
enum brain_item_kind { BRAIN_EVENT, BRAIN_ADMIN_LOOK, BRAIN_REPORT, BRAIN_DURABLE, BRAIN_END };
struct brain_item {
    enum brain_item_kind kind;
    struct call *call; /* a reference, or NULL */
    struct coordinator_event event;
    enum status status;        /* DURABLE */
    struct lost_payload *lost; /* owned: what event.applied.lost points to */
    char message[192];         /* event's borrowed message, where it has one */
    struct admin_request admin;
    struct heartbeat_request report;
    char device[WIRE_DEVICE_LIMIT + 1], software[WIRE_SOFTWARE_LIMIT + 1];
};

struct ledger_queue; /* server_ledger.c */

struct site_report { /* what a site said last; brain thread */
    bool heard;
    struct heartbeat_request last;
    char device[WIRE_DEVICE_LIMIT + 1], software[WIRE_SOFTWARE_LIMIT + 1];
};

struct server {
    struct server_options options;
    struct directory data;
    struct directory_keys keys;
    uint8_t run_id[RUN_ID_SIZE];
    struct rpc_server *rpc;
    struct queue *brain_queue;
    struct thread *brain_thread;
    struct publisher *publisher;
    struct intake *intake;
    struct model_thread *model_thread;
    struct disk *disk;
    uint64_t started_ms;
    _Atomic uint64_t bytes_in, bytes_out;

    pthread_mutex_t calls_lock; /* guards the registry and `revoked` */
    struct call **calls;        /* open ones, in no order */
    size_t call_count, call_capacity;
    uint64_t next_call;
    uint8_t *revoked; /* a bit per site number, [SITES_LIMIT / 8 + 1] */

    struct ledger_queue *ledger;
    struct coordinator_state *state; /* brain */
    struct site_report *reports;     /* brain, [SITES_LIMIT + 1] */
    uint64_t timer_ms;               /* brain */
    char waits[512];                 /* brain: the sentence of the last status */
    bool clock_is_off;               /* brain: as last said */
    uint64_t clock_said_ms;          /* brain: when */
    uint64_t head_size;              /* brain: size of the head last handed to the publisher */

    struct model_state model; /* the model thread's, until it has stopped */
    struct manifest manifest; /* fixed */
    uint8_t manifest_digest[DIGEST_SIZE];
    uint64_t parameters;

    sem_t ended;
    atomic_bool stopping, broken;
    char reason[256]; /* written once, before `broken`, as is: */
    bool halted;      /* a restart would only meet it again */
};

/* --- server_calls.c: the rpc threads' side --- */
/* A reference to the open call of that number, or NULL. */
struct call *call_find(struct server *server, uint64_t number);
/* Ends all calls of the site, now and to come; those that are open are told the reason. */
void calls_cut(struct server *server, uint32_t site, const char *reason);
void server_methods(struct server *server, struct rpc_server_method methods[static METHOD_COUNT]);

/* --- server_brain.c --- */
void brain_run(void *server);
/* Takes the item. From any thread; waits where the queue is full. */
void brain_push(struct server *server, struct brain_item *item);
struct brain_item *brain_item_create(enum brain_item_kind kind, struct call *call);
/* Copies the event and what it borrows. For others' options: the context is the server. */
void brain_tell_event(void *server, const struct coordinator_event *event);
void server_break(struct server *server, const char *format, ...) PRINTF_LIKE(2, 3);

/* --- server_ledger.c: the brain's thread, unless said otherwise --- */
void ledger_open(struct server *server, uint64_t durable); /* entries that are */
void ledger_close(struct server *server);
void ledger_add(struct server *server, const struct coordinator_action *action);
/* At the end of a wake-up: what has gathered goes to the store. */
void ledger_flush(struct server *server);
/* When a full disk is to be tried again; UINT64_MAX: it is not full. */
uint64_t ledger_retry_at(const struct server *server);
void ledger_retry(struct server *server);
/* The store has taken a batch, or not. Returns the number of its last COMMIT; 0: it is tried again. */
uint64_t ledger_taken(struct server *server, enum status status, const char *message);
/* The brain ends: the rest goes to the store, and nobody waits any more. */
void ledger_end(struct server *server);
/* Any other thread: waits until the ledger on disk has `size` entries; false: not now, for lack of room. */
bool ledger_await(void *server, uint64_t size);

/* --- server_waits.c: what holds the run up and needs a person, on the brain's thread --- */
/* For the status: "" if nothing does. Valid until the next call. */
const char *waits_sentence(struct server *server, int64_t *clock_ahead_ms);
/* A site has told its time: whether ours is off is said in the log, at once and then once a minute. */
void waits_hear_clock(struct server *server);

/* --- server_admin.c: questions, on the brain's thread --- */
void admin_look(struct server *server, const struct brain_item *item);
void admin_refuse(struct call *call, uint32_t code, const char *message);
void admin_done(struct server *server, const struct coordinator_action *action);

#endif
