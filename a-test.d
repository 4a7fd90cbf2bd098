test.o: tests/test.c tests/test.h base/status.h base/clock.h
tests/test.h:
base/status.h:
base/clock.h:
