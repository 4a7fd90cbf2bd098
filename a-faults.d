faults.o: sim/faults.c sim/faults.h sim/federation.h sim/scenario.h \
 fed/manifest.h base/bytes.h base/status.h crypto/digest.h sim/network.h \
 sim/world.h base/heap.h base/random.h sim/fault_kind.h base/memory.h \
 coordinator/coordinator_state.h base/clock.h fed/run_state.h \
 fed/ledger.h fed/contribution.h crypto/sign.h fed/merkle.h fed/receipt.h \
 sim/byzantine_coordinator.h node/node_state.h fed/model_state.h \
 fed/outer_rate.h fed/payload.h codec/codec.h node/round_progress.h \
 sim/disk.h fed/replay.h sim/byzantine_site.h sim/hostile_input.h \
 sim/marks.h sim/shrink.h
sim/faults.h:
sim/federation.h:
sim/scenario.h:
fed/manifest.h:
base/bytes.h:
base/status.h:
crypto/digest.h:
sim/network.h:
sim/world.h:
base/heap.h:
base/random.h:
sim/fault_kind.h:
base/memory.h:
coordinator/coordinator_state.h:
base/clock.h:
fed/run_state.h:
fed/ledger.h:
fed/contribution.h:
crypto/sign.h:
fed/merkle.h:
fed/receipt.h:
sim/byzantine_coordinator.h:
node/node_state.h:
fed/model_state.h:
fed/outer_rate.h:
fed/payload.h:
codec/codec.h:
node/round_progress.h:
sim/disk.h:
fed/replay.h:
sim/byzantine_site.h:
sim/hostile_input.h:
sim/marks.h:
sim/shrink.h:
