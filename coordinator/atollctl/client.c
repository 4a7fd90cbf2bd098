/* One admin call over TLS with the keys of --keys (coordinator/atollctl/atollctl.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ending.h"
#include "base/file.h"
#include "base/memory.h"
#include "coordinator/atollctl/atollctl.h"
#include "crypto/certificate.h"
#include "crypto/key_file.h"
#include "proto/service.h"
#include "rpc/channel.h"
#include "rpc/environment.h"

enum { STOP_LIMIT_S = 30, BUSY_PAUSE_MS = 100, BUSY_PAUSE_LIMIT_MS = 2000 };

struct credentials {
    struct buffer ca, certificate, key; /* zero-terminated */
};

static enum status read_one(const char *directory, const char *name, struct buffer *out,
                            struct error *error) {
    char *path = file_join(directory, name);
    enum status status = file_read(path, 64 * 1024, out, error);
    free(path);
    return status;
}

static enum status credentials_read(const struct ctl_settings *settings, struct credentials *out,
                                    struct error *error) {
    if (!settings->keys)
        return error_set(error, INVALID,
                         "say where the admin's keys are: --keys RUN/keys (or ATOLL_KEYS)");
    TRY(read_one(settings->keys, "ca.pem", &out->ca, error));
    TRY(file_check_private_directory(settings->keys, error));
    TRY(read_one(settings->keys, "admin.pem", &out->certificate, error));
    TRY(certificate_check_clock(buffer_bytes(&out->certificate), clock_wall_ms() / 1000, error));
    char *path = file_join(settings->keys, "admin.key");
    enum status status = key_file_read(path, true, &out->key, error);
    free(path);
    if (status == OK) buffer_u8(&out->key, 0);
    return status;
}

static void credentials_clear(struct credentials *credentials) {
    buffer_deinit(&credentials->ca);
    buffer_deinit(&credentials->certificate);
    free_clearing(credentials->key.data, credentials->key.capacity);
}

static enum status decode(const struct buffer *raw, struct arena *arena, struct admin_reply *out,
                          struct error *error) {
    struct frame frame;
    TRY(frame_split(buffer_bytes(raw), &frame, error));
    TRY(admin_reply_decode(frame, arena, out, error));
    if (out->code == ADMIN_OK) return OK;
    return error_set(error, out->code == ADMIN_BUSY ? UNAVAILABLE : REFUSED,
                     "the coordinator refused (%s): %s", admin_code_name(out->code), out->message);
}

/* Nothing of a request that is answered BUSY, or that there was no room for, was done, so it is
 * said again, ever more slowly, until the time is over. */
static enum status ask(struct rpc_channel *channel, uint64_t timeout_ms, struct bytes request,
                       struct arena *arena, struct admin_reply *out, struct error *error) {
    uint64_t end = clock_monotonic_ms() + timeout_ms, pause = BUSY_PAUSE_MS;
    struct rpc_call_options call = {.progress_timeout_ms = (uint32_t)timeout_ms};
    for (;;) {
        struct buffer raw = {0};
        arena_reset(arena);
        enum status status = rpc_channel_unary_wait(channel, service_path(METHOD_ADMIN), &call,
                                                    request, &raw, NULL, error);
        /* strings are copied into the arena, but a reply's payload would be borrowed: admin replies
         * have none */
        if (status == OK) status = decode(&raw, arena, out, error);
        buffer_deinit(&raw);
        bool undone = status == FULL || (status == UNAVAILABLE && out->code == ADMIN_BUSY);
        if (!undone || clock_monotonic_ms() + pause > end) return status;
        clock_sleep_ms(pause);
        pause = MIN(pause * 2, (uint64_t)BUSY_PAUSE_LIMIT_MS);
    }
}

static enum status exchange(const struct ctl_settings *settings,
                            const struct credentials *credentials, struct bytes request,
                            struct arena *arena, struct admin_reply *out, struct error *error) {
    struct rpc_channel *channel = NULL;
    struct rpc_channel_options options = {.address = settings->server,
                                          .proxy = settings->proxy,
                                          .root_ca = (const char *)credentials->ca.data,
                                          .chain = (const char *)credentials->certificate.data,
                                          .private_key = (const char *)credentials->key.data,
                                          .server_name = "atoll-coordinator",
                                          .max_message_size = FRAME_LIMIT};
    TRY(rpc_environment_open(error));
    /* where the system gives no more threads the library may never answer */
    ending_limit((unsigned)(2 * settings->timeout_ms / 1000) + STOP_LIMIT_S, EXIT_FAILED,
                 "waiting for the coordinator");
    enum status status = rpc_channel_open(&options, &channel, error);
    if (status == OK) status = ask(channel, settings->timeout_ms, request, arena, out, error);
    ending_limit(STOP_LIMIT_S, EXIT_FAILED, "closing the network");
    rpc_channel_close(channel);
    rpc_environment_close();
    ending_limit(0, 0, NULL);
    return status;
}

enum status client_ask(const struct ctl_settings *settings, const struct admin_request *request,
                       struct arena *arena, struct admin_reply *out, struct error *error) {
    struct credentials credentials = {0};
    struct buffer raw = {0};
    struct admin_request spoken = *request;
    spoken.protocol = WIRE_PROTOCOL_NEWEST;
    out->code = ADMIN_OK;
    arena_create(arena, ARENA_SIZE);
    enum status status = admin_request_encode(&spoken, &raw, error);
    if (status == OK) status = credentials_read(settings, &credentials, error);
    if (status == OK)
        status = exchange(settings, &credentials, buffer_bytes(&raw), arena, out, error);
    credentials_clear(&credentials);
    buffer_deinit(&raw);
    return status;
}

int client_order(const struct ctl_settings *settings, const struct admin_request *request,
                 const char *done, const char *detail) {
    struct admin_reply reply = {0};
    struct arena arena = {0};
    struct error error = {0};
    enum status status = client_ask(settings, request, &arena, &reply, &error);
    char version[32];
    snprintf(version, sizeof version, "version %llu", (unsigned long long)reply.value);
    arena_deinit(&arena);
    if (status != OK) return report_failure(&error);
    print_done(settings, done, detail ? detail : version);
    return EXIT_DONE;
}
