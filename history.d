history.o: model/history.c model/history.h base/bytes.h base/status.h \
 base/file.h base/json.h base/memory.h
model/history.h:
base/bytes.h:
base/status.h:
base/file.h:
base/json.h:
base/memory.h:
