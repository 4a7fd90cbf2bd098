/* Time, for shells only: a state machine is handed `now` and never reads a clock. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_monotonic_ns(void);
uint64_t clock_monotonic_ms(void);
uint64_t clock_wall_ms(void); /* since 1970-01-01 UTC; may jump: for stamps that people and other machines read */
void clock_sleep_ms(uint64_t duration_ms);

#endif
