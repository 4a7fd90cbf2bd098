/* The command line of `atoll-sim plan`. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/output.h"
#include "plan/plan.h"
#include "sim/verbs.h"

#define FIELD(field_) SETTING_FIELD(struct sim_settings, plan.field_)

static const char *const formats[] = {"text", "json", NULL};
static const struct setting table[] = {
    {"file", SETTING_PATH, FIELD(file), .value_name = "FILE", .help = "The federation, as YAML.",
     .flags = OPTION_POSITIONAL},
    {"preset", SETTING_TEXT, FIELD(preset), .value_name = "NAME",
     .help = "A published deployment instead: intellect-1, covenant-72b, decoupled-diloco, "
             "eight-campuses."},
    {"seed", SETTING_COUNT, FIELD(seed), .fallback = "1",
     .help = "Seed of failures, jitter and speeds."},
    {"format", SETTING_CHOICE, FIELD(format), .fallback = "text", .choices = formats,
     .help = "text or json."},
    {"plot", SETTING_PATH, FIELD(plot), .value_name = "FILE.svg", .help = "Also plot it."},
    {"rule", SETTING_LIST, FIELD(rules), .value_name = "\"TIME KEY VALUE\"",
     .help = "A rule that changes on the way, as with `atollctl run set`: \"5h merge.quorum 3\". "
             "May be repeated. No advice then: that is of one set of rules."},
    {"advice", SETTING_BOOL, FIELD(advice), .fallback = "true",
     .help = "Try other H, codecs and fragments too."},
    {"explain", SETTING_BOOL, FIELD(explain),
     .help = "Print every key of the file with its default, and end."},
    {0}};

static int complain(const struct error *error) {
    fprintf(stderr, "%s\n", error->message);
    return 2;
}

static int print(const struct buffer *text) {
    size_t written = fwrite(text->data, 1, text->size, stdout);
    return written == text->size && fflush(stdout) == 0 ? 0 : 1;
}

static int plan_it(const struct sim_settings *values, const struct topology *topology,
                   const struct rules_change *changes) {
    struct plan_result result;
    struct plan_advice advice;
    struct buffer text = {0}, plot = {0};
    struct error error = {0};
    bool advises = values->plan.advice && values->plan.rules.count == 0;
    plan_run(topology, changes, values->plan.rules.count, values->plan.seed, &result);
    if (advises) plan_advise(topology, values->plan.seed, &result, &advice);
    if (values->plan.format == 1)
        plan_json(topology, &result, advises ? &advice : NULL, &text);
    else
        plan_text(topology, &result, advises ? &advice : NULL, &text);
    int code = print(&text);
    if (values->plan.plot) {
        plan_svg(topology, &result, &plot);
        if (file_write(values->plan.plot, buffer_bytes(&plot), 0644, &error) != OK)
            code = complain(&error);
    }
    buffer_deinit(&text);
    buffer_deinit(&plot);
    plan_result_deinit(&result);
    return code;
}

static enum status changes_of(const struct sim_settings *values, const struct topology *topology,
                              struct rules_change **out, struct error *error) {
    const struct setting_list *list = &values->plan.rules;
    struct manifest rules;
    plan_rules(topology, &rules);
    return rules_changes(list->items, list->count, &rules, "a plan", plan_ignores, out, error);
}

static int run(struct options *options, void *context) {
    const struct sim_settings *values = context;
    struct topology *topology = NULL;
    struct rules_change *changes = NULL;
    struct error error = {0};
    (void)options;
    if (values->plan.explain) {
        struct buffer text = {0};
        topology_explain(&text);
        int code = print(&text);
        buffer_deinit(&text);
        return code;
    }
    if ((values->plan.file != NULL) == (values->plan.preset != NULL)) {
        fprintf(stderr, "give a FILE or --preset NAME; --explain prints what a file may hold\n");
        return 2;
    }
    enum status status = values->plan.file
                             ? topology_load(values->plan.file, &topology, &error)
                             : topology_preset(values->plan.preset, &topology, &error);
    if (status == OK && values->plan.plot) status = output_check_file(values->plan.plot, 0, &error);
    if (status == OK) status = changes_of(values, topology, &changes, &error);
    if (status != OK) {
        topology_destroy(topology);
        return complain(&error);
    }
    int code = plan_it(values, topology, changes);
    free(changes);
    topology_destroy(topology);
    return code;
}

const struct command verb_plan = {
    .name = "plan",
    .summary = "how busy sites will be, what crosses the WAN and what it costs, before it is built",
    .examples =
        "atoll-sim plan federation.yaml --plot plan.svg\natoll-sim plan --preset intellect-1\n"
        "atoll-sim plan --explain > federation.yaml",
    .options = table,
    .run = run};
