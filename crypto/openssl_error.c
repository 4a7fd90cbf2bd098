/* Turns OpenSSL's error queue into a status and a text, and empties it (crypto/openssl_error.h). */
#include "crypto/openssl_error.h"

#include <openssl/err.h>

enum status openssl_failed(struct error *error, enum status status, const char *doing) {
    unsigned long first = ERR_get_error();
    unsigned more = 0;
    for (unsigned long next = first; next != 0; next = ERR_get_error()) {
        if (ERR_GET_REASON(next) == ERR_R_MALLOC_FAILURE) status = FAILED;
        if (next != first) more++;
    }
    if (!first) return error_set(error, status, "%s", doing);
    const char *reason = ERR_reason_error_string(first);
    char number[32];
    if (!reason) ERR_error_string_n(first, number, sizeof number);
    if (more)
        return error_set(error, status, "%s: %s (and %u more)", doing, reason ? reason : number,
                         more);
    return error_set(error, status, "%s: %s", doing, reason ? reason : number);
}
