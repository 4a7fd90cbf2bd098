node_status_test.o: tests/node_status_test.c base/memory.h base/status.h \
 node/status.h base/bytes.h tests/test.h
base/memory.h:
base/status.h:
node/status.h:
base/bytes.h:
tests/test.h:
