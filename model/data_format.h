/* What a data file is, by its content: text whose bytes are tokens, or tokens of 16 or 32 bits,
 * with or without llm.c's header.
 *
 * Why: a file of another kind trains without a word. Text read as 16-bit tokens is "valid" for any
 * vocabulary above 32,639, 32-bit tokens read as 16-bit ones have a zero in every second place, and
 * what was learned from either goes into everybody's model. So the name decides nothing; the
 * content does, and what does not fit the run's tokenizer is refused with what it seems to be.
 *
 * How: first the header and the magic numbers of other formats. Then a sample (the whole of a small
 * file, else pieces spread over it): is it text (UTF-8, few control characters), does every second
 * 16-bit number vanish, do even and odd bytes have the same distribution, are all tokens in a small
 * corner of the vocabulary? Each question has an answer that real tokens give by a wide margin;
 * files too small to tell are taken at their word. Languages do not matter: text is told by control
 * characters, which no script uses, and by UTF-8's own structure. The place to insist on a format
 * against all this is `format`.
 *
 * Pure over a reader function, so that tests and fuzzers feed it bytes.
 */
#ifndef MODEL_DATA_FORMAT_H
#define MODEL_DATA_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* What a site or user says about its files. */
enum data_format {
    DATA_AUTO = 0, /* told from the content; refused where in doubt */
    DATA_BYTES,    /* every byte is a token, whatever it is */
    DATA_LLMC,     /* llm.c's header, which says the width */
    DATA_U16,      /* no header, little-endian 16-bit tokens, as nanoGPT writes them */
    DATA_U32       /* no header, little-endian 32-bit tokens */
};
extern const char *const data_format_names[]; /* by enum data_format; ends with NULL */

/* Whose numbers the tokens are. */
enum data_tokens {
    DATA_TOKENS_ANY = 0, /* not said: text is bytes, all else what it seems to be */
    DATA_TOKENS_BYTE,    /* a token is a byte, however it is stored */
    DATA_TOKENS_EXTERNAL /* a tokenizer's: text is never right */
};

struct data_source {
    /* Exactly `size` bytes at `at`. */
    enum status (*read)(void *context, uint64_t at, void *out, size_t size, struct error *error);
    void *context;
    const char *name; /* for messages */
    uint64_t size;    /* in bytes, above 0 */
};

struct data_demand {
    enum data_format format;
    enum data_tokens tokens;
    uint32_t vocabulary;
    bool vouched; /* the tokenizer is known to be the right one: how much of the vocabulary is in
                     use says nothing */
};

struct data_shape {
    uint64_t start;      /* of the tokens, in bytes */
    uint64_t tokens;     /* may be 0 */
    unsigned token_size; /* 1, 2 or 4 */
    uint32_t limit;      /* a token at or above it is INVALID: the vocabulary, or 256 */
    bool bytes;          /* the tokens are bytes of text, stored in whatever width */
    const char *advice;  /* what a person should know although the file is taken; static, or NULL */
};

/* INVALID: the file is of another kind than the demand; the message says what it seems to be and
 * what to do. Statuses of `read`. */
MUST_USE enum status data_format_detect(const struct data_source *source,
                                        const struct data_demand *demand, struct data_shape *out,
                                        struct error *error);
/* Ends the messages about what --data-format may overrule. */
extern const char data_format_insist[];

#endif
