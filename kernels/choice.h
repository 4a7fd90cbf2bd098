/* Which table trains by default: the fastest on this processor, found by measuring all that it can
 * run, once.
 *
 * What a processor can do says little about how fast it does it: one has bfloat16 products and
 * takes longer over them than over fp32 ones. So at the first use each table does the work of a
 * small and a middling model's layer a few times, turn by turn, by the thread's own processor time,
 * and the least time counts: what else the machine does hardly matters. It takes about half a
 * second.
 *
 * The answer is kept in a file of the user's cache, a line per processor (model and stepping, the
 * tables it can run, the version of the tables), so that the same program on the same machine has
 * the same table at its next start: other bits otherwise. A damaged file, or none that can be
 * written, means measuring again. What trained with a table goes on with it all the same: the
 * training state names it. Two tables closer than 3 % count as equally fast; the earlier in
 * kernels.c is taken, so that chance does not decide.
 */
#ifndef KERNELS_CHOICE_H
#define KERNELS_CHOICE_H

#include "kernels/kernels.h"

enum {
    CHOICE_WHY_SIZE = 256,
    CHOICE_TABLES_VERSION =
        1 /* counts changes of a table's speed: kept answers before it are void */
};

struct kernels_choice {
    const struct kernels *table;
    char why[CHOICE_WHY_SIZE]; /* one line: what each table took, or why nothing was measured */
};

/* Measures the tables, and does nothing else. `count` is at least 1. */
void kernels_measure(const struct kernels *const *tables, size_t count, struct kernels_choice *out);
/* From the file at `path` (NULL: none), or measured and kept there. `processor` is one line. */
void kernels_choose(const char *path, const char *processor, const struct kernels *const *tables,
                    size_t count, struct kernels_choice *out);
/* The processor in a line: model, stepping, the tables' names and version. */
enum { PROCESSOR_LINE_SIZE = 256 };
void kernels_processor(const struct kernels *const *tables, size_t count,
                       char out[static PROCESSOR_LINE_SIZE]);

#endif
