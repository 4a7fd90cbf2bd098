/* A sample of a data file, its statistics, and the questions that they answer: is it text, are its
 * numbers wider than said, are they another tokenizer's? data_format.c makes refusals of them.
 * Pure, except for the source's read function. */
#ifndef MODEL_DATA_SAMPLE_H
#define MODEL_DATA_SAMPLE_H

#include "model/data_format.h"

enum {
    DATA_SAMPLE_HEAD =
        1 << 18, /* bytes from the beginning: a thousand shards are looked at in a few seconds */
    DATA_SAMPLE_PIECES = 16, /* spread over the rest */
    DATA_SAMPLE_JUDGED = 256 /* bytes from which on shares mean something */
};

struct data_sample {
    uint8_t *bytes;
    size_t size;
    size_t pieces[DATA_SAMPLE_PIECES + 2]; /* where each begins; the last entry is the size */
    size_t piece_count;
    bool whole; /* the file has nothing else */
};

struct text_facts {
    uint64_t bytes, controls, broken; /* control characters; places that are not UTF-8 */
    size_t first_broken;              /* in the sample */
};

struct token_facts {
    /* `merged` are the distinct ones from ALPHABET on */
    uint64_t count, below_256, distinct, merged;
    uint32_t smallest, largest;
};

uint64_t data_little_endian(const uint8_t *p, unsigned size);

/* From `start` on; pieces begin at multiples of 8 after it. out->bytes is the caller's to free,
 * also after a failure. Statuses of the source's `read`. */
MUST_USE enum status data_sample_take(const struct data_source *source, uint64_t start,
                                      struct data_sample *out, struct error *error);
/* The `index`-th number of `size` bytes. */
uint32_t data_sample_token(const struct data_sample *sample, unsigned size, size_t index);
/* Of the sample as bytes; as the bytes that its tokens are (those that are none count as control
 * characters); as tokens. */
struct text_facts data_sample_text(const struct data_sample *sample);
struct text_facts data_sample_token_text(const struct data_sample *sample, unsigned size);
struct token_facts data_sample_tokens(const struct data_sample *sample, unsigned size,
                                      uint32_t vocabulary);

bool text_is_mostly_utf8(const struct text_facts *facts);
bool text_is_likely(const struct text_facts *facts);
/* *largest: the greatest number, where the answer is yes. */
bool data_sample_is_wider(const struct data_sample *sample, unsigned width, bool big,
                          uint32_t vocabulary, uint32_t *largest);
bool data_sample_is_of_bytes(const struct data_sample *sample);
bool data_sample_is_big_endian(const struct data_sample *sample, uint32_t vocabulary);
bool data_sample_is_utf16(const struct data_sample *sample, bool big);
bool tokens_are_narrow(const struct token_facts *facts, uint32_t vocabulary);

#endif
