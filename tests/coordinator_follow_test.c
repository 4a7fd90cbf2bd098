/* What goes down to a site: the ledger, payloads and snapshots as streams, checked as a site checks
 * them. */
#include "tests/malformed_client.h"

struct follower {
    struct run_state *run;
    struct buffer entries[128];
    uint64_t entry_count, stubs, heads, payload_bytes;
    struct ledger_head head;
};

static void take_entry(struct follower *f, struct bytes raw) {
    struct error error = {0};
    CHECK(f->entry_count < 128);
    CHECK_OK(run_state_apply(f->run, raw, false, &error)); /* signatures too */
    buffer_append(&f->entries[f->entry_count++], raw.data, raw.size);
}

/* A stub stands for the caller's own entry: it has the header, the frame the rest. */
static void take_stub(struct follower *f, const struct follow_own *own,
                      const struct signed_header *headers) {
    struct ledger_entry entry;
    struct buffer raw = {0};
    memset(&entry, 0, sizeof entry);
    entry.kind = LEDGER_CONTRIBUTION;
    entry.epoch = own->epoch;
    entry.time_ms = own->time_ms;
    memcpy(entry.contribution.header, headers[own->sequence].header, CONTRIBUTION_HEADER_SIZE);
    memcpy(entry.contribution.signature, headers[own->sequence].signature, SIGNATURE_SIZE);
    ledger_entry_encode(&entry, &raw);
    take_entry(f, buffer_bytes(&raw));
    buffer_deinit(&raw);
    f->stubs++;
}

/* Reads frames until the ledger has `size` entries and no payload is half there. */
static void follow_until(struct world *w, struct follower *f, struct stream *stream, uint64_t size,
                         const struct signed_header *headers) {
    struct error error = {0};
    uint64_t next = f->entry_count, left = 0;
    struct digest digest;
    struct contribution contribution;
    while (f->entry_count < size || left > 0) {
        struct bytes raw;
        struct frame split;
        struct follow_frame frame;
        struct follow_cursor cursor = {0};
        struct follow_item item;
        struct arena *arena = arena_new();
        CHECK(stream_next(stream, &raw));
        CHECK_OK(frame_split(raw, &split, &error));
        CHECK_OK(follow_frame_decode(split, arena, &frame, &error));
        if (frame.has_first_index) CHECK_EQUAL(frame.first_index, next);
        for (; follow_next(&frame, &cursor, &item); next++) {
            if (item.own)
                take_stub(f, item.own, headers);
            else
                take_entry(f, item.entry);
        }
        if (frame.payload_total > 0) {
            if (frame.payload_offset == 0) {
                struct ledger_entry entry;
                CHECK_EQUAL(left, 0);
                CHECK_OK(ledger_entry_decode(buffer_bytes(&f->entries[frame.payload_index]), &entry,
                                             &error));
                CHECK_EQUAL(entry.kind, LEDGER_CONTRIBUTION);
                CHECK_OK(contribution_decode(
                    bytes_of(entry.contribution.header, CONTRIBUTION_HEADER_SIZE), &contribution,
                    &error));
                CHECK_EQUAL(contribution.payload_size, frame.payload_total);
                left = frame.payload_total;
                digest_init(&digest);
            }
            CHECK_EQUAL(frame.payload_offset, frame.payload_total - left);
            digest_update(&digest, frame.payload.data, frame.payload.size);
            left -= frame.payload.size;
            f->payload_bytes += frame.payload.size;
            if (left == 0) {
                uint8_t got[DIGEST_SIZE];
                digest_final(&digest, got);
                CHECK_MEMORY(got, contribution.payload_digest, DIGEST_SIZE);
            }
        }
        if (frame.head.size > 0) {
            uint8_t root[DIGEST_SIZE];
            CHECK_OK(ledger_head_verify(frame.head, w->coordinator_key, &f->head, &error));
            CHECK(f->head.size <= f->entry_count);
            merkle_root(run_state_tree(f->run), f->head.size, root);
            CHECK_MEMORY(root, f->head.root, DIGEST_SIZE);
            f->heads++;
        }
        arena_free(arena);
    }
}

static struct stream *follow(struct site *site, const struct follow_request *request) {
    struct error error = {0};
    struct buffer bytes = {0};
    CHECK_OK(follow_request_encode(request, &bytes, &error));
    struct stream *stream = stream_open(site->channel, METHOD_FOLLOW);
    CHECK(stream_write(stream, buffer_bytes(&bytes), bytes_of(NULL, 0)));
    buffer_deinit(&bytes);
    return stream;
}

static void follower_close(struct follower *f) {
    for (uint64_t i = 0; i < f->entry_count; i++) buffer_deinit(&f->entries[i]);
    run_state_destroy(f->run);
}

/* As site_contribute, and keeps the header. */
static size_t contribute_kept(struct world *w, struct site *site, struct signed_header *headers) {
    struct buffer payload = site_payload(w, site);
    struct contribution c = site_contribution(w, site, buffer_bytes(&payload));
    struct signed_header header = site_sign(site, &c);
    struct verdict verdict;
    do {
        verdict = submit(site, &header, buffer_bytes(&payload));
    } while (verdict.code == REFUSED_BUSY);
    CHECK(verdict.accepted);
    headers[site->sequence + 1] = header;
    site_advance(site, &header);
    size_t size = payload.size;
    buffer_deinit(&payload);
    return size;
}

TEST(following_from_the_start_gives_a_ledger_that_stands_every_check) {
    struct world w;
    struct signed_header headers[16] = {0};
    world_create(&w, "run", DENSE_RUN);
    world_start(&w);
    struct site *one = world_join(&w, "one"), *two = world_join(&w, "two");
    uint64_t all = 0, others = 0;
    for (int i = 0; i < 4; i++) {
        all += contribute_kept(&w, one, headers);
        uint64_t size = contribute_kept(&w, two, headers + 8);
        all += size;
        others += size;
        world_settle(&w);
    }
    struct standing now = world_settle(&w);
    for (int omit = 0; omit < 2; omit++) {
        struct follower f = {.run = run_state_create()};
        struct follow_request request = {
            .protocol = 1, .omit_own = omit, .chunk_limit = omit ? 1024 : 0};
        struct stream *stream = follow(one, &request);
        follow_until(&w, &f, stream, now.ledger_size, headers);
        CHECK_EQUAL(f.stubs, omit ? one->sequence : 0);
        CHECK_EQUAL(f.payload_bytes, omit ? others : all);
        CHECK_EQUAL(run_state_version(f.run), now.version);
        uint8_t root[DIGEST_SIZE];
        uint64_t version;
        run_state_root(f.run, &version, root);
        CHECK_MEMORY(root, now.root, DIGEST_SIZE);
        merkle_root(run_state_tree(f.run), now.ledger_size, root);
        /* the same ledger as the coordinator's, stubs and all */
        CHECK_MEMORY(root, now.head, DIGEST_SIZE);
        all += contribute_kept(&w, one, headers); /* and it goes on as the ledger grows */
        uint64_t more = contribute_kept(&w, two, headers + 8);
        all += more;
        others += more;
        now = world_settle(&w);
        follow_until(&w, &f, stream, now.ledger_size, headers);
        CHECK_EQUAL(f.entry_count, now.ledger_size);
        CHECK(f.heads > 0);
        stream_close(stream);
        follower_close(&f);
    }
    world_stop(&w);
    world_destroy(&w);
}

TEST(a_follower_goes_on_where_it_was_and_gets_no_payload_that_a_snapshot_covers) {
    struct world w;
    struct signed_header headers[16] = {0};
    world_create(&w, "run", SPARSE_RUN);
    world_start(&w);
    struct site *one = world_join(&w, "one");
    uint64_t half = world_settle(&w).ledger_size, last = 0;
    struct follower f = {.run = run_state_create()};
    struct follow_request request = {.protocol = 1};
    struct stream *stream = follow(one, &request);
    follow_until(&w, &f, stream, half, headers);
    stream_close(stream);
    for (int i = 0; i < 3; i++) {
        last = contribute_kept(&w, one, headers);
        world_settle(&w);
    }
    struct standing now = world_settle(&w);
    request.from_index = half;
    request.payloads_from_index = now.ledger_size - 2; /* the last contribution */
    stream = follow(one, &request);
    follow_until(&w, &f, stream, now.ledger_size, headers);
    CHECK_EQUAL(f.payload_bytes, last);
    stream_close(stream);
    request.from_index = now.ledger_size + 1; /* more than there is: somebody was set back */
    stream = follow(one, &request);
    CHECK_EQUAL(stream_end(stream), RPC_FAILED_PRECONDITION);
    stream_close(stream);
    follower_close(&f);
    world_stop(&w);
    world_destroy(&w);
}

/* Reads at most `frames` frames; 0: all of them. Appends to *content; true at the end of the
 * stream. */
static bool fetch_snapshot(struct world *w, struct site *site, uint64_t version,
                           struct buffer *content, int frames, struct snapshot_header *header) {
    struct error error = {0};
    struct buffer bytes = {0};
    struct snapshot_request request = {.protocol = 1, .version = version, .offset = content->size};
    CHECK_OK(snapshot_request_encode(&request, &bytes, &error));
    struct stream *stream = stream_open(site->channel, METHOD_SNAPSHOT);
    CHECK(stream_write(stream, buffer_bytes(&bytes), bytes_of(NULL, 0)));
    buffer_deinit(&bytes);
    struct bytes raw;
    int count = 0;
    bool more = false;
    while ((frames == 0 || count < frames) && (more = stream_next(stream, &raw))) {
        struct frame split;
        struct snapshot_frame frame;
        struct arena *arena = arena_new();
        CHECK_OK(frame_split(raw, &split, &error));
        CHECK_OK(snapshot_frame_decode(split, arena, &frame, &error));
        CHECK((frame.descriptor.size > 0) == (count == 0));
        if (count == 0)
            CHECK_OK(snapshot_header_verify(frame.descriptor, w->coordinator_key, header, &error));
        CHECK_EQUAL(frame.offset, content->size);
        CHECK_EQUAL(frame.total, header->content_size);
        buffer_append(content, frame.payload.data, frame.payload.size);
        arena_free(arena);
        count++;
    }
    if (!more && frames == 0) CHECK_EQUAL(stream_end(stream), RPC_OK);
    stream_close(stream);
    return content->size == header->content_size;
}

TEST(a_snapshot_resumes_at_any_byte_and_is_the_model_that_its_header_names) {
    struct world w;
    struct error error = {0};
    struct signed_header headers[16] = {0};
    world_create(&w, "run", DENSE_RUN "snapshot_interval: 2\n");
    world_start(&w);
    struct site *one = world_join(&w, "one");
    for (int i = 0; i < 4; i++) {
        contribute_kept(&w, one, headers);
        world_settle(&w);
    }
    struct snapshot_header first = {0}, header = {0};
    struct buffer content = {0}, whole = {0};
    for (int i = 0; i < 100 && first.version != 4; i++) { /* it is written after the step */
        whole.size = 0;
        CHECK(fetch_snapshot(&w, one, 0, &whole, 0, &first));
        clock_sleep_ms(10);
    }
    CHECK_EQUAL(first.version, 4);
    bool done = fetch_snapshot(&w, one, 0, &content, 3, &header);
    for (int i = 0; !done; i++) {
        content.size -= MIN(content.size, (size_t)(i * 7)); /* at an odd byte */
        done = fetch_snapshot(&w, one, header.version, &content, i < 6 ? 2 + i : 0, &header);
        CHECK_EQUAL(header.version, first.version);
    }
    CHECK_EQUAL(content.size, whole.size);
    CHECK_MEMORY(content.data, whole.data, whole.size);
    struct model_state model;
    uint8_t root[DIGEST_SIZE];
    CHECK_OK(model_state_init(&model, &w.manifest, w.parameters, &error));
    CHECK_OK(snapshot_read(&model, &header, buffer_bytes(&content), &error));
    struct standing now = world_settle(&w);
    state_root(model.theta, model.parameters, root);
    CHECK_MEMORY(root, now.root, DIGEST_SIZE);
    model_state_deinit(&model);
    content.size = 0;
    struct buffer bytes = {0};
    struct snapshot_request request = {.protocol = 1, .version = 3};
    CHECK_OK(snapshot_request_encode(&request, &bytes, &error));
    struct stream *stream = stream_open(one->channel, METHOD_SNAPSHOT);
    CHECK(stream_write(stream, buffer_bytes(&bytes), bytes_of(NULL, 0)));
    CHECK_EQUAL(stream_end(stream), RPC_NOT_FOUND);
    stream_close(stream);
    buffer_deinit(&bytes);
    buffer_deinit(&content);
    buffer_deinit(&whole);
    world_stop(&w);
    world_destroy(&w);
}

TEST(the_server_ends_in_order_with_every_kind_of_call_open) {
    struct world w;
    world_create(&w, "run", DENSE_RUN);
    world_start(&w);
    struct site *one = world_join(&w, "one"), *two = world_join(&w, "two");
    site_contribute(&w, two);
    struct stream *streams[24];
    struct follow_request request = {.protocol = 1};
    struct buffer payload = site_payload(&w, one);
    struct contribution c = site_contribution(&w, one, buffer_bytes(&payload));
    struct signed_header header = site_sign(one, &c);
    for (size_t i = 0; i < COUNT_OF(streams); i++) {
        if (i % 3 == 0) {
            streams[i] = follow(one, &request);
        } else {
            streams[i] = stream_open(one->channel, i % 3 == 1 ? METHOD_SUBMIT : METHOD_SNAPSHOT);
            if (i % 3 == 1) write_open(streams[i], &header);
        }
    }
    clock_sleep_ms(20);
    struct error error = {0};
    server_stop(w.server);
    CHECK_OK(server_wait(w.server, &error));
    server_destroy(w.server); /* while they are open */
    for (size_t i = 0; i < COUNT_OF(streams); i++) stream_close(streams[i]);
    world_disconnect(&w);
    world_start(&w);
    site_contribute(&w, one);
    world_settle(&w);
    world_stop(&w);
    buffer_deinit(&payload);
    world_destroy(&w);
}

TEST(a_server_that_cannot_start_leaves_nothing_behind) {
    struct world w;
    struct error error = {0};
    static const char *const addresses[] = {"127.0.0.1:0"}, *const nowhere[] = {"203.0.113.1:1"};
    struct server_options options = {.directory = "/nonexistent",
                                     .addresses = addresses,
                                     .address_count = 1,
                                     .uploads_limit = 4,
                                     .presence_ms = 1000,
                                     .retry_ms = 10,
                                     .chunk_limit = 4096,
                                     .head_interval = 4,
                                     .snapshots_kept = 3,
                                     .rpc_threads = 1};
    struct server *server = NULL;
    world_create(&w, "run", SPARSE_RUN);
    CHECK_STATUS(server_start(&options, &server, &error), NOT_FOUND);
    options.directory = w.directory;
    options.addresses = nowhere;
    CHECK_STATUS(server_start(&options, &server, &error), UNAVAILABLE);
    world_start(&w);
    options.addresses = addresses;
    /* one process a directory */
    CHECK_STATUS(server_start(&options, &server, &error), UNAVAILABLE);
    CHECK(server == NULL);
    world_join(&w, "one");
    world_stop(&w);
    world_destroy(&w);
}
