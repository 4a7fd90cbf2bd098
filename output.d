output.o: base/output.c base/output.h base/status.h base/bytes.h \
 base/file.h base/memory.h
base/output.h:
base/status.h:
base/bytes.h:
base/file.h:
base/memory.h:
