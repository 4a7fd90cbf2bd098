/* The coordinator's process is killed in the middle of its work, again and again: nothing that it
 * acknowledged is lost, and nothing is in the ledger twice. */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>

#include "base/json.h"
#include "tests/malformed_client.h"

enum { ROUNDS = 20, SITES = 2, ACKNOWLEDGED_LIMIT = 20000 };

extern char **environ;

struct acknowledged {
    uint32_t site;
    uint64_t sequence, index;
    uint8_t header_digest[DIGEST_SIZE];
};

struct sender { /* one site, on its thread */
    struct world *world;
    struct site *site;
    struct signed_header header; /* the last one, until there is a receipt for it */
    struct buffer payload;
    bool under_way;
    struct acknowledged *done; /* [done_count] */
    atomic_size_t done_count;
    uint64_t duplicates, broken;
};

static pid_t coordinator_spawn(struct world *w) {
    char *program = program_path("atoll-coordinator"), *port_file = file_join(w->directory, "port");
    unlink(port_file);
    char *arguments[] = {program,       "--dir",       w->directory, "--listen",
                         "127.0.0.1:0", "--port-file", port_file,    "--retry",
                         "10ms",        "--chunk",     "1KiB",       NULL};
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    if (posix_spawn(&pid, program, &files, NULL, arguments, environ) != 0)
        test_failed(__FILE__, __LINE__, "cannot run %s: build the programs first", program);
    posix_spawn_file_actions_destroy(&files);
    struct buffer text = {0};
    struct error error = {0};
    for (uint64_t until = clock_monotonic_ms() + PATIENCE_MS; w->port == 0;) {
        int status;
        if (waitpid(pid, &status, WNOHANG) != 0)
            test_failed(__FILE__, __LINE__, "the coordinator does not start again: exit code %d",
                        WEXITSTATUS(status));
        if (clock_monotonic_ms() > until)
            test_failed(__FILE__, __LINE__, "the coordinator does not say its port");
        text.size = 0;
        if (file_exists(port_file) && file_read(port_file, 64, &text, &error) == OK &&
            text.size > 1) {
            buffer_u8(&text, 0);
            w->port = (uint16_t)atoi((const char *)text.data);
        }
        clock_sleep_ms(2);
    }
    buffer_deinit(&text);
    free(program);
    free(port_file);
    return pid;
}

/* Sends until the connection is gone. */
static void *send_on(void *context) {
    struct sender *s = context;
    for (;;) {
        if (!s->under_way) {
            buffer_deinit(&s->payload);
            s->payload = site_payload(s->world, s->site);
            struct contribution c = site_contribution(s->world, s->site, buffer_bytes(&s->payload));
            s->header = site_sign(s->site, &c);
            s->under_way = true;
        }
        struct verdict verdict = submit(s->site, &s->header, buffer_bytes(&s->payload));
        if (!verdict.accepted && verdict.code == REFUSED_BUSY) {
            clock_sleep_ms(2);
        } else if (verdict.accepted || verdict.code == REFUSED_DUPLICATE) {
            struct receipt receipt;
            CHECK(s->done_count < ACKNOWLEDGED_LIMIT);
            check_receipt(s->world, &verdict, &s->header, &receipt);
            struct acknowledged *one = &s->done[s->done_count++];
            *one = (struct acknowledged){
                .site = s->site->number, .sequence = receipt.sequence, .index = receipt.index};
            memcpy(one->header_digest, receipt.header_digest, DIGEST_SIZE);
            s->duplicates += !verdict.accepted;
            site_advance(s->site, &s->header);
            s->under_way = false;
        } else if (verdict.code != 0) {
            test_failed(__FILE__, __LINE__, "refused: %s, %s", refusal_name(verdict.code),
                        verdict.message);
        } else {
            s->broken++;
            return NULL;
        }
    }
}

/* The ledger as the command line tells it: contributions by index, each once. */
static void compare_with_list(const struct world *w, const struct sender *senders) {
    struct buffer text = {0};
    struct json *json = NULL;
    struct error error = {0};
    struct json_limits limits = {.size = 64 << 20};
    char *arguments = xformat("ledger list --dir '%s' --format json", w->directory);
    CHECK_EQUAL(run_program("atollctl", arguments, false, &text), 0);
    CHECK_OK(json_parse(buffer_bytes(&text), &limits, &json, &error));
    const struct json_value *list = json_root(json);
    uint64_t last[SITES + 1] = {0}, counted[SITES + 1] = {0};
    for (size_t i = 0; i < list->count; i++) {
        const struct json_value *entry = json_array_get(list, i);
        const char *kind;
        uint64_t site, sequence, index;
        CHECK_OK(json_get_u64(entry, "index", &index, &error));
        CHECK_EQUAL(index, i);
        CHECK_OK(json_get_text(entry, "kind", &kind, &error));
        if (strcmp(kind, "contribution") != 0) continue;
        CHECK_OK(json_get_u64(entry, "site", &site, &error));
        CHECK_OK(json_get_u64(entry, "sequence", &sequence, &error));
        CHECK(site >= 1 && site <= SITES && sequence > last[site]); /* never twice */
        last[site] = sequence;
        counted[site]++;
    }
    for (int s = 0; s < SITES; s++) {
        uint32_t number = senders[s].site->number;
        for (size_t i = 0; i < senders[s].done_count; i++) {
            const struct acknowledged *one = &senders[s].done[i];
            const struct json_value *entry = json_array_get(list, one->index);
            uint64_t site, sequence;
            CHECK(entry);
            CHECK_OK(json_get_u64(entry, "site", &site, &error));
            CHECK_OK(json_get_u64(entry, "sequence", &sequence, &error));
            CHECK(site == number && sequence == one->sequence);
        }
        CHECK(counted[number] == senders[s].done_count ||
              counted[number] == senders[s].done_count + 1);
    }
    json_close(json);
    buffer_deinit(&text);
    free(arguments);
}

TEST_WITHIN(a_coordinator_killed_at_any_moment_loses_nothing_and_applies_nothing_twice, 120000) {
    struct world w;
    struct sender senders[SITES] = {0};
    struct random random;
    random_init(&random, 20);
    world_create(&w, "run", SPARSE_RUN "snapshot_interval: 7\n");
    uint64_t most = 0, broken = 0, duplicates = 0;
    for (int round = 0; round <= ROUNDS; round++) {
        w.port = 0;
        pid_t pid = coordinator_spawn(&w);
        stream_waits = true;
        world_connect(&w);
        if (round == 0) {
            for (int i = 0; i < SITES; i++) {
                char name[8];
                snprintf(name, sizeof name, "s%d", i + 1);
                senders[i].world = &w;
                senders[i].site = world_join(&w, name);
                senders[i].done = xcalloc(ACKNOWLEDGED_LIMIT, sizeof *senders[i].done);
            }
        }
        struct standing now = world_look(&w); /* also: it serves */
        CHECK(now.accepted >= most);
        stream_waits = false;
        pthread_t threads[SITES];
        size_t had[SITES];
        for (int i = 0; i < SITES; i++) had[i] = senders[i].done_count;
        for (int i = 0; i < SITES; i++)
            CHECK(pthread_create(&threads[i], NULL, send_on, &senders[i]) == 0);
        /* in every other round something was acknowledged, however slow the machine is */
        for (int i = 0; round % 2 == 1 && i < SITES; i++)
            while (senders[i].done_count == had[i]) clock_sleep_ms(5);
        clock_sleep_ms(10 + random_below(&random, 150));
        CHECK(kill(pid, round == ROUNDS ? SIGTERM : SIGKILL) == 0);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        if (round == ROUNDS) CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        for (int i = 0; i < SITES; i++) pthread_join(threads[i], NULL);
        world_disconnect(&w);
        most = senders[0].done_count + senders[1].done_count;
        compare_with_list(&w, senders);
    }
    for (int i = 0; i < SITES; i++) {
        broken += senders[i].broken;
        duplicates += senders[i].duplicates;
        CHECK(senders[i].done_count >= ROUNDS / 2);
    }
    printf("acknowledged %llu, broken streams %llu, receipts asked for again %llu\n",
           (unsigned long long)most, (unsigned long long)broken, (unsigned long long)duplicates);
    struct buffer text = {0};
    char *arguments = xformat("ledger verify --dir '%s'", w.directory);
    int code = run_program("atollctl", arguments, true, &text);
    if (code != 0)
        test_failed(__FILE__, __LINE__, "the ledger does not verify (%d): %s", code, text.data);
    free(arguments);
    buffer_deinit(&text);
    for (int i = 0; i < SITES; i++) {
        free(senders[i].done);
        buffer_deinit(&senders[i].payload);
    }
    world_destroy(&w);
}
