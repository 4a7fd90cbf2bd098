config_keys.o: model/config_keys.c model/config_keys.h base/json.h \
 base/bytes.h base/status.h
model/config_keys.h:
base/json.h:
base/bytes.h:
base/status.h:
