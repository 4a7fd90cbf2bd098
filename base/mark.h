/* Coverage marks: MARK("staleness beyond the cap") says that a run came by here.
 *
 * Only the simulator's private copies of the pure cores are compiled with ATOLL_SIMULATED; there
 * each mark is a counter in a section of its own, so that the linker gathers them and a list of all
 * marks, also those that no run ever reached, exists without being kept by hand (sim/marks.h).
 * Everywhere else a mark is nothing at all. One thread.
 */
#ifndef BASE_MARK_H
#define BASE_MARK_H

#ifdef ATOLL_SIMULATED
#include <stdint.h>

struct mark {
    const char *name, *file;
    uint64_t count;
    uint64_t unused; /* 32 bytes: an array in whatever way the linker puts them together */
};

#define MARK(name_)                                                                                \
    do {                                                                                           \
        static struct mark mark_here_                                                              \
            __attribute__((section("atoll_marks"), used, aligned(32))) = {name_, __FILE__, 0, 0};  \
        mark_here_.count++;                                                                        \
    } while (0)
#else
#define MARK(name_) ((void)0)
#endif

#endif
