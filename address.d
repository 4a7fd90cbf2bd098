address.o: base/address.c base/address.h base/status.h
base/address.h:
base/status.h:
