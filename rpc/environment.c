#include "rpc/environment.h"

#include <dirent.h>
#include <errno.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/log.h"
#include "rpc/environment_core.h"

/* Process-wide because the library beneath is. */
static pthread_mutex_t environment_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned environment_references;
static _Atomic uint64_t accept_failures;

uint64_t environment_accept_failures(void) { return accept_failures; }

static void take_log_line(gpr_log_func_args *line) {
    char text[512];
    log_quote(line->message, text, sizeof text);
    const char *file = strrchr(line->file, '/');
    file = file ? file + 1 : line->file;
    if (line->severity == GPR_LOG_SEVERITY_ERROR) {
        /* The library has no other sign that a listener died: after this line it never accepts again. */
        if (strstr(line->message, "Failed accept4")) accept_failures++;
        log_warn("grpc_log", "at=%s:%d message=%s", file, line->line, text);
    } else {
        log_debug("grpc_log", "at=%s:%d message=%s", file, line->line, text);
    }
}

static void prepare_once(void) {
    static bool done;
    if (done) return;
    done = true;
    /* The interface has no setting for the TLS version. TLS 1.2 is left with one suite, for RSA certificates, which do not
     * occur here; TLS 1.3 has its own list of suites, which this one does not touch. */
    setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES128-GCM-SHA256", 0);
    gpr_set_log_function(take_log_line);
    gpr_set_log_verbosity(log_is_on(LOG_DEBUG) ? GPR_LOG_SEVERITY_DEBUG : GPR_LOG_SEVERITY_ERROR);
    signal(SIGPIPE, SIG_IGN);
}

void rpc_environment_open(void) {
    pthread_mutex_lock(&environment_lock);
    prepare_once();
    if (environment_references++ == 0) grpc_init();
    pthread_mutex_unlock(&environment_lock);
}

void rpc_environment_close(void) {
    pthread_mutex_lock(&environment_lock);
    ASSERT(environment_references > 0);
    if (--environment_references == 0) grpc_shutdown();
    pthread_mutex_unlock(&environment_lock);
}

enum status rpc_raise_descriptor_limit(uint64_t *out, struct error *error) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return error_set(error, FAILED, "getrlimit NOFILE: %s", strerror(errno));
    struct rlimit raised = {limit.rlim_max, limit.rlim_max};
    if (limit.rlim_cur < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    *out = limit.rlim_cur;
    return OK;
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
