loop_admin.o: coordinator/loop_admin.c base/clock.h base/memory.h \
 base/status.h coordinator/loop_internal.h base/queue.h base/thread.h \
 coordinator/loop.h coordinator/calls.h coordinator/call.h base/bytes.h \
 proto/service.h rpc/call.h rpc/code.h coordinator/coordinator_state.h \
 fed/run_state.h fed/ledger.h fed/contribution.h crypto/digest.h \
 crypto/sign.h fed/manifest.h fed/merkle.h fed/receipt.h proto/messages.h \
 proto/arena.h proto/frame.h rpc/server.h rpc/places.h \
 coordinator/directory.h fed/replay.h fed/model_state.h fed/payload.h \
 codec/codec.h model/layout.h model/config.h storage/blob.h \
 storage/digest.h storage/store.h coordinator/disk_watch.h \
 coordinator/intake.h coordinator/transfers.h coordinator/ledger_queue.h \
 coordinator/model_thread.h coordinator/model_work.h \
 coordinator/publisher.h
base/clock.h:
base/memory.h:
base/status.h:
coordinator/loop_internal.h:
base/queue.h:
base/thread.h:
coordinator/loop.h:
coordinator/calls.h:
coordinator/call.h:
base/bytes.h:
proto/service.h:
rpc/call.h:
rpc/code.h:
coordinator/coordinator_state.h:
fed/run_state.h:
fed/ledger.h:
fed/contribution.h:
crypto/digest.h:
crypto/sign.h:
fed/manifest.h:
fed/merkle.h:
fed/receipt.h:
proto/messages.h:
proto/arena.h:
proto/frame.h:
rpc/server.h:
rpc/places.h:
coordinator/directory.h:
fed/replay.h:
fed/model_state.h:
fed/payload.h:
codec/codec.h:
model/layout.h:
model/config.h:
storage/blob.h:
storage/digest.h:
storage/store.h:
coordinator/disk_watch.h:
coordinator/intake.h:
coordinator/transfers.h:
coordinator/ledger_queue.h:
coordinator/model_thread.h:
coordinator/model_work.h:
coordinator/publisher.h:
