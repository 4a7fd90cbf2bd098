/* Starts and stops gRPC core for the process (rpc/environment.h), takes over its log, and tries
 * beforehand whether the threads it needs can be started: gRPC itself would wait for them without
 * end. */
#include "rpc/environment.h"

#include <dirent.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

/* Process-wide because the library beneath is. */
static pthread_mutex_t environment_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned environment_references;

static void take_log_line(gpr_log_func_args *line) {
    char text[512];
    log_quote(line->message, text, sizeof text);
    const char *file = strrchr(line->file, '/');
    file = file ? file + 1 : line->file;
    if (line->severity == GPR_LOG_SEVERITY_ERROR) {
        log_warn("grpc_log", "at=%s:%d message=%s", file, line->line, text);
    } else {
        log_debug("grpc_log", "at=%s:%d message=%s", file, line->line, text);
    }
}

static void prepare_once(void) {
    static bool done;
    if (done) return;
    done = true;
    /* The interface has no setting for the TLS version. TLS 1.2 is left with one suite, for RSA
     * certificates, which do not occur here; TLS 1.3 has its own list of suites, which this one
     * does not touch. */
    setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES128-GCM-SHA256", 0);
    gpr_set_log_function(take_log_line);
    gpr_set_log_verbosity(log_is_on(LOG_DEBUG) ? GPR_LOG_SEVERITY_DEBUG : GPR_LOG_SEVERITY_ERROR);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- threads --------------------------------------------------------------------------------- */

struct trial {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over; /* under lock */
};

static void trial_body(void *context) {
    struct trial *trial = context;
    pthread_mutex_lock(&trial->lock);
    while (!trial->over) pthread_cond_wait(&trial->changed, &trial->lock);
    pthread_mutex_unlock(&trial->lock);
}

/* What it starts by itself: a pool as large as the machine (2 to 16), two executors, timers, and
 * one in reserve. */
static uint32_t library_threads(void) {
    long processors = sysconf(_SC_NPROCESSORS_CONF);
    return (uint32_t)(processors < 2 ? 2 : processors > 16 ? 16 : processors) + 4;
}

/* All at once, because all will be there at once. */
enum status rpc_threads_there(uint32_t own, struct error *error) {
    struct trial trial = {.over = false};
    uint32_t wanted = own + library_threads(), started = 0;
    struct thread **threads = xcalloc(wanted, sizeof *threads);
    enum status status = OK;
    pthread_mutex_init(&trial.lock, NULL);
    pthread_cond_init(&trial.changed, NULL);
    while (started < wanted && status == OK) {
        status = thread_start("trial", trial_body, &trial, &threads[started], error);
        if (status == OK) started++;
    }
    pthread_mutex_lock(&trial.lock);
    trial.over = true;
    pthread_cond_broadcast(&trial.changed);
    pthread_mutex_unlock(&trial.lock);
    for (uint32_t i = 0; i < started; i++) (void)!thread_join(threads[i], UINT64_MAX);
    pthread_cond_destroy(&trial.changed);
    pthread_mutex_destroy(&trial.lock);
    free(threads);
    if (status == OK) return OK;
    return error_wrap(error, status,
                      "not enough threads: the system allows %u more, the network needs %u: raise "
                      "the limit of processes (ulimit -u, or "
                      "pids.max of the cgroup)",
                      started, wanted);
}

/* ---- open and close -------------------------------------------------------------------------- */

enum status rpc_environment_open(struct error *error) {
    enum status status = OK;
    pthread_mutex_lock(&environment_lock);
    prepare_once();
    if (environment_references == 0) status = rpc_threads_there(0, error);
    if (status == OK && environment_references++ == 0) grpc_init();
    pthread_mutex_unlock(&environment_lock);
    return status;
}

void rpc_environment_close(void) {
    pthread_mutex_lock(&environment_lock);
    ASSERT(environment_references > 0);
    if (--environment_references == 0) grpc_shutdown();
    pthread_mutex_unlock(&environment_lock);
}

uint64_t rpc_descriptors_open(void) {
    struct stat info; /* since Linux 6.2 the size of this directory is the count */
    if (stat("/proc/self/fd", &info) == 0 && info.st_size > 0) return (uint64_t)info.st_size;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) return 0;
    uint64_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) count += entry->d_name[0] != '.';
    closedir(directory);
    return count > 0 ? count - 1 : 0; /* less the one that listed them */
}
