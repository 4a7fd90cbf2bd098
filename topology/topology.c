/* A federation as a YAML file (topology/topology.h): loads it, derives what was left out, and
 * places the sites of each group. */
#include "topology/topology.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "topology/topology_table.h"

/* Dense bf16 peaks without sparsity, from the makers' data sheets: A100, H100 (SXM), H200, B200
 * (NVIDIA), MI300X (AMD), TPU v4, v5e, v5p, v6e (Google Cloud). */
const char *const topology_gpu_names[] = {"A100",   "H100",   "H200",    "B200",  "GB200",
                                          "MI300X", "L40S",   "RTX4090", "TPUv4", "TPUv5e",
                                          "TPUv5p", "TPUv6e", NULL};
static const double gpu_peaks[] = {312e12, 989e12, 989e12, 2250e12, 2500e12, 1307e12,
                                   362e12, 165e12, 275e12, 197e12,  459e12,  918e12};
_Static_assert(COUNT_OF(topology_gpu_names) == COUNT_OF(gpu_peaks) + 1, "a peak for each name");

/* ---- what follows from what was read --------------------------------------------------------- */

static enum status derive_step(const struct topology *topology, struct topology_site *site,
                               struct error *error) {
    bool gpu = site->gpu_kind >= 0;
    int given = !isnan(site->step) + !isnan(site->tokens_per_second) + gpu;
    if (given != 1) {
        return error_set(error, INVALID,
                         "site \"%s\": give exactly one of step, tokens_per_second and gpu.kind",
                         site->name);
    }
    if (!isnan(site->step)) {
        site->tokens_per_second = site->batch_tokens / site->step;
        return OK;
    }
    if (gpu) {
        double flops = gpu_peaks[site->gpu_kind] * site->mfu * site->gpu_count;
        site->tokens_per_second = flops / (6 * topology->model.parameters);
    }
    site->step = site->batch_tokens / site->tokens_per_second;
    return OK;
}

static enum status check_fault(const char *where, const struct topology_fault *fault,
                               struct error *error) {
    if (isfinite(fault->at) && !(fault->at_lasts > 0) && !(fault->lasts > 0)) {
        return error_set(error, INVALID, "%s: `at` needs `at_lasts` as well", where);
    }
    return OK;
}

static enum status check_run_section(struct topology *topology, struct error *error) {
    struct topology_run *run = &topology->run;
    bool sparse = codec_is_sparse(run->codec);
    if ((int)run->mode < 0) run->mode = sparse ? OUTER_SPARSE : OUTER_DENSE;
    if (sparse != (run->mode == OUTER_SPARSE)) {
        return error_set(error, INVALID, "run: codec %s goes with mode %s", codec_name(run->codec),
                         sparse ? "sparse" : "dense");
    }
    return OK;
}

enum status topology_settle(struct topology *topology, struct error *error) {
    if (topology->group_count == 0)
        return error_set(error, INVALID, "sites: there is none; give at least one");
    double sites = 0;
    for (uint32_t i = 0; i < topology->group_count; i++) {
        struct topology_site *site = &topology->groups[i];
        if (site->name[0] == '\0') snprintf(site->name, sizeof site->name, "site%u", i + 1);
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(topology->groups[j].name, site->name) == 0)
                return error_set(error, INVALID, "sites: the name \"%s\" is there twice",
                                 site->name);
        }
        TRY(derive_step(topology, site, error));
        TRY(check_fault("failures", &site->failure, error));
        TRY(check_fault("link.outages", &site->link.outage, error));
        if (!(site->leaves > site->joins)) {
            return error_set(error, INVALID, "site \"%s\": leaves must come after joins",
                             site->name);
        }
        sites += site->count;
    }
    if (sites > TOPOLOGY_SITES_LIMIT) {
        return error_set(error, INVALID, "sites: %.0f of them; at most %d are simulated", sites,
                         TOPOLOGY_SITES_LIMIT);
    }
    topology->site_count = (uint32_t)sites;
    TRY(check_fault("coordinator.outages", &topology->coordinator.outage, error));
    return check_run_section(topology, error);
}

/* ---- life ------------------------------------------------------------------------------------ */

enum { FILE_LIMIT = 1 << 20 };

enum status topology_load(const char *path, struct topology **out, struct error *error) {
    struct buffer text = {0};
    enum status status = file_read(path, FILE_LIMIT, &text, error);
    if (status == OK) status = topology_parse(buffer_bytes(&text), path, out, error);
    buffer_deinit(&text);
    return status;
}

void topology_destroy(struct topology *topology) {
    if (!topology) return;
    free(topology->groups);
    free(topology);
}

struct topology *topology_copy(const struct topology *topology) {
    struct topology *copy = xmalloc(sizeof *copy);
    *copy = *topology;
    copy->groups = xcalloc(topology->group_count, sizeof *copy->groups);
    memcpy(copy->groups, topology->groups, topology->group_count * sizeof *copy->groups);
    return copy;
}

/* ---- single sites ---------------------------------------------------------------------------- */

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A permutation of 0 to count - 1 that leaves neighbours far apart. */
static uint64_t shuffled(uint64_t index, uint64_t count, uint64_t seed) {
    uint64_t stride = (uint64_t)((double)count * 0.6180339887) | 1;
    while (common_divisor(stride, count) != 1) stride++;
    return (index * stride + seed % count) % count;
}

struct topology_place topology_place(const struct topology *topology, uint32_t site,
                                     uint64_t seed) {
    ASSERT(site < topology->site_count);
    struct topology_place place = {.index = site};
    while (place.index >= (uint32_t)topology->groups[place.group].count) {
        place.index -= (uint32_t)topology->groups[place.group].count;
        place.group++;
    }
    const struct topology_site *group = &topology->groups[place.group];
    uint64_t count = (uint64_t)group->count;
    double rank = (double)shuffled(place.index, count, random_hash(seed, place.group));
    place.step = group->step / (1 + group->spread * (2 * (rank + 0.5) / (double)count - 1));
    if (count > 1)
        snprintf(place.name, sizeof place.name, "%s-%u", group->name, place.index + 1);
    else
        snprintf(place.name, sizeof place.name, "%s", group->name);
    return place;
}

/* ---- TCP ------------------------------------------------------------------------------------- */

#define SEGMENT 1448.0

/* One connection:
 *   window   window / rtt.
 *   loss     CUBIC: the larger of Mathis et al. 1997 (SEGMENT / rtt * 1.22 / sqrt(p)) and RFC
 *            9438's response function (1.054 SEGMENT / (rtt^0.25 p^0.75)), times 2: measured 0.5
 *            MB/s at 100 ms and 0.5 %, where the formula gives 0.25. BBR does not slow down for
 *            losses; only probing costs: 0.79 of the rate, measured at the same point (19.6 of 24.7
 *            MB/s); past its loss threshold of 2 % a round (BBRv2) it gives way, so it is taken as
 *            CUBIC beyond 10 %. */
static double connection_rate(const struct topology_link *link, double access) {
    double rate = access;
    if (link->rtt > 0) rate = fmin(rate, link->window / link->rtt);
    if (link->loss > 0 && link->congestion == CONGESTION_BBR && link->loss <= 0.1) {
        rate *= 0.79 * (1 - link->loss);
    } else if (link->loss > 0 && link->rtt > 0) {
        double mathis = SEGMENT / link->rtt * 1.22 / sqrt(link->loss);
        double cubic =
            SEGMENT * 1.054 / (sqrt(sqrt(link->rtt)) * sqrt(link->loss) * sqrt(sqrt(link->loss)));
        rate = fmin(rate, 2 * fmax(mathis, cubic));
    }
    return rate;
}

double topology_rate_up(const struct topology_link *link) {
    return fmin(link->up, link->connections * connection_rate(link, link->up));
}

double topology_rate_down(const struct topology_link *link) {
    return fmin(link->down, connection_rate(link, link->down));
}

/* ---- faults ---- */

double topology_draw(double mean, struct random *random) {
    double unit = random_unit(random);
    return isinf(mean) ? INFINITY : -mean * log(1 - unit);
}

double topology_fault_gap(const struct topology_fault *fault, struct random *random) {
    if (isinf(fault->every)) return INFINITY;
    return fault->regular ? fault->every : topology_draw(fault->every, random);
}

double topology_fault_length(const struct topology_fault *fault, bool is_extra,
                             struct random *random) {
    if (is_extra && fault->at_lasts > 0) return fault->at_lasts;
    return fault->regular ? fault->lasts : topology_draw(fault->lasts, random);
}
