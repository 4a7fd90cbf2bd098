/* A run on a real disk with a real server in this process, and a raw client that sends exactly what
 * a test tells it to: the admin over the wire, sites that joined over the wire, and Submit streams
 * frame by frame. */
#ifndef TESTS_MALFORMED_CLIENT_H
#define TESTS_MALFORMED_CLIENT_H

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "codec/codec.h"
#include "coordinator/directory.h"
#include "coordinator/server.h"
#include "crypto/certificate.h"
#include "fed/invitation.h"
#include "proto/messages.h"
#include "proto/service.h"
#include "rpc/channel.h"
#include "rpc/environment.h"
#include "run/run_model.h"
#include "tests/test.h"

#define CLIENT __attribute__((unused)) static

enum { WORLD_SITES = 4, PATIENCE_MS = 60000 };

struct site {
    uint32_t number;
    char name[SITE_NAME_SIZE];
    struct key_pair *key;
    struct buffer key_pem, certificate_pem; /* zero-terminated */
    struct rpc_channel *channel;
    uint64_t sequence;
    uint8_t previous[DIGEST_SIZE];
    struct random random;
};

struct world {
    char *directory;
    struct server *server; /* NULL: it runs as a process of its own */
    uint16_t port;
    struct manifest manifest;
    uint64_t parameters;
    uint8_t run_id[RUN_ID_SIZE], layout_digest[DIGEST_SIZE], manifest_digest[DIGEST_SIZE],
        coordinator_key[PUBLIC_KEY_SIZE];
    struct buffer ca_pem;
    struct rpc_channel *admin, *anonymous;
    struct site sites[WORLD_SITES + 1]; /* site n at n */
    uint32_t site_count;
    uint64_t orders; /* entries of the ledger that are neither contributions nor steps, except the
                        first */
};

#define SPARSE_RUN "merge: {quorum: 1, grace: 0ms, warmup_steps: 0, staleness_cap: 4096}\n"
#define DENSE_RUN                                                                                  \
    "outer: {mode: dense, period: 4}\ncodec: {kind: fp32}\n"                                       \
    "merge: {quorum: 1, grace: 0ms, warmup_steps: 0, staleness_cap: 4096}\n"

/* ---- the world ------------------------------------------------------------------------------- */

CLIENT void world_create(struct world *w, const char *name, const char *more) {
    struct error error = {0};
    struct layout layout = {0};
    *w = (struct world){.directory = file_join(test_directory(), name)};
    char *yaml = xformat("name: test\nmodel: {vocabulary: 256, hidden: 32, layers: 1, heads: 2, "
                         "kv_heads: 1, ffn: 64, context: "
                         "16}\nadmission: {clip_factor: 0}\n%s",
                         more);
    CHECK_OK(manifest_parse(bytes_of(yaml, strlen(yaml)), &w->manifest, &error));
    free(yaml);
    CHECK_OK(file_make_directory(w->directory, 0700, &error));
    CHECK_OK(directory_create(w->directory, &w->manifest, NULL, NULL, &error));
    CHECK_OK(run_model_layout(&w->manifest, bytes_of(NULL, 0), &layout, &error));
    run_model_layout_digest(&layout, w->layout_digest);
    w->parameters = layout.count;
    layout_deinit(&layout);
    manifest_digest(&w->manifest, w->manifest_digest);
    CHECK_OK(rpc_environment_open(&error));
}

CLIENT void read_pem(const struct world *w, const char *name, struct buffer *out) {
    struct error error = {0};
    char *path = xformat("%s/keys/%s", w->directory, name);
    CHECK_OK(file_read(path, 64 * 1024, out, &error));
    free(path);
}

CLIENT struct rpc_channel *world_channel(const struct world *w, const struct buffer *chain,
                                         const struct buffer *key) {
    struct error error = {0};
    struct rpc_channel *channel = NULL;
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", w->port);
    struct rpc_channel_options options = {.address = address,
                                          .root_ca = (const char *)w->ca_pem.data,
                                          .chain = chain ? (const char *)chain->data : NULL,
                                          .private_key = key ? (const char *)key->data : NULL,
                                          .server_name = "atoll-coordinator",
                                          .max_message_size = 2 * FRAME_LIMIT};
    CHECK_OK(rpc_channel_open(&options, &channel, &error));
    return channel;
}

/* Opens the channels of admin, nobody and the sites to w->port. */
CLIENT void world_connect(struct world *w) {
    struct buffer chain = {0}, key = {0};
    if (!w->ca_pem.data) read_pem(w, "ca.pem", &w->ca_pem);
    read_pem(w, "admin.pem", &chain);
    read_pem(w, "admin.key", &key);
    w->admin = world_channel(w, &chain, &key);
    w->anonymous = world_channel(w, NULL, NULL);
    for (uint32_t i = 1; i <= w->site_count; i++)
        w->sites[i].channel = world_channel(w, &w->sites[i].certificate_pem, &w->sites[i].key_pem);
    buffer_deinit(&chain);
    buffer_deinit(&key);
}

CLIENT void world_disconnect(struct world *w) {
    rpc_channel_close(w->admin);
    rpc_channel_close(w->anonymous);
    for (uint32_t i = 1; i <= w->site_count; i++) rpc_channel_close(w->sites[i].channel);
}

CLIENT void world_start(struct world *w) {
    static const char *const addresses[] = {"127.0.0.1:0"};
    struct error error = {0};
    struct server_options options = {.directory = w->directory,
                                     .addresses = addresses,
                                     .address_count = 1,
                                     .uploads_limit = 16,
                                     .presence_ms = 30000,
                                     .retry_ms = 10,
                                     .chunk_limit = 4096,
                                     .head_interval = 4,
                                     .snapshots_kept = 3,
                                     .rpc_threads = 2};
    CHECK_OK(server_start(&options, &w->server, &error));
    w->port = server_port(w->server);
    world_connect(w);
}

CLIENT void world_stop(struct world *w) {
    struct error error = {0};
    world_disconnect(w);
    server_stop(w->server);
    CHECK_OK(server_wait(w->server, &error)); /* FAILED: it had broken before */
    server_destroy(w->server);
    w->server = NULL;
}

CLIENT void world_destroy(struct world *w) {
    for (uint32_t i = 1; i <= w->site_count; i++) {
        key_pair_destroy(w->sites[i].key);
        free_clearing(w->sites[i].key_pem.data, w->sites[i].key_pem.capacity);
        buffer_deinit(&w->sites[i].certificate_pem);
    }
    buffer_deinit(&w->ca_pem);
    free(w->directory);
    rpc_environment_close();
}

/* A program of this build: beside the tests, or where ATOLL_BIN says. Owned by the caller. */
CLIENT char *program_path(const char *name) {
    const char *bin = getenv("ATOLL_BIN");
    if (bin) return file_join(bin, name);
    char here[512];
    ssize_t size = readlink("/proc/self/exe", here, sizeof here - 1);
    CHECK(size > 0);
    here[size] = 0;
    for (int up = 0; up < 2; up++) *strrchr(here, '/') = 0;
    return xformat("%s/bin/%s", here, name);
}

/* Runs `program arguments` in a shell; what it wrote to stdout (and stderr, if `errors`) into *out,
 * terminated. The exit code; 128 and more: a signal. */
CLIENT int run_program(const char *name, const char *arguments, bool errors, struct buffer *out) {
    char *path = program_path(name), piece[4096];
    char *line = xformat("'%s' %s 2>%s", path, arguments, errors ? "&1" : "/dev/null");
    FILE *pipe = popen(line, "r");
    CHECK(pipe);
    out->size = 0;
    for (size_t got; (got = fread(piece, 1, sizeof piece, pipe)) > 0;)
        buffer_append(out, piece, got);
    int status = pclose(pipe);
    buffer_u8(out, 0);
    out->size--;
    free(line);
    free(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- unary calls ----------------------------------------------------------------------------- */

CLIENT enum rpc_code unary(struct rpc_channel *channel, enum service_method method,
                           const struct buffer *request, struct buffer *reply) {
    struct error error = {0};
    enum rpc_code code = RPC_OK;
    struct rpc_call_options options = {.progress_timeout_ms = PATIENCE_MS,
                                       .wait_for_connection = true};
    reply->size = 0;
    enum status status = rpc_channel_unary_wait(channel, service_path(method), &options,
                                                buffer_bytes(request), reply, &code, &error);
    CHECK((status == OK) == (code == RPC_OK));
    return code;
}

CLIENT struct arena *arena_new(void) {
    struct arena *arena = xcalloc(1, sizeof *arena);
    arena_create(arena, ARENA_SIZE);
    return arena;
}
CLIENT void arena_free(struct arena *arena) {
    arena_deinit(arena);
    free(arena);
}

/* The reply lives in the arena; its payload-less frame in *raw. */
CLIENT enum rpc_code admin_ask(struct rpc_channel *channel, const struct admin_request *request,
                               struct arena *arena, struct buffer *raw, struct admin_reply *reply) {
    struct error error = {0};
    struct buffer bytes = {0};
    struct frame frame;
    CHECK_OK(admin_request_encode(request, &bytes, &error));
    enum rpc_code code = unary(channel, METHOD_ADMIN, &bytes, raw);
    buffer_deinit(&bytes);
    if (code != RPC_OK) return code;
    CHECK_OK(frame_split(buffer_bytes(raw), &frame, &error));
    CHECK_OK(admin_reply_decode(frame, arena, reply, &error));
    return code;
}

CLIENT uint32_t admin_order_of(struct world *w, const struct admin_request *request) {
    struct admin_reply reply;
    struct buffer raw = {0};
    struct arena *arena = arena_new();
    CHECK_EQUAL(admin_ask(w->admin, request, arena, &raw, &reply), RPC_OK);
    uint32_t code = reply.code;
    w->orders += code == ADMIN_OK && request->verb != ADMIN_SNAPSHOT;
    buffer_deinit(&raw);
    arena_free(arena);
    return code;
}

CLIENT uint32_t admin_do(struct world *w, enum admin_verb verb, const char *name, uint64_t value) {
    struct admin_request request = {
        .protocol = 1, .verb = verb, .site_name = name, .reason = "because", .value = value};
    return admin_order_of(w, &request);
}

/* A key of the manifest from here on. */
CLIENT uint32_t admin_set(struct world *w, const char *key, const char *value) {
    struct admin_request request = {.protocol = 1,
                                    .verb = ADMIN_SET_RULE,
                                    .site_name = "",
                                    .reason = "because",
                                    .key = key,
                                    .rule_value = value};
    return admin_order_of(w, &request);
}

struct standing { /* what must not change when something is refused */
    uint64_t version, ledger_size, accepted;
    uint32_t pending, phase;
    uint8_t root[DIGEST_SIZE], head[DIGEST_SIZE];
};

CLIENT struct standing world_look(struct world *w) {
    struct admin_request request = {.protocol = 1, .verb = ADMIN_STATUS};
    struct admin_reply reply;
    struct buffer raw = {0};
    struct error error = {0};
    struct standing out = {0};
    struct ledger_head head;
    struct arena *arena = arena_new();
    CHECK_EQUAL(admin_ask(w->admin, &request, arena, &raw, &reply), RPC_OK);
    CHECK(reply.code == ADMIN_OK && reply.has_run);
    out.version = reply.run.version;
    out.ledger_size = reply.run.ledger_size;
    out.accepted = reply.run.accepted;
    out.pending = reply.run.pending;
    out.phase = reply.run.phase;
    memcpy(out.root, reply.run.root, DIGEST_SIZE);
    memcpy(w->run_id, reply.run.run_id, RUN_ID_SIZE);
    if (w->site_count > 0) {
        CHECK_OK(ledger_head_verify(reply.head, w->coordinator_key, &head, &error));
        CHECK_EQUAL(head.size, out.ledger_size);
        memcpy(out.head, head.root, DIGEST_SIZE);
    }
    buffer_deinit(&raw);
    arena_free(arena);
    return out;
}

/* Waits until nothing is pending and every step is durable. */
CLIENT struct standing world_settle(struct world *w) {
    uint64_t until = clock_monotonic_ms() + PATIENCE_MS;
    for (;;) {
        struct standing now = world_look(w);
        if (now.pending == 0 && now.ledger_size == 1 + w->orders + now.accepted + now.version)
            return now;
        if (clock_monotonic_ms() > until)
            test_failed(
                __FILE__, __LINE__,
                "the coordinator does not come to rest: ledger %llu, accepted %llu, version %llu",
                (unsigned long long)now.ledger_size, (unsigned long long)now.accepted,
                (unsigned long long)now.version);
        clock_sleep_ms(2);
    }
}

/* ---- joining --------------------------------------------------------------------------------- */

CLIENT void world_invite(struct world *w, const char *name, uint8_t secret[static SECRET_SIZE]) {
    struct admin_request request = {
        .protocol = 1, .verb = ADMIN_INVITE, .site_name = name, .reason = ""};
    struct admin_reply reply;
    struct buffer raw = {0};
    struct arena *arena = arena_new();
    CHECK_EQUAL(admin_ask(w->admin, &request, arena, &raw, &reply), RPC_OK);
    CHECK_EQUAL(reply.code, ADMIN_OK);
    CHECK_EQUAL(reply.invitation_secret.size, SECRET_SIZE);
    memcpy(secret, reply.invitation_secret.data, SECRET_SIZE);
    w->orders++;
    buffer_deinit(&raw);
    arena_free(arena);
}

/* Asks to join; on code 0 the certificate and the run's facts are taken over. */
CLIENT uint32_t world_ask_join(struct world *w, const char *name, struct bytes secret,
                               struct site *site) {
    struct error error = {0};
    struct buffer csr = {0}, bytes = {0}, raw = {0};
    struct join_reply reply;
    struct frame frame;
    struct arena *arena = arena_new();
    CHECK_OK(certificate_request_create(site->key, CERTIFICATE_DER, &csr, &error));
    struct join_request request = {.protocol_min = 1,
                                   .protocol_max = 1,
                                   .site_name = name,
                                   .invitation_secret = secret,
                                   .csr_der = buffer_bytes(&csr),
                                   .software = "test"};
    CHECK_OK(join_request_encode(&request, &bytes, &error));
    CHECK_EQUAL(unary(w->anonymous, METHOD_JOIN, &bytes, &raw), RPC_OK);
    CHECK_OK(frame_split(buffer_bytes(&raw), &frame, &error));
    CHECK_OK(join_reply_decode(frame, arena, &reply, &error));
    uint32_t code = reply.code;
    if (code == JOIN_OK) {
        site->number = reply.site;
        site->certificate_pem.size = 0;
        buffer_append(&site->certificate_pem, reply.certificate_pem.data,
                      reply.certificate_pem.size);
        buffer_u8(&site->certificate_pem, 0);
        memcpy(w->coordinator_key, reply.coordinator_key, PUBLIC_KEY_SIZE);
        memcpy(w->run_id, reply.run_id, RUN_ID_SIZE);
    }
    buffer_deinit(&csr);
    buffer_deinit(&bytes);
    buffer_deinit(&raw);
    arena_free(arena);
    return code;
}

CLIENT struct site *world_join(struct world *w, const char *name) {
    struct error error = {0};
    uint8_t secret[SECRET_SIZE];
    CHECK(w->site_count < WORLD_SITES);
    struct site *site = &w->sites[++w->site_count];
    *site = (struct site){0};
    snprintf(site->name, sizeof site->name, "%s", name);
    CHECK_OK(key_pair_create(&site->key, &error));
    CHECK_OK(key_pair_to_pem(site->key, &site->key_pem, &error));
    buffer_u8(&site->key_pem, 0);
    world_invite(w, name, secret);
    CHECK_EQUAL(world_ask_join(w, name, bytes_of(secret, sizeof secret), site), JOIN_OK);
    CHECK_EQUAL(site->number, w->site_count);
    w->orders++;
    random_init(&site->random, 100 + site->number);
    site->channel = world_channel(w, &site->certificate_pem, &site->key_pem);
    return site;
}

/* ---- streams --------------------------------------------------------------------------------- */

struct stream { /* a call with what came on it */
    struct rpc_call *call;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct buffer *messages;
    size_t count, taken;
    bool held; /* read no further than asked */
    bool closed;
    struct rpc_outcome outcome;
    char why[256];
};

CLIENT void stream_on_message(struct rpc_call *call, void *user, struct buffer *message) {
    struct stream *stream = user;
    pthread_mutex_lock(&stream->lock);
    stream->messages = xrealloc(stream->messages, (stream->count + 1) * sizeof *stream->messages);
    stream->messages[stream->count++] = *message;
    *message = (struct buffer){0};
    bool more = !stream->held;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    if (more) rpc_call_read(call);
}

CLIENT void stream_on_closed(struct rpc_call *call, void *user, const struct rpc_outcome *outcome) {
    struct stream *stream = user;
    (void)call;
    pthread_mutex_lock(&stream->lock);
    stream->closed = true;
    stream->outcome = *outcome;
    snprintf(stream->why, sizeof stream->why, "%s", outcome->message);
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

/* Whether calls wait for a connection that is not there, or fail at once. */
CLIENT bool stream_waits = true;

CLIENT struct stream *stream_open(struct rpc_channel *channel, enum service_method method) {
    static const struct rpc_handler handler = {.on_message = stream_on_message,
                                               .on_closed = stream_on_closed};
    struct error error = {0};
    struct stream *stream = xcalloc(1, sizeof *stream);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    struct rpc_method description = {service_path(method), service_client_streams(method),
                                     service_server_streams(method)};
    struct rpc_call_options options = {.progress_timeout_ms = PATIENCE_MS,
                                       .wait_for_connection = stream_waits};
    CHECK_OK(
        rpc_channel_call(channel, &description, &options, &handler, stream, &stream->call, &error));
    rpc_call_read(stream->call);
    return stream;
}

CLIENT bool stream_wait(struct stream *stream, bool for_close) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    while (for_close ? !stream->closed : stream->taken == stream->count && !stream->closed) {
        if (pthread_cond_timedwait(&stream->changed, &stream->lock, &until) != 0)
            test_failed(__FILE__, __LINE__, "nothing came for a minute");
    }
    return stream->taken < stream->count;
}

/* The next message, lent until the stream is closed; false: the call has ended. */
CLIENT bool stream_next(struct stream *stream, struct bytes *out) {
    pthread_mutex_lock(&stream->lock);
    bool got = stream_wait(stream, false);
    if (got) *out = buffer_bytes(&stream->messages[stream->taken++]);
    pthread_mutex_unlock(&stream->lock);
    return got;
}

/* Waits for the end; what it ended with. */
CLIENT enum rpc_code stream_end(struct stream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream_wait(stream, true);
    enum rpc_code code = stream->outcome.code;
    pthread_mutex_unlock(&stream->lock);
    return code;
}

CLIENT void stream_close(struct stream *stream) {
    rpc_call_cancel(stream->call, RPC_CANCELLED, "the test is done with it");
    stream_end(stream);
    rpc_call_release(stream->call);
    for (size_t i = 0; i < stream->count; i++) buffer_deinit(&stream->messages[i]);
    free(stream->messages);
    pthread_mutex_destroy(&stream->lock);
    pthread_cond_destroy(&stream->changed);
    free(stream);
}

/* False: the call is over. */
CLIENT bool stream_write(struct stream *stream, struct bytes head, struct bytes payload) {
    struct rpc_piece pieces[2] = {rpc_piece_of(head), rpc_piece_of(payload)};
    for (;;) {
        enum status status = rpc_call_write(stream->call, pieces, payload.size ? 2 : 1);
        if (status != FULL) return status == OK;
        clock_sleep_ms(1);
    }
}

/* ---- contributions --------------------------------------------------------------------------- */

struct signed_header {
    uint8_t header[CONTRIBUTION_HEADER_SIZE], signature[SIGNATURE_SIZE];
};

/* A random delta as the run's codec writes it. */
CLIENT struct buffer site_payload(struct world *w, struct site *site) {
    struct error error = {0};
    struct codec_encoder *encoder = NULL;
    struct buffer payload = {0};
    float *delta = xcalloc(w->parameters, sizeof *delta);
    for (uint64_t i = 0; i < w->parameters; i++)
        delta[i] = (float)(random_unit(&site->random) * 2 - 1) * 1e-3f;
    CHECK_OK(codec_encoder_create(w->manifest.codec.kind, w->parameters, &encoder, &error));
    CHECK_OK(codec_encode(encoder, delta, NULL, NULL, &payload, &error));
    codec_encoder_destroy(encoder);
    free(delta);
    return payload;
}

/* The site's next, base version 0, which is never too stale here. */
CLIENT struct contribution site_contribution(const struct world *w, const struct site *site,
                                             struct bytes payload) {
    struct contribution c = {.protocol = PROTOCOL_VERSION,
                             .codec = w->manifest.codec.kind,
                             .epoch = 1,
                             .site = site->number,
                             .sequence = site->sequence + 1,
                             .inner_steps = 30,
                             .tokens = 100,
                             .loss = 2,
                             .compute_share = 0.5f,
                             .payload_size = payload.size,
                             .signed_at_ms = clock_wall_ms()};
    double squared = 0;
    memcpy(c.run_id, w->run_id, RUN_ID_SIZE);
    memcpy(c.layout_digest, w->layout_digest, DIGEST_SIZE);
    memcpy(c.manifest_digest, w->manifest_digest, DIGEST_SIZE);
    memcpy(c.previous, site->previous, DIGEST_SIZE);
    key_id(key_pair_public(site->key), c.key_id);
    digest_sha256(payload.data, payload.size, c.payload_digest);
    if (codec_walk(w->manifest.codec.kind, payload, w->parameters, &squared, NULL, NULL) == OK)
        c.norm = sqrt(squared);
    return c;
}

CLIENT struct signed_header site_sign(const struct site *site, const struct contribution *c) {
    struct signed_header out;
    contribution_encode(c, out.header);
    contribution_sign(site->key, out.header, out.signature);
    return out;
}

struct verdict {
    bool credited; /* there was a credit, with this: */
    uint64_t resume_offset;
    uint32_t code; /* refusal; 0 with `accepted` */
    bool accepted;
    enum rpc_code rpc; /* what the call ended with */
    char message[256];
    uint8_t receipt[RECEIPT_LIMIT];
    size_t receipt_size; /* of a receipt or a duplicate */
};

CLIENT void write_open(struct stream *stream, const struct signed_header *header) {
    struct error error = {0};
    struct buffer head = {0};
    struct submit_frame frame = {.kind = SUBMIT_OPEN, .open.protocol = 1};
    memcpy(frame.open.header, header->header, sizeof header->header);
    memcpy(frame.open.signature, header->signature, sizeof header->signature);
    CHECK_OK(submit_frame_encode(&frame, &head, &error));
    stream_write(stream, buffer_bytes(&head), bytes_of(NULL, 0));
    buffer_deinit(&head);
}

CLIENT bool write_chunk(struct stream *stream, uint64_t offset, struct bytes payload) {
    struct error error = {0};
    struct buffer head = {0};
    struct submit_frame frame = {.kind = SUBMIT_CHUNK, .chunk.offset = offset, .payload = payload};
    CHECK_OK(submit_frame_encode(&frame, &head, &error));
    bool written = stream_write(stream, buffer_bytes(&head), payload);
    buffer_deinit(&head);
    return written;
}

/* Reads one reply into *out; false at the end of the call. */
CLIENT bool read_reply(struct stream *stream, struct verdict *out) {
    struct error error = {0};
    struct bytes raw;
    struct frame frame;
    struct submit_reply reply;
    if (!stream_next(stream, &raw)) {
        out->rpc = stream->outcome.code;
        if (!*out->message) snprintf(out->message, sizeof out->message, "%s", stream->why);
        return false;
    }
    struct arena *arena = arena_new();
    CHECK_OK(frame_split(raw, &frame, &error));
    CHECK_OK(submit_reply_decode(frame, arena, &reply, &error));
    struct bytes receipt = bytes_of(NULL, 0);
    if (reply.kind == SUBMIT_CREDIT) {
        out->credited = true;
        out->resume_offset = reply.credit.resume_offset;
    } else if (reply.kind == SUBMIT_RECEIPT) {
        out->accepted = true;
        receipt = reply.receipt;
    } else {
        out->code = reply.refusal.code;
        snprintf(out->message, sizeof out->message, "%s", reply.refusal.message);
        receipt = reply.refusal.receipt;
    }
    CHECK(receipt.size <= sizeof out->receipt);
    if (receipt.size) memcpy(out->receipt, receipt.data, receipt.size);
    out->receipt_size = receipt.size;
    arena_free(arena);
    return true;
}

/* Waits for the last word. */
CLIENT void read_verdict(struct stream *stream, struct verdict *out) {
    while (read_reply(stream, out)) {}
}

/* The honest way through, with whatever header and payload. */
CLIENT struct verdict submit(struct site *site, const struct signed_header *header,
                             struct bytes payload) {
    struct verdict out = {0};
    struct stream *stream = stream_open(site->channel, METHOD_SUBMIT);
    write_open(stream, header);
    if (read_reply(stream, &out) && out.credited) {
        for (uint64_t at = out.resume_offset; at < payload.size;) {
            size_t size = MIN(payload.size - at, (size_t)4096);
            if (!write_chunk(stream, at, bytes_of(payload.data + at, size))) break;
            at += size;
        }
        rpc_call_half_close(stream->call);
    }
    read_verdict(stream, &out);
    stream_close(stream);
    return out;
}

CLIENT void check_receipt(const struct world *w, const struct verdict *verdict,
                          const struct signed_header *header, struct receipt *out) {
    struct error error = {0};
    CHECK_OK(receipt_verify(bytes_of(verdict->receipt, verdict->receipt_size), w->coordinator_key,
                            header->header, header->signature, out, &error));
}

/* The site knows that it is in the ledger. */
CLIENT void site_advance(struct site *site, const struct signed_header *header) {
    site->sequence++;
    contribution_digest(header->header, site->previous);
}

/* An honest contribution that must be accepted. Returns its ledger index. */
CLIENT uint64_t site_contribute(struct world *w, struct site *site) {
    struct buffer payload = site_payload(w, site);
    struct contribution c = site_contribution(w, site, buffer_bytes(&payload));
    struct signed_header header = site_sign(site, &c);
    struct receipt receipt;
    for (int attempt = 0;; attempt++) {
        struct verdict verdict = submit(site, &header, buffer_bytes(&payload));
        if (verdict.accepted) {
            check_receipt(w, &verdict, &header, &receipt);
            break;
        }
        if (verdict.code != REFUSED_BUSY || attempt > 1000)
            test_failed(__FILE__, __LINE__, "an honest contribution was refused: %s (%s), %s",
                        refusal_name(verdict.code), rpc_code_name(verdict.rpc), verdict.message);
        clock_sleep_ms(5);
    }
    site_advance(site, &header);
    buffer_deinit(&payload);
    return receipt.index;
}

#endif
