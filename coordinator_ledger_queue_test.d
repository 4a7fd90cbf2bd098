coordinator_ledger_queue_test.o: tests/coordinator_ledger_queue_test.c \
 base/file.h base/bytes.h base/status.h base/memory.h base/queue.h \
 base/thread.h coordinator/directory.h crypto/sign.h fed/replay.h \
 fed/model_state.h fed/payload.h codec/codec.h fed/contribution.h \
 crypto/digest.h fed/manifest.h fed/run_state.h fed/ledger.h fed/merkle.h \
 fed/receipt.h model/layout.h model/config.h storage/blob.h \
 storage/digest.h storage/store.h coordinator/disk_watch.h \
 coordinator/ledger_queue.h tests/test.h
base/file.h:
base/bytes.h:
base/status.h:
base/memory.h:
base/queue.h:
base/thread.h:
coordinator/directory.h:
crypto/sign.h:
fed/replay.h:
fed/model_state.h:
fed/payload.h:
codec/codec.h:
fed/contribution.h:
crypto/digest.h:
fed/manifest.h:
fed/run_state.h:
fed/ledger.h:
fed/merkle.h:
fed/receipt.h:
model/layout.h:
model/config.h:
storage/blob.h:
storage/digest.h:
storage/store.h:
coordinator/disk_watch.h:
coordinator/ledger_queue.h:
tests/test.h:
