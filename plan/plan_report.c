/* A plan for people and for programs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "plan/plan.h"

static const char *scaled(double value, const char *unit, char out[static 32]) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    size_t at = 0;
    while (fabs(value) >= 1000 && at + 1 < COUNT_OF(prefixes)) {
        value /= 1000;
        at++;
    }
    snprintf(out, 32, "%.4g %s%s", value, prefixes[at], unit);
    return out;
}

static const char *span(double seconds, char out[static 32]) {
    if (isinf(seconds))
        snprintf(out, 32, "not within the plan");
    else if (seconds < 120)
        snprintf(out, 32, "%.3g s", seconds);
    else if (seconds < 7200)
        snprintf(out, 32, "%.3g min", seconds / 60);
    else if (seconds < 172800)
        snprintf(out, 32, "%.3g h", seconds / 3600);
    else
        snprintf(out, 32, "%.4g days", seconds / 86400);
    return out;
}

/* Where the target lies past the end of the plan, its rate is taken to go on. */
static double time_to_target(const struct topology *topology, const struct plan_result *result) {
    if (!isinf(result->seconds_to_target) || !(result->merged_tokens > 0))
        return result->seconds_to_target;
    return result->duration * topology->target_tokens / result->merged_tokens;
}

static void text_sites(const struct plan_result *result, struct buffer *out) {
    char a[32], b[32], c[32];
    uint32_t shown = MIN(result->site_count, 16u);
    buffer_append_text(out, "\n%-18s %8s %12s %8s %8s %10s %10s %7s %7s\n", "site", "busy",
                       "tokens/s", "rounds", "merged", "up", "down", "crashes", "behind");
    for (uint32_t i = 0; i < shown; i++) {
        const struct plan_site *site = &result->sites[i];
        buffer_append_text(out, "%-18.18s %7.2f%% %12s %8llu %8llu %10s %10s %7llu %6.2f%%\n",
                           site->place.name, 100 * site->busy,
                           scaled(site->tokens_per_second, "", a), (unsigned long long)site->rounds,
                           (unsigned long long)site->merged, scaled(site->sent, "B", b),
                           scaled(site->received, "B", c), (unsigned long long)site->crashes,
                           100 * site->behind / result->duration);
    }
    if (shown < result->site_count)
        buffer_append_text(out, "... and %u more: --format json has all\n",
                           result->site_count - shown);
}

static void text_rounds(const struct plan_result *result, struct buffer *out) {
    double merged = 0, phases[PLAN_PHASES] = {0};
    char a[32];
    for (uint32_t i = 0; i < result->site_count; i++) {
        merged += (double)result->sites[i].merged;
        for (size_t j = 0; j < PLAN_PHASES; j++) phases[j] += result->sites[i].phase[j];
    }
    buffer_append_text(out,
                       "\nrounds      %llu contributions in %llu outer steps; %.4g inner steps "
                       "each (H as wanted: %.4g)\n",
                       (unsigned long long)result->contributions,
                       (unsigned long long)result->versions, result->effective_inner_steps,
                       result->wanted_inner_steps);
    buffer_append_text(out, "a round     ");
    for (size_t j = 0; j < PLAN_PHASES; j++)
        buffer_append_text(out, "%s%s %s", j ? ", " : "", plan_phase_names[j],
                           span(merged > 0 ? phases[j] / merged : 0, a));
    buffer_append_text(out,
                       "\nstaleness   p50 %llu, p90 %llu, p99 %llu, most %llu; %llu refused past "
                       "the cap of %u; %llu told BUSY\n",
                       (unsigned long long)plan_staleness(result, 0.5),
                       (unsigned long long)plan_staleness(result, 0.9),
                       (unsigned long long)plan_staleness(result, 0.99),
                       (unsigned long long)plan_staleness(result, 1),
                       (unsigned long long)result->refused_stale, result->cap_most,
                       (unsigned long long)result->busy_answers);
}

static void text_advice(const struct plan_result *result, const struct plan_advice *advice,
                        struct buffer *out) {
    char a[32], b[32];
    buffer_append_text(out,
                       "\nadvice      failures and joining leave %.2f %%; wanted: 99 %% of that "
                       "busy, and rounds of at most 1.1 H\n",
                       100 * advice->possible);
    if (advice->fine) buffer_append_text(out, "            as it is, it gets there\n");
    buffer_append_text(out, "  %8s %-10s %9s %9s %9s %10s %10s %5s\n", "H", "codec", "fragments",
                       "busy", "round/H", "up", "down", "p99");
    for (size_t i = 0; i < advice->count; i++) {
        const struct plan_candidate *candidate = &advice->candidates[i];
        buffer_append_text(out, "%s %8.0f %-10s %9.0f %8.2f%% %9.3f %10s %10s %5.0f\n",
                           (int)i == advice->best ? "*"
                           : candidate->reaches   ? "+"
                                                  : " ",
                           candidate->inner_steps, codec_name(candidate->codec),
                           candidate->fragments, 100 * candidate->busy, candidate->stretch,
                           scaled(candidate->up_bytes, "B", a),
                           scaled(candidate->down_bytes, "B", b), candidate->staleness_p99);
    }
    if (result->starved_sites > 0)
        buffer_append_text(out,
                           "            of %u site%s most messages come too late: a staleness_cap "
                           "of %llu or more, fewer bytes (codec), "
                           "a larger H\n            for all or a faster uplink lets them in; "
                           "nothing is lost meanwhile, and nothing of it "
                           "merged\n",
                           result->starved_sites, result->starved_sites > 1 ? "s" : "",
                           (unsigned long long)result->cap_wanted);
    if (advice->best >= 0)
        buffer_append_text(out, "            *: the shortest rounds that get there, with the "
                                "fewest bytes; +: gets there too\n");
    else
        buffer_append_text(out, "            none of these gets there\n");
}

void plan_text(const struct topology *topology, const struct plan_result *result,
               const struct plan_advice *advice, struct buffer *out) {
    char a[32], b[32], c[32], d[32];
    buffer_append_text(out,
                       "%s: %u sites, %s parameters, %s, H %.0f, %.0f fragments, quorum %.0f, "
                       "overlap %s; %s simulated\n",
                       topology->name, result->site_count,
                       scaled(topology->model.parameters, "", a), codec_name(topology->run.codec),
                       topology->run.inner_steps, topology->run.fragments, topology->run.quorum,
                       topology->run.overlap ? "on" : "off", span(result->duration, b));
    if (result->site_count > result->site_limit)
        buffer_append_text(out,
                           "note        a run admits at most %llu sites; this plan supposes that "
                           "it admitted more\n",
                           (unsigned long long)result->site_limit);
    buffer_append_text(out, "\nbusy        %.2f %% of the sites' time trains and is kept\n",
                       100 * result->busy);
    if (!isnan(topology->reported.busy))
        buffer_append_text(out, "reported    %.2f %% busy%s%s\n", 100 * topology->reported.busy,
                           topology->reported.source[0] ? ": " : "", topology->reported.source);
    buffer_append_text(out, "lost to    ");
    bool any = false;
    for (int cause = PLAN_COPY; cause < PLAN_ABSENT; cause++) {
        double share = plan_share(result, (enum plan_cause)cause);
        if (!(share > 0)) continue;
        buffer_append_text(out, "%s %s %.3f %%", any ? "," : "", plan_cause_names[cause],
                           100 * share);
        any = true;
    }
    buffer_append_text(out, "%s\ngoodput     %s tokens/s; merged %s\n", any ? "" : " nothing",
                       scaled(result->goodput_tokens / result->duration, "", a),
                       scaled(result->merged_tokens, "tokens", b));
    if (topology->target_tokens > 0)
        buffer_append_text(out, "target      %s tokens in %s\n",
                           scaled(topology->target_tokens, "", a),
                           span(time_to_target(topology, result), b));
    text_rounds(result, out);
    buffer_append_text(out,
                       "wan         up %s, down %s; a contribution %s, %.4f bits per parameter",
                       scaled(result->up_bytes, "B", a), scaled(result->down_bytes, "B", b),
                       scaled(result->round_bytes, "B", c), result->uplink_bits);
    if (!isnan(topology->reported.uplink_bits))
        buffer_append_text(out, " (reported: %.4f)", topology->reported.uplink_bits);
    buffer_append_text(out, "\n            lost and sent again: up %s, down %s\n",
                       scaled(result->up_lost, "B", a), scaled(result->down_lost, "B", b));
    buffer_append_text(
        out, "cost        %.2f: sites' egress %.2f, coordinator's egress %.2f, its hours %.2f\n",
        result->cost_sites + result->cost_egress + result->cost_hours, result->cost_sites,
        result->cost_egress, result->cost_hours);
    buffer_append_text(out,
                       "coordinator peak in %s/s, out %s/s; %.3g of %.0f cores (intake thread %.1f "
                       "%%, model thread %.1f %%)\n",
                       scaled(result->peak_in, "B", a), scaled(result->peak_out, "B", b),
                       result->cpu_cores, topology->coordinator.cores, 100 * result->intake_busy,
                       100 * result->model_busy);
    buffer_append_text(out, "            ram %s of %s, disk %s of %s%s\n",
                       scaled(result->ram, "B", a), scaled(topology->coordinator.ram, "B", b),
                       scaled(result->disk, "B", c), scaled(topology->coordinator.disk, "B", d),
                       result->ram > topology->coordinator.ram ||
                               result->disk > topology->coordinator.disk
                           ? ": TOO LITTLE"
                           : "");
    buffer_append_text(out, "binds       %s\n", result->binding);
    text_sites(result, out);
    if (advice) text_advice(result, advice, out);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_site(struct json_writer *json, const struct plan_site *site) {
    json_begin_object(json);
    json_put_text(json, "name", site->place.name);
    json_put_f64(json, "step_seconds", site->place.step);
    json_put_f64(json, "busy", site->busy);
    json_put_f64(json, "tokens_per_second", site->tokens_per_second);
    json_put_f64(json, "tokens", site->tokens);
    json_key(json, "seconds");
    json_begin_object(json);
    for (size_t i = 0; i < PLAN_CAUSES; i++) json_put_f64(json, plan_cause_names[i], site->time[i]);
    json_end_object(json);
    json_key(json, "round_seconds");
    json_begin_object(json);
    for (size_t i = 0; i < PLAN_PHASES; i++)
        json_put_f64(json, plan_phase_names[i],
                     site->merged ? site->phase[i] / (double)site->merged : 0);
    json_end_object(json);
    json_put_u64(json, "rounds", site->rounds);
    json_put_u64(json, "merged", site->merged);
    json_put_u64(json, "refused_stale", site->refused_stale);
    json_put_u64(json, "busy_answers", site->busy_answers);
    json_put_u64(json, "crashes", site->crashes);
    json_put_u64(json, "resets", site->resets);
    json_put_f64(json, "bytes_up", site->sent);
    json_put_f64(json, "bytes_up_lost", site->sent_lost);
    json_put_f64(json, "bytes_down", site->received);
    json_put_f64(json, "bytes_down_lost", site->received_lost);
    json_put_f64(json, "behind_seconds", site->behind);
    json_put_f64(json, "cost", site->cost);
    json_end_object(json);
}

static void json_totals(struct json_writer *json, const struct topology *topology,
                        const struct plan_result *result) {
    json_put_f64(json, "busy", result->busy);
    json_put_f64(json, "reported_busy", topology->reported.busy);
    json_put_f64(json, "tokens_per_second", result->goodput_tokens / result->duration);
    json_put_f64(json, "merged_tokens", result->merged_tokens);
    json_put_f64(json, "seconds_to_target", time_to_target(topology, result));
    json_put_u64(json, "contributions", result->contributions);
    json_put_u64(json, "versions", result->versions);
    json_put_f64(json, "inner_steps_effective", result->effective_inner_steps);
    json_put_f64(json, "inner_steps_wanted", result->wanted_inner_steps);
    json_put_u64(json, "refused_stale", result->refused_stale);
    json_put_u64(json, "starved_sites", result->starved_sites);
    json_put_u64(json, "staleness_cap_wanted", result->cap_wanted);
    json_put_u64(json, "busy_answers", result->busy_answers);
    json_put_f64(json, "contribution_bytes", result->round_bytes);
    json_put_f64(json, "uplink_bits_per_parameter", result->uplink_bits);
    json_put_f64(json, "bytes_up", result->up_bytes);
    json_put_f64(json, "bytes_up_lost", result->up_lost);
    json_put_f64(json, "bytes_down", result->down_bytes);
    json_put_f64(json, "bytes_down_lost", result->down_lost);
    json_put_f64(json, "cost_sites", result->cost_sites);
    json_put_f64(json, "cost_coordinator_egress", result->cost_egress);
    json_put_f64(json, "cost_coordinator_hours", result->cost_hours);
    json_key(json, "staleness");
    json_begin_object(json);
    json_put_u64(json, "p50", plan_staleness(result, 0.5));
    json_put_u64(json, "p90", plan_staleness(result, 0.9));
    json_put_u64(json, "p99", plan_staleness(result, 0.99));
    json_put_u64(json, "max", plan_staleness(result, 1));
    json_end_object(json);
    json_key(json, "coordinator");
    json_begin_object(json);
    json_put_f64(json, "peak_in", result->peak_in);
    json_put_f64(json, "peak_out", result->peak_out);
    json_put_f64(json, "intake_busy", result->intake_busy);
    json_put_f64(json, "model_busy", result->model_busy);
    json_put_f64(json, "cores", result->cpu_cores);
    json_put_f64(json, "ram", result->ram);
    json_put_f64(json, "disk", result->disk);
    json_end_object(json);
    json_put_text(json, "binding", result->binding);
}

static void json_advice(struct json_writer *json, const struct plan_advice *advice) {
    json_key(json, "advice");
    json_begin_object(json);
    json_put_f64(json, "possible", advice->possible);
    json_key(json, "best");
    json_i64(json, advice->best);
    json_key(json, "candidates");
    json_begin_array(json);
    for (size_t i = 0; i < advice->count; i++) {
        const struct plan_candidate *candidate = &advice->candidates[i];
        json_begin_object(json);
        json_put_f64(json, "inner_steps", candidate->inner_steps);
        json_put_text(json, "codec", codec_name(candidate->codec));
        json_put_f64(json, "fragments", candidate->fragments);
        json_put_f64(json, "busy", candidate->busy);
        json_put_f64(json, "stretch", candidate->stretch);
        json_put_f64(json, "bytes_up", candidate->up_bytes);
        json_put_f64(json, "bytes_down", candidate->down_bytes);
        json_put_f64(json, "staleness_p99", candidate->staleness_p99);
        json_put_bool(json, "reaches", candidate->reaches);
        json_end_object(json);
    }
    json_end_array(json);
    json_end_object(json);
}

void plan_json(const struct topology *topology, const struct plan_result *result,
               const struct plan_advice *advice, struct buffer *out) {
    struct json_writer writer = json_writer_of(out, true), *json = &writer;
    json_begin_object(json);
    json_put_text(json, "name", topology->name);
    json_put_f64(json, "duration", result->duration);
    json_put_u64(json, "site_count", result->site_count);
    json_put_f64(json, "quantum", result->quantum);
    json_totals(json, topology, result);
    if (advice) json_advice(json, advice);
    json_key(json, "sites");
    json_begin_array(json);
    for (uint32_t i = 0; i < result->site_count; i++) json_site(json, &result->sites[i]);
    json_end_array(json);
    json_end_object(json);
    buffer_append_text(out, "\n");
}

/* ---- SVG ------------------------------------------------------------------------------------- */

static void svg_line(struct buffer *out, const double *values, double most, double top,
                     const char *colour) {
    buffer_append_text(out, "<polyline fill=\"none\" stroke=\"%s\" points=\"", colour);
    for (size_t i = 0; i < PLAN_BUCKETS; i++)
        buffer_append_text(out, "%s%.1f,%.1f", i ? " " : "", 70 + 3.0 * ((double)i + 0.5),
                           top + 120 - 120 * (most > 0 ? fmin(values[i] / most, 1) : 0));
    buffer_append_text(out, "\"/>\n");
}

static double highest(const double *values) {
    double most = 0;
    for (size_t i = 0; i < PLAN_BUCKETS; i++) most = fmax(most, values[i]);
    return most;
}

static void svg_panel(struct buffer *out, double top, const char *title, const char *scale,
                      const char *end) {
    buffer_append_text(
        out,
        "<rect x=\"70\" y=\"%.0f\" width=\"720\" height=\"120\" fill=\"none\" stroke=\"#999\"/>\n"
        "<text x=\"70\" y=\"%.0f\">%s</text>\n<text x=\"66\" y=\"%.0f\" "
        "text-anchor=\"end\">%s</text>\n"
        "<text x=\"66\" y=\"%.0f\" text-anchor=\"end\">0</text>\n<text x=\"790\" y=\"%.0f\" "
        "text-anchor=\"end\">%s</text>\n",
        top, top - 6, title, top + 10, scale, top + 120, top + 134, end);
}

void plan_svg(const struct topology *topology, const struct plan_result *result,
              struct buffer *out) {
    static const char *const colours[PLAN_CAUSES] = {"#4a7", "#9c9", "#c63", "#a22",
                                                     "#d77", "#bbb", "#cc6", "#59c",
                                                     "#339", "#96c", "#6cc", "#eee"};
    char end[32], most[32];
    span(result->duration, end);
    buffer_append_text(out,
                       "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"600\" "
                       "font-family=\"sans-serif\" font-size=\"11\">\n"
                       "<rect width=\"820\" height=\"600\" fill=\"#fff\"/>\n<text x=\"70\" "
                       "y=\"24\" font-size=\"14\">%s: %u sites, busy %.2f "
                       "%%</text>\n",
                       topology->name, result->site_count, 100 * result->busy);
    svg_panel(out, 50, "share of sites that train", "1", end);
    svg_line(out, result->series_busy, 1, 50, "#4a7");
    double rate = fmax(highest(result->series_in), highest(result->series_out));
    svg_panel(out, 220, "coordinator: in (blue), out (red)", scaled(rate, "B/s", most), end);
    svg_line(out, result->series_in, rate, 220, "#36c");
    svg_line(out, result->series_out, rate, 220, "#c33");
    buffer_append_text(out, "<text x=\"70\" y=\"384\">where each site's time went</text>\n");
    uint32_t bars = MIN(result->site_count, 120u);
    for (uint32_t i = 0; i < bars; i++) {
        double y = 510, width = 720.0 / bars;
        for (size_t cause = 0; cause < PLAN_CAUSES; cause++) {
            double height = 120 * fmax(0, result->sites[i].time[cause]) / result->duration;
            if (height < 0.05) continue;
            y -= height;
            buffer_append_text(
                out, "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"/>\n",
                70 + i * width, y, width * 0.9, height, colours[cause]);
        }
    }
    for (size_t cause = 0; cause < PLAN_CAUSES; cause++) {
        double x = 70 + 120 * (double)(cause % 6), y = 530 + 20 * (double)(cause / 6);
        buffer_append_text(out,
                           "<rect x=\"%.0f\" y=\"%.0f\" width=\"10\" height=\"10\" "
                           "fill=\"%s\"/><text x=\"%.0f\" y=\"%.0f\">%s</text>\n",
                           x, y, colours[cause], x + 14, y + 9, plan_cause_names[cause]);
    }
    buffer_append_text(out, "</svg>\n");
}
