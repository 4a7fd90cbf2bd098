train_hostile.o: experiment/train_hostile.c base/memory.h base/status.h \
 experiment/train_internal.h base/heap.h base/random.h experiment/train.h \
 fed/manifest.h base/bytes.h crypto/digest.h model/data_format.h \
 model/history.h topology/topology.h codec/codec.h fed/merge_policy.h \
 fed/model_state.h fed/payload.h fed/contribution.h crypto/sign.h \
 fed/run_state.h fed/ledger.h fed/merkle.h fed/receipt.h fed/scale.h \
 fed/weight.h model/trainer.h kernels/device_choice.h model/adamw.h \
 model/config.h model/data.h model/layout.h model/schedule.h
base/memory.h:
base/status.h:
experiment/train_internal.h:
base/heap.h:
base/random.h:
experiment/train.h:
fed/manifest.h:
base/bytes.h:
crypto/digest.h:
model/data_format.h:
model/history.h:
topology/topology.h:
codec/codec.h:
fed/merge_policy.h:
fed/model_state.h:
fed/payload.h:
fed/contribution.h:
crypto/sign.h:
fed/run_state.h:
fed/ledger.h:
fed/merkle.h:
fed/receipt.h:
fed/scale.h:
fed/weight.h:
model/trainer.h:
kernels/device_choice.h:
model/adamw.h:
model/config.h:
model/data.h:
model/layout.h:
model/schedule.h:
