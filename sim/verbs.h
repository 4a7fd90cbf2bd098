/* The verbs of atoll-sim. Their settings lie side by side in one struct, which the option tables of
 * all of them fill. */
#ifndef SIM_VERBS_H
#define SIM_VERBS_H

#include "base/options.h"
#include "model/data_format.h"

struct sim_settings {
    struct {
        uint64_t seed, seeds, first, sites;
        bool trace, hashes, coverage, shrink;
        const char *keep, *absent, *mutant;
    } faults;
    struct {
        const char *file, *preset, *plot;
        struct setting_list rules;
        uint64_t seed;
        int format;
        bool advice, explain;
    } plan;
    struct {
        const char *file, *manifest, *preset, *csv, *svg, *json, *export_to;
        struct setting_list data, rules;
        enum data_format data_format;
        uint64_t inner_steps, sites, sequences, threads, seed, duration_ms, evaluate_ms, windows;
        uint64_t follow_interval, period, tokens, average;
        double heldout, learning_rate, outer_learning_rate, drop, duplicate;
        bool sync, one_cluster, error_feedback, by_site;
        int mode, codec; /* 0: as the file says */
        int hostile;
        uint64_t hostile_sites, hostile_from_ms;
    } train;
};

extern const struct command verb_faults;
extern const struct command verb_plan;
extern const struct command verb_train;

#endif
