/* The standard streams at a process's two ends: nothing else may get their numbers, and what stdout
 * did not take is a failure.
 *
 * A program that is started with a closed stdout would give number 1 to the next file that it
 * opens, a database perhaps, and print into it. And printf reports nothing: a full disk shows
 * itself when the last buffer is written, after the program said 0.
 */
#ifndef BASE_STREAMS_H
#define BASE_STREAMS_H

#include <stdbool.h>

/* Main calls this before it opens anything: each of 0, 1, 2 that is closed is taken by something
 * that cannot be used. */
void streams_open(void);
/* Whether stdout has failed by now, after writing out what waits for it: who prints again and again
 * ends then. */
bool streams_broken(void);
/* Main's last call: writes stdout out and closes it. What could not be written is said on stderr,
 * and 0 becomes 1. What libraries do afterwards, as the process ends, gets half a minute. */
int streams_close(const char *program, int code);

#endif
