/* A site's directory (node/site.h): reads and writes identity, certificates and manifest.
 * Certificates are checked against the root and the identity at each start. */
#include "node/site.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "model/layout_text.h"
#include "run/run_model.h"

const char site_software[] =
    "atoll-node " ATOLL_VERSION; /* the Makefile gives this file the content of VERSION, too */

enum { SMALL_FILE_LIMIT = 128 * 1024 };

char *site_path(const struct site *site, const char *name) {
    return file_join(site->directory, name);
}

bool site_exists(const char *directory) {
    char *path = file_join(directory, "site.json");
    bool exists = file_exists(path);
    free(path);
    return exists;
}

static enum status read_piece(const struct site *site, const char *name, struct buffer *out,
                              struct error *error) {
    char *path = site_path(site, name);
    enum status status = file_read(path, SMALL_FILE_LIMIT, out, error);
    free(path);
    return status;
}

static enum status parse_identity(struct site *site, struct bytes text, struct error *error) {
    struct json *json = NULL;
    TRY(json_parse(text, NULL, &json, error));
    const struct json_value *root = json_root(json);
    const char *name = NULL, *run_id = NULL, *coordinator_key = NULL;
    uint64_t number = 0;
    (void)!json_get_bool(root, "observes", &site->observes, NULL);
    enum status status = json_get_u64(root, "site", &number, error);
    if (status == OK) status = json_get_text(root, "name", &name, error);
    if (status == OK) status = json_get_text(root, "run_id", &run_id, error);
    if (status == OK) status = json_get_text(root, "coordinator_key", &coordinator_key, error);
    if (status == OK) status = name_check(name, error);
    if (status == OK && (number == 0 || number > UINT32_MAX))
        status = error_set(error, INVALID, "site is not a number");
    if (status == OK) status = hex_decode(run_id, site->run_id, RUN_ID_SIZE, error);
    if (status == OK)
        status = hex_decode(coordinator_key, site->coordinator_key, PUBLIC_KEY_SIZE, error);
    if (status == OK) {
        site->number = (uint32_t)number;
        memcpy(site->name, name, strlen(name) + 1);
    }
    json_close(json);
    return status;
}

/* What is wrong is wrong with that file. */
static enum status named(const char *file, enum status status, struct error *error) {
    return status == OK ? OK : error_wrap(error, status, "%s", file);
}

/* The certificate is for our key, by our CA, and names this run and site. Its dates are the
 * coordinator's to judge. */
static enum status check_certificate(const struct site *site, struct error *error) {
    struct certificate_info info;
    struct identity identity;
    TRY(named("ca.pem", certificate_parse(buffer_bytes(&site->ca_pem), &info, error), error));
    TRY(named("node.pem", certificate_parse(buffer_bytes(&site->certificate_pem), &info, error),
              error));
    TRY(identity_parse(info.uri, &identity, error));
    if (site->key && memcmp(info.public_key, key_pair_public(site->key), PUBLIC_KEY_SIZE) != 0)
        return error_set(error, INVALID, "node.pem is not for the key in node.key");
    if (identity.role != IDENTITY_SITE || identity.site != site->number ||
        memcmp(identity.run_id, site->run_id, RUN_ID_SIZE) != 0)
        return error_set(error, INVALID, "node.pem names %s, site.json another site", info.uri);
    return OK;
}

static enum status read_layout(struct site *site, struct error *error) {
    uint8_t digest[DIGEST_SIZE];
    char *path = site_path(site, "layout");
    enum status status = file_read(path, LAYOUT_TEXT_MAX, &site->layout, error);
    digest_sha256(site->layout.data, site->layout.size, digest);
    if (status == OK && !digest_equal(digest, site->manifest.layout))
        status = error_set(error, CORRUPT, "it was changed");
    if (status != OK && error) error->status = CORRUPT; /* where it is not there, too */
    if (status != OK)
        status = error_wrap(error, CORRUPT,
                            "%s, the list of the run's tensors: put the coordinator's RUN/layout, "
                            "or another site's, in its place",
                            path);
    free(path);
    return status;
}

static enum status load(const char *directory, bool with_key, struct site *out,
                        struct error *error) {
    struct site site = {0};
    struct buffer text = {0}, manifest = {0};
    site.directory = realpath(directory, NULL);
    if (!site.directory)
        return error_set(error, NOT_FOUND, "there is no directory %s: run `atoll-node join` first",
                         directory);
    char *key_path = site_path(&site, "node.key");
    enum status status = read_piece(&site, "site.json", &text, error);
    if (status == NOT_FOUND)
        error_set(error, NOT_FOUND, "%s is not a site's directory yet: run `atoll-node join` first",
                  directory);
    if (status == OK)
        status = named("site.json", parse_identity(&site, buffer_bytes(&text), error), error);
    if (status == OK && with_key) status = key_file_load(key_path, &site.key, error);
    if (status == OK && with_key) status = file_check_private_directory(directory, error);
    if (status == OK && with_key) status = key_pair_to_pem(site.key, &site.key_pem, error);
    if (status == OK && with_key) buffer_u8(&site.key_pem, 0);
    if (status == OK) status = read_piece(&site, "node.pem", &site.certificate_pem, error);
    if (status == OK) status = read_piece(&site, "ca.pem", &site.ca_pem, error);
    if (status == OK) status = check_certificate(&site, error);
    if (status == OK) status = read_piece(&site, "manifest.yaml", &manifest, error);
    if (status == OK)
        status = named("manifest.yaml",
                       manifest_parse(buffer_bytes(&manifest), &site.manifest, error), error);
    if (status == OK) manifest_digest(&site.manifest, site.manifest_digest);
    if (status == OK && run_model_has_layout(&site.manifest)) status = read_layout(&site, error);
    free(key_path);
    buffer_deinit(&text);
    buffer_deinit(&manifest);
    if (status == OK)
        *out = site;
    else
        site_deinit(&site);
    return status == OK || status == NOT_FOUND ? status
                                               : error_wrap(error, status, "%s", directory);
}

enum status site_load(const char *directory, struct site *out, struct error *error) {
    return load(directory, true, out, error);
}

enum status site_load_reading(const char *directory, struct site *out, struct error *error) {
    return load(directory, false, out, error);
}

void site_deinit(struct site *site) {
    free(site->directory);
    key_pair_destroy(site->key);
    free_clearing(site->key_pem.data, site->key_pem.capacity);
    buffer_deinit(&site->certificate_pem);
    buffer_deinit(&site->ca_pem);
    buffer_deinit(&site->layout);
    *site = (struct site){0};
}

static enum status write_piece(const struct site *site, const char *name, struct bytes content,
                               struct error *error) {
    char *path = site_path(site, name);
    enum status status = file_write(path, content, 0644, error);
    free(path);
    return status;
}

enum status site_save(const struct site *site, struct error *error) {
    struct buffer manifest = {0}, json = {0};
    char hex[HEX32_SIZE];
    manifest_write(&site->manifest, &manifest);
    struct json_writer writer = json_writer_of(&json, true);
    json_begin_object(&writer);
    json_key(&writer, "site");
    json_u64(&writer, site->number);
    json_key(&writer, "name");
    json_text(&writer, site->name);
    if (site->observes) json_put_bool(&writer, "observes", true);
    json_key(&writer, "run_id");
    json_text(&writer, hex_encode(site->run_id, RUN_ID_SIZE, hex));
    json_key(&writer, "coordinator_key");
    json_text(&writer, hex_encode(site->coordinator_key, PUBLIC_KEY_SIZE, hex));
    json_end_object(&writer);
    buffer_append_text(&json, "\n");
    enum status status = write_piece(site, "node.pem", buffer_bytes(&site->certificate_pem), error);
    if (status == OK) status = write_piece(site, "ca.pem", buffer_bytes(&site->ca_pem), error);
    if (status == OK) status = write_piece(site, "manifest.yaml", buffer_bytes(&manifest), error);
    if (status == OK && site->layout.size)
        status = write_piece(site, "layout", buffer_bytes(&site->layout), error);
    if (status == OK) status = write_piece(site, "site.json", buffer_bytes(&json), error);
    buffer_deinit(&manifest);
    buffer_deinit(&json);
    return status;
}
