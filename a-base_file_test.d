base_file_test.o: tests/base_file_test.c base/file.h base/bytes.h \
 base/status.h tests/test.h
base/file.h:
base/bytes.h:
base/status.h:
tests/test.h:
