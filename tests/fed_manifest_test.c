#include "base/file.h"
#include "base/memory.h"
#include "codec/codec.h"
#include "fed/manifest.h"
#include "tests/test.h"

static enum status parse(const char *yaml, struct manifest *out, struct error *error) {
    return manifest_parse(bytes_of(yaml, strlen(yaml)), out, error);
}

static void check_refused(const char *yaml, const char *part) {
    struct manifest manifest;
    struct error error = {0};
    if (parse(yaml, &manifest, &error) != INVALID)
        test_failed(__FILE__, __LINE__, "not refused: %s", yaml);
    CHECK_CONTAINS(error.message, part);
}

static void check_taken(const char *yaml) {
    struct manifest manifest;
    struct error error = {0};
    if (parse(yaml, &manifest, &error) != OK)
        test_failed(__FILE__, __LINE__, "%s: %s", yaml, error.message);
}

static char *canonical_text(const struct manifest *manifest) {
    struct buffer text = {0};
    manifest_write(manifest, &text);
    buffer_u8(&text, 0);
    return (char *)text.data;
}

TEST(a_name_is_enough_and_the_rest_has_the_defaults_of_sparse_mode) {
    struct manifest m, defaults;
    struct error error = {0};
    CHECK_OK(parse("name: demo", &m, &error));
    CHECK_TEXT(m.name, "demo");
    CHECK_EQUAL(m.model.vocabulary, 256);
    CHECK_EQUAL(m.model.hidden, 128);
    CHECK_EQUAL(m.model.layers, 4);
    CHECK_EQUAL(m.model.heads, 4);
    CHECK_EQUAL(m.model.kv_heads, 2);
    CHECK_EQUAL(m.model.ffn, 384);
    CHECK_EQUAL(m.model.context, 128);
    CHECK_NEAR(m.model.rope_theta, 10000, 0);
    CHECK_NEAR(m.model.norm_epsilon, 1e-5, 0);
    CHECK(m.model.tied);
    CHECK_NEAR(m.inner.learning_rate, 1e-3, 0);
    CHECK_NEAR(m.inner.beta2, 0.95, 0);
    CHECK_NEAR(m.inner.epsilon, 1e-8, 0);
    CHECK_EQUAL(m.inner.inner_steps, 30);
    CHECK(m.inner.dylu);
    CHECK_EQUAL(m.outer.mode, OUTER_SPARSE);
    CHECK(m.outer.learning_rate == RATE_AUTO);
    CHECK_NEAR(m.outer.momentum, 0, 0);
    CHECK_EQUAL(m.outer.period, MANIFEST_AUTO);
    CHECK_EQUAL(m.codec.kind, CODEC_TOPK2_64);
    CHECK_NEAR(m.codec.decay, 0.95, 0);
    CHECK_EQUAL(m.merge.quorum, 1);
    CHECK_EQUAL(m.merge.staleness_cap, MANIFEST_AUTO);
    CHECK_NEAR(m.admission.clip_factor, 1, 0);
    CHECK_EQUAL(m.admission.max_step_tokens, 1 << 26);
    CHECK_EQUAL(m.admission.voice_age_ms, 86400000);
    CHECK_EQUAL(m.admission.clip_minimum, 16);
    CHECK_EQUAL(m.root_interval, 1);
    CHECK_EQUAL(m.snapshot_interval, 64);
    CHECK_OK(manifest_check(&m, &error));
    manifest_defaults(&defaults);
    CHECK_TEXT(defaults.name, "");
    strcpy(defaults.name, "demo");
    char *a = canonical_text(&m), *b = canonical_text(&defaults);
    CHECK_TEXT(a, b);
    free(a);
    free(b);
}

TEST(dense_mode_brings_its_own_defaults_and_wants_the_period_said) {
    struct manifest m;
    struct error error = {0};
    CHECK_OK(parse("name: demo\nouter:\n  mode: dense\n  period: 4\n", &m, &error));
    CHECK_EQUAL(m.outer.mode, OUTER_DENSE);
    CHECK(m.outer.learning_rate == RATE_AUTO);
    CHECK_NEAR(m.outer.momentum, 0.9, 0);
    CHECK_EQUAL(m.outer.period, 4);
    CHECK_EQUAL(m.codec.kind, CODEC_INT8);
    CHECK_NEAR(m.codec.decay, 0, 0);
    CHECK_OK(parse("name: demo\nouter.mode: dense\n", &m, &error));
    CHECK_EQUAL(m.outer.period, MANIFEST_AUTO);
    check_refused("outer.mode: sparse\n", "name: must be given: write 1-32 characters");
}

/* Splits "key: value" lines of the canonical form; the keys are the table's. */
static size_t all_keys(char *text, char *keys[], size_t limit) {
    size_t count = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        *strstr(line, ": ") = '\0';
        CHECK(count < limit);
        keys[count++] = line;
    }
    return count;
}

TEST(every_misspelt_key_is_refused_with_its_line_and_the_key_that_was_meant) {
    struct manifest m;
    manifest_defaults(&m);
    strcpy(m.name, "x");
    char *text = canonical_text(&m), *keys[100];
    size_t count = all_keys(text, keys, 100);
    CHECK(count > 40);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(keys[i]), at = length > 6 ? length - 2 : length - 1;
        char *wrong = xformat("%.*sx%s", (int)at, keys[i], keys[i] + at); /* one letter too many */
        char *yaml = xformat("name: demo\n\n%s: 1\n", wrong),
             *told = xformat("manifest:3: unknown key %s; did you mean %s?", wrong, keys[i]);
        check_refused(yaml, told);
        free(wrong);
        free(yaml);
        free(told);
    }
    free(text);
}

TEST(keys_in_the_wrong_section_and_sections_without_keys_are_explained) {
    check_refused("name: demo\nouter.inner_steps: 5", "did you mean inner.inner_steps?");
    check_refused("name: demo\nhidden: 5", "did you mean model.hidden?");
    check_refused("name: demo\nmodel: {}", "manifest:2: model: a section needs keys below it");
    check_refused("name: demo\nzzzzzzzzzz: 5", "docs/manifest.example.yaml");
    check_refused("name: demo\nname: again", "manifest:2");
    check_refused("name: [a, b]", "name[0]");
    check_refused("name: demo\nfragments: []", "write a single value");
    check_refused("- name", "manifest");
    check_refused("", "name: must be given");
    check_refused("name: &a demo", "manifest:1");
}

struct bound {
    const char *key, *good, *bad;
};

TEST(every_number_has_bounds_and_both_ends_hold) {
    /* good: just inside where that goes alone; bad: just outside */
    static const struct bound bounds[] = {
        {"model.vocabulary", "256", "1"},
        {"model.vocabulary", "1048576", "1048577"},
        {"model.hidden", "8", "1"},
        {"model.hidden", "4096", "65537"},
        {"model.layers", "1", "0"},
        {"model.layers", "1024", "1025"},
        {"model.heads", "2", "0"},
        {"model.heads", "2", "32769"},
        {"model.kv_heads", "1", "0"},
        {"model.ffn", "1", "0"},
        {"model.ffn", "1048576", "1048577"},
        {"model.context", "1", "0"},
        {"model.context", "1048576", "1048577"},
        {"model.rope_theta", "1", "0.99"},
        {"model.rope_theta", "1e9", "1.1e9"},
        {"model.norm_epsilon", "1e-12", "0"},
        {"model.norm_epsilon", "0.01", "0.011"},
        {"initial.seed", "0", "-1"},
        {"initial.seed", "18446744073709551615", "18446744073709551616"},
        {"inner.learning_rate", "1e-12", "0"},
        {"inner.learning_rate", "10", "10.1"},
        {"inner.beta1", "0", "1"},
        {"inner.beta2", "0.99999", "1"},
        {"inner.epsilon", "1", "0"},
        {"inner.weight_decay", "0", "10.5"},
        {"inner.clip_norm", "0", "1e7"},
        {"inner.warmup_tokens", "1152921504606846976", "1152921504606846977"},
        {"inner.floor", "1", "1.01"},
        {"inner.inner_steps", "1", "0"},
        {"inner.inner_steps", "1000000", "1000001"},
        {"outer.learning_rate", "1e-6", "0"},
        {"outer.learning_rate", "10", "11"},
        {"outer.momentum", "0", "1"},
        {"fragments", "1", "0"},
        {"fragments", "64", "65"},
        {"merge.quorum", "1", "0"},
        {"merge.quorum", "256", "257"},
        {"merge.grace", "30d", "31d"},
        {"merge.staleness_cap", "0", "x"},
        {"merge.staleness_cap", "4096", "4097"},
        {"merge.warmup_steps", "1000000", "1000001"},
        {"merge.warmup_grace", "30d", "720h1m"},
        {"admission.clip_factor", "1000", "1001"},
        {"admission.norm_bound", "1e18", "1e19"},
        {"admission.voice_age", "1s", "999ms"},
        {"admission.max_step_tokens", "2147483648", "2147483649"},
        {"admission.max_step_tokens", "1", "0"},
        {"admission.clip_minimum", "1", "0"},
        {"admission.clip_minimum", "64", "4097"},
        {"admission.expiry", "365d", "366d"},
        {"token_budget", "1152921504606846976", "1152921504606846977"},
        {"root_interval", "1", "0"},
        {"root_interval", "1000000", "1000001"},
        {"snapshot_interval", "1", "0"},
        {"snapshot_interval", "1000000", "1000001"}};
    for (size_t i = 0; i < COUNT_OF(bounds); i++) {
        char *good = xformat("name: demo\n%s: %s\n", bounds[i].key, bounds[i].good);
        char *bad = xformat("name: demo\n%s: %s\n", bounds[i].key, bounds[i].bad);
        char *told =
            xformat("manifest:2: %s: invalid value \"%s\": write ", bounds[i].key, bounds[i].bad);
        check_taken(good);
        check_refused(bad, told);
        free(good);
        free(bad);
        free(told);
    }
}

TEST(numbers_that_are_none_are_refused) {
    static const char *const reals[] = {"nan",  "inf", "-inf", "infinity", "1e999", "0x10", "-0",
                                        "-0.5", "+1",  "1e",   "",         "1 2",   "1,5",  "'1 '"};
    for (size_t i = 0; i < COUNT_OF(reals); i++) {
        char *yaml = xformat("name: demo\ninner.weight_decay: %s\n", reals[i]);
        check_refused(yaml, "manifest:2: inner.weight_decay");
        free(yaml);
    }
    static const char *const wholes[] = {
        "",          "1.5", "1e-3", "0x10", "-1", "+1", "010", "1_000", "99999999999999999999",
        "4294967297"};
    for (size_t i = 0; i < COUNT_OF(wholes); i++) {
        char *yaml = xformat("name: demo\ninner.inner_steps: %s\n", wholes[i]);
        check_refused(yaml, "manifest:2: inner.inner_steps");
        free(yaml);
    }
}

TEST(words_are_taken_exactly) {
    check_refused("name: demo\nmodel.tied: True", "write true or false");
    check_refused("name: demo\nouter.mode: mixed", "write dense or sparse");
    check_refused("name: demo\nouter.mode: Sparse", "write dense or sparse");
    check_refused("name: demo\ntokenizer: bpe", "write byte or external");
    check_refused("name: demo\ncodec.kind: topk", "fp32, bf16, int8, fp4, topk2-64 or topk2-128");
    check_refused("name: demo\ninitial.root: abc", "none or 64 hexadecimal digits");
    check_taken("name: demo\ninitial.root: "
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
}

TEST(names_are_short_plain_and_begin_with_a_letter) {
    static const char *const good[] = {"a", "eu-north-1", "abcdefghijklmnopqrstuvwxyz-01234"};
    static const char *const bad[] = {"",     "1a",       "-a",
                                      "Demo", "a_b",      "a b",
                                      "a.b",  "\xC3\xA4", "abcdefghijklmnopqrstuvwxyz-012345"};
    struct error error = {0};
    for (size_t i = 0; i < COUNT_OF(good); i++) CHECK_OK(name_check(good[i], &error));
    for (size_t i = 0; i < COUNT_OF(bad); i++) CHECK_STATUS(name_check(bad[i], &error), INVALID);
}

TEST(durations_want_units_and_only_waiting_may_last_for_ever) {
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"200ms", 200},    {"30s", 30000}, {"5m", 300000}, {"12h", 43200000},
                {"7d", 604800000}, {"0", 0},       {"0s", 0},      {"forever", UINT64_MAX},
                {"1.5s", 1500},    {"5 m", 300000}};
    static const char *const bad[] = {
        "200", "5 ", "1.5ms", "5min", "-1s", "s", "99999999999999999999s", "Forever", "1h30m"};
    struct error error = {0};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        struct manifest m;
        char *yaml = xformat("name: demo\nmerge.grace: %s\n", good[i].text);
        CHECK_OK(parse(yaml, &m, &error));
        CHECK(m.merge.grace_ms == good[i].ms);
        free(yaml);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char *yaml = xformat("name: demo\nmerge.grace: %s\n", bad[i]);
        check_refused(yaml, "units ms, s, m, h, d");
        free(yaml);
    }
    check_refused("name: demo\nadmission.expiry: forever\n", "admission.expiry");
}

TEST(the_two_outer_modes_do_not_mix) {
    check_refused("name: demo\nouter.momentum: 0.9",
                  "manifest:2: outer.momentum: 0.9 with sparse mode diverges");
    check_taken("name: demo\nouter.period: 4");
    check_refused("name: demo\ncodec.kind: int8", "manifest:2: codec.kind: int8 is for dense mode");
    check_refused("name: demo\ncodec.decay: 0.9", "manifest:2: codec.decay");
    check_refused("name: demo\ncodec.decay: 0", "write that");
    check_refused("name: demo\nouter.mode: dense\nouter.period: 4\ncodec.kind: topk2-64",
                  "manifest:4: codec.kind: topk2-64 is for sparse");
    check_refused("name: demo\nouter.mode: dense\nouter.period: 4\ncodec.decay: 0.95",
                  "manifest:4: codec.decay");
    check_taken("name: demo\nouter.mode: dense\nouter.period: 4\ncodec.kind: fp4");
    check_taken("name: demo\nouter.mode: dense\nouter.period: 4\nouter.momentum: 0");
    check_taken("name: demo\ncodec.kind: topk2-128");
}

TEST(shapes_that_do_not_divide_are_refused) {
    check_refused("name: demo\nmodel.heads: 3",
                  "manifest:2: model.heads: 3 heads do not divide model.hidden 128");
    check_refused("name: demo\nmodel.hidden: 130\nmodel.heads: 26\nmodel.kv_heads: 26",
                  "5 wide: it must be even");
    check_refused("name: demo\nmodel.kv_heads: 3", "manifest:2: model.kv_heads");
    check_refused("name: demo\nmodel.kv_heads: 8", "manifest:2: model.kv_heads");
    check_refused("name: demo\nmodel.hidden: 65536\nmodel.heads: 2\nmodel.kv_heads: 2",
                  "at most 1024");
    check_refused("name: demo\nmodel.hidden: 126",
                  "manifest: model.heads (by default)"); /* 4 heads were not written */
    check_refused("name: demo\nmodel.vocabulary: 255", "byte tokenizer");
    check_taken("name: demo\nmodel.vocabulary: 200\ntokenizer: external");
}

TEST(schedules_want_an_end_behind_their_warmup) {
    check_refused("name: demo\ninner.schedule: cosine", "needs an end");
    check_refused("name: demo\ninner.decay_tokens: 5", "constant schedule");
    check_refused(
        "name: demo\ninner.schedule: linear\ninner.decay_tokens: 100\ninner.warmup_tokens: 100",
        "manifest:4");
    check_taken("name: demo\ninner.schedule: cosine\ntoken_budget: 1000\ninner.warmup_tokens: 10");
    check_taken(
        "name: demo\ninner.schedule: linear\ninner.decay_tokens: 101\ninner.warmup_tokens: 100");
}

TEST(merging_and_admission_settings_fit_each_other) {
    check_refused("name: demo\nmerge.staleness_exponent: 0.7", "write 0.5 or 1");
    check_refused("name: demo\nadmission.clip_factor: 0.5", "0 (off) or 1");
    check_taken("name: demo\nadmission.clip_factor: 0\nmerge.staleness_weight: "
                "polynomial\nmerge.staleness_exponent: 1");
}

TEST(what_only_another_kind_of_model_has_is_refused) {
    static const char digest[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    char yaml[200];
    snprintf(yaml, sizeof yaml, "name: demo\nbase: %s", digest);
    check_refused(yaml, "only an adapter has a base");
    snprintf(yaml, sizeof yaml, "name: demo\nlayout: %s\nbase: %s", digest, digest);
    check_taken(yaml);
    snprintf(yaml, sizeof yaml, "name: demo\ntokenizer_digest: %s", digest);
    check_refused(yaml, "bytes have no tokenizer.json");
    snprintf(yaml, sizeof yaml, "name: demo\ntokenizer: external\ntokenizer_digest: %s", digest);
    check_taken(yaml);
}

TEST(one_key_is_set_from_its_text_and_what_was_given_is_known) {
    static const char yaml[] = "name: demo\nmodel: {layers: 6}";
    struct manifest m;
    struct error error = {0};
    CHECK_OK(parse(yaml, &m, &error));
    CHECK(manifest_gives(bytes_of(yaml, strlen(yaml)), "model.layers"));
    CHECK(!manifest_gives(bytes_of(yaml, strlen(yaml)), "model.heads"));
    CHECK(!manifest_gives(bytes_of("{", 1), "model.layers"));
    CHECK_OK(manifest_set(&m, "model.layers", "8", &error));
    CHECK_EQUAL(m.model.layers, 8);
    CHECK_STATUS(manifest_set(&m, "model.layers", "0", &error), INVALID);
    CHECK_STATUS(manifest_set(&m, "model.layers", "many", &error), INVALID);
    CHECK_EQUAL(m.model.layers, 8);
}

TEST(each_rule_that_is_listed_can_be_changed_to_what_the_list_says) {
    struct manifest m, changed;
    struct error error = {0};
    CHECK_OK(parse("name: demo\nouter: {mode: dense, period: 4}", &m, &error));
    struct buffer rules = {0};
    manifest_write_rules(&m, &rules);
    buffer_u8(&rules, 0);
    uint32_t count = 0;
    for (char *line = strtok((char *)rules.data, "\n"); line; line = strtok(NULL, "\n"), count++) {
        char *value = strstr(line, ": ");
        CHECK(value);
        *value = 0;
        struct buffer canonical = {0};
        if (manifest_change(&m, line, value + 2, &changed, &canonical, &error) != OK)
            test_failed(__FILE__, __LINE__, "%s: %s: %s", line, value + 2, error.message);
        CHECK(memcmp(&changed, &m, sizeof m) == 0);
        CHECK(canonical.size == strlen(value + 2) &&
              memcmp(canonical.data, value + 2, canonical.size) == 0);
        buffer_deinit(&canonical);
    }
    CHECK(count > 5);
    CHECK_STATUS(manifest_change(&m, "merge.quorun", "2", &changed, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "did you mean merge.quorum");
    CHECK_STATUS(manifest_change(&m, "x", "2", &changed, NULL, &error), INVALID);
    CHECK_STATUS(manifest_change(&m, "name", "other", &changed, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "holds for the whole run");
    buffer_deinit(&rules);
}

TEST(checking_finds_what_a_program_put_in_wrongly) {
    struct manifest m;
    struct error error = {0};
    manifest_defaults(&m);
    CHECK_STATUS(manifest_check(&m, &error), INVALID); /* no name */
    strcpy(m.name, "x");
    CHECK_OK(manifest_check(&m, &error));
    memset(m.name, 'x', sizeof m.name); /* no end */
    CHECK_STATUS(manifest_check(&m, &error), INVALID);
    manifest_defaults(&m);
    strcpy(m.name, "x");
    m.inner.weight_decay = (double)NAN;
    CHECK_STATUS(manifest_check(&m, &error), INVALID);
    m.inner.weight_decay = -0.0;
    CHECK_STATUS(manifest_check(&m, &error), INVALID);
    m.inner.weight_decay = 0;
    m.codec.kind = 99;
    CHECK_STATUS(manifest_check(&m, &error), INVALID);
    CHECK_CONTAINS(error.message, "codec.kind");
    m.codec.kind = CODEC_TOPK2_64;
    m.inner.schedule = (enum inner_schedule)3;
    CHECK_STATUS(manifest_check(&m, &error), INVALID);
    m.inner.schedule = (enum inner_schedule) - 1;
    CHECK_STATUS(manifest_check(&m, &error), INVALID);
}

static const char unusual[] =
    "name: run-7\n"
    "model:\n  vocabulary: 4096\n  hidden: 192\n  rope_theta: 12345.678\n  norm_epsilon: 3.3e-6\n  "
    "tied: false\n"
    "initial:\n  seed: 18446744073709551615\n"
    "  root: FF0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
    "tokenizer: external\n"
    "inner: {learning_rate: 0.1234567890123456789, schedule: cosine, warmup_tokens: 10, "
    "decay_tokens: 99}\n"
    "outer: {mode: dense, period: 6, learning_rate: 0.30000000000000004}\n"
    "codec.kind: bf16\n"
    "merge: {grace: 90s, warmup_grace: forever, staleness_weight: polynomial}\n"
    "admission.expiry: 0\n";

TEST(the_canonical_form_reads_back_to_the_same_and_writes_to_the_same) {
    struct manifest m, again;
    struct error error = {0};
    CHECK_OK(parse(unusual, &m, &error));
    char *text = canonical_text(&m);
    CHECK_OK(parse(text, &again, &error));
    char *second = canonical_text(&again);
    CHECK_TEXT(second, text);
    CHECK_CONTAINS(text, "initial.root: ff0102");
    CHECK_CONTAINS(text, "merge.grace: 90s\n");
    CHECK_CONTAINS(text, "merge.warmup_grace: forever\n");
    CHECK_CONTAINS(text, "admission.expiry: 0ms\n");
    CHECK(again.inner.learning_rate == 0.1234567890123456789);
    CHECK(again.outer.learning_rate == 0.30000000000000004);
    CHECK(again.model.norm_epsilon == 3.3e-6);
    uint8_t a[DIGEST_SIZE], b[DIGEST_SIZE];
    manifest_digest(&m, a);
    manifest_digest(&again, b);
    CHECK_MEMORY(a, b, DIGEST_SIZE);
    again.outer.period++;
    manifest_digest(&again, b);
    CHECK(memcmp(a, b, DIGEST_SIZE) != 0);
    free(text);
    free(second);
}

TEST(the_same_settings_written_differently_have_one_digest) {
    struct manifest a, b;
    struct error error = {0};
    CHECK_OK(
        parse("name: demo\nmerge.grace: 60s\ninner.learning_rate: 1e-3\nmodel: {hidden: 256}\n", &a,
              &error));
    CHECK_OK(parse("model:\n  hidden: '256'\nmerge: {grace: 1m}\ninner: {learning_rate: "
                   "0.00100}\n\"name\": \"demo\"\n",
                   &b, &error));
    char *x = canonical_text(&a), *y = canonical_text(&b);
    CHECK_TEXT(x, y);
    free(x);
    free(y);
}

TEST(the_digest_of_the_defaults_is_a_constant_of_the_format) {
    struct manifest m;
    struct error error = {0};
    uint8_t digest[DIGEST_SIZE];
    char hex[HEX32_SIZE];
    CHECK_OK(parse("name: golden", &m, &error));
    manifest_digest(&m, digest);
    CHECK_TEXT(hex_encode(digest, DIGEST_SIZE, hex),
               "28607c12dd25b9c33e131f7dfb4ca9c8ddabea6ecc5f430749cdab78b8ab665c");
}

/* Every kind of value, none at its default: what is signed and stored by runs that are under
 * way. */
TEST(the_canonical_bytes_of_every_kind_of_value_are_a_constant_of_the_format) {
    static const char given[] =
        "name: no\nmodel: {vocabulary: 50304, hidden: 768, heads: 12, kv_heads: 4, "
        "rope_theta: 500000, norm_epsilon: 0.00001, tied: false}\n"
        "initial: {seed: 007}\n";
    static const char head[] = "name: no\nmodel.vocabulary: 50304\nmodel.hidden: 768\n";
    struct manifest m;
    struct error error = {0};
    CHECK_STATUS(parse(given, &m, &error), INVALID); /* octal to some */
    CHECK_CONTAINS(error.message, "manifest:3: initial.seed: invalid value \"007\"");
    CHECK_OK(parse(unusual, &m, &error));
    strcpy(m.name, "no");
    m.merge.grace_ms = 1500;
    m.admission.expiry_ms = 3 * 86400000ull;
    m.model.vocabulary = 50304, m.model.hidden = 768;
    char *text = canonical_text(&m), hex[HEX32_SIZE];
    uint8_t digest[DIGEST_SIZE];
    CHECK(strncmp(text, head, strlen(head)) == 0);
    CHECK_CONTAINS(text, "merge.grace: 1500ms\nmerge.staleness_cap: auto\n");
    CHECK_CONTAINS(text, "merge.warmup_grace: forever\n");
    CHECK_CONTAINS(text, "admission.expiry: 3d\n");
    CHECK_CONTAINS(text, "inner.learning_rate: 0.12345678901234568\n");
    CHECK_CONTAINS(text, "codec.kind: bf16\ncodec.decay: 0\n");
    manifest_digest(&m, digest);
    CHECK_TEXT(hex_encode(digest, DIGEST_SIZE, hex),
               "e0fd46cd278fe1c243f76a06d400d645624fca390cf827612ded9c3553c9e8b5");
    m.admission.expiry_ms = 0;
    manifest_digest(&m, digest);
    CHECK_TEXT(hex_encode(digest, DIGEST_SIZE, hex),
               "05ead31b71099f8dc27e74a38c62818a2de2722be4272d4f92c72bc3c515e409");
    free(text);
}

TEST(a_manifest_beyond_its_limit_is_refused) {
    struct buffer text = {0};
    buffer_append_text(&text, "name: demo\n");
    while (text.size <= MANIFEST_LIMIT) buffer_append_text(&text, "# %0100d\n", 0);
    struct manifest m;
    struct error error = {0};
    CHECK_STATUS(manifest_parse(buffer_bytes(&text), &m, &error), INVALID);
    buffer_deinit(&text);
}

TEST(a_refused_manifest_leaves_the_output_alone) {
    struct manifest m;
    struct error error = {0};
    CHECK_OK(parse("name: before", &m, &error));
    CHECK_STATUS(parse("name: after\nmodel.hidden: 0", &m, &error), INVALID);
    CHECK_TEXT(m.name, "before");
}

TEST(the_example_in_docs_is_what_the_table_explains_and_holds_the_defaults) {
    struct buffer explained = {0}, file = {0};
    struct error error = {0};
    manifest_explain(&explained);
    struct manifest m, defaults;
    CHECK_OK(manifest_parse(buffer_bytes(&explained), &m, &error));
    manifest_defaults(&defaults);
    strcpy(defaults.name, m.name);
    char *a = canonical_text(&m), *b = canonical_text(&defaults);
    CHECK_TEXT(a, b);
    char *path = file_join(test_root(), "docs/manifest.example.yaml");
    if (getenv("ATOLL_WRITE_EXAMPLES"))
        CHECK_OK(file_write(path, buffer_bytes(&explained), 0644, &error));
    CHECK_OK(file_read(path, MANIFEST_LIMIT, &file, &error));
    if (!bytes_equal(buffer_bytes(&file), buffer_bytes(&explained)))
        test_failed(
            __FILE__, __LINE__,
            "docs/manifest.example.yaml is out of date: run this test with ATOLL_WRITE_EXAMPLES=1");
    free(a);
    free(b);
    free(path);
    buffer_deinit(&explained);
    buffer_deinit(&file);
}

/* ---- the example in each mode, and values that are hardly meant ------------------------------ */

/* The example with one line's text replaced. */
static char *example_with(const char *old, const char *new) {
    struct buffer text = {0};
    manifest_explain(&text);
    buffer_u8(&text, 0);
    char *at = strstr((char *)text.data, old);
    if (!at || strstr(at + 1, old))
        test_failed(__FILE__, __LINE__, "\"%s\" is not just once in the example", old);
    char *out = xformat("%.*s%s%s", (int)(at - (char *)text.data), (char *)text.data, new,
                        at + strlen(old));
    buffer_deinit(&text);
    return out;
}

TEST(the_example_with_another_mode_takes_that_modes_defaults) {
    struct manifest m, wanted;
    struct error error = {0};
    char *dense = example_with("  mode: sparse\n", "  mode: dense\n");
    CHECK_OK(parse(dense, &m, &error));
    CHECK_OK(parse("name: my-run\nouter: {mode: dense}\n", &wanted, &error));
    char *a = canonical_text(&m), *b = canonical_text(&wanted);
    CHECK_TEXT(a, b);
    CHECK(m.outer.learning_rate == RATE_AUTO);
    CHECK_NEAR(m.outer.momentum, 0.9, 0);
    free(a), free(b), free(dense);
}

static void warns(const char *yaml, const char *part) {
    struct manifest m;
    struct error error = {0};
    struct buffer out = {0};
    CHECK_OK(parse(yaml, &m, &error));
    manifest_warnings(&m, &out);
    buffer_u8(&out, 0);
    if (part)
        CHECK_CONTAINS((const char *)out.data, part);
    else
        CHECK_TEXT((const char *)out.data, "");
    buffer_deinit(&out);
}

TEST(values_of_the_other_mode_or_without_effect_are_warned_of) {
    warns("name: a", NULL);
    warns("name: a\nouter: {mode: dense, period: 4}", NULL);
    warns("name: a\nouter: {mode: dense, period: 4, momentum: 0}",
          "outer.momentum: 0 is sparse mode's");
    warns("name: a\nouter: {mode: dense, period: 4, learning_rate: 1}",
          "outer.learning_rate: 1 is sparse mode's");
    warns("name: a\nouter: {mode: dense, period: 1}", "outer.period: 1 is for a run of one");
    warns("name: a\nouter: {period: 1}", "outer.period: 1 adds up");
    warns("name: a\ninner.floor: 0.2",
          "inner.floor: 0.2 has no effect: inner.schedule is constant");
    warns("name: a\ninner: {floor: 0.2, schedule: linear, decay_tokens: 1000}", NULL);
    warns("name: a\nmerge.staleness_exponent: 1", "merge.staleness_exponent: 1 has no effect");
    warns("name: a\nmerge: {staleness_exponent: 1, staleness_weight: polynomial}", NULL);
    warns("name: a\nmerge: {warmup_steps: 0, warmup_grace: 2m}",
          "merge.warmup_grace: 2m has no effect");
    warns("name: a\nadmission: {clip_factor: 0, norm_bound: 32}",
          "admission.norm_bound: 32 has no effect");
    warns("name: a\nadmission: {clip_factor: 0, clip_minimum: 4}",
          "admission.clip_minimum: 4 has no effect");
}
