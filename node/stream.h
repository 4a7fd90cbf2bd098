/* A call to the coordinator as one thread reads and writes it: blocking, with deadlines.
 *
 * rpc/ speaks through callbacks that must not block; what a site does with a call (read a payload
 * from disk, hash, wait for bandwidth) blocks all the time. A stream stands between: callbacks only
 * move a message into a slot of one and wake the owner. A message is taken off the wire only when
 * the owner asks for it, so a slow owner stops its peer by flow control.
 *
 * One thread owns a stream; stream_cancel and struct traffic are for all. Bytes are counted as they
 * travel: each message plus the 5 bytes that gRPC puts in front of it.
 */
#ifndef NODE_STREAM_H
#define NODE_STREAM_H

#include <stdatomic.h>

#include "proto/service.h"
#include "rpc/channel.h"

struct traffic { /* since the process started */
    atomic_uint_fast64_t up, down;
};
enum { MESSAGE_OVERHEAD = 5 };
void traffic_up(struct traffic *traffic, size_t message_size);
void traffic_down(struct traffic *traffic, size_t message_size);

struct stream;

/* A streaming method's call. A call that cannot connect within timeout_ms, or makes no progress for
 * as long, ends with TIMEOUT; timeout_ms 0: no such clock. UNAVAILABLE, CANCELLED (the channel is
 * being closed). */
MUST_USE enum status stream_open(struct rpc_channel *channel, enum service_method method,
                                 uint32_t timeout_ms, struct traffic *traffic, struct stream **out,
                                 struct error *error);
/* Waits for room. A status from the end of the call if it has ended: then stream_read tells what
 * had come before. */
MUST_USE enum status stream_write(struct stream *stream, struct bytes head, struct bytes payload,
                                  struct error *error);
/* Nothing more will be written. */
void stream_half_close(struct stream *stream);
/* Replaces *out. TIMEOUT after wait_ms without a message (the call goes on; UINT64_MAX: no limit).
 * NOT_FOUND: the peer has said all, and all is well. Otherwise what ended the call. */
MUST_USE enum status stream_read(struct stream *stream, uint64_t wait_ms, struct buffer *out,
                                 struct error *error);
/* Any thread: a thread that waits in it gets CANCELLED. */
void stream_cancel(struct stream *stream);
/* Cancels what is open and waits for the last callback. NULL is a no-op. */
void stream_close(struct stream *stream);

#endif
