/* What was found out about whole data files, kept between starts: reading 200 GB to know that every
 * token is in the vocabulary takes half an hour, and a site starts often.
 *
 * A line per file and question: a fingerprint of the file (size, device, inode, times of change in
 * nanoseconds, and a checksum of pieces all over it), the question, and the path. A file that was
 * written to, replaced or restored has another fingerprint and is read again. The file of lines is
 * a cache: a damaged line, or none, costs time and nothing else, and where it cannot be written a
 * warning says so once. It is not a proof: what is trained on is checked again as it is read
 * (model/data.h).
 */
#ifndef MODEL_DATA_SEEN_H
#define MODEL_DATA_SEEN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct data_seen;

/* Of one file, as it was at one moment. */
struct data_fingerprint {
    uint64_t size, device, inode, modified_ns, changed_ns, pieces;
};

/* FAILED: the file cannot be read. */
MUST_USE enum status data_fingerprint(int descriptor, struct data_fingerprint *out,
                                      struct error *error);
bool data_fingerprint_equal(const struct data_fingerprint *a, const struct data_fingerprint *b);

/* Reads what is known. NULL as path: nothing is known nor kept. */
struct data_seen *data_seen_open(const char *path);
/* Whether `question` was answered with yes for a file of this fingerprint. The question is short
 * text without blanks. */
bool data_seen_has(const struct data_seen *seen, const struct data_fingerprint *print,
                   const char *question);
/* Keeps that it was; the file is written within seconds, and at closing. A former answer about the
 * same path and question is replaced. */
void data_seen_add(struct data_seen *seen, const struct data_fingerprint *print,
                   const char *question, const char *path);
void data_seen_close(struct data_seen *seen);

#endif
