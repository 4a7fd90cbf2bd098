schedule.o: model/schedule.c model/schedule.h base/status.h
model/schedule.h:
base/status.h:
