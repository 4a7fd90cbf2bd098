/* What a data file is, by its content: first the header and magic numbers, then what a sample
 * (data_sample.h) says, against what the run demands. */
#include "model/data_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "model/data_sample.h"

enum { LLMC_HEADER_SIZE = 1024, HEAD_SIZE = 4096, NARROW_LIMIT = 65536 };

const char *const data_format_names[] = {"auto", "bytes", "llmc", "u16", "u32", NULL};

/* llm.c's two layouts: GPT-2's shards and Llama 3's (dev/data/data_common.py there). */
static const struct layout_known {
    uint32_t magic, version;
    unsigned token_size;
} layouts[] = {{20240520, 1, 2}, {20240801, 7, 4}};

/* ---- other formats --------------------------------------------------------------------------- */

struct magic {
    const char *name;
    size_t at, size;
    const char *bytes;
    const char *advice;
};
#define UNPACK "unpack it first"
#define TABLE "`scripts/prepare-data` makes shards of it"
#define WRONG "it has no training data that this program can read"
static const struct magic magics[] = {
    {"gzip", 0, 3, "\x1f\x8b\x08", UNPACK},
    {"zstd", 0, 4, "\x28\xb5\x2f\xfd", UNPACK},
    {"xz", 0, 6, "\xfd\x37zXZ\0", UNPACK},
    {"bzip2", 4, 6, "1AY&SY", UNPACK},
    {"lz4", 0, 4, "\x04\x22\x4d\x18", UNPACK},
    {"lzip", 0, 5, "LZIP\1", UNPACK},
    {"snappy", 0, 10, "\xff\x06\0\0sNaPpY", UNPACK},
    {"7z", 0, 6, "7z\xbc\xaf\x27\x1c", UNPACK},
    {"rar", 0, 6, "Rar!\x1a\x07", UNPACK},
    {"zip", 0, 4, "PK\x03\x04", UNPACK},
    {"zip", 0, 4, "PK\x05\x06", UNPACK},
    {"tar", 257, 5, "ustar", UNPACK},
    {"Parquet", 0, 5, "PAR1\x15", TABLE},
    {"Arrow", 0, 8, "ARROW1\0\0", TABLE},
    {"Feather", 0, 4, "FEA1", TABLE},
    {"Avro", 0, 4, "Obj\1", WRONG},
    {"NumPy", 0, 6, "\x93NUMPY",
     "write its numbers alone, with `array.astype('<u2').tofile(path)`"},
    {"SQLite", 0, 16, "SQLite format 3\0", WRONG},
    {"LMDB", 16, 4, "\xde\xc0\xef\xbe", WRONG},
    {"HDF5", 0, 8, "\x89HDF\r\n\x1a\n", WRONG},
    {"ELF", 0, 4,
     "\x7f"
     "ELF",
     WRONG},
    {"PyTorch", 0, 6, "\x80\x02\x8a\x0a\x6c\xfc", WRONG},
    {"pickle", 0, 4, "\x80\x02}q", WRONG},
    {"pickle", 0, 4, "\x80\x02]q", WRONG},
    {"pickle", 0, 4, "\x80\x03}q", WRONG},
    {"pickle", 0, 4, "\x80\x03]q", WRONG},
    {"Megatron index", 0, 9, "MMIDIDX\0\0", "its tokens are in the .bin file beside it"},
    {"PNG", 0, 8, "\x89PNG\r\n\x1a\n", WRONG},
    {"JPEG", 0, 3, "\xff\xd8\xff", WRONG},
    {"PDF", 0, 5, "%PDF-", WRONG},
    {"Git LFS pointer", 0, 35, "version https://git-lfs.github.com/",
     "`git lfs pull` fetches the file itself"},
    {"UTF-32 text", 0, 4, "\xff\xfe\0\0", "convert it: iconv -f UTF-32 -t UTF-8"},
    {"UTF-32 text", 0, 4, "\0\0\xfe\xff", "convert it: iconv -f UTF-32 -t UTF-8"},
    {"UTF-16 text", 0, 2, "\xff\xfe", "convert it: iconv -f UTF-16 -t UTF-8"},
    {"UTF-16 text", 0, 2, "\xfe\xff", "convert it: iconv -f UTF-16 -t UTF-8"},
};

static const struct magic safetensors = {"safetensors", 0, 0, "",
                                         "it holds a model's parameters, not its data"},
                          pickle = {"pickle", 0, 0, "", WRONG}, gguf = {"GGUF", 0, 0, "", WRONG},
                          arrow = {"Arrow", 0, 0, "", TABLE};

/* Those that are told by a number besides a constant. */
static const struct magic *foreign_by_number(const uint8_t *head, size_t size, uint64_t total) {
    if (size < 16) return NULL;
    uint64_t length = data_little_endian(head, 8);
    if (head[8] == '{' && (head[9] == '"' || head[9] == ' ' || head[9] == '}') && length >= 2 &&
        length <= total - 8 && length < UINT64_C(1) << 27)
        return &safetensors;
    if (head[0] == 0x80 && (head[1] == 4 || head[1] == 5) && head[2] == 0x95 && total >= 11 &&
        data_little_endian(head + 3, 8) <= total - 11)
        return &pickle;
    if (memcmp(head, "GGUF", 4) == 0 && data_little_endian(head + 4, 4) < 256) return &gguf;
    uint64_t metadata = data_little_endian(head + 4, 4);
    if (memcmp(head, "\xff\xff\xff\xff", 4) == 0 && metadata > 0 && metadata % 8 == 0 &&
        metadata < total)
        return &arrow;
    return NULL;
}

static const struct magic *find_foreign(const uint8_t *head, size_t size, uint64_t total) {
    for (size_t i = 0; i < COUNT_OF(magics); i++)
        if (magics[i].at + magics[i].size <= size &&
            memcmp(head + magics[i].at, magics[i].bytes, magics[i].size) == 0)
            return &magics[i];
    return foreign_by_number(head, size, total);
}

/* ---- llm.c's header -------------------------------------------------------------------------- */

/* Relatives of llm.c write the same header with a date of their own as magic; size and count then
 * tell the width beyond doubt. */
static bool is_date(uint64_t magic) {
    uint64_t month = magic / 100 % 100, day = magic % 100;
    return magic >= 20200101 && magic <= 20991231 && month >= 1 && month <= 12 && day >= 1 &&
           day <= 31;
}

/* *shape from the header if there is one; *found says so. */
static enum status read_header(const struct data_source *source, const uint8_t *head,
                               struct data_shape *shape, bool *found, struct error *error) {
    *found = false;
    if (source->size < 12) return OK;
    uint64_t magic = data_little_endian(head, 4), version = data_little_endian(head + 4, 4),
             count = data_little_endian(head + 8, 4);
    const struct layout_known *known = NULL;
    for (size_t i = 0; i < COUNT_OF(layouts); i++)
        if (layouts[i].magic == magic) known = &layouts[i];
    unsigned token_size = 0;
    if (known) {
        if (version != known->version)
            return error_set(error, INVALID, "%s: version %llu of llm.c's layout; %u is supported",
                             source->name, (unsigned long long)version, known->version);
        token_size = known->token_size;
        uint64_t wanted = LLMC_HEADER_SIZE + token_size * count;
        if (source->size < LLMC_HEADER_SIZE || source->size != wanted)
            return error_set(error, INVALID,
                             "%s is %llu bytes; its header promises %llu tokens, which take %llu",
                             source->name, (unsigned long long)source->size,
                             (unsigned long long)count, (unsigned long long)wanted);
    } else if (is_date(magic) && count > 0) {
        for (unsigned size = 2; size <= 4; size += 2)
            if (source->size == LLMC_HEADER_SIZE + size * count) token_size = size;
    }
    if (!token_size) return OK;
    *found = true;
    *shape =
        (struct data_shape){.start = LLMC_HEADER_SIZE, .tokens = count, .token_size = token_size};
    return OK;
}

/* Ends a message about what only seems to be. */
#define INSIST "; to use it all the same, give --data-format bytes, llmc, u16 or u32"
const char data_format_insist[] = INSIST;

/* Not where it may as well be bytes of text as 16-bit tokens. */
static enum status refuse_utf16(const struct data_source *source, const struct data_sample *sample,
                                bool bytes, struct error *error) {
    if (source->size % 2 != 0) return OK;
    bool little = data_sample_is_utf16(sample, false),
         big = !little && data_sample_is_utf16(sample, true);
    if (!little && !big) return OK;
    struct token_facts units = data_sample_tokens(sample, 2, 256);
    struct text_facts text = data_sample_token_text(sample, 2);
    if (little && units.largest < 256 && (bytes || text_is_mostly_utf8(&text))) return OK;
    return error_set(error, INVALID,
                     "%s seems to be UTF-16 text without a byte order mark: convert it, as with "
                     "`iconv -f UTF-16%s -t UTF-8`" INSIST,
                     source->name, little ? "LE" : "BE");
}

/* The tokens of a file whose width is known, against a tokenizer's vocabulary. */
static enum status judge_tokens(const struct data_source *source, const struct data_demand *demand,
                                const struct data_sample *sample, unsigned size,
                                struct error *error) {
    struct token_facts facts = data_sample_tokens(sample, size, demand->vocabulary);
    if (facts.count >= 64 && facts.smallest == facts.largest)
        return error_set(error, INVALID, "%s has no token except %u: it was never filled" INSIST,
                         source->name, facts.largest);
    /* nobody says that there is a tokenizer */
    if (demand->tokens != DATA_TOKENS_EXTERNAL) return OK;
    if (size == 2 && demand->vocabulary > NARROW_LIMIT)
        return error_set(error, INVALID,
                         "%s has 16-bit tokens, and a vocabulary of %u needs 32 bits: it was made "
                         "with another tokenizer" INSIST,
                         source->name, demand->vocabulary);
    if (demand->vouched || demand->vocabulary < 512 || facts.largest >= demand->vocabulary)
        return OK;
    struct text_facts text = data_sample_token_text(sample, size);
    if (facts.count >= DATA_SAMPLE_JUDGED && facts.largest < 256 && text_is_likely(&text) &&
        text_is_mostly_utf8(&text))
        return error_set(error, INVALID,
                         "the tokens of %s are bytes of text, and this model's are a tokenizer's "
                         "(vocabulary %u): make shards with "
                         "`scripts/prepare-data --tokenizer`" INSIST,
                         source->name, demand->vocabulary);
    if (facts.count >= 20000 && tokens_are_narrow(&facts, demand->vocabulary))
        return error_set(error, INVALID,
                         "%s uses %llu tokens, all below %u, of a vocabulary of %u: it was made "
                         "with another tokenizer" INSIST,
                         source->name, (unsigned long long)facts.distinct, facts.largest + 1,
                         demand->vocabulary);
    return OK;
}

/* ---- the three demands ----------------------------------------------------------------------- */

static enum status refuse_text(const struct data_source *source, const struct data_demand *demand,
                               struct error *error) {
    return error_set(
        error, INVALID,
        "%s is text, and this model's tokens are a tokenizer's (vocabulary %u): make shards with "
        "`scripts/prepare-data --tokenizer`" INSIST,
        source->name, demand->vocabulary);
}

/* Headerless tokens of a tokenizer. */
static enum status detect_tokens(const struct data_source *source, const struct data_demand *demand,
                                 const struct data_sample *sample, struct data_shape *out,
                                 struct error *error) {
    struct text_facts text = data_sample_text(sample);
    if (text_is_likely(&text)) return refuse_text(source, demand, error);
    uint32_t largest;
    bool eight = data_sample_is_wider(sample, 8, false, demand->vocabulary, &largest);
    bool four = !eight && data_sample_is_wider(sample, 4, false, demand->vocabulary, &largest);
    if ((eight || four) && largest >= demand->vocabulary)
        return error_set(error, INVALID,
                         "%s seems to hold %d-bit tokens of a tokenizer with more than %u, and "
                         "this run's vocabulary is %u: make "
                         "shards with the run's own tokenizer.json" INSIST,
                         source->name, eight ? 64 : 32, largest, demand->vocabulary);
    if (eight)
        return error_set(error, INVALID,
                         "%s seems to hold 64-bit tokens, and without a header 16 bits are "
                         "expected: write 16 or 32 bits" INSIST,
                         source->name);
    if (four)
        return error_set(error, INVALID,
                         "%s seems to hold 32-bit tokens, and without a header 16 bits are "
                         "expected: --data-format u32 reads it",
                         source->name);
    if (data_sample_is_wider(sample, 4, true, demand->vocabulary, &largest) ||
        data_sample_is_big_endian(sample, demand->vocabulary))
        return error_set(error, INVALID,
                         "%s seems to hold big-endian tokens: write them little-endian" INSIST,
                         source->name);
    if (source->size % 2 != 0)
        return error_set(error, INVALID, "%s is %llu bytes, an odd number, for 16-bit tokens",
                         source->name, (unsigned long long)source->size);
    if (data_sample_is_of_bytes(sample))
        return error_set(error, INVALID, "%s seems to hold single bytes, not 16-bit tokens" INSIST,
                         source->name);
    *out = (struct data_shape){
        .tokens = source->size / 2, .token_size = 2, .limit = demand->vocabulary};
    return judge_tokens(source, demand, sample, 2, error);
}

static bool is_text(const struct data_sample *sample) {
    struct text_facts text = data_sample_text(sample);
    return text_is_likely(&text) && text_is_mostly_utf8(&text);
}

static const char *advice_of(const struct data_sample *sample, const struct text_facts *facts,
                             uint32_t vocabulary) {
    size_t end = 0, at = utf8_mark(sample->bytes, sample->size);
    while (at < sample->size && (sample->bytes[at] == ' ' || sample->bytes[at] == '\n')) at++;
    for (end = at; end < sample->size && sample->bytes[end] != '\n';) end++;
    while (end > at && (sample->bytes[end - 1] == '\r' || sample->bytes[end - 1] == ' ')) end--;
    if (end > at + 4 && sample->bytes[at] == '{' && sample->bytes[end - 1] == '}' &&
        memchr(sample->bytes + at, ':', end - at))
        return "it looks like JSON lines and is trained on as it is: scripts/prepare-data takes "
               "the text out of them";
    if (facts->broken) return "some of its bytes are not UTF-8";
    return vocabulary > 256
               ? "its bytes are trained on as tokens, and the vocabulary has more than bytes need"
               : NULL;
}

/* A shard in a run of bytes: its tokens are to be bytes, and of text. */
static enum status judge_byte_shard(const struct data_source *source,
                                    const struct data_sample *sample, unsigned size,
                                    struct error *error) {
    struct token_facts facts = data_sample_tokens(sample, size, 256);
    if (facts.largest >= 256)
        return error_set(error, INVALID,
                         "%s: token %u is not a byte, and this run's tokens are bytes: its "
                         "tokenizer is another" INSIST,
                         source->name, facts.largest);
    struct text_facts text = data_sample_token_text(sample, size);
    if (text.bytes >= DATA_SAMPLE_JUDGED && text.controls * 20 > text.bytes)
        return error_set(error, INVALID,
                         "%s: %llu of %llu tokens are control characters, and this run's tokens "
                         "are bytes of text: its tokenizer is "
                         "another" INSIST,
                         source->name, (unsigned long long)text.controls,
                         (unsigned long long)text.bytes);
    if (text.bytes >= DATA_SAMPLE_JUDGED && !text_is_mostly_utf8(&text))
        return error_set(error, INVALID,
                         "%s: its tokens are bytes that are not UTF-8 in %llu of %llu places, and "
                         "this run's tokens are bytes of "
                         "text: its tokenizer is another" INSIST,
                         source->name, (unsigned long long)text.broken,
                         (unsigned long long)text.bytes);
    return OK;
}

static enum status refuse_neither(const struct data_source *source, const struct text_facts *text,
                                  uint32_t limit, uint32_t largest, struct error *error) {
    char why[64];
    if (source->size % 2 != 0)
        snprintf(why, sizeof why, "%llu bytes, an odd number", (unsigned long long)source->size);
    else
        snprintf(why, sizeof why, "there is a %u", largest);
    return error_set(error, INVALID,
                     "%s is neither text (%llu of %llu bytes are control characters) nor 16-bit "
                     "tokens below %u (%s)" INSIST,
                     source->name, (unsigned long long)text->controls,
                     (unsigned long long)text->bytes, limit, why);
}

/* Bytes, in themselves or as 16-bit tokens below `limit`. */
static enum status detect_bytes(const struct data_source *source, const struct data_demand *demand,
                                uint32_t limit, const struct data_sample *sample,
                                struct data_shape *out, struct error *error) {
    struct text_facts text = data_sample_text(sample);
    bool clean = text.controls * 20 <= text.bytes, utf8 = text_is_mostly_utf8(&text);
    struct token_facts pairs = data_sample_tokens(sample, 2, 256);
    if (sample->size >= 2 && source->size % 2 == 0 && pairs.largest < limit && !(clean && utf8)) {
        *out = (struct data_shape){.tokens = source->size / 2, .token_size = 2, .limit = limit};
        return demand->tokens == DATA_TOKENS_BYTE ? judge_byte_shard(source, sample, 2, error) : OK;
    }
    if (!clean) return refuse_neither(source, &text, limit, pairs.largest, error);
    if (!utf8)
        return error_set(error, INVALID,
                         "%s is not UTF-8 in %llu places of %llu bytes%s: convert it, as with "
                         "`iconv -f LATIN1 -t UTF-8`" INSIST,
                         source->name, (unsigned long long)text.broken,
                         (unsigned long long)text.bytes,
                         text.first_broken < DATA_SAMPLE_HEAD ? "" : ", late in the file");
    *out = (struct data_shape){.tokens = source->size,
                               .token_size = 1,
                               .limit = limit,
                               .advice = advice_of(sample, &text, limit)};
    return OK;
}

static enum status detect(const struct data_source *source, const struct data_demand *demand,
                          const uint8_t *head, struct data_sample *sample, struct data_shape *out,
                          struct error *error) {
    bool header, bytes = demand->tokens == DATA_TOKENS_BYTE ||
                         (demand->tokens == DATA_TOKENS_ANY && demand->vocabulary <= 256);
    uint32_t limit =
        demand->tokens == DATA_TOKENS_BYTE ? MIN(demand->vocabulary, 256u) : demand->vocabulary;
    TRY(read_header(source, head, out, &header, error));
    out->limit = limit;
    if (header) {
        if (out->tokens == 0) return OK;
        TRY(data_sample_take(source, out->start, sample, error));
        if (demand->tokens == DATA_TOKENS_BYTE)
            return judge_byte_shard(source, sample, out->token_size, error);
        return judge_tokens(source, demand, sample, out->token_size, error);
    }
    const struct magic *foreign =
        find_foreign(head, MIN(source->size, (uint64_t)HEAD_SIZE), source->size);
    if (foreign)
        return error_set(error, INVALID, "%s is %s, not %s: %s" INSIST, source->name, foreign->name,
                         bytes ? "plain text" : "a shard of tokens", foreign->advice);
    TRY(data_sample_take(source, 0, sample, error));
    uint8_t only = sample->bytes[0];
    if (sample->size >= 128 && (only == 0 || only == 0xff) &&
        memcmp(sample->bytes, sample->bytes + 1, sample->size - 1) == 0)
        return error_set(error, INVALID,
                         "%s has no bytes except 0x%02x: it was never filled" INSIST, source->name,
                         only);
    if (demand->tokens ==
        DATA_TOKENS_ANY) /* any model may be trained on bytes, unless it has a tokenizer */
        bytes = bytes || is_text(sample);
    TRY(refuse_utf16(source, sample, bytes, error));
    return bytes ? detect_bytes(source, demand, limit, sample, out, error)
                 : detect_tokens(source, demand, sample, out, error);
}

/* ---- a format that was insisted on ----------------------------------------------------------- */

static enum status insisted(const struct data_source *source, const struct data_demand *demand,
                            const uint8_t *head, struct data_shape *out, struct error *error) {
    static const unsigned widths[] = {[DATA_BYTES] = 1, [DATA_U16] = 2, [DATA_U32] = 4};
    bool header = false;
    struct data_shape shape = {0};
    if (demand->format != DATA_BYTES) TRY(read_header(source, head, &shape, &header, error));
    if (demand->format == DATA_LLMC && !header)
        return error_set(error, INVALID,
                         "%s has no header of llm.c's layout, which --data-format llmc asks for",
                         source->name);
    if (demand->format != DATA_LLMC) {
        if (header)
            return error_set(error, INVALID,
                             "%s begins with a header of llm.c's layout, which --data-format %s "
                             "denies: llmc reads it",
                             source->name, data_format_names[demand->format]);
        unsigned width = widths[demand->format];
        if (source->size % width != 0)
            return error_set(error, INVALID,
                             "%s is %llu bytes, not a multiple of %u, for %u-bit tokens",
                             source->name, (unsigned long long)source->size, width, 8 * width);
        shape = (struct data_shape){
            .tokens = source->size / width, .token_size = width, .bytes = width == 1};
    }
    shape.limit = demand->vocabulary;
    *out = shape;
    return OK;
}

enum status data_format_detect(const struct data_source *source, const struct data_demand *demand,
                               struct data_shape *out, struct error *error) {
    uint8_t head[HEAD_SIZE] = {0};
    struct data_shape shape = {0};
    TRY(source->read(source->context, 0, head, (size_t)MIN(source->size, (uint64_t)sizeof head),
                     error));
    if (demand->format != DATA_AUTO) return insisted(source, demand, head, out, error);
    struct data_sample sample = {0};
    enum status status = detect(source, demand, head, &sample, &shape, error);
    if (status == OK) {
        struct text_facts text = {0};
        if (shape.token_size > 1 && sample.size)
            text = data_sample_token_text(&sample, shape.token_size);
        shape.bytes = shape.token_size == 1 || (text.bytes && text.controls * 20 <= text.bytes);
        *out = shape;
    }
    free(sample.bytes);
    return status;
}
