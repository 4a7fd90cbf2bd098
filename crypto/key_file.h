/* Private keys on disk: PEM PKCS#8, mode 0600, one key per file; Ed25519, except a server's TLS
 * key.
 *
 * A key file is an identity: it is written durably before its public half is told to anybody, never
 * overwritten, and not accepted when others may read it. The same format is read and written by
 * `openssl pkey`.
 */
#ifndef CRYPTO_KEY_FILE_H
#define CRYPTO_KEY_FILE_H

#include <stdbool.h>

#include "base/bytes.h"
#include "crypto/sign.h"

enum { KEY_FILE_SIZE_MAX = 4096 };

/* NOT_FOUND; INVALID if group or others have any access (the message says the chmod), if it is
 * owned by another user than this process's or root, if it is larger than KEY_FILE_SIZE_MAX or
 * holds anything but one Ed25519 key. */
MUST_USE enum status key_file_load(const char *path, struct key_pair **out, struct error *error);
/* Appends the file's bytes, a secret, to *out: for a key that only a library reads, such as a
 * server's TLS key. Statuses as above, except that its kind is not looked at. any_owner: for a
 * program that a person runs on keys named in the call, be it as root on a user's. */
MUST_USE enum status key_file_read(const char *path, bool any_owner, struct buffer *out,
                                   struct error *error);
/* INVALID if something of that name is there already. FULL if the disk is. Durable when it returns.
 */
MUST_USE enum status key_file_save(const char *path, const struct key_pair *key,
                                   struct error *error);
/* Loads it, or creates and saves one where there is none; *created says which. */
MUST_USE enum status key_file_open(const char *path, struct key_pair **out, bool *created,
                                   struct error *error);

#endif
