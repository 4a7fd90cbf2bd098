#include "node/uplink.h"

#include "tests/node_fake_coordinator.h"

enum { PAYLOAD = 50000 };

struct site {
    struct fake *fake;
    struct journal *journal;
    struct uplink *uplink;
    struct told told;
    struct traffic traffic;
    struct buffer payload;
    struct journal_round round;
};

static void tell(void *context, const struct node_event *event) {
    struct site *site = context;
    told_event(&site->told, event);
}

/* A spooled contribution of 50 kB, sequence 9 of fragment 0. */
static struct site *begin(uint64_t bandwidth) {
    struct site *site = xcalloc(1, sizeof *site);
    struct error error = {0};
    pthread_mutex_init(&site->told.lock, NULL);
    site->fake = fake_start();
    CHECK_OK(journal_open(test_directory(), 1, &site->journal, &error));
    for (unsigned i = 0; i < PAYLOAD; i++) buffer_u8(&site->payload, (uint8_t)(i * 7 + i / 251));
    struct contribution contribution = {.protocol = 1, .sequence = 9, .payload_size = PAYLOAD};
    digest_sha256(site->payload.data, PAYLOAD, contribution.payload_digest);
    struct journal_round *round = &site->round;
    round->sequence = 9;
    round->payload_size = PAYLOAD;
    memcpy(round->payload_digest, contribution.payload_digest, DIGEST_SIZE);
    contribution_encode(&contribution, round->header);
    struct journal_round_contents contents = {.payload = buffer_bytes(&site->payload)};
    CHECK_OK(journal_round_begin(site->journal, round, &contents, &error));
    struct uplink_options options = {.journal = site->journal,
                                     .traffic = &site->traffic,
                                     .bandwidth = bandwidth,
                                     .timeout_ms = 20000,
                                     .instance = 77,
                                     .restored = true,
                                     .tell = tell,
                                     .context = site};
    CHECK_OK(uplink_start(&options, &site->uplink, &error));
    site->fake->answer_after = PAYLOAD;
    return site;
}

static void answer_with_receipt(struct site *site) {
    struct submit_reply reply = {.kind = SUBMIT_RECEIPT, .receipt = bytes_of("a receipt", 9)};
    struct error error = {0};
    CHECK_OK(submit_reply_encode(&reply, &site->fake->answer, &error));
}

static void answer_with_refusal(struct site *site, enum refusal code) {
    struct submit_reply reply = {
        .kind = SUBMIT_REFUSAL,
        .refusal = {.code = code, .message = "no", .retry_after_ms = 250, .current_version = 12}};
    struct error error = {0};
    CHECK_OK(submit_reply_encode(&reply, &site->fake->answer, &error));
}

static void end(struct site *site) {
    uplink_destroy(site->uplink);
    fake_stop(site->fake);
    journal_close(site->journal);
    told_deinit(&site->told);
    buffer_deinit(&site->payload);
    free(site);
}

TEST(a_spooled_contribution_arrives_byte_for_byte_and_its_receipt_is_told) {
    struct site *site = begin(0);
    answer_with_receipt(site);
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    const struct node_event *event = told_wait(&site->told, 0);
    CHECK_EQUAL(event->kind, NODE_UPLOAD_RECEIPT);
    CHECK_EQUAL(event->sequence, 9);
    CHECK_MEMORY(site->told.bytes[0].data, "a receipt", 9);
    CHECK_EQUAL(site->fake->payload.size, PAYLOAD);
    CHECK_MEMORY(site->fake->payload.data, site->payload.data, PAYLOAD);
    CHECK_MEMORY(site->fake->header, site->round.header, CONTRIBUTION_HEADER_SIZE);
    CHECK(site->fake->largest_chunk <= site->fake->chunk_limit);
    CHECK(atomic_load(&site->traffic.up) > PAYLOAD);
    end(site);
}

TEST(it_goes_on_from_the_byte_that_the_credit_names) {
    struct site *site = begin(0);
    answer_with_receipt(site);
    site->fake->credit_offset = 30001;
    site->fake->answer_after = PAYLOAD - 30001;
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    CHECK_EQUAL(told_wait(&site->told, 0)->kind, NODE_UPLOAD_RECEIPT);
    CHECK_EQUAL(site->fake->payload.size, PAYLOAD - 30001);
    CHECK_MEMORY(site->fake->payload.data, site->payload.data + 30001, PAYLOAD - 30001);
    CHECK(atomic_load(&site->traffic.up) < 25000);
    end(site);
}

TEST(a_refusal_in_the_middle_is_told_with_its_code) {
    struct site *site = begin(0);
    answer_with_refusal(site, REFUSED_REBASE);
    site->fake->answer_after = 10000;
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    const struct node_event *event = told_wait(&site->told, 0);
    CHECK_EQUAL(event->kind, NODE_UPLOAD_REFUSED);
    CHECK_EQUAL(event->refused.code, REFUSED_REBASE);
    CHECK_EQUAL(event->refused.retry_after_ms, 250);
    CHECK_EQUAL(event->refused.current_version, 12);
    end(site);
}

TEST(a_stream_that_breaks_is_told_once_and_can_be_sent_again) {
    struct site *site = begin(0);
    site->fake->answer_after = 10000;
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    CHECK_EQUAL(told_wait(&site->told, 0)->kind, NODE_UPLOAD_BROKEN);
    clock_sleep_ms(100);
    CHECK_EQUAL(atomic_load(&site->told.count), 1);
    site->fake->credit_offset = site->fake->payload.size;
    site->fake->answer_after = PAYLOAD - site->fake->payload.size;
    site->fake->payload.size = 0;
    answer_with_receipt(site);
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    CHECK_EQUAL(told_wait(&site->told, 1)->kind, NODE_UPLOAD_RECEIPT);
    end(site);
}

TEST(credit_beyond_the_payload_breaks_the_upload) {
    struct site *site = begin(0);
    site->fake->credit_offset = PAYLOAD + 1;
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    CHECK_EQUAL(told_wait(&site->told, 0)->kind, NODE_UPLOAD_BROKEN);
    end(site);
}

TEST(a_contribution_that_is_not_spooled_is_not_sent) {
    struct site *site = begin(0);
    uplink_send(site->uplink, site->fake->channel, 0, 10);
    CHECK_EQUAL(told_wait(&site->told, 0)->kind, NODE_UPLOAD_BROKEN);
    CHECK_EQUAL(atomic_load(&site->fake->submits), 0);
    end(site);
}

TEST(a_bandwidth_cap_is_kept) {
    struct site *site =
        begin(40000); /* 50 kB take 1.25 s, of which a quarter of a second was saved up */
    answer_with_receipt(site);
    uint64_t from = clock_monotonic_ms();
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    CHECK_EQUAL(told_wait(&site->told, 0)->kind, NODE_UPLOAD_RECEIPT);
    uint64_t spent = clock_monotonic_ms() - from;
    CHECK(spent >= 900);
    end(site);
}

TEST(stopping_cuts_an_upload_and_tells_nothing) {
    struct site *site = begin(80); /* ten minutes: the test's deadline is before them */
    answer_with_receipt(site);
    uplink_send(site->uplink, site->fake->channel, 0, 9);
    WAIT_FOR(atomic_load(&site->fake->submits) == 1);
    uplink_stop(site->uplink);
    CHECK_EQUAL(atomic_load(&site->told.count), 0);
    uplink_send(site->uplink, site->fake->channel, 0, 9); /* what is still asked is dropped */
    end(site);
}

/* Its call may reach the coordinator before the downlink's, and the site's contribution between the
 * two: without the word it would be cut as a copy. */
TEST(who_asks_for_a_lost_payload_says_too_that_the_site_was_restored) {
    struct site *site = begin(0);
    struct contribution wanted = {.payload_size = PAYLOAD};
    memcpy(wanted.payload_digest, site->round.payload_digest, DIGEST_SIZE);
    site->fake->ends[0] = true;
    uplink_refetch(site->uplink, site->fake->channel, 12, &wanted);
    CHECK_EQUAL(told_wait(&site->told, 0)->kind, NODE_REFETCHED);
    const struct follow_request *asked = fake_follow(site->fake, 0);
    CHECK(asked->restored);
    CHECK_EQUAL(asked->instance, 77);
    CHECK_EQUAL(asked->from_index, 12);
    CHECK_EQUAL(asked->payloads_from_index, 12);
    end(site);
}
