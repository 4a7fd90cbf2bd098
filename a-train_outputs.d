train_outputs.o: model/train_outputs.c model/train_outputs.h \
 base/output.h base/status.h model/export.h model/safetensors.h \
 base/bytes.h model/layout.h model/config.h model/verbs.h base/options.h \
 base/setting.h model/data_format.h model/trainer.h \
 kernels/device_choice.h model/adamw.h model/data.h model/schedule.h \
 base/log.h base/memory.h
model/train_outputs.h:
base/output.h:
base/status.h:
model/export.h:
model/safetensors.h:
base/bytes.h:
model/layout.h:
model/config.h:
model/verbs.h:
base/options.h:
base/setting.h:
model/data_format.h:
model/trainer.h:
kernels/device_choice.h:
model/adamw.h:
model/data.h:
model/schedule.h:
base/log.h:
base/memory.h:
