/* Time. Shells read it; a state machine is handed an instant and never reads a clock. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

struct instant {
    uint64_t monotonic_ms; /* for intervals; starts anywhere, never goes back */
    uint64_t wall_ms;      /* since 1970-01-01 UTC, for stamps; may jump */
};

struct instant clock_instant(void);
uint64_t clock_monotonic_ns(void);
uint64_t clock_monotonic_ms(void);
uint64_t clock_wall_ms(void); /* an instant's: for stamps that people and other machines read */
void clock_sleep_ms(uint64_t duration_ms);

#endif
