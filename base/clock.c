/* The only file that reads the system's clocks (base/clock.h). State machines get a `struct
 * instant` from their shells instead. */
#include "base/clock.h"

#include <errno.h>
#include <time.h>

static uint64_t read_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t clock_monotonic_ns(void) { return read_ns(CLOCK_MONOTONIC); }
uint64_t clock_monotonic_ms(void) { return read_ns(CLOCK_MONOTONIC) / 1000000u; }
uint64_t clock_wall_ms(void) { return read_ns(CLOCK_REALTIME) / 1000000u; }

struct instant clock_instant(void) {
    return (struct instant){.monotonic_ms = clock_monotonic_ms(), .wall_ms = clock_wall_ms()};
}

void clock_sleep_ms(uint64_t duration_ms) {
    struct timespec left = {(time_t)(duration_ms / 1000), (long)(duration_ms % 1000) * 1000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {}
}
