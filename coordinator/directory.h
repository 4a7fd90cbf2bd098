/* The coordinator's data directory: what is in it, how it is made, opened and read.
 *
 *     DIR/manifest.yaml      the manifest in its canonical form, for people; entry 0 of the ledger
 *                            is what counts
 *     DIR/layout             the run's tensors (model/layout_text.h), by the manifest's digest; not
 *                            where they are the built-in trainer's own
 *     DIR/keys/ca.key, ca.pem                    the federation's root: its holder can enrol anyone
 *     DIR/keys/coordinator.key                   Ed25519: signs receipts, heads and snapshots
 *     DIR/keys/server.key, server.pem            P-256: the server's TLS identity, nothing else
 *     DIR/keys/admin.key, admin.pem              the first admin's client certificate: copy it
 *                                                (with ca.pem) to where atollctl runs
 *     DIR/store/             LMDB: `ledger` (index -> entry), `snapshots` (version -> signed
 *                            header)
 *     DIR/checkpoint/        what came beside the initial checkpoint (model/beside.h) and its
 *                            frozen tensors, for exports; not where there was none
 *     DIR/evaluations.jsonl  held-out losses (run/evaluations.h), where they are measured
 *     DIR/unfinished         only while the run is being made, or when that was cut off
 *     DIR/blobs/, uploads/   payloads and snapshots by digest; transfers under way
 *
 * Nothing else is needed to restore, audit or move a run: copy the directory while the coordinator
 * is stopped, or copy it running, blobs last, and the ledger's prefix is good.
 */
#ifndef COORDINATOR_DIRECTORY_H
#define COORDINATOR_DIRECTORY_H

#include "crypto/sign.h"
#include "fed/replay.h"
#include "model/layout.h"
#include "run/run_start.h"
#include "storage/blob.h"
#include "storage/store.h"

#define DIRECTORY_UNFINISHED "unfinished"
#define DIRECTORY_CHECKPOINT "checkpoint"
#define DIRECTORY_LAYOUT "layout"
#define DIRECTORY_FROZEN "frozen.safetensors" /* in DIRECTORY_CHECKPOINT */

enum directory_table { TABLE_LEDGER = 0, TABLE_SNAPSHOTS = 1, TABLE_COUNT = 2 };

struct directory {
    char *directory;
    struct store *store;
    struct blob_store *blobs;
};

struct directory_keys {
    struct key_pair *authority, *coordinator;
    /* zero-terminated after the size */
    struct buffer authority_pem, server_pem, server_key_pem;
};

/* What a run of this manifest takes, and what there is. */
struct directory_needs {
    uint64_t parameters;
    uint64_t model_memory; /* bytes that the coordinator holds for the model as long as it runs */
    uint64_t memory;       /* the same, and the copy of which a snapshot is written */
    uint64_t disk; /* two snapshots: one kept, one being written; payloads come on top of it */
    uint64_t snapshot_size; /* bytes of one */
    uint64_t memory_free, disk_free;
};

/* All that directory_create would refuse, found without making anything: what is in the way,
 * memory, disk, the checkpoint (which is read). *needs (may be NULL) is filled as far as it got.
 * `source` may be NULL: the manifest says it all. */
MUST_USE enum status directory_create_check(const char *directory, const struct manifest *manifest,
                                            const struct run_source *source,
                                            struct directory_needs *needs, struct error *error);
/* Lays a new run out: directory, keys, certificates, genesis entry, snapshot of version 0. All of
 * it or nothing: a failure removes what was made. While it is at work, and after it was killed,
 * DIR/unfinished stands there; such a directory is not a run to anybody, and the next
 * directory_create begins it anew. INVALID if something is in the way, FULL if it does not fit,
 * UNAVAILABLE while another process makes a run there. */
MUST_USE enum status directory_create(const char *directory, const struct manifest *manifest,
                                      const struct run_source *source,
                                      struct directory_needs *needs, struct error *error);

/* on_fatal as in storage/store.h. UNAVAILABLE while another process has it open; read_only looks
 * beside it, makes and changes nothing, and needs no write access. */
MUST_USE enum status directory_open(const char *directory, bool read_only,
                                    void (*on_fatal)(void *context, const struct error *error),
                                    void *context, struct directory *out, struct error *error);
/* For directory_create: the same while DIR/unfinished is there. */
MUST_USE enum status directory_open_unfinished(const char *directory, struct directory *out,
                                               struct error *error);
void directory_close(struct directory *data);
MUST_USE enum status directory_keys_open(const char *directory, struct directory_keys *out,
                                         struct error *error);
void directory_keys_close(struct directory_keys *keys);

/* The ledger and payloads as replay needs them; borrows data. */
struct ledger_source directory_source(struct directory *data);
/* After a replay of `size` entries: CORRUPT if that was not the end, that is if entry `size` is
 * missing while the store counts more. A gap would otherwise look like a shorter ledger, which is
 * right in itself. */
MUST_USE enum status directory_check_end(struct directory *data, uint64_t size,
                                         struct error *error);

/* The header of the contribution that entry `index` is. CORRUPT: it is something else. */
MUST_USE enum status directory_contribution(struct directory *data, uint64_t index,
                                            struct contribution *out, struct error *error);

enum { DIRECTORY_NAMING_LIMIT = 16 };
/* The entries of contributions whose payload has that digest, the newest first, of many the newest.
 * A damaged entry names nothing. *count is set in any case, to what was found until then. */
MUST_USE enum status directory_naming(struct directory *data,
                                      const uint8_t digest[static DIGEST_SIZE],
                                      uint64_t out[static DIRECTORY_NAMING_LIMIT], size_t *count,
                                      struct error *error);

/* The newest snapshot at or below `version`. NOT_FOUND if there is none. */
MUST_USE enum status directory_snapshot_header(struct directory *data, uint64_t version,
                                               const uint8_t key[static PUBLIC_KEY_SIZE],
                                               uint8_t raw[static SNAPSHOT_HEADER_SIZE],
                                               struct snapshot_header *out, struct error *error);
/* Writes a snapshot of the model, names it durably and deletes all but the newest `keep`. */
MUST_USE enum status directory_snapshot_write(struct directory *data, struct model_state *model,
                                              const struct snapshot_header *partial,
                                              const struct key_pair *key, unsigned keep,
                                              struct error *error);

/* Takes a snapshot away, its name first. */
MUST_USE enum status directory_snapshot_delete(struct directory *data,
                                               const struct snapshot_header *header,
                                               struct error *error);

/* Deletes what neither the ledger nor a snapshot names, and writes that a crash cut short. At a
 * start, before anything comes in; `key` signs the snapshots. On failure nothing more is deleted.
 */
MUST_USE enum status directory_sweep(struct directory *data,
                                     const uint8_t key[static PUBLIC_KEY_SIZE],
                                     struct error *error);

/* The run's layout, of a manifest that is in its ledger; ends with layout_deinit. `text` (may be
 * NULL) gets the layout's text, nothing where it is the built-in trainer's own. CORRUPT: DIR/layout
 * is not there, or another. */
MUST_USE enum status directory_layout(const char *directory, const struct manifest *manifest,
                                      struct layout *out, struct buffer *text, struct error *error);

/* Gives the parameters of version 0, where no snapshot can be read. */
struct directory_initial {
    enum status (*initialise)(void *context, const struct manifest *manifest, uint64_t parameters,
                              float *theta, struct error *error);
    void *context;
};
struct directory_start { /* all borrowed */
    const char *directory;
    const char *from; /* the checkpoint; NULL: from the manifest's seed */
};
struct directory_initial directory_initial(const struct directory_start *start);

/* Everything a start needs: run state from all entries, the model from the newest good snapshot and
 * the steps after it, the last state root compared. Where no snapshot can be read, all steps are
 * replayed from version 0. *run and *model are the caller's. OK with report->lost_payload: the
 * payload of the contribution at report->failed_entry is not there or damaged; *run is complete,
 * and *model stands at the version before the step that needs it (directory_catch_up). */
MUST_USE enum status directory_restore(struct directory *data,
                                       const struct directory_initial *initial,
                                       struct run_state **run, struct model_state *model,
                                       struct replay_report *report, struct error *error);
/* The same up to the step that made that version, and no further; NOT_FOUND if the run has not come
 * that far. */
MUST_USE enum status directory_restore_version(struct directory *data,
                                               const struct directory_initial *initial,
                                               uint64_t version, struct run_state **run,
                                               struct model_state *model,
                                               struct replay_report *report, struct error *error);
/* The steps that the model lacks. Not OK with report->lost_payload: as above. */
MUST_USE enum status directory_catch_up(struct directory *data, struct model_state *model,
                                        struct replay_report *report, struct error *error);

#endif
