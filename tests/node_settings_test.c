#include "node/settings.h"

#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "node/verbs.h"
#include "tests/test.h"

/* The command line below, with --dir the test's directory, through the same reading as main's. */
static int read_settings(struct settings *settings, struct options **options, char **environment,
                         int argc, const char *const *argv) {
    char *arguments[24] = {0};
    int count = 0;
    arguments[count++] = xstrdup("atoll-node");
    for (int i = 0; i < argc; i++) arguments[count++] = xstrdup(argv[i]);
    arguments[count++] = xstrdup("--dir");
    arguments[count++] = xstrdup(test_directory());
    *settings = (struct settings){0};
    *options = options_create(&node_command, settings);
    int code = settings_read(*options, count, arguments, environment);
    for (int i = 0; i < count; i++) free(arguments[i]);
    return code;
}

static void write_file(const char *text) {
    struct error error = {0};
    char *path = file_join(test_directory(), "node.yaml");
    CHECK_OK(file_write(path, bytes_of(text, strlen(text)), 0644, &error));
    free(path);
}

TEST(a_path_that_the_file_cannot_hold_is_refused_before_it_is_written) {
    struct settings settings;
    struct options *options;
    struct error error = {0};
    const char *const arguments[] = {"join", "example:7400", "--data", "caf\xe9.txt"};
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 4, arguments), OPTIONS_GO_ON);
    CHECK_STATUS(settings_check_saved(options, &settings, &error), INVALID);
    CHECK_CONTAINS(error.message, "caf?.txt");
    CHECK_CONTAINS(error.message, "UTF-8");
    CHECK_STATUS(settings_save(options, &settings, &error), INVALID);
    char *path = file_join(test_directory(), "node.yaml");
    CHECK(!file_exists(path));
    free(path);
    options_destroy(options);
}

TEST(the_file_in_the_sites_directory_is_found_by_itself) {
    struct settings settings;
    struct options *options;
    write_file(
        "address: example:7400\nthreads: 3\noverlap: no\nupload:\n  bandwidth: 64KiB/s\ndata: "
        "[a.txt, b.bin]\n");
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 1, (const char *[]){"run"}),
                OPTIONS_GO_ON);
    CHECK_TEXT(settings.address, "example:7400");
    CHECK_EQUAL(settings.threads, 3);
    CHECK(!settings.overlap);
    CHECK_EQUAL(settings.bandwidth, 65536);
    CHECK_EQUAL(settings.data.count, 2);
    CHECK_TEXT(settings.data.items[1], "b.bin");
    CHECK_EQUAL(settings.checkpoint_ms, 300000); /* the default */
    options_destroy(options);
}

TEST(a_flag_outranks_the_environment_and_that_the_file) {
    struct settings settings;
    struct options *options;
    char sequences[] = "ATOLL_BATCH_SEQUENCES=5", threads[] = "ATOLL_THREADS=4";
    char *environment[] = {sequences, threads, NULL};
    write_file("threads: 3\nbatch.sequences: 2\nthrottle: 1.5\n");
    const char *flags[] = {"run", "--threads", "7", "--throttle=2"};
    CHECK_EQUAL(read_settings(&settings, &options, environment, 4, flags), OPTIONS_GO_ON);
    CHECK_EQUAL(settings.threads, 7);
    CHECK_EQUAL(settings.sequences, 5);
    CHECK_NEAR(settings.throttle, 2, 0);
    options_destroy(options);
}

TEST(a_misspelt_key_in_the_file_refuses_the_start) {
    struct settings settings;
    struct options *options;
    write_file("thread: 3\n");
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 1, (const char *[]){"run"}),
                OPTIONS_EXIT_USAGE);
    options_destroy(options);
}

TEST(a_join_needs_an_address_and_a_token_which_is_never_a_flag) {
    struct settings settings;
    struct options *options;
    struct error error = {0};
    char token[] = "ATOLL_TOKEN=t0ken", *environment[] = {token, NULL}, *taken = NULL;
    CHECK_EQUAL(read_settings(&settings, &options, environment, 1, (const char *[]){"join"}),
                OPTIONS_EXIT_USAGE);
    options_destroy(options);
    const char *flags[] = {"join", "example:7400", "--token", "t", "--no-run"};
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 5, flags), OPTIONS_EXIT_USAGE);
    options_destroy(options);
    CHECK_EQUAL(
        read_settings(&settings, &options, NULL, 2, (const char *[]){"join", "example:7400"}),
        OPTIONS_GO_ON);
    CHECK_STATUS(settings_take_token(&settings, NULL, &taken, &error), INVALID);
    CHECK_CONTAINS(error.message, "ATOLL_TOKEN");
    options_destroy(options);
    flags[2] = "--no-run";
    CHECK_EQUAL(read_settings(&settings, &options, environment, 3, flags), OPTIONS_GO_ON);
    CHECK(!settings.run_after);
    CHECK(options_command(options)->run == verb_join);
    CHECK_OK(settings_take_token(&settings, environment, &taken, &error));
    CHECK_TEXT(taken, "t0ken");
    CHECK(!settings.token);
    CHECK(memchr(token + 1, 't', sizeof token - 1) == NULL); /* wiped */
    free_clearing(taken, strlen(taken));
    options_destroy(options);
}

TEST(what_was_said_at_the_join_is_there_at_the_next_run) {
    struct settings settings;
    struct options *options;
    struct error error = {0};
    CHECK(chdir(test_directory()) == 0);
    FILE *text = fopen("my text.txt", "w");
    CHECK(text);
    fclose(text);
    char token[] = "ATOLL_TOKEN=secret", *environment[] = {token, NULL};
    const char *flags[] = {
        "join",        "[::1]:7400",         "--data", "my text.txt",           "--throttle",
        "2.5",         "--upload-bandwidth", "1MiB/s", "--checkpoint-interval", "90s",
        "--no-overlap"};
    CHECK_EQUAL(read_settings(&settings, &options, environment, 11, flags), OPTIONS_GO_ON);
    CHECK_OK(settings_save(options, &settings, &error));
    options_destroy(options);
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 1, (const char *[]){"run"}),
                OPTIONS_GO_ON);
    CHECK_TEXT(settings.address, "[::1]:7400");
    CHECK_EQUAL(settings.data.count, 1);
    char *wanted = realpath("my text.txt", NULL); /* a supervisor may stand elsewhere */
    CHECK_TEXT(settings.data.items[0], wanted);
    CHECK_NEAR(settings.throttle, 2.5, 0);
    CHECK_EQUAL(settings.bandwidth, 1 << 20);
    CHECK_EQUAL(settings.checkpoint_ms, 90000);
    CHECK(!settings.overlap);
    free(wanted);
    options_destroy(options);
    struct buffer saved = {0};
    CHECK_OK(file_read("node.yaml", 4096, &saved, &error));
    CHECK(!strstr((const char *)saved.data, "secret"));
    buffer_deinit(&saved);
}

static struct buffer content_of(const char *name) {
    struct error error = {0};
    struct buffer content = {0};
    CHECK_OK(file_read(name, 4096, &content, &error));
    return content;
}

TEST(what_join_is_told_goes_over_a_settings_file_that_is_there) {
    struct settings settings;
    struct options *options;
    struct error error = {0};
    const char written[] =
        "# by hand\nthreads: 3\nthrottle: 2\ndata: [typo.txt]\naddress: example:7400\n";
    write_file(written);
    CHECK(chdir(test_directory()) == 0);
    const char *nothing[] = {"join", "example:7400"};
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 2, nothing), OPTIONS_GO_ON);
    CHECK_OK(settings_save(options, &settings, &error));
    options_destroy(options);
    struct buffer same = content_of("node.yaml");
    CHECK_TEXT((const char *)same.data, written);
    const char *flags[] = {"join",   "other:7400", "--threads", "5",
                           "--data", "right.txt",  "--export",  "out"};
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 8, flags), OPTIONS_GO_ON);
    CHECK_OK(settings_save(options, &settings, &error));
    options_destroy(options);
    struct buffer old = content_of("node.yaml.old");
    CHECK_TEXT((const char *)old.data, written);
    CHECK_EQUAL(read_settings(&settings, &options, NULL, 1, (const char *[]){"run"}),
                OPTIONS_GO_ON);
    CHECK_TEXT(settings.address, "other:7400");
    CHECK_EQUAL(settings.threads, 5);
    CHECK_NEAR(settings.throttle, 2, 0);
    CHECK_EQUAL(settings.data.count, 1);
    CHECK(settings.data.items[0][0] == '/' &&
          strstr(settings.data.items[0], "/right.txt")); /* also where it is not there yet */
    CHECK(settings.export_directory[0] == '/' && strstr(settings.export_directory, "/out"));
    options_destroy(options);
    buffer_deinit(&same);
    buffer_deinit(&old);
}
