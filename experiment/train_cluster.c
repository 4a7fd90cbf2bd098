/* The reference: one cluster that has the machines and the texts of all sites. Each of its steps is
 * a batch of the next site's text, so it makes as many updates, of the same batches, as all sites
 * together make inner steps; none of them waits for a network. */
#include <string.h>

#include "base/memory.h"
#include "experiment/train_internal.h"

static void take_parameters(struct train *train) {
    memcpy(train->model.theta, trainer_parameters_to_change(train->trainers[0]),
           train->layout.count * sizeof(float));
}

enum status cluster_run(struct train *train, struct error *error) {
    const struct train_options *options = train->options;
    struct trainer *trainer = train->trainers[0];
    uint64_t batch = (uint64_t)options->sequences * options->manifest->model.context;
    uint64_t limit = options->token_limit ? options->token_limit : UINT64_MAX;
    double speed = 0, next = 0; /* steps per second; the next evaluation */
    memcpy(trainer_parameters_to_change(trainer), train->model.theta,
           train->layout.count * sizeof(float));
    for (uint32_t i = 0; i < train->site_count; i++) speed += 1 / train->sites[i].step;
    for (uint64_t tokens = 0;; tokens += batch) {
        double at = (double)(tokens / batch) / speed;
        train->now = MIN(at, options->duration);
        if (at >= next || at >= options->duration) {
            take_parameters(train);
            TRY(train_note_evaluation(train, error));
            next += options->evaluate_every;
        }
        if (at >= options->duration || tokens >= limit) break;
        struct train_site *site = &train->sites[tokens / batch % train->site_count];
        struct trainer_result result;
        /* evaluating has put the model's parameters there: the same */
        TRY(trainer_step(trainer, site->data, tokens, &result, error));
        site->loss = result.loss;
        site->tokens += batch;
        site->busy += site->step;
        train->result.steps++;
    }
    take_parameters(train);
    return OK;
}
