/* What an enrolled site may send by mistake or with intent. Each is refused with its code, the
 * state root stays as it was, an honest site goes on contributing before, between and after, and
 * the server lives. */
#include "tests/malformed_client.h"

/* ---- the frame of every case ----------------------------------------------------------------- */

struct trial {
    struct world world;
    struct site *good, *bad;
    struct standing before;
};

static void trial_open(struct trial *t, const char *run) {
    world_create(&t->world, "run", run);
    world_start(&t->world);
    t->good = world_join(&t->world, "good");
    t->bad = world_join(&t->world, "bad");
    site_contribute(&t->world, t->good);
    t->before = world_settle(&t->world);
    CHECK_EQUAL(t->before.version, 1);
}

/* Nothing has changed, and the honest site is undisturbed. */
static void trial_unchanged(struct trial *t, const char *what) {
    struct standing after = world_settle(&t->world);
    if (memcmp(&after, &t->before, sizeof after) != 0)
        test_failed(__FILE__, __LINE__, "%s: it left a trace: version %llu, ledger of %llu entries",
                    what, (unsigned long long)after.version, (unsigned long long)after.ledger_size);
    site_contribute(&t->world, t->good);
    t->before = world_settle(&t->world);
    CHECK_EQUAL(t->before.version, after.version + 1);
}

static void trial_close(struct trial *t) {
    site_contribute(&t->world, t->bad); /* it may come back to reason */
    world_settle(&t->world);
    world_stop(&t->world);
    world_start(&t->world); /* and all of it reads back */
    struct standing now = world_settle(&t->world);
    CHECK_EQUAL(now.version, t->before.version + 1);
    site_contribute(&t->world, t->good);
    world_settle(&t->world);
    world_stop(&t->world);
    world_destroy(&t->world);
}

static void expect(const struct verdict *verdict, uint32_t code, const char *what) {
    if (verdict->accepted || verdict->code != code)
        test_failed(__FILE__, __LINE__, "%s: %s (%s, %s), wanted %s", what,
                    verdict->accepted ? "accepted" : refusal_name(verdict->code),
                    rpc_code_name(verdict->rpc), verdict->message, refusal_name(code));
    CHECK(*verdict->message || code == REFUSED_DUPLICATE);
}

/* ---- headers --------------------------------------------------------------------------------- */

struct change {
    const char *what;
    uint32_t code;
    void (*make)(struct contribution *c);
};
static void other_protocol(struct contribution *c) { c->protocol = 2; }
static void other_codec(struct contribution *c) { c->codec = CODEC_BF16; }
static void other_epoch(struct contribution *c) { c->epoch = 7; }
static void other_run(struct contribution *c) { c->run_id[0] ^= 1; }
static void other_site(struct contribution *c) { c->site = 1; }
static void no_site(struct contribution *c) { c->site = 4000000; }
static void other_fragment(struct contribution *c) { c->fragment = 1; }
static void other_key(struct contribution *c) { c->key_id[7] ^= 1; }
static void no_sequence(struct contribution *c) { c->sequence = 0; }
static void future_base(struct contribution *c) { c->base_version = 1000000; }
static void other_root(struct contribution *c) { c->base_root[0] = 1; }
static void no_steps(struct contribution *c) { c->inner_steps = 0; }
static void reserved(struct contribution *c) { c->reserved = 1; }
static void many_tokens(struct contribution *c) { c->tokens = UINT64_MAX; }
static void nan_loss(struct contribution *c) { c->loss = NAN; }
static void infinite_norm(struct contribution *c) { c->norm = INFINITY; }
static void other_norm(struct contribution *c) { c->norm *= 1.0000001; }
static void other_layout(struct contribution *c) { c->layout_digest[0] ^= 1; }
static void oversized(struct contribution *c) { c->payload_size = UINT64_C(1) << 40; }
static void empty(struct contribution *c) { c->payload_size = 0; }
static void other_previous(struct contribution *c) { c->previous[0] ^= 1; }
static void expired(struct contribution *c) { c->signed_at_ms -= 2 * 86400000; }
static void from_the_future(struct contribution *c) { c->signed_at_ms += 2 * 86400000; }
static void other_manifest(struct contribution *c) { c->manifest_digest[0] ^= 1; }
static void other_digest(struct contribution *c) { c->payload_digest[0] ^= 1; }

static const struct change changes[] = {{"protocol", REFUSED_RUN, other_protocol},
                                        {"codec", REFUSED_MALFORMED, other_codec},
                                        {"epoch", REFUSED_EPOCH, other_epoch},
                                        {"run", REFUSED_RUN, other_run},
                                        {"site", REFUSED_UNKNOWN_SITE, other_site},
                                        {"no site", REFUSED_UNKNOWN_SITE, no_site},
                                        {"fragment", REFUSED_MALFORMED, other_fragment},
                                        {"key id", REFUSED_SIGNATURE, other_key},
                                        {"sequence 0", REFUSED_MALFORMED, no_sequence},
                                        {"future base", REFUSED_BASE, future_base},
                                        {"base root", REFUSED_BASE, other_root},
                                        {"no inner steps", REFUSED_MALFORMED, no_steps},
                                        {"reserved", REFUSED_MALFORMED, reserved},
                                        {"tokens", REFUSED_MALFORMED, many_tokens},
                                        {"NaN loss", REFUSED_NONFINITE, nan_loss},
                                        {"infinite norm", REFUSED_NONFINITE, infinite_norm},
                                        {"norm", REFUSED_NORM, other_norm},
                                        {"layout", REFUSED_LAYOUT, other_layout},
                                        {"oversized", REFUSED_SIZE, oversized},
                                        {"empty", REFUSED_SIZE, empty},
                                        {"previous", REFUSED_SEQUENCE, other_previous},
                                        {"expired", REFUSED_EXPIRED, expired},
                                        {"from the future", REFUSED_EXPIRED, from_the_future},
                                        {"manifest", REFUSED_RUN, other_manifest},
                                        {"digest", REFUSED_DIGEST, other_digest}};

TEST(wrong_headers_are_refused_each_with_its_code) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct buffer payload = site_payload(&t.world, t.bad);
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
        changes[i].make(&c);
        struct signed_header header = site_sign(t.bad, &c);
        struct verdict verdict = submit(t.bad, &header, buffer_bytes(&payload));
        expect(&verdict, changes[i].code, changes[i].what);
        trial_unchanged(&t, changes[i].what);
    }
    buffer_deinit(&payload);
    trial_close(&t);
}

TEST(a_wrong_signature_and_another_sites_header_are_refused) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct buffer payload = site_payload(&t.world, t.bad);
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.bad, &c);
    header.signature[10] ^= 1;
    struct verdict verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_SIGNATURE, "a flipped bit in the signature");
    trial_unchanged(&t, "a flipped bit in the signature");
    header = site_sign(t.good, &c); /* somebody else's key */
    verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_SIGNATURE, "another key");
    trial_unchanged(&t, "another key");
    /* true in itself, but not theirs to send */
    c = site_contribution(&t.world, t.good, buffer_bytes(&payload));
    header = site_sign(t.good, &c);
    verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_SIGNATURE, "another site's header");
    trial_unchanged(&t, "another site's header");
    buffer_deinit(&payload);
    trial_close(&t);
}

TEST(replays_are_duplicates_with_the_old_receipt_and_old_sequences_do_not_come_back) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct buffer payload = site_payload(&t.world, t.bad), other = site_payload(&t.world, t.bad);
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.bad, &c);
    struct verdict verdict = submit(t.bad, &header, buffer_bytes(&payload));
    CHECK(verdict.accepted);
    struct receipt first, again;
    check_receipt(&t.world, &verdict, &header, &first);
    t.before = world_settle(&t.world);
    for (int i = 0; i < 3; i++) {
        verdict = submit(t.bad, &header, buffer_bytes(&payload));
        expect(&verdict, REFUSED_DUPLICATE, "a replay");
        check_receipt(&t.world, &verdict, &header, &again);
        CHECK_EQUAL(again.index, first.index);
        trial_unchanged(&t, "a replay");
    }
    /* the same sequence, another content */
    c = site_contribution(&t.world, t.bad, buffer_bytes(&other));
    struct signed_header second = site_sign(t.bad, &c);
    verdict = submit(t.bad, &second, buffer_bytes(&other));
    expect(&verdict, REFUSED_COPY, "a used sequence"); /* somebody else with the same key */
    trial_unchanged(&t, "a used sequence");
    site_advance(t.bad, &header);
    world_stop(&t.world); /* a restart does not forget */
    world_start(&t.world);
    verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_DUPLICATE, "a replay after a restart");
    check_receipt(&t.world, &verdict, &header, &again);
    CHECK_EQUAL(again.index, first.index);
    trial_unchanged(&t, "a replay after a restart");
    buffer_deinit(&payload);
    buffer_deinit(&other);
    trial_close(&t);
}

/* ---- payloads -------------------------------------------------------------------------------- */

/* Submits these bytes under a header that is right about them. */
static void try_payload(struct trial *t, struct bytes payload, double norm, uint32_t code,
                        const char *what) {
    struct contribution c = site_contribution(&t->world, t->bad, payload);
    if (c.norm == 0) c.norm = norm;
    struct signed_header header = site_sign(t->bad, &c);
    struct verdict verdict = submit(t->bad, &header, payload);
    expect(&verdict, code, what);
    trial_unchanged(t, what);
}

TEST(sparse_payloads_that_break_the_format_are_refused) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct buffer good = site_payload(&t.world, t.bad), p = {0};
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&good));
    double norm = c.norm;
    static const size_t cuts[] = {1, 2, 11, 12, 13, 40};
    for (size_t i = 0; i < COUNT_OF(cuts); i++)
        try_payload(&t, bytes_of(good.data, cuts[i]), norm, REFUSED_MALFORMED, "cut");
    try_payload(&t, bytes_of(good.data, good.size - 1), norm, REFUSED_MALFORMED, "a byte short");
    buffer_append(&p, good.data, good.size);
    buffer_u8(&p, 0);
    try_payload(&t, buffer_bytes(&p), norm, REFUSED_MALFORMED, "a byte behind the end");
    for (unsigned fill = 0; fill < 256;
         fill += 85) { /* gaps of zero and gaps past the chunk's end */
        p.size = 0;
        buffer_append(&p, good.data, good.size);
        memset(p.data + CODEC_HEADER_SIZE, (int)fill, p.size - CODEC_HEADER_SIZE);
        try_payload(&t, buffer_bytes(&p), norm, REFUSED_MALFORMED, "one byte over and over");
    }
    for (size_t at = 0; at < CODEC_HEADER_SIZE; at++) {
        p.size = 0;
        buffer_append(&p, good.data, good.size);
        p.data[at] ^= 0x40;
        try_payload(&t, buffer_bytes(&p), norm, REFUSED_MALFORMED, "the payload's own header");
    }
    p.size = 0;
    for (int i = 0; i < 3000; i++) buffer_u8(&p, (uint8_t)random_below(&t.bad->random, 256));
    try_payload(&t, bytes_of(p.data, MIN(p.size, good.size)), norm, REFUSED_MALFORMED, "noise");
    buffer_deinit(&good);
    buffer_deinit(&p);
    trial_close(&t);
}

/* Flips bits anywhere: refused, or (a flipped sign is as good a message) accepted; never a crash,
 * never a broken state. */
TEST(flipped_bits_in_a_sparse_payload_are_refused_or_are_another_good_message) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct buffer good = site_payload(&t.world, t.bad);
    unsigned refused = 0, tries = 60;
    for (unsigned i = 0; i < tries; i++) {
        struct buffer p = {0};
        buffer_append(&p, good.data, good.size);
        p.data[CODEC_HEADER_SIZE + random_below(&t.bad->random, p.size - CODEC_HEADER_SIZE)] ^=
            (uint8_t)(1u << random_below(&t.bad->random, 8));
        struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&p));
        struct signed_header header = site_sign(t.bad, &c);
        struct verdict verdict = submit(t.bad, &header, buffer_bytes(&p));
        if (verdict.accepted) {
            site_advance(t.bad, &header);
            t.before = world_settle(&t.world);
        } else {
            CHECK(verdict.code == REFUSED_MALFORMED || verdict.code == REFUSED_NORM ||
                  verdict.code == REFUSED_BUSY);
            refused++;
            if (i % 10 == 0) trial_unchanged(&t, "a flipped bit");
        }
        buffer_deinit(&p);
    }
    CHECK(refused > 0);
    buffer_deinit(&good);
    t.before = world_settle(&t.world);
    trial_close(&t);
}

TEST(nan_and_infinity_are_refused_as_such) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    static const uint32_t patterns[] = {0x7FC00000, 0x7F800001, 0xFFC00000, 0x7F800000, 0xFF800000};
    struct buffer good = site_payload(&t.world, t.bad);
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        struct buffer p = {0};
        buffer_append(&p, good.data, good.size);
        size_t at =
            CODEC_HEADER_SIZE + 4 * (size_t)random_below(&t.bad->random, t.world.parameters);
        memcpy(p.data + at, &patterns[i], 4);
        try_payload(&t, buffer_bytes(&p), 1, REFUSED_NONFINITE, "a number that is none");
        buffer_deinit(&p);
    }
    try_payload(&t, bytes_of(good.data, good.size - 4), 1, REFUSED_MALFORMED,
                "one parameter short");
    buffer_deinit(&good);
    trial_close(&t);
}

TEST(other_bytes_than_were_signed_are_refused) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct buffer payload = site_payload(&t.world, t.bad);
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.bad, &c);
    payload.data[payload.size / 2] ^= 1;
    struct verdict verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_DIGEST, "a flipped bit on the way");
    trial_unchanged(&t, "a flipped bit on the way");
    payload.data[payload.size / 2] ^=
        1; /* and the right ones are taken then, under the same header */
    verdict = submit(t.bad, &header, buffer_bytes(&payload));
    CHECK(verdict.accepted);
    site_advance(t.bad, &header);
    t.before = world_settle(&t.world);
    buffer_deinit(&payload);
    trial_close(&t);
}

/* Who follows the ledger knows the digests of the others' payloads, and may name them in a header
 * of its own. */
TEST(naming_another_sites_payload_with_a_wrong_header_does_not_destroy_it) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct buffer payload = site_payload(&t.world, t.good);
    struct contribution theirs = site_contribution(&t.world, t.good, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.good, &theirs);
    struct verdict verdict = submit(t.good, &header, buffer_bytes(&payload));
    CHECK(verdict.accepted);
    site_advance(t.good, &header);
    t.before = world_settle(&t.world);
    for (int kind = 0; kind < 3; kind++) {
        struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
        if (kind == 0) c.norm *= 2;
        if (kind == 1) c.payload_size -= 1;
        if (kind == 2) c.payload_size += 1;
        header = site_sign(t.bad, &c);
        verdict = submit(
            t.bad, &header,
            bytes_of(payload.data, (size_t)c.payload_size > payload.size ? payload.size : 1));
        CHECK(!verdict.accepted &&
              (verdict.code == REFUSED_NORM || verdict.code == REFUSED_DIGEST ||
               verdict.code == REFUSED_SIZE));
        trial_unchanged(&t, "another site's payload under a wrong header");
    }
    struct directory data;
    struct error error = {0};
    CHECK_OK(directory_open(t.world.directory, true, NULL, NULL, &data, &error));
    CHECK_OK(blob_check(data.blobs, theirs.payload_digest, &error));
    directory_close(&data);
    buffer_deinit(&payload);
    trial_close(&t);
}

/* ---- the stream ------------------------------------------------------------------------------ */

/* Opens a stream with a good header and reads the credit. */
static struct stream *credited(struct trial *t, struct bytes payload, struct verdict *verdict) {
    struct contribution c = site_contribution(&t->world, t->bad, payload);
    struct signed_header header = site_sign(t->bad, &c);
    *verdict = (struct verdict){0};
    struct stream *stream = stream_open(t->bad->channel, METHOD_SUBMIT);
    write_open(stream, &header);
    CHECK(read_reply(stream, verdict));
    CHECK(verdict->credited);
    return stream;
}

TEST(chunks_at_a_wrong_offset_or_past_the_end_are_refused) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct verdict verdict;
    static const int64_t shifts[] = {1, -1, -4096, 4096, INT64_C(1) << 40};
    for (size_t i = 0; i < COUNT_OF(shifts); i++) {
        struct buffer payload = site_payload(&t.world, t.bad);
        struct stream *stream = credited(&t, buffer_bytes(&payload), &verdict);
        CHECK_EQUAL(verdict.resume_offset, 0);
        CHECK(write_chunk(stream, 0, bytes_of(payload.data, 4096)));
        write_chunk(stream, 4096 + (uint64_t)shifts[i], bytes_of(payload.data, 4096));
        read_verdict(stream, &verdict);
        expect(&verdict, REFUSED_SIZE, "a chunk at a wrong offset");
        stream_close(stream);
        trial_unchanged(&t, "a chunk at a wrong offset");
        buffer_deinit(&payload);
    }
    struct buffer payload = site_payload(&t.world, t.bad);
    struct stream *stream = credited(&t, buffer_bytes(&payload), &verdict);
    size_t last = payload.size / 4096 * 4096;
    if (last == payload.size) last -= 4096;
    for (size_t at = 0; at < last; at += 4096)
        CHECK(write_chunk(stream, at, bytes_of(payload.data + at, 4096)));
    write_chunk(stream, last, bytes_of(payload.data, payload.size - last + 1));
    read_verdict(stream, &verdict);
    expect(&verdict, REFUSED_SIZE, "a byte more than announced");
    stream_close(stream);
    trial_unchanged(&t, "a byte more than announced");
    buffer_deinit(&payload);
    trial_close(&t);
}

TEST(fewer_bytes_than_announced_are_refused_when_the_site_has_said_all) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct verdict verdict;
    struct buffer payload = site_payload(&t.world, t.bad);
    struct stream *stream = credited(&t, buffer_bytes(&payload), &verdict);
    CHECK(write_chunk(stream, 0, bytes_of(payload.data, 4096)));
    rpc_call_half_close(stream->call);
    read_verdict(stream, &verdict);
    expect(&verdict, REFUSED_SIZE, "fewer bytes than announced");
    stream_close(stream);
    trial_unchanged(&t, "fewer bytes than announced");
    stream = stream_open(t.bad->channel, METHOD_SUBMIT); /* nothing at all */
    rpc_call_half_close(stream->call);
    CHECK(stream_end(stream) != RPC_OK);
    stream_close(stream);
    trial_unchanged(&t, "nothing at all");
    buffer_deinit(&payload);
    trial_close(&t);
}

TEST(headers_and_chunks_in_a_wrong_order_end_the_call) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct verdict verdict;
    struct buffer payload = site_payload(&t.world, t.bad);
    struct stream *stream = stream_open(t.bad->channel, METHOD_SUBMIT);
    write_chunk(stream, 0, bytes_of(payload.data, 4096));
    CHECK_EQUAL(stream_end(stream), RPC_INVALID_ARGUMENT);
    stream_close(stream);
    trial_unchanged(&t, "a chunk before the header");

    stream = credited(&t, buffer_bytes(&payload), &verdict);
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.bad, &c);
    write_open(stream, &header);
    CHECK_EQUAL(stream_end(stream), RPC_INVALID_ARGUMENT);
    stream_close(stream);
    trial_unchanged(&t, "a second header");
    buffer_deinit(&payload);
    trial_close(&t);
}

TEST(garbage_frames_end_the_call_and_nothing_else) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct verdict verdict;
    struct buffer payload = site_payload(&t.world, t.bad);
    for (unsigned i = 0; i < 24; i++) {
        struct buffer noise = {0};
        size_t size = i == 0 ? 0 : (size_t)random_below(&t.bad->random, 3000);
        for (size_t at = 0; at < size; at++)
            buffer_u8(&noise, (uint8_t)random_below(&t.bad->random, 256));
        /* a frame, but no message */
        if (i % 3 == 1 && size > 4) memcpy(noise.data, &(uint32_t){(uint32_t)size - 4}, 4);
        /* a header of 4 GiB */
        if (i % 3 == 2 && size > 4) memset(noise.data, 255, 4);
        struct stream *stream = i % 2 ? stream_open(t.bad->channel, METHOD_SUBMIT)
                                      : credited(&t, buffer_bytes(&payload), &verdict);
        stream_write(stream, buffer_bytes(&noise), bytes_of(NULL, 0));
        CHECK_EQUAL(stream_end(stream), RPC_INVALID_ARGUMENT);
        stream_close(stream);
        buffer_deinit(&noise);
        if (i % 4 == 0) trial_unchanged(&t, "garbage");
    }
    static const enum service_method methods[] = {METHOD_FOLLOW, METHOD_SNAPSHOT, METHOD_HEARTBEAT};
    for (size_t i = 0; i < COUNT_OF(methods); i++) {
        struct stream *stream = stream_open(t.bad->channel, methods[i]);
        uint8_t junk[64] = {60, 0, 0, 0, 255, 255, 255};
        stream_write(stream, bytes_of(junk, sizeof junk), bytes_of(NULL, 0));
        CHECK_EQUAL(stream_end(stream), RPC_INVALID_ARGUMENT);
        stream_close(stream);
    }
    uint8_t *huge = xcalloc(1, FRAME_LIMIT + 100000);
    struct stream *stream = stream_open(t.bad->channel, METHOD_SUBMIT);
    stream_write(stream, bytes_of(huge, FRAME_LIMIT + 100000), bytes_of(NULL, 0));
    CHECK(stream_end(stream) != RPC_OK);
    stream_close(stream);
    free(huge);
    trial_unchanged(&t, "a message past the limit");
    buffer_deinit(&payload);
    trial_close(&t);
}

TEST(a_broken_upload_goes_on_at_the_byte_where_it_broke) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct verdict verdict;
    struct buffer payload = site_payload(&t.world, t.bad);
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.bad, &c);
    size_t sent = 0;
    for (int round = 0; round < 3; round++) {
        struct stream *stream = stream_open(t.bad->channel, METHOD_SUBMIT);
        verdict = (struct verdict){0};
        write_open(stream, &header);
        CHECK(read_reply(stream, &verdict) && verdict.credited);
        if (verdict.resume_offset > sent || verdict.resume_offset + 8192 < sent)
            test_failed(__FILE__, __LINE__, "resumes at %llu, %zu were sent",
                        (unsigned long long)verdict.resume_offset, sent);
        if (round > 0) CHECK(verdict.resume_offset > 0);
        for (sent = verdict.resume_offset; sent < (size_t)(round + 1) * 16384; sent += 4096)
            CHECK(write_chunk(stream, sent, bytes_of(payload.data + sent, 4096)));
        clock_sleep_ms(100); /* they arrive */
        if (round == 1) {    /* the connection itself breaks */
            rpc_call_cancel(stream->call, RPC_CANCELLED, "cable");
            stream_close(stream);
            rpc_channel_close(t.bad->channel);
            t.bad->channel = world_channel(&t.world, &t.bad->certificate_pem, &t.bad->key_pem);
        } else {
            stream_close(stream);
        }
        trial_unchanged(&t, "half an upload");
    }
    world_stop(&t.world); /* the coordinator goes away in between, too */
    world_start(&t.world);
    verdict = submit(t.bad, &header, buffer_bytes(&payload));
    CHECK(verdict.accepted);
    CHECK(verdict.resume_offset >= 40960 && verdict.resume_offset <= sent);
    struct receipt receipt;
    check_receipt(&t.world, &verdict, &header, &receipt);
    site_advance(t.bad, &header);
    t.before = world_settle(&t.world);
    buffer_deinit(&payload);
    trial_close(&t);
}

static size_t files_in(const char *directory, const char *what) {
    char *path = file_join(directory, what), command[512], answer[32] = "";
    snprintf(command, sizeof command, "find '%s' -type f | wc -l", path);
    FILE *pipe = popen(command, "r");
    CHECK(pipe && fgets(answer, sizeof answer, pipe));
    pclose(pipe);
    free(path);
    return strtoull(answer, NULL, 10);
}

TEST(what_was_begun_and_never_accepted_does_not_fill_the_disk) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    uint64_t others = files_in(t.world.directory, "blobs") - t.before.accepted; /* the snapshot */
    for (int i = 0; i < 18; i++) {
        struct buffer payload = site_payload(&t.world, t.bad);
        struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
        struct signed_header header = site_sign(t.bad, &c);
        struct verdict verdict = {0};
        struct stream *stream = stream_open(t.bad->channel, METHOD_SUBMIT);
        write_open(stream, &header);
        CHECK(read_reply(stream, &verdict) && verdict.credited);
        /* half of it; all; all, and away before the verdict */
        size_t end = i % 3 == 0 ? payload.size / 2 : payload.size;
        for (size_t at = 0; at < end; at += 4096)
            CHECK(
                write_chunk(stream, at, bytes_of(payload.data + at, MIN(end - at, (size_t)4096))));
        if (i % 3 == 1) read_verdict(stream, &verdict);
        if (i % 3 == 2) clock_sleep_ms((uint64_t)i / 3);
        stream_close(stream);
        clock_sleep_ms(30);
        struct standing now = world_settle(&t.world);
        if (now.accepted > t.before.accepted) site_advance(t.bad, &header);
        t.before = now;
        buffer_deinit(&payload);
    }
    CHECK(files_in(t.world.directory, "uploads") <= 1);
    size_t blobs = files_in(t.world.directory, "blobs");
    CHECK(blobs >= others + t.before.accepted && blobs <= others + t.before.accepted + 1);
    trial_unchanged(&t, "begun and left");
    trial_close(&t);
}

/* ---- who may do what ------------------------------------------------------------------------- */

TEST(nobody_without_a_certificate_does_anything_but_join) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    static const enum service_method methods[] = {METHOD_SUBMIT, METHOD_FOLLOW, METHOD_SNAPSHOT,
                                                  METHOD_HEARTBEAT, METHOD_ADMIN};
    for (size_t i = 0; i < COUNT_OF(methods); i++) {
        struct stream *stream = stream_open(t.world.anonymous, methods[i]);
        CHECK_EQUAL(
            (stream_write(stream, bytes_of("\0\0\0\0", 4), bytes_of(NULL, 0)), stream_end(stream)),
            RPC_UNAUTHENTICATED);
        stream_close(stream);
    }
    struct site stranger = {.key = t.bad->key};
    uint8_t secret[SECRET_SIZE] = {1};
    CHECK_EQUAL(world_ask_join(&t.world, "good", bytes_of(secret, sizeof secret), &stranger),
                JOIN_SECRET);
    trial_unchanged(&t, "strangers");
    trial_close(&t);
}

TEST(sites_do_not_give_orders_and_admins_do_not_train) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    struct admin_reply reply;
    struct buffer raw = {0};
    struct arena *arena = arena_new();
    for (int verb = ADMIN_STATUS; verb < ADMIN_VERB_COUNT; verb++) {
        struct admin_request request = {.protocol = 1,
                                        .verb = (enum admin_verb)verb,
                                        .site_name = "good",
                                        .reason = "",
                                        .value = 3};
        CHECK_EQUAL(admin_ask(t.bad->channel, &request, arena, &raw, &reply),
                    RPC_PERMISSION_DENIED);
    }
    buffer_deinit(&raw);
    arena_free(arena);
    static const enum service_method methods[] = {METHOD_SUBMIT, METHOD_FOLLOW, METHOD_SNAPSHOT,
                                                  METHOD_HEARTBEAT};
    for (size_t i = 0; i < COUNT_OF(methods); i++) {
        struct stream *stream = stream_open(t.world.admin, methods[i]);
        stream_write(stream, bytes_of("\0\0\0\0", 4), bytes_of(NULL, 0));
        CHECK_EQUAL(stream_end(stream), RPC_PERMISSION_DENIED);
        stream_close(stream);
    }
    trial_unchanged(&t, "orders by a site");
    trial_close(&t);
}

TEST(joining_is_idempotent_over_the_wire_and_bound_to_secret_name_and_key) {
    struct world w;
    struct error error = {0};
    world_create(&w, "run", SPARSE_RUN);
    world_start(&w);
    uint8_t secret[SECRET_SIZE];
    struct site one = {0}, other = {0};
    CHECK_OK(key_pair_create(&one.key, &error));
    CHECK_OK(key_pair_create(&other.key, &error));
    world_invite(&w, "lagoon", secret);
    CHECK_EQUAL(world_ask_join(&w, "reef", bytes_of(secret, sizeof secret), &one), JOIN_SECRET);
    CHECK_EQUAL(world_ask_join(&w, "No Name", bytes_of(secret, sizeof secret), &one), JOIN_NAME);
    CHECK_EQUAL(world_ask_join(&w, "lagoon", bytes_of(secret, sizeof secret), &one), JOIN_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(world_ask_join(&w, "lagoon", bytes_of(secret, sizeof secret), &one), JOIN_OK);
        CHECK_EQUAL(one.number, 1);
    }
    CHECK_EQUAL(world_ask_join(&w, "lagoon", bytes_of(secret, sizeof secret), &other), JOIN_USED);
    uint8_t second[SECRET_SIZE];
    world_invite(&w, "reef", second);
    CHECK_EQUAL(world_ask_join(&w, "reef", bytes_of(second, sizeof second), &one),
                JOIN_CSR); /* a key is enrolled once */
    CHECK_EQUAL(world_ask_join(&w, "reef", bytes_of(second, sizeof second), &other), JOIN_OK);
    CHECK_EQUAL(other.number, 2);
    key_pair_destroy(one.key);
    key_pair_destroy(other.key);
    buffer_deinit(&one.certificate_pem);
    buffer_deinit(&other.certificate_pem);
    world_stop(&w);
    world_destroy(&w);
}

TEST(a_revoked_site_is_cut_and_stays_out) {
    struct trial t;
    trial_open(&t, DENSE_RUN);
    struct error error = {0};
    struct verdict verdict;
    struct buffer payload = site_payload(&t.world, t.bad), request = {0}, reply = {0};
    struct follow_request follow = {.protocol = 1};
    CHECK_OK(follow_request_encode(&follow, &request, &error));
    struct stream *following = stream_open(t.bad->channel, METHOD_FOLLOW);
    stream_write(following, buffer_bytes(&request), bytes_of(NULL, 0));
    struct bytes raw;
    CHECK(stream_next(following, &raw));
    struct stream *sending = credited(&t, buffer_bytes(&payload), &verdict);
    CHECK(write_chunk(sending, 0, bytes_of(payload.data, 4096)));
    CHECK_EQUAL(admin_do(&t.world, ADMIN_REVOKE, "bad", 0), ADMIN_OK);
    read_verdict(sending, &verdict);
    expect(&verdict, REFUSED_REVOKED, "a transfer under way");
    CHECK_EQUAL(stream_end(following), RPC_PERMISSION_DENIED);
    stream_close(sending);
    stream_close(following);
    for (int restart = 0; restart < 2; restart++) {
        struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
        struct signed_header header = site_sign(t.bad, &c);
        verdict = submit(t.bad, &header, buffer_bytes(&payload));
        CHECK(!verdict.accepted);
        CHECK(verdict.code == REFUSED_REVOKED || verdict.rpc == RPC_PERMISSION_DENIED);
        CHECK_EQUAL(unary(t.bad->channel, METHOD_HEARTBEAT, &request, &reply),
                    RPC_PERMISSION_DENIED);
        following = stream_open(t.bad->channel, METHOD_FOLLOW);
        stream_write(following, buffer_bytes(&request), bytes_of(NULL, 0));
        CHECK_EQUAL(stream_end(following), RPC_PERMISSION_DENIED);
        stream_close(following);
        site_contribute(&t.world, t.good);
        world_settle(&t.world);
        world_stop(&t.world);
        world_start(&t.world);
    }
    CHECK(admin_do(&t.world, ADMIN_REVOKE, "bad", 0) != ADMIN_OK);
    world_stop(&t.world);
    world_destroy(&t.world);
    buffer_deinit(&payload);
    buffer_deinit(&request);
    buffer_deinit(&reply);
}

TEST(orders_that_make_no_sense_are_refused_and_the_coordinator_lives) {
    struct trial t;
    trial_open(&t, SPARSE_RUN);
    CHECK(admin_set(&t.world, "inner.inner_steps", "2000000") != ADMIN_OK);
    CHECK(admin_set(&t.world, "inner.inner_steps", "") != ADMIN_OK);
    CHECK(admin_do(&t.world, ADMIN_RESUME, "", 0) != ADMIN_OK);
    CHECK(admin_do(&t.world, ADMIN_INVITE, "good", 0) != ADMIN_OK);
    CHECK(admin_do(&t.world, ADMIN_REVOKE, "nobody", 0) != ADMIN_OK);
    trial_unchanged(&t, "nonsense");
    CHECK_EQUAL(admin_do(&t.world, ADMIN_PAUSE, "", 0), ADMIN_OK);
    struct buffer payload = site_payload(&t.world, t.bad);
    struct contribution c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    struct signed_header header = site_sign(t.bad, &c);
    struct verdict verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_PAUSED, "while paused");
    CHECK_EQUAL(admin_do(&t.world, ADMIN_RESUME, "", 0), ADMIN_OK);
    verdict = submit(t.bad, &header, buffer_bytes(&payload)); /* the same bytes */
    CHECK(verdict.accepted);
    site_advance(t.bad, &header);
    uint8_t secret[SECRET_SIZE];
    world_invite(&t.world, "late", secret);
    CHECK_EQUAL(admin_do(&t.world, ADMIN_STOP, "", 0), ADMIN_OK);
    CHECK(admin_set(&t.world, "inner.inner_steps", "5") != ADMIN_OK);
    CHECK(admin_do(&t.world, ADMIN_INVITE, "later", 0) != ADMIN_OK);
    struct site late = {0};
    struct error error = {0};
    CHECK_OK(key_pair_create(&late.key, &error));
    CHECK_EQUAL(world_ask_join(&t.world, "late", bytes_of(secret, sizeof secret), &late),
                JOIN_STOPPED);
    key_pair_destroy(late.key);
    c = site_contribution(&t.world, t.bad, buffer_bytes(&payload));
    header = site_sign(t.bad, &c);
    verdict = submit(t.bad, &header, buffer_bytes(&payload));
    expect(&verdict, REFUSED_STOPPED, "after the end");
    buffer_deinit(&payload);
    world_settle(&t.world);
    world_stop(&t.world);
    world_destroy(&t.world);
}
