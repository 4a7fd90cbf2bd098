/* Every key of a federation's file with its kind, bounds, default and help
 * (topology/topology_table.h). */
#include "topology/topology_table.h"

#include <string.h>

#include "model/presets.h"

#define AT(field) SETTING_FIELD(struct topology, field)
#define OF(field) SETTING_FIELD(struct topology_site, field)

static const char *const congestions[] = {"cubic", "bbr", NULL};
static const char *const modes[] = {"dense", "sparse", NULL};

/* Names and sources end up in reports of several formats. */
static enum status check_text(const char *text, struct error *error) {
    for (const char *c = text; *c || c == text; c++) {
        if ((unsigned char)*c >= ' ' && !strchr("\"\\<&", *c)) continue;
        return error_set(
            error, INVALID,
            "invalid value \"%.60s\": write a text without quotes, backslashes, < and &", text);
    }
    return OK;
}

static enum status check_preset(const char *text, struct error *error) {
    struct model_config config;
    return preset_find(text, &config, error);
}

/* clang-format off */
#define FAULT(key_, at_, fault_, what_) \
    {key_ ".every", SETTING_DURATION, at_(fault_.every), "never", "1ms", \
     .flags = SETTING_ENDLESS, .help = "Mean time of working between two " what_ "."}, \
    {key_ ".lasts", SETTING_DURATION, at_(fault_.lasts), "0", \
     .help = "Mean time until it is over."}, \
    {key_ ".at", SETTING_DURATION, at_(fault_.at), "never", \
     .flags = SETTING_ENDLESS, .help = "One more at this time from the start."}, \
    {key_ ".at_lasts", SETTING_DURATION, at_(fault_.at_lasts), "0", \
     .help = "How long that one lasts."}, \
    {key_ ".regular", SETTING_BOOL, at_(fault_.regular), "false", \
     .help = "At exact intervals and of exact length, not drawn at random."}
/* clang-format on */

const struct setting topology_fields[] = {
    {"name", SETTING_CHARS, AT(name), "federation", .check = check_text, .form = "a short name",
     .help = "For people."},
    {"duration", SETTING_DURATION, AT(duration), "24h", "1s", "400d", .help = "What is simulated."},
    {"target_tokens", SETTING_NUMBER, AT(target_tokens), "0",
     .help = "Report the time to this many tokens; 0: none."},
    {"model.parameters", SETTING_COUNT, AT(model.parameters), NULL, "64", "100T",
     .help = "Parameters of the model."},
    {"model.preset", SETTING_CHARS, AT(model.preset), NULL, .check = check_preset,
     .form = "a shape of atoll-trainer train --preset",
     .help = "Instead of parameters: a shape of atoll-trainer's."},
    {"model.sequence", SETTING_COUNT, AT(model.sequence), "2048", "1", "1B",
     .help = "Tokens in a sequence; for people."},

    {"run.mode", SETTING_CHOICE, AT(run.mode), NULL, .choices = modes,
     .help = "Follows from the codec where it is not given."},
    {"run.codec", SETTING_CHOICE, AT(run.codec), "topk2-64", .choices = codec_names,
     .first = CODEC_FP32, .help = "What a contribution is encoded in."},
    {"run.bits", SETTING_NUMBER, AT(run.bits), NULL, "0.001", "64",
     .help = "Bits per parameter of a message, where measured; else the codec's usual."},
    {"run.inner_steps", SETTING_COUNT, AT(run.inner_steps), "30", "1", "1M",
     .help = "H: inner steps per round at the fastest site."},
    {"run.fragments", SETTING_COUNT, AT(run.fragments), "1", "1", "64",
     .help = "Pieces of the model that are exchanged one by one."},
    {"run.quorum", SETTING_COUNT, AT(run.quorum), "1", "1", "256",
     .help = "An outer step starts once this many contributions wait ..."},
    {"run.grace", SETTING_DURATION, AT(run.grace), "10s", .flags = SETTING_ENDLESS,
     .help = "... or this long after the first of them came."},
    {"run.staleness_cap", SETTING_COUNT, AT(run.staleness_cap), NULL, "0", "4096",
     .help = "Outer steps that a contribution may have missed; by default twice the most sites "
             "that were there since its base, at least 16."},
    {"run.warmup_steps", SETTING_COUNT, AT(run.warmup_steps), "4", "0", "1M",
     .help = "The first outer steps wait for every site ..."},
    {"run.warmup_grace", SETTING_DURATION, AT(run.warmup_grace), "1m", .flags = SETTING_ENDLESS,
     .help = "... but no longer than this."},
    {"run.away_after", SETTING_DURATION, AT(run.away_after), "2m", "1s", "30d",
     .flags = SETTING_ENDLESS, .help = "A site that is silent for so long counts as away."},
    {"run.snapshot_interval", SETTING_COUNT, AT(run.snapshot_interval), "64", "1", "1M",
     .help = "Outer steps between two snapshots."},
    {"run.root_interval", SETTING_COUNT, AT(run.root_interval), "1", "1", "1M",
     .help = "Outer steps between two state roots."},
    {"run.dylu", SETTING_BOOL, AT(run.dylu), "true",
     .help = "Slower sites do fewer inner steps per round."},
    {"run.overlap", SETTING_BOOL, AT(run.overlap), "true",
     .help = "Training goes on while a round is sent and merged."},

    {"coordinator.cores", SETTING_COUNT, AT(coordinator.cores), "16", "1", "100k",
     .help = "Processor cores."},
    {"coordinator.ram", SETTING_SIZE, AT(coordinator.ram), "128GB", "1B", .help = "Memory."},
    {"coordinator.disk", SETTING_SIZE, AT(coordinator.disk), "4TB", "1B",
     .help = "Disk for payloads, ledger and snapshots."},
    {"coordinator.disk_rate", SETTING_RATE, AT(coordinator.disk_rate), "1GB/s", "1B/s",
     .flags = SETTING_ENDLESS, .help = "What it writes."},
    {"coordinator.up", SETTING_RATE, AT(coordinator.up), "10Gbit/s", "1B/s",
     .flags = SETTING_ENDLESS, .help = "Rate from the coordinator to all sites."},
    {"coordinator.down", SETTING_RATE, AT(coordinator.down), "10Gbit/s", "1B/s",
     .flags = SETTING_ENDLESS, .help = "Rate from all sites to the coordinator."},
    {"coordinator.price", SETTING_NUMBER, AT(coordinator.price_out), "0", "0", "1M",
     .help = "Price per GB that it sends."},
    {"coordinator.price_hour", SETTING_NUMBER, AT(coordinator.price_hour), "0", "0", "1B",
     .help = "Price per hour of the machine."},
    {"coordinator.commit", SETTING_DURATION, AT(coordinator.commit), "8ms", "0", "1h",
     .help = "A group commit."},
    {"coordinator.decode", SETTING_DURATION, AT(coordinator.decode), "0.7ns", "0", "1s",
     .help = "Time to decode, per parameter of a contribution and core."},
    {"coordinator.step", SETTING_DURATION, AT(coordinator.step), "4ns", "0", "1s",
     .help = "Time of an outer step with its state root, per parameter."},
    {"coordinator.uploads", SETTING_COUNT, AT(coordinator.uploads), "64", "1", "1M",
     .help = "Contributions taken at once; to more it says BUSY."},
    FAULT("coordinator.outages", AT, coordinator.outage, "outages of the coordinator"),

    {"reported.busy", SETTING_SHARE, AT(reported.busy), NULL, "0", "100%",
     .help = "What operators of such a federation published, to be printed beside the plan."},
    {"reported.uplink_bits", SETTING_NUMBER, AT(reported.uplink_bits), NULL, "0", "64",
     .help = "Likewise: bits per parameter and round, up."},
    {"reported.source", SETTING_CHARS, AT(reported.source), NULL, .check = check_text,
     .help = "Source of the published figures."},
    {0}};

const struct setting topology_site_fields[] = {
    {"name", SETTING_CHARS, OF(name), NULL, .check = check_text, .form = "a short name",
     .help = "Name of the site; several are name-1, name-2, ..."},
    {"count", SETTING_COUNT, OF(count), "1", "1", "100000", .help = "Sites of this kind."},
    {"spread", SETTING_SHARE, OF(spread), "0", "0", "90%",
     .help = "Spread of their speeds: 20% is from 0.8 to 1.2."},
    {"gpu.kind", SETTING_CHOICE, OF(gpu_kind), NULL, .choices = topology_gpu_names,
     .help = "The kind of its GPUs; their dense bf16 peak, times mfu, gives its speed."},
    {"gpu.count", SETTING_COUNT, OF(gpu_count), "8", "1", "10M", .help = "At a site."},
    {"gpu.mtbf", SETTING_DURATION, OF(gpu_mtbf), "never", "1s", .flags = SETTING_ENDLESS,
     .help = "Mean time between failures of one GPU; each stops its site."},
    {"mfu", SETTING_SHARE, OF(mfu), "40%", "0.1%", "100%",
     .help = "Share of the GPUs' dense bf16 peak that training reaches."},
    {"batch_tokens", SETTING_COUNT, OF(batch_tokens), "1M", "1", "1T",
     .help = "Tokens in an inner step at one site."},
    {"tokens_per_second", SETTING_NUMBER, OF(tokens_per_second), NULL, "1e-6", "1000T",
     .help = "Speed of a site, instead of gpu."},
    {"step", SETTING_DURATION, OF(step), NULL, "1us", "1000000s",
     .help = "An inner step, instead of gpu."},
    {"link.up", SETTING_RATE, OF(link.up), "1Gbit/s", "1B/s", .flags = SETTING_ENDLESS,
     .help = "Rate from the site to the coordinator."},
    {"link.down", SETTING_RATE, OF(link.down), "1Gbit/s", "1B/s", .flags = SETTING_ENDLESS,
     .help = "Rate from the coordinator to the site."},
    {"link.rtt", SETTING_DURATION, OF(link.rtt), "50ms", "0", "1m", .help = "There and back."},
    {"link.jitter", SETTING_DURATION, OF(link.jitter), "0", "0", "1m",
     .help = "A message takes up to this much longer."},
    {"link.loss", SETTING_SHARE, OF(link.loss), "0", "0", "50%",
     .help = "Share of packets that are lost."},
    {"link.connections", SETTING_COUNT, OF(link.connections), "1", "1", "64",
     .help = "That a transfer may use."},
    {"link.congestion", SETTING_CHOICE, OF(link.congestion), "cubic", .choices = congestions,
     .help = "How TCP answers losses."},
    {"link.window", SETTING_SIZE, OF(link.window), "2.5MB", "1448B", "1TB",
     .help = "Largest window of a connection (tcp_wmem, tcp_rmem)."},
    {"link.price", SETTING_NUMBER, OF(link.price), "0", "0", "1M",
     .help = "Price per GB that the site sends."},
    FAULT("link.outages", OF, link.outage, "outages of the link"),
    {"link.resets.every", SETTING_DURATION, OF(link.reset.every), "never", "1ms",
     .flags = SETTING_ENDLESS, .help = "Mean time between two cuts of all connections."},
    {"link.resets.at", SETTING_DURATION, OF(link.reset.at), "never", .flags = SETTING_ENDLESS,
     .help = "One more at this time."},
    {"link.resets.regular", SETTING_BOOL, OF(link.reset.regular), "false",
     .help = "Exactly every so often."},
    FAULT("failures", OF, failure, "failures of the site"),
    {"restart", SETTING_DURATION, OF(restart), "30s", "0", "1d",
     .help = "Time from the repair until it trains again."},
    {"checkpoint", SETTING_DURATION, OF(checkpoint), "5m", "1ms", "30d",
     .help = "Between two checkpoints."},
    {"decode", SETTING_DURATION, OF(decode), "0.7ns", "0", "1s",
     .help = "Time to decode and merge, per parameter of a contribution."},
    {"encode", SETTING_DURATION, OF(encode), "4ns", "0", "1s",
     .help = "Encoding beside training, a parameter."},
    {"copy", SETTING_DURATION, OF(copy), "0.2ns", "0", "1s",
     .help = "Pause of training for a snapshot or rebase, per parameter."},
    {"joins", SETTING_DURATION, OF(joins), "0", .help = "Time from the start."},
    {"leaves", SETTING_DURATION, OF(leaves), "never", .flags = SETTING_ENDLESS,
     .help = "For good."},
    {0}};
_Static_assert(FRAGMENTS_LIMIT == 64 && STALENESS_LIMIT == 4096 && TOPOLOGY_SITES_LIMIT == 100000,
               "the bounds in the table are these");
