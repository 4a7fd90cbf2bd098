directory.o: coordinator/directory.c coordinator/directory.h \
 crypto/sign.h base/bytes.h base/status.h fed/replay.h fed/model_state.h \
 fed/payload.h codec/codec.h fed/contribution.h crypto/digest.h \
 fed/manifest.h fed/run_state.h fed/ledger.h fed/merkle.h fed/receipt.h \
 model/layout.h model/config.h storage/blob.h storage/digest.h \
 storage/store.h base/file.h base/memory.h crypto/certificate.h \
 crypto/key_file.h run/run_model.h model/data.h model/data_format.h \
 model/trainer.h kernels/device_choice.h model/adamw.h model/schedule.h
coordinator/directory.h:
crypto/sign.h:
base/bytes.h:
base/status.h:
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
base/file.h:
base/memory.h:
crypto/certificate.h:
crypto/key_file.h:
run/run_model.h:
model/data.h:
model/data_format.h:
model/trainer.h:
kernels/device_choice.h:
model/adamw.h:
model/schedule.h:
