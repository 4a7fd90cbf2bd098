/* CRC-64 by slicing over eight bytes at a time (base/checksum.h). checksum_seal appends the sum to
 * a buffer, checksum_open checks and cuts it off. */
#include "base/checksum.h"

#include <inttypes.h>
#include <string.h>

enum { SLICES = 8 };
static const uint64_t POLYNOMIAL = 0xc96c5795d7870f42u;

/* slices[k][b] is what byte b does to the remainder k bytes further on, so that eight bytes take
 * eight independent look-ups. */
static void fill(uint64_t slices[SLICES][256]) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint64_t rest = byte;
        for (int bit = 0; bit < 8; bit++) rest = rest >> 1 ^ (rest & 1 ? POLYNOMIAL : 0);
        slices[0][byte] = rest;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int k = 1; k < SLICES; k++)
            slices[k][byte] = slices[k - 1][byte] >> 8 ^ slices[0][slices[k - 1][byte] & 0xff];
}

uint64_t checksum_crc64(struct bytes bytes) {
    uint64_t slices[SLICES][256], rest = UINT64_MAX;
    fill(slices);
    struct reader reader = reader_of(bytes);
    while (reader_left(&reader) >= SLICES) {
        uint64_t word = rest ^ reader_u64(&reader);
        rest = 0;
        for (int k = 0; k < SLICES; k++) rest ^= slices[SLICES - 1 - k][word >> 8 * k & 0xff];
    }
    while (reader_left(&reader) > 0)
        rest = rest >> 8 ^ slices[0][(rest ^ reader_u8(&reader)) & 0xff];
    return ~rest;
}

void checksum_seal(struct buffer *buffer) {
    buffer_u64(buffer, checksum_crc64(buffer_bytes(buffer)));
}

enum status checksum_open(struct bytes sealed, struct bytes *out, struct error *error) {
    *out = (struct bytes){0};
    if (sealed.size < sizeof(uint64_t))
        return error_set(error, CORRUPT, "it is %zu bytes long, too few to end with a checksum",
                         sealed.size);
    struct bytes content = bytes_of(sealed.data, sealed.size - sizeof(uint64_t));
    struct reader end = reader_of(bytes_of(sealed.data + content.size, sizeof(uint64_t)));
    uint64_t stored = reader_u64(&end), found = checksum_crc64(content);
    if (stored != found)
        return error_set(error, CORRUPT,
                         "damaged: its bytes have the checksum %016" PRIx64 ", and %016" PRIx64
                         " is what was written with them",
                         found, stored);
    *out = content;
    return OK;
}
