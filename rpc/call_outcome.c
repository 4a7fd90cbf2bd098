/* How a call ended, in words (rpc/call_outcome.h): who the peer was, what to check, and what a
 * proxy's refusal means. Delivers on_closed. */
#include "rpc/call_outcome.h"

#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static char *property(const grpc_auth_context *context, const char *name) {
    grpc_auth_property_iterator at = grpc_auth_context_find_properties_by_name(context, name);
    const grpc_auth_property *found = grpc_auth_property_iterator_next(&at);
    /* A value with a zero inside (a name made to look like another one) counts as absent, and so
     * does one of several: a peer has one name. */
    if (!found || !found->value || strlen(found->value) != found->value_length) return xstrdup("");
    if (grpc_auth_property_iterator_next(&at)) return xstrdup("");
    return xstrdup(found->value);
}

void call_find_peer(struct rpc_call *call) {
    grpc_auth_context *context = grpc_call_auth_context(call->core);
    char **texts = call->peer_texts;
    texts[0] = context ? property(context, GRPC_PEER_URI_PROPERTY_NAME) : xstrdup("");
    texts[1] = context ? property(context, GRPC_X509_CN_PROPERTY_NAME) : xstrdup("");
    texts[2] = context ? property(context, GRPC_X509_PEM_CERT_PROPERTY_NAME) : xstrdup("");
    if (context) grpc_auth_context_release(context);
    char *address = grpc_call_get_peer(call->core);
    texts[3] = xstrdup(address ? address : "");
    gpr_free(address);
    /* The handshake lets a certificate through only if the client CA issued it, so having one is
     * being authenticated. */
    call->peer = (struct rpc_peer){
        .authenticated = *texts[2] != 0,
        .uri = texts[0],
        .common_name = texts[1],
        .certificate_pem = texts[2],
        .address = texts[3],
    };
}

/* What the library says when a connection fails, and what a person can do about it. The first that
 * fits counts. Words that are not here are the server's own and need no advice. */
static const struct {
    const char *words, *advice;
} advices[] = {
#define ADVICE_TLS                                                                                 \
    "the TLS handshake failed: check that the root certificate is the one that issued the "        \
    "server's certificate, that this one "                                                         \
    "carries the expected name and is not expired, and the clocks"
#define ADVICE_CLOSED                                                                              \
    "the other side closed the connection: if it does so at once, check that the server's client " \
    "CA issued this side's "                                                                       \
    "certificate and that this one is not expired or revoked"
#define ADVICE_ADDRESS                                                                             \
    "check the address, that the server is running there, and the firewalls between"
    {"empty address list",
     "TLS could not be set up: check that the root certificate is complete PEM"},
    {"andshake", ADVICE_TLS},
    {"SSL", ADVICE_TLS},
    {"Peer name", ADVICE_TLS},
    {"ocket closed", ADVICE_CLOSED},
    {"onnection reset", ADVICE_CLOSED},
    {"roken pipe", ADVICE_CLOSED},
    {"GOAWAY", ADVICE_CLOSED},
    {"goaway", ADVICE_CLOSED},
    {"ndpoint read failed", ADVICE_CLOSED},
    {"failed to connect", ADVICE_ADDRESS},
    {"connections to all backends", ADVICE_ADDRESS},
    {"onnection refused", ADVICE_ADDRESS},
    {"imeout", ADVICE_ADDRESS},
    {"DNS", ADVICE_ADDRESS},
    {"resolution", ADVICE_ADDRESS},
    {"unreachable", ADVICE_ADDRESS},
};

/* A proxy's refusal comes before everything else: nothing after it was ever asked. */
static const char *proxy_advice(unsigned code) {
    switch (code) {
    case 407:
        return "it needs a user name and a password, or different ones: --proxy "
               "http://USER:PASSWORD@HOST:PORT, or ATOLL_PROXY, "
               "which "
               "others "
               "on this machine cannot see";
    case 403:
    case 405:
        return "it does not allow this address: ask its operator to allow CONNECT to this address "
               "and port";
    case 502:
    case 503:
    case 504:
        return "it does not reach the coordinator: check the address, that the coordinator is "
               "running, and the firewalls between";
    default: return "check that it is a proxy for HTTP CONNECT, and its address";
    }
}

static void explain_proxy(const char *address, const char *proxy, const char *details, char *out,
                          size_t size) {
    static const char refused[] = RPC_PROXY_REFUSED;
    const char *found = strstr(details, refused);
    unsigned code = found ? (unsigned)strtoul(found + strlen(refused), NULL, 10) : 0;
    if (found)
        snprintf(out, size, "%s: %s answers %u: %s (%s%u)", address, proxy, code,
                 proxy_advice(code), refused, code);
    else if (strstr(details, "andshake") || strstr(details, "SSL") || strstr(details, "Peer name"))
        snprintf(out, size,
                 "%s through %s: %s; " ADVICE_TLS
                 "; a proxy that opens TLS cannot be used for this address",
                 address, proxy, details);
    else
        snprintf(out, size,
                 "%s through %s: %s; check the proxy's address, that it is running and does HTTP "
                 "CONNECT, and the "
                 "coordinator's address; without a proxy: --proxy none",
                 address, proxy, details);
}

void call_explain(const char *address, const char *proxy, const char *details, char *out,
                  size_t size) {
    for (size_t i = 0; i < COUNT_OF(advices); i++) {
        if (!strstr(details, advices[i].words)) continue;
        if (proxy) {
            explain_proxy(address, proxy, details, out, size);
            return;
        }
        snprintf(out, size, "%s: %s; %s", address, details, advices[i].advice);
        return;
    }
    snprintf(out, size, "%s", details);
}

static void deliver(struct rpc_call *call, enum rpc_code code, const char *message, bool local) {
    struct rpc_outcome outcome = {rpc_status_of(code, message, local), code, message, local};
    if (call->handler->on_closed) call->handler->on_closed(call, call->user, &outcome);
}

static void deliver_client(struct rpc_call *call) {
    enum rpc_code code = (enum rpc_code)call->status_code;
    char *details = grpc_slice_to_c_string(call->status_details);
    bool local = call->cancelled && code == call->cancel_code;
    if (code == RPC_OK && !call->method.server_streaming && !call->got_message) {
        deliver(call, RPC_INTERNAL, "the server said OK and sent no reply", false);
    } else if (!local && (code == RPC_UNAVAILABLE || code == RPC_CANCELLED)) {
        /* A server may choose this code too, with words of its own; the library's are about
         * connections. */
        char text[CALL_REASON_SIZE + 512];
        call_explain(call->address, call->proxy, details, text, sizeof text);
        deliver(call, code, text, false);
    } else {
        deliver(call, code, details, local);
    }
    gpr_free(details);
}

static void deliver_server(struct rpc_call *call) {
    if (call->cancelled) {
        deliver(call, call->cancel_code, call->cancel_reason, true);
    } else if (call->peer_cancelled || !call->finish_sent || call->write_failed) {
        deliver(call, RPC_CANCELLED, "the client went away, or sent a message over the limit",
                false);
    } else {
        deliver(call, call->finish_code, call->finish_message, true);
    }
}

void call_deliver_outcome(struct rpc_call *call) {
    if (call->server)
        deliver_server(call);
    else
        deliver_client(call);
}
