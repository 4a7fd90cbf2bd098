/* The proxy's timers: a binary heap that knows each timer's place, so that one can be moved or taken out. */
#include "base/memory.h"
#include "wan/wan_proxy_internal.h"

static void heap_put(struct wan_proxy *proxy, size_t place, struct timer *timer) {
    proxy->heap[place] = timer;
    timer->place = place;
}

static void heap_sift(struct wan_proxy *proxy, size_t place) {
    struct timer *timer = proxy->heap[place];
    while (place && proxy->heap[(place - 1) / 2]->at_ns > timer->at_ns) {
        heap_put(proxy, place, proxy->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (size_t child; (child = 2 * place + 1) < proxy->heap_count; place = child) {
        if (child + 1 < proxy->heap_count && proxy->heap[child + 1]->at_ns < proxy->heap[child]->at_ns) child++;
        if (proxy->heap[child]->at_ns >= timer->at_ns) break;
        heap_put(proxy, place, proxy->heap[child]);
    }
    heap_put(proxy, place, timer);
}

void timer_set(struct wan_proxy *proxy, struct timer *timer, uint64_t at_ns) {
    timer->at_ns = at_ns;
    if (timer->place == SIZE_MAX) {
        if (at_ns == UINT64_MAX) return;
        if (proxy->heap_count == proxy->heap_capacity) {
            proxy->heap_capacity = MAX(2 * proxy->heap_capacity, 64u);
            proxy->heap = xrealloc(proxy->heap, proxy->heap_capacity * sizeof(proxy->heap[0]));
        }
        heap_put(proxy, proxy->heap_count++, timer);
    } else if (at_ns == UINT64_MAX) {
        size_t place = timer->place;
        struct timer *last = proxy->heap[--proxy->heap_count];
        timer->place = SIZE_MAX;
        if (last == timer) return;
        heap_put(proxy, place, last);
        timer = last;
    }
    heap_sift(proxy, timer->place);
}

uint64_t timer_fire_due(struct wan_proxy *proxy, uint64_t now_ns) {
    while (proxy->heap_count && proxy->heap[0]->at_ns <= now_ns) {
        struct timer *timer = proxy->heap[0];
        timer_set(proxy, timer, UINT64_MAX);
        timer->fire(timer, now_ns);
    }
    return proxy->heap_count ? proxy->heap[0]->at_ns : UINT64_MAX;
}
