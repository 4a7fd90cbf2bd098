/* Rules of a run from a federation's file, and their changes (topology/rules.h). */
#include "topology/rules.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/setting.h"

static uint64_t whole_milliseconds(double seconds) {
    return isinf(seconds) ? UINT64_MAX : (uint64_t)(1000 * seconds);
}

void rules_begin(const struct topology_run *run, struct manifest *out) {
    out->outer.mode = run->mode;
    out->codec.kind = (uint16_t)run->codec;
    out->inner.inner_steps = (uint32_t)run->inner_steps;
    out->inner.dylu = run->dylu;
    out->fragments = (uint32_t)run->fragments;
    out->merge.quorum = (uint32_t)run->quorum;
    out->merge.grace_ms = whole_milliseconds(run->grace);
    out->merge.staleness_cap =
        isnan(run->staleness_cap) ? MANIFEST_AUTO : (uint32_t)run->staleness_cap;
    out->merge.warmup_steps = (uint32_t)run->warmup_steps;
    out->merge.warmup_grace_ms = whole_milliseconds(run->warmup_grace);
    out->merge.away_after_ms = whole_milliseconds(run->away_after);
}

static enum status change_parse(const char *text, struct rules_change *out, struct error *error) {
    static const struct setting time = {"time", SETTING_DURATION, .size = sizeof(uint64_t),
                                        .min = "0", .max = "365d"};
    char at[32], rest;
    uint64_t ms = 0;
    *out = (struct rules_change){0};
    if (sscanf(text, "%31s %47s %79s %c", at, out->key, out->value, &rest) != 3)
        return error_set(
            error, INVALID,
            "--rule \"%s\": write a time, a key and a value, such as \"5m merge.quorum "
            "3\"",
            text);
    enum status status = setting_parse(&time, at, &ms, error);
    out->at = (double)ms / 1000;
    return status == OK ? OK : error_wrap(error, status, "--rule \"%s\"", text);
}

/* Behind those of its time: of two changes at one time the later text holds. */
static void insert(struct rules_change *changes, size_t count, const struct rules_change *one) {
    size_t at = count;
    for (; at > 0 && changes[at - 1].at > one->at; at--) changes[at] = changes[at - 1];
    changes[at] = *one;
}

enum status rules_changes(const char *const texts[], size_t count, const struct manifest *begin,
                          const char *program, bool (*fixed)(const char *key),
                          struct rules_change **out, struct error *error) {
    struct rules_change *changes = xcalloc(count + 1, sizeof *changes);
    struct manifest rules = *begin;
    enum status status = OK;
    for (size_t i = 0; status == OK && i < count; i++) {
        struct rules_change one;
        status = change_parse(texts[i], &one, error);
        if (status == OK) insert(changes, i, &one);
    }
    for (size_t i = 0; status == OK && i < count; i++) {
        const char *key = changes[i].key;
        status = manifest_change(&rules, key, changes[i].value, &rules, NULL, error);
        if (status == OK && fixed && fixed(key))
            status = error_set(error, INVALID, "%s cannot change in %s", key, program);
        if (status != OK) status = error_wrap(error, status, "--rule");
    }
    if (status == OK)
        *out = changes;
    else
        free(changes);
    return status;
}
