/* Weights by policy: what each comes to, that they add up, and the two bounds that nothing that a
 * site tells gets beyond. */
#include "fed/weight.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "tests/fed_fixture.h"

static struct manifest manifest_of(enum weight_policy policy, const char *shares) {
    struct manifest manifest;
    manifest_defaults(&manifest);
    manifest.weights = policy;
    snprintf(manifest.shares, sizeof manifest.shares, "%s", shares);
    return manifest;
}

/* Each site's contributions, `every` milliseconds apart with so many tokens, until `until`. */
static void note_flow(struct weighing *weights, uint32_t site, uint64_t tokens, double share,
                      uint64_t every, uint64_t until) {
    for (uint64_t at = every; at <= until; at += every)
        weighing_note(weights, site, tokens, share, at, at);
}

TEST(equal_weighs_everything_alike) {
    struct manifest manifest = manifest_of(WEIGHTS_EQUAL, "none");
    struct weighing weights = {0};
    weighing_note(&weights, 1, 1, 1, 10, 10);
    weighing_note(&weights, 2, 1000000, 7, 10, 10);
    for (uint32_t site = 1; site <= 3; site++)
        CHECK_NEAR(weighing_of(&weights, &manifest, site, 10), 1, 0);
    weighing_deinit(&weights);
}

TEST(by_tokens_a_round_weighs_as_much_as_it_has_sites_and_each_by_its_own) {
    struct manifest manifest = manifest_of(WEIGHTS_TOKENS, "none");
    struct weighing weights = {0};
    const uint64_t tokens[] = {100, 200, 300, 600};
    for (uint32_t i = 0; i < 4; i++) weighing_note(&weights, i + 1, tokens[i], 1, 5, 5);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_NEAR(weighing_of(&weights, &manifest, i + 1, 5), (double)tokens[i] / 300, 1e-12);
    weighing_deinit(&weights);
}

/* Sites of different speeds, with and without DyLU: who trains more than its share adds its share
 * of all that is trained, and who trains less adds all that it has. */
TEST(by_shares_who_trains_more_than_its_share_adds_its_share) {
    struct manifest manifest = manifest_of(WEIGHTS_SHARES, "a=0.5 b=0.25");
    const double shares[] = {weight_share(&manifest, "a"), weight_share(&manifest, "b"),
                             weight_share(&manifest, "c")};
    CHECK_NEAR(shares[0], 0.5, 0);
    CHECK_NEAR(shares[2], 0.375, 0); /* the mean of those that are written */
    for (int dylu = 0; dylu < 2; dylu++) {
        struct weighing weights = {0};
        const uint64_t every[] = {1000, 1500, 2000}, tokens[] = {60000, 40000, 30000};
        const double wanted[] = {0.5 / 1.125 * 13 / 6, 0.25 / 1.125 * 13 / 4, 1};
        for (uint32_t i = 0; i < 3; i++)
            note_flow(&weights, i + 1, dylu ? tokens[i] : 60000, shares[i], dylu ? 1000 : every[i],
                      600000);
        for (uint32_t i = 0; i < 3; i++)
            CHECK_NEAR(weighing_of(&weights, &manifest, i + 1, 600000), wanted[i], 1e-3);
        weighing_deinit(&weights);
    }
}

/* Of four sites with equal shares the fastest trains more than half: it adds a quarter of what is
 * trained, which is much more than the slow ones do. */
TEST(by_shares_what_a_fast_site_trains_within_its_share_is_not_thrown_away) {
    struct manifest manifest = manifest_of(WEIGHTS_SHARES, "none");
    struct weighing weights = {0};
    const uint64_t tokens[] = {2784, 3600, 7248, 15984};
    const double all = 29616;
    for (uint32_t i = 0; i < 4; i++) note_flow(&weights, i + 1, tokens[i], 1, 1000, 600000);
    for (uint32_t i = 0; i < 2; i++)
        CHECK_NEAR(weighing_of(&weights, &manifest, i + 1, 600000), 1, 0);
    /* 15984 count as 4 times the lower median, 14400 */
    CHECK_NEAR(weighing_of(&weights, &manifest, 3, 600000), (all - 1584) / 4 / 7248, 1e-3);
    CHECK_NEAR(weighing_of(&weights, &manifest, 4, 600000), (all - 1584) / 4 / 14400, 1e-3);
    weighing_deinit(&weights);
}

/* Whatever a site tells, it gets no more than under `equal`, and takes from nobody more than its
 * own part. */
TEST(by_shares_a_lie_gains_nothing) {
    struct manifest manifest = manifest_of(WEIGHTS_SHARES, "none");
    for (uint64_t told = 1; told < TOKENS_LIMIT; told *= 100) {
        struct weighing weights = {0};
        for (uint32_t i = 0; i < 5; i++)
            note_flow(&weights, i + 1, i ? 10000 : told, 1, 1000, 600000);
        CHECK(weighing_of(&weights, &manifest, 1, 600000) <= 1);
        for (uint32_t i = 1; i < 5; i++)
            CHECK(weighing_of(&weights, &manifest, i + 1, 600000) > 0.84); /* 4.25 of 5 */
        weighing_deinit(&weights);
    }
}

TEST(what_is_not_known_weighs_one) {
    struct manifest manifest = manifest_of(WEIGHTS_SHARES, "none");
    struct weighing weights = {0};
    CHECK_NEAR(weighing_of(&weights, &manifest, 9, 5), 1, 0);
    weighing_note(&weights, 1, 100, 1, 5, 5); /* since when it trained nobody knows */
    CHECK_NEAR(weighing_of(&weights, &manifest, 1, 5), 1, 0);
    weighing_note(&weights, 1, 100, 1, 5, 5); /* no time went by */
    CHECK_NEAR(weighing_of(&weights, &manifest, 1, 5), 1, 0);
    weighing_deinit(&weights);
}

TEST(a_revoked_sites_voice_and_an_old_one_count_no_more) {
    struct manifest manifest = manifest_of(WEIGHTS_TOKENS, "none");
    manifest.admission.voice_age_ms = 1000;
    struct weighing weights = {0};
    weighing_note(&weights, 1, 100, 1, 10, 10);
    weighing_note(&weights, 2, 300, 1, 1200, 1200);
    weighing_note(&weights, 3, 300, 1, 1200, 1200);
    CHECK_NEAR(weighing_of(&weights, &manifest, 2, 1200), 1, 0); /* 1 is too old */
    weighing_note(&weights, 1, 100, 1, 1200, 1200);
    CHECK_NEAR(weighing_of(&weights, &manifest, 2, 1200), 9.0 / 7, 1e-12);
    weighing_silence(&weights, 1);
    CHECK_NEAR(weighing_of(&weights, &manifest, 2, 1200), 1, 0);
    weighing_deinit(&weights);
}

/* Random sites, of which one tells whatever it likes: within the bounds, finite, the same when it
 * is asked again, and the honest ones keep most of what they had. */
TEST(whatever_one_site_tells_the_weights_stay_within_their_bounds) {
    struct random random;
    random_init(&random, 4242);
    for (int turn = 0; turn < 400; turn++) {
        struct manifest manifest = manifest_of(turn % 2 ? WEIGHTS_SHARES : WEIGHTS_TOKENS, "none");
        struct weighing weights = {0};
        uint32_t sites = 3 + (uint32_t)random_below(&random, 9);
        uint64_t lie = random_below(&random, 2) ? TOKENS_LIMIT : 1;
        uint64_t now = 0;
        for (int round = 0; round < 6; round++) {
            now += 1 + random_below(&random, 1000);
            for (uint32_t site = 1; site <= sites; site++)
                weighing_note(&weights, site, site == 1 ? lie : 1000, 1, now, now);
        }
        for (uint32_t site = 1; site <= sites; site++) {
            double weight = weighing_of(&weights, &manifest, site, now);
            CHECK(weight >= WEIGHT_LEAST && weight <= WEIGHT_MOST);
            CHECK_NEAR(weighing_of(&weights, &manifest, site, now), weight, 0);
            if (site > 1) CHECK(weight >= 0.5 && weight <= 1.5);
        }
        weighing_deinit(&weights);
    }
}

/* ---- in a ledger ---- */

/* Runs of entries by each policy, read a second time from their bytes: the same scales. */
TEST(every_replay_weighs_as_the_first_one_did) {
    static const char *const policies[] = {
        "weights: tokens\n", "weights: shares\n",
        "weights: shares\nshares: {site-1: 3, site-3: 0.5}\nadmission: {clip_minimum: 2}\n"};
    for (size_t p = 0; p < COUNT_OF(policies); p++) {
        struct fixture *f = fixture_open(policies[p], 5000);
        fixture_sites(f, 3);
        struct error error = {0};
        uint32_t odd = 0;
        for (uint64_t v = 0; v < 20; v++) {
            for (uint32_t site = 1; site <= 3; site++)
                if (v % site == 0) {
                    f->tokens = 500 * site * site;
                    fixture_contribute(f, site, 0, v, 0.1f * (float)site);
                }
            uint16_t count = (uint16_t)run_state_pending_count(f->run, 0);
            struct ledger_entry entry;
            run_state_plan_step(f->run, 0, count, &entry);
            for (uint16_t i = 0; i < count; i++) {
                const struct run_pending *pending = run_state_pending(f->run, 0, i);
                CHECK(pending->weight <= WEIGHT_MOST && pending->weight >= WEIGHT_LEAST);
                odd += entry.step.parts[i].scale != (float)pending->clip;
            }
            fixture_step(f, 0, count);
        }
        CHECK(odd > 4); /* the policy does something here */
        struct run_state *again = run_state_create();
        for (uint64_t i = 0; i < f->entry_count; i++)
            CHECK_OK(run_state_apply(again, buffer_bytes(&f->entries[i]), false, &error));
        for (uint32_t site = 1; site <= 3; site++)
            CHECK_NEAR(run_state_site(again, site)->last_weight,
                       run_state_site(f->run, site)->last_weight, 0);
        run_state_destroy(again);
        fixture_close(f);
    }
}

TEST(a_step_with_another_weight_than_the_policys_is_refused) {
    struct fixture *f = fixture_open("weights: tokens\nadmission: {clip_factor: 0}\n", 5000);
    fixture_sites(f, 2);
    for (uint32_t site = 1; site <= 2; site++) {
        f->tokens = 1000 * site;
        fixture_contribute(f, site, 0, 0, 0.1f);
    }
    struct ledger_entry entry;
    run_state_plan_step(f->run, 0, 2, &entry);
    CHECK(entry.step.parts[1].scale != 1);
    entry.step.has_root = true;
    entry.step.parts[1].scale = 1;
    fixture_refused(f, &entry, "the rules give");
    fixture_close(f);
}

/* ---- the manifest ---- */

static void check_shares(const char *text, const char *wanted) {
    struct error error = {0};
    if (!wanted) {
        CHECK_OK(shares_check(text, &error));
        return;
    }
    CHECK_STATUS(shares_check(text, &error), INVALID);
    CHECK_CONTAINS(error.message, wanted);
}

TEST(shares_are_names_and_numbers_in_order) {
    check_shares("none", NULL);
    check_shares("a=1", NULL);
    check_shares("a=0.25 b-2=3e2", NULL);
    check_shares("", "write none");
    check_shares("   ", "write none");
    check_shares("a", "write SITE=NUMBER");
    check_shares("=1", "invalid name");
    check_shares("a=", "invalid value");
    check_shares("a=0", "invalid value");
    check_shares("a=-1", "invalid value");
    check_shares("a=nan", "invalid value");
    check_shares("A=1", "invalid name");
    check_shares("a=1 a=2", "once");
    check_shares("b=1 a=2", "alphabet");
}

TEST(a_mapping_of_shares_is_their_text_in_order_and_reads_back) {
    static const char yaml[] = "name: x\nweights: shares\nshares: {us-1: 0.5, eu-1: 0.25}\n";
    struct manifest manifest, again;
    struct error error = {0};
    struct buffer text = {0};
    CHECK_OK(manifest_parse(bytes_of(yaml, strlen(yaml)), &manifest, &error));
    CHECK_TEXT(manifest.shares, "eu-1=0.25 us-1=0.5");
    manifest_write(&manifest, &text);
    CHECK_OK(manifest_parse(buffer_bytes(&text), &again, &error));
    CHECK_TEXT(again.shares, manifest.shares);
    CHECK_EQUAL(again.weights, WEIGHTS_SHARES);
    buffer_deinit(&text);
    static const char bad[] = "name: x\nshares:\n  eu-1: 0\n";
    CHECK_STATUS(manifest_parse(bytes_of(bad, strlen(bad)), &manifest, &error), INVALID);
    CHECK_CONTAINS(error.message, "manifest:3");
}
