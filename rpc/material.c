/* The certificate, key and root that listeners show (rpc/listener.h). Checked by opening and
 * closing a trial server, kept under a mutex, cleared before they are freed. */
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "rpc/listener.h"

static grpc_ssl_server_certificate_config *
config_of(const struct rpc_server_certificate *certificate) {
    grpc_ssl_pem_key_cert_pair pair = {certificate->private_key, certificate->chain};
    return grpc_ssl_server_certificate_config_create(certificate->client_ca, &pair, 1);
}

static bool is_pem(const char *text) { return text && strstr(text, "-----BEGIN"); }

/* The library finds fault with a certificate only when a port is opened with it; so one is, on
 * loopback, without listening. */
enum status material_check(const struct rpc_server_certificate *certificate, const char *whose,
                           struct error *error) {
    if (!is_pem(certificate->chain))
        return error_set(error, INVALID, "the %s certificate chain is not PEM", whose);
    if (!is_pem(certificate->private_key))
        return error_set(error, INVALID, "the %s private key is not PEM", whose);
    if (certificate->client_ca && !is_pem(certificate->client_ca))
        return error_set(error, INVALID, "the CA certificate is not PEM");
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server *core = grpc_server_create(NULL, NULL);
    grpc_server_register_completion_queue(core, queue, NULL);
    grpc_server_credentials *credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config(
            GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY, config_of(certificate)));
    int port = grpc_server_add_http2_port(core, "127.0.0.1:0", credentials);
    grpc_server_credentials_release(credentials);
    grpc_server_shutdown_and_notify(core, queue, NULL);
    grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    grpc_server_destroy(core);
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {}
    grpc_completion_queue_destroy(queue);
    if (port > 0) return OK;
    return error_set(error, INVALID,
                     "TLS cannot use the %s certificate: check that chain, private key and CA are "
                     "complete PEM and that the key "
                     "belongs to the first certificate of the chain",
                     whose);
}

static void wipe(struct material *material) {
    free(material->chain);
    free(material->client_ca);
    if (material->private_key) free_clearing(material->private_key, strlen(material->private_key));
}

void material_init(struct material *material, const struct rpc_server_certificate *certificate) {
    *material = (struct material){0};
    pthread_mutex_init(&material->lock, NULL);
    material_set(material, certificate);
}

void material_set(struct material *material, const struct rpc_server_certificate *certificate) {
    pthread_mutex_lock(&material->lock);
    wipe(material);
    material->chain = xstrdup(certificate->chain);
    material->private_key = xstrdup(certificate->private_key);
    material->client_ca = certificate->client_ca ? xstrdup(certificate->client_ca) : NULL;
    material->generation++;
    pthread_mutex_unlock(&material->lock);
}

void material_deinit(struct material *material) {
    wipe(material);
    pthread_mutex_destroy(&material->lock);
}
