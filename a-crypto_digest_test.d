crypto_digest_test.o: tests/crypto_digest_test.c base/memory.h \
 base/status.h crypto/digest.h base/bytes.h tests/test.h
base/memory.h:
base/status.h:
crypto/digest.h:
base/bytes.h:
tests/test.h:
