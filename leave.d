leave.o: node/leave.c node/leave.h base/clock.h base/file.h base/bytes.h \
 base/status.h base/json.h base/memory.h node/verbs.h node/settings.h \
 base/options.h base/setting.h kernels/cuda_backend.h \
 kernels/cuda_operations.h kernels/device_choice.h run/run_model.h \
 crypto/digest.h model/data.h model/data_format.h model/trainer.h \
 model/adamw.h model/config.h model/layout.h model/schedule.h
node/leave.h:
base/clock.h:
base/file.h:
base/bytes.h:
base/status.h:
base/json.h:
base/memory.h:
node/verbs.h:
node/settings.h:
base/options.h:
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
