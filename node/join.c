/* `atoll-node join` (node/join.h): one call to the coordinator, a look at the data first, then the
 * site's directory, site.json last. */
#include "node/join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "crypto/certificate.h"
#include "fed/ledger.h"
#include "node/site.h"
#include "proto/messages.h"
#include "proto/service.h"
#include "rpc/channel.h"

enum {
    JOIN_TIMEOUT_MS = 30000,
    JOIN_RETRY_MS = 500,
    JOIN_PAUSE_LIMIT_MS = 5000,
    STOP_LIMIT_S = 30,
    CLOCK_APART_MS = 5 * 60 * 1000
};

static const char *advice(uint32_t code) {
    switch (code) {
    case JOIN_SECRET:
        return "the token does not belong to any invitation of this run: ask the admin for another";
    case JOIN_EXPIRED: return "the invitation has expired: ask the admin for another";
    case JOIN_USED:
        return "the invitation was used by another key: if that was not you, tell the admin at "
               "once";
    case JOIN_VOID:
        return "the invitation holds no more: use the newest one of this site's name, or ask the "
               "admin for it";
    case JOIN_NAME: return "the invitation is for another name";
    case JOIN_CSR: return "the coordinator does not take this key: delete node.key and try again";
    case JOIN_PROTOCOL: return "this build and the coordinator have no protocol in common: update";
    case JOIN_STOPPED: return "the run has ended";
    case JOIN_BUSY: return "the coordinator is busy: try again";
    default: return "";
    }
}

/* Gives a failure another status, and words before its own. */
static enum status turn(struct error *error, enum status status, const char *words) {
    error->status = status;
    return error_wrap(error, status, "%s", words);
}

/* Asks until somebody answers: the coordinator may be starting, coming back, or have no room among
 * strangers for one more. Who answers with another certificate than the token names will do so
 * again. */
static enum status ask(struct rpc_channel *channel, struct bytes request, struct buffer *raw,
                       struct error *error) {
    uint64_t end = clock_monotonic_ms() + JOIN_TIMEOUT_MS;
    for (;;) {
        struct rpc_call_options how = {.progress_timeout_ms = JOIN_TIMEOUT_MS};
        enum status status = rpc_channel_unary_wait(channel, service_path(METHOD_JOIN), &how,
                                                    request, raw, NULL, error);
        if (status != UNAVAILABLE && status != FULL) return status;
        if (rpc_is_distrust(error->message)) {
            char words[200], here[CERTIFICATE_TIME_SIZE];
            snprintf(words, sizeof words,
                     "the invitation does not belong to the coordinator at this address, or was "
                     "not copied whole, or this "
                     "machine's clock is "
                     "wrong (it says %s)",
                     certificate_time_text(clock_wall_ms() / 1000, here));
            return turn(error, REFUSED, words);
        }
        if (rpc_is_proxy_refusal(error->message))
            return turn(error, REFUSED, "the coordinator cannot be reached");
        if (clock_monotonic_ms() + JOIN_RETRY_MS > end) {
            char words[32];
            snprintf(words, sizeof words, "after %d s", JOIN_TIMEOUT_MS / 1000);
            return turn(error, TIMEOUT, words);
        }
        clock_sleep_ms(JOIN_RETRY_MS);
    }
}

static enum status call(const struct join_setup *setup, bool look,
                        const struct invitation *invitation, const struct key_pair *key,
                        struct arena *arena, struct buffer *raw, struct join_reply *reply,
                        struct error *error) {
    struct rpc_channel *channel = NULL;
    struct buffer ca_pem = {0}, csr = {0}, request = {0};
    enum status status = certificate_check_clock(bytes_of(invitation->ca_der, invitation->ca_size),
                                                 clock_wall_ms() / 1000, error);
    if (status != OK && status != UNAVAILABLE)
        error_wrap(error, status, "the token is damaged, copy all of it: its certificate");
    if (status == OK)
        status = certificate_convert(bytes_of(invitation->ca_der, invitation->ca_size),
                                     CERTIFICATE_PEM, &ca_pem, error);
    buffer_u8(&ca_pem, 0);
    if (status == OK) status = certificate_request_create(key, CERTIFICATE_DER, &csr, error);
    struct join_request message = {.protocol_min = PROTOCOL_OLDEST,
                                   .protocol_max = PROTOCOL_VERSION,
                                   .site_name = invitation->name,
                                   .invitation_secret = bytes_of(invitation->secret, SECRET_SIZE),
                                   .csr_der = buffer_bytes(&csr),
                                   .software = site_software,
                                   .look = look};
    if (status == OK) status = join_request_encode(&message, &request, error);
    struct rpc_channel_options options = {.address = setup->address,
                                          .proxy = setup->proxy,
                                          .root_ca = (const char *)ca_pem.data,
                                          .server_name = COORDINATOR_NAME};
    /* where the system gives no more threads the library may never answer */
    ending_limit(2 * JOIN_TIMEOUT_MS / 1000 + STOP_LIMIT_S, EXIT_FAILURE,
                 "waiting for the coordinator");
    if (status == OK) status = rpc_channel_open(&options, &channel, error);
    if (status == OK) status = ask(channel, buffer_bytes(&request), raw, error);
    rpc_channel_close(channel);
    ending_limit(0, 0, NULL);
    struct frame frame;
    if (status == OK) status = frame_split(buffer_bytes(raw), &frame, error);
    if (status == OK) status = join_reply_decode(frame, arena, reply, error);
    buffer_deinit(&ca_pem);
    buffer_deinit(&csr);
    free_clearing(request.data, request.capacity);
    return status;
}

/* The reply must come from whom the token names, and be about our own key. */
static enum status check(const struct invitation *invitation, const struct key_pair *key,
                         const struct join_reply *reply, struct error *error) {
    struct certificate_info info, authority, wanted;
    uint64_t now_s = clock_wall_ms() / 1000;
    uint64_t apart = reply->server_time_ms > now_s * 1000 ? reply->server_time_ms - now_s * 1000
                                                          : now_s * 1000 - reply->server_time_ms;
    if (apart > CLOCK_APART_MS)
        log_warn("clock_differs", "from=coordinator by_ms=%llu", (unsigned long long)apart);
    TRY(certificate_parse(bytes_of(invitation->ca_der, invitation->ca_size), &wanted, error));
    TRY(certificate_parse(reply->ca_pem, &authority, error));
    if (memcmp(wanted.fingerprint, authority.fingerprint, DIGEST_SIZE) != 0)
        return error_set(error, INVALID, "the reply names another CA than the token");
    TRY(certificate_verify(reply->certificate_pem, reply->ca_pem, reply->server_time_ms / 1000,
                           &info, error));
    if (memcmp(info.public_key, key_pair_public(key), PUBLIC_KEY_SIZE) != 0)
        return error_set(error, INVALID, "the certificate that came is for another key");
    return public_key_check(reply->coordinator_key, error);
}

static void append_terminated(struct buffer *out, struct bytes text) {
    buffer_append(out, text.data, text.size);
    buffer_u8(out, 0);
    out->size--;
}

static enum status store(struct site *site, const struct invitation *invitation,
                         const struct join_reply *reply, struct error *error) {
    site->number = reply->site;
    site->observes = reply->role == SITE_OBSERVES;
    memcpy(site->name, invitation->name, sizeof site->name);
    memcpy(site->run_id, reply->run_id, RUN_ID_SIZE);
    memcpy(site->coordinator_key, reply->coordinator_key, PUBLIC_KEY_SIZE);
    append_terminated(&site->certificate_pem, reply->certificate_pem);
    append_terminated(&site->ca_pem, reply->ca_pem);
    TRY(manifest_parse(reply->manifest, &site->manifest, error));
    buffer_append(&site->layout, reply->layout.data, reply->layout.size);
    return site_save(site, error);
}

/* An answer to "expired" that is right wherever the clock is wrong: the coordinator judges by its
 * own. */
static const char *advice_by_clocks(const struct join_reply *reply, char *out, size_t size) {
    int64_t ahead = (int64_t)(reply->server_time_ms - clock_wall_ms());
    if (reply->code != JOIN_EXPIRED || reply->server_time_ms == 0 || ahead <= CLOCK_APART_MS)
        return advice(reply->code);
    snprintf(out, size,
             "the coordinator's clock is %llu s ahead of this machine's; if it is the one that is "
             "wrong, the invitation holds again "
             "once its operator has set it, else ask the admin for another",
             (unsigned long long)ahead / 1000);
    return out;
}

/* A coordinator that is busy for now is asked again, ever more slowly, for as long as one that does
 * not answer. */
static enum status ask_to(const struct join_setup *setup, bool look,
                          const struct invitation *invitation, struct site *site,
                          struct arena *arena, struct buffer *raw, struct join_reply *reply,
                          struct error *error) {
    uint64_t end = clock_monotonic_ms() + JOIN_TIMEOUT_MS, pause = JOIN_RETRY_MS;
    enum status status;
    for (;;) {
        raw->size = 0;
        status = call(setup, look, invitation, site->key, arena, raw, reply, error);
        if (status != OK || reply->code != JOIN_BUSY || clock_monotonic_ms() + pause > end) break;
        log_info("join_busy", "again_in_ms=%llu", (unsigned long long)pause);
        clock_sleep_ms(pause);
        pause = MIN(pause * 2, (uint64_t)JOIN_PAUSE_LIMIT_MS);
        arena_reset(arena);
    }
    if (status == TIMEOUT)
        error_wrap(error, status,
                   "the coordinator at %s does not answer: check the address, that it is running, "
                   "and the firewalls between",
                   setup->address);
    if (status == OK && reply->code != JOIN_OK) {
        char quoted[256], by_clocks[256];
        status = error_set(error, reply->code == JOIN_BUSY ? UNAVAILABLE : REFUSED,
                           "join refused (%s): %s. It says: %s", join_code_name(reply->code),
                           advice_by_clocks(reply, by_clocks, sizeof by_clocks),
                           log_quote(reply->message, quoted, sizeof quoted));
    }
    return status;
}

/* The run's rules, and whether this site can follow them, while the token can still be given back
 * by doing nothing. */
static enum status look_first(const struct join_setup *setup, const struct invitation *invitation,
                              struct site *site, struct error *error) {
    struct buffer raw = {0};
    struct arena arena = {0};
    struct join_reply reply;
    struct manifest manifest;
    if (!setup->check) return OK;
    arena_create(&arena, ARENA_SIZE);
    enum status status = ask_to(setup, true, invitation, site, &arena, &raw, &reply, error);
    if (status == OK) status = manifest_parse(reply.manifest, &manifest, error);
    if (status == OK) {
        status = setup->check(setup->context, &manifest, reply.layout, reply.role == SITE_OBSERVES,
                              error);
        if (status != OK)
            error_wrap(error, status, "nothing has been joined, and the invitation is not used up");
    }
    arena_deinit(&arena);
    buffer_deinit(&raw);
    return status;
}

static enum status join_with(const struct join_setup *setup, const struct invitation *invitation,
                             struct site *site, struct error *error) {
    struct buffer raw = {0};
    struct arena arena = {0};
    struct join_reply reply;
    TRY(look_first(setup, invitation, site, error));
    arena_create(&arena, ARENA_SIZE);
    enum status status = ask_to(setup, false, invitation, site, &arena, &raw, &reply, error);
    if (status == OK) status = check(invitation, site->key, &reply, error);
    if (status == OK) status = store(site, invitation, &reply, error);
    arena_deinit(&arena);
    buffer_deinit(&raw);
    return status;
}

/* A directory that has joined keeps its identity: a token for another one would be ignored. */
static enum status check_is_its_own(const char *directory, const struct invitation *invitation,
                                    struct error *error) {
    struct site site = {0};
    struct certificate_info wanted, authority;
    TRY(site_load(directory, &site, error));
    enum status status =
        certificate_parse(bytes_of(invitation->ca_der, invitation->ca_size), &wanted, error);
    if (status != OK)
        error_wrap(error, status, "the token is damaged, copy all of it: its certificate");
    if (status == OK) status = certificate_parse(buffer_bytes(&site.ca_pem), &authority, error);
    if (status == OK && (strcmp(site.name, invitation->name) != 0 ||
                         memcmp(wanted.fingerprint, authority.fingerprint, DIGEST_SIZE) != 0))
        status = error_set(error, INVALID,
                           "%s is site \"%s\" of run \"%s\" already, and the token is for site "
                           "\"%s\"%s: join with another --dir",
                           directory, site.name, site.manifest.name, invitation->name,
                           strcmp(site.name, invitation->name) == 0 ? " of another run" : "");
    site_deinit(&site);
    return status;
}

enum status join_run(const struct join_setup *setup, bool *already, struct error *error) {
    const char *directory = setup->directory;
    struct invitation invitation = {0};
    struct site site = {0};
    bool done = site_exists(directory), created = false;
    if (already) *already = done;
    TRY(invitation_parse(setup->token, &invitation, error));
    if (done) {
        enum status status = check_is_its_own(directory, &invitation, error);
        clear(&invitation, sizeof invitation);
        return status;
    }
    enum status status = file_make_directory(directory, 0700, error);
    if (status == OK) status = file_check_private_directory(directory, error);
    if (status == OK) site.directory = realpath(directory, NULL);
    if (status == OK && !site.directory)
        status = error_set(error, FAILED, "%s cannot be resolved", directory);
    char *key_path = site.directory ? site_path(&site, "node.key") : NULL;
    if (status == OK) status = key_file_open(key_path, &site.key, &created, error);
    if (status == OK) status = join_with(setup, &invitation, &site, error);
    if (status == OK)
        log_info("joined", "site=%u name=%s run=%s", site.number, site.name, site.manifest.name);
    free(key_path);
    clear(&invitation, sizeof invitation);
    site_deinit(&site);
    return status;
}
