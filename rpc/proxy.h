/* Which forward proxy a channel goes through, if any: HTTP CONNECT (RFC 9110, section 9.3.6), then
 * TLS to the server inside it.
 *
 * A setting outranks the environment: "none" means no proxy, anything else is one:
 * http://[USER[:PASSWORD]@]HOST:PORT, where %XX in USER and PASSWORD stands for a byte. Without a
 * setting the variables decide that other programs follow: the first of grpc_proxy, https_proxy,
 * HTTPS_PROXY, http_proxy that is not empty, unless the first of no_grpc_proxy, no_proxy, NO_PROXY
 * names the server: a list of names (with all below them), addresses, networks (10.0.0.0/8), each
 * with a port if need be, or *. A server on this machine is reached through a proxy from the
 * environment only if that is on this machine too: 127.0.0.1 is another machine there.
 *
 * The password is a secret: it stands in `header` alone, and in no message.
 */
#ifndef RPC_PROXY_H
#define RPC_PROXY_H

#include "base/status.h"

#define RPC_PROXY_NONE "none"

struct rpc_proxy {   /* all NULL: no proxy */
    char *address;   /* HOST:PORT of the proxy */
    char *header;    /* "Proxy-Authorization:Basic ...", secret; NULL: none */
    char *described; /* "the proxy http://proxy.example:3128 (from https_proxy)", for messages */
};

/* For option tables (`check` in base/options.h). */
MUST_USE enum status rpc_proxy_check(const char *setting, struct error *error);
/* `setting` and `environment` may be NULL. INVALID: what was found is not a proxy of that kind; the
 * message names its source. */
MUST_USE enum status rpc_proxy_choose(const char *setting, const char *server,
                                      char *const *environment, struct rpc_proxy *out,
                                      struct error *error);
void rpc_proxy_deinit(struct rpc_proxy *proxy); /* a zeroed one is a no-op */

#endif
