/* OpenSSL's errors, translated in one place. Inside crypto/ only. */
#ifndef CRYPTO_OPENSSL_ERROR_H
#define CRYPTO_OPENSSL_ERROR_H

#include "base/status.h"

/* Empties OpenSSL's per-thread error queue into a message such as "read PEM: no start line (and 1
 * more)" and returns `status`, or FAILED when the queue says that memory ran out. Nothing of the
 * input is quoted: it may be a secret. */
enum status openssl_failed(struct error *error, enum status status, const char *doing);

#endif
