base_ending_test.o: tests/base_ending_test.c base/ending.h base/clock.h \
 base/file.h base/bytes.h base/status.h tests/test.h
base/ending.h:
base/clock.h:
base/file.h:
base/bytes.h:
base/status.h:
tests/test.h:
