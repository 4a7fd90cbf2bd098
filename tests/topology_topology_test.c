/* The files of federations on paper: what is read, what follows from it, and what is refused. */
#include "topology/topology.h"

#include <math.h>
#include <string.h>

#include "tests/test.h"

static enum status parse(const char *text, struct topology **out, struct error *error) {
    return topology_parse(bytes_of(text, strlen(text)), "plan.yaml", out, error);
}

static struct topology *parsed(const char *text) {
    struct topology *topology = NULL;
    struct error error = {0};
    if (parse(text, &topology, &error) != OK) printf("%s\n", error.message);
    CHECK(topology != NULL);
    return topology;
}

static void refused(const char *text, const char *words) {
    struct topology *topology = NULL;
    struct error error = {0};
    CHECK(parse(text, &topology, &error) == INVALID);
    CHECK(topology == NULL);
    if (!strstr(error.message, words)) printf("message: %s\nwanted: %s\n", error.message, words);
    CHECK(strstr(error.message, words) != NULL);
}

#define BASE "model: {parameters: 1B}\nsites:\n  - {name: a, step: 1s}\n"

TEST(units_are_read_as_written) {
    struct topology *t =
        parsed("duration: 36h\nmodel: {parameters: 1.5B}\nrun: {codec: int8, grace: forever, "
               "inner_steps: 100}\n"
               "coordinator: {up: unlimited, price: 0.09}\n"
               "defaults: {link: {rtt: 200ms, loss: 0.5%}}\n"
               "sites:\n  - {name: a, count: 3, step: 250ms, link: {up: 20Mbit/s, window: 4MiB}}\n"
               "  - {name: b, tokens_per_second: 10k, batch_tokens: 1M, link.rtt: 1ms}\n");
    CHECK(t->duration == 36 * 3600.0 && t->model.parameters == 1.5e9 && t->run.codec == CODEC_INT8);
    CHECK(t->run.mode == OUTER_DENSE && isinf(t->run.grace) && t->run.inner_steps == 100);
    CHECK(isinf(t->coordinator.up) && t->coordinator.price_out == 0.09);
    CHECK(t->group_count == 2 && t->site_count == 4);
    CHECK(t->groups[0].link.up == 2.5e6 && t->groups[0].link.window == 4194304 &&
          t->groups[0].link.rtt == 0.2);
    CHECK(t->groups[0].link.loss == 0.005 && t->groups[1].link.rtt == 1e-3 &&
          t->groups[1].step == 100);
    CHECK(isnan(t->run.staleness_cap) && isinf(t->groups[0].failure.every));
    topology_destroy(t);
}

TEST(speed_follows_from_gpus) {
    struct topology *t = parsed("model: {parameters: 10B}\nsites:\n  - {gpu: {kind: H100, count: "
                                "8}, mfu: 50%, batch_tokens: 1M}\n");
    double flops = 989e12 * 0.5 * 8;
    CHECK(fabs(t->groups[0].tokens_per_second - flops / 6e10) < 1e-6);
    CHECK(fabs(t->groups[0].step - 1e6 / (flops / 6e10)) < 1e-6);
    topology_destroy(t);
}

TEST(a_named_shape_has_its_parameters) {
    struct topology *t = parsed("model: {preset: 1m}\nsites:\n  - {step: 1s}\n");
    CHECK(t->model.parameters > 1e6 && t->model.parameters < 2e6);
    topology_destroy(t);
}

TEST(unknown_keys_are_refused_with_the_nearest) {
    refused("modle: {parameters: 1B}\n",
            "plan.yaml:1: unknown key modle.parameters; did you mean model.parameters?");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, link: {upp: 1Mbit/s}}\n",
            "did you mean sites[0].link.up?");
    refused("model: {parameters: 1B}\ndefaults: {lnk: {up: 1Mbit/s}}\nsites:\n  - {step: 1s}\n",
            "did you mean defaults.link.up?");
    refused(BASE "zebra: 1\n", "unknown key zebra; `atoll-sim plan --explain` lists them");
    refused("model: {parameters: 1B}\nsites: {a: {step: 1s}}\n", "unknown key sites.a.step");
}

TEST(values_without_their_unit_or_out_of_bounds_are_refused) {
    refused(
        BASE "duration: 24\n",
        "plan.yaml:4: duration: invalid value \"24\": write 1s to 400d (units ps, ns, us, ms, s");
    refused(BASE "duration: -5h\n", "invalid value");
    refused(BASE "duration: never\n", "invalid value");
    refused(BASE "coordinator: {up: 10Gb}\n",
            "at least 1B/s or unlimited (units bit/s, kbit/s, Mbit/s,");
    refused(BASE "coordinator: {up: nan}\n", "invalid value");
    refused(BASE "run: {inner_steps: 0}\n", "1 to 1M");
    refused(BASE "run: {inner_steps: 1.5}\n", "whole number");
    refused(BASE "run: {codec: zip}\n", "topk2-64");
    refused(BASE "run: {overlap: maybe}\n", "true or false");
    refused(BASE "run: {inner-steps: 5}\n", "did you mean run.inner_steps?");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, link: {loss: 60%}}\n", "0 to 50%");
    refused("model: {parameters: 1B}\nsites:\n  - {gpu: {kind: H1000}}\n", "H100");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, name: \"a\\\"b\"}\n",
            "write a text without quotes");
}

TEST(what_does_not_fit_together_is_refused) {
    refused("model: {parameters: 1B}\n", "sites: there is none");
    refused("model: {parameters: 1B}\ndefaults: {}\nsites: []\n", "sites: there is none");
    refused("sites:\n  - {step: 1s}\n", "model.parameters must be given");
    refused("model: {parameters: 1B, preset: 1m}\nsites:\n  - {step: 1s}\n", "not both");
    refused("model: {parameters: 1B}\nsites:\n  - {name: a}\n",
            "exactly one of step, tokens_per_second and gpu.kind");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, gpu: {kind: H100}}\n",
            "exactly one of");
    refused("model: {parameters: 1B}\nsites:\n  - {name: a, step: 1s}\n  - {name: a, step: 1s}\n",
            "is there twice");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, count: 100000}\n  - {step: 1s, count: "
            "1}\n",
            "at most 100000");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, joins: 2h, leaves: 1h}\n",
            "leaves must come after joins");
    refused("model: {parameters: 1B}\nrun: {codec: int8, mode: sparse}\nsites:\n  - {step: 1s}\n",
            "codec int8 goes with mode dense");
    refused("model: {parameters: 1B}\nsites:\n  - {step: 1s, failures: {at: 5m}}\n",
            "`at` needs `at_lasts`");
}

TEST(a_file_cut_anywhere_is_read_or_refused) {
    const char *text = "duration: 36h\nmodel: {parameters: 1.5B}\ndefaults: {link: {rtt: "
                       "200ms}}\nsites:\n  - {name: a, step: 250ms}\n";
    for (size_t size = 0; size <= strlen(text); size++) {
        struct topology *t = NULL;
        struct error error = {0};
        enum status status = topology_parse(bytes_of(text, size), "cut", &t, &error);
        CHECK((status == OK) == (t != NULL) && (status == OK || error.message[0]));
        topology_destroy(t);
    }
}

TEST(a_group_has_speeds_spread_evenly_and_names) {
    struct topology *t = parsed("model: {parameters: 1B}\nsites:\n  - {name: one, step: 1s}\n  - "
                                "{name: many, count: 10, step: 2s, spread: 20%}\n");
    CHECK(strcmp(topology_place(t, 0, 1).name, "one") == 0 && topology_place(t, 0, 1).step == 1);
    double speeds = 0;
    for (uint32_t i = 1; i < 11; i++) {
        struct topology_place place = topology_place(t, i, 7);
        CHECK(place.group == 1 && place.index == i - 1);
        CHECK(place.step >= 2 / 1.2 && place.step <= 2 / 0.8);
        speeds += 2 / place.step;
        for (uint32_t j = 1; j < i; j++) CHECK(topology_place(t, j, 7).step != place.step);
    }
    CHECK(fabs(speeds - 10) < 1e-9);
    CHECK(strcmp(topology_place(t, 3, 7).name, "many-3") == 0);
    topology_destroy(t);
}

TEST(throughput_is_the_least_of_link_window_and_losses) {
    struct topology_link link = {
        .up = 62.5e6, .down = 62.5e6, .rtt = 0.1, .connections = 1, .window = 2.47e6};
    CHECK(fabs(topology_rate_up(&link) - 24.7e6) < 1);
    link.connections = 8;
    CHECK(topology_rate_up(&link) == 62.5e6);
    CHECK(fabs(topology_rate_down(&link) - 24.7e6) < 1); /* Follow is one stream */
    link.connections = 1;
    link.loss = 0.005;
    /* measured 0.5 MB/s */
    CHECK(topology_rate_up(&link) > 0.4e6 && topology_rate_up(&link) < 0.6e6);
    link.congestion = CONGESTION_BBR;
    /* measured 19.6 MB/s */
    CHECK(topology_rate_up(&link) > 18e6 && topology_rate_up(&link) < 21e6);
    double last = INFINITY;
    for (double loss = 1e-6; loss < 0.5; loss *= 1.5) {
        link.loss = loss;
        CHECK(topology_rate_up(&link) <= last);
        last = topology_rate_up(&link);
    }
}

TEST(every_preset_is_read_and_a_misspelt_one_names_the_nearest) {
    for (size_t i = 0; topology_preset_names[i]; i++) {
        struct topology *t = NULL;
        struct error error = {0};
        if (topology_preset(topology_preset_names[i], &t, &error) != OK)
            printf("%s\n", error.message);
        CHECK(t != NULL);
        topology_destroy(t);
    }
    struct topology *t = NULL;
    struct error error = {0};
    CHECK(topology_preset("intelect-1", &t, &error) == NOT_FOUND &&
          strstr(error.message, "did you mean intellect-1"));
}

TEST(the_manual_names_every_key_and_is_yaml) {
    struct buffer text = {0};
    topology_explain(&text);
    buffer_u8(&text, 0);
    CHECK(strstr((char *)text.data, "# run.inner_steps: 30") &&
          strstr((char *)text.data, "# link.outages.every: never"));
    buffer_deinit(&text);
}
