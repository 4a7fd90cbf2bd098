/* The inside of topology: every key of the file, in tables that read, check and explain it
 * (base/setting.h). */
#ifndef TOPOLOGY_TOPOLOGY_TABLE_H
#define TOPOLOGY_TOPOLOGY_TABLE_H

#include "base/setting.h"
#include "topology/topology.h"

extern const struct setting topology_fields[];      /* of the file's top */
extern const struct setting topology_site_fields[]; /* of a site, and of `defaults` */
extern const char *const topology_gpu_names[];      /* gpu_kind is the index; ends with NULL */

/* Checks a topology as a whole and fills what follows from the rest (topology.c). */
MUST_USE enum status topology_settle(struct topology *topology, struct error *error);

#endif
