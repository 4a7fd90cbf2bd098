coordinator_orders.o: coordinator/coordinator_orders.c sim/signatures.h \
 crypto/sign.h base/bytes.h base/status.h base/mark.h base/memory.h \
 coordinator/coordinator_state_internal.h coordinator/coordinator_state.h \
 base/clock.h fed/run_state.h fed/ledger.h fed/contribution.h \
 crypto/digest.h fed/manifest.h fed/merkle.h fed/receipt.h \
 fed/merge_policy.h
sim/signatures.h:
crypto/sign.h:
base/bytes.h:
base/status.h:
base/mark.h:
base/memory.h:
coordinator/coordinator_state_internal.h:
coordinator/coordinator_state.h:
base/clock.h:
fed/run_state.h:
fed/ledger.h:
fed/contribution.h:
crypto/digest.h:
fed/manifest.h:
fed/merkle.h:
fed/receipt.h:
fed/merge_policy.h:
