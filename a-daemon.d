daemon.o: node/daemon.c node/daemon.h node/settings.h base/options.h \
 base/bytes.h base/status.h base/setting.h kernels/cuda_backend.h \
 kernels/cuda_operations.h kernels/device_choice.h run/run_model.h \
 crypto/digest.h model/data.h model/data_format.h model/trainer.h \
 model/adamw.h model/config.h model/layout.h model/schedule.h node/site.h \
 crypto/key_file.h crypto/sign.h fed/invitation.h fed/contribution.h \
 fed/manifest.h base/clock.h base/ending.h base/file.h base/log.h \
 base/memory.h base/random.h crypto/certificate.h kernels/kernels.h \
 model/export.h base/output.h model/safetensors.h model/kernels_kept.h \
 node/daemon_internal.h base/queue.h base/thread.h node/downlink.h \
 node/journal.h fed/replay.h fed/model_state.h fed/outer_rate.h \
 fed/payload.h codec/codec.h fed/run_state.h fed/ledger.h fed/merkle.h \
 fed/receipt.h node/round_progress.h node/node_state.h node/stream.h \
 proto/service.h rpc/channel.h rpc/call.h rpc/code.h node/trouble.h \
 node/report.h node/training.h node/training_marks.h node/replica.h \
 proto/messages.h proto/arena.h proto/frame.h node/restore.h \
 node/uplink.h node/worker.h node/journal_files.h storage/blob.h \
 storage/digest.h node/leave.h node/restore_model.h node/verbs.h \
 rpc/environment.h
node/daemon.h:
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
node/site.h:
crypto/key_file.h:
crypto/sign.h:
fed/invitation.h:
fed/contribution.h:
fed/manifest.h:
base/clock.h:
base/ending.h:
base/file.h:
base/log.h:
base/memory.h:
base/random.h:
crypto/certificate.h:
kernels/kernels.h:
model/export.h:
base/output.h:
model/safetensors.h:
model/kernels_kept.h:
node/daemon_internal.h:
base/queue.h:
base/thread.h:
node/downlink.h:
node/journal.h:
fed/replay.h:
fed/model_state.h:
fed/outer_rate.h:
fed/payload.h:
codec/codec.h:
fed/run_state.h:
fed/ledger.h:
fed/merkle.h:
fed/receipt.h:
node/round_progress.h:
node/node_state.h:
node/stream.h:
proto/service.h:
rpc/channel.h:
rpc/call.h:
rpc/code.h:
node/trouble.h:
node/report.h:
node/training.h:
node/training_marks.h:
node/replica.h:
proto/messages.h:
proto/arena.h:
proto/frame.h:
node/restore.h:
node/uplink.h:
node/worker.h:
node/journal_files.h:
storage/blob.h:
storage/digest.h:
node/leave.h:
node/restore_model.h:
node/verbs.h:
rpc/environment.h:
