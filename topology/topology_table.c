/* Every key of a federation's file with its type, bounds, default and help
 * (topology/topology_table.h). */
#include "topology/topology_table.h"

#include <math.h>

#define AT(field) offsetof(struct topology, field)
#define OF(field) offsetof(struct topology_site, field)
#define BIG 1e18

static const char *const congestions[] = {"cubic", "bbr", NULL};
static const char *const modes[] = {"dense", "sparse", NULL};

#define FAULT(key_, at_, what_)                                                                    \
    {key_ ".every", FIELD_TIME, at_ + offsetof(struct topology_fault, every),         "never",     \
     1e-3,          INFINITY,   .help = "Mean time of working between two " what_ "."},            \
        {key_ ".lasts",                                                                            \
         FIELD_TIME,                                                                               \
         at_ + offsetof(struct topology_fault, lasts),                                             \
         "0",                                                                                      \
         0,                                                                                        \
         BIG,                                                                                      \
         .help = "Mean time until it is over."},                                                   \
        {key_ ".at", FIELD_TIME, at_ + offsetof(struct topology_fault, at),      "never",          \
         0,          INFINITY,   .help = "One more at this time from the start."},                 \
        {key_ ".at_lasts",                                                                         \
         FIELD_TIME,                                                                               \
         at_ + offsetof(struct topology_fault, at_lasts),                                          \
         "0",                                                                                      \
         0,                                                                                        \
         BIG,                                                                                      \
         .help = "How long that one lasts."},                                                      \
    {                                                                                              \
        key_ ".regular", FIELD_BOOL, at_ + offsetof(struct topology_fault, regular), "false", 0,   \
            1, .help = "At exact intervals and of exact length, not drawn at random."              \
    }

/* clang-format off */
const struct field topology_fields[] = {
    {"name", FIELD_NAME, AT(name), "federation", .help = "For people."},
    {"duration", FIELD_TIME, AT(duration), "24h", 1, 400 * 86400.0, .help = "What is simulated."},
    {"target_tokens", FIELD_COUNT, AT(target_tokens), "0", 0, BIG, .help = "Report the time to this many tokens; 0: none."},
    {"model.parameters", FIELD_COUNT, AT(model.parameters), NULL, 64, 1e14, .whole = true, .help = "Parameters of the model."},
    {"model.preset", FIELD_MODEL, AT(model.parameters), NULL, .help = "Instead of parameters: a shape of atoll-trainer's."},
    {"model.sequence", FIELD_COUNT, AT(model.sequence), "2048", 1, 1e9, .whole = true, .help = "Tokens in a sequence; for people."},

    {"run.mode", FIELD_CHOICE, AT(run.mode), NULL, .choices = modes, .help = "Follows from the codec where it is not given."},
    {"run.codec", FIELD_CODEC, AT(run.codec), "topk2-64", .help = "fp32, bf16, int8, fp4, topk2-64, topk2-128."},
    {"run.bits", FIELD_COUNT, AT(run.bits), NULL, 0.001, 64, .help = "Bits per parameter of a message, where measured; else the codec's usual."},
    {"run.inner_steps", FIELD_COUNT, AT(run.inner_steps), "30", 1, 1e6, .whole = true, .help = "H: inner steps per round at the fastest site."},
    {"run.fragments", FIELD_COUNT, AT(run.fragments), "1", 1, FRAGMENTS_LIMIT, .whole = true, .help = "Pieces of the model that are exchanged one by one."},
    {"run.quorum", FIELD_COUNT, AT(run.quorum), "1", 1, 256, .whole = true, .help = "An outer step starts once this many contributions wait ..."},
    {"run.grace", FIELD_TIME, AT(run.grace), "10s", 0, INFINITY, .help = "... or this long after the first of them came."},
    {"run.staleness_cap", FIELD_COUNT, AT(run.staleness_cap), NULL, 0, STALENESS_LIMIT, .whole = true, .help = "Outer steps that a contribution may have missed; by default twice the sites, at least 16."},
    {"run.warmup_steps", FIELD_COUNT, AT(run.warmup_steps), "4", 0, 1e6, .whole = true, .help = "The first outer steps wait for every site ..."},
    {"run.warmup_grace", FIELD_TIME, AT(run.warmup_grace), "1m", 0, INFINITY, .help = "... but no longer than this."},
    {"run.snapshot_interval", FIELD_COUNT, AT(run.snapshot_interval), "64", 1, 1e6, .whole = true, .help = "Outer steps between two snapshots."},
    {"run.root_interval", FIELD_COUNT, AT(run.root_interval), "1", 1, 1e6, .whole = true, .help = "Outer steps between two state roots."},
    {"run.dylu", FIELD_BOOL, AT(run.dylu), "true", .help = "Slower sites do fewer inner steps per round."},
    {"run.overlap", FIELD_BOOL, AT(run.overlap), "true", .help = "Training goes on while a round is sent and merged."},

    {"coordinator.cores", FIELD_COUNT, AT(coordinator.cores), "16", 1, 1e5, .whole = true, .help = "Processor cores."},
    {"coordinator.ram", FIELD_SIZE, AT(coordinator.ram), "128GB", 1, BIG, .help = "Memory."},
    {"coordinator.disk", FIELD_SIZE, AT(coordinator.disk), "4TB", 1, BIG, .help = "Disk for payloads, ledger and snapshots."},
    {"coordinator.disk_rate", FIELD_RATE, AT(coordinator.disk_rate), "1GB/s", 1, INFINITY, .help = "What it writes."},
    {"coordinator.up", FIELD_RATE, AT(coordinator.up), "10Gbit/s", 1, INFINITY, .help = "Rate from the coordinator to all sites."},
    {"coordinator.down", FIELD_RATE, AT(coordinator.down), "10Gbit/s", 1, INFINITY, .help = "Rate from all sites to the coordinator."},
    {"coordinator.price", FIELD_PRICE, AT(coordinator.price_out), "0", 0, 1e6, .help = "Price per GB that it sends."},
    {"coordinator.price_hour", FIELD_MONEY, AT(coordinator.price_hour), "0", 0, 1e9, .help = "Price per hour of the machine."},
    {"coordinator.commit", FIELD_TIME, AT(coordinator.commit), "8ms", 0, 3600, .help = "A group commit."},
    {"coordinator.decode", FIELD_TIME, AT(coordinator.decode), "0.7ns", 0, 1, .help = "Time to decode, per parameter of a contribution and core."},
    {"coordinator.step", FIELD_TIME, AT(coordinator.step), "4ns", 0, 1, .help = "Time of an outer step with its state root, per parameter."},
    {"coordinator.uploads", FIELD_COUNT, AT(coordinator.uploads), "64", 1, 1e6, .whole = true, .help = "Contributions taken at once; to more it says BUSY."},
    FAULT("coordinator.outages", AT(coordinator.outage), "outages of the coordinator"),

    {"reported.busy", FIELD_SHARE, AT(reported.busy), NULL, 0, 1, .help = "What operators of such a federation published, to be printed beside the plan."},
    {"reported.uplink_bits", FIELD_COUNT, AT(reported.uplink_bits), NULL, 0, 64, .help = "Likewise: bits per parameter and round, up."},
    {"reported.source", FIELD_TEXT, AT(reported.source), NULL, .help = "Source of the published figures."},
    {0}};

const struct field topology_site_fields[] = {
    {"name", FIELD_NAME, OF(name), NULL, .help = "Name of the site; several are name-1, name-2, ..."},
    {"count", FIELD_COUNT, OF(count), "1", 1, TOPOLOGY_SITES_LIMIT, .whole = true, .help = "Sites of this kind."},
    {"spread", FIELD_SHARE, OF(spread), "0", 0, 0.9, .help = "Spread of their speeds: 20% is from 0.8 to 1.2."},
    {"gpu.kind", FIELD_GPU, OF(gpu_kind), NULL, .help = "A100, H100, H200, B200, GB200, MI300X, L40S, RTX4090, TPUv4, TPUv5e, TPUv5p, TPUv6e."},
    {"gpu.count", FIELD_COUNT, OF(gpu_count), "8", 1, 1e7, .whole = true, .help = "At a site."},
    {"gpu.mtbf", FIELD_TIME, OF(gpu_mtbf), "never", 1, INFINITY, .help = "Mean time between failures of one GPU; each stops its site."},
    {"mfu", FIELD_SHARE, OF(mfu), "40%", 0.001, 1, .help = "Share of the GPUs' dense bf16 peak that training reaches."},
    {"batch_tokens", FIELD_COUNT, OF(batch_tokens), "1M", 1, 1e12, .whole = true, .help = "Tokens in an inner step at one site."},
    {"tokens_per_second", FIELD_COUNT, OF(tokens_per_second), NULL, 1e-6, 1e15, .help = "Speed of a site, instead of gpu."},
    {"step", FIELD_TIME, OF(step), NULL, 1e-6, 1e6, .help = "An inner step, instead of gpu."},
    {"link.up", FIELD_RATE, OF(link.up), "1Gbit/s", 1, INFINITY, .help = "Rate from the site to the coordinator."},
    {"link.down", FIELD_RATE, OF(link.down), "1Gbit/s", 1, INFINITY, .help = "Rate from the coordinator to the site."},
    {"link.rtt", FIELD_TIME, OF(link.rtt), "50ms", 0, 60, .help = "There and back."},
    {"link.jitter", FIELD_TIME, OF(link.jitter), "0", 0, 60, .help = "A message takes up to this much longer."},
    {"link.loss", FIELD_SHARE, OF(link.loss), "0", 0, 0.5, .help = "Share of packets that are lost."},
    {"link.connections", FIELD_COUNT, OF(link.connections), "1", 1, 64, .whole = true, .help = "That a transfer may use."},
    {"link.congestion", FIELD_CHOICE, OF(link.congestion), "cubic", .choices = congestions, .help = "cubic or bbr."},
    {"link.window", FIELD_SIZE, OF(link.window), "2.5MB", 1448, 1e12, .help = "Largest window of a connection (tcp_wmem, tcp_rmem)."},
    {"link.price", FIELD_PRICE, OF(link.price), "0", 0, 1e6, .help = "Price per GB that the site sends."},
    FAULT("link.outages", OF(link.outage), "outages of the link"),
    {"link.resets.every", FIELD_TIME, OF(link.reset) + offsetof(struct topology_fault, every), "never", 1e-3, INFINITY, .help = "Mean time between two cuts of all connections."},
    {"link.resets.at", FIELD_TIME, OF(link.reset) + offsetof(struct topology_fault, at), "never", 0, INFINITY, .help = "One more at this time."},
    {"link.resets.regular", FIELD_BOOL, OF(link.reset) + offsetof(struct topology_fault, regular), "false", .help = "Exactly every so often."},
    FAULT("failures", OF(failure), "failures of the site"),
    {"restart", FIELD_TIME, OF(restart), "30s", 0, 86400, .help = "Time from the repair until it trains again."},
    {"checkpoint", FIELD_TIME, OF(checkpoint), "5m", 0.001, 86400 * 30.0, .help = "Between two checkpoints."},
    {"decode", FIELD_TIME, OF(decode), "0.7ns", 0, 1, .help = "Time to decode and merge, per parameter of a contribution."},
    {"encode", FIELD_TIME, OF(encode), "4ns", 0, 1, .help = "Encoding beside training, a parameter."},
    {"copy", FIELD_TIME, OF(copy), "0.2ns", 0, 1, .help = "Pause of training for a snapshot or rebase, per parameter."},
    {"joins", FIELD_TIME, OF(joins), "0", 0, BIG, .help = "Time from the start."},
    {"leaves", FIELD_TIME, OF(leaves), "never", 0, INFINITY, .help = "For good."},
    {0}};
/* clang-format on */
