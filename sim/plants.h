/* Bugs that are planted on purpose, to see them found: a check that cannot fail proves nothing.
 *
 * sim/plants.c is the table of all of them. Each is a piece of one source file and what stands
 * there instead; the build writes a copy of each such file with both, chosen between by PLANTED,
 * and links the copies into atoll-sim-planted. The sources themselves know nothing of it, and no
 * other program contains any of it.
 */
#ifndef SIM_PLANTS_H
#define SIM_PLANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct plant {
    const char *name, *about;
    const char *file;      /* from the repository's root */
    const char *old, *new; /* text that is in it once; what the copy has there. Both name
                              PLANTED("name") where they choose */
};

extern const struct plant plants[];
extern const size_t plant_count;

/* This one is active from now on. False, with a line on `out`: there is none of the name; for
 * "list" all are named. */
bool plant_choose(const char *name, FILE *out);
/* For the copies. */
bool plant_is(const char *name);
#define PLANTED(name) plant_is(name)

#endif
