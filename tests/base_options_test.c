#include "base/options.h"

#include "base/memory.h"
#include "base/suggest.h"
#include "tests/test.h"

enum mode { MODE_DENSE, MODE_SPARSE };
static const char *const modes[] = {"dense", "sparse", NULL};

struct values {
    bool overlap, force, json;
    uint64_t steps, rate, timeout;
    double beta;
    const char *name, *directory, *token, *who;
    enum mode mode;
    struct setting_list peers, files;
};

#define FIELD(name_) SETTING_FIELD(struct values, name_)
static const struct setting node_options[] = {
    {"overlap", SETTING_BOOL, FIELD(overlap), .fallback = "true", .help = "train while uploading"},
    {"inner-steps", SETTING_COUNT, FIELD(steps), .fallback = "500", .min = "1", .max = "100000",
     .help = "inner steps a round"},
    {"upload.rate-limit", SETTING_RATE, FIELD(rate), .max = "1GiB/s", .help = "0 for no limit"},
    {"timeout", SETTING_DURATION, FIELD(timeout), .fallback = "30s", .min = "1s", .max = "1h",
     .help = "without progress"},
    {"beta", SETTING_NUMBER, FIELD(beta), .fallback = "0.9", .min = "0", .max = "1",
     .help = "momentum"},
    {"name", SETTING_TEXT, FIELD(name), .min = "2", .max = "8", .help = "of the site"},
    {"directory", SETTING_PATH, FIELD(directory), .fallback = "/var/lib/atoll",
     .help = "where state is kept"},
    {"token", SETTING_TEXT, FIELD(token), .flags = SETTING_SECRET, .help = "of the invitation"},
    {"mode", SETTING_CHOICE, FIELD(mode), .choices = modes, .fallback = "sparse",
     .help = "outer mode"},
    {"peers", SETTING_LIST, FIELD(peers), .help = "addresses"},
    {"force", SETTING_BOOL, FIELD(force), .flags = OPTION_FLAG_ONLY, .help = "do it all the same"},
    {0}};
static const struct command node = {.name = "atoll-node",
                                    .summary = "trains at a site",
                                    .description = "It joins a run and trains.",
                                    .examples = "atoll-node --name eu-1",
                                    .options = node_options,
                                    .version = "1.2.3"};

/* A file in the form of NULL-terminated pairs, in place of a reader of YAML. */
static const char *const *file_pairs;
static enum status load_pairs(struct options *options, const char *path, struct error *error) {
    char where[32];
    for (int i = 0; file_pairs[i]; i += 2) {
        snprintf(where, sizeof where, "%s:%d", path, i / 2 + 1);
        TRY(options_set_from_file(options, file_pairs[i], file_pairs[i + 1], where, error));
    }
    return OK;
}

struct run {
    struct options *options;
    struct values values;
    struct buffer out;
    bool answered;
    struct error error;
    enum status status;
};

static void run(struct run *run, const struct command *command, char **arguments,
                char **environment, const char *const *file) {
    *run = (struct run){0};
    run->options = options_create(command, &run->values);
    int count = 0;
    while (arguments[count]) count++;
    file_pairs = file;
    struct options_setup setup = {.argc = count,
                                  .argv = arguments,
                                  .environment = environment,
                                  .load_file = file ? load_pairs : NULL};
    run->status = options_read(run->options, &setup, &run->out, &run->answered, &run->error);
    buffer_u8(&run->out, 0);
}

static void end(struct run *run) {
    options_destroy(run->options);
    buffer_deinit(&run->out);
}

#define LINE(...) ((char *[]){"program", __VA_ARGS__, NULL})
#define BARE_LINE ((char *[]){"program", NULL})
#define WORDS(...) ((char *[]){__VA_ARGS__, NULL})
#define PAIRS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void refused(char **arguments, char **environment, const char *const *file,
                    const char *part) {
    struct run r;
    run(&r, &node, arguments, environment, file);
    if (r.status == OK) test_failed(__FILE__, __LINE__, "accepted, wanted: %s", part);
    CHECK_EQUAL(r.status, INVALID);
    CHECK_CONTAINS(r.error.message, part);
    end(&r);
}

TEST(defaults_stand_where_nothing_is_given) {
    struct run r;
    run(&r, &node, BARE_LINE, NULL, NULL);
    CHECK_EQUAL(r.status, OK);
    CHECK(r.values.overlap && !r.values.force);
    CHECK_EQUAL(r.values.steps, 500);
    CHECK_EQUAL(r.values.rate, 0);
    CHECK_EQUAL(r.values.timeout, 30000);
    CHECK_NEAR(r.values.beta, 0.9, 0);
    CHECK(r.values.name == NULL);
    CHECK_TEXT(r.values.directory, "/var/lib/atoll");
    CHECK_EQUAL(r.values.mode, MODE_SPARSE);
    CHECK_EQUAL(r.values.peers.count, 0);
    const char *where = NULL;
    CHECK_EQUAL(options_source(r.options, "beta", &where), OPTION_FROM_DEFAULT);
    CHECK_TEXT(where, "default");
    end(&r);
}

TEST(flags_set_every_type_in_either_spelling) {
    struct run r;
    run(&r, &node,
        LINE("--no-overlap", "--inner-steps=7", "--upload-rate-limit", "10MiB/s", "--timeout", "5m",
             "--beta", "0e1", "--name", "eu-1", "--mode=dense", "--peers", "a:1", "--peers=b,c",
             "--force"),
        NULL, NULL);
    CHECK_TEXT(r.error.message, "");
    CHECK(!r.values.overlap && r.values.force);
    CHECK_EQUAL(r.values.steps, 7);
    CHECK_EQUAL(r.values.rate, 10 << 20);
    CHECK_EQUAL(r.values.timeout, 300000);
    CHECK_NEAR(r.values.beta, 0, 0);
    CHECK_TEXT(r.values.name, "eu-1");
    CHECK_EQUAL(r.values.mode, MODE_DENSE);
    CHECK_EQUAL(r.values.peers.count, 2);
    CHECK_TEXT(r.values.peers.items[1], "b,c");
    end(&r);
}

TEST(flag_outranks_environment_outranks_file_outranks_default) {
    struct run r;
    const char *where = NULL;
    run(&r, &node, LINE("--config", "f", "--inner-steps", "3"),
        WORDS("ATOLL_INNER_STEPS=4", "ATOLL_TIMEOUT=4s", "ATOLL_UPLOAD_RATE_LIMIT=1KiB/s",
              "HOME=/x"),
        PAIRS("inner_steps", "5", "timeout", "5s", "beta", "0.5", "upload.rate_limit", "2KiB/s"));
    CHECK_TEXT(r.error.message, "");
    CHECK_EQUAL(r.values.steps, 3);
    CHECK_EQUAL(r.values.timeout, 4000);
    CHECK_EQUAL(r.values.rate, 1024);
    CHECK_NEAR(r.values.beta, 0.5, 0);
    CHECK_EQUAL(options_source(r.options, "inner-steps", &where), OPTION_FROM_FLAG);
    CHECK_TEXT(where, "--inner-steps");
    CHECK_EQUAL(options_source(r.options, "timeout", &where), OPTION_FROM_ENVIRONMENT);
    CHECK_TEXT(where, "ATOLL_TIMEOUT");
    CHECK_EQUAL(options_source(r.options, "beta", &where), OPTION_FROM_FILE);
    CHECK_TEXT(where, "f:3");
    end(&r);
}

TEST(a_stronger_source_replaces_a_list_as_a_whole) {
    struct run r;
    const char *const *file = PAIRS("peers[0]", "f0", "peers[1]", "f1", "peers[2]", "f2");
    run(&r, &node, LINE("--config=f"), NULL, file);
    CHECK_EQUAL(r.values.peers.count, 3);
    CHECK_TEXT(r.values.peers.items[2], "f2");
    end(&r);
    run(&r, &node, LINE("--config=f"), WORDS("ATOLL_PEERS=e0,,e1,"), file);
    CHECK_EQUAL(r.values.peers.count, 2);
    CHECK_TEXT(r.values.peers.items[1], "e1");
    end(&r);
    run(&r, &node, LINE("--peers", "x", "--config=f"), WORDS("ATOLL_PEERS=e0,e1"), file);
    CHECK_EQUAL(r.values.peers.count, 1);
    CHECK_TEXT(r.values.peers.items[0], "x");
    end(&r);
}

TEST(a_value_that_loses_is_checked_all_the_same) {
    refused(LINE("--inner-steps", "3"), WORDS("ATOLL_INNER_STEPS=many"), NULL,
            "ATOLL_INNER_STEPS: invalid value \"many\": write a whole number, 1 to 100000");
    refused(LINE("--inner-steps", "3", "--config=f"), NULL, PAIRS("inner_steps", "0"),
            "f:1: inner_steps: invalid value \"0\": write a whole number, 1 to 100000");
}

TEST(the_unknown_is_refused_and_the_nearest_known_one_named) {
    refused(LINE("--inner-step", "3"), NULL, NULL,
            "unknown flag --inner-step; did you mean --inner-steps?");
    refused(LINE("--inner_steps=3"), NULL, NULL, "did you mean --inner-steps?");
    refused(LINE("--hlep"), NULL, NULL, "did you mean --help?");
    refused(LINE("--zzzzzzzz"), NULL, NULL, "unknown flag --zzzzzzzz; see 'atoll-node --help'");
    refused(LINE("-x"), NULL, NULL, "unknown flag -x");
    refused(LINE("--config", "f"), NULL, NULL, "unknown flag --config");
    refused(LINE("stray"), NULL, NULL, "unexpected argument 'stray'");
    refused(BARE_LINE, WORDS("ATOLL_INNER_STEP=3"), NULL,
            "unknown environment variable ATOLL_INNER_STEP; did you mean ATOLL_INNER_STEPS?");
    refused(BARE_LINE, WORDS("ATOLL_LGO=debug"), NULL, "did you mean ATOLL_LOG?");
    refused(LINE("--config=f"), NULL, PAIRS("upload.rate_limt", "1"),
            "f:1: unknown key upload.rate_limt; did you mean upload.rate_limit?");
    refused(LINE("--config=f"), NULL, PAIRS("inner-steps", "1"),
            "f:1: unknown key inner-steps; did you mean inner_steps?");
    refused(LINE("--config=f"), NULL, PAIRS("force", "true"), "f:1: unknown key force");
    refused(BARE_LINE, WORDS("ATOLL_FORCE=1"), NULL, "unknown environment variable ATOLL_FORCE");
}

TEST(values_out_of_bounds_or_form_are_refused_with_what_to_write) {
    static const struct {
        char *flag, *text;
        const char *part;
    } cases[] = {
        {"--inner-steps", "0", "--inner-steps: invalid value \"0\": write a whole number, 1 to 1"},
        {"--inner-steps", "100001", "1 to 100000"},
        {"--inner-steps", "", "invalid value \"\": write a whole number"},
        {"--upload-rate-limit", "2GiB/s", "0 to 1GiB/s (units bit/s, "},
        {"--timeout", "30", "invalid value \"30\": write 1s to 1h (units ms, s, m, h, d)"},
        {"--timeout", "0", "1s to 1h"},
        {"--beta", "1.01", "invalid value \"1.01\": write 0 to 1"},
        {"--name", "x", "invalid value \"x\": write a text of 2 to 8 characters"},
        {"--name", "123456789", "2 to 8 characters"},
        {"--directory", "", "invalid value \"\": write a path"},
        {"--mode", "both", "invalid value \"both\": write dense or sparse"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        refused(LINE(cases[i].flag, cases[i].text), NULL, NULL, cases[i].part);
    refused(LINE("--inner-steps"), NULL, NULL, "--inner-steps needs a value");
    refused(LINE("--overlap=maybe"), NULL, NULL, "write true or false");
    refused(LINE("--no-overlap=true"), NULL, NULL, "takes no value");
    refused(LINE("--help=yes"), NULL, NULL, "takes no value");
    refused(LINE("--no-name"), NULL, NULL, "unknown flag");
    refused(LINE("--config=f"), NULL, PAIRS("inner_steps[0]", "1"), "takes one value, not a list");
    refused(LINE("--config=f"), NULL, PAIRS("peers[0].name", "1"), "takes a list of plain texts");
    refused(LINE("--config=f"), NULL, PAIRS("peers[0][1]", "1"), "takes a list of plain texts");
}

TEST(variables_that_are_read_elsewhere_are_known) {
    struct values values = {0};
    struct error error = {0};
    struct options *options = options_create(&node, &values);
    char **environment = WORDS("ATOLL_LOG=debug", "ATOLL_TEST_ANYTHING=1", "ATOLL_MINE=1",
                               "ATOLL_PRE_X=2", "ATOLL", "NOATOLL_X=1");
    CHECK_STATUS(options_read_environment(options, environment, NULL, &error), INVALID);
    CHECK_CONTAINS(error.message, "ATOLL_MINE");
    CHECK_OK(
        options_read_environment(options, environment, PAIRS("ATOLL_MINE", "ATOLL_PRE_*"), &error));
    options_destroy(options);
}

TEST(a_secret_is_neither_printed_nor_put_in_a_message) {
    static const struct setting short_secret[] = {{"token", SETTING_TEXT, FIELD(token), .max = "4",
                                                   .flags = SETTING_SECRET, .help = "secret"},
                                                  {0}};
    static const struct command command = {.name = "p", .summary = "s", .options = short_secret};
    struct run r;
    run(&r, &node, LINE("--token", "hunter2", "--print-config"), NULL, NULL);
    CHECK(r.answered && !strstr((const char *)r.out.data, "hunter2"));
    CHECK_TEXT(r.values.token, "hunter2");
    end(&r);
    run(&r, &command, LINE("--token", "hunter2"), NULL, NULL);
    CHECK_EQUAL(r.status, INVALID);
    CHECK(!strstr(r.error.message, "hunter2"));
    end(&r);
}

/* --- commands --- */
static const struct setting root_options[] = {
    {"json", SETTING_BOOL, FIELD(json), .help = "print JSON"}, {0}};
static const struct setting invite_options[] = {
    {"name", SETTING_TEXT, FIELD(name), .flags = OPTION_REQUIRED, .help = "of the site"},
    {"who", SETTING_TEXT, FIELD(who), .flags = OPTION_POSITIONAL | OPTION_REQUIRED, .help = "whom"},
    {"files", SETTING_LIST, FIELD(files), .flags = OPTION_POSITIONAL, .help = "more"},
    {0}};
static const struct setting revoke_options[] = {
    {"grace", SETTING_DURATION, FIELD(timeout), .help = "before it counts"}, {0}};
static const struct command invite = {
    .name = "invite", .summary = "makes an invitation", .options = invite_options};
static const struct command revoke = {
    .name = "revoke", .summary = "takes a site's rights", .options = revoke_options};
static const struct command site = {.name = "site",
                                    .summary = "manages sites",
                                    .children =
                                        (const struct command *const[]){&invite, &revoke, NULL}};
static const struct command ctl = {.name = "atollctl",
                                   .summary = "administers a run",
                                   .options = root_options,
                                   .children = (const struct command *const[]){&site, NULL}};

TEST(nouns_and_verbs_choose_a_command_and_share_options) {
    struct run r;
    run(&r, &ctl, LINE("site", "--json", "invite", "--name", "eu-north", "anna", "x", "--", "--y"),
        NULL, NULL);
    CHECK_TEXT(r.error.message, "");
    CHECK(options_command(r.options) == &invite);
    CHECK(r.values.json);
    CHECK_TEXT(r.values.name, "eu-north");
    CHECK_TEXT(r.values.who, "anna");
    CHECK_EQUAL(r.values.files.count, 2);
    CHECK_TEXT(r.values.files.items[1], "--y");
    end(&r);
}

TEST(a_command_that_is_unknown_missing_or_incomplete_says_so) {
    static const struct {
        char *line[8];
        const char *part;
    } cases[] = {
        {{"p", "sit", NULL}, "unknown command 'atollctl sit'; did you mean 'atollctl site'?"},
        {{"p", NULL}, "'atollctl' needs a command after it"},
        {{"p", "site", NULL}, "'atollctl site' needs a command"},
        {{"p", "site", "invite", "anna", NULL}, "name is required: give --name, ATOLL_NAME"},
        {{"p", "site", "invite", "--name", "eu", NULL}, "the argument who is missing"},
        {{"p", "site", "revoke", "--name", "eu", NULL}, "unknown flag --name"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run r;
        run(&r, &ctl, (char **)(uintptr_t)cases[i].line, NULL, NULL);
        CHECK_EQUAL(r.status, INVALID);
        CHECK_CONTAINS(r.error.message, cases[i].part);
        end(&r);
    }
}

TEST(settings_of_a_sibling_command_are_known_and_left_alone) {
    struct run r;
    run(&r, &ctl, LINE("--config=f", "site", "revoke"), WORDS("ATOLL_NAME=x"),
        PAIRS("name", "y", "grace", "2s"));
    CHECK_TEXT(r.error.message, "");
    CHECK(r.values.name == NULL);
    CHECK_EQUAL(r.values.timeout, 2000);
    end(&r);
}

TEST(help_teaches_at_each_level_and_comes_even_when_the_rest_is_broken) {
    struct run r;
    run(&r, &node, LINE("--help"), WORDS("ATOLL_NONSENSE=1"), PAIRS("nonsense", "1"));
    const char *text = (const char *)r.out.data;
    CHECK(r.status == OK && r.answered);
    CHECK_CONTAINS(text, "Usage: atoll-node [options]");
    CHECK_CONTAINS(text,
                   "--timeout DURATION\n      without progress\n      [default 30s; 1s to 1h]");
    CHECK_CONTAINS(text, "--no-overlap\n");
    CHECK_CONTAINS(text, "[default sparse; one of dense, sparse]");
    CHECK_CONTAINS(text, "Examples:\n  atoll-node --name eu-1\n");
    CHECK_CONTAINS(text, "--config FILE");
    end(&r);
    run(&r, &ctl, LINE("site", "--help"), NULL, NULL);
    text = (const char *)r.out.data;
    CHECK_CONTAINS(text, "Usage: atollctl site COMMAND [options]");
    CHECK_CONTAINS(text, "  invite  makes an invitation\n");
    CHECK(!strstr(text, "--config FILE"));
    end(&r);
    run(&r, &ctl, LINE("site", "invite", "--help"), NULL, NULL);
    text = (const char *)r.out.data;
    CHECK_CONTAINS(text, "Usage: atollctl site invite [options] who [files...]");
    CHECK_CONTAINS(text, "Options of every atollctl command:\n  --json");
    end(&r);
    run(&r, &node, LINE("--version"), NULL, NULL);
    CHECK_TEXT((const char *)r.out.data, "atoll-node 1.2.3\n");
    end(&r);
}

TEST(print_config_says_every_value_and_where_it_came_from) {
    struct run r;
    run(&r, &node, LINE("--print-config", "--inner-steps", "9", "--peers", "a:1", "--peers", "yes"),
        WORDS("ATOLL_TIMEOUT=90s"), NULL);
    const char *text = (const char *)r.out.data;
    CHECK(r.answered);
    CHECK_CONTAINS(text, "inner_steps: 9                                  # --inner-steps\n");
    CHECK_CONTAINS(text, "timeout: 90s                                    # ATOLL_TIMEOUT\n");
    CHECK_CONTAINS(text, "mode: sparse ");
    CHECK_CONTAINS(text, "peers: [\"a:1\", \"yes\"] ");
    CHECK_CONTAINS(text, "# name: (unset)");
    CHECK(!strstr(text, "force"));
    end(&r);
}

TEST(the_nearest_name_is_one_that_a_hand_could_have_slipped_to) {
    CHECK_EQUAL(suggest_distance("kitten", "sitting"), 3);
    CHECK_EQUAL(suggest_distance("ab", "ba"), 1);
    CHECK_EQUAL(suggest_distance("", "abc"), 3);
    CHECK_EQUAL(suggest_distance("Inner_Steps", "inner-steps"), 0);
    struct suggestion near;
    suggest_init(&near, "satus");
    suggest_offer(&near, "state");
    CHECK(near.best == NULL);
    suggest_offer(&near, "status");
    CHECK_TEXT(near.best, "status");
    char long_a[1000], long_b[1000];
    memset(long_a, 'a', sizeof long_a);
    memset(long_b, 'b', sizeof long_b);
    long_a[999] = long_b[999] = 0;
    CHECK_EQUAL(suggest_distance(long_a, long_b), 127);
}

static void create(const struct setting *options) {
    struct command command = {.name = "p", .summary = "s", .options = options};
    struct values values;
    options_destroy(options_create(&command, &values));
}
TEST_EXPECTED_TO(CRASH, a_default_out_of_bounds_asserts) {
    create((const struct setting[]){
        {"steps", SETTING_COUNT, FIELD(steps), .fallback = "5", .max = "4", .help = ""}, {0}});
}
TEST_EXPECTED_TO(CRASH, a_field_of_the_wrong_size_asserts) {
    create((const struct setting[]){{"steps", SETTING_COUNT, FIELD(overlap), .help = ""}, {0}});
}
TEST_EXPECTED_TO(CRASH, two_options_of_one_name_assert) {
    create((const struct setting[]){{"a", SETTING_COUNT, FIELD(steps), .help = ""},
                                    {"a", SETTING_COUNT, FIELD(rate), .help = ""},
                                    {0}});
}

/* ---- variables that others set --------------------------------------------------------------- */

TEST(what_kubernetes_makes_of_a_service_named_like_us_is_passed_over) {
    struct run r;
    run(&r, &node, BARE_LINE,
        WORDS("ATOLL_COORDINATOR_SERVICE_HOST=10.0.0.1", "ATOLL_COORDINATOR_SERVICE_PORT=7400",
              "ATOLL_COORDINATOR_SERVICE_PORT_GRPC=7400",
              "ATOLL_COORDINATOR_PORT=tcp://10.0.0.1:7400",
              "ATOLL_COORDINATOR_PORT_7400_TCP=tcp://10.0.0.1:7400",
              "ATOLL_COORDINATOR_PORT_7400_TCP_PROTO=tcp",
              "ATOLL_COORDINATOR_PORT_7400_TCP_PORT=7400",
              "ATOLL_COORDINATOR_PORT_7400_TCP_ADDR=10.0.0.1",
              "ATOLL_SITE_2_PORT_53_UDP=udp://10.0.0.2:53",
              "ATOLL_SITE_2_PORT_53_UDP_ADDR=10.0.0.2", "ATOLL_X_PORT_9_SCTP_PORT=9",
              "ATOLL_SERVICE_HOST=10.0.0.3", "ATOLL_PORT=udp://10.0.0.3:53"),
        NULL);
    CHECK_TEXT(r.error.message, "");
    CHECK_EQUAL(r.status, OK);
    end(&r);
}

TEST(what_only_looks_like_a_services_variable_is_still_refused) {
    static const char *const wrong[] = {"ATOLL_COORDINATOR_PORT=7400",
                                        "ATOLL_COORDINATOR_HOST=10.0.0.1",
                                        "ATOLL_COORDINATOR_SERVICE=x",
                                        "ATOLL_COORDINATOR_SERVICE_HOSTS=x",
                                        "ATOLL_COORDINATOR_SERVICE_PORT_=7400",
                                        "ATOLL_Coordinator_SERVICE_HOST=10.0.0.1",
                                        "ATOLL_COORDINATOR_PORT_TCP=tcp://10.0.0.1:7400",
                                        "ATOLL_COORDINATOR_PORT_7400=tcp://10.0.0.1:7400",
                                        "ATOLL_COORDINATOR_PORT_7400_HTTP=x",
                                        "ATOLL_COORDINATOR_PORT_7400_TCP_NAME=x",
                                        "ATOLL_COORDINATOR_7400_TCP_ADDR=x"};
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        refused(BARE_LINE, (char *[]){(char *)(uintptr_t)wrong[i], NULL}, NULL,
                "unknown environment variable ATOLL_C");
}
