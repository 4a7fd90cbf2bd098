/* A disk that is slow to sync, for a program that is started with this in LD_PRELOAD: SLOW_DISK_MS
 * is what each sync takes at least, SLOW_DISK_FILE, where set, a file that holds another figure,
 * read at each sync: so a disk can become slow and recover. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void wait_a_while(void) {
    const char *fixed = getenv("SLOW_DISK_MS"), *path = getenv("SLOW_DISK_FILE");
    long ms = fixed ? atol(fixed) : 0;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &ms) != 1) ms = 0;
        fclose(file);
    }
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    if (ms > 0) nanosleep(&pause, NULL);
}

int fdatasync(int file) {
    wait_a_while();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}

int fsync(int file) {
    wait_a_while();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}
