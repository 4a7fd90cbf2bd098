// Whether a shape's attention goes by mma.sync (attention.cu, everywhere) or by wgmma
// (attention_hopper*.cu, compute 9.0).
//
// The faster one, if the two agree, found by measuring both once. A mistake in kernels that wait
// for barriers and copies may be a trap, which no later call of its process survives; so it is a
// process of its own that measures, atoll-cuda-probe beside this library, and what it says, or how
// it ended, is all that is believed. It is ended by force after PROBE_SECONDS. Whatever goes wrong,
// the answer is mma.sync and a line that says why. The line is kept, with failures that another try
// would repeat, in a file beside that of the matrix algorithms, by device, driver and this
// library's very file; without the file it is measured anew.
//
// ATOLL_ATTENTION=mma or wgmma takes that one, unmeasured; auto, or nothing, measures.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <new>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cache_file.cuh"

extern char **environ;

namespace {

constexpr int PROBE_SECONDS = 90, PROBE_LOST = 3;
constexpr double DISTANCE_MOST = 0.01; // that of the tests, of either from the CPU

enum way { WAY_AUTO, WAY_MMA, WAY_WGMMA };

struct choice {
    uint32_t shape[5];
    unsigned by_wgmma;
    std::string why;
};

void shape_of(const struct cuda_attention *a, uint32_t shape[5]) {
    const uint32_t numbers[5] = {a->sequences, a->length, a->heads, a->kv_heads, a->head_size};
    memcpy(shape, numbers, sizeof numbers);
}

} // namespace

struct attention_choices {
    way wish;
    hopper_attention *hopper;
    cache_file cache;
    std::vector<choice> all;
    std::string line;
};

namespace {

const choice *find(const attention_choices *choices, const struct cuda_attention *a) {
    uint32_t shape[5];
    shape_of(a, shape);
    for (const choice &c : choices->all)
        if (memcmp(c.shape, shape, sizeof shape) == 0) return &c;
    return nullptr;
}

// --- the file: five numbers of the shape, which way, and why ---

void read_cache(attention_choices *choices) {
    for (const std::string &line : cache_read(choices->cache)) {
        choice c = {};
        int at = 0;
        if (sscanf(line.c_str(), "%u %u %u %u %u %u %n", &c.shape[0], &c.shape[1], &c.shape[2],
                   &c.shape[3], &c.shape[4], &c.by_wgmma, &at) != 6)
            continue;
        c.why = line.substr(static_cast<size_t>(at));
        choices->all.push_back(c);
    }
}

void write_cache(const attention_choices *choices) {
    std::vector<std::string> lines;
    for (const choice &c : choices->all) {
        std::string line;
        for (uint32_t number : c.shape) line += std::to_string(number) + " ";
        lines.push_back(line + std::to_string(c.by_wgmma) + " " + c.why);
    }
    cache_write(choices->cache, lines);
}

// --- the other process ---

std::string library_path() {
    Dl_info info = {};
    char real[4096];
    if (!dladdr(reinterpret_cast<const void *>(&attention_choices_open), &info) || !info.dli_fname)
        return "";
    return realpath(info.dli_fname, real) ? real : "";
}

// Beside the library, or where a build has it.
std::string probe_path(const std::string &library) {
    std::string folder = library.substr(0, library.rfind('/') + 1);
    for (const char *name : {"atoll-cuda-probe", "../bin/atoll-cuda-probe"})
        if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
    return "";
}

int start_probe(const std::string &program, const std::string &library,
                const struct cuda_attention *a, int output, pid_t *out) {
    uint32_t shape[5];
    shape_of(a, shape);
    std::vector<std::string> words = {program, library};
    for (uint32_t number : shape) words.push_back(std::to_string(number));
    std::vector<char *> arguments;
    for (std::string &word : words) arguments.push_back(&word[0]);
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t files;
    int code = posix_spawn_file_actions_init(&files);
    if (code) return code;
    code = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    if (!code) code = posix_spawn_file_actions_adddup2(&files, output, 1);
    if (!code) code = posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 34) // locks and sockets of the program are not to live longer than it
    if (!code) code = posix_spawn_file_actions_addclosefrom_np(&files, 3);
#endif
#endif
    if (!code) code = posix_spawn(out, program.c_str(), &files, nullptr, arguments.data(), environ);
    (void)posix_spawn_file_actions_destroy(&files);
    return code;
}

double seconds_now() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// All that it says, until it ends or its time is over; its status, or -1.
int hear_probe(pid_t probe, int input, std::string *said) {
    double end = seconds_now() + PROBE_SECONDS;
    bool over = false;
    for (;;) {
        double left = end - seconds_now();
        struct pollfd ready = {input, POLLIN, 0};
        over = left <= 0;
        if (over) break;
        if (poll(&ready, 1, static_cast<int>(left * 1000) + 1) <= 0) continue;
        char some[256];
        ssize_t size = read(input, some, sizeof some);
        if (size <= 0) break;
        if (said->size() < 512) said->append(some, static_cast<size_t>(size));
    }
    if (over) (void)kill(probe, SIGKILL);
    int status = 0;
    while (waitpid(probe, &status, 0) < 0)
        if (errno != EINTR)
            break; // a program that ignores its children's ends: what was said counts
    return over ? -1 : status;
}

std::string one_line(const std::string &text) {
    std::string line = text.substr(0, 160);
    for (char &c : line)
        if (c < ' ') c = ' ';
    while (!line.empty() && line.back() == ' ') line.pop_back();
    return line;
}

// What became of it, in *out; whether that is worth keeping.
bool judge(int status, const std::string &said, choice *out) {
    char text[256];
    float ms[4];
    double distance = 0;
    if (status == -1) { // its waits have an end, so it was slow, as under a sanitizer: not for good
        out->why = "wgmma was not measured within " + std::to_string(PROBE_SECONDS) + " s";
        return false;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        out->why = "wgmma was not measured: " +
                   (said.empty() ? "the probe ended with status " + std::to_string(status)
                                 : one_line(said));
        return WIFEXITED(status) && WEXITSTATUS(status) == PROBE_LOST;
    }
    if (sscanf(said.c_str(), "%f %f %f %f %lf", &ms[0], &ms[1], &ms[2], &ms[3], &distance) != 5) {
        out->why = "wgmma was not measured: the probe says " + one_line(said);
        return false;
    }
    if (!(distance <= DISTANCE_MOST)) {
        snprintf(text, sizeof text,
                 "wgmma has other results, %.3g of their length away (%.3g is the most)", distance,
                 DISTANCE_MOST);
    } else {
        float mma = ms[0] + ms[1], wgmma = ms[2] + ms[3];
        out->by_wgmma = wgmma < mma;
        snprintf(text, sizeof text, "mma.sync takes %.3f ms, wgmma %.3f ms, %.2g apart",
                 static_cast<double>(mma), static_cast<double>(wgmma), distance);
    }
    out->why = text;
    return true;
}

bool measure_apart(const struct cuda_attention *a, choice *out) {
    std::string library = library_path(), program = probe_path(library);
    if (program.empty()) {
        out->why = "wgmma was not measured: there is no atoll-cuda-probe beside " + library;
        return false;
    }
    int pipes[2];
    pid_t probe = 0;
    if (pipe2(pipes, O_CLOEXEC) != 0) {
        out->why = std::string("wgmma was not measured: ") + strerror(errno);
        return false;
    }
    int code = start_probe(program, library, a, pipes[1], &probe);
    close(pipes[1]);
    std::string said;
    int status = code ? 0 : hear_probe(probe, pipes[0], &said);
    close(pipes[0]);
    if (code) out->why = "wgmma was not measured: " + program + ": " + strerror(code);
    return !code && judge(status, said, out);
}

const char *prepare(cuda_session *session, const struct cuda_attention *a) {
    attention_choices *choices = session->attention;
    const choice *known = find(choices, a);
    if (choices->wish != WAY_AUTO || !hopper_attention_can(choices->hopper, a->head_size)) {
        bool wgmma = attention_chosen(choices, a) != nullptr;
        choices->line = wgmma ? "attention by wgmma, as ATOLL_ATTENTION says"
                        : choices->wish == WAY_MMA
                            ? "attention by mma.sync, as ATOLL_ATTENTION says"
                            : "attention by mma.sync";
        return nullptr;
    }
    if (!known) {
        choice made = {};
        shape_of(a, made.shape);
        bool keep = measure_apart(a, &made);
        choices->all.push_back(made);
        if (keep) write_cache(choices);
        known = &choices->all.back();
    }
    choices->line =
        std::string(known->by_wgmma ? "attention by wgmma: " : "attention by mma.sync: ") +
        known->why;
    return nullptr;
}

const char *line(const cuda_session *session) { return session->attention->line.c_str(); }

const char *fill(attention_choices *choices, const char *cache) {
    const char *wish = getenv("ATOLL_ATTENTION");
    if (!wish || !*wish || strcmp(wish, "auto") == 0)
        choices->wish = WAY_AUTO;
    else if (strcmp(wish, "mma") == 0)
        choices->wish = WAY_MMA;
    else if (strcmp(wish, "wgmma") == 0)
        choices->wish = WAY_WGMMA;
    else
        return fail(CUDA_FAILURE_INPUT,
                    "ATOLL_ATTENTION is \"%.40s\"; it must be auto, mma or wgmma", wish);
    TRY_CUDA(hopper_attention_open(&choices->hopper));
    if (choices->wish == WAY_WGMMA && !choices->hopper)
        return fail(CUDA_FAILURE_INPUT,
                    "ATOLL_ATTENTION is wgmma, which needs compute 9.0 and a driver for CUDA 12");
    if (!choices->hopper) return nullptr;
    cudaDeviceProp properties;
    int driver = 0;
    TRY_CUDA(cudaGetDeviceProperties(&properties, 0));
    TRY_CUDA(cudaDriverGetVersion(&driver));
    struct stat file = {};
    (void)stat(library_path().c_str(), &file);
    char owner[512];
    snprintf(owner, sizeof owner,
             "atoll attention 1, %s, driver %d, library of %lld bytes and time %lld",
             properties.name, driver, static_cast<long long>(file.st_size),
             static_cast<long long>(file.st_mtime));
    choices->cache = {cache ? std::string(cache) + ".attention" : "", owner};
    read_cache(choices);
    return nullptr;
}

} // namespace

const char *attention_choices_open(const char *cache, attention_choices **out) {
    attention_choices *choices = new (std::nothrow) attention_choices();
    if (!choices) return fail(CUDA_FAILURE_MEMORY, "out of host memory");
    const char *why = fill(choices, cache);
    if (why)
        attention_choices_close(choices);
    else
        *out = choices;
    return why;
}

void attention_choices_close(attention_choices *choices) {
    if (!choices) return;
    hopper_attention_close(choices->hopper);
    delete choices;
}

const hopper_attention *attention_hopper(const attention_choices *choices) {
    return choices ? choices->hopper : nullptr;
}

const hopper_attention *attention_chosen(const attention_choices *choices,
                                         const struct cuda_attention *a) {
    if (choices->wish == WAY_MMA || !hopper_attention_can(choices->hopper, a->head_size))
        return nullptr;
    if (choices->wish == WAY_WGMMA) return choices->hopper;
    const choice *known = find(choices, a);
    return known && known->by_wgmma ? choices->hopper : nullptr;
}

void attention_choice_install(struct cuda_training *training) {
    training->attention_prepare = prepare;
    training->attention_line = line;
    training->attention_measure = attention_measure;
}
