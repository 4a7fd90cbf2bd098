/* Signal handlers that name a damaged store file before the process ends (storage/store_guard.h).
 * Everything here may run in a handler: write, open, read and _exit only. A stack trace that ends
 * here is damage on the disk or a disk that cannot read, not a fault of the caller. */
#include "storage/store_guard.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "storage/lmdb_env.h"

static struct {
    const char *program, *advice;
    int exit_code;
    struct sigaction bus_before, fault_before;
} guard;

/* Only what a signal's handler may call: write, open, read, _exit. */

static void say(const char *text) {
    size_t size = strlen(text);
    while (size > 0) {
        ssize_t written = write(STDERR_FILENO, text, size);
        if (written <= 0) return;
        text += written;
        size -= (size_t)written;
    }
}

static void give_up(const char *file) {
    say(guard.program);
    say(": ");
    say(file);
    say(" is damaged, or its disk cannot be read: ");
    say(guard.advice);
    say("\n");
    _exit(guard.exit_code);
}

static uintptr_t take_address(const char **at) {
    uintptr_t value = 0;
    for (;; (*at)++) {
        unsigned digit = **at >= '0' && **at <= '9'   ? (unsigned)(**at - '0')
                         : **at >= 'a' && **at <= 'f' ? (unsigned)(**at - 'a') + 10
                                                      : 16;
        if (digit == 16) return value;
        value = value << 4 | digit;
    }
}

/* How far beyond a store's pages a damaged one may lead: LMDB adds offsets of 16 and sizes of 32
 * bits to a page's address, and a negative difference goes below. Such an address is nobody's
 * (SEGV_MAPERR). */
static const uintptr_t reach_below = (uintptr_t)1 << 32, reach_above = (uintptr_t)1 << 33;

static bool ends_with(const char *path, const char *name) {
    size_t size = strlen(path), wanted = strlen(name);
    return size >= wanted && strcmp(path + size - wanted, name) == 0;
}

/* What a line of /proc/self/maps, "FROM-TO rights offset device inode PATH", says about a fault. */
struct fault {
    uintptr_t address, code; /* what was accessed, and by which instruction; 0: not known */
    bool astray;             /* nobody's address */
    bool ours;
    char store[4200]; /* a store that is open */
};

static void look_at(const char *line, struct fault *fault) {
    const char *at = line, *path = strchr(line, '/');
    uintptr_t from = take_address(&at);
    if (!path || *at++ != '-') return;
    uintptr_t to = take_address(&at), address = fault->address;
    if (ends_with(path, "/data.mdb")) {
        bool near = fault->astray && address + reach_below >= from && address < to + reach_above;
        if ((address >= from && address < to) || near) give_up(path);
        strcpy(fault->store, path);
    } else if (strstr(path, "/liblmdb.so") && fault->code >= from && fault->code < to) {
        fault->ours = true; /* it followed what a damaged page says */
    }
}

static void find(struct fault *fault) {
    char piece[4096], line[4200];
    size_t length = 0;
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t got; file >= 0 && (got = read(file, piece, sizeof piece)) > 0;) {
        for (ssize_t i = 0; i < got; i++) {
            if (piece[i] != '\n') {
                if (length < sizeof line - 1) line[length++] = piece[i];
                continue;
            }
            line[length] = 0;
            length = 0;
            look_at(line, fault);
        }
    }
    if (file >= 0) close(file);
    if (fault->ours && fault->store[0]) give_up(fault->store);
}

static uintptr_t instruction_of(const void *context) {
#if defined(__x86_64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.pc;
#else
    (void)context;
    return 0;
#endif
}

static void on_fault(int number, siginfo_t *info, void *context) {
    static struct fault fault;
    fault = (struct fault){.address = (uintptr_t)info->si_addr,
                           .code = instruction_of(context),
                           .astray = number == SIGSEGV && info->si_code == SEGV_MAPERR};
    find(&fault);
    /* not ours: the instruction is tried again, and meets what was there before */
    sigaction(number, number == SIGBUS ? &guard.bus_before : &guard.fault_before, NULL);
}

void store_guard(const char *program, int exit_code, const char *advice) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    guard.program = program;
    guard.advice = advice;
    guard.exit_code = exit_code;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &guard.bus_before);
    sigaction(SIGSEGV, &action, &guard.fault_before);
}

void lmdb_asserted(MDB_env *env, const char *message) {
    const char *path = "a store";
    (void)!mdb_env_get_path(env, &path);
    (void)message;
    if (guard.program) give_up(path); /* else LMDB aborts */
}
