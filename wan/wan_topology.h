/* A federation on paper (topology/topology.h) as links of the proxy, and as JSON for those who
 * start real processes from it. */
#ifndef WAN_WAN_TOPOLOGY_H
#define WAN_WAN_TOPOLOGY_H

#include "topology/topology.h"
#include "wan/wan_link.h"

/* Delay, rates, jitter, loss and window of a link; regular resets too. Random resets, outages and
 * failures are for the program that keeps the time: they are in the description. */
struct wan_settings wan_settings_of(const struct topology_link *link);
/* One JSON object: "run" and "coordinator" with what a manifest and a schedule of outages need, and
 * for each site, in the order of the file, name, step_s, faults, restart and so on. Times in
 * seconds; null is never or none. */
void wan_describe(const struct topology *topology, uint64_t seed, struct buffer *out);

#endif
