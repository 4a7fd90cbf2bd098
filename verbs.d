verbs.o: node/verbs.c node/verbs.h node/settings.h base/options.h \
 base/bytes.h base/status.h base/setting.h kernels/cuda_backend.h \
 kernels/cuda_operations.h kernels/device_choice.h run/run_model.h \
 crypto/digest.h model/data.h model/data_format.h model/trainer.h \
 model/adamw.h model/config.h model/layout.h model/schedule.h \
 base/clock.h base/file.h base/json.h base/limits.h base/log.h \
 base/memory.h model/export.h base/output.h model/safetensors.h \
 model/generate.h node/daemon.h node/site.h crypto/key_file.h \
 crypto/sign.h fed/invitation.h fed/contribution.h fed/manifest.h \
 node/join.h node/journal_files.h node/journal.h fed/replay.h \
 fed/model_state.h fed/payload.h codec/codec.h fed/run_state.h \
 fed/ledger.h fed/merkle.h fed/receipt.h node/round_progress.h \
 storage/blob.h storage/digest.h node/restore_model.h node/restore.h \
 node/node_state.h base/random.h node/training_marks.h node/replica.h \
 node/status.h
node/verbs.h:
node/settings.h:
base/options.h:
base/bytes.h:
base/status.h:
base/setting.h:
kernels/cuda_backend.h:
kernels/cuda_operations.h:
kernels/device_choice.h:
run/run_model.h:
crypto/digest.h:
model/data.h:
model/data_format.h:
model/trainer.h:
model/adamw.h:
model/config.h:
model/layout.h:
model/schedule.h:
base/clock.h:
base/file.h:
base/json.h:
base/limits.h:
base/log.h:
base/memory.h:
model/export.h:
base/output.h:
model/safetensors.h:
model/generate.h:
node/daemon.h:
node/site.h:
crypto/key_file.h:
crypto/sign.h:
fed/invitation.h:
fed/contribution.h:
fed/manifest.h:
node/join.h:
node/journal_files.h:
node/journal.h:
fed/replay.h:
fed/model_state.h:
fed/payload.h:
codec/codec.h:
fed/run_state.h:
fed/ledger.h:
fed/merkle.h:
fed/receipt.h:
node/round_progress.h:
storage/blob.h:
storage/digest.h:
node/restore_model.h:
node/restore.h:
node/node_state.h:
base/random.h:
node/training_marks.h:
node/replica.h:
node/status.h:
