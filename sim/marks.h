/* The marks that the pure cores carry (base/mark.h), and how often each was passed. */
#ifndef SIM_MARKS_H
#define SIM_MARKS_H

#include <stdbool.h>
#include <stdint.h>

struct mark_count {
    const char *name, *file;
    uint64_t count;
};

uint64_t marks_total(void);
/* Mark number `at`, in no order; false: there are not so many. Marks of one name are told apart by
 * file alone. */
bool marks_at(uint64_t at, struct mark_count *out);
void marks_clear(void);

#endif
