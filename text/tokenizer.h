/* Text <-> tokens by a Hugging Face tokenizer.json: byte-level BPE as GPT-2, Llama 3 and Qwen write
 * it, and as model/export.h writes it for bytes.
 *
 * Understood: model BPE; pre-tokenizers ByteLevel, Split by a pattern of text/pattern.h (isolated),
 * Digits, and Sequences of them; normalizer none, NFC (text/nfc.h) or a Sequence of no others;
 * added tokens; the tokens that a TemplateProcessing or BERT's and RoBERTa's kind puts before the
 * text. Every other kind (Unigram, WordPiece, SentencePiece's byte fallback, ...) is refused by
 * name rather than tokenized differently from how the model learned: its models can still be given
 * tokens. Truncation, padding and dropout, which a file keeps of its last use, are passed over and
 * said. The file may come from a stranger. After opening only read: any thread. A struct decoder
 * has one owner.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/bytes.h"

enum { TOKENIZER_VOCABULARY_MAX = 1 << 20 }; /* also the largest of a model (model/config.h) */

enum { TOKENIZER_FILE_MAX = 64 << 20, TOKENIZER_PATTERNS_MAX = 16, TOKENIZER_PREFIX_MAX = 8 };

struct tokenizer;

/* DIRECTORY/tokenizer.json. NOT_FOUND; INVALID says what is wrong or which kind it is. */
MUST_USE enum status tokenizer_open(const char *directory, struct tokenizer **out,
                                    struct error *error);
MUST_USE enum status tokenizer_parse(struct bytes file, struct tokenizer **out,
                                     struct error *error);
void tokenizer_close(struct tokenizer *tokenizer); /* NULL is a no-op */

/* Appends the tokens as u32. `prefix`: with those the template puts before a text (beginning of
 * text). INVALID: no UTF-8, a byte without a token. */
MUST_USE enum status tokenizer_encode(const struct tokenizer *tokenizer, struct bytes text,
                                      bool prefix, struct buffer *tokens, struct error *error);
/* The same for what somebody wrote: the text of a control token, such as <|endoftext|>, is text
 * like any other. Without a prefix. */
MUST_USE enum status tokenizer_encode_document(const struct tokenizer *tokenizer, struct bytes text,
                                               struct buffer *tokens, struct error *error);
/* Appends the token's bytes, which need not be whole characters; nothing for a token that there is
 * not. */
void tokenizer_decode(const struct tokenizer *tokenizer, uint32_t token, struct buffer *text);

/* What is written as it comes, never a part of a character: bytes that are none become U+FFFD.
 * Start with {0}. */
struct utf8_stream {
    uint8_t held[4];
    size_t count;
};
/* Appends to *out all that is complete once these bytes are there. */
void utf8_stream_push(struct utf8_stream *stream, struct bytes bytes, struct buffer *out);
void utf8_stream_end(struct utf8_stream *stream, struct buffer *out);

#endif
