codec_topk2_test.o: tests/codec_topk2_test.c base/memory.h base/status.h \
 base/random.h codec/codec.h base/bytes.h tests/test.h
base/memory.h:
base/status.h:
base/random.h:
codec/codec.h:
base/bytes.h:
tests/test.h:
