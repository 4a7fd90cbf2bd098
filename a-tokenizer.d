tokenizer.o: text/tokenizer.c text/tokenizer.h base/bytes.h base/status.h \
 base/file.h base/json.h base/log.h base/memory.h text/nfc.h \
 text/pattern.h text/tokenizer_internal.h base/random.h
text/tokenizer.h:
base/bytes.h:
base/status.h:
base/file.h:
base/json.h:
base/log.h:
base/memory.h:
text/nfc.h:
text/pattern.h:
text/tokenizer_internal.h:
base/random.h:
