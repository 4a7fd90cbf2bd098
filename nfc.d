nfc.o: text/nfc.c text/nfc.h base/bytes.h base/status.h base/memory.h \
 text/pattern.h
text/nfc.h:
base/bytes.h:
base/status.h:
base/memory.h:
text/pattern.h:
