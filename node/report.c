/* A site's figures (node/report.h): collects them from the threads, writes status.json and
 * Prometheus text, fills heartbeats. */
#include "node/report.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/live_file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/metrics.h"
#include "run/evaluator.h"

enum { STATUS_LIMIT = 256 * 1024, STATUS_FORMAT = 1 };

struct root_of {
    uint64_t version;
    uint8_t root[DIGEST_SIZE];
};

struct complaint {                       /* about a file that is written every second */
    uint64_t since_ms, next_ms, wait_ms; /* since_ms 0: it is written */
};

struct report {
    struct report_options options;
    char *path;
    uint64_t started_ms;
    pthread_mutex_t lock;
    struct report_totals totals;
    struct report_view view;
    uint32_t turn, copies;              /* as last answered */
    bool leaving;                       /* to be said in heartbeats */
    struct root_of roots[REPORT_ROOTS]; /* a ring, oldest at root_head */
    size_t root_head, root_count;
    struct complaint status_file, metrics_file;
};

/* ---- what came before ------------------------------------------------------------------------ */

static uint64_t member(const struct json_value *object, const char *key) {
    uint64_t value = 0;
    return object && json_get_u64(object, key, &value, NULL) == OK ? value : 0;
}

static void read_roots(struct report *report, const struct json_value *roots) {
    for (size_t i = 0; roots && roots->type == JSON_OBJECT && i < roots->count; i++) {
        uint8_t root[DIGEST_SIZE];
        const struct json_value *item = &roots->items[i];
        if (item->type != JSON_STRING || hex_decode(item->text, root, DIGEST_SIZE, NULL) != OK)
            continue;
        report_add_root(report, strtoull(item->key, NULL, 10), root);
    }
}

/* A crash shows in a last state that is none of the final ones. */
static void book_downtime(struct report *report, const struct json_value *last) {
    const char *state = "";
    struct report_totals *totals = &report->totals;
    (void)!json_get_text(last, "state", &state, NULL);
    if (strcmp(state, "stopped") == 0 || strcmp(state, "halted") == 0 ||
        strcmp(state, "finished") == 0)
        return;
    uint64_t stamp = member(last, "stamp_ms"), now = clock_wall_ms();
    if (stamp > 0 && now > stamp) totals->lost_ms[LOST_RESTART] += now - stamp;
    if (totals->trainer_steps <= report->options.trainer_steps || totals->trainer_steps == 0)
        return;
    uint64_t again = totals->trainer_steps - report->options.trainer_steps;
    uint64_t spent = MIN(totals->compute_ms, again * totals->compute_ms / totals->trainer_steps);
    totals->compute_ms -= spent;
    totals->lost_ms[LOST_RESTART] += spent;
    log_info("steps_lost", "steps=%llu ms=%llu", (unsigned long long)again,
             (unsigned long long)spent);
}

static void read_last(struct report *report) {
    struct buffer text = {0};
    struct json *json = NULL;
    if (file_read(report->path, STATUS_LIMIT, &text, NULL) == OK &&
        json_parse(buffer_bytes(&text), NULL, &json, NULL) == OK) {
        const struct json_value *last = json_root(json);
        const struct json_value *lost = json_object_get(last, "lost_ms"),
                                *refused = json_object_get(last, "refused");
        struct report_totals *totals = &report->totals;
        totals->compute_ms = member(last, "compute_ms");
        for (uint32_t i = 0; i < LOST_CAUSE_COUNT; i++)
            totals->lost_ms[i] = member(lost, lost_cause_name(i));
        totals->bytes_up = member(last, "bytes_up");
        totals->bytes_down = member(last, "bytes_down");
        for (unsigned i = 1; i < REFUSAL_COUNT; i++)
            totals->refused[i] = member(refused, refusal_name(i));
        totals->trainer_steps = member(last, "trainer_steps");
        totals->starts = member(last, "starts");
        read_roots(report, json_object_get(last, "roots"));
        book_downtime(report, last);
    }
    json_close(json);
    buffer_deinit(&text);
    report->totals.starts++;
}

struct report *report_create(const struct report_options *options) {
    struct report *report = xcalloc(1, sizeof *report);
    report->options = *options;
    report->path = site_path(options->site, "status.json");
    report->started_ms = clock_wall_ms();
    pthread_mutex_init(&report->lock, NULL);
    read_last(report);
    return report;
}

void report_destroy(struct report *report) {
    if (!report) return;
    pthread_mutex_destroy(&report->lock);
    free(report->path);
    free(report);
}

/* ---- a snapshot of what is reported ------------------------------------------------------- */

void report_set_view(struct report *report, const struct report_view *view) {
    pthread_mutex_lock(&report->lock);
    report->view = *view;
    pthread_mutex_unlock(&report->lock);
}

void report_set_answer(struct report *report, uint32_t turn, uint32_t copies) {
    pthread_mutex_lock(&report->lock);
    bool more = copies > report->copies;
    report->turn = turn;
    report->copies = copies;
    pthread_mutex_unlock(&report->lock);
    if (more)
        log_error("site_runs_twice",
                  "copies=%u message=\"another process with this site's key tried to take part and "
                  "was cut: find the copy of this "
                  "directory or machine, and stop it\"",
                  copies);
}

void report_set_leaving(struct report *report, bool leaving) {
    pthread_mutex_lock(&report->lock);
    report->leaving = leaving;
    pthread_mutex_unlock(&report->lock);
}

static void forget_root(struct report *report, uint64_t version) {
    size_t kept = 0;
    for (size_t i = 0; i < report->root_count; i++) {
        struct root_of one = report->roots[(report->root_head + i) % REPORT_ROOTS];
        if (one.version == version) continue;
        report->roots[(report->root_head + kept++) % REPORT_ROOTS] = one;
    }
    report->root_count = kept;
}

void report_add_root(struct report *report, uint64_t version,
                     const uint8_t root[static DIGEST_SIZE]) {
    static const uint8_t none[DIGEST_SIZE];
    if (memcmp(root, none, DIGEST_SIZE) == 0) return; /* no root in this version */
    pthread_mutex_lock(&report->lock);
    forget_root(report, version); /* replayed after a crash: the newest word counts, and is last */
    if (report->root_count == REPORT_ROOTS) {
        report->root_head = (report->root_head + 1) % REPORT_ROOTS;
        report->root_count--;
    }
    struct root_of *next =
        &report->roots[(report->root_head + report->root_count++) % REPORT_ROOTS];
    next->version = version;
    memcpy(next->root, root, DIGEST_SIZE);
    pthread_mutex_unlock(&report->lock);
}

struct status_snapshot {         /* all figures at one moment */
    struct report_totals totals; /* with this process's */
    struct report_view view;
    struct training_figures training;
    uint32_t turn, copies;
    bool leaving;
    struct root_of roots[REPORT_ROOTS];
    size_t root_count;
    uint64_t refused;
    double share;
};

static void collect(struct report *report, struct training *training, struct status_snapshot *out) {
    *out = (struct status_snapshot){
        .training = {.loss = (double)NAN, .trainer_steps = report->options.trainer_steps}};
    if (training) training_figures(training, &out->training);
    pthread_mutex_lock(&report->lock);
    out->totals = report->totals;
    out->view = report->view;
    out->turn = report->turn;
    out->leaving = report->leaving;
    out->copies = report->copies;
    out->root_count = report->root_count;
    for (size_t i = 0; i < report->root_count; i++)
        out->roots[i] = report->roots[(report->root_head + i) % REPORT_ROOTS];
    pthread_mutex_unlock(&report->lock);
    struct report_totals *totals = &out->totals;
    uint64_t lost = 0;
    totals->compute_ms += out->training.compute_ns / 1000000u;
    for (uint32_t i = 0; i < LOST_CAUSE_COUNT; i++) {
        totals->lost_ms[i] += out->training.lost_ns[i] / 1000000u;
        lost += totals->lost_ms[i];
    }
    totals->bytes_up += atomic_load(&report->options.traffic->up);
    totals->bytes_down += atomic_load(&report->options.traffic->down);
    for (unsigned i = 1; i < REFUSAL_COUNT; i++) {
        totals->refused[i] += out->view.refused[i];
        out->refused += totals->refused[i];
    }
    uint64_t total = totals->compute_ms + lost;
    out->share = total > 0 ? (double)totals->compute_ms / (double)total : 0;
}

float report_compute_share(struct report *report, struct training *training) {
    struct status_snapshot *snapshot = xmalloc(sizeof *snapshot);
    collect(report, training, snapshot);
    float share = (float)snapshot->share;
    free(snapshot);
    return share;
}

/* ---- status.json ----------------------------------------------------------------------------- */

static const char *phase_name(enum run_phase phase) {
    return phase == RUN_STOPPED ? "stopped" : phase == RUN_PAUSED ? "paused" : "active";
}

static const char *slot_name(enum slot_phase slot) {
    static const char *const names[] = {"training", "snapshot", "encoding",  "uploading", "backoff",
                                        "accepted", "merging",  "restoring", "advancing"};
    return (unsigned)slot < COUNT_OF(names) ? names[slot] : "unknown";
}

static void put_site(struct json_writer *writer, const struct report *report,
                     const struct status_snapshot *snapshot) {
    const struct site *site = report->options.site;
    char hex[HEX32_SIZE];
    json_put_text(writer, "run", site->manifest.name);
    json_put_text(writer, "run_id", hex_encode(site->run_id, RUN_ID_SIZE, hex));
    json_put_u64(writer, "site", site->number);
    json_put_text(writer, "name", site->name);
    json_put_u64(writer, "pid", (uint64_t)getpid());
    json_put_text(writer, "software", site_software);
    json_put_text(writer, "device", report->options.device);
    json_put_u64(writer, "starts", snapshot->totals.starts);
    json_put_u64(writer, "started_ms", report->started_ms);
}

static void put_run(struct json_writer *writer, const struct status_snapshot *snapshot) {
    const struct report_view *view = &snapshot->view;
    char hex[HEX32_SIZE];
    json_put_text(writer, "phase", view->has_run ? phase_name(view->phase) : "unknown");
    json_put_bool(writer, "linked", view->linked);
    json_put_u64(writer, "version", view->version);
    json_put_text(writer, "root",
                  snapshot->root_count
                      ? hex_encode(snapshot->roots[snapshot->root_count - 1].root, DIGEST_SIZE, hex)
                      : NULL);
    json_put_u64(writer, "root_version",
                 snapshot->root_count ? snapshot->roots[snapshot->root_count - 1].version : 0);
    json_put_u64(writer, "ledger_size", view->ledger_size);
    json_put_u64(writer, "epoch", view->epoch);
    json_put_u64(writer, "run_tokens", view->run_tokens);
    json_put_u64(writer, "active_sites", view->active_sites);
    json_put_u64(writer, "sites_present", view->sites_present);
    json_put_u64(writer, "copies_cut", snapshot->copies);
    json_put_u64(writer, "inner_steps", view->inner_steps);
    json_put_u64(writer, "staleness", view->staleness);
    json_put_u64(writer, "accepted", view->accepted);
    json_put_u64(writer, "accepted_tokens", view->own_tokens);
    json_put_u64(writer, "sequence", view->sequence);
    json_key(writer, "slots");
    json_begin_array(writer);
    for (uint32_t i = 0; i < view->fragments; i++) json_text(writer, slot_name(view->slots[i]));
    json_end_array(writer);
    json_key(writer, "refused");
    json_begin_object(writer);
    json_put_u64(writer, "total", snapshot->refused);
    for (unsigned i = 1; i < REFUSAL_COUNT; i++) {
        if (snapshot->totals.refused[i])
            json_put_u64(writer, refusal_name(i), snapshot->totals.refused[i]);
    }
    json_end_object(writer);
}

static void put_training(struct json_writer *writer, const struct status_snapshot *snapshot) {
    json_put_f64(writer, "loss", snapshot->training.loss);
    json_put_f64(writer, "learning_rate", (double)snapshot->training.learning_rate);
    json_put_u64(writer, "steps", snapshot->training.steps);
    json_put_u64(writer, "tokens", snapshot->training.tokens);
    json_put_u64(writer, "trainer_steps", snapshot->training.trainer_steps);
    json_put_u64(writer, "trainer_tokens", snapshot->training.trainer_tokens);
    json_put_f64(writer, "tokens_per_second", snapshot->training.tokens_per_second);
    json_put_f64(writer, "steps_per_second", snapshot->training.steps_per_second);
    json_put_u64(writer, "bytes_up", snapshot->totals.bytes_up);
    json_put_u64(writer, "bytes_down", snapshot->totals.bytes_down);
    json_put_f64(writer, "compute_share", snapshot->share);
    json_put_u64(writer, "compute_ms", snapshot->totals.compute_ms);
    json_key(writer, "lost_ms");
    json_begin_object(writer);
    for (uint32_t i = 0; i < LOST_CAUSE_COUNT; i++)
        json_put_u64(writer, lost_cause_name(i), snapshot->totals.lost_ms[i]);
    json_end_object(writer);
}

/* Linked, and nothing that somebody must mend. */
static bool is_ready(const struct report *report, const struct status_snapshot *snapshot) {
    char message[TROUBLE_TEXT_SIZE];
    uint64_t since_ms = 0;
    bool ready = snapshot->view.linked;
    for (enum trouble trouble = 0; trouble < TROUBLE_COUNT; trouble++)
        ready = ready && !trouble_is(report->options.troubles, trouble, message, &since_ms);
    return ready;
}

/* What somebody has to mend, and whether the site does its work. */
static void put_troubles(struct json_writer *writer, const struct report *report,
                         const struct status_snapshot *snapshot) {
    char message[TROUBLE_TEXT_SIZE];
    uint64_t since_ms = 0;
    json_key(writer, "troubles");
    json_begin_array(writer);
    for (enum trouble trouble = 0; trouble < TROUBLE_COUNT; trouble++) {
        if (!trouble_is(report->options.troubles, trouble, message, &since_ms)) continue;
        json_begin_object(writer);
        json_put_text(writer, "what", trouble_name(trouble));
        json_put_text(writer, "message", message);
        json_put_u64(writer, "since_ms", since_ms);
        json_end_object(writer);
    }
    json_end_array(writer);
    json_put_bool(writer, "ready", is_ready(report, snapshot));
}

static void put_roots(struct json_writer *writer, const struct status_snapshot *snapshot) {
    json_key(writer, "roots");
    json_begin_object(writer);
    for (size_t i = 0; i < snapshot->root_count; i++) {
        char version[24], hex[HEX32_SIZE];
        snprintf(version, sizeof version, "%llu", (unsigned long long)snapshot->roots[i].version);
        json_put_text(writer, version, hex_encode(snapshot->roots[i].root, DIGEST_SIZE, hex));
    }
    json_end_object(writer);
}

/* The first failure is said at once, the same one ever more rarely, and its end too. */
static void complain(struct complaint *complaint, const char *event, const char *path,
                     enum status status, const struct error *error) {
    enum { FIRST_MS = 60 * 1000, MOST_MS = 60 * 60 * 1000 };
    uint64_t now_ms = clock_monotonic_ms();
    if (status == OK) {
        if (complaint->since_ms)
            log_info(event, "file=\"%s\" state=written after_ms=%llu", path,
                     (unsigned long long)(now_ms - complaint->since_ms));
        *complaint = (struct complaint){0};
        return;
    }
    if (complaint->since_ms && now_ms < complaint->next_ms) return;
    complaint->wait_ms =
        complaint->since_ms ? MIN(complaint->wait_ms * 2, (uint64_t)MOST_MS) : (uint64_t)FIRST_MS;
    if (!complaint->since_ms) complaint->since_ms = MAX(now_ms, 1u);
    complaint->next_ms = now_ms + complaint->wait_ms;
    log_warn(event, "file=\"%s\" state=failing message=\"%s\" again_in_ms=%llu", path,
             error->message, (unsigned long long)complaint->wait_ms);
}

static void add_series(struct metrics *metrics, const struct report *report,
                       const struct status_snapshot *snapshot) {
    const struct {
        const char *name, *help;
        double value;
    } gauges[] = {
        {"atoll_node_version", "Newest version of the model that is merged here.",
         (double)snapshot->view.version},
        {"atoll_node_linked", "1: connected with the coordinator.", snapshot->view.linked},
        {"atoll_node_ready", "1: the site does its work.", is_ready(report, snapshot)},
        {"atoll_node_staleness_versions", "Versions that the oldest base lies back.",
         (double)snapshot->view.staleness},
        {"atoll_node_loss_nats", "Of the last inner steps, per token.", snapshot->training.loss},
    };
    const struct {
        const char *name, *help;
        double value;
    } counters[] = {
        {"atoll_node_trainer_tokens_total", "Trained on.",
         (double)snapshot->training.trainer_tokens},
        {"atoll_node_trainer_steps_total", "Inner steps.",
         (double)snapshot->training.trainer_steps},
        {"atoll_node_contributions_accepted_total", "Contributions with a receipt.",
         (double)snapshot->view.accepted},
        {"atoll_node_contributions_refused_total", "Contributions that were refused.",
         (double)snapshot->refused},
        {"atoll_node_sent_bytes_total", "To the coordinator.", (double)snapshot->totals.bytes_up},
        {"atoll_node_received_bytes_total", "From the coordinator.",
         (double)snapshot->totals.bytes_down},
        {"atoll_node_compute_seconds_total", "Time in which it trained.",
         (double)snapshot->totals.compute_ms * 1e-3},
    };
    for (size_t i = 0; i < COUNT_OF(gauges); i++)
        metric_set(metrics_gauge(metrics, gauges[i].name, gauges[i].help, NULL, 0),
                   gauges[i].value);
    for (size_t i = 0; i < COUNT_OF(counters); i++)
        metric_add(metrics_counter(metrics, counters[i].name, counters[i].help, NULL, 0),
                   counters[i].value);
    for (uint32_t i = 0; i < LOST_CAUSE_COUNT; i++) {
        const struct metric_label cause = {"cause", lost_cause_name(i)};
        metric_add(metrics_counter(metrics, "atoll_node_lost_seconds_total",
                                   "Time in which it did not train, by cause.", &cause, 1),
                   (double)snapshot->totals.lost_ms[i] * 1e-3);
    }
}

/* A registry per file: the figures are kept elsewhere, and some of them go on from before a
 * restart. */
static void write_metrics(struct report *report, const struct status_snapshot *snapshot) {
    struct buffer text = {0};
    const struct site *site = report->options.site;
    char hex[HEX32_SIZE];
    const struct metric_label common[] = {{"run_id", hex_encode(site->run_id, RUN_ID_SIZE, hex)},
                                          {"site_id", site->name}};
    struct metrics *metrics = metrics_create(common, COUNT_OF(common));
    add_series(metrics, report, snapshot);
    metrics_write(metrics, &text);
    metrics_destroy(metrics);
    struct error error = {0};
    enum status status = live_file_write(report->options.metrics_file, buffer_bytes(&text), &error);
    complain(&report->metrics_file, "metrics_file", report->options.metrics_file, status, &error);
    buffer_deinit(&text);
}

void report_write(struct report *report, struct training *training, const char *state,
                  const char *message) {
    struct status_snapshot *snapshot = xmalloc(sizeof *snapshot);
    struct buffer text = {0};
    struct error error = {0};
    collect(report, training, snapshot);
    bool over = state && strcmp(state, "starting") != 0;
    if (!state) state = snapshot->training.training ? "training" : "waiting";
    if (over) { /* last words stay: they must hold when nobody is there any more */
        snapshot->view.linked = false;
        snapshot->training.tokens_per_second = snapshot->training.steps_per_second = 0;
    }
    struct json_writer writer = json_writer_of(&text, true);
    json_begin_object(&writer);
    json_put_u64(&writer, "format", STATUS_FORMAT);
    json_put_u64(&writer, "stamp_ms", clock_wall_ms());
    json_put_text(&writer, "state", state);
    json_put_text(&writer, "message", message);
    put_troubles(&writer, report, snapshot);
    put_site(&writer, report, snapshot);
    put_run(&writer, snapshot);
    put_training(&writer, snapshot);
    put_roots(&writer, snapshot);
    json_end_object(&writer);
    buffer_append_text(&text, "\n");
    enum status status = live_file_write(report->path, buffer_bytes(&text), &error);
    complain(&report->status_file, "status_file", report->path, status, &error);
    if (report->options.metrics_file) write_metrics(report, snapshot);
    buffer_deinit(&text);
    free(snapshot);
}

/* ---- heartbeats ------------------------------------------------------------------------------ */

void report_heartbeat(struct report *report, struct training *training, struct evaluator *evaluator,
                      struct buffer *out) {
    struct status_snapshot *snapshot = xmalloc(sizeof *snapshot);
    collect(report, training, snapshot);
    struct heartbeat_request request = {.protocol = PROTOCOL_VERSION,
                                        .epoch = snapshot->view.epoch,
                                        .version = snapshot->view.version,
                                        .ledger_size = snapshot->view.ledger_size,
                                        .phase = snapshot->training.training ? 1 : 0,
                                        .inner_steps_done = snapshot->training.trainer_steps,
                                        .tokens = snapshot->training.trainer_tokens,
                                        .tokens_per_second = snapshot->training.tokens_per_second,
                                        .steps_per_second = snapshot->training.steps_per_second,
                                        .loss = (float)snapshot->training.loss,
                                        .staleness =
                                            (uint32_t)MIN(snapshot->view.staleness, UINT32_MAX),
                                        .bytes_up = snapshot->totals.bytes_up,
                                        .bytes_down = snapshot->totals.bytes_down,
                                        .compute_ms = snapshot->totals.compute_ms,
                                        .rounds = snapshot->view.accepted + snapshot->refused,
                                        .refused = snapshot->refused,
                                        .device = report->options.device,
                                        .software = site_software};
    struct evaluator_report evaluated;
    evaluator_report(evaluator, &evaluated);
    request.heldout = (struct heldout_status){
        evaluated.any, evaluated.version, evaluated.best_version,
        fmin(evaluated.loss, HELDOUT_LOSS_LIMIT), fmin(evaluated.best_loss, HELDOUT_LOSS_LIMIT)};
    request.instance = report->options.instance;
    request.turn = snapshot->turn;
    request.leaving = snapshot->leaving;
    request.time_ms = clock_wall_ms();
    memcpy(request.lost_ms, snapshot->totals.lost_ms, sizeof request.lost_ms);
    if (snapshot->root_count &&
        snapshot->roots[snapshot->root_count - 1].version == snapshot->view.version)
        memcpy(request.last_root, snapshot->roots[snapshot->root_count - 1].root, DIGEST_SIZE);
    struct error error = {0};
    if (heartbeat_request_encode(&request, out, &error) != OK)
        log_warn("heartbeat_failed", "message=\"%s\"", error.message);
    free(snapshot);
}
