/* HOST:PORT (base/address.h): splits the text, checks host and port apart, and names what was
 * pasted around them (a scheme, a path, a user, spaces). Pure: nothing is looked up; a name is
 * resolved by the caller that connects. */
#include "base/address.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum { LABEL_MAX = 63, SHOWN = 100 };

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

static bool is_ipv6(const char *text) {
    struct in6_addr room;
    return inet_pton(AF_INET6, text, &room) == 1;
}

/* Digits and dots alone: an IPv4 address, or nothing. */
static bool looks_numeric(const char *host) { return host[strspn(host, DIGITS ".")] == 0; }

static enum status check_name(const char *host, const char *text, struct error *error) {
    for (const char *label = host; *label;) {
        size_t size = strcspn(label, ".");
        bool last = label[size] == 0;
        if (size == 0 || size > LABEL_MAX || *label == '-' || label[size - 1] == '-')
            return error_set(error, INVALID, "\"%.*s\": \"%.*s\" is not the name of a host", SHOWN,
                             text, SHOWN, host);
        label += size + !last;
    }
    return OK;
}

/* What people paste in front of HOST:PORT, or leave around it. */
static enum status check_form(const char *text, struct error *error) {
    const char *scheme = strstr(text, "://");
    if (*text == 0) return error_set(error, INVALID, "the address is empty: write HOST:PORT");
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return error_set(error, INVALID,
                             "\"%.*s\" has a space or a control character in it: write HOST:PORT",
                             SHOWN, text);
        if ((unsigned char)*c >= 0x80)
            return error_set(
                error, INVALID,
                "\"%.*s\" has letters beyond ASCII: write the name's xn-- form, or the IP address",
                SHOWN, text);
    }
    if (scheme)
        return error_set(error, INVALID, "\"%.*s\" begins with %.*s: write HOST:PORT alone", SHOWN,
                         text, (int)(scheme + 3 - text), text);
    if (strncasecmp(text, "unix:", 5) == 0 || strncasecmp(text, "dns:", 4) == 0 ||
        strncasecmp(text, "ipv4:", 5) == 0 || strncasecmp(text, "ipv6:", 5) == 0)
        return error_set(error, INVALID, "\"%.*s\" begins with %.*s: write HOST:PORT alone", SHOWN,
                         text, (int)(strcspn(text, ":") + 1), text);
    if (strchr(text, '@'))
        return error_set(error, INVALID, "\"%.*s\" has an @ in it: write HOST:PORT alone", SHOWN,
                         text);
    if (strpbrk(text, "/?#"))
        return error_set(error, INVALID, "\"%.*s\" has a path after the port: write only HOST:PORT",
                         SHOWN, text);
    return OK;
}

/* Splits into host and port; `*port` points into text, or is NULL where there is none. */
static enum status split(const char *text, struct address *out, const char **port,
                         struct error *error) {
    const char *end;
    if (*text == '[') {
        end = strchr(text, ']');
        if (!end)
            return error_set(error, INVALID, "\"%.*s\": the bracket is not closed", SHOWN, text);
        if (end[1] != 0 && end[1] != ':')
            return error_set(error, INVALID, "\"%.*s\": after the bracket comes :PORT", SHOWN,
                             text);
        text++;
        *port = end[1] == ':' ? end + 2 : NULL;
        out->ipv6 = true;
    } else {
        end = strchr(text, ':');
        if (end && strchr(end + 1, ':')) {
            if (is_ipv6(text))
                return error_set(error, INVALID,
                                 "\"%.*s\": an IPv6 address stands in brackets: [%.*s]:%d", SHOWN,
                                 text, SHOWN, text, ADDRESS_DEFAULT_PORT);
            return error_set(error, INVALID,
                             "\"%.*s\" has more than one colon: write HOST:PORT, an IPv6 address "
                             "in brackets ([2001:db8::1]:%d)",
                             SHOWN, text, ADDRESS_DEFAULT_PORT);
        }
        *port = end ? end + 1 : NULL;
        if (!end) end = text + strlen(text);
    }
    size_t size = (size_t)(end - text);
    if (size >= sizeof out->host || (!out->ipv6 && size > 253 + 1))
        return error_set(error, INVALID, "\"%.40s...\": a host's name has at most 253 characters",
                         text);
    memcpy(out->host, text, size);
    out->host[size] = 0;
    return OK;
}

static enum status check_host(struct address *address, const char *text, enum address_use use,
                              struct error *error) {
    struct in_addr room;
    char *host = address->host;
    if (*host == 0)
        return error_set(error, INVALID, "\"%.*s\" names no host: write %s", SHOWN, text,
                         use == ADDRESS_TO_LISTEN
                             ? "0.0.0.0:PORT for every IPv4 address, [::]:PORT for every address"
                             : "HOST:PORT");
    if (strcmp(host, "*") == 0)
        return error_set(
            error, INVALID,
            "\"%.*s\": write 0.0.0.0:PORT for every IPv4 address, [::]:PORT for every address",
            SHOWN, text);
    if (address->ipv6) {
        char *zone = strchr(host, '%');
        bool named = !zone || (zone[1] && zone[1 + strspn(zone + 1, LETTERS DIGITS "._-")] == 0);
        if (zone) *zone = 0;
        bool good = is_ipv6(host);
        if (zone) *zone = '%';
        if (good && named) return OK;
        return error_set(error, INVALID, "\"%.*s\": in the brackets is not an IPv6 address", SHOWN,
                         text);
    }
    if (!strchr(text, ':') && !strchr(text, '.') && looks_numeric(host))
        return error_set(error, INVALID, "\"%.*s\" names no host: write HOST:%.*s", SHOWN, text,
                         SHOWN, text);
    if (looks_numeric(host)) {
        address->ipv4 = inet_pton(AF_INET, host, &room) == 1;
        if (address->ipv4) return OK;
        return error_set(error, INVALID, "\"%.*s\": %.*s is not an IPv4 address", SHOWN, text,
                         SHOWN, host);
    }
    size_t good = strspn(host, LETTERS DIGITS "-_.");
    if (host[good] != 0)
        return error_set(error, INVALID, "\"%.*s\": '%c' cannot be in the name of a host", SHOWN,
                         text, host[good]);
    return check_name(host, text, error);
}

static enum status check_port(struct address *address, const char *text, const char *port,
                              enum address_use use, struct error *error) {
    const char *open = address->ipv6 ? "[" : "", *close = address->ipv6 ? "]" : "";
    if (!port || *port == 0)
        return error_set(error, INVALID,
                         "\"%.*s\" has no port: write %s%.*s%s:%d, or the port it has", SHOWN, text,
                         open, SHOWN, address->host, close, ADDRESS_DEFAULT_PORT);
    unsigned long value = 0;
    size_t size = strspn(port, DIGITS);
    for (size_t i = 0; i < size && value <= UINT16_MAX; i++)
        value = value * 10 + (unsigned long)(port[i] - '0');
    if (port[size] != 0)
        return error_set(error, INVALID, "\"%.*s\": the port is not a number", SHOWN, text);
    if (value > UINT16_MAX || (value == 0 && use == ADDRESS_TO_CONNECT))
        return error_set(error, INVALID, "\"%.*s\": a port is a number from %d to 65535", SHOWN,
                         text, use == ADDRESS_TO_CONNECT ? 1 : 0);
    address->port = (uint16_t)value;
    return OK;
}

static bool is_everywhere(const struct address *address) {
    struct in6_addr six;
    return strcmp(address->host, "0.0.0.0") == 0 ||
           (address->ipv6 && inet_pton(AF_INET6, address->host, &six) == 1 &&
            IN6_IS_ADDR_UNSPECIFIED(&six));
}

enum status address_parse(const char *text, enum address_use use, struct address *out,
                          struct error *error) {
    struct address address = {0};
    const char *port = NULL;
    TRY(check_form(text, error));
    TRY(split(text, &address, &port, error));
    TRY(check_host(&address, text, use, error));
    TRY(check_port(&address, text, port, use, error));
    if (use == ADDRESS_TO_CONNECT && is_everywhere(&address))
        return error_set(error, INVALID,
                         "\"%.*s\" is for listening: write the address of the machine that listens",
                         SHOWN, text);
    *out = address;
    return OK;
}

enum status address_check_connect(const char *text, struct error *error) {
    struct address address;
    return address_parse(text, ADDRESS_TO_CONNECT, &address, error);
}

enum status address_check_listen(const char *text, struct error *error) {
    struct address address;
    return address_parse(text, ADDRESS_TO_LISTEN, &address, error);
}

bool address_is_local(const struct address *address) {
    struct in_addr four;
    struct in6_addr six;
    if (is_everywhere(address)) return true;
    if (address->ipv4)
        return inet_pton(AF_INET, address->host, &four) == 1 && (ntohl(four.s_addr) >> 24) == 127;
    if (address->ipv6) {
        if (inet_pton(AF_INET6, address->host, &six) != 1) return false; /* with a zone */
        if (IN6_IS_ADDR_V4MAPPED(&six)) return six.s6_addr[12] == 127;
        return IN6_IS_ADDR_LOOPBACK(&six);
    }
    size_t size = strlen(address->host);
    if (size > 0 && address->host[size - 1] == '.') size--;
    return (size == 9 && strncasecmp(address->host, "localhost", 9) == 0) ||
           (size > 10 && strncasecmp(address->host + size - 10, ".localhost", 10) == 0);
}
