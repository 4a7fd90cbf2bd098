/* How a program is ended from outside: SIGTERM, SIGINT, SIGHUP, and a limit on how long the end may
 * take.
 *
 * A program has two times. At first nothing in it is unsaved, and a signal ends the process at
 * once, whatever it is waiting for: a check of all data, a replay, a peer that does not answer.
 * Handlers are installed for this, because the first process of a container has no default action,
 * and because a launcher may have left the signals blocked. After ending_in_order the first signal
 * is only noted, and the program ends by itself, with its work saved. A second signal, a second or
 * more after the first, ends the process at once: launchers like timeout(1) send the first one
 * twice. SIGHUP is left ignored where it is (nohup).
 *
 * What cannot be interrupted gets a limit: ending_limit arms a timer (no thread: the system may
 * give none), and what has not ended by then is named on stderr and ends the process.
 *
 * Process-wide, for main functions and for what ends them. The handlers call what is
 * async-signal-safe only.
 */
#ifndef BASE_ENDING_H
#define BASE_ENDING_H

#include <stdbool.h>
#include <stdint.h>

enum { ENDING_BY_SIGNAL = -1 /* exit code 128 + the signal's number, as shells have it */ };

/* Main calls this first. From here on a signal ends the process at once with exit code `code`. May
 * be called again with another. A write past the limit of a file's size (ulimit -f) fails with
 * EFBIG from here on, and its reason is told, instead of ending the process without a word
 * (SIGXFSZ). */
void ending_begin(int code);
/* From here on the first signal is noted. `on_ask`, which may be NULL, is called in the signal's
 * handler. */
void ending_in_order(void (*on_ask)(void));
/* The signal that was noted, or 0. */
int ending_asked(void);
/* The same as a condition: whether a signal was noted. */
bool ending_is_asked(void);
/* "TERM" and so on. */
const char *ending_signal_name(int number);
/* Waits for a signal, at most so long; whether there was one. Only one thread may wait. */
bool ending_wait(uint64_t timeout_ms);
/* What follows is `doing` (static storage); if it has not ended after so many seconds, the process
 * ends with `code` and a line that says so. One limit at a time: the next call replaces it, 0
 * seconds takes it away. */
void ending_limit(unsigned seconds, int code, const char *doing);

#endif
