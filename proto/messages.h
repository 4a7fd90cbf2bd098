/* What travels between sites, admin and coordinator, as plain structs; docs/protocol.md says who
 * sends what when.
 *
 * X_encode appends a frame's head (proto/frame.h) to *out; the raw payload, if the message has one,
 * is sent right after it by the caller. It refuses (INVALID, *out untouched) what X_decode would
 * refuse, except that free texts (message, reason, software, device) are cut to their limit and
 * cleaned of control characters: a reply must not fail over its wording.
 *
 * X_decode takes a frame that frame_split made. Every length, count, range and text is checked;
 * INVALID otherwise, with the field named; *out is written only on success. Nothing a sender does
 * makes it take more than the message's budget out of the arena, and what it lends (const char *,
 * struct bytes, arrays) lives there; `payload` is borrowed from the frame itself, and only its size
 * is looked at (data may be NULL while the bytes are elsewhere). Unknown fields are ignored.
 *
 * Texts are UTF-8 without control characters; NULL is encoded as "", and a decoded one is never
 * NULL. A fixed array that is all zero travels as absent. Sizes repeat those of fed/ and crypto/,
 * which are not included here: proto/ knows form, not meaning. Pure functions, any thread, one
 * arena a thread. Times *_ms are wall clock since 1970 where they are stamps.
 */
#ifndef PROTO_MESSAGES_H
#define PROTO_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "proto/arena.h"
#include "proto/frame.h"

enum {
    WIRE_PROTOCOL_NEWEST = 1,
    WIRE_PROTOCOL_OLDEST = 1, /* N and N-1 work together */

    WIRE_RUN_ID_SIZE = 16,
    WIRE_DIGEST_SIZE = 32,
    WIRE_KEY_SIZE = 32,
    WIRE_SIGNATURE_SIZE = 64,
    WIRE_CONTRIBUTION_SIZE = 272, /* a contribution's signed header */

    /* limits, bytes */
    WIRE_SITE_NAME_LIMIT = 32,
    WIRE_RUN_NAME_LIMIT = 32,
    WIRE_SECRET_MIN = 16,
    WIRE_SECRET_LIMIT = 64,
    WIRE_CSR_LIMIT = 4096,
    WIRE_SOFTWARE_LIMIT = 64,
    WIRE_DEVICE_LIMIT = 64,
    WIRE_MESSAGE_LIMIT = 512,
    WIRE_ADDRESS_LIMIT = 300,
    WIRE_REASON_LIMIT = 127,
    WIRE_WANTED_LIMIT = 16,
    WIRE_PEM_LIMIT = 8192,
    WIRE_MANIFEST_LIMIT = 64 * 1024,
    WIRE_LAYOUT_LIMIT = 1024 * 1024,
    WIRE_RECEIPT_LIMIT = 4096,
    WIRE_HEAD_LIMIT = 256,
    WIRE_ENTRY_LIMIT = 66 * 1024,
    WIRE_DESCRIPTOR_LIMIT = 4096,
    /* counts */
    WIRE_ENTRIES_LIMIT = 256, /* entries and own together, in one frame */
    WIRE_CODES = 32,          /* refusal codes that are counted one by one */
    WIRE_SITES_LIMIT = 128,   /* in one admin reply; the rest by next_site */
    WIRE_CHUNK_MIN =
        1024 /* the least chunk_limit anybody may ask for; the most is FRAME_PAYLOAD_LIMIT */
};
#define WIRE_PAYLOAD_TOTAL_LIMIT (UINT64_C(1) << 50) /* bytes of one payload or snapshot */

/* The newest protocol that both this build and [min, max] speak; 0: none. */
uint32_t protocol_negotiate(uint32_t min, uint32_t max);

/* --- Join: unary, without a client certificate ------------------------------------------------ */

enum join_code { /* numbers stay */
                 JOIN_OK = 0,
                 JOIN_SECRET = 1,  /* no such invitation */
                 JOIN_EXPIRED = 2, /* the invitation has expired */
                 JOIN_USED = 3,    /* by another key: somebody was faster */
                 JOIN_NAME = 4,    /* the invitation is for another name */
                 JOIN_CSR = 5,     /* not a valid request for a certificate, or its key is of a kind
                                      that is not taken */
                 JOIN_PROTOCOL = 6, /* no protocol in common */
                 JOIN_STOPPED = 7,  /* the run has ended */
                 JOIN_BUSY = 8,     /* try again, with backoff */
                 JOIN_VOID = 9,     /* replaced by a newer invitation, or withdrawn */
                 JOIN_CODE_COUNT
};
/* "ok", "secret", ...; "unknown" beyond. Static. */
const char *join_code_name(uint32_t code);

struct join_request {
    uint32_t protocol_min, protocol_max; /* 1 <= min <= max <= 65535 */
    const char *site_name;               /* 1 to WIRE_SITE_NAME_LIMIT bytes */
    /* WIRE_SECRET_MIN to WIRE_SECRET_LIMIT bytes; a secret: do not log */
    struct bytes invitation_secret;
    struct bytes csr_der; /* 1 to WIRE_CSR_LIMIT bytes: PKCS #10, made with the site's own key */
    const char *software; /* "atoll-node 0.1.0 linux-x86_64" */
    bool look;            /* only tell: the invitation stays as it is */
};
MUST_USE enum status join_request_encode(const struct join_request *request, struct buffer *out,
                                         struct error *error);
MUST_USE enum status join_request_decode(struct frame frame, struct arena *arena,
                                         struct join_request *out, struct error *error);

struct join_reply {
    uint32_t code; /* enum join_code; where it is not JOIN_OK, only message and server_time_ms mean
                      anything */
    const char *message; /* a sentence for the operator */
    uint32_t protocol;   /* from here on; within the request's range */
    uint8_t run_id[WIRE_RUN_ID_SIZE];
    uint32_t site;                /* number in the ledger, from 1; 0: the answer to a look */
    struct bytes certificate_pem; /* 1 to WIRE_PEM_LIMIT, the site's; none where site is 0 */
    struct bytes ca_pem;          /* 1 to WIRE_PEM_LIMIT, the federation's root */
    uint8_t coordinator_key[WIRE_KEY_SIZE]; /* Ed25519, signs receipts and ledger heads */
    struct bytes manifest;                  /* 1 to WIRE_MANIFEST_LIMIT, canonical form */
    struct bytes layout; /* 0 to WIRE_LAYOUT_LIMIT: the layout's text, where the manifest names one;
                            the frame's payload, so it goes into the buffer behind the header */
    uint64_t server_time_ms; /* for a look at the clocks */
    uint32_t role;           /* enum site_role of fed/ledger.h, of a look too */
};
MUST_USE enum status join_reply_encode(const struct join_reply *reply, struct buffer *out,
                                       struct error *error);
MUST_USE enum status join_reply_decode(struct frame frame, struct arena *arena,
                                       struct join_reply *out, struct error *error);

/* --- Submit: open -> credit -> chunks -> receipt or refusal ----------------------------------- */

enum submit_frame_kind { SUBMIT_OPEN = 1, SUBMIT_CHUNK = 2 };

struct submit_frame { /* client -> server */
    enum submit_frame_kind kind;
    union {
        struct {
            uint32_t protocol; /* 1 to 65535 */
            uint8_t header[WIRE_CONTRIBUTION_SIZE];
            uint8_t signature[WIRE_SIGNATURE_SIZE];
            bool waits;        /* the site does not train while this is under way */
            uint64_t instance; /* of the site's process, drawn at its start */
            /* the payload of an entry of the ledger, which the coordinator asked for */
            bool supply;
        } open; /* no payload */
        struct {
            uint64_t offset; /* of `payload` in the contribution's payload, bytes */
        } chunk;
    };
    struct bytes payload; /* of a chunk: 1 to FRAME_PAYLOAD_LIMIT bytes. Not read by encode: sent
                             after the head */
};
MUST_USE enum status submit_frame_encode(const struct submit_frame *message, struct buffer *out,
                                         struct error *error);
MUST_USE enum status submit_frame_decode(struct frame frame, struct arena *arena,
                                         struct submit_frame *out, struct error *error);

enum submit_reply_kind { SUBMIT_CREDIT = 1, SUBMIT_RECEIPT = 2, SUBMIT_REFUSAL = 3 };

struct submit_reply { /* server -> client */
    enum submit_reply_kind kind;
    union {
        struct {
            uint64_t
                resume_offset;    /* send from this byte on: what lies before it is here already */
            uint32_t chunk_limit; /* bytes in a chunk, WIRE_CHUNK_MIN to FRAME_PAYLOAD_LIMIT */
        } credit;
        struct bytes receipt; /* 1 to WIRE_RECEIPT_LIMIT, signed (fed/receipt.h) */
        struct {
            uint32_t code; /* enum refusal of fed/receipt.h, not 0 */
            const char *message;
            uint64_t retry_after_ms;  /* of a temporary one; 0: as the sender sees fit */
            uint64_t current_version; /* the coordinator's */
            struct bytes receipt;     /* of a DUPLICATE: the old one; else empty */
        } refusal;
    };
};
MUST_USE enum status submit_reply_encode(const struct submit_reply *reply, struct buffer *out,
                                         struct error *error);
MUST_USE enum status submit_reply_decode(struct frame frame, struct arena *arena,
                                         struct submit_reply *out, struct error *error);

/* --- Follow: ledger and payloads from an index on, forever ------------------------------------ */

struct follow_request {
    uint32_t protocol;            /* 1 to 65535 */
    uint64_t from_index;          /* first ledger entry wanted */
    uint64_t payloads_from_index; /* contributions below it come without payload: a snapshot covers
                                     them */
    bool omit_own; /* payloads of the caller's own contributions are not sent, and their entries
                      come as stubs */
    uint32_t chunk_limit; /* bytes of payload in a frame, WIRE_CHUNK_MIN to FRAME_PAYLOAD_LIMIT; 0:
                             the server's choice */
    uint64_t instance;    /* of the site's process */
    uint64_t made_plus_1; /* the newest sequence that it knows of as its own, plus 1; 0: not told */
    bool restored; /* a person says that it was restored from an older backup and is the only one */
};
MUST_USE enum status follow_request_encode(const struct follow_request *request, struct buffer *out,
                                           struct error *error);
MUST_USE enum status follow_request_decode(struct frame frame, struct arena *arena,
                                           struct follow_request *out, struct error *error);

/* Stands for the ledger entry of one of the receiver's own contributions: it has header and
 * signature itself, and makes the entry's bytes from them and these. About 19 bytes instead of 350.
 */
struct follow_own {
    uint32_t place;    /* in its frame, from 0: ledger index = the frame's first index + place */
    uint64_t sequence; /* of the contribution, from 1 */
    uint64_t time_ms;  /* the entry's */
    uint32_t epoch;    /* the entry's */
    /* first bytes of its header's SHA-256, little-endian: whether the receiver's own of that
     * sequence is the one that was taken, for after a restore of an old backup it may have made
     * another; 0: not told */
    uint32_t header;
};

/* Entries and stubs fill the frame's places in order: stubs stand at theirs, entries at the others;
 * follow_next walks them. A frame may hold any of: a head, places, a piece of payload; a head is of
 * a ledger that ends after this frame's places or earlier. An entry alone in a frame costs 6 bytes
 * of framing while the frame goes on where the last one ended. */
struct follow_frame {
    bool has_first_index; /* in the first frame with places of a stream; else they go on where the
                             last frame ended */
    uint64_t first_index; /* ledger index of place 0 */
    uint32_t entry_count; /* entry_count + own_count <= WIRE_ENTRIES_LIMIT */
    const struct bytes *entries; /* [entry_count], each 1 to WIRE_ENTRY_LIMIT bytes; together within
                                    FRAME_HEADER_LIMIT */
    uint32_t own_count;
    /* [own_count], places strictly increasing, each < entry_count + own_count */
    const struct follow_own *own;
    uint32_t dropped_count;  /* at most WIRE_ENTRIES_LIMIT */
    const uint64_t *dropped; /* [dropped_count], indices of contributions whose payload never comes:
                                none merges them */
    struct bytes head;       /* signed ledger head; empty: none */
    /* size of the whole payload, bytes; 0: this frame carries none of one */
    uint64_t payload_total;
    uint64_t payload_index;  /* ledger index of the contribution it belongs to */
    uint64_t payload_offset; /* of `payload` in it; payload_offset + size <= payload_total */
    struct bytes payload; /* 1 to FRAME_PAYLOAD_LIMIT where payload_total > 0. Not read by encode:
                             sent after the head */
};
MUST_USE enum status follow_frame_encode(const struct follow_frame *message, struct buffer *out,
                                         struct error *error);
MUST_USE enum status follow_frame_decode(struct frame frame, struct arena *arena,
                                         struct follow_frame *out, struct error *error);

struct follow_cursor { /* start with {0} */
    uint32_t place, entry, own;
};
struct follow_item {
    uint32_t place;
    const struct follow_own *own; /* NULL: it is an entry */
    struct bytes entry;           /* empty for a stub */
};
/* The next place of the frame; false after the last. */
bool follow_next(const struct follow_frame *frame, struct follow_cursor *cursor,
                 struct follow_item *item);

/* --- Snapshot: a state, resumable at any byte ------------------------------------------------- */

struct snapshot_request {
    uint32_t protocol; /* 1 to 65535 */
    uint64_t version;  /* 0: the newest there is */
    uint64_t offset;   /* first byte wanted; at or past the end: the descriptor alone comes */
};
MUST_USE enum status snapshot_request_encode(const struct snapshot_request *request,
                                             struct buffer *out, struct error *error);
MUST_USE enum status snapshot_request_decode(struct frame frame, struct arena *arena,
                                             struct snapshot_request *out, struct error *error);

struct snapshot_frame {
    struct bytes
        descriptor;       /* signed snapshot header, in the first frame of a stream; else empty */
    uint64_t offset;      /* of `payload` in the snapshot; offset + size <= total */
    uint64_t total;       /* bytes, 1 to WIRE_PAYLOAD_TOTAL_LIMIT */
    struct bytes payload; /* 0 to FRAME_PAYLOAD_LIMIT. Not read by encode: sent after the head */
};
MUST_USE enum status snapshot_frame_encode(const struct snapshot_frame *message, struct buffer *out,
                                           struct error *error);
MUST_USE enum status snapshot_frame_decode(struct frame frame, struct arena *arena,
                                           struct snapshot_frame *out, struct error *error);

/* --- Heartbeat: unary ------------------------------------------------------------------------- */

enum lost_cause {                /* where a site's time went that trained nothing; numbers stay */
                  LOST_DATA = 0, /* waiting for batches */
                  LOST_ENCODE =
                      1, /* making deltas and messages, where training stood still for it */
                  LOST_REBASE = 2,      /* replaying steps and moving onto a new base */
                  LOST_WAIT_QUORUM = 3, /* waiting for a step, with overlap off */
                  LOST_PAUSED = 4,      /* the run was paused */
                  LOST_RESTART = 5,     /* start-up, download, and work done twice after a crash */
                  LOST_OTHER = 6,       /* also takes in causes that a newer peer tells apart */
                  LOST_CAUSE_COUNT
};
/* "data", "encode", ...; "other" beyond. Static. */
const char *lost_cause_name(uint32_t cause);

#define HELDOUT_LOSS_LIMIT 1e6 /* nats; one that diverged tells this */
struct heldout_status {        /* of an observer, as it tells */
    bool any;
    uint64_t version, best_version; /* best_version is at most version */
    double loss, best_loss; /* nats per token over its texts, in [0, limit]; best_loss <= loss */
};

struct heartbeat_request {
    uint32_t protocol;         /* 1 to 65535 */
    uint32_t epoch;            /* of the coordinator, as the site knows it */
    uint64_t version;          /* of the site's replica */
    uint64_t ledger_size;      /* entries the site has verified */
    uint32_t phase;            /* the site's own; its meaning is the node's */
    uint64_t inner_steps_done; /* since the site joined */
    uint64_t tokens;           /* since the site joined */
    double tokens_per_second;  /* lately; finite, 0 to 1e15 */
    double steps_per_second; /* inner steps, lately; finite, 0 to 1e15; told, so nothing is decided
                                by it */
    float loss;              /* lately, nats per token; NaN: none yet, or no longer finite */
    uint32_t staleness;      /* of the last contribution, versions */
    uint64_t bytes_up, bytes_down;       /* of payloads and frames since the site joined */
    uint64_t compute_ms;                 /* time that trained, since the site joined */
    uint64_t lost_ms[LOST_CAUSE_COUNT];  /* time that did not, by cause */
    uint64_t rounds, refused;            /* contributions sent; of these refused for good */
    const char *device;                  /* "2x H100", at most WIRE_DEVICE_LIMIT */
    const char *software;                /* at most WIRE_SOFTWARE_LIMIT */
    uint8_t last_root[WIRE_DIGEST_SIZE]; /* state root of the replica at `version`; zero: none
                                            computed */
    uint64_t instance;                   /* of the process, drawn at its start */
    uint32_t turn;                       /* of the last reply */
    uint64_t time_ms;                    /* the site's own clock, as it is; 0: not told */
    bool leaving;                        /* the site goes, and waits for no receipt */
    struct heldout_status heldout;       /* an observer's */
};
MUST_USE enum status heartbeat_request_encode(const struct heartbeat_request *request,
                                              struct buffer *out, struct error *error);
MUST_USE enum status heartbeat_request_decode(struct frame frame, struct arena *arena,
                                              struct heartbeat_request *out, struct error *error);

struct heartbeat_reply {
    uint32_t code; /* enum refusal of fed/receipt.h; 0: all is well */
    const char *message;
    uint32_t inner_steps; /* H for this site's next rounds; 0: no change */
    uint32_t epoch;
    uint64_t version; /* the coordinator's */
    uint32_t phase;   /* enum run_phase of fed/run_state.h */
    uint64_t server_time_ms;
    uint32_t sites_present; /* K, by the ledger */
    bool has_left;          /* the ledger has it that this site has left */
    uint32_t turn;          /* to be said in the next request: a process that does is alive */
    uint32_t copies;        /* processes of this site that were cut because it ran twice */
    uint32_t wanted_count;  /* at most WIRE_WANTED_LIMIT */
    uint64_t wanted[WIRE_WANTED_LIMIT]; /* ledger indices of contributions whose payload the
                                           coordinator has lost */
};
MUST_USE enum status heartbeat_reply_encode(const struct heartbeat_reply *reply, struct buffer *out,
                                            struct error *error);
MUST_USE enum status heartbeat_reply_decode(struct frame frame, struct arena *arena,
                                            struct heartbeat_reply *out, struct error *error);

/* --- Admin: unary, admin certificates only ---------------------------------------------------- */

enum admin_verb { /* numbers stay */
                  ADMIN_STATUS = 1,
                  ADMIN_PAUSE = 2,        /* reason */
                  ADMIN_RESUME = 3,       /* reason, value: a larger token budget or 0 */
                  ADMIN_STOP = 4,         /* reason */
                  ADMIN_INVITE = 5,       /* site_name, role, expires_ms -> invitation_secret */
                  ADMIN_REVOKE = 6,       /* site_name, reason */
                  ADMIN_SITES = 7,        /* first_site -> sites, next_site */
                  ADMIN_SET_RULE = 8,     /* key, rule_value, reason */
                  ADMIN_SNAPSHOT = 9,     /* -> value: the version it will be of */
                  ADMIN_INVITATIONS = 10, /* first_site: index -> invitations, next_site */
                  ADMIN_UNINVITE = 11,    /* site_name: its open invitation ends */
                  ADMIN_RULES = 12,       /* -> rules */
                  ADMIN_VERB_COUNT        /* one past the last */
};
/* "status", "pause", ...; "unknown" beyond. Static. */
const char *admin_verb_name(uint32_t verb);

enum admin_code { /* numbers stay */
                  ADMIN_OK = 0,
                  ADMIN_DENIED = 1,    /* the certificate is not an admin's */
                  ADMIN_NOT_FOUND = 2, /* no such site */
                  ADMIN_INVALID = 3,   /* an argument is out of range */
                  ADMIN_CONFLICT =
                      4, /* not in this phase: resume of an active run, a name that is taken */
                  ADMIN_BUSY = 5, /* try again */
                  ADMIN_FAILED = 6,
                  ADMIN_CODE_COUNT
};
/* "ok", "denied", ...; "unknown" beyond. Static. */
const char *admin_code_name(uint32_t code);

struct admin_request {
    uint32_t protocol; /* 1 to 65535 */
    enum admin_verb verb;
    const char *site_name; /* "" or a name, at most WIRE_SITE_NAME_LIMIT */
    const char *reason;    /* free text, at most WIRE_REASON_LIMIT */
    uint64_t value;
    uint64_t expires_ms;          /* of an invitation: a stamp */
    const char *key, *rule_value; /* at most 47 and 79 */
    uint32_t role;                /* INVITE: enum site_role of fed/ledger.h */
    uint32_t first_site; /* SITES: start with this number; 0 or 1: the first. INVITATIONS alike */
};
MUST_USE enum status admin_request_encode(const struct admin_request *request, struct buffer *out,
                                          struct error *error);
MUST_USE enum status admin_request_decode(struct frame frame, struct arena *arena,
                                          struct admin_request *out, struct error *error);

struct run_status {
    uint8_t run_id[WIRE_RUN_ID_SIZE];
    const char *name;     /* at most WIRE_RUN_NAME_LIMIT */
    uint32_t phase;       /* enum run_phase of fed/run_state.h */
    const char *reason;   /* of the last pause or stop; free text, at most WIRE_REASON_LIMIT */
    uint64_t version;     /* outer steps */
    uint64_t ledger_size; /* entries */
    uint64_t tokens;      /* of accepted contributions */
    uint64_t token_budget;
    uint32_t epoch;
    uint32_t inner_steps; /* H */
    uint64_t parameters;  /* count */
    uint8_t root[WIRE_DIGEST_SIZE];
    uint64_t root_version;        /* which `root` is of */
    uint64_t accepted;            /* contributions */
    uint64_t refused[WIRE_CODES]; /* by refusal code, since the coordinator started; [0]: codes of
                                     WIRE_CODES and more */
    uint32_t pending;             /* contributions in the ledger, not yet in a step */
    uint32_t sites_active;        /* enrolled, not revoked */
    uint32_t sites_connected;
    uint32_t weights;                /* enum weight_policy of fed/manifest.h */
    uint32_t sites_present;          /* K, by the ledger */
    uint32_t sites_twice;            /* of which a second process was cut since the start */
    int64_t clock_ahead_ms;          /* of most sites' that are present; 0: they agree */
    bool has_heldout, heldout_rises; /* run/evaluator.h */
    uint64_t heldout_version, best_version;
    double heldout, best_heldout; /* finite */
    uint64_t uptime_ms;
    uint64_t bytes_in, bytes_out; /* of payloads and frames, since the coordinator started */
    const char *waits; /* what the coordinator waits for, for people, at most WIRE_MESSAGE_LIMIT;
                          "": nothing */
};

struct site_status {
    uint32_t site;    /* number, from 1 */
    const char *name; /* 1 to WIRE_SITE_NAME_LIMIT */
    bool revoked, connected;
    uint32_t presence; /* enum site_presence of fed/run_state.h */
    uint64_t version;
    uint32_t staleness;
    uint32_t inner_steps; /* H_w */
    float loss;           /* NaN: none */
    uint64_t tokens;
    double tokens_per_second; /* finite, 0 to 1e15 */
    uint64_t contributions;   /* accepted */
    uint64_t refused;
    uint64_t bytes_up, bytes_down;
    uint64_t compute_ms;
    uint64_t lost_ms[LOST_CAUSE_COUNT];
    uint64_t last_seen_ms_ago; /* UINT64_MAX: never */
    uint32_t copies;           /* processes that were cut because the site ran twice */
    uint64_t copy_ms_ago;      /* the last of them */
    double norm, clip, weight; /* of its last contribution; clip 0: none came yet */
    uint64_t age; /* of that: versions from its oldest inner step to its entry in the ledger */
    float scale;  /* of its last part of a step; 0: none yet */
    uint64_t tokens_uncounted; /* told, and beyond what counts for now */
    uint32_t role;             /* enum site_role of fed/ledger.h */
    struct heldout_status heldout;
    const char *device;
    const char *software;
};

enum { INVITATION_EXPIRED = 5 }; /* of an open one, by the coordinator's clock */

struct invitation_status {
    const char *name;             /* 1 to WIRE_SITE_NAME_LIMIT */
    uint64_t made_ms, expires_ms; /* 0: never expires */
    uint32_t end;  /* enum invitation_end of fed/run_state.h, or INVITATION_EXPIRED */
    uint32_t role; /* enum site_role of fed/ledger.h */
};

struct admin_reply {
    uint32_t code; /* enum admin_code */
    const char *message;
    bool has_run;
    struct run_status run;
    uint32_t site_count;                         /* at most WIRE_SITES_LIMIT */
    const struct site_status *sites;             /* [site_count], numbers strictly increasing */
    uint32_t invitation_count;                   /* at most WIRE_SITES_LIMIT */
    const struct invitation_status *invitations; /* [invitation_count], in the ledger's order */
    uint32_t next_site;  /* ask again with this first_site; 0: these were the last */
    const char *address; /* "" or NULL, or at most WIRE_ADDRESS_LIMIT bytes: where sites reach the
                            coordinator */
    /* empty, or WIRE_SECRET_MIN to WIRE_SECRET_LIMIT bytes; a secret */
    struct bytes invitation_secret;
    struct bytes head;  /* signed ledger head, at most WIRE_HEAD_LIMIT; empty: none */
    uint64_t value;     /* what the verb says */
    struct bytes rules; /* lines, at most 64 KiB; empty: none */
};
MUST_USE enum status admin_reply_encode(const struct admin_reply *reply, struct buffer *out,
                                        struct error *error);
MUST_USE enum status admin_reply_decode(struct frame frame, struct arena *arena,
                                        struct admin_reply *out, struct error *error);

#endif
