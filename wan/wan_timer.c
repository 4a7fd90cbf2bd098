/* The proxy's timers, by time. Each knows its place in the heap, so that it can be moved or taken
 * out. */
#include "base/memory.h"
#include "wan/wan_proxy_internal.h"

static struct timer *timer_of(const void *item) { return *(struct timer *const *)item; }

static bool before(const void *a, const void *b) { return timer_of(a)->at_ns < timer_of(b)->at_ns; }

static void placed(const void *item, size_t place) { timer_of(item)->place = place; }

void timers_init(struct heap *timers) {
    heap_init(timers, sizeof(struct timer *), before);
    timers->placed = placed;
}

void timer_set(struct wan_proxy *proxy, struct timer *timer, uint64_t at_ns) {
    bool is_set = timer->place != SIZE_MAX;
    timer->at_ns = at_ns;
    if (at_ns == UINT64_MAX) {
        if (is_set) heap_remove(&proxy->timers, timer->place, NULL);
        timer->place = SIZE_MAX;
    } else if (is_set) {
        heap_changed(&proxy->timers, timer->place);
    } else {
        heap_push(&proxy->timers, &timer);
    }
}

static struct timer *first(const struct wan_proxy *proxy) {
    return proxy->timers.count ? timer_of(heap_first(&proxy->timers)) : NULL;
}

uint64_t timer_fire_due(struct wan_proxy *proxy, uint64_t now_ns) {
    struct timer *timer;
    while ((timer = first(proxy)) && timer->at_ns <= now_ns) {
        timer_set(proxy, timer, UINT64_MAX);
        timer->fire(timer, now_ns);
    }
    return timer ? timer->at_ns : UINT64_MAX;
}
