server.o: coordinator/server.c coordinator/server.h \
 coordinator/coordinator_state.h base/clock.h fed/run_state.h \
 fed/ledger.h base/bytes.h base/status.h fed/contribution.h \
 crypto/digest.h crypto/sign.h fed/manifest.h fed/merkle.h fed/receipt.h \
 coordinator/directory.h fed/replay.h fed/model_state.h fed/payload.h \
 codec/codec.h model/layout.h model/config.h storage/blob.h \
 storage/digest.h storage/store.h base/ending.h base/log.h base/memory.h \
 coordinator/loop.h coordinator/calls.h coordinator/call.h \
 proto/service.h rpc/call.h rpc/code.h proto/messages.h proto/arena.h \
 proto/frame.h rpc/server.h rpc/places.h coordinator/disk_watch.h \
 coordinator/intake.h coordinator/transfers.h coordinator/ledger_queue.h \
 coordinator/model_thread.h coordinator/model_work.h \
 coordinator/publisher.h
coordinator/server.h:
coordinator/coordinator_state.h:
base/clock.h:
fed/run_state.h:
fed/ledger.h:
base/bytes.h:
base/status.h:
fed/contribution.h:
crypto/digest.h:
crypto/sign.h:
fed/manifest.h:
fed/merkle.h:
fed/receipt.h:
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
base/ending.h:
base/log.h:
base/memory.h:
coordinator/loop.h:
coordinator/calls.h:
coordinator/call.h:
proto/service.h:
rpc/call.h:
rpc/code.h:
proto/messages.h:
proto/arena.h:
proto/frame.h:
rpc/server.h:
rpc/places.h:
coordinator/disk_watch.h:
coordinator/intake.h:
coordinator/transfers.h:
coordinator/ledger_queue.h:
coordinator/model_thread.h:
coordinator/model_work.h:
coordinator/publisher.h:
