/* The log of held-out losses: DIR/evaluations.jsonl, a line for each version that was evaluated,
 * beside the ledger and not in it: it is what this machine measured on texts of its own, and the
 * model follows from the ledger without it.
 *
 *     {"version": 128, "time_ms": 1700000000000, "loss": 2.31, "texts": {"austen": 2.2, ...}}
 *
 * `loss` is the mean over the texts, in nats per token. A line that a crash cut short, or that is
 * no such line, is passed over. The file is bounded: where it would grow beyond EVALUATIONS_SIZE it
 * is written anew with the best line and the newer half. Losing it loses the figures alone.
 */
#ifndef RUN_EVALUATIONS_H
#define RUN_EVALUATIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

#define EVALUATIONS_FILE "evaluations.jsonl"

enum { EVALUATION_TEXTS = 16, EVALUATION_NAME_SIZE = 33, EVALUATIONS_SIZE = 4 << 20 };

struct evaluated_version {
    uint64_t version, time_ms;
    double loss;
    uint32_t count;
    struct {
        char name[EVALUATION_NAME_SIZE];
        double loss;
    } texts[EVALUATION_TEXTS]; /* [count] */
};

struct evaluations {                     /* what the log says */
    struct evaluated_version last, best; /* best: the lowest loss; of equal ones the first */
    uint64_t count;                      /* 0: neither is there */
};

/* Takes one more: keeps it as the last, and as the best if it is. */
void evaluations_note(struct evaluations *evaluations, const struct evaluated_version *evaluation);
/* Takes the lines of later versions out of the log. A step is computed, and evaluated, before its
 * entry is durable: after a crash another one may make that version. At a start, with the version
 * that was restored. */
MUST_USE enum status evaluations_forget_after(const char *directory, uint64_t version,
                                              struct error *error);
/* Reads the log in that directory. OK too where there is none. */
MUST_USE enum status evaluations_read(const char *directory, struct evaluations *out,
                                      struct error *error);
/* Appends to the log. */
MUST_USE enum status evaluations_append(const char *directory,
                                        const struct evaluated_version *evaluation,
                                        struct error *error);

#endif
