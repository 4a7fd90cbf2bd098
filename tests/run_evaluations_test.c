/* The log of held-out losses: what is written is read back, damage costs a line and no more, and
 * the file is bounded without losing the best. */
#include "run/evaluations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/test.h"

static struct evaluated_version of(uint64_t version, double loss) {
    struct evaluated_version evaluation = {
        .version = version, .time_ms = 5, .loss = loss, .count = 2};
    strcpy(evaluation.texts[0].name, "a");
    strcpy(evaluation.texts[1].name, "b \"quoted\"");
    evaluation.texts[0].loss = loss - 1;
    evaluation.texts[1].loss = loss + 1;
    return evaluation;
}

static void append(const char *directory, uint64_t version, double loss) {
    struct evaluated_version evaluation = of(version, loss);
    struct error error = {0};
    CHECK_OK(evaluations_append(directory, &evaluation, &error));
}

static struct evaluations read_all(const char *directory) {
    struct evaluations all;
    struct error error = {0};
    CHECK_OK(evaluations_read(directory, &all, &error));
    return all;
}

TEST(what_was_appended_is_read_back_with_the_best_and_the_last) {
    const char *directory = test_directory();
    CHECK_EQUAL(read_all(directory).count, 0);
    append(directory, 0, 5.5);
    append(directory, 8, 2.25);
    append(directory, 16, 1.0 / 3 + 2);
    struct evaluations all = read_all(directory);
    CHECK_EQUAL(all.count, 3);
    CHECK_EQUAL(all.best.version, 8);
    CHECK_EQUAL(all.last.version, 16);
    CHECK_NEAR(all.last.loss, 1.0 / 3 + 2, 0);
    CHECK_EQUAL(all.last.count, 2);
    CHECK_TEXT(all.last.texts[1].name, "b \"quoted\"");
    CHECK_NEAR(all.best.texts[1].loss, 3.25, 0);
}

TEST(of_two_that_are_as_good_the_first_is_the_best) {
    const char *directory = test_directory();
    append(directory, 1, 2);
    append(directory, 2, 2);
    CHECK_EQUAL(read_all(directory).best.version, 1);
}

TEST(a_line_that_was_cut_short_is_passed_over_and_the_next_one_is_whole) {
    const char *directory = test_directory();
    struct error error = {0};
    struct buffer text = {0};
    char *path = file_join(directory, EVALUATIONS_FILE);
    append(directory, 1, 3);
    append(directory, 2, 2);
    CHECK_OK(file_read(path, 1 << 20, &text, &error));
    for (size_t cut = 1; cut < text.size / 2; cut += 7) {
        CHECK_OK(file_write(path, bytes_of(text.data, text.size - cut), 0644, &error));
        append(directory, 3, 2.5);
        struct evaluations all = read_all(directory);
        CHECK_EQUAL(all.last.version, 3);
        CHECK_EQUAL(all.best.version, cut == 1 ? 2 : 3); /* a line feed alone is no loss */
    }
    static const char odd[] = "[]\n{}\n\xff\n{\"version\": -1}\n\n{\"version\": 1, \"time_ms\": 1, "
                              "\"loss\": 1e999, \"texts\": {}}\nnull\n{\"version\": 2, "
                              "\"time_ms\": 1, \"loss\": -5, \"texts\": {}}\n";
    CHECK_OK(file_write(path, bytes_of(odd, strlen(odd)), 0644, &error));
    CHECK_EQUAL(read_all(directory).count, 0);
    buffer_deinit(&text);
    free(path);
}

TEST(what_was_measured_of_versions_that_are_not_in_the_ledger_is_forgotten) {
    const char *directory = test_directory();
    struct error error = {0};
    CHECK_OK(evaluations_forget_after(directory, 3, &error)); /* there is no log */
    append(directory, 2, 2.5);
    append(directory, 3, 2.25);
    append(directory, 4, 2);
    CHECK_OK(evaluations_forget_after(directory, 3, &error));
    CHECK_EQUAL(read_all(directory).count, 2);
    CHECK_EQUAL(read_all(directory).best.version, 3);
    append(directory, 4, 3);
    CHECK_EQUAL(read_all(directory).best.version, 3);
}

TEST(the_log_is_bounded_and_keeps_the_best) {
    const char *directory = test_directory();
    struct error error = {0};
    struct buffer text = {0};
    char *path = file_join(directory, EVALUATIONS_FILE);
    append(directory, 1, 1.5); /* the best is the first */
    CHECK_OK(file_read(path, 1 << 20, &text, &error));
    struct buffer many = {0};
    buffer_append(&many, text.data, text.size);
    for (uint64_t version = 2; many.size <= EVALUATIONS_SIZE; version++)
        buffer_append_text(&many,
                           "{\"version\": %llu, \"time_ms\": 5, \"loss\": 2, \"texts\": {}}\n",
                           (unsigned long long)version);
    CHECK_OK(file_write(path, buffer_bytes(&many), 0644, &error));
    struct evaluations before = read_all(directory);
    append(directory, 1000000, 2);
    struct evaluations after = read_all(directory);
    CHECK_EQUAL(after.best.version, 1);
    CHECK_EQUAL(after.last.version, 1000000);
    CHECK(after.count < before.count * 2 / 3 && after.count > before.count / 3);
    text.size = 0;
    CHECK_OK(file_read(path, EVALUATIONS_SIZE, &text, &error));
    buffer_deinit(&many);
    buffer_deinit(&text);
    free(path);
}
