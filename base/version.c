/* Compiled with the content of the file VERSION as ATOLL_VERSION. */
#include "base/version.h"

const char atoll_version[] = ATOLL_VERSION;
