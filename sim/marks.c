/* Counters of coverage marks (sim/marks.h), found through the linker's section. */
#define ATOLL_SIMULATED
#include "sim/marks.h"

#include <stddef.h>

#include "base/mark.h"

/* The linker's: where the section begins and ends. Weak, for a program may have no marks. */
extern struct mark __start_atoll_marks[] __attribute__((weak));
extern struct mark __stop_atoll_marks[] __attribute__((weak));

uint64_t marks_total(void) { return (uint64_t)(__stop_atoll_marks - __start_atoll_marks); }

bool marks_at(uint64_t at, struct mark_count *out) {
    if (at >= marks_total()) return false;
    const struct mark *mark = &__start_atoll_marks[at];
    *out = (struct mark_count){mark->name, mark->file, mark->count};
    return true;
}

void marks_clear(void) {
    for (uint64_t i = 0; i < marks_total(); i++) __start_atoll_marks[i].count = 0;
}
