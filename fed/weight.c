/* Weights by policy, and the cap of influence. */
#include "fed/weight.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mark.h"
#include "base/memory.h"
#include "base/setting.h"
#include "fed/scale.h"

void weighing_deinit(struct weighing *weights) {
    free(weights->voices);
    *weights = (struct weighing){0};
}

static void make_room(struct weighing *weights, uint32_t site) {
    if (site <= weights->count) return;
    uint32_t count = MAX(site, 2 * weights->count);
    weights->voices = xrealloc(weights->voices, count * sizeof weights->voices[0]);
    memset(weights->voices + weights->count, 0,
           (count - weights->count) * sizeof weights->voices[0]);
    weights->count = count;
}

void weighing_note(struct weighing *weights, uint32_t site, uint64_t tokens, double share,
                   uint64_t time_ms, uint64_t active_ms) {
    ASSERT(site >= 1);
    make_room(weights, site);
    struct weight_voice *voice = &weights->voices[site - 1];
    /* of its first one nobody knows since when it trained */
    if (voice->tokens > 0 && active_ms > voice->active_ms) {
        voice->flow_tokens = voice->flow_tokens / 2 + tokens;
        voice->flow_ms = voice->flow_ms / 2 + (active_ms - voice->active_ms);
    }
    voice->tokens = MAX(tokens, UINT64_C(1));
    voice->share = share;
    voice->time_ms = time_ms;
    voice->active_ms = active_ms;
}

void weighing_silence(struct weighing *weights, uint32_t site) {
    if (site <= weights->count) weights->voices[site - 1] = (struct weight_voice){0};
}

static bool counts(const struct weight_voice *voice, const struct manifest *manifest,
                   uint64_t time_ms) {
    return voice->tokens > 0 &&
           voice_counts(voice->time_ms, time_ms, manifest->admission.voice_age_ms);
}

static double flow_of(const struct weight_voice *voice) {
    return (double)MAX(voice->flow_tokens, UINT64_C(1)) / (double)voice->flow_ms;
}

static double tokens_of(const struct weight_voice *voice) { return (double)voice->tokens; }

static bool has_voice(const struct weight_voice *voice, const struct manifest *manifest,
                      bool by_flow, uint64_t time_ms) {
    return counts(voice, manifest, time_ms) && (!by_flow || voice->flow_ms > 0);
}

/* What sites tell is believed so far: from a TOLD_APARTth of the median to TOLD_APART times it. */
struct belief {
    double median;
    uint32_t count;
};

static struct belief belief_of(const struct weighing *weights, const struct manifest *manifest,
                               bool by_flow, uint64_t time_ms) {
    struct belief belief = {0};
    double *told = xcalloc(weights->count, sizeof told[0]);
    for (uint32_t i = 0; i < weights->count; i++) {
        const struct weight_voice *voice = &weights->voices[i];
        if (has_voice(voice, manifest, by_flow, time_ms))
            told[belief.count++] = by_flow ? flow_of(voice) : tokens_of(voice);
    }
    if (belief.count > 0) belief.median = lower_median(told, belief.count);
    free(told);
    return belief;
}

static double believed(struct belief belief, double told) {
    if (told > belief.median * TOLD_APART) MARK("weight: more tokens than count");
    return fmax(fmin(told, belief.median * TOLD_APART), belief.median / TOLD_APART);
}

static double by_tokens(const struct weighing *weights, const struct manifest *manifest,
                        const struct weight_voice *own, uint64_t time_ms) {
    struct belief belief = belief_of(weights, manifest, false, time_ms);
    double sum = 0;
    for (uint32_t i = 0; i < weights->count; i++) {
        const struct weight_voice *voice = &weights->voices[i];
        if (has_voice(voice, manifest, false, time_ms)) sum += believed(belief, tokens_of(voice));
    }
    return believed(belief, tokens_of(own)) * belief.count / sum;
}

/* The site's share over its part of the tokens that all train in a time; 1 at most. */
static double by_share(const struct weighing *weights, const struct manifest *manifest,
                       const struct weight_voice *own, uint64_t time_ms) {
    if (own->flow_ms == 0) return 1;
    struct belief belief = belief_of(weights, manifest, true, time_ms);
    double flow = 0, share = 0;
    for (uint32_t i = 0; i < weights->count; i++) {
        const struct weight_voice *voice = &weights->voices[i];
        if (!has_voice(voice, manifest, true, time_ms)) continue;
        flow += believed(belief, flow_of(voice));
        share += voice->share;
    }
    double weight = own->share / share * (flow / believed(belief, flow_of(own)));
    if (weight > 1) MARK("weight: less data than its share");
    return fmin(weight, 1);
}

double weighing_of(const struct weighing *weights, const struct manifest *manifest, uint32_t site,
                   uint64_t time_ms) {
    if (manifest->weights == WEIGHTS_EQUAL || site > weights->count) return 1;
    const struct weight_voice *voice = &weights->voices[site - 1];
    if (!counts(voice, manifest, time_ms)) return 1;
    double weight = manifest->weights == WEIGHTS_TOKENS
                        ? by_tokens(weights, manifest, voice, time_ms)
                        : by_share(weights, manifest, voice, time_ms);
    if (weight > WEIGHT_MOST) MARK("weight: the cap of influence");
    return fmax(fmin(weight, WEIGHT_MOST), WEIGHT_LEAST);
}

/* ---- shares ---------------------------------------------------------------------------------- */

struct share {
    char name[SITE_NAME_SIZE];
    double share;
};

static const struct setting share_setting = {.name = "share",
                                             .kind = SETTING_NUMBER,
                                             .size = sizeof(double),
                                             .real = true,
                                             .min = "1e-6",
                                             .max = "1e6"};

/* The next of *text, which moves behind it. NOT_FOUND: none is left. */
static enum status next_share(const char **text, struct share *out, struct error *error) {
    const char *at = *text + strspn(*text, " ");
    size_t size = strcspn(at, " "), name_size = strcspn(at, "= ");
    char value[32];
    if (size == 0) return error_set(error, NOT_FOUND, "no more shares");
    if (name_size == size || name_size >= SITE_NAME_SIZE || size - name_size > sizeof value)
        return error_set(error, INVALID, "\"%.*s\" is not a share: write SITE=NUMBER",
                         (int)MIN(size, (size_t)80), at);
    memcpy(out->name, at, name_size);
    out->name[name_size] = 0;
    TRY(name_check(out->name, error));
    memcpy(value, at + name_size + 1, size - name_size - 1);
    value[size - name_size - 1] = 0;
    TRY(setting_parse(&share_setting, value, &out->share, error));
    *text = at + size;
    return OK;
}

enum status shares_check(const char *text, struct error *error) {
    struct share share = {0};
    char before[SITE_NAME_SIZE] = "";
    if (strcmp(text, "none") == 0) return OK;
    if (text[strspn(text, " ")] == 0)
        return error_set(error, INVALID, "no shares: write none, or SITE=NUMBER for each site");
    for (;;) {
        struct error why = {0};
        enum status status = next_share(&text, &share, &why);
        if (status == NOT_FOUND) return OK;
        if (status != OK) return error_set(error, status, "%s", why.message);
        if (strcmp(before, share.name) >= 0)
            return error_set(error, INVALID,
                             "%s comes after %s: name each site once, in the alphabet's order",
                             share.name, before);
        memcpy(before, share.name, sizeof before);
    }
}

double weight_share(const struct manifest *manifest, const char *name) {
    const char *text = manifest->shares;
    struct share share = {0};
    double sum = 0, count = 0;
    if (strcmp(text, "none") == 0) return 1;
    while (next_share(&text, &share, NULL) == OK) {
        if (strcmp(share.name, name) == 0) return share.share;
        sum += share.share;
        count++;
    }
    return count > 0 ? sum / count : 1;
}
