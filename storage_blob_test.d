storage_blob_test.o: tests/storage_blob_test.c base/file.h base/bytes.h \
 base/status.h base/memory.h base/random.h crypto/digest.h storage/blob.h \
 storage/digest.h tests/test.h
base/file.h:
base/bytes.h:
base/status.h:
base/memory.h:
base/random.h:
crypto/digest.h:
storage/blob.h:
storage/digest.h:
tests/test.h:
