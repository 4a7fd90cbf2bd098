/* What a site waits out (node/trouble.h): a list under a mutex, logged when a trouble begins and
 * when it ends. */
#include "node/trouble.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum { SAY_AGAIN_MS = 60000 };

struct troubles {
    pthread_mutex_t lock;
    pthread_cond_t given_up_changed;
    bool given_up;
    struct {
        bool is;
        uint64_t since_ms, said_ms; /* wall clock, monotonic */
        char message[TROUBLE_TEXT_SIZE];
    } of[TROUBLE_COUNT];
};

static const struct {
    const char *name, *advice;
} kinds[TROUBLE_COUNT] = {
    [TROUBLE_DISK_ROUNDS] = {"disk", "make room on the site's disk: the site goes on by itself"},
    [TROUBLE_DISK_CHECKPOINT] = {"disk", "make room on the site's disk: a crash now costs what was "
                                         "trained since the last checkpoint"},
    [TROUBLE_DISK_LEDGER] = {"disk", "make room on the site's disk: the site goes on by itself"},
    [TROUBLE_CLOCK] = {"clock", "set the clock that is wrong (NTP)"},
    [TROUBLE_CERTIFICATE] = {"clock", "set this machine's clock (NTP): the site goes on by itself"},
    [TROUBLE_PAYLOAD] = {"payload", "look after the site's disk: the payload is asked for, and the "
                                    "site goes on when it is here"},
};

const char *trouble_name(enum trouble trouble) { return kinds[trouble].name; }

struct troubles *troubles_create(void) {
    struct troubles *troubles = xcalloc(1, sizeof *troubles);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&troubles->lock, NULL);
    pthread_cond_init(&troubles->given_up_changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return troubles;
}

void troubles_destroy(struct troubles *troubles) {
    if (!troubles) return;
    pthread_cond_destroy(&troubles->given_up_changed);
    pthread_mutex_destroy(&troubles->lock);
    free(troubles);
}

void trouble_begins(struct troubles *troubles, enum trouble trouble, const char *message) {
    if (!troubles) return;
    uint64_t now = clock_monotonic_ms();
    char quoted[TROUBLE_TEXT_SIZE + 64];
    pthread_mutex_lock(&troubles->lock);
    bool say = !troubles->of[trouble].is || now - troubles->of[trouble].said_ms >= SAY_AGAIN_MS;
    if (!troubles->of[trouble].is) troubles->of[trouble].since_ms = clock_wall_ms();
    if (say) troubles->of[trouble].said_ms = now;
    troubles->of[trouble].is = true;
    snprintf(troubles->of[trouble].message, sizeof troubles->of[trouble].message, "%s", message);
    pthread_mutex_unlock(&troubles->lock);
    if (say)
        log_error("waits", "for=%s message=%s do=\"%s\"", kinds[trouble].name,
                  log_quote(message, quoted, sizeof quoted), kinds[trouble].advice);
}

void trouble_ends(struct troubles *troubles, enum trouble trouble) {
    if (!troubles) return;
    pthread_mutex_lock(&troubles->lock);
    bool was = troubles->of[trouble].is;
    troubles->of[trouble].is = false;
    pthread_mutex_unlock(&troubles->lock);
    if (was) log_info("waited", "for=%s", kinds[trouble].name);
}

bool trouble_is(struct troubles *troubles, enum trouble trouble,
                char message[static TROUBLE_TEXT_SIZE], uint64_t *since_ms) {
    if (!troubles) return false;
    pthread_mutex_lock(&troubles->lock);
    bool is = troubles->of[trouble].is;
    if (is) {
        snprintf(message, TROUBLE_TEXT_SIZE, "%s", troubles->of[trouble].message);
        *since_ms = troubles->of[trouble].since_ms;
    }
    pthread_mutex_unlock(&troubles->lock);
    return is;
}

bool trouble_wait(struct troubles *troubles, uint64_t ms) {
    if (!troubles) return false;
    uint64_t until = clock_monotonic_ns() + ms * 1000000u;
    struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&troubles->lock);
    while (!troubles->given_up && clock_monotonic_ns() < until)
        pthread_cond_timedwait(&troubles->given_up_changed, &troubles->lock, &at);
    bool go_on = !troubles->given_up;
    pthread_mutex_unlock(&troubles->lock);
    return go_on;
}

void troubles_give_up(struct troubles *troubles) {
    if (!troubles) return;
    pthread_mutex_lock(&troubles->lock);
    troubles->given_up = true;
    pthread_cond_broadcast(&troubles->given_up_changed);
    pthread_mutex_unlock(&troubles->lock);
}
