/* The simulated network between sites and the coordinator: streams of messages, as gRPC gives them,
 * and what goes wrong there.
 *
 * A stream belongs to one call. Its messages come in order in each direction, each after a delay
 * with a heavy tail; streams do not wait for each other, so a receipt may come before or after the
 * entry it is about. A lost message takes all later ones of its stream and direction with it, and
 * some time later both ends are told that the stream is over, each at its own time, as keepalives
 * do; a reset does the same at once. A partition (perhaps in one direction only) holds a site's
 * messages back, or loses them. A message may be held back while those of other streams overtake
 * it, and a bit of a payload may be flipped on its way. A call's opening message may be doubled:
 * the coordinator then sees a second call with the same bytes, whose answers go to nobody. When a
 * process dies its ends are gone, and the other ends learn of it later.
 */
#ifndef SIM_NETWORK_H
#define SIM_NETWORK_H

#include "base/bytes.h"
#include "sim/world.h"

enum { COORDINATOR = 0 /* its process number; sites have 1, 2, ... */ };

enum message_kind {
    MESSAGE_SUBMIT = 1, /* bytes: header || signature; a: it supplies a payload that was lost */
    MESSAGE_CHUNK,      /* a: offset; bytes */
    MESSAGE_FOLLOW,     /* a: index, b: payloads_from, c: omit_own */
    MESSAGE_HEARTBEAT,
    MESSAGE_JOIN,    /* bytes: secret digest || public key || name */
    MESSAGE_FETCH,   /* a: version, 0: the newest; b: offset; c: the offer alone */
    MESSAGE_CREDIT,  /* a: resume offset, b: chunk limit */
    MESSAGE_RECEIPT, /* bytes */
    MESSAGE_REFUSAL, /* a: code, b: retry_after_ms, c: current version; bytes: receipt */
    /* a: first index, b: count; bytes: per entry u8 (enum entry_mark), length u32, entry, payload
     * length u32, payload */
    MESSAGE_ENTRIES,
    MESSAGE_HEAD,            /* bytes */
    MESSAGE_HEARTBEAT_REPLY, /* a: inner steps, b: phase, c: version; bytes: indices of payloads
                                that are wanted, u64 each */
    MESSAGE_JOINED,          /* a: code, b: site number */
    MESSAGE_SNAPSHOT, /* a: exists, b: offset, c: total; bytes: signed header || piece of content */
    MESSAGE_DENIED    /* this certificate is not served any more */
};

enum entry_mark {
    ENTRY_WHOLE,
    ENTRY_OWN,    /* a stub: who gets it has entry and payload */
    ENTRY_DROPPED /* no step will merge it: without payload */
};

struct message {
    enum message_kind kind;
    uint64_t a, b, c;
    uint64_t instance;    /* SUBMIT, FOLLOW, HEARTBEAT: the process's */
    uint32_t turn, code;  /* HEARTBEAT and its REPLY */
    bool leaving;         /* HEARTBEAT: the site goes; its REPLY: it has left */
    uint64_t made_plus_1; /* FOLLOW, as restored */
    bool restored;
    struct buffer bytes;
};

struct network;

struct network_faults { /* probabilities a message, or a call */
    double lost, reset, reset_transfer, doubled, reordered, slow, flipped;
    uint64_t latency; /* mean, us */
    uint64_t bytes_per_second;
    uint64_t keepalive;
};

struct network_ends { /* who is told; the context is the federation's */
    void *context;
    void (*message_at_coordinator)(void *context, uint32_t stream, uint32_t site_process,
                                   uint32_t certificate, const struct message *message);
    void (*closed_at_coordinator)(void *context, uint32_t stream);
    void (*message_at_site)(void *context, uint32_t site_process, uint32_t stream,
                            const struct message *message);
    void (*closed_at_site)(void *context, uint32_t site_process, uint32_t stream);
};

struct network *network_create(struct world *world, const struct network_ends *ends);
void network_destroy(struct network *network);
void network_set_faults(struct network *network, const struct network_faults *faults);
/* Holds back what the site sends (up) or is sent (down) for so long. */
void network_partition(struct network *network, uint32_t site_process, bool up, bool down,
                       uint64_t duration);
void network_heal(struct network *network); /* no partition any more */

/* A new call by a site, which says who it is; returns the stream's number, never 0. */
uint32_t network_open(struct network *network, uint32_t site_process, uint32_t certificate);
/* Takes message->bytes. From the site (up) or from the coordinator. On a closed stream nothing
 * happens. */
void network_send(struct network *network, uint32_t stream, bool up, struct message *message);
/* This end is done with it; the other is told in order. */
void network_close(struct network *network, uint32_t stream, bool by_site);
/* The process is gone: its ends with it. */
void network_process_died(struct network *network, uint32_t process);

#endif
