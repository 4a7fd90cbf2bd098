/* A site sends the payload of another one again, under a header of its own: bytes that two entries
 * name. A real site follows: what was merged goes from its disk with a checkpoint, what waits to be
 * merged stays, and neither is the other's to decide. */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>

#include "tests/malformed_client.h"

extern char **environ;

#define QUORUM_OF_THREE                                                                            \
    "inner: {inner_steps: 1000000}\n"                                                              \
    "merge: {quorum: 3, grace: 1h, warmup_steps: 0, staleness_cap: 4096}\n"

struct follower { /* atoll-node, which trains and sends nothing */
    pid_t pid;
    char *directory, *log;
};

static struct follower follower_start(struct world *w) {
    struct follower f = {.directory = file_join(test_directory(), "follower"),
                         .log = file_join(test_directory(), "log")};
    struct error error = {0};
    struct buffer line = {0};
    char *data = file_join(test_directory(), "text"), text[20000],
         *program = program_path("atoll-node");
    for (size_t i = 0; i < sizeof text; i++) text[i] = "What goes around comes around.\n"[i % 31];
    CHECK_OK(file_write(data, bytes_of(text, sizeof text), 0600, &error));
    char *arguments =
        xformat("--keys '%s/keys' --server 127.0.0.1:%u --proxy none site invite --name follower",
                w->directory, w->port);
    CHECK_EQUAL(run_program("atollctl", arguments, false, &line), 0);
    free(arguments);
    char *token = strstr((char *)line.data, "ATOLL_TOKEN="), *path;
    CHECK(token);
    token += strlen("ATOLL_TOKEN=");
    path = file_join(test_directory(), "token");
    CHECK_OK(file_write(path, bytes_of(token, strcspn(token, " ")), 0600, &error));
    arguments = xformat("join 127.0.0.1:%u --proxy none --run=false --dir '%s' --data '%s' "
                        "--threads 1 --batch-sequences 1 "
                        "--checkpoint-interval 1s --heartbeat-interval 200ms --pace 20ms "
                        "--token-file '%s'",
                        w->port, f.directory, data, path);
    free(path);
    CHECK_EQUAL(run_program("atoll-node", arguments, true, &line), 0);
    w->orders += 2;
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 2, f.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char *run[] = {program, "run", "--dir", f.directory, NULL};
    CHECK(posix_spawn(&f.pid, program, &files, NULL, run, environ) == 0);
    posix_spawn_file_actions_destroy(&files);
    free(arguments);
    free(program);
    free(data);
    buffer_deinit(&line);
    return f;
}

static size_t follower_said(const struct follower *f, const char *words) {
    struct error error = {0};
    struct buffer text = {0};
    size_t found = 0;
    if (file_exists(f->log)) CHECK_OK(file_read(f->log, 64 << 20, &text, &error));
    buffer_u8(&text, 0);
    for (const char *at = (const char *)text.data; (at = strstr(at, words)); at++) found++;
    buffer_deinit(&text);
    return found;
}

static void follower_fails(const struct follower *f, const char *why) {
    struct error error = {0};
    struct buffer text = {0};
    CHECK_OK(file_read(f->log, 64 << 20, &text, &error));
    buffer_u8(&text, 0);
    test_failed(__FILE__, __LINE__, "%s: %s", why,
                (const char *)text.data + (text.size > 600 ? text.size - 600 : 0));
}

/* Waits until the follower has said that, a number of times. */
static void follower_says(const struct follower *f, const char *words, size_t times) {
    for (uint64_t until = clock_monotonic_ms() + PATIENCE_MS; follower_said(f, words) < times;
         clock_sleep_ms(10)) {
        int status;
        if (waitpid(f->pid, &status, WNOHANG) != 0) follower_fails(f, "the site has ended");
        if (clock_monotonic_ms() > until) follower_fails(f, words);
    }
}

/* Two checkpoints from now on, so that the second began after all that has happened. */
static void follower_prunes(const struct follower *f) {
    follower_says(f, " checkpoint_written ", follower_said(f, " checkpoint_written ") + 2);
}

static void follower_applies(const struct follower *f, unsigned version) {
    char words[64];
    snprintf(words, sizeof words, " version=%u fragment=0 parts=", version);
    follower_says(f, words, 1);
}

static void sends(struct world *w, struct site *site, const struct buffer *payload) {
    struct contribution c = site_contribution(w, site, buffer_bytes(payload));
    struct signed_header header = site_sign(site, &c);
    struct verdict verdict = submit(site, &header, buffer_bytes(payload));
    CHECK(verdict.accepted);
    site_advance(site, &header);
}

static void versions_reach(struct world *w, uint64_t version) {
    for (uint64_t until = clock_monotonic_ms() + PATIENCE_MS; world_look(w).version < version;
         clock_sleep_ms(2))
        CHECK(clock_monotonic_ms() < until);
}

TEST_WITHIN(what_another_site_sends_again_is_kept_for_whoever_waits_and_nobody_is_harmed, 180000) {
    struct world w;
    world_create(&w, "run", QUORUM_OF_THREE);
    world_start(&w);
    struct site *one = world_join(&w, "one"), *two = world_join(&w, "two"),
                *three = world_join(&w, "three");
    struct site *thief = world_join(&w, "thief");
    struct follower follower = follower_start(&w);
    follower_says(&follower, " checkpoint_written ", 1);

    struct buffer payload = site_payload(&w, one);
    sends(&w, one, &payload); /* merged ... */
    site_contribute(&w, two);
    site_contribute(&w, three);
    versions_reach(&w, 1);
    sends(&w, thief, &payload); /* ... and, for the thief, waiting */
    follower_applies(&follower, 1);
    follower_prunes(&follower);
    site_contribute(&w, two);
    site_contribute(&w, three);
    versions_reach(&w, 2);
    follower_applies(&follower, 2);
    buffer_deinit(&payload);

    payload = site_payload(&w, one);
    sends(&w, one, &payload); /* both wait, and the one whose it was goes */
    sends(&w, thief, &payload);
    CHECK_EQUAL(admin_do(&w, ADMIN_REVOKE, "one", 0), ADMIN_OK);
    follower_prunes(&follower);
    site_contribute(&w, two);
    site_contribute(&w, three);
    versions_reach(&w, 3);
    follower_applies(&follower, 3);
    buffer_deinit(&payload);

    int status;
    CHECK(kill(follower.pid, SIGTERM) == 0);
    CHECK(waitpid(follower.pid, &status, 0) == follower.pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (follower_said(&follower, "for=payload") > 0)
        follower_fails(&follower, "it deleted what a step needs, and fetched it again");
    world_stop(&w);
    struct buffer text = {0};
    char *arguments = xformat("ledger verify --dir '%s'", w.directory);
    CHECK_EQUAL(run_program("atollctl", arguments, false, &text), 0);
    free(arguments);
    buffer_deinit(&text);
    free(follower.directory);
    free(follower.log);
    world_destroy(&w);
}
