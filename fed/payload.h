/* A contribution's payload that was read and checked: these are the bytes that its header names,
 * they are a message of the run's codec for its fragment, and every value in it is finite.
 *
 * Nothing but payload_verify and payload_seal makes one, and they digest the bytes once and walk
 * the message once. So who is given a verified payload by type does neither again: admission
 * compares the header's norm with the one found on the walk, an outer step decodes without a pass
 * that checks first. The bytes never change while it lives. What comes from a disk or a link again
 * is verified again, once per reading: a copy may be damaged that was not.
 */
#ifndef FED_PAYLOAD_H
#define FED_PAYLOAD_H

#include "codec/codec.h"
#include "fed/contribution.h"
#include "fed/manifest.h"

/* What a header and the manifest say about a payload. */
struct payload_terms {
    uint8_t digest[DIGEST_SIZE];
    uint64_t size; /* bytes */
    enum codec codec;
    uint64_t count; /* elements: the fragment's parameters */
};

struct verified_payload;

struct payload_terms payload_terms_of(const struct manifest *manifest, uint64_t parameters,
                                      const struct contribution *contribution);

/* OK: takes what is in *bytes and leaves it empty; the caller destroys *out. Else *bytes is as it
 * was. CORRUPT: they have another digest, so they are not the bytes that were signed. INVALID: they
 * are, but there are more or fewer than the header says, or they break the codec's rules. */
MUST_USE enum status payload_verify(const struct payload_terms *terms, struct buffer *bytes,
                                    struct verified_payload **out, struct error *error);
/* Of a message that was encoded here and that nobody has signed yet: its terms are what it has. */
MUST_USE enum status payload_seal(enum codec codec, uint64_t count, struct buffer *bytes,
                                  struct verified_payload **out, struct error *error);
void payload_destroy(struct verified_payload *payload); /* NULL is a no-op */

const struct payload_terms *payload_terms(const struct verified_payload *payload);
struct bytes payload_bytes(const struct verified_payload *payload); /* lent */
/* One of codec_stretches(count). */
struct codec_stretch payload_stretch(const struct verified_payload *payload, size_t stretch);
/* Of the decoded values, as a header tells it. */
double payload_norm(const struct verified_payload *payload);

#endif
