/* Signing and verifying, remembered: both are functions of their arguments alone (Ed25519 draws
 * nothing), and every site of a simulated federation verifies the same contributions. What comes
 * out is exactly what crypto/sign.h gives, which is asked the first time. Nine tenths of a run's
 * time went there.
 *
 * The simulator's copies of the pure cores are compiled with this header in front of everything, so
 * that their calls come here. One thread; bounded: it forgets everything when it is full.
 */
#ifndef SIM_SIGNATURES_H
#define SIM_SIGNATURES_H

#include <stdbool.h>

#include "crypto/sign.h"

MUST_USE enum status remembered_sign(const struct key_pair *key, const char *tag,
                                     struct bytes message, uint8_t signature[static SIGNATURE_SIZE],
                                     struct error *error);
MUST_USE enum status remembered_verify(const uint8_t public_key[static PUBLIC_KEY_SIZE],
                                       const char *tag, struct bytes message,
                                       struct bytes signature, struct error *error);

#ifdef ATOLL_SIMULATED
#define sign_message remembered_sign
#define sign_verify remembered_verify
#endif

#endif
