/* Sites that poison the model: what one sends instead of its delta. It follows every rule of form,
 * knows the clip of the moment, and goes on training like the others. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "experiment/train_internal.h"

const char *const train_hostile_names[] = {"none", "large", "flip", "random", "negate", NULL};

enum { LARGE = 100 /* times what an honest site sends */ };

bool site_is_hostile(const struct train *train, const struct train_site *site) {
    const struct train_options *options = train->options;
    uint32_t index = (uint32_t)(site - train->sites);
    return options->hostile != TRAIN_HONEST &&
           index + options->hostile_sites >= train->site_count &&
           train->now >= options->hostile_from;
}

void hostile_note_honest(struct train *train, const struct train_site *site) {
    if (train->options->hostile != TRAIN_NEGATE || site_is_hostile(train, site)) return;
    train->overheard.size = 0;
    struct bytes payload = payload_bytes(site->slots[0].payload);
    buffer_append(&train->overheard, payload.data, payload.size);
}

static void scale_all(float *values, double factor, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = (float)((double)values[i] * factor);
}

/* delta = base - snapshot, or what stands for it. */
static enum status fill(struct train *train, const struct train_site *site, float *delta,
                        struct error *error) {
    size_t count = train->layout.count;
    if (train->options->hostile == TRAIN_NEGATE && train->overheard.size > 0) {
        enum codec codec = (enum codec)train->options->manifest->codec.kind;
        TRY(codec_decode(codec, buffer_bytes(&train->overheard), count, delta, error));
        scale_all(delta, -1, count);
        return OK;
    }
    for (size_t i = 0; i < count; i++) {
        if (train->options->hostile == TRAIN_RANDOM)
            delta[i] = (float)(random_unit(&train->random) - 0.5);
        else
            delta[i] = site->slots[0].base->theta[i] - site->snapshot[i];
    }
    if (train->options->hostile != TRAIN_RANDOM)
        scale_all(delta, train->options->hostile == TRAIN_LARGE ? LARGE : -1, count);
    return OK;
}

static enum status encode(struct train *train, struct train_site *site, const float *delta,
                          float *feedback, struct error *error) {
    struct buffer message = {0};
    if (feedback) memset(feedback, 0, train->layout.count * sizeof(float));
    TRY(codec_encode(train->queues[0].encoder, delta, NULL, feedback, &message, error));
    return site_seal(train, site, 0, &message, error);
}

/* Just under the clip, so that all of it counts; where there is no clip, as much as `large`. */
static enum status encode_at_limit(struct train *train, struct train_site *site, float *delta,
                                   float *feedback, struct error *error) {
    size_t count = train->layout.count;
    const struct train_slot *slot = &site->slots[0];
    double limit = train_clip_limit(train, 0), honest = slot->norm;
    TRY(encode(train, site, delta, feedback, error));
    if (!(slot->norm > 0)) return OK;
    bool shorter = train->options->hostile == TRAIN_NEGATE && !(slot->norm > limit);
    if (shorter) return OK;
    if (isinf(limit)) limit = LARGE * honest;
    scale_all(delta, 0.99 * limit / slot->norm, count);
    return encode(train, site, delta, feedback, error);
}

enum status hostile_round(struct train *train, struct train_site *site, struct error *error) {
    size_t count = train->layout.count;
    float *delta = xmalloc(count * sizeof(float)),
          *feedback = site->feedback ? xmalloc(count * sizeof(float)) : NULL;
    enum status status = fill(train, site, delta, error);
    if (status == OK && train->options->hostile == TRAIN_LARGE)
        status = encode(train, site, delta, feedback, error);
    else if (status == OK)
        status = encode_at_limit(train, site, delta, feedback, error);
    free(delta);
    free(feedback);
    return status;
}
