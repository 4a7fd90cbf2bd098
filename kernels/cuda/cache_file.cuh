// A file of what was measured once: its first line says by what (device, driver, library), each
// later one is a text and the text's sum. A file of another owner, and a line that is damaged, are
// as if they were not there; nobody's work depends on them.
#ifndef KERNELS_CUDA_CACHE_FILE_CUH
#define KERNELS_CUDA_CACHE_FILE_CUH

#include <cstdint>
#include <cstdio>
#include <string>
#include <unistd.h>
#include <vector>

struct cache_file {
    std::string path, owner; // no path: nothing is kept
};

// FNV-1a: against damage, not against malice.
inline std::string cache_sum(const std::string &text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    char out[32];
    snprintf(out, sizeof out, " %016llx\n", static_cast<unsigned long long>(hash));
    return out;
}

inline std::vector<std::string> cache_read(const cache_file &cache) {
    std::vector<std::string> lines;
    FILE *file = cache.path.empty() ? nullptr : fopen(cache.path.c_str(), "r");
    if (!file) return lines;
    char line[1024];
    constexpr size_t SUM = 18;
    if (fgets(line, sizeof line, file) && cache.owner + "\n" == line)
        while (fgets(line, sizeof line, file)) {
            std::string all = line, text = all.size() > SUM ? all.substr(0, all.size() - SUM) : "";
            if (text + cache_sum(text) == all) lines.push_back(text);
        }
    fclose(file);
    return lines;
}

// Beside it, then over it: another process sees the old one or the new one.
inline void cache_write(const cache_file &cache, const std::vector<std::string> &lines) {
    if (cache.path.empty()) return;
    std::string beside = cache.path + "." + std::to_string(getpid());
    FILE *file = fopen(beside.c_str(), "w");
    if (!file) return;
    bool good = fputs((cache.owner + "\n").c_str(), file) >= 0;
    for (const std::string &line : lines)
        good = fputs((line + cache_sum(line)).c_str(), file) >= 0 && good;
    good = fclose(file) == 0 && good;
    if (!good || rename(beside.c_str(), cache.path.c_str()) != 0) unlink(beside.c_str());
}

#endif
