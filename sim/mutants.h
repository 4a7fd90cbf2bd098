/* Bugs that are put in on purpose, to see them found: a check that cannot fail proves nothing.
 *
 * sim/mutants.c is the table of all of them. Each is a piece of one source file and what stands
 * there instead; the build writes a copy of each such file with both, chosen between by MUTATED,
 * and links the copies into atoll-sim-mutated. The sources themselves know nothing of it, and no
 * other program contains any of it.
 */
#ifndef SIM_MUTANTS_H
#define SIM_MUTANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct mutant {
    const char *name, *about;
    const char *file;      /* from the repository's root */
    const char *old, *new; /* text that is in it once; what the copy has there. Both name
                              MUTATED("name") where they choose */
};

extern const struct mutant mutants[];
extern const size_t mutant_count;

/* This one is active from now on. False, with a line on `out`: there is none of the name; for
 * "list" all are named. */
bool mutant_choose(const char *name, FILE *out);
/* For the copies. */
bool mutant_is(const char *name);
#define MUTATED(name) mutant_is(name)

#endif
