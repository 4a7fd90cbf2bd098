/* What holds the run up, or soon will, and needs a person: a full disk, payloads that were lost,
 * this machine's clock. The run waits it out; here it is named, for `atollctl run status` (`waits`,
 * and not ready) and in the log. On the loop's thread. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "coordinator/loop_internal.h"

enum { SAY_AGAIN_MS = 60000 };

static bool clock_off(struct loop *loop, struct clock_off *off) {
    return coordinator_state_clock_off(loop->state, clock_instant(), off);
}

static void describe_clock(const struct clock_off *off, char *out, size_t size) {
    snprintf(out, size,
             "this machine's clock is %lld s %s those of %u of %u sites that are connected",
             (long long)(off->ahead_ms < 0 ? -off->ahead_ms : off->ahead_ms) / 1000,
             off->ahead_ms < 0 ? "behind" : "ahead of", off->sites, off->present);
}

static void describe_lost(struct loop *loop, char *out, size_t size) {
    uint64_t index = 0;
    size_t lost = coordinator_state_lost(loop->state, &index);
    *out = 0;
    if (lost == 0) return;
    snprintf(out, size,
             "the payload%s of %zu ledger entr%s (%llu%s) %s damaged on this disk; the sites are "
             "asked for %s%s",
             lost > 1 ? "s" : "", lost, lost > 1 ? "ies" : "y", (unsigned long long)index,
             lost > 1 ? ", ..." : "", lost > 1 ? "are" : "is", lost > 1 ? "them" : "it",
             coordinator_state_has_model(loop->state)
                 ? ""
                 : ", and the model needs it before the next step");
}

const char *loop_waits(struct loop *loop, int64_t *clock_ahead_ms) {
    char disk[200] = "", lost[200], clock[112] = "";
    struct clock_off off = {0};
    (void)!disk_watch_waiting(loop->options.disk, disk, sizeof disk);
    describe_lost(loop, lost, sizeof lost);
    if (clock_off(loop, &off)) describe_clock(&off, clock, sizeof clock);
    *clock_ahead_ms = off.ahead_ms;
    snprintf(loop->waits, sizeof loop->waits, "%s%s%s%s%s", disk, *disk && *lost ? "; " : "", lost,
             (*disk || *lost) && *clock ? "; " : "", clock);
    return loop->waits;
}

void loop_hear_clock(struct loop *loop) {
    struct clock_off off;
    uint64_t now = clock_monotonic_ms();
    bool was = loop->clock_is_off, is = clock_off(loop, &off);
    loop->clock_is_off = is;
    if (was && !is) log_info("clock_agrees", "%s", "with=sites");
    if (!is || (was && now - loop->clock_said_ms < SAY_AGAIN_MS)) return;
    loop->clock_said_ms = now;
    char message[128];
    describe_clock(&off, message, sizeof message);
    log_error(
        "clock_off",
        "message=\"%s\" do=\"set this machine's clock (NTP): meanwhile invitations expire by it\"",
        message);
}
