/* The nearest known name (base/suggest.h): optimal string alignment distance over folded
 * characters, three rows at a time. */
#include "base/suggest.h"

#include <string.h>

#include "base/memory.h"

enum { WORD_MAX = 127 };

static char folded(char c) {
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    return c == '_' || c == '.' ? '-' : c;
}

size_t suggest_distance(const char *a, const char *b) {
    size_t a_size = strnlen(a, WORD_MAX), b_size = strnlen(b, WORD_MAX);
    size_t rows[3]
               [WORD_MAX + 1]; /* the last three rows of the table of distances between prefixes */
    size_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b_size; j++) above[j] = j;
    for (size_t i = 1; i <= a_size; i++) {
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t replaced = above[j - 1] + (folded(a[i - 1]) != folded(b[j - 1]));
            row[j] = MIN(replaced, MIN(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
                folded(a[i - 2]) == folded(b[j - 1])) {
                row[j] = MIN(row[j], before[j - 2] + 1);
            }
        }
        size_t *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[b_size];
}

void suggest_init(struct suggestion *suggestion, const char *word) {
    size_t near = MAX(strnlen(word, WORD_MAX) / 3, (size_t)1);
    *suggestion = (struct suggestion){word, NULL, near + 1};
}

void suggest_offer(struct suggestion *suggestion, const char *name) {
    size_t distance = suggest_distance(suggestion->word, name);
    if (distance >= suggestion->distance) return;
    suggestion->distance = distance;
    suggestion->best = name;
}

enum status suggest_refuse(const char *what, const char *name, const char *nearest,
                           const char *otherwise, struct error *error) {
    if (nearest)
        return error_set(error, INVALID, "unknown %s %s; did you mean %s?", what, name, nearest);
    return error_set(error, INVALID, "unknown %s %s; %s", what, name, otherwise);
}
