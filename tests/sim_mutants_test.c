/* The table of mutants itself: each is a bug of what ships, and its text is still there. */
#include "sim/mutants.h"
#include "tests/test.h"

static int mutate(const char *file, const char *text) {
    char command[1024];
    const char *programs = getenv("ATOLL_BIN");
    snprintf(command, sizeof command, "'%s/mutate' '%s' < '%s/%s' 2>&1 > /dev/null",
             programs ? programs : "build/release/bin", file, test_root(), text);
    return system(command);
}

TEST(every_mutant_is_a_bug_of_a_shipped_file_not_of_the_simulator) {
    CHECK(mutant_count > 70);
    for (size_t i = 0; i < mutant_count; i++) {
        const char *folder = mutants[i].file;
        if (strncmp(folder, "sim/", 4) == 0 || strncmp(folder, "tests/", 6) == 0)
            test_failed(__FILE__, __LINE__, "%s patches %s, which does not ship", mutants[i].name,
                        mutants[i].file);
        for (size_t j = 0; j < i; j++) CHECK(strcmp(mutants[i].name, mutants[j].name) != 0);
    }
}

TEST(every_mutants_text_is_in_its_file_once) {
    for (size_t i = 0; i < mutant_count; i++)
        CHECK_EQUAL(mutate(mutants[i].file, mutants[i].file), 0);
}

TEST(a_mutant_whose_text_is_gone_fails_the_build) {
    CHECK(mutate(mutants[0].file, "README.md") != 0);
}
