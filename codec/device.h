/* The codec on a CUDA device, with the same bytes: codec_encode's message, and its feedback, bit by
 * bit.
 *
 * From a delta of gigabytes a message of megabytes is made where the delta is, so that the message
 * is all that crosses the bus. On the way back a message is checked on the host, which also finds
 * where its chunks begin, and decoded and applied on the device. Applying the same messages there
 * and here gives the same parameters, to the bit, and so the same state root.
 *
 * Device memory is borrowed but where a comment says otherwise. The work goes to the calling
 * thread's stream and is waited for. One thread at a time for each encoder. Statuses: as in
 * codec/codec.h, and those of cuda_backend_status: FULL where device memory is out, with the
 * figures; UNAVAILABLE where the device is lost, for good.
 */
#ifndef CODEC_DEVICE_H
#define CODEC_DEVICE_H

#include "codec/codec.h"
#include "kernels/cuda_backend.h"

struct device_encoder;

/* Takes codec_bound bytes on the device and as many pinned, for topk2 about count/3 (count/1.8 with
 * k=128) more, and 4 bytes per element where there is feedback. cuda is borrowed until the encoder
 * is destroyed. */
MUST_USE enum status device_encoder_create(const struct cuda_operations *cuda, enum codec codec,
                                           size_t count, bool feedback, struct device_encoder **out,
                                           struct error *error);
void device_encoder_destroy(struct device_encoder *encoder); /* NULL is a no-op */
/* Bytes of device memory that it takes. */
uint64_t device_encoder_memory(const struct cuda_operations *cuda, enum codec codec, size_t count,
                               bool feedback);

/* As codec_encode. All are [count] floats on the device; local may be none. *e, if the encoder was
 * made for feedback, is a whole allocation that changes hands: the new feedback is in other memory,
 * which *e then is, and the old becomes the encoder's. Where it fails *e is as it was. With the
 * INVALID of a value that is not finite nothing has changed. */
MUST_USE enum status device_encode(struct device_encoder *encoder, struct device_memory base,
                                   struct device_memory local, struct device_memory *e,
                                   struct buffer *out, struct error *error);

/* The same from host memory: base, local and e cross the bus, and e comes back. Takes 8 or 12 bytes
 * per element more on the device from the first call on. */
MUST_USE enum status device_encode_from_host(struct device_encoder *encoder, const float *base,
                                             const float *local, float *e, struct buffer *out,
                                             struct error *error);

/* Checks a message and sends it to the device: out->message and out->places are the caller's, given
 * back with device_part_close. */
MUST_USE enum status device_part_open(const struct cuda_operations *cuda, enum codec codec,
                                      struct bytes message, size_t count, float scale,
                                      struct cuda_part *out, struct error *error);
/* {0} is a no-op */
void device_part_close(const struct cuda_operations *cuda, struct cuda_part *part);

#endif
