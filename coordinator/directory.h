/* The coordinator's data directory: what is in it, how it is made, opened and read.
 *
 *     DIR/manifest.yaml      the manifest in its canonical form, for people; entry 0 of the ledger is what counts
 *     DIR/keys/ca.key, ca.pem                    the federation's root: whoever has the key can enrol anybody
 *     DIR/keys/coordinator.key, coordinator.pem  signs receipts, heads and snapshots; also the server's TLS identity
 *     DIR/keys/admin.key, admin.pem              the first admin's client certificate: copy it (with ca.pem) to where atollctl runs
 *     DIR/store/             LMDB: `ledger` (index -> entry), `snapshots` (version -> signed header)
 *     DIR/blobs/, uploads/   payloads and snapshots by digest; transfers under way
 *
 * Nothing else is needed to restore, audit or move a run: copy the directory while the coordinator is stopped, or copy it
 * running, blobs last, and the ledger's prefix is good.
 */
#ifndef COORDINATOR_DIRECTORY_H
#define COORDINATOR_DIRECTORY_H

#include "crypto/sign.h"
#include "fed/replay.h"
#include "model/layout.h"
#include "storage/blob.h"
#include "storage/store.h"

enum directory_table { TABLE_LEDGER = 0, TABLE_SNAPSHOTS = 1, TABLE_COUNT = 2 };

struct directory {
    char *directory;
    struct store *store;
    struct blob_store *blobs;
};

struct directory_keys {
    struct key_pair *authority, *coordinator;
    struct buffer authority_pem, coordinator_pem, coordinator_key_pem; /* zero-terminated behind the size */
};

/* Lays a new run out: directory (which must not hold a run yet), keys, certificates, genesis entry, snapshot of version 0.
 * INVALID if something is there. `host_names` are DNS names or addresses for people who check certificates; may be NULL. */
MUST_USE enum status directory_create(const char *directory, const struct manifest *manifest, const char *checkpoint,
                                      struct error *error);

/* on_fatal as in storage/store.h. UNAVAILABLE while another process has it open; read_only looks beside it,
 * makes and changes nothing, and needs no write access. */
MUST_USE enum status directory_open(const char *directory, bool read_only,
                                    void (*on_fatal)(void *context, const struct error *error), void *context,
                                    struct directory *out, struct error *error);
void directory_close(struct directory *data);
MUST_USE enum status directory_keys_open(const char *directory, struct directory_keys *out, struct error *error);
void directory_keys_close(struct directory_keys *keys);

/* The ledger and payloads as replay wants them; borrows data. */
struct ledger_source directory_source(struct directory *data);
/* After a replay of `size` entries: CORRUPT if that was not the end, that is if entry `size` is missing while the store counts
 * more. A gap would otherwise look like a shorter ledger, which is right in itself. */
MUST_USE enum status directory_check_end(struct directory *data, uint64_t size, struct error *error);

/* The newest snapshot at or below `version`. NOT_FOUND if there is none. */
MUST_USE enum status directory_snapshot_header(struct directory *data, uint64_t version,
                                               const uint8_t key[static PUBLIC_KEY_SIZE],
                                               uint8_t raw[static SNAPSHOT_HEADER_SIZE], struct snapshot_header *out,
                                               struct error *error);
/* Writes a snapshot of the model, names it durably and deletes all but the newest `keep`. */
MUST_USE enum status directory_snapshot_write(struct directory *data, const struct model_state *model,
                                              const struct snapshot_header *partial, const struct key_pair *key, unsigned keep,
                                              struct error *error);

/* Everything a start needs: run state from all entries, the model from the newest good snapshot and the steps after it, each
 * state root compared. *run and *model are the caller's. */
MUST_USE enum status directory_restore(struct directory *data, struct run_state **run, struct model_state *model,
                                       struct replay_report *report, struct error *error);

#endif
