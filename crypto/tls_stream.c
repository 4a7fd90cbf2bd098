/* TLS by a shared secret, without waiting (crypto/tls_stream.h). */
#include "crypto/tls_stream.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>

#include "base/memory.h"
#include "crypto/openssl_error.h"

#define IDENTITY "atoll relay 1"
#define CIPHER "TLS_AES_128_GCM_SHA256"
static const unsigned char cipher_code[2] = {0x13, 0x01};

struct tls_context {
    SSL_CTX *library;
    bool is_server;
    uint8_t secret[TLS_SECRET_SIZE];
};

struct tls_stream {
    SSL *library;
    bool done;
};

/* ---- the key --------------------------------------------------------------------------------- */

static SSL_SESSION *session_of(SSL *library) {
    const struct tls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(library));
    SSL_SESSION *session = SSL_SESSION_new();
    const SSL_CIPHER *cipher = SSL_CIPHER_find(library, cipher_code);
    if (session && cipher &&
        SSL_SESSION_set1_master_key(session, context->secret, TLS_SECRET_SIZE) &&
        SSL_SESSION_set_cipher(session, cipher) &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int give_key(SSL *library, const EVP_MD *digest, const unsigned char **identity,
                    size_t *size, SSL_SESSION **out) {
    (void)digest; /* the one cipher there is has the session's */
    *identity = (const unsigned char *)IDENTITY;
    *size = sizeof IDENTITY - 1;
    *out = session_of(library);
    return *out != NULL;
}

static int find_key(SSL *library, const unsigned char *identity, size_t size, SSL_SESSION **out) {
    *out = NULL;
    if (size == sizeof IDENTITY - 1 && memcmp(identity, IDENTITY, size) == 0)
        *out = session_of(library);
    return 1;
}

/* ---- what streams have in common ------------------------------------------------------------- */

enum status tls_context_create(const uint8_t secret[static TLS_SECRET_SIZE], bool is_server,
                               struct tls_context **out, struct error *error) {
    struct tls_context *context = xcalloc(1, sizeof *context);
    context->is_server = is_server;
    memcpy(context->secret, secret, TLS_SECRET_SIZE);
    SSL_CTX *library = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    context->library = library;
    if (!library || SSL_CTX_set_min_proto_version(library, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(library, CIPHER) != 1 ||
        SSL_CTX_set_num_tickets(library, 0) != 1) {
        tls_context_destroy(context);
        return openssl_failed(error, FAILED, "make a TLS context");
    }
    SSL_CTX_set_app_data(library, context);
    SSL_CTX_set_options(library, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(library, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(library, SSL_SESS_CACHE_OFF);
    if (is_server) {
        SSL_CTX_set_psk_find_session_callback(library, find_key);
    } else {
        /* a server that shows a certificate in place of the key is refused: none is trusted */
        SSL_CTX_set_verify(library, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_psk_use_session_callback(library, give_key);
    }
    *out = context;
    return OK;
}

void tls_context_destroy(struct tls_context *context) {
    if (!context) return;
    SSL_CTX_free(context->library);
    free_clearing(context, sizeof *context);
}

/* ---- a stream -------------------------------------------------------------------------------- */

enum status tls_stream_create(struct tls_context *context, int descriptor, struct tls_stream **out,
                              struct error *error) {
    struct tls_stream *stream = xcalloc(1, sizeof *stream);
    stream->library = SSL_new(context->library);
    if (!stream->library || SSL_set_fd(stream->library, descriptor) != 1) {
        tls_stream_destroy(stream);
        return openssl_failed(error, FAILED, "make a TLS stream");
    }
    if (context->is_server)
        SSL_set_accept_state(stream->library);
    else
        SSL_set_connect_state(stream->library);
    *out = stream;
    return OK;
}

void tls_stream_destroy(struct tls_stream *stream) {
    if (!stream) return;
    SSL_free(stream->library);
    free(stream);
}

/* OK: it has to wait. */
static enum status why_not(struct tls_stream *stream, int result, struct error *error) {
    int number = errno;
    switch (SSL_get_error(stream->library, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: return OK;
    case SSL_ERROR_ZERO_RETURN: return error_set(error, UNAVAILABLE, "the connection has ended");
    case SSL_ERROR_SYSCALL:
        ERR_clear_error();
        return error_set(error, UNAVAILABLE, "the connection has ended%s%s", number ? ": " : "",
                         number ? strerror(number) : "");
    default: break;
    }
    if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        ERR_clear_error();
        return error_set(error, UNAVAILABLE, "the connection has ended");
    }
    return openssl_failed(error, stream->done ? INVALID : REFUSED,
                          stream->done ? "what came is not of this connection"
                                       : "no handshake: the other end has another token, or is "
                                         "something else");
}

enum status tls_stream_handshake(struct tls_stream *stream, bool *done, struct error *error) {
    *done = false;
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(stream->library);
    if (result != 1) return why_not(stream, result, error);
    if (!SSL_session_reused(stream->library)) /* the key was not what it rests on */
        return error_set(error, REFUSED, "the other end does not have the token");
    stream->done = *done = true;
    return OK;
}

enum status tls_stream_read(struct tls_stream *stream, void *out, size_t size, size_t *got,
                            struct error *error) {
    *got = 0;
    ERR_clear_error();
    errno = 0;
    int result = SSL_read_ex(stream->library, out, size, got);
    return result == 1 ? OK : why_not(stream, result, error);
}

enum status tls_stream_write(struct tls_stream *stream, const void *data, size_t size,
                             size_t *taken, struct error *error) {
    *taken = 0;
    ERR_clear_error();
    errno = 0;
    int result = SSL_write_ex(stream->library, data, size, taken);
    return result == 1 ? OK : why_not(stream, result, error);
}

bool tls_stream_holds_bytes(const struct tls_stream *stream) {
    return SSL_has_pending(stream->library) == 1;
}
