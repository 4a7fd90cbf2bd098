training.o: node/training.c node/training.h model/data.h base/status.h \
 model/data_format.h node/node_state.h base/clock.h base/random.h \
 fed/model_state.h fed/outer_rate.h fed/manifest.h base/bytes.h \
 crypto/digest.h fed/payload.h codec/codec.h fed/contribution.h \
 crypto/sign.h fed/run_state.h fed/ledger.h fed/merkle.h fed/receipt.h \
 node/round_progress.h node/training_marks.h node/replica.h \
 proto/messages.h proto/arena.h proto/frame.h base/log.h base/memory.h \
 base/thread.h model/trainer.h kernels/device_choice.h model/adamw.h \
 model/config.h model/layout.h model/schedule.h
node/training.h:
model/data.h:
base/status.h:
model/data_format.h:
node/node_state.h:
base/clock.h:
base/random.h:
fed/model_state.h:
fed/outer_rate.h:
fed/manifest.h:
base/bytes.h:
crypto/digest.h:
fed/payload.h:
codec/codec.h:
fed/contribution.h:
crypto/sign.h:
fed/run_state.h:
fed/ledger.h:
fed/merkle.h:
fed/receipt.h:
node/round_progress.h:
node/training_marks.h:
node/replica.h:
proto/messages.h:
proto/arena.h:
proto/frame.h:
base/log.h:
base/memory.h:
base/thread.h:
model/trainer.h:
kernels/device_choice.h:
model/adamw.h:
model/config.h:
model/layout.h:
model/schedule.h:
