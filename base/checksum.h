/* A checksum against accidents: a bit that flipped on a disk, a file cut off or overwritten in
 * part.
 *
 * CRC-64 as xz has it (reflected polynomial of ECMA-182, initial value and final XOR all ones). It
 * finds every burst of up to 64 bits, and anything else except one in 2^64. It is not proof of
 * origin: anyone who can write the bytes can write the checksum. What comes from a peer, or must be
 * traced to a signer, has a SHA-256 (crypto/digest.h). This one is for programs that are built from
 * base/, kernels/, codec/ and model/ alone.
 */
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include "base/bytes.h"

uint64_t checksum_crc64(struct bytes bytes);

/* Appends the checksum of what the buffer holds. */
void checksum_seal(struct buffer *buffer);

/* The bytes before the checksum that checksum_seal appended. CORRUPT if they are too few or do not
 * agree with it; *out is then empty. */
MUST_USE enum status checksum_open(struct bytes sealed, struct bytes *out, struct error *error);

#endif
