kernels_choice_test.o: tests/kernels_choice_test.c kernels/choice.h \
 kernels/kernels.h base/status.h base/file.h base/bytes.h base/memory.h \
 model/kernels_kept.h tests/test.h
kernels/choice.h:
kernels/kernels.h:
base/status.h:
base/file.h:
base/bytes.h:
base/memory.h:
model/kernels_kept.h:
tests/test.h:
