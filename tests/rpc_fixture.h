/* What the tests of rpc/ share: certificates made on the spot, and a server with a few methods.
 * Static, one copy a test file. */
#ifndef TESTS_RPC_FIXTURE_H
#define TESTS_RPC_FIXTURE_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "rpc/channel.h"
#include "rpc/environment.h"
#include "rpc/server.h"
#include "tests/test.h"

#define UNUSED __attribute__((unused))

/* ---- certificates ---------------------------------------------------------------------------- */

struct identity {
    EVP_PKEY *key;
    X509 *certificate;
    char *chain, *private_key; /* PEM */
};

static char *text_of(BIO *bio) {
    char *data;
    long size = BIO_get_mem_data(bio, &data);
    char *text = xcalloc(1, (size_t)size + 1);
    memcpy(text, data, (size_t)size);
    BIO_free(bio);
    return text;
}

static void extend(X509 *certificate, X509 *issuer, int what, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, what, value);
    CHECK(extension);
    CHECK(X509_add_ext(certificate, extension, -1));
    X509_EXTENSION_free(extension);
}

/* Signs, again after a change, and writes the PEM. */
static void identity_sign(struct identity *identity, const struct identity *issuer) {
    CHECK(X509_sign(identity->certificate, issuer ? issuer->key : identity->key, NULL));
    BIO *bio = BIO_new(BIO_s_mem());
    CHECK(PEM_write_bio_X509(bio, identity->certificate));
    free(identity->chain);
    identity->chain = text_of(bio);
}

/* Ed25519; issuer NULL makes a CA. names: "DNS:…", "URI:…" or NULL. */
static struct identity identity_make(const char *common_name, const char *names,
                                     const struct identity *issuer) {
    static long serial = 1;
    struct identity made = {.key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"),
                            .certificate = X509_new()};
    CHECK(made.key && made.certificate);
    X509_set_version(made.certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made.certificate), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(made.certificate), 86400);
    X509_set_pubkey(made.certificate, made.key);
    X509_NAME *name = X509_get_subject_name(made.certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common_name, -1, -1,
                               0);
    X509 *above = issuer ? issuer->certificate : made.certificate;
    X509_set_issuer_name(made.certificate, X509_get_subject_name(above));
    extend(made.certificate, above, NID_basic_constraints,
           issuer ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (names) extend(made.certificate, above, NID_subject_alt_name, names);
    identity_sign(&made, issuer);
    BIO *bio = BIO_new(BIO_s_mem());
    CHECK(PEM_write_bio_PrivateKey(bio, made.key, NULL, NULL, 0, NULL, NULL));
    made.private_key = text_of(bio);
    return made;
}

static void identity_deinit(struct identity *identity) {
    EVP_PKEY_free(identity->key);
    X509_free(identity->certificate);
    free(identity->chain);
    free(identity->private_key);
}

struct pki {
    struct identity ca, other_ca, server, site, stranger; /* stranger: like site, of the other CA */
};

static struct pki pki_make(void) {
    struct pki pki = {.ca = identity_make("federation", NULL, NULL),
                      .other_ca = identity_make("elsewhere", NULL, NULL)};
    pki.server = identity_make("coordinator", "DNS:atoll-coordinator", &pki.ca);
    pki.site = identity_make("eu-1", "URI:atoll://demo/site/eu-1", &pki.ca);
    pki.stranger = identity_make("eu-1", "URI:atoll://demo/site/eu-1", &pki.other_ca);
    return pki;
}

static void pki_deinit(struct pki *pki) {
    identity_deinit(&pki->ca);
    identity_deinit(&pki->other_ca);
    identity_deinit(&pki->server);
    identity_deinit(&pki->site);
    identity_deinit(&pki->stranger);
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Waits until condition holds, at most 20 s (the test's own deadline is longer). */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        uint64_t until_ = clock_monotonic_ms() + 20000;                                            \
        while (!(condition)) {                                                                     \
            if (clock_monotonic_ms() > until_)                                                     \
                test_failed(__FILE__, __LINE__, "waited 20 s for %s", #condition);                 \
            clock_sleep_ms(1);                                                                     \
        }                                                                                          \
    } while (0)

/* ---- a server's methods ---------------------------------------------------------------------- */

static const struct rpc_method echo_method = {"/test.Echo/One", false, false};
static const struct rpc_method stream_method = {"/test.Echo/Stream", true, true};
static const struct rpc_method who_method = {"/test.Echo/Who", false, false};
static const struct rpc_method deaf_method = {"/test.Echo/Deaf", true, true};

/* One: the request comes back. */
static void echo_one(struct rpc_call *call, void *user, struct buffer *message) {
    (void)user;
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(message));
    CHECK(rpc_call_reply(call, &piece, 1) == OK);
}
static const struct rpc_handler echo_handler UNUSED = {.on_message = echo_one};

/* Stream: each message comes back, the next is asked for when it went out; half-close is answered
 * with OK. */
static void stream_open(struct rpc_call *call, void *user) {
    (void)user;
    rpc_call_read(call);
}
static void stream_message(struct rpc_call *call, void *user, struct buffer *message) {
    (void)user;
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(message));
    enum status status = rpc_call_write(call, &piece, 1);
    CHECK(status == OK || status == CANCELLED);
}
static void stream_half_close(struct rpc_call *call, void *user) {
    (void)user;
    rpc_call_finish(call, RPC_OK, NULL);
}
static const struct rpc_handler stream_handler UNUSED = {.on_open = stream_open,
                                                         .on_message = stream_message,
                                                         .on_writable = stream_open,
                                                         .on_half_close = stream_half_close};

/* Who: "yes|uri|cn|has pem" */
static void who_message(struct rpc_call *call, void *user, struct buffer *message) {
    (void)user, (void)message;
    const struct rpc_peer *peer = rpc_call_peer(call);
    struct buffer text = {0};
    buffer_append_text(&text, "%s|%s|%s|%s", peer->authenticated ? "yes" : "no", peer->uri,
                       peer->common_name,
                       strstr(peer->certificate_pem, "BEGIN CERTIFICATE") ? "pem" : "");
    struct rpc_piece piece = rpc_piece_of(buffer_bytes(&text));
    CHECK(rpc_call_reply(call, &piece, 1) == OK);
    buffer_deinit(&text);
}
static const struct rpc_handler who_handler UNUSED = {.on_message = who_message};

/* What a call at either side went through. */
struct trace {
    atomic_int opened, messages, writable, half_closed, closed;
    atomic_size_t bytes;
    enum status status; /* these, once closed is 1 */
    enum rpc_code code;
    bool local;
    char message[2048];
    struct rpc_call *call; /* with a reference, if keep_call */
    bool keep_call, read_on;
};

static void trace_open(struct rpc_call *call, void *user) {
    struct trace *trace = user;
    if (trace->keep_call) trace->call = rpc_call_retain(call);
    trace->opened++;
    if (trace->read_on) rpc_call_read(call);
}
static void trace_message(struct rpc_call *call, void *user, struct buffer *message) {
    struct trace *trace = user;
    trace->bytes += message->size;
    trace->messages++;
    if (trace->read_on) rpc_call_read(call);
}
static void trace_writable(struct rpc_call *call, void *user) {
    (void)call;
    ((struct trace *)user)->writable++;
}
static void trace_half_close(struct rpc_call *call, void *user) {
    (void)call;
    ((struct trace *)user)->half_closed++;
}
static void trace_closed(struct rpc_call *call, void *user, const struct rpc_outcome *outcome) {
    (void)call;
    struct trace *trace = user;
    CHECK(trace->closed == 0);
    trace->status = outcome->status;
    trace->code = outcome->code;
    trace->local = outcome->local;
    snprintf(trace->message, sizeof trace->message, "%s", outcome->message);
    trace->closed++;
}
/* At the server (opened counts) and at the client alike. */
static const struct rpc_handler trace_handler UNUSED = {.on_open = trace_open,
                                                        .on_message = trace_message,
                                                        .on_writable = trace_writable,
                                                        .on_half_close = trace_half_close,
                                                        .on_closed = trace_closed};

static struct rpc_server_options
server_options(const struct pki *pki, const struct rpc_server_method *methods, size_t count) {
    static const char *const addresses[] = {"127.0.0.1:0"};
    return (struct rpc_server_options){
        .addresses = addresses,
        .address_count = 1,
        .certificate = {pki->server.chain, pki->server.private_key, pki->ca.chain},
        .methods = methods,
        .method_count = count,
        .threads = 2,
    };
}

static struct rpc_channel_options channel_options(const struct pki *pki, uint16_t port) {
    static char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    return (struct rpc_channel_options){
        .address = address,
        .root_ca = pki->ca.chain,
        .chain = pki->site.chain,
        .private_key = pki->site.private_key,
        .server_name = "atoll-coordinator",
    };
}

struct pair { /* a server and a channel to it */
    struct pki pki;
    struct rpc_server *server;
    struct rpc_channel *channel;
};

UNUSED static struct pair pair_open(const struct rpc_server_method *methods, size_t count) {
    struct pair pair = {.pki = pki_make()};
    struct error error = {0};
    struct rpc_server_options server = server_options(&pair.pki, methods, count);
    CHECK_OK(rpc_server_create(&server, &pair.server, &error));
    struct rpc_channel_options channel = channel_options(&pair.pki, rpc_server_port(pair.server));
    CHECK_OK(rpc_channel_open(&channel, &pair.channel, &error));
    return pair;
}

UNUSED static void pair_close(struct pair *pair) {
    rpc_channel_close(pair->channel);
    rpc_server_close(pair->server, 1000);
    pki_deinit(&pair->pki);
}

static const struct rpc_server_method standard_methods[] UNUSED = {
    {.method = {"/test.Echo/One", false, false}, .handler = &echo_handler},
    {.method = {"/test.Echo/Stream", true, true}, .handler = &stream_handler},
    {.method = {"/test.Echo/Who", false, false}, .handler = &who_handler},
};
UNUSED static struct pair standard_pair(void) {
    return pair_open(standard_methods, COUNT_OF(standard_methods));
}

#endif
