/* The learning rate at a number of tokens (model/schedule.h). cos is computed here, so a rate may
 * differ in its last bit between machines; nothing that must be the same everywhere depends on it.
 */
#include "model/schedule.h"

#include <math.h>
#include <string.h>

enum status schedule_check(const struct schedule *schedule, struct error *error) {
    if ((unsigned)schedule->shape > SCHEDULE_LINEAR)
        return error_set(error, INVALID, "schedule shape %d", (int)schedule->shape);
    if (!(schedule->peak > 0.0f && schedule->peak <= 100.0f))
        return error_set(error, INVALID, "schedule peak is %g; it must be above 0 and at most 100",
                         (double)schedule->peak);
    if (!(schedule->floor >= 0.0f && schedule->floor <= schedule->peak))
        return error_set(error, INVALID, "schedule floor is %g; it must be in 0..peak (%g)",
                         (double)schedule->floor, (double)schedule->peak);
    if (schedule->shape != SCHEDULE_CONSTANT && schedule->total_tokens <= schedule->warmup_tokens)
        return error_set(error, INVALID,
                         "schedule total_tokens is %llu; it must be above warmup_tokens (%llu)",
                         (unsigned long long)schedule->total_tokens,
                         (unsigned long long)schedule->warmup_tokens);
    return OK;
}

float schedule_at(const struct schedule *schedule, uint64_t tokens_seen) {
    double peak = (double)schedule->peak, floor = (double)schedule->floor;
    if (tokens_seen < schedule->warmup_tokens) {
        double done = (double)tokens_seen / (double)schedule->warmup_tokens;
        return (float)(peak * (0.001 + 0.999 * done));
    }
    if (schedule->shape == SCHEDULE_CONSTANT) return schedule->peak;
    if (tokens_seen >= schedule->total_tokens) return schedule->floor;
    double done = (double)(tokens_seen - schedule->warmup_tokens) /
                  (double)(schedule->total_tokens - schedule->warmup_tokens);
    double left = schedule->shape == SCHEDULE_COSINE
                      ? 0.5 * (1.0 + cos(3.14159265358979323846 * done))
                      : 1.0 - done;
    return (float)(floor + (peak - floor) * left);
}
