/* Statistics of a data file's sample (data_sample.h). */
#include "model/data_sample.h"

#include <stdlib.h>

#include "base/memory.h"
#include "base/utf8.h"

enum {
    SAMPLE_PIECE = 1 << 14,
    TEXT_LEAST = 4,       /* bytes that can be called text */
    WIDE_LIMIT = 1 << 20, /* above every tokenizer's vocabulary */
    UTF16_LEAST = 64,     /* units from which on UTF-16 without a mark can be told */
    ALPHABET = 320 /* a tokenizer's first numbers are bytes and control tokens, whatever the text */
};

uint64_t data_little_endian(const uint8_t *p, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) value |= (uint64_t)p[i] << 8 * i;
    return value;
}

/* From `start` on; pieces begin at multiples of 8 after it. */
enum status data_sample_take(const struct data_source *source, uint64_t start,
                             struct data_sample *out, struct error *error) {
    uint64_t left = source->size - start;
    out->whole = left <= 2 * DATA_SAMPLE_HEAD;
    out->bytes = xmalloc(MIN(
        left, (uint64_t)(DATA_SAMPLE_HEAD + DATA_SAMPLE_PIECES * SAMPLE_PIECE) + DATA_SAMPLE_HEAD));
    size_t head = out->whole ? (size_t)left : DATA_SAMPLE_HEAD;
    TRY(source->read(source->context, start, out->bytes, head, error));
    out->pieces[out->piece_count++] = 0;
    out->size = head;
    for (unsigned i = 1; !out->whole && i <= DATA_SAMPLE_PIECES; i++) {
        uint64_t last = left - SAMPLE_PIECE,
                 at = DATA_SAMPLE_HEAD + (last - DATA_SAMPLE_HEAD) / DATA_SAMPLE_PIECES * i;
        at -= at % 8;
        TRY(source->read(source->context, start + at, out->bytes + out->size, SAMPLE_PIECE, error));
        out->pieces[out->piece_count++] = out->size;
        out->size += SAMPLE_PIECE;
    }
    out->pieces[out->piece_count] = out->size;
    return OK;
}

/* As file(1) has it: what no text in any ASCII-compatible encoding uses. Back space, escape and
 * line ends are text's. */
static bool is_control(uint8_t c) { return c < 7 || (c > 13 && c < 32 && c != 27) || c == 127; }

static void count_text(const uint8_t *bytes, size_t size, bool begins, bool ends,
                       struct text_facts *facts, size_t offset) {
    size_t at = 0;
    /* the rest of a character that was cut */
    while (!begins && at < size && at < 3 && (bytes[at] & 0xc0) == 0x80) at++;
    while (at < size) {
        size_t length = utf8_length(bytes + at, size - at);
        /* cut by the sample's end */
        if (length == 0 && !ends && size - at < 4 && bytes[at] >= 0xc0) break;
        if (length == 0) {
            if (facts->broken++ == 0) facts->first_broken = offset + at;
            length = 1;
        }
        at += length;
    }
    for (size_t i = 0; i < size; i++) facts->controls += is_control(bytes[i]);
    facts->bytes += size;
}

struct text_facts data_sample_text(const struct data_sample *sample) {
    struct text_facts facts = {0};
    for (size_t i = 0; i < sample->piece_count; i++)
        count_text(sample->bytes + sample->pieces[i], sample->pieces[i + 1] - sample->pieces[i],
                   i == 0, false, &facts, sample->pieces[i]);
    return facts;
}

uint32_t data_sample_token(const struct data_sample *sample, unsigned size, size_t index) {
    return (uint32_t)data_little_endian(sample->bytes + index * size, size);
}

struct token_facts data_sample_tokens(const struct data_sample *sample, unsigned size,
                                      uint32_t vocabulary) {
    struct token_facts facts = {.count = sample->size / size, .smallest = UINT32_MAX};
    uint8_t *seen = xcalloc(vocabulary, 1);
    for (size_t i = 0; i < facts.count; i++) {
        uint32_t token = data_sample_token(sample, size, i);
        facts.below_256 += token < 256;
        facts.smallest = MIN(facts.smallest, token);
        facts.largest = MAX(facts.largest, token);
        if (token < vocabulary && !seen[token]) {
            seen[token] = 1;
            facts.distinct++;
            facts.merged += token >= ALPHABET;
        }
    }
    free(seen);
    return facts;
}

/* Long texts have a stray byte here and there; a text in another encoding has many. */
bool text_is_mostly_utf8(const struct text_facts *facts) {
    return facts->broken * 1000 <= facts->bytes || (facts->broken == 1 && facts->bytes >= 100);
}

/* Any encoding that extends ASCII. 16-bit tokens have control characters in every tenth byte,
 * whatever their vocabulary; a few tokens by chance may not, hence UTF-8 where there is little to
 * go by. */
bool text_is_likely(const struct text_facts *facts) {
    if (facts->bytes < TEXT_LEAST || facts->controls * 100 >= facts->bytes) return false;
    return facts->broken == 0 || facts->bytes >= DATA_SAMPLE_JUDGED;
}

/* Read as numbers of `width` bytes, all lie below the vocabulary, though read as 16-bit tokens most
 * of them would be 0. Or below WIDE_LIMIT, where the vocabulary is another's: the upper halves are
 * then next to nothing, and the lower ones are not. *largest is the greatest number. */
bool data_sample_is_wider(const struct data_sample *sample, unsigned width, bool big,
                          uint32_t vocabulary, uint32_t *largest) {
    size_t count = sample->size / width;
    bool any = false, low = false;
    if (count < 32) return false;
    *largest = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0;
        const uint8_t *p = sample->bytes + i * width;
        for (unsigned b = 0; b < width; b++)
            value |= (uint64_t)p[b] << 8 * (big ? width - 1 - b : b);
        if (value >= MAX(vocabulary, (uint32_t)WIDE_LIMIT)) return false;
        any |= value != 0;
        low |= (value & 0xffff) >= 4096;
        *largest = MAX(*largest, (uint32_t)value);
    }
    return *largest < vocabulary ? any : low;
}

/* Bytes, or text of one: first and second bytes of the pairs have the same distribution, and not
 * that of noise. A token's two bytes have nothing in common. */
bool data_sample_is_of_bytes(const struct data_sample *sample) {
    uint64_t even[256] = {0}, odd[256] = {0}, apart = 0, squares = 0, pairs = sample->size / 2;
    if (pairs < 8192) return false;
    for (size_t i = 0; i < pairs; i++)
        even[sample->bytes[2 * i]]++, odd[sample->bytes[2 * i + 1]]++;
    for (unsigned i = 0; i < 256; i++) {
        apart += even[i] > odd[i] ? even[i] - odd[i] : odd[i] - even[i];
        squares += even[i] * even[i] / pairs;
    }
    bool noise =
        squares <
        pairs / 100; /* the chance that two bytes agree: 1/256 for noise, about 1/15 for text */
    return apart * 10 < pairs && !noise;
}

/* Tokens below 256 are frequent in every language and under every tokenizer; their swapped bytes
 * are not. */
bool data_sample_is_big_endian(const struct data_sample *sample, uint32_t vocabulary) {
    size_t count = sample->size / 2, small = 0, small_swapped = 0;
    bool beyond = false;
    for (size_t i = 0; i < count; i++) {
        uint32_t token = data_sample_token(sample, 2, i),
                 swapped = (token & 0xff) << 8 | token >> 8;
        if (swapped >= vocabulary) return false;
        beyond |= token >= vocabulary;
        small += token < 256;
        small_swapped += swapped < 256;
    }
    return count >= 32 &&
           (beyond || (count >= 4096 && small_swapped * 10 > count && small_swapped > 8 * small));
}

/* Scripts lie in blocks of 256; what belongs together is one block here. */
static unsigned block_of(uint32_t unit) {
    if (unit >= 0x3400 && unit < 0xa000) return 0x4e; /* ideographs */
    if (unit >= 0xac00 && unit < 0xd800) return 0xac; /* Hangul */
    if (unit >= 0xd800 && unit < 0xe000) return 0xd8; /* surrogates */
    return unit >> 8;
}

/* UTF-16 without a byte order mark: blanks or full stops, no control characters, and nearly all of
 * one or two scripts. Tokens lie in a hundred blocks, and the lowest numbers, which would be
 * control characters, are among the most frequent ones. */
bool data_sample_is_utf16(const struct data_sample *sample, bool big) {
    uint64_t blocks[256] = {0}, blanks = 0, strange = 0, common = 0, first = 0, second = 0;
    size_t count = sample->size / 2;
    uint32_t before = 0;
    if (count < UTF16_LEAST) return false;
    for (size_t i = 0; i < count; i++) {
        uint32_t unit = data_sample_token(sample, 2, i);
        if (big) unit = (unit & 0xff) << 8 | unit >> 8;
        if (before == '\r') strange += unit != '\n';
        strange += (unit < ' ' && unit != '\n' && unit != '\r' && unit != '\t') ||
                   (unit >= 0x7f && unit < 0xa0) || (unit >= 0xe000 && unit < 0xf900) ||
                   unit >= 0xfffe;
        blanks +=
            unit == ' ' || unit == '\n' || (unit >= 0x3000 && unit <= 0x3002) || unit == 0xff0c;
        blocks[block_of(unit)]++;
        before = unit;
    }
    /* Latin, punctuation, kana with CJK's punctuation, full-width forms */
    const unsigned shared[] = {0x00, 0x20, 0x30, 0xff};
    for (size_t i = 0; i < COUNT_OF(shared); i++) {
        common += blocks[shared[i]];
        blocks[shared[i]] = 0;
    }
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        second = MAX(second, MIN(first, blocks[i]));
        first = MAX(first, blocks[i]);
    }
    return strange * 200 <= count && blanks * 50 >= count &&
           (common + first + second) * 100 >= (uint64_t)count * 97;
}

/* Tokens as bytes. Those that are none count as control characters. */
struct text_facts data_sample_token_text(const struct data_sample *sample, unsigned size) {
    struct text_facts facts = {0};
    size_t count = sample->size / size;
    uint8_t *bytes = xmalloc(count + 1);
    for (size_t i = 0; i < count; i++) {
        uint32_t token = data_sample_token(sample, size, i);
        bytes[i] = token < 256 ? (uint8_t)token : 127;
    }
    count_text(bytes, count, false, false, &facts, 0); /* a shard may begin within a character */
    free(bytes);
    return facts;
}

/* Whether the numbers in use end where no text of this vocabulary would end. Byte-pair tokenizers
 * number by frequency: where a quarter of the numbers are in use, the next third is not left out by
 * the text's choice. The alphabet's use depends on the script and what the text is of, so that
 * alone it must be used nearly whole, as by tokenizers of letters. */
bool tokens_are_narrow(const struct token_facts *facts, uint32_t vocabulary) {
    if (facts->largest >= (uint64_t)vocabulary * 2 / 3) return false;
    if (facts->largest < ALPHABET)
        return facts->distinct >= 32 && facts->distinct * 10 >= facts->largest * UINT64_C(9);
    return facts->merged >= 64 && facts->merged * 4 > facts->largest - ALPHABET;
}
