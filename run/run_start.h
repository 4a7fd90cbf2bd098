/* What a run begins from, when it is made: its layout, version 0, and what of the manifest follows
 * from a checkpoint.
 *
 * The admin writes how to train; what the model is stands in the checkpoint that --from names, or
 * in a list of tensors (--layout). The manifest gets the digest of the layout's text and the state
 * root of version 0: so the same values in other files are the same start. The sizes of the
 * manifest's model are filled in from config.json where the YAML does not give them, and where it
 * does, they must agree: what no tensor shows (rope_theta, epsilon, heads) makes another function
 * of the same numbers.
 */
#ifndef RUN_RUN_START_H
#define RUN_RUN_START_H

#include "base/bytes.h"
#include "crypto/digest.h"
#include "model/layout.h"

struct manifest;

struct run_source {     /* all may be NULL */
    const char *from;   /* a safetensors file, or a directory of a model or an adapter */
    const char *layout; /* a file with the layout's text */
    const char *base;   /* the frozen model that an adapter is for */
    struct bytes
        yaml; /* the manifest as it was written; empty: nothing is known of what it gives */
};

struct run_start {
    struct layout layout;
    struct buffer text; /* of the layout; empty: the built-in trainer's, by the manifest */
};

/* Completes the manifest, except for the root, which run_start_values fills in. INVALID: the
 * checkpoint cannot be trained, or does not agree with the manifest; the message names the tensor
 * or both values. */
MUST_USE enum status run_start_open(const struct run_source *source, struct manifest *manifest,
                                    struct run_start *out, struct error *error);
/* Version 0, [layout.count], and its root into the manifest where there is a checkpoint. INVALID:
 * it is not what the manifest names. */
MUST_USE enum status run_start_values(const struct run_source *source,
                                      const struct run_start *start, struct manifest *manifest,
                                      float *theta, struct error *error);
void run_start_deinit(struct run_start *start);
/* Of a model's tensors, whatever files they are in: SHA-256 of a line per tensor, in the order of
 * names, with type, shape and the digest of its bytes. */
MUST_USE enum status run_base_digest(const char *path, uint8_t out[static DIGEST_SIZE],
                                     struct error *error);
/* INVALID: the manifest names another base, or none. */
MUST_USE enum status run_base_check(const struct manifest *manifest, const char *path,
                                    struct error *error);

#endif
