/* The run manifest: everything the sites of one run must agree on, written once by the admin.
 *
 * It is read from YAML (strict: an unknown key is an error that names the nearest known one),
 * checked as a whole, written in one canonical form, and entered in the ledger as entry 0; its
 * digest names the run's rules. Settings that are local to a site (data, device, batch that fits,
 * bandwidth) are not here. One table in manifest.c drives reading, checking and writing, and
 * `manifest_explain` prints the commented example from it.
 *
 * The sizes of the model are plain numbers here: the layout they give (and so the parameter count)
 * is model/'s knowledge.
 */
#ifndef FED_MANIFEST_H
#define FED_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "crypto/digest.h"

enum {
    RUN_NAME_SIZE = 33, /* with its zero; [a-z0-9-], as are site names */
    SITE_NAME_SIZE = 33,
    MANIFEST_LIMIT = 64 * 1024, /* bytes of YAML */
    FRAGMENTS_LIMIT = 64,
    SITES_LIMIT = 4096,
    SHARES_SIZE = 2048, /* of the text of all shares, with its zero */
    STALENESS_LIMIT = 4096
};
#define MANIFEST_AUTO UINT32_MAX /* staleness_cap, period: by the sites that are present */
#define RATE_AUTO (-1.0)         /* outer.learning_rate: by them, and by H */

enum outer_mode { OUTER_DENSE = 0, OUTER_SPARSE = 1 };
enum inner_schedule { INNER_CONSTANT = 0, INNER_LINEAR = 1, INNER_COSINE = 2 };
enum weight_policy { WEIGHTS_EQUAL = 0, WEIGHTS_TOKENS = 1, WEIGHTS_SHARES = 2 };
enum staleness_weight { STALENESS_NONE = 0, STALENESS_POLYNOMIAL = 1 };
enum tokenizer_kind {
    TOKENIZER_BYTE = 0,
    TOKENIZER_EXTERNAL = 1 /* shards are tokenised beforehand; vocabulary below */
};

struct manifest {
    char name[RUN_NAME_SIZE];

    struct {
        uint32_t vocabulary, hidden, layers, heads, kv_heads, ffn, context;
        double rope_theta, norm_epsilon;
        bool tied; /* the head shares the embedding's weights */
    } model;

    struct {
        uint64_t seed;
        uint8_t root[DIGEST_SIZE]; /* state root of version 0; all zero: initialise from the seed */
    } initial;
    /* of the layout's text (model/layout_text.h); all zero: the built-in trainer's, by `model` */
    uint8_t layout[DIGEST_SIZE];
    uint8_t base[DIGEST_SIZE]; /* of the frozen model that an adapter is for; all zero: none */

    enum tokenizer_kind tokenizer;
    uint8_t tokenizer_digest[DIGEST_SIZE]; /* of its tokenizer.json, which sites' shards must be
                                              made with; all zero: not pinned */

    struct { /* the inner optimizer, AdamW; the schedule counts tokens of the whole run */
        double learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm;
        enum inner_schedule schedule;
        uint64_t warmup_tokens,
            decay_tokens;     /* decay ends at decay_tokens; 0: at the token budget */
        double floor;         /* as a fraction of learning_rate */
        uint32_t inner_steps; /* H */
        bool dylu;            /* H_w = floor(H * rate_w / fastest), at least H / 8 */
    } inner;

    struct {
        enum outer_mode mode;
        double learning_rate; /* dense: epsilon 0.7; sparse: the weight w, about 1 at 4 sites and
                                 0.7 at 8 */
        double momentum;      /* dense: beta 0.9; sparse: must be 0 */
        uint32_t period;      /* dense: N of delayed Nesterov, K to 2K; sparse: ignored, 1 */
    } outer;

    struct {
        uint16_t kind; /* enum codec of codec/codec.h; topk2's name says its density: topk2-64,
                          topk2-128 */
        double decay;  /* of the error feedback: 0.95, the only one codec/ has, in sparse mode; 0 in
                          dense mode, which has none */
    } codec;

    uint32_t fragments;

    struct {
        uint32_t quorum;   /* an outer step starts once this many contributions wait ... */
        uint64_t grace_ms; /* ... or this long after the first of them came; UINT64_MAX: wait for
                              the quorum */
        uint32_t staleness_cap; /* versions of the fragment; more is refused with REBASE */
        uint32_t warmup_steps;  /* the first outer steps wait for every connected site (bounded by
                                   warmup_grace_ms) */
        uint64_t warmup_grace_ms;
        uint64_t away_after_ms; /* without a sign of a site, until it counts no more; UINT64_MAX:
                                   never */
        enum staleness_weight staleness_weight;
        double staleness_exponent; /* polynomial: (1 + staleness)^-exponent; only 0.5 and 1 are
                                      there (sqrt and divide are exact) */
    } merge;

    enum weight_policy weights; /* how much each contribution counts (fed/weight.h) */
    char shares[SHARES_SIZE];   /* by shares: "none", or "eu-1=0.25 us-1=0.5", names ascending */

    struct {
        double clip_factor;       /* norms above this times the median are scaled down; 0: off */
        uint32_t clip_minimum;    /* no median before this many contributions came ... */
        double norm_bound;        /* ... but this bound; 0: by learning rate and H (fed/scale.h) */
        uint64_t voice_age_ms;    /* a site's last contribution counts in medians for so long */
        uint64_t max_step_tokens; /* of an inner step of a site */
        uint64_t expiry_ms;       /* a header is refused this long after it was signed; 0: never */
    } admission;

    uint64_t token_budget;      /* the run pauses by itself after so many tokens; 0: never */
    uint32_t root_interval;     /* a state root in every n-th step entry */
    uint32_t snapshot_interval; /* versions between snapshots */
};

/* Fills *out with the defaults of every optional key. */
void manifest_defaults(struct manifest *out);
/* Reads and checks YAML, starting from the defaults. INVALID, with the line and what to write
 * instead, for an unknown key, a value out of bounds, or a combination that is refused (sparse with
 * momentum, dense with error feedback, a head count that does not divide the width, ...). */
MUST_USE enum status manifest_parse(struct bytes yaml, struct manifest *out, struct error *error);
/* Sets one key from its text, which must be in bounds by itself (INVALID): manifest_check judges
 * the whole. */
MUST_USE enum status manifest_set(struct manifest *manifest, const char *key, const char *value,
                                  struct error *error);
/* Whether YAML that manifest_parse took gives that key. */
bool manifest_gives(struct bytes yaml, const char *key);
/* Whether a model of so many parameters can be of this run: INVALID where the fragments need more,
 * or a codec cannot number them. */
MUST_USE enum status manifest_check_count(const struct manifest *manifest, uint64_t parameters,
                                          struct error *error);
/* The checks alone. */
MUST_USE enum status manifest_check(const struct manifest *manifest, struct error *error);
/* Appends the canonical form: every key, in table order, one `key: value` a line. It parses back to
 * the same manifest, and equal manifests have equal bytes. Floating point is written so that it
 * reads back exactly. */
void manifest_write(const struct manifest *manifest, struct buffer *out);
/* SHA-256 of the canonical form. */
void manifest_digest(const struct manifest *manifest, uint8_t out[static DIGEST_SIZE]);
enum { RULE_KEY_SIZE = 48, RULE_VALUE_SIZE = 80 };
/* The manifest with another value for one key, checked as a whole. INVALID, with what to write
 * instead: the key is not there, cannot be changed in a run, or the value cannot stand with the
 * others. *out may be `now`. `canonical` (may be NULL) gets the value's one text. */
MUST_USE enum status manifest_change(const struct manifest *now, const char *key, const char *value,
                                     struct manifest *out, struct buffer *canonical,
                                     struct error *error);
/* Appends a line for each key that can be changed in a run: what holds. */
void manifest_write_rules(const struct manifest *manifest, struct buffer *out);
/* Appends a line for each value that is legal and hardly meant: the other mode's, or one without
 * effect. Nothing if there is none. */
void manifest_warnings(const struct manifest *manifest, struct buffer *out);
/* Appends a commented YAML file with every key, its default and its bounds; those that depend on
 * the mode are comments. */
void manifest_explain(struct buffer *out);
/* OK if text is a valid run or site name: 1 to 32 of a-z, 0-9 and '-', starting with a letter. */
MUST_USE enum status name_check(const char *text, struct error *error);

#endif
