/* Makes a failing seed smaller (sim/shrink.h): runs it again without some faults or sites as long
 * as the same invariant breaks. */
#include "sim/shrink.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct search {
    struct federation_options options;
    const char *invariant;
    struct world_filter filter;
    uint64_t *kept; /* [count] */
    size_t count;
    uint32_t tries;
};

/* Whether the run fails alike with these faults and sites alone; then they are what is kept. */
static bool fails(struct search *search, const uint64_t *kept, size_t count, uint32_t absent) {
    struct world_filter filter = {kept, count, absent};
    struct federation_options options = search->options;
    struct federation_result result;
    static const uint64_t none[1];
    if (search->tries >= SHRINK_TRIES) return false;
    search->tries++;
    if (count == 0) filter.kept = none;
    options.filter = &filter;
    federation_run(&options, &result);
    bool alike = result.failed && strcmp(result.invariant, search->invariant) == 0;
    federation_result_deinit(&result);
    if (!alike) return false;
    memmove(search->kept, kept, count * sizeof *kept);
    search->count = count;
    search->filter.absent = absent;
    return true;
}

/* Without [from, from + size) of them. */
static bool fails_without(struct search *search, size_t from, size_t size) {
    size_t left = search->count - size;
    uint64_t *rest = xcalloc(left + 1, sizeof *rest);
    memcpy(rest, search->kept, from * sizeof *rest);
    memcpy(rest + from, search->kept + from + size, (left - from) * sizeof *rest);
    bool failed = fails(search, rest, left, search->filter.absent);
    free(rest);
    return failed;
}

static void leave_out_faults(struct search *search) {
    if (search->count > 0 && fails_without(search, 0, search->count)) return;
    for (size_t size = (search->count + 1) / 2;
         size > 0 && search->tries<SHRINK_TRIES; size = size> 1 ? (size + 1) / 2 : 0) {
        for (size_t from = 0; from < search->count && search->tries < SHRINK_TRIES;) {
            size_t some = MIN(size, search->count - from);
            if (!fails_without(search, from, some)) from += some;
        }
    }
}

static void leave_out_sites(struct search *search, uint32_t sites) {
    for (uint32_t site = sites; site >= 1; site--)
        (void)fails(search, search->kept, search->count, search->filter.absent | 1u << site);
}

void shrink(const struct federation_options *options, const struct federation_result *failed,
            struct shrunk *out) {
    struct search search = {.options = *options, .invariant = failed->invariant};
    search.options.report = NULL;
    search.options.trace = false;
    search.kept = xcalloc(failed->injected_count + 1, sizeof *search.kept);
    for (size_t i = 0; i < failed->injected_count; i++) search.kept[i] = failed->injected[i].number;
    search.count = failed->injected_count;
    leave_out_faults(&search);
    leave_out_sites(&search, failed->sites);
    if (search.count > 0 && search.filter.absent) leave_out_faults(&search);
    *out = (struct shrunk){.absent = search.filter.absent, .tries = search.tries};
    buffer_append(&out->kept, search.kept, search.count * sizeof *search.kept);
    free(search.kept);
}

void shrunk_deinit(struct shrunk *shrunk) { buffer_deinit(&shrunk->kept); }
