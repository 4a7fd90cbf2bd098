/* Which HTTP CONNECT proxy a channel uses (rpc/proxy.h): parses the setting or the environment's
 * variables, and makes the two channel arguments that gRPC core takes. User name and password are
 * cleared after use and never logged. */
#include "rpc/proxy.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/address.h"
#include "base/memory.h"

enum { USER_MAX = 1024, SHOWN = 100 };

/* ---- the proxy's own words ------------------------------------------------------------------- */

static int hex_digit(char c) {
    const char *digits = "0123456789abcdef",
               *found = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* %XX becomes a byte. Returns the size, or -1. */
static int decode(const char *text, size_t size, char out[static USER_MAX]) {
    int used = 0;
    for (size_t i = 0; i < size; i++) {
        if (used == USER_MAX) return -1;
        if (text[i] != '%') {
            out[used++] = text[i];
            continue;
        }
        int high = i + 2 < size ? hex_digit(text[i + 1]) : -1,
            low = i + 2 < size ? hex_digit(text[i + 2]) : -1;
        if (high < 0 || low < 0) return -1;
        out[used++] = (char)(high << 4 | low);
        i += 2;
    }
    return used;
}

static char *base64(const char *text, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = xcalloc((size + 2) / 3 * 4 + 1, 1), *at = out;
    for (size_t i = 0; i < size; i += 3) {
        uint32_t three = (uint32_t)(uint8_t)text[i] << 16;
        if (i + 1 < size) three |= (uint32_t)(uint8_t)text[i + 1] << 8;
        if (i + 2 < size) three |= (uint8_t)text[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6) *at++ = digits[three >> shift & 63];
    }
    if (size % 3 > 0) at[-1] = '=';
    if (size % 3 == 1) at[-2] = '=';
    return out;
}

static enum status make_header(const char *credentials, size_t size, char **out,
                               struct error *error) {
    char both[2 * USER_MAX + 1], part[USER_MAX];
    const char *colon = memchr(credentials, ':', size);
    size_t user_size = colon ? (size_t)(colon - credentials) : size;
    int user = decode(credentials, user_size, part);
    enum status status = OK;
    if (user < 0 || memchr(part, ':', (size_t)user) || memchr(part, 0, (size_t)user)) goto wrong;
    memcpy(both, part, (size_t)user);
    both[user] = ':';
    int password = colon ? decode(colon + 1, size - user_size - 1, part) : 0;
    if (password < 0) goto wrong;
    memcpy(both + user + 1, part, (size_t)password);
    char *text = base64(both, (size_t)(user + 1 + password));
    *out = xformat("Proxy-Authorization:Basic %s", text);
    free_clearing(text, strlen(text));
    goto out;
wrong:
    status = error_set(error, INVALID,
                       "the proxy's user name or password cannot be read: write : @ / and %% in "
                       "them as %%3A %%40 %%2F and %%25");
out:
    clear(both, sizeof both);
    clear(part, sizeof part);
    return status;
}

static bool begins_with(const char *text, const char *prefix) {
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

static enum status parse(const char *text, struct rpc_proxy *out, struct error *error) {
    const char *scheme = strstr(text, "://");
    if (scheme && !begins_with(text, "http://"))
        return error_set(error, INVALID,
                         "a proxy by %.*s is not supported: write http://HOST:PORT of a proxy that "
                         "does HTTP CONNECT",
                         (int)MIN(scheme - text, 20), text);
    const char *rest = scheme ? scheme + 3 : text, *at = strrchr(rest, '@');
    const char *host = at ? at + 1 : rest;
    size_t size = strcspn(host, "/?#");
    if (host[size] && strcmp(host + size, "/") != 0)
        return error_set(error, INVALID,
                         "the proxy %.*s has a path after the port: write http://HOST:PORT", SHOWN,
                         host);
    struct rpc_proxy proxy = {.address = xformat("%.*s", (int)size, host)};
    struct address address;
    enum status status = address_parse(proxy.address, ADDRESS_TO_CONNECT, &address, error);
    if (status != OK) error_wrap(error, status, "the proxy is http://HOST:PORT");
    if (status == OK && at) status = make_header(rest, (size_t)(at - rest), &proxy.header, error);
    if (status == OK)
        *out = proxy;
    else
        rpc_proxy_deinit(&proxy);
    return status;
}

enum status rpc_proxy_check(const char *setting, struct error *error) {
    struct rpc_proxy proxy = {0};
    if (strcmp(setting, RPC_PROXY_NONE) == 0) return OK;
    enum status status = parse(setting, &proxy, error);
    rpc_proxy_deinit(&proxy);
    return status;
}

void rpc_proxy_deinit(struct rpc_proxy *proxy) {
    free(proxy->address);
    free(proxy->described);
    if (proxy->header) free_clearing(proxy->header, strlen(proxy->header));
    *proxy = (struct rpc_proxy){0};
}

/* ---- whom it is not for ---------------------------------------------------------------------- */

/* "10.0.0.0/8", "fd00::/8": whether the address is in it. */
static bool in_network(const struct address *server, const char *network, size_t size) {
    char text[64];
    uint8_t base[16], host[16];
    if (size >= sizeof text || !(server->ipv4 || server->ipv6)) return false;
    memcpy(text, network, size);
    text[size] = 0;
    char *slash = strchr(text, '/'), *end = NULL;
    if (!slash) return false;
    *slash = 0;
    int family = server->ipv4 ? AF_INET : AF_INET6;
    unsigned long bits = strtoul(slash + 1, &end, 10), most = server->ipv4 ? 32 : 128;
    if (end == slash + 1 || *end || bits > most) return false;
    if (inet_pton(family, text, base) != 1 || inet_pton(family, server->host, host) != 1)
        return false;
    for (unsigned long i = 0; i < bits; i++) {
        if (((base[i / 8] ^ host[i / 8]) >> (7 - i % 8)) & 1) return false;
    }
    return true;
}

static bool is_named(const struct address *server, const char *item, size_t size) {
    if (size == 1 && *item == '*') return true;
    if (in_network(server, item, size)) return true;
    const char *colon = memchr(item, ':', size), *end = item + size;
    if (*item == '[') { /* an IPv6 address, with a port */
        const char *bracket = memchr(item, ']', size);
        if (!bracket) return false;
        colon = bracket + 1 < end ? bracket + 1 : NULL;
        item++;
        size = (size_t)(bracket - item);
    } else if (colon && !memchr(colon + 1, ':', (size_t)(end - colon - 1))) {
        size = (size_t)(colon - item);
    } else {
        colon = NULL;
    }
    if (colon && strtoul(colon + 1, NULL, 10) != server->port) return false;
    if (size > 1 && *item == '*' && item[1] == '.') item++, size--;
    /* .example and example are the same: that name and all below it */
    if (size > 0 && *item == '.') item++, size--;
    if (server->ipv6) {
        char text[64] = "";
        uint8_t a[16], b[16];
        if (size < sizeof text) memcpy(text, item, size);
        return inet_pton(AF_INET6, text, a) == 1 && inet_pton(AF_INET6, server->host, b) == 1 &&
               memcmp(a, b, sizeof a) == 0;
    }
    size_t length = strlen(server->host);
    if (length > 0 && server->host[length - 1] == '.') length--;
    if (size == 0 || size > length || strncasecmp(server->host + length - size, item, size) != 0)
        return false;
    return size == length || (!server->ipv4 && server->host[length - size - 1] == '.');
}

static bool is_exempt(const struct address *server, const char *list) {
    while (list && *list) {
        size_t size = strcspn(list, ", \t");
        if (size > 0 && is_named(server, list, size)) return true;
        list += size + (list[size] != 0);
    }
    return false;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static const char *first_of(char *const *environment, const char *const *names,
                            const char **found) {
    for (; *names; names++) {
        size_t size = strlen(*names);
        for (char *const *at = environment; at && *at; at++) {
            if (strncmp(*at, *names, size) != 0 || (*at)[size] != '=' || (*at)[size + 1] == 0)
                continue;
            *found = *names;
            return *at + size + 1;
        }
    }
    return NULL;
}

enum status rpc_proxy_choose(const char *setting, const char *server, char *const *environment,
                             struct rpc_proxy *out, struct error *error) {
    static const char *const proxies[] = {"grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy",
                                          NULL};
    static const char *const exempt[] = {"no_grpc_proxy", "no_proxy", "NO_PROXY", NULL};
    const char *source = "--proxy", *ignored = NULL, *text = setting && *setting ? setting : NULL;
    struct rpc_proxy proxy = {0};
    struct address target, own;
    *out = proxy;
    if (text && strcmp(text, RPC_PROXY_NONE) == 0) return OK;
    TRY(address_parse(server, ADDRESS_TO_CONNECT, &target, error));
    bool from_environment = !text;
    if (from_environment) {
        text = first_of(environment, proxies, &source);
        if (!text || is_exempt(&target, first_of(environment, exempt, &ignored))) return OK;
    }
    enum status status = parse(text, &proxy, error);
    if (status != OK) return error_wrap(error, status, "%s", source);
    TRY(address_parse(proxy.address, ADDRESS_TO_CONNECT, &own, error));
    if (from_environment && address_is_local(&target) && !address_is_local(&own)) {
        rpc_proxy_deinit(&proxy);
        return OK;
    }
    proxy.described =
        xformat("the proxy http://%s%s%s%s", proxy.address, from_environment ? " (from " : "",
                from_environment ? source : "", from_environment ? ")" : "");
    *out = proxy;
    return OK;
}
