site_disk.o: sim/site_disk.c base/memory.h base/status.h \
 sim/site_internal.h node/keeper.h crypto/sign.h base/bytes.h \
 node/journal.h fed/replay.h fed/model_state.h fed/outer_rate.h \
 fed/manifest.h crypto/digest.h fed/payload.h codec/codec.h \
 fed/contribution.h fed/run_state.h fed/ledger.h fed/merkle.h \
 fed/receipt.h node/round_progress.h node/node_state.h base/clock.h \
 base/random.h node/training_marks.h node/replica.h sim/disk.h \
 sim/world.h base/heap.h sim/fault_kind.h sim/journal.h \
 node/journal_set.h sim/site.h sim/check.h sim/scenario.h sim/network.h
base/memory.h:
base/status.h:
sim/site_internal.h:
node/keeper.h:
crypto/sign.h:
base/bytes.h:
node/journal.h:
fed/replay.h:
fed/model_state.h:
fed/outer_rate.h:
fed/manifest.h:
crypto/digest.h:
fed/payload.h:
codec/codec.h:
fed/contribution.h:
fed/run_state.h:
fed/ledger.h:
fed/merkle.h:
fed/receipt.h:
node/round_progress.h:
node/node_state.h:
base/clock.h:
base/random.h:
node/training_marks.h:
node/replica.h:
sim/disk.h:
sim/world.h:
base/heap.h:
sim/fault_kind.h:
sim/journal.h:
node/journal_set.h:
sim/site.h:
sim/check.h:
sim/scenario.h:
sim/network.h:
