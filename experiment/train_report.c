/* One object; nats of held-out text per file beside their mean. */
#include "experiment/train_report.h"

#include "base/json.h"
#include "fed/outer_rate.h"

static void number(struct json_writer *json, const char *key, double value) {
    json_key(json, key);
    json_f64(json, value);
}

static void count(struct json_writer *json, const char *key, uint64_t value) {
    json_key(json, key);
    json_u64(json, value);
}

static void text(struct json_writer *json, const char *key, const char *value) {
    json_key(json, key);
    json_text(json, value);
}

static void write_rules(struct json_writer *json, const struct train_options *options) {
    const struct manifest *m = options->manifest;
    json_key(json, "rules");
    json_begin_object(json);
    count(json, "sites", options->topology->site_count);
    count(json, "seed", options->seed);
    text(json, "codec", codec_name((enum codec)m->codec.kind));
    count(json, "inner_steps", m->inner.inner_steps);
    number(json, "learning_rate", m->inner.learning_rate);
    struct step_rules step = step_rules_of(m, m->inner.inner_steps, options->topology->site_count);
    number(json, "outer_learning_rate", (double)step.rate);
    json_key(json, "outer_rate_follows_sites");
    json_bool(json, m->outer.learning_rate == RATE_AUTO);
    count(json, "period", step.period);
    count(json, "quorum", m->merge.quorum);
    count(json, "staleness_cap", staleness_cap_of(m, options->topology->site_count));
    json_key(json, "overlap");
    json_bool(json, options->topology->run.overlap);
    json_key(json, "dylu");
    json_bool(json, m->inner.dylu);
    json_key(json, "one_cluster");
    json_bool(json, options->one_cluster);
    count(json, "average", options->average);
    count(json, "follow_interval", options->follow_interval);
    count(json, "batch_tokens", (uint64_t)options->sequences * m->model.context);
    json_end_object(json);
}

static void write_figures(struct json_writer *json, const struct train_result *r) {
    char root[HEX32_SIZE];
    number(json, "heldout", r->heldout);
    number(json, "heldout_late", r->heldout_late);
    number(json, "loss", r->loss);
    number(json, "seconds", r->seconds);
    number(json, "busy", r->busy);
    count(json, "parameters", r->parameters);
    count(json, "tokens", r->tokens);
    count(json, "steps", r->steps);
    count(json, "lost_steps", r->lost_steps);
    count(json, "versions", r->versions);
    count(json, "contributions", r->contributions);
    count(json, "refused", r->refused);
    count(json, "clipped", r->clipped);
    count(json, "dropped", r->dropped);
    count(json, "duplicates", r->duplicates);
    number(json, "staleness", r->staleness);
    count(json, "staleness_most", r->staleness_most);
    count(json, "bytes_up", r->bytes_up);
    count(json, "bytes_down", r->bytes_down);
    text(json, "root", hex_encode(r->root, DIGEST_SIZE, root));
}

static void write_evaluations(struct json_writer *json, const struct train_record *record) {
    json_key(json, "evaluations");
    json_begin_array(json);
    for (size_t i = 0; i < record->count; i++) {
        const struct train_evaluation *one = &record->evaluations[i];
        json_begin_object(json);
        number(json, "seconds", one->at);
        count(json, "version", one->version);
        count(json, "tokens", one->tokens);
        count(json, "bytes_up", one->bytes_up);
        number(json, "loss", one->loss);
        number(json, "heldout", one->heldout);
        json_key(json, "files");
        json_begin_array(json);
        for (size_t j = 0; j < record->file_count; j++)
            json_f64(json, record->files[i * record->file_count + j]);
        json_end_array(json);
        json_end_object(json);
    }
    json_end_array(json);
}

static void write_sites(struct json_writer *json, const struct train_options *options,
                        const struct train_record *record) {
    json_key(json, "sites");
    json_begin_array(json);
    for (uint32_t i = 0; i < record->site_count; i++) {
        const struct train_site_record *site = &record->sites[i];
        json_begin_object(json);
        text(json, "name", site->name);
        text(json, "file", options->data[site->file]);
        count(json, "inner_steps", site->inner_steps);
        count(json, "tokens", site->tokens);
        count(json, "contributions", site->contributions);
        count(json, "refused", site->refused);
        count(json, "clipped", site->clipped);
        count(json, "dropped", site->dropped);
        count(json, "duplicates", site->duplicates);
        count(json, "staleness_most", site->staleness_most);
        json_end_object(json);
    }
    json_end_array(json);
}

void train_report(const struct train_options *options, const struct train_result *result,
                  const struct train_record *record, struct buffer *out) {
    struct json_writer json = json_writer_of(out, false);
    json_begin_object(&json);
    write_rules(&json, options);
    write_figures(&json, result);
    write_sites(&json, options, record);
    write_evaluations(&json, record);
    json_end_object(&json);
    buffer_append_text(out, "\n");
}
