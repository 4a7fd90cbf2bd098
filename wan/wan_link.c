/* A link's behaviour as arithmetic (wan/wan_link.h): rate, delay, jitter, windows, losses as
 * stalls. Pure; the proxy carries it out. */
#include "wan/wan_link.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/setting.h"

enum { MILLISECOND = 1000000, TIMEOUT_LEAST = 200 * MILLISECOND, CHUNK_MOST = 65536 };
#define SECOND 1000000000ull

struct wan_settings wan_settings_default(void) {
    struct wan_way_settings way = {.queue = 256 << 10, .window = 4 << 20};
    return (struct wan_settings){.way = {way, way}};
}

uint64_t wan_round_trip_ns(const struct wan_settings *settings) {
    return settings->way[WAN_UP].delay_ns + settings->way[WAN_DOWN].delay_ns;
}

/* ---- settings ---- */

#define REAL 0, sizeof(double), true
static const struct setting rtt_setting = {"rtt", SETTING_DURATION, REAL, .max = "120s"};
static const struct setting reset_setting = {"reset", SETTING_DURATION, REAL, .max = "10000d"};
static const struct setting table[] = {
    {"delay", SETTING_DURATION, REAL, .max = "60s"},
    {"jitter", SETTING_DURATION, REAL, .max = "60s"},
    {"rate", SETTING_RATE, REAL, .min = "1kbit/s", .max = "10Tbit/s", .flags = SETTING_ENDLESS},
    {"queue", SETTING_SIZE, REAL, .min = "1B", .max = "64MiB"},
    {"window", SETTING_SIZE, REAL, .min = "2920B", .max = "64MiB"},
    {"loss", SETTING_SHARE, REAL, .max = "50%"},
    {"corrupt", SETTING_SIZE, REAL, .max = "1PB"},
    {"blackhole", SETTING_BOOL, 0, sizeof(bool), false, .help = ""},
    {0}};

static enum status set_ns(const struct setting *setting, const char *value, uint64_t *out_ns,
                          struct error *error) {
    double seconds;
    TRY(setting_parse(setting, value, &seconds, error));
    *out_ns = (uint64_t)(MIN(seconds, 1e9) * 1e9 + 0.5);
    return OK;
}

static enum status way_set(struct wan_way_settings *way, const char *key, const char *value,
                           struct error *error) {
    const struct setting *setting = setting_find(table, key);
    if (!setting)
        return error_set(error, INVALID,
                         "a link has no \"%.40s\": it has rtt, reset, and with up. or down. before "
                         "it or for both: delay, jitter, rate, queue, window, loss, corrupt, "
                         "blackhole",
                         key);
    if (setting->kind == SETTING_BOOL) return setting_parse(setting, value, &way->blackhole, error);
    if (setting->kind == SETTING_SHARE) return setting_parse(setting, value, &way->loss, error);
    if (strcmp(key, "delay") == 0) return set_ns(setting, value, &way->delay_ns, error);
    if (strcmp(key, "jitter") == 0) return set_ns(setting, value, &way->jitter_ns, error);
    double bytes;
    TRY(setting_parse(setting, value, &bytes, error));
    if (setting->kind == SETTING_RATE) way->rate = isinf(bytes) ? 0 : (uint64_t)(bytes * 8);
    if (strcmp(key, "queue") == 0) way->queue = (uint64_t)bytes;
    if (strcmp(key, "window") == 0) way->window = (uint64_t)bytes;
    if (strcmp(key, "corrupt") == 0) way->corrupt_every = (uint64_t)bytes;
    return OK;
}

enum status wan_settings_set(struct wan_settings *settings, const char *key, const char *value,
                             struct error *error) {
    struct wan_settings wanted = *settings;
    if (strcmp(key, "rtt") == 0) {
        uint64_t ns;
        TRY(set_ns(&rtt_setting, value, &ns, error));
        for (int i = 0; i < WAN_WAYS; i++) wanted.way[i].delay_ns = ns / 2;
    } else if (strcmp(key, "reset") == 0) {
        TRY(set_ns(&reset_setting, value, &wanted.reset_every_ns, error));
    } else if (strncmp(key, "up.", 3) == 0) {
        TRY(way_set(&wanted.way[WAN_UP], key + 3, value, error));
    } else if (strncmp(key, "down.", 5) == 0) {
        TRY(way_set(&wanted.way[WAN_DOWN], key + 5, value, error));
    } else {
        for (int i = 0; i < WAN_WAYS; i++) TRY(way_set(&wanted.way[i], key, value, error));
    }
    *settings = wanted;
    return OK;
}

/* ---- flows ---- */

void wan_flow_init(struct wan_flow *flow) {
    *flow = (struct wan_flow){.window = WAN_FIRST_WINDOW, .threshold = UINT64_MAX};
}

static uint64_t transmission_ns(uint64_t rate, uint64_t size) {
    return rate ? (uint64_t)((double)size * 8e9 / (double)rate) : 0;
}

static uint64_t timeout_ns(uint64_t round_trip) {
    return MAX(2 * round_trip, (uint64_t)TIMEOUT_LEAST);
}

/* A piece takes about 5 ms of the bottleneck, so that connections share it finely. */
static uint64_t piece_size(uint64_t rate) {
    return rate ? MIN(MAX(rate / 8 / 200, (uint64_t)WAN_SEGMENT), (uint64_t)CHUNK_MOST)
                : (uint64_t)CHUNK_MOST;
}

size_t wan_flow_allowance(struct wan_flow *flow, const struct wan_bottleneck *bottleneck,
                          const struct wan_settings *settings, enum wan_way at, uint64_t now_ns,
                          uint64_t *wait_ns) {
    const struct wan_way_settings *way = &settings->way[at];
    uint64_t window, full_ns = transmission_ns(way->rate, way->queue);
    *wait_ns = UINT64_MAX;
    if (!flow->unacknowledged && flow->sent_ns &&
        now_ns > flow->sent_ns + timeout_ns(wan_round_trip_ns(settings)))
        flow->window = MIN(flow->window, (uint64_t)WAN_FIRST_WINDOW); /* it idled */
    window = MIN(flow->window, way->window);
    if (flow->unacknowledged >= window) return 0;
    if (way->rate && bottleneck->free_ns > now_ns && bottleneck->free_ns - now_ns >= full_ns) {
        *wait_ns = bottleneck->free_ns - full_ns + 1;
        return 0;
    }
    return (size_t)MIN(window - flow->unacknowledged, piece_size(way->rate));
}

static void flow_lose(struct wan_flow *flow) {
    flow->losses++;
    flow->window = MAX(flow->window / 2, (uint64_t)WAN_WINDOW_LEAST);
    flow->threshold = flow->window;
}

uint64_t wan_flow_send(struct wan_flow *flow, struct wan_bottleneck *bottleneck,
                       const struct wan_settings *settings, enum wan_way way, struct random *random,
                       uint64_t now_ns, size_t size) {
    const struct wan_way_settings *one = &settings->way[way];
    uint64_t round_trip = wan_round_trip_ns(settings), departure, arrival;
    flow->unacknowledged += size;
    departure = MAX(bottleneck->free_ns, now_ns) + transmission_ns(one->rate, size);
    bottleneck->free_ns = departure;
    arrival = departure + one->delay_ns;
    if (one->jitter_ns) arrival += random_below(random, one->jitter_ns + 1);
    if (one->loss > 0) {
        double kept = pow(1 - one->loss, ceil((double)size / WAN_SEGMENT));
        if (random_unit(random) >= kept) {
            /* Three segments after the lost one tell the sender; with fewer it has to wait for its
             * timeout. */
            arrival += flow->unacknowledged > 4 * WAN_SEGMENT ? round_trip : timeout_ns(round_trip);
            flow_lose(flow);
        }
    }
    flow->sent_ns = departure;
    flow->arrival_ns = MAX(flow->arrival_ns, arrival);
    return flow->arrival_ns;
}

void wan_flow_acknowledge(struct wan_flow *flow, const struct wan_way_settings *way, size_t size) {
    /* a window that nobody uses does not grow */
    bool limited = 2 * flow->unacknowledged >= flow->window;
    ASSERT(size <= flow->unacknowledged);
    flow->unacknowledged -= size;
    if (!limited || flow->window >= way->window) return;
    flow->window += flow->window < flow->threshold
                        ? size
                        : MAX((uint64_t)WAN_SEGMENT * size / flow->window, 1u);
}
