/* Where results of long work go: tried before the work, claimed while it lasts, and nothing but our
 * own removed after it.
 *
 * A claim says that the result can be written as far as that can be known: the folder is there and
 * takes files, nothing of another kind is in the way, the size fits the disk and the limit of a
 * file's size. It also keeps a second process from the same result: by a lock that the system lets
 * go when the process ends, however it ends. On file systems without locks there is none.
 */
#ifndef BASE_OUTPUT_H
#define BASE_OUTPUT_H

#include <stdint.h>

#include "base/status.h"

struct output;

/* A file that file_write will write later. Writes and leaves nothing there (beside it, PATH.lock
 * while it lasts). `size`: about how many bytes it will have; 0: unknown. INVALID, NOT_FOUND or
 * FAILED: it cannot be written; FULL: it would not fit; UNAVAILABLE: another process has it.
 * Removes what a killed process left of file_write's temporary files for this path. */
MUST_USE enum status output_claim_file(const char *path, uint64_t size, struct output **out,
                                       struct error *error);
/* A directory, made with its missing parents; what was made and is still empty at output_release
 * goes again. `size`: bytes in all. */
MUST_USE enum status output_claim_directory(const char *path, uint64_t size, struct output **out,
                                            struct error *error);
void output_release(struct output *output); /* NULL is a no-op */

/* The checks of output_claim_file alone, for what is written by the way: no lock. */
MUST_USE enum status output_check_file(const char *path, uint64_t size, struct error *error);

#endif
