/* The regular expressions that Hugging Face's tokenizers cut text with: Oniguruma's syntax as far
 * as GPT-2's, Llama 3's, Qwen's and their kin use it. Literals, classes, \s \S \d \p{..} \P{..}, ?
 * * + {m,n} of one character (possessive too), alternatives, groups with at most a ? after them,
 * (?i:...), (?=...), (?!...). All else is refused by name. The first alternative that matches wins.
 *
 * Patterns come from files of strangers: their size is bounded, recursion is as deep as the pattern
 * is long, and a match that takes too many steps is an error instead of an afternoon. Text must be
 * UTF-8. After compiling only read: any thread.
 */
#ifndef TEXT_PATTERN_H
#define TEXT_PATTERN_H

#include "base/bytes.h"

enum { PATTERN_STEPS = 1 << 22 }; /* of one match */

struct pattern;

/* INVALID says what is not understood. */
MUST_USE enum status pattern_compile(const char *text, struct pattern **out, struct error *error);
void pattern_free(struct pattern *pattern); /* NULL is a no-op */
/* The first match that is not empty at or after `from`: *begin and *end. Both are text.size if
 * there is none. INVALID: too slow. */
MUST_USE enum status pattern_find(const struct pattern *pattern, struct bytes text, size_t from,
                                  size_t *begin, size_t *end, struct error *error);
/* Unicode's White_Space. */
bool unicode_is_space(uint32_t point);
/* The character at `at`, which moves after it. */
uint32_t utf8_next(struct bytes text, size_t *at);

#endif
