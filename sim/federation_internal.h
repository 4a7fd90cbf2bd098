/* The inside of a simulated federation: federation.c (processes, the parts of a run),
 * federation_fault_phase.c (faults that come at times of their own), federation_admin.c (the admin,
 * and strangers who try to connect). */
#ifndef SIM_FEDERATION_INTERNAL_H
#define SIM_FEDERATION_INTERNAL_H

#include "sim/coordinator.h"
#include "sim/federation.h"
#include "sim/site.h"

enum { STRIKES = 3 /* of each kind */ };

struct federation {
    struct world world;
    struct scenario scenario;
    struct network *network;
    struct key_pair *keys[PROCESS_LIMIT]; /* by process */
    float *initial;
    struct check *check;
    struct coordinator *coordinator;
    struct simulated_site *sites[PROCESS_LIMIT]; /* 1 .. site_count */
    uint32_t site_count;
    uint8_t secrets[PROCESS_LIMIT][DIGEST_SIZE];
    uint64_t invited_from[PROCESS_LIMIT]; /* world time from which the admin invites it */
    bool revoking[PROCESS_LIMIT], halted[PROCESS_LIMIT], returning[PROCESS_LIMIT];
    bool measures_anew;            /* the coordinator came back in the middle of a flood */
    unsigned named_damaged;        /* payloads that a liar named as soon as they were damaged */
    unsigned struck[MOMENT_COUNT]; /* crashes at such a moment */
    bool wipe[PROCESS_LIMIT];      /* its disk did not bring it back, or it is to be lost */
    bool put_back[PROCESS_LIMIT];
    bool gone[PROCESS_LIMIT]; /* for good */
    bool fault_phase, stop_wanted, pause_wanted;
    uint32_t left; /* sites that have left, each time */
};

bool federation_is_absent(const struct federation *f, uint32_t process);
/* It keeps the rules, and nobody asked it to leave. */
bool federation_waits(const struct federation *f, uint32_t fragment, uint64_t index);
bool federation_is_honest(const struct federation *f, uint32_t process);
void federation_start_later(struct federation *f, uint32_t process, uint64_t delay);
/* The process is gone at once, and comes back after a while. */
void federation_go_down(struct federation *f, uint32_t process, const char *why);

/* --- federation_fault_phase.c --- */
void federation_begin_fault_phase(struct federation *f);
/* The next of a kind of fault; false: the fault phase is over. */
bool federation_again(struct federation *f, uint64_t mean, event_handler *run);
uint32_t federation_planned_site(struct federation *f);
/* Does `act` as soon as `is`, or after some seconds all the same; not at all once the fault phase
 * is over. */
typedef bool federation_is(const struct federation *f, uint32_t process);
typedef void federation_act(struct federation *f, uint32_t process);
void federation_at_moment(struct federation *f, federation_is *is, federation_act *act,
                          uint32_t process);
federation_is federation_is_stepping, federation_is_receiving, federation_is_submitting;

/* --- federation_admin.c --- */
/* the admin's aims, looked after until the durable ledger shows them */
event_handler federation_on_admin;
event_handler federation_on_order;           /* an order at a random moment */
void federation_pause(struct federation *f); /* until pause_wanted is taken back */
/* Somebody who was invited comes when the run is over. */
void federation_invite_latecomer(struct federation *f);
void federation_latecomer_attempts(struct federation *f);

#endif
