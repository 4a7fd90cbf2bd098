storage_store_test.o: tests/storage_store_test.c base/file.h base/bytes.h \
 base/status.h base/memory.h crypto/digest.h storage/lmdb_env.h \
 storage/store.h storage/digest.h tests/test.h
base/file.h:
base/bytes.h:
base/status.h:
base/memory.h:
crypto/digest.h:
storage/lmdb_env.h:
storage/store.h:
storage/digest.h:
tests/test.h:
