sim_faults_test.o: tests/sim_faults_test.c base/memory.h base/status.h \
 sim/faults.h sim/federation.h sim/scenario.h fed/manifest.h base/bytes.h \
 crypto/digest.h sim/network.h sim/world.h base/heap.h base/random.h \
 sim/fault_kind.h sim/shrink.h tests/test.h
base/memory.h:
base/status.h:
sim/faults.h:
sim/federation.h:
sim/scenario.h:
fed/manifest.h:
base/bytes.h:
crypto/digest.h:
sim/network.h:
sim/world.h:
base/heap.h:
base/random.h:
sim/fault_kind.h:
sim/shrink.h:
tests/test.h:
