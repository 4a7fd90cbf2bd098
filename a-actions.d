actions.o: coordinator/actions.c coordinator/coordinator_state.h \
 base/clock.h fed/run_state.h fed/ledger.h base/bytes.h base/status.h \
 fed/contribution.h crypto/digest.h crypto/sign.h fed/manifest.h \
 fed/merkle.h fed/receipt.h
coordinator/coordinator_state.h:
base/clock.h:
fed/run_state.h:
fed/ledger.h:
base/bytes.h:
base/status.h:
fed/contribution.h:
crypto/digest.h:
crypto/sign.h:
fed/manifest.h:
fed/merkle.h:
fed/receipt.h:
