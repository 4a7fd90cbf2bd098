/* A site's simulated shell: it runs node_state and a real replica, and does what the core says, as
 * the daemon in node/ does.
 *
 * Three threads of the daemon are queues here, each working off its jobs in order and taking time
 * for each: the trainer (inner steps, and between two of them snapshots and rebases), the worker
 * (everything that moves replica and records), and the links (Follow, uploads, heartbeats). What
 * each of them tells the core comes in the order in which it was done.
 *
 * The disk holds what node/journal.h describes: the ledger's copy, payloads, a record for each
 * fragment's round (header, signature, payload, error feedback, theta_s), a checkpoint now and
 * then. A restart follows the table in node/restore.h. The trainer is a toy: each inner step pulls
 * some coordinates towards the site's own optimum; no bit of it depends on anything but the step's
 * number.
 */
#ifndef SIM_SITE_H
#define SIM_SITE_H

#include "crypto/sign.h"
#include "node/node_state.h"
#include "sim/check.h"
#include "sim/disk.h"
#include "sim/network.h"
#include "sim/scenario.h"

struct simulated_site;
struct coordinator;

struct site_setup { /* borrowed, all of it */
    struct world *world;
    const struct scenario *scenario;
    struct network *network;
    struct check *check;
    const struct coordinator *coordinator; /* for receipts that come late */
    const struct key_pair *key;
    const float *initial;
    uint32_t process;
    uint8_t secret_digest[DIGEST_SIZE]; /* of its invitation */
    /* The core gave up, or its disk does not bring it back. */
    void (*halted)(void *context, uint32_t process, const char *message);
    /* It was told to leave, and has: it ends. */
    void (*left)(void *context, uint32_t process);
    void *context;
};

struct simulated_site *site_create(const struct site_setup *setup);
void site_destroy(struct simulated_site *site);
const char *site_name(const struct simulated_site *site);
uint32_t site_number(const struct simulated_site *site); /* in the ledger; 0: not joined yet */
/* somebody else has used its invitation: only another one helps */
bool site_is_robbed(const struct simulated_site *site);
void site_take_invitation(
    struct simulated_site *site,
    const uint8_t secret_digest[static DIGEST_SIZE]); /* which the admin hands over */
bool site_is_finished(const struct simulated_site *site);
/* NULL: it is down, or not joined */
const struct node_state *site_core(const struct simulated_site *site);
const struct replica *site_replica(const struct simulated_site *site); /* likewise */
/* zeros stand in its place until a snapshot of the run is loaded */
bool site_lacks_model(const struct simulated_site *site);

/* --- its disk, while it is down or up --- */
void site_back_up(struct simulated_site *site); /* keeps a copy of the disk as it is */
/* the copy again, while it is down; false: there is none */
bool site_put_back(struct simulated_site *site);
/* while it is down: everything but its number and key */
void site_wipe(struct simulated_site *site);
/* Flips a bit of the copy of that payload, where there is one. */
void site_flip_payload(struct simulated_site *site, const uint8_t *digest);
/* damages something at rest; false: nothing is there to damage */
bool site_flip(struct simulated_site *site, bool record);
/* lent; entries may be damaged where site_has_damaged_record */
const struct disk *site_disk(const struct simulated_site *site);
bool site_has_damaged_record(const struct simulated_site *site);
bool site_has_disk(const struct simulated_site *site); /* it was running once */

/* Moments at which a crash hurts most. */
enum site_moment {
    MOMENT_REFUSED,    /* what was refused is over, and the checkpoint has it in flight */
    MOMENT_LEFT,       /* a message in flight has a base that no restart brings back */
    MOMENT_BASELESS,   /* the same, and a checkpoint was made since such a restart */
    MOMENT_UNDER_WAY,  /* a message is, and what is missed comes as a snapshot of the run */
    MOMENT_ON_ITS_WAY, /* a loaded snapshot is ahead of its ledger */
    MOMENT_COUNT
};
bool site_is_at(const struct simulated_site *site, enum site_moment moment);

void site_boot(struct simulated_site *site);
void site_die(struct simulated_site *site);
/* Its operator takes it out of the run. False: it is not up. */
bool site_leave(struct simulated_site *site);
void site_message(struct simulated_site *site, uint32_t stream, const struct message *message);
void site_closed(struct simulated_site *site, uint32_t stream);
/* A faulty site sends one contribution more, broken in a way drawn from the world's randomness.
 * `victim`: a header and signature of somebody else that is in the ledger, for the taking; NULL:
 * none. */
void site_misbehave(struct simulated_site *site, const struct run_state *run,
                    const struct ledger_entry *victim);
/* In the place of its own program a changed client starts (sim/site_changed.c). False: it has
 * none, or is not enrolled. */
bool site_boot_changed(struct simulated_site *site);
/* It sends one that is in order, except that it tells more inner steps than can be. */
void site_boast(struct simulated_site *site, const struct run_state *run);
/* The same, with another site's payload as its own. */
void site_steal(struct simulated_site *site, const struct run_state *run,
                const struct ledger_entry *victim);

#endif
