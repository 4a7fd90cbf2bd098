main.o: coordinator/main.c base/address.h base/status.h base/ending.h \
 base/file.h base/bytes.h base/limits.h base/log.h base/memory.h \
 base/options.h base/setting.h base/secrecy.h base/streams.h \
 base/version.h config/config.h config/yaml.h coordinator/server.h \
 coordinator/coordinator_state.h base/clock.h fed/run_state.h \
 fed/ledger.h fed/contribution.h crypto/digest.h crypto/sign.h \
 fed/manifest.h fed/merkle.h fed/receipt.h coordinator/directory.h \
 fed/replay.h fed/model_state.h fed/payload.h codec/codec.h \
 model/layout.h model/config.h storage/blob.h storage/digest.h \
 storage/store.h rpc/environment.h storage/store_guard.h
base/address.h:
base/status.h:
base/ending.h:
base/file.h:
base/bytes.h:
base/limits.h:
base/log.h:
base/memory.h:
base/options.h:
base/setting.h:
base/secrecy.h:
base/streams.h:
base/version.h:
config/config.h:
config/yaml.h:
coordinator/server.h:
coordinator/coordinator_state.h:
base/clock.h:
fed/run_state.h:
fed/ledger.h:
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
rpc/environment.h:
storage/store_guard.h:
