/* HOST:PORT, the one way to write where a server is or listens: flags, settings, files, messages.
 *
 * HOST is a DNS name, an IPv4 address, or an IPv6 address in brackets, with a zone if need be
 * ([fe80::1%eth0]:7400). The port is never guessed: a library that is given none takes 443, and one
 * that is given 99999 takes 34463. No scheme, no path, no user, no spaces, and no host that is left
 * out: what is wrong is said, with what to write instead.
 */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { ADDRESS_HOST_SIZE = 256, ADDRESS_DEFAULT_PORT = 7400 };

enum address_use {
    ADDRESS_TO_CONNECT, /* port 1 to 65535; not an address that means "everywhere" */
    ADDRESS_TO_LISTEN   /* port 0 picks one; 0.0.0.0 and [::] are every address of this machine */
};

struct address {
    char host[ADDRESS_HOST_SIZE]; /* without brackets, terminated */
    uint16_t port;
    bool ipv4, ipv6; /* host is such an address; neither: a name */
};

/* INVALID, with what to write instead. */
MUST_USE enum status address_parse(const char *text, enum address_use use, struct address *out,
                                   struct error *error);
/* For option tables (`check` in base/options.h). */
MUST_USE enum status address_check_connect(const char *text, struct error *error);
MUST_USE enum status address_check_listen(const char *text, struct error *error);
/* Whether it leads back to this machine, wherever it is used: localhost, 127.0.0.0/8, ::1, and
 * 0.0.0.0 and :: besides. */
bool address_is_local(const struct address *address);

#endif
