/* The audit: a real run's data directory, copied; one byte changed anywhere in it is found, or is
 * provably of no consequence. */
#include "base/json.h"
#include "tests/malformed_client.h"

struct audit {
    int code;
    bool json_good, verified;
    char state_root[65], ledger_root[65], error[512];
    uint64_t entries, failed_entry; /* UINT64_MAX: none */
};

static struct audit audit_run(const char *directory) {
    struct audit out = {.failed_entry = UINT64_MAX};
    struct buffer text = {0};
    struct json *json = NULL;
    const char *word;
    char *arguments = xformat("ledger verify --dir '%s' --format json", directory);
    out.code = run_program("atollctl", arguments, false, &text);
    if (json_parse(buffer_bytes(&text), NULL, &json, NULL) == OK) {
        const struct json_value *root = json_root(json);
        out.json_good = json_get_bool(root, "verified", &out.verified, NULL) == OK;
        if (json_get_text(root, "state_root", &word, NULL) == OK)
            snprintf(out.state_root, 65, "%s", word);
        if (json_get_text(root, "ledger_root", &word, NULL) == OK)
            snprintf(out.ledger_root, 65, "%s", word);
        if (json_get_text(root, "error", &word, NULL) == OK)
            snprintf(out.error, sizeof out.error, "%s", word);
        if (json_get_u64(root, "failed_entry", &out.failed_entry, NULL) != OK)
            out.failed_entry = UINT64_MAX;
        if (json_get_u64(root, "entries", &out.entries, NULL) != OK) out.entries = 0;
    }
    json_close(json);
    buffer_deinit(&text);
    free(arguments);
    return out;
}

/* Eight contributions of two sites, a pause, H changed, a revocation. Returns the path of a copy;
 * *w is stopped. */
static char *make_copy(struct world *w) {
    world_create(w, "run", SPARSE_RUN "snapshot_interval: 3\n");
    world_start(w);
    struct site *one = world_join(w, "one"), *two = world_join(w, "two");
    for (int i = 0; i < 4; i++) {
        site_contribute(w, one);
        site_contribute(w, two);
    }
    world_settle(w);
    CHECK_EQUAL(admin_do(w, ADMIN_PAUSE, "", 0), ADMIN_OK);
    CHECK_EQUAL(admin_do(w, ADMIN_RESUME, "", 0), ADMIN_OK);
    CHECK_EQUAL(admin_set(w, "inner.inner_steps", "12"), ADMIN_OK);
    CHECK_EQUAL(admin_do(w, ADMIN_REVOKE, "two", 0), ADMIN_OK);
    site_contribute(w, one);
    world_settle(w);
    world_stop(w);
    char *copy = file_join(test_directory(), "copy");
    char *command = xformat("cp -r '%s' '%s'", w->directory, copy);
    CHECK(system(command) == 0);
    free(command);
    return copy;
}

static void flip(const char *path, uint64_t at, uint8_t bits) {
    FILE *file = fopen(path, "r+b");
    CHECK(file);
    CHECK(fseek(file, (long)at, SEEK_SET) == 0);
    int byte = fgetc(file);
    CHECK(byte != EOF);
    CHECK(fseek(file, (long)at, SEEK_SET) == 0);
    CHECK(fputc(byte ^ bits, file) != EOF);
    CHECK(fclose(file) == 0);
}

TEST_WITHIN(a_byte_changed_anywhere_in_the_store_is_found_or_changes_nothing, 120000) {
    struct world w;
    struct error error = {0};
    struct random random;
    random_init(&random, 3);
    char *copy = make_copy(&w), *data = xformat("%s/store/data.mdb", copy);
    struct audit clean = audit_run(copy);
    if (clean.code != 0)
        test_failed(__FILE__, __LINE__, "the copy does not verify: %s", clean.error);
    CHECK(clean.json_good && clean.verified && clean.entries > 20 &&
          strlen(clean.state_root) == 64);
    struct buffer content = {0};
    CHECK_OK(file_read(data, 1 << 30, &content, &error));
    unsigned found = 0, harmless = 0;
    for (int i = 0; i < 160; i++) {
        /* both meta pages often */
        uint64_t at = i < 40 ? random_below(&random, 8192) : random_below(&random, content.size);
        uint8_t bits = (uint8_t)(1u << random_below(&random, 8));
        flip(data, at, bits);
        struct audit audit = audit_run(copy);
        flip(data, at, bits);
        if (audit.code == 4) {
            found++;
        } else if (audit.code == 0) {
            CHECK_TEXT(audit.state_root, clean.state_root);
            CHECK_TEXT(audit.ledger_root, clean.ledger_root);
            CHECK_EQUAL(audit.entries, clean.entries);
            harmless++;
        } else {
            test_failed(__FILE__, __LINE__, "bits %02x at %llu: exit code %d, %s", bits,
                        (unsigned long long)at, audit.code, audit.error);
        }
    }
    printf("found %u, of no consequence %u\n", found, harmless);
    CHECK(found > 3);
    CHECK_EQUAL(audit_run(copy).code, 0);
    buffer_deinit(&content);
    free(copy), free(data);
    world_destroy(&w);
}

TEST_WITHIN(a_byte_changed_in_a_recorded_entry_is_found_and_named_by_its_entry, 120000) {
    struct world w;
    struct error error = {0};
    struct random random;
    random_init(&random, 4);
    char *copy = make_copy(&w), *path = xformat("%s/store/data.mdb", copy);
    struct audit clean = audit_run(copy);
    CHECK_EQUAL(clean.code, 0);
    struct buffer content = {0};
    struct directory data;
    CHECK_OK(file_read(path, 1 << 30, &content, &error));
    CHECK_OK(directory_open(copy, true, NULL, NULL, &data, &error));
    struct ledger_source source = directory_source(&data);
    struct buffer entries[64] = {{0}};
    for (uint64_t index = 0; index < clean.entries; index++)
        CHECK_OK(source.entry(source.context, index, &entries[index], &error));
    directory_close(&data);
    for (uint64_t index = 0; index < clean.entries; index++) {
        for (int try = 0; try < 2; try++) {
            size_t within = (size_t)random_below(&random, entries[index].size), places = 0;
            uint8_t bits = (uint8_t)(1u << random_below(&random, 8));
            uint64_t at[64];
            /* older pages hold copies: all of them are changed */
            for (const uint8_t *from = content.data, *end = from + content.size; from < end;) {
                const uint8_t *hit =
                    memmem(from, (size_t)(end - from), entries[index].data, entries[index].size);
                if (!hit) break;
                CHECK(places < 64);
                at[places++] = (uint64_t)(hit - content.data) + within;
                from = hit + 1;
            }
            CHECK(places > 0 || index == 0); /* a large one lies in pieces on several pages */
            if (places == 0) continue;
            for (size_t i = 0; i < places; i++) flip(path, at[i], bits);
            struct audit audit = audit_run(copy);
            for (size_t i = 0; i < places; i++) flip(path, at[i], bits);
            if (audit.code != 4 || audit.failed_entry != index)
                test_failed(__FILE__, __LINE__,
                            "byte %zu of entry %llu: exit code %d, entry %llu named, %s", within,
                            (unsigned long long)index, audit.code,
                            (unsigned long long)audit.failed_entry, audit.error);
            CHECK(audit.json_good && !audit.verified);
        }
    }
    CHECK_EQUAL(audit_run(copy).code, 0);
    for (uint64_t index = 0; index < clean.entries; index++) buffer_deinit(&entries[index]);
    buffer_deinit(&content);
    free(copy), free(path);
    world_destroy(&w);
}

TEST_WITHIN(a_byte_changed_in_a_payload_or_snapshot_is_found_and_so_is_a_missing_one, 120000) {
    struct world w;
    struct random random;
    random_init(&random, 5);
    char *copy = make_copy(&w), path[512];
    char *command = xformat("find '%s/blobs' -type f | sort", copy);
    FILE *pipe = popen(command, "r");
    CHECK(pipe);
    unsigned files = 0, named = 0;
    while (fgets(path, sizeof path, pipe)) {
        path[strcspn(path, "\n")] = 0;
        struct buffer content = {0};
        struct error error = {0};
        CHECK_OK(file_read(path, 1 << 30, &content, &error));
        char *permit = xformat("chmod u+w '%s'", path), moved[600];
        CHECK(system(permit) == 0);
        free(permit);
        for (int try = 0; try < 4; try++) {
            uint64_t at = try == 0   ? 0
                          : try == 1 ? content.size - 1
                                     : random_below(&random, content.size);
            flip(path, at, 0x20);
            struct audit audit = audit_run(copy);
            flip(path, at, 0x20);
            if (audit.code != 4)
                test_failed(__FILE__, __LINE__, "%s at %llu: exit code %d", path,
                            (unsigned long long)at, audit.code);
            CHECK(audit.json_good && !audit.verified && *audit.error);
            named += audit.failed_entry != UINT64_MAX;
        }
        snprintf(moved, sizeof moved, "%s/moved", copy);
        CHECK(rename(path, moved) == 0);
        struct audit audit = audit_run(copy);
        if (audit.code != 4)
            test_failed(__FILE__, __LINE__, "%s is missing: exit code %d", path, audit.code);
        CHECK(rename(moved, path) == 0);
        files++;
        buffer_deinit(&content);
    }
    pclose(pipe);
    CHECK(files >= 9 + 1); /* nine payloads, snapshots */
    CHECK(named >= 9 * 4);
    CHECK_EQUAL(audit_run(copy).code, 0);
    free(copy), free(command);
    world_destroy(&w);
}

/* An end cut off cleanly is a shorter ledger that is right in itself; what else is there gives it
 * away. */
TEST(a_ledger_with_an_entry_taken_out_does_not_verify) {
    struct world w;
    struct error error = {0};
    char *copy = make_copy(&w);
    uint64_t entries = audit_run(copy).entries;
    struct directory data;
    for (uint64_t index = entries - 8; index > 0; index -= index > 6 ? 6 : index) {
        char *command = xformat("rm -rf '%s' && cp -r '%s' '%s'", copy, w.directory, copy);
        CHECK(system(command) == 0);
        free(command);
        CHECK_OK(directory_open(copy, false, NULL, NULL, &data, &error));
        struct store_batch *batch = store_batch_create(data.store);
        uint8_t key[STORE_KEY_U64_SIZE];
        store_key_u64(index, key);
        store_batch_delete(batch, TABLE_LEDGER, bytes_of(key, sizeof key));
        CHECK_OK(store_commit_wait(data.store, batch, &error));
        directory_close(&data);
        struct audit audit = audit_run(copy);
        if (audit.code != 4)
            test_failed(__FILE__, __LINE__, "without entry %llu: exit code %d",
                        (unsigned long long)index, audit.code);
        CHECK_EQUAL(audit.failed_entry, index);
    }
    free(copy);
    world_destroy(&w);
}

/* ---- the command line ------------------------------------------------------------------------ */

static void expect_json(const char *arguments, int code) {
    struct buffer text = {0};
    struct json *json = NULL;
    struct error error = {0};
    char *line = xformat("%s --format json", arguments);
    int got = run_program("atollctl", line, false, &text);
    if (got != code)
        test_failed(__FILE__, __LINE__, "atollctl %s: exit code %d, wanted %d", line, got, code);
    if (code == 0 && json_parse(buffer_bytes(&text), NULL, &json, &error) != OK)
        test_failed(__FILE__, __LINE__, "atollctl %s: no JSON: %s", line, error.message);
    json_close(json);
    buffer_deinit(&text);
    free(line);
}

TEST(every_command_has_help) {
    static const char *const commands[] = {
        "",          "run",          "run create", "run example",   "run status",
        "run pause", "run resume",   "run stop",   "run snapshot",  "run set",
        "run rules", "site",         "site list",  "site invite",   "site revoke",
        "model",     "model export", "ledger",     "ledger verify", "ledger list"};
    for (size_t i = 0; i < COUNT_OF(commands); i++) {
        struct buffer text = {0};
        char *line = xformat("%s --help", commands[i]);
        CHECK_EQUAL(run_program("atollctl", line, false, &text), 0);
        CHECK(text.size > 40);
        free(line);
        buffer_deinit(&text);
    }
}

TEST(every_command_says_json) {
    struct world w;
    world_create(&w, "run", SPARSE_RUN);
    world_start(&w);
    site_contribute(&w, world_join(&w, "one"));
    world_settle(&w);
    char there[300], line[600];
    snprintf(there, sizeof there, "--keys '%s/keys' --server 127.0.0.1:%u", w.directory, w.port);
    static const struct {
        const char *what;
        int code;
    } asks[] = {{"run status", 0},
                {"run pause --reason tea", 0},
                {"run pause", 1},
                {"run resume", 0},
                {"run set inner.inner_steps 9 --reason longer", 0},
                {"run set inner.inner_steps 0 --reason none", 1},
                {"run set inner.inner_steps 1000001 --reason many", 1},
                {"run set inner.inner_steps 9", 2},
                {"run snapshot", 0},
                {"site list", 0},
                {"site invite --name two", 0},
                {"site invite --name one", 1},
                {"site invite --name 'No Name'", 1},
                {"site revoke --name nobody", 1},
                {"site revoke --name one --reason gone", 0},
                {"site list", 0},
                {"run stop", 0},
                {"run set inner.inner_steps 9 --reason late", 1},
                {"run status", 0},
                {"run nonsense", 2},
                {"run status --nonsense", 2}};
    for (size_t i = 0; i < COUNT_OF(asks); i++) {
        snprintf(line, sizeof line, "%s %s", asks[i].what, there);
        expect_json(line, asks[i].code);
    }
    /* beside the running coordinator */
    snprintf(line, sizeof line, "ledger list --dir '%s'", w.directory);
    expect_json(line, 0);
    snprintf(line, sizeof line, "ledger list --from 3 --dir '%s'", w.directory);
    expect_json(line, 0);
    snprintf(line, sizeof line, "ledger verify --dir '%s'", w.directory);
    expect_json(line, 0);
    snprintf(line, sizeof line, "model export --dir '%s' --output '%s/model'", w.directory,
             test_directory());
    expect_json(line, 0);
    expect_json("ledger list --dir /nonexistent", 1);
    expect_json("ledger verify --dir /nonexistent", 1);
    world_stop(&w);
    snprintf(line, sizeof line, "run status %s --timeout 300ms", there); /* nobody there */
    expect_json(line, 1);
    world_destroy(&w);
}

TEST(a_run_is_made_once_in_a_place) {
    struct buffer text = {0};
    char line[900];
    snprintf(line, sizeof line, "run example > '%s/run.yaml'", test_directory());
    CHECK_EQUAL(run_program("atollctl", line, false, &text), 0);
    snprintf(line, sizeof line, "run create '%s/new' --manifest '%s/run.yaml' --dry-run",
             test_directory(), test_directory());
    expect_json(line, 0);
    snprintf(line, sizeof line, "%s/new", test_directory());
    CHECK(!file_exists(line));
    snprintf(line, sizeof line, "run create '%s/new' --manifest '%s/run.yaml'", test_directory(),
             test_directory());
    expect_json(line, 0);
    snprintf(line, sizeof line, "ledger verify --dir '%s/new'", test_directory());
    expect_json(line, 0);
    CHECK_EQUAL(audit_run(test_directory()).code, 1); /* a directory without a run */
    snprintf(line, sizeof line, "run create '%s/new' --manifest '%s/run.yaml'", test_directory(),
             test_directory());
    CHECK_EQUAL(run_program("atollctl", line, true, &text), 1);
    CHECK_CONTAINS((const char *)text.data, "holds a run already");
    snprintf(line, sizeof line, "ledger verify --dir '%s/new'", test_directory());
    expect_json(line, 0);
    snprintf(line, sizeof line, "run create '%s/other' --manifest /nonexistent", test_directory());
    expect_json(line, 1);
    snprintf(line, sizeof line, "%s/other", test_directory());
    CHECK(!file_exists(line));
    buffer_deinit(&text);
}
