/* What tokenizer.c (reading the file) and tokenizer_encode.c (using it) share, and nobody else. */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "base/random.h"
#include "text/tokenizer.h"

enum { TOKENS_MAX = TOKENIZER_VOCABULARY_MAX };
#define NO_TOKEN UINT32_MAX

struct merge {
    uint32_t left, right, rank, to;
};
struct merge_slot {
    struct merge merge;
    bool used;
};

struct tokenizer {
    struct json *json;    /* lends all texts */
    struct bytes *tokens; /* [capacity]; data NULL: no such token */
    uint32_t count, capacity;
    uint32_t *names; /* [names_mask + 1] open addressing by text: token + 1 */
    uint64_t names_mask;
    struct merge_slot *merges; /* [merges_mask + 1] open addressing by the pair */
    uint64_t merges_mask;
    uint32_t *added;  /* [added_count] */
    bool *special;    /* [added_count]: it controls, as the end of a text does, and is not text */
    bool *normalized; /* [added_count]: it is looked for in normalized text */
    bool *left,
        *right; /* [added_count]: it takes the blanks before it, or those after it, with it */
    size_t added_count;
    bool added_first[256]; /* the bytes that added tokens begin with */
    bool ignore_merges, nfc, byte_level;
    struct pattern *patterns[TOKENIZER_PATTERNS_MAX];
    size_t pattern_count;
    uint32_t prefix[TOKENIZER_PREFIX_MAX];
    size_t prefix_count;
    uint8_t byte_text[256][2], byte_size[256]; /* the character that stands for a byte, as UTF-8 */
    uint32_t byte_token[256];
    int16_t byte_of[512]; /* back; -1 */
};

static inline uint64_t random_mix(struct bytes text) { /* FNV-1a, spread */
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < text.size; i++) hash = (hash ^ text.data[i]) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 29;
}

uint32_t tokenizer_find(const struct tokenizer *tokenizer, struct bytes text); /* NO_TOKEN */

#endif
