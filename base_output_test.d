base_output_test.o: tests/base_output_test.c base/output.h base/status.h \
 base/ending.h base/file.h base/bytes.h base/memory.h tests/test.h
base/output.h:
base/status.h:
base/ending.h:
base/file.h:
base/bytes.h:
base/memory.h:
tests/test.h:
