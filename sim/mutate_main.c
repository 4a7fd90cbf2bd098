/* Writes, for the build, the copy of a source file in which the mutants of sim/mutants.c can be
 * chosen:
 *     mutate FILE < FILE > COPY
 * A mutant whose text is not in the file just once is named on stderr, and the build fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "sim/mutants.h"

static void read_all(FILE *in, struct buffer *out) {
    char piece[4096];
    size_t size;
    while ((size = fread(piece, 1, sizeof piece, in)) > 0) buffer_append(out, piece, size);
    buffer_u8(out, 0);
}

/* Where `wanted` ends if it stands at `at`, blanks and line breaks of both aside; else NULL. */
static const char *end_of(const char *at, const char *wanted) {
    static const char blanks[] = " \n";
    for (;;) {
        wanted += strspn(wanted, blanks);
        if (!*wanted) return at;
        at += strspn(at, blanks);
        if (*at++ != *wanted++) return NULL;
    }
}

/* The first place from `at` on where `wanted` stands, and its end. Formatting may have broken its
 * lines elsewhere. */
static const char *find(const char *at, const char *wanted, const char **end) {
    wanted += strspn(wanted, " \n");
    for (; (at = strchr(at, *wanted)); at++)
        if ((*end = end_of(at, wanted))) return at;
    return NULL;
}

/* False: its text is not there, or more than once. */
static bool replace(struct buffer *text, const struct mutant *mutant) {
    const char *all = (const char *)text->data, *end = NULL, *other = NULL,
               *at = find(all, mutant->old, &end);
    if (!at || find(at + 1, mutant->old, &other)) {
        fprintf(stderr, "mutant %s: its text is %s in %s\n", mutant->name,
                at ? "more than once" : "not", mutant->file);
        return false;
    }
    struct buffer copy = {0};
    buffer_append(&copy, all, (size_t)(at - all));
    buffer_append(&copy, mutant->new, strlen(mutant->new));
    buffer_append(&copy, end, strlen(end) + 1);
    buffer_deinit(text);
    *text = copy;
    return true;
}

int main(int argc, char **argv) {
    struct buffer text = {0};
    bool fine = true;
    if (argc != 2) {
        fprintf(stderr, "usage: mutate FILE < FILE > COPY\n");
        return 2;
    }
    read_all(stdin, &text);
    for (size_t i = 0; i < mutant_count; i++) {
        if (strcmp(mutants[i].file, argv[1]) == 0) fine &= replace(&text, &mutants[i]);
    }
    printf("#include \"sim/mutants.h\"\n#line 1 \"%s\"\n%s", argv[1], (const char *)text.data);
    buffer_deinit(&text);
    return fine ? 0 : 1;
}
