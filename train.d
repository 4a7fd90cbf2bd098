train.o: experiment/train.c experiment/train.h fed/manifest.h \
 base/bytes.h base/status.h crypto/digest.h model/data_format.h \
 model/history.h topology/topology.h base/random.h codec/codec.h \
 base/memory.h base/thread.h experiment/train_internal.h base/heap.h \
 fed/merge_policy.h fed/model_state.h fed/payload.h fed/contribution.h \
 crypto/sign.h fed/run_state.h fed/ledger.h fed/merkle.h fed/receipt.h \
 fed/scale.h fed/weight.h model/trainer.h kernels/device_choice.h \
 model/adamw.h model/config.h model/data.h model/layout.h \
 model/schedule.h fed/outer_rate.h model/export.h base/output.h \
 model/safetensors.h run/run_model.h
experiment/train.h:
fed/manifest.h:
base/bytes.h:
base/status.h:
crypto/digest.h:
model/data_format.h:
model/history.h:
topology/topology.h:
base/random.h:
codec/codec.h:
base/memory.h:
base/thread.h:
experiment/train_internal.h:
base/heap.h:
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
fed/outer_rate.h:
model/export.h:
base/output.h:
model/safetensors.h:
run/run_model.h:
