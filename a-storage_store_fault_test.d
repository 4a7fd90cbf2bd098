storage_store_fault_test.o: tests/storage_store_fault_test.c base/clock.h \
 base/file.h base/bytes.h base/status.h base/memory.h base/random.h \
 crypto/digest.h storage/store.h storage/digest.h tests/test.h
base/clock.h:
base/file.h:
base/bytes.h:
base/status.h:
base/memory.h:
base/random.h:
crypto/digest.h:
storage/store.h:
storage/digest.h:
tests/test.h:
