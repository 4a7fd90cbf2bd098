/* Keeps descriptors 0 to 2 occupied, and finds out at the end whether stdout took everything
 * (base/streams.h). */
#include "base/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/ending.h"

enum { EXIT_LIMIT_S = 30 };

static int first_error; /* errno of what failed first, where it is known */

void streams_open(void) {
    static const int modes[] = {
        O_WRONLY, O_RDONLY,
        O_RDONLY}; /* the wrong way round: using it is an error, as if it were closed */
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++) {
        if (fcntl(stream, F_GETFD) >= 0) continue;
        int taken = open("/dev/null", modes[stream]); /* the lowest number that is free: this one */
        if (taken > STDERR_FILENO) close(taken);
    }
}

bool streams_broken(void) {
    if (fflush(stdout) != 0 && first_error == 0) first_error = errno;
    return first_error != 0 || ferror(stdout);
}

int streams_close(const char *program, int code) {
    bool broken = streams_broken();
    if (fclose(stdout) != 0) {
        if (first_error == 0) first_error = errno;
        broken = true;
    }
    if (broken && code == 0) code = 1;
    /* What libraries do when the process ends may wait for threads that never came. */
    ending_limit(EXIT_LIMIT_S, code, "ending");
    if (!broken) return code;
    fprintf(stderr, "%s: stdout cannot be written, what it shows is not all%s%s\n", program,
            first_error ? ": " : "", first_error ? strerror(first_error) : "");
    return code;
}
