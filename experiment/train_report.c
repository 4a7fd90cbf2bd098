/* One object; nats of held-out text per file beside their mean. */
#include "experiment/train_report.h"

#include "base/json.h"
#include "fed/outer_rate.h"

/* Of what follows the sites: by the most that were there at once. */
static void write_rules(struct json_writer *json, const struct train_options *options,
                        uint32_t present) {
    const struct manifest *m = options->manifest;
    json_key(json, "rules");
    json_begin_object(json);
    json_put_u64(json, "sites", options->topology->site_count);
    json_put_u64(json, "seed", options->seed);
    json_put_text(json, "codec", codec_name((enum codec)m->codec.kind));
    json_put_u64(json, "inner_steps", m->inner.inner_steps);
    json_put_u64(json, "fragments", m->fragments);
    json_put_f64(json, "learning_rate", m->inner.learning_rate);
    struct step_rules step = step_rules_of(m, m->inner.inner_steps, present);
    json_put_f64(json, "outer_learning_rate", (double)step.rate);
    json_put_bool(json, "outer_rate_follows_sites", m->outer.learning_rate == RATE_AUTO);
    json_put_u64(json, "period", step.period);
    json_put_u64(json, "quorum", m->merge.quorum);
    json_put_u64(json, "staleness_cap", staleness_cap_of(m->merge.staleness_cap, present));
    json_put_bool(json, "overlap", options->topology->run.overlap);
    json_put_bool(json, "dylu", m->inner.dylu);
    json_put_bool(json, "one_cluster", options->one_cluster);
    json_put_u64(json, "average", options->average);
    json_put_u64(json, "follow_interval", options->follow_interval);
    json_put_u64(json, "batch_tokens", (uint64_t)options->sequences * m->model.context);
    json_end_object(json);
}

static void write_figures(struct json_writer *json, const struct train_result *r) {
    char root[HEX32_SIZE];
    json_put_f64(json, "heldout", r->heldout);
    json_put_f64(json, "heldout_late", r->heldout_late);
    json_put_f64(json, "loss", r->loss);
    json_put_f64(json, "seconds", r->seconds);
    json_put_f64(json, "busy", r->busy);
    json_put_u64(json, "parameters", r->parameters);
    json_put_u64(json, "tokens", r->tokens);
    json_put_u64(json, "steps", r->steps);
    json_put_u64(json, "lost_steps", r->lost_steps);
    json_put_u64(json, "versions", r->versions);
    json_put_u64(json, "contributions", r->contributions);
    json_put_u64(json, "refused", r->refused);
    json_put_u64(json, "clipped", r->clipped);
    json_put_u64(json, "dropped", r->dropped);
    json_put_u64(json, "duplicates", r->duplicates);
    json_put_f64(json, "staleness", r->staleness);
    json_put_u64(json, "staleness_most", r->staleness_most);
    json_put_u64(json, "bytes_up", r->bytes_up);
    json_put_u64(json, "bytes_down", r->bytes_down);
    json_put_u64(json, "message_bytes_most", r->message_most);
    json_put_text(json, "root", hex_encode(r->root, DIGEST_SIZE, root));
}

static void write_evaluations(struct json_writer *json, const struct train_record *record) {
    json_key(json, "evaluations");
    json_begin_array(json);
    for (size_t i = 0; i < record->count; i++) {
        const struct train_evaluation *one = &record->evaluations[i];
        json_begin_object(json);
        json_put_f64(json, "seconds", one->at);
        json_put_u64(json, "version", one->version);
        json_put_u64(json, "tokens", one->tokens);
        json_put_u64(json, "bytes_up", one->bytes_up);
        json_put_f64(json, "loss", one->loss);
        json_put_f64(json, "heldout", one->heldout);
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
        json_put_text(json, "name", site->name);
        json_put_text(json, "file", options->data[site->file]);
        json_put_u64(json, "inner_steps", site->inner_steps);
        json_put_u64(json, "tokens", site->tokens);
        json_put_u64(json, "contributions", site->contributions);
        json_put_u64(json, "refused", site->refused);
        json_put_u64(json, "clipped", site->clipped);
        json_put_u64(json, "dropped", site->dropped);
        json_put_u64(json, "duplicates", site->duplicates);
        json_put_u64(json, "staleness_most", site->staleness_most);
        json_end_object(json);
    }
    json_end_array(json);
}

void train_report(const struct train_options *options, const struct train_result *result,
                  const struct train_record *record, struct buffer *out) {
    struct json_writer json = json_writer_of(out, false);
    json_begin_object(&json);
    write_rules(&json, options, result->present_most);
    write_figures(&json, result);
    write_sites(&json, options, record);
    write_evaluations(&json, record);
    json_end_object(&json);
    buffer_append_text(out, "\n");
}
