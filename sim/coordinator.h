/* The coordinator's simulated shell: it runs coordinator_state and does what it says, as
 * coordinator/server.h does.
 *
 * Commits queue; a sync makes all that are queued durable together, after a while, and COMMITTED is
 * told later still. Payloads come in chunks into partials that survive a crash, minus what was not
 * synced. The model thread does APPLY and SNAPSHOT one after the other; a snapshot becomes durable
 * after the commits before it, as in the store. Followers get entries and payloads over the network
 * from what is durable. A restart reads the newest snapshot and the durable entries, as the
 * directory's does.
 */
#ifndef SIM_COORDINATOR_H
#define SIM_COORDINATOR_H

#include "coordinator/coordinator_state.h"
#include "sim/check.h"
#include "sim/disk.h"
#include "sim/network.h"
#include "sim/scenario.h"

struct coordinator;

struct coordinator_setup { /* borrowed, all of it */
    struct world *world;
    const struct scenario *scenario;
    struct network *network;
    const struct key_pair *key;
    const float *initial; /* [parameters] */
    /* it stopped itself; the federation starts it again */
    void (*stopped)(void *context, const char *message);
    void *context;
};

/* Lays the run out on its disk: genesis and a snapshot of version 0. Not running yet. */
struct coordinator *coordinator_create(const struct coordinator_setup *setup);
void coordinator_destroy(struct coordinator *coordinator);
/* Flips a bit of the newest snapshot at rest, where there is another one and none is damaged. Mend:
 * puts it right, and nobody takes over. */
bool coordinator_has_snapshots(const struct coordinator *coordinator);
bool coordinator_flip_snapshot(struct coordinator *coordinator);
void coordinator_mend(struct coordinator *coordinator);
struct disk *coordinator_disk(struct coordinator *coordinator);
void coordinator_set_check(struct coordinator *coordinator, struct check *check);
/* NULL: it is down */
const struct run_state *coordinator_run(const struct coordinator *coordinator);

void coordinator_boot(struct coordinator *coordinator);
/* Everything that is not on the disk is gone; of a partial some bytes may be, too. */
void coordinator_die(struct coordinator *coordinator);
/* The next start is that of another coordinator, which takes over with the next epoch. After a
 * receipt: this one is gone as soon as it has made its next one, which nobody hears in time; else
 * the caller sees to its end. */
void coordinator_replace(struct coordinator *coordinator, bool behind_a_receipt);
/* What it is at: moments at which a fault hurts most. */
bool coordinator_is_stepping(const struct coordinator *coordinator);
/* and not all of it is synced */
bool coordinator_is_receiving(const struct coordinator *coordinator);
/* a Submit of that site is open */
bool coordinator_is_called(const struct coordinator *coordinator, uint32_t site);
/* The receipt of an older epoch that was sent for that contribution; false: none is known. Lent. */
bool coordinator_old_receipt(const struct coordinator *coordinator,
                             const uint8_t header[static CONTRIBUTION_HEADER_SIZE], uint32_t epoch,
                             struct bytes *out);
/* A head that a superseded coordinator signs over a ledger of its own, where it went on after the
 * takeover; false: there is none. */
bool coordinator_stray_head(const struct coordinator *coordinator, uint8_t out[static HEAD_SIZE]);
/* An admin's order: `event.admin` is filled. */
void coordinator_order(struct coordinator *coordinator, struct coordinator_event *event);

/* --- from the network --- */
void coordinator_message(struct coordinator *coordinator, uint32_t stream, uint32_t site_process,
                         uint32_t certificate, const struct message *message);
void coordinator_closed(struct coordinator *coordinator, uint32_t stream);

#endif
