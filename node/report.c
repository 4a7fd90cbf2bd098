/* A site's figures (node/report.h): collects them from the threads, writes status.json and
 * Prometheus text, fills heartbeats. */
#include "node/report.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

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

/* ---- what is told ---------------------------------------------------------------------------- */

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

void report_add_root(struct report *report, uint64_t version,
                     const uint8_t root[static DIGEST_SIZE]) {
    static const uint8_t none[DIGEST_SIZE];
    if (memcmp(root, none, DIGEST_SIZE) == 0) return; /* no root in this version */
    pthread_mutex_lock(&report->lock);
    for (size_t i = 0; i < report->root_count;
         i++) { /* replayed after a crash: the newest word on a version counts */
        struct root_of *known = &report->roots[(report->root_head + i) % REPORT_ROOTS];
        if (known->version != version) continue;
        memcpy(known->root, root, DIGEST_SIZE);
        pthread_mutex_unlock(&report->lock);
        return;
    }
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
    struct status_snapshot *told = xmalloc(sizeof *told);
    collect(report, training, told);
    float share = (float)told->share;
    free(told);
    return share;
}

/* ---- status.json ----------------------------------------------------------------------------- */

static void put_u64(struct json_writer *writer, const char *key, uint64_t value) {
    json_key(writer, key);
    json_u64(writer, value);
}

static void put_f64(struct json_writer *writer, const char *key, double value) {
    json_key(writer, key);
    json_f64(writer, value);
}

static void put_text(struct json_writer *writer, const char *key, const char *value) {
    json_key(writer, key);
    json_text(writer, value);
}

static const char *phase_name(enum run_phase phase) {
    return phase == RUN_STOPPED ? "stopped" : phase == RUN_PAUSED ? "paused" : "active";
}

static const char *slot_name(enum slot_phase slot) {
    static const char *const names[] = {"training", "snapshot", "encoding",  "uploading", "backoff",
                                        "accepted", "merging",  "restoring", "advancing"};
    return (unsigned)slot < COUNT_OF(names) ? names[slot] : "unknown";
}

static void put_site(struct json_writer *writer, const struct report *report,
                     const struct status_snapshot *told) {
    const struct site *site = report->options.site;
    char hex[HEX32_SIZE];
    put_text(writer, "run", site->manifest.name);
    put_text(writer, "run_id", hex_encode(site->run_id, RUN_ID_SIZE, hex));
    put_u64(writer, "site", site->number);
    put_text(writer, "name", site->name);
    put_u64(writer, "pid", (uint64_t)getpid());
    put_text(writer, "software", site_software);
    put_text(writer, "device", report->options.device);
    put_u64(writer, "starts", told->totals.starts);
    put_u64(writer, "started_ms", report->started_ms);
}

static void put_run(struct json_writer *writer, const struct status_snapshot *told) {
    const struct report_view *view = &told->view;
    char hex[HEX32_SIZE];
    put_text(writer, "phase", view->has_run ? phase_name(view->phase) : "unknown");
    json_key(writer, "linked");
    json_bool(writer, view->linked);
    put_u64(writer, "version", view->version);
    put_text(writer, "root",
             told->root_count ? hex_encode(told->roots[told->root_count - 1].root, DIGEST_SIZE, hex)
                              : NULL);
    put_u64(writer, "root_version",
            told->root_count ? told->roots[told->root_count - 1].version : 0);
    put_u64(writer, "ledger_size", view->ledger_size);
    put_u64(writer, "epoch", view->epoch);
    put_u64(writer, "run_tokens", view->run_tokens);
    put_u64(writer, "active_sites", view->active_sites);
    put_u64(writer, "sites_present", view->sites_present);
    put_u64(writer, "copies_cut", told->copies);
    put_u64(writer, "inner_steps", view->inner_steps);
    put_u64(writer, "staleness", view->staleness);
    put_u64(writer, "accepted", view->accepted);
    put_u64(writer, "accepted_tokens", view->own_tokens);
    put_u64(writer, "sequence", view->sequence);
    json_key(writer, "slots");
    json_begin_array(writer);
    for (uint32_t i = 0; i < view->fragments; i++) json_text(writer, slot_name(view->slots[i]));
    json_end_array(writer);
    json_key(writer, "refused");
    json_begin_object(writer);
    put_u64(writer, "total", told->refused);
    for (unsigned i = 1; i < REFUSAL_COUNT; i++) {
        if (told->totals.refused[i]) put_u64(writer, refusal_name(i), told->totals.refused[i]);
    }
    json_end_object(writer);
}

static void put_training(struct json_writer *writer, const struct status_snapshot *told) {
    put_f64(writer, "loss", told->training.loss);
    put_f64(writer, "learning_rate", (double)told->training.learning_rate);
    put_u64(writer, "steps", told->training.steps);
    put_u64(writer, "tokens", told->training.tokens);
    put_u64(writer, "trainer_steps", told->training.trainer_steps);
    put_u64(writer, "trainer_tokens", told->training.trainer_tokens);
    put_f64(writer, "tokens_per_second", told->training.tokens_per_second);
    put_f64(writer, "steps_per_second", told->training.steps_per_second);
    put_u64(writer, "bytes_up", told->totals.bytes_up);
    put_u64(writer, "bytes_down", told->totals.bytes_down);
    put_f64(writer, "compute_share", told->share);
    put_u64(writer, "compute_ms", told->totals.compute_ms);
    json_key(writer, "lost_ms");
    json_begin_object(writer);
    for (uint32_t i = 0; i < LOST_CAUSE_COUNT; i++)
        put_u64(writer, lost_cause_name(i), told->totals.lost_ms[i]);
    json_end_object(writer);
}

/* Linked, and nothing that somebody must mend. */
static bool is_ready(const struct report *report, const struct status_snapshot *told) {
    char message[TROUBLE_TEXT_SIZE];
    uint64_t since_ms = 0;
    bool ready = told->view.linked;
    for (enum trouble trouble = 0; trouble < TROUBLE_COUNT; trouble++)
        ready = ready && !trouble_is(report->options.troubles, trouble, message, &since_ms);
    return ready;
}

/* What somebody has to mend, and whether the site does its work. */
static void put_troubles(struct json_writer *writer, const struct report *report,
                         const struct status_snapshot *told) {
    char message[TROUBLE_TEXT_SIZE];
    uint64_t since_ms = 0;
    json_key(writer, "troubles");
    json_begin_array(writer);
    for (enum trouble trouble = 0; trouble < TROUBLE_COUNT; trouble++) {
        if (!trouble_is(report->options.troubles, trouble, message, &since_ms)) continue;
        json_begin_object(writer);
        put_text(writer, "what", trouble_name(trouble));
        put_text(writer, "message", message);
        put_u64(writer, "since_ms", since_ms);
        json_end_object(writer);
    }
    json_end_array(writer);
    json_key(writer, "ready");
    json_bool(writer, is_ready(report, told));
}

static void put_roots(struct json_writer *writer, const struct status_snapshot *told) {
    json_key(writer, "roots");
    json_begin_object(writer);
    for (size_t i = 0; i < told->root_count; i++) {
        char version[24], hex[HEX32_SIZE];
        snprintf(version, sizeof version, "%llu", (unsigned long long)told->roots[i].version);
        put_text(writer, version, hex_encode(told->roots[i].root, DIGEST_SIZE, hex));
    }
    json_end_object(writer);
}

/* Over what is there: a full disk has room for that, and tells its readers. A reader may see half
 * of it. */
static enum status overwrite(const char *path, struct bytes content, struct error *error) {
    int file = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0) return error_set(error, FAILED, "open %s: %s", path, strerror(errno));
    enum status status = file_write_all(file, content.data, content.size, error);
    if (status == OK && ftruncate(file, (off_t)content.size) != 0)
        status = error_set(error, FAILED, "cut %s: %s", path, strerror(errno));
    close(file);
    return status;
}

/* Whole or not at all for readers, but not synced: a file a second is not worth a disk's time. */
static enum status replace(const char *path, struct bytes content, struct error *error) {
    char *temporary = xformat("%s.new", path);
    enum status status = file_check_kind(path, error);
    int file = -1;
    unlink(temporary); /* never opened: whatever is there is not ours */
    if (status == OK) file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (status == OK && file < 0)
        status = error_set(error, FAILED, "open %s: %s", temporary, strerror(errno));
    if (status == OK) {
        status = file_write_all(file, content.data, content.size, error);
        close(file);
        if (status == OK && rename(temporary, path) != 0)
            status = error_set(error, FAILED, "rename to %s: %s", path, strerror(errno));
        if (status != OK) unlink(temporary);
        if (status == FULL) status = overwrite(path, content, error);
    }
    free(temporary);
    return status;
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

static void write_metrics(struct report *report, const struct status_snapshot *told) {
    struct buffer text = {0};
    const struct site *site = report->options.site;
    char labels[128], hex[HEX32_SIZE];
    snprintf(labels, sizeof labels, "run_id=\"%s\",site_id=\"%s\"",
             hex_encode(site->run_id, RUN_ID_SIZE, hex), site->name);
    const struct {
        const char *name, *type;
        double value;
    } series[] = {
        {"atoll_node_version", "gauge", (double)told->view.version},
        {"atoll_node_linked", "gauge", told->view.linked},
        {"atoll_node_ready", "gauge", is_ready(report, told)},
        {"atoll_node_staleness_versions", "gauge", (double)told->view.staleness},
        {"atoll_node_loss_nats", "gauge", told->training.loss},
        {"atoll_node_trainer_tokens_total", "counter", (double)told->training.trainer_tokens},
        {"atoll_node_trainer_steps_total", "counter", (double)told->training.trainer_steps},
        {"atoll_node_contributions_accepted_total", "counter", (double)told->view.accepted},
        {"atoll_node_contributions_refused_total", "counter", (double)told->refused},
        {"atoll_node_sent_bytes_total", "counter", (double)told->totals.bytes_up},
        {"atoll_node_received_bytes_total", "counter", (double)told->totals.bytes_down},
        {"atoll_node_compute_seconds_total", "counter", (double)told->totals.compute_ms * 1e-3}};
    for (size_t i = 0; i < COUNT_OF(series); i++)
        buffer_append_text(&text, "# TYPE %s %s\n%s{%s} %.17g\n", series[i].name, series[i].type,
                           series[i].name, labels, series[i].value);
    buffer_append_text(&text, "# TYPE atoll_node_lost_seconds_total counter\n");
    for (uint32_t i = 0; i < LOST_CAUSE_COUNT; i++)
        buffer_append_text(&text, "atoll_node_lost_seconds_total{%s,cause=\"%s\"} %.17g\n", labels,
                           lost_cause_name(i), (double)told->totals.lost_ms[i] * 1e-3);
    struct error error = {0};
    enum status status = replace(report->options.metrics_file, buffer_bytes(&text), &error);
    complain(&report->metrics_file, "metrics_file", report->options.metrics_file, status, &error);
    buffer_deinit(&text);
}

void report_write(struct report *report, struct training *training, const char *state,
                  const char *message) {
    struct status_snapshot *told = xmalloc(sizeof *told);
    struct buffer text = {0};
    struct error error = {0};
    collect(report, training, told);
    bool over = state && strcmp(state, "starting") != 0;
    if (!state) state = told->training.training ? "training" : "waiting";
    if (over) { /* last words stay: they must hold when nobody is there any more */
        told->view.linked = false;
        told->training.tokens_per_second = told->training.steps_per_second = 0;
    }
    struct json_writer writer = json_writer_of(&text, true);
    json_begin_object(&writer);
    put_u64(&writer, "format", STATUS_FORMAT);
    put_u64(&writer, "stamp_ms", clock_wall_ms());
    put_text(&writer, "state", state);
    put_text(&writer, "message", message);
    put_troubles(&writer, report, told);
    put_site(&writer, report, told);
    put_run(&writer, told);
    put_training(&writer, told);
    put_roots(&writer, told);
    json_end_object(&writer);
    buffer_append_text(&text, "\n");
    enum status status = replace(report->path, buffer_bytes(&text), &error);
    complain(&report->status_file, "status_file", report->path, status, &error);
    if (report->options.metrics_file) write_metrics(report, told);
    buffer_deinit(&text);
    free(told);
}

/* ---- heartbeats ------------------------------------------------------------------------------ */

void report_heartbeat(struct report *report, struct training *training, struct buffer *out) {
    struct status_snapshot *told = xmalloc(sizeof *told);
    collect(report, training, told);
    struct heartbeat_request request = {.protocol = PROTOCOL_VERSION,
                                        .epoch = told->view.epoch,
                                        .version = told->view.version,
                                        .ledger_size = told->view.ledger_size,
                                        .phase = told->training.training ? 1 : 0,
                                        .inner_steps_done = told->training.trainer_steps,
                                        .tokens = told->training.trainer_tokens,
                                        .tokens_per_second = told->training.tokens_per_second,
                                        .steps_per_second = told->training.steps_per_second,
                                        .loss = (float)told->training.loss,
                                        .staleness =
                                            (uint32_t)MIN(told->view.staleness, UINT32_MAX),
                                        .bytes_up = told->totals.bytes_up,
                                        .bytes_down = told->totals.bytes_down,
                                        .compute_ms = told->totals.compute_ms,
                                        .rounds = told->view.accepted + told->refused,
                                        .refused = told->refused,
                                        .device = report->options.device,
                                        .software = site_software};
    request.instance = report->options.instance;
    request.turn = told->turn;
    request.time_ms = clock_wall_ms();
    memcpy(request.lost_ms, told->totals.lost_ms, sizeof request.lost_ms);
    if (told->root_count && told->roots[told->root_count - 1].version == told->view.version)
        memcpy(request.last_root, told->roots[told->root_count - 1].root, DIGEST_SIZE);
    struct error error = {0};
    if (heartbeat_request_encode(&request, out, &error) != OK)
        log_warn("heartbeat_failed", "message=\"%s\"", error.message);
    free(told);
}
