#include "model/export.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "model/safetensors.h"

static enum status write_text(const char *directory, const char *name, struct buffer *text, struct error *error) {
    char *path = file_join(directory, name);
    buffer_u8(text, '\n');
    enum status status = file_write(path, buffer_bytes(text), 0644, error);
    free(path);
    buffer_deinit(text);
    return status;
}

static void member_text(struct json_writer *writer, const char *key, const char *value) {
    json_key(writer, key);
    json_text(writer, value);
}

static void member_u64(struct json_writer *writer, const char *key, uint64_t value) {
    json_key(writer, key);
    json_u64(writer, value);
}

static void member_bool(struct json_writer *writer, const char *key, bool value) {
    json_key(writer, key);
    json_bool(writer, value);
}

static enum status write_config(const char *directory, const struct model_config *c, struct error *error) {
    struct buffer text = {0};
    struct json_writer w = json_writer_of(&text, true);
    json_begin_object(&w);
    json_key(&w, "architectures");
    json_begin_array(&w);
    json_text(&w, "LlamaForCausalLM");
    json_end_array(&w);
    member_text(&w, "model_type", "llama");
    member_u64(&w, "vocab_size", c->vocabulary);
    member_u64(&w, "hidden_size", c->hidden);
    member_u64(&w, "num_hidden_layers", c->layers);
    member_u64(&w, "num_attention_heads", c->heads);
    member_u64(&w, "num_key_value_heads", c->kv_heads);
    member_u64(&w, "head_dim", model_head_size(c));
    member_u64(&w, "intermediate_size", c->ffn);
    member_u64(&w, "max_position_embeddings", c->context);
    json_key(&w, "rope_theta");
    json_f64(&w, (double)c->rope_theta);
    json_key(&w, "rms_norm_eps");
    json_f64(&w, (double)c->norm_eps);
    member_bool(&w, "tie_word_embeddings", c->tied);
    member_text(&w, "hidden_act", "silu");
    member_bool(&w, "attention_bias", false);
    member_bool(&w, "mlp_bias", false);
    member_text(&w, "torch_dtype", "float32");
    json_key(&w, "bos_token_id");
    json_null(&w);
    json_key(&w, "eos_token_id");
    json_null(&w);
    json_end_object(&w);
    return write_text(directory, "config.json", &text, error);
}

/* The character that stands for a byte in byte-level BPE files (GPT-2's table): itself where printable, else from U+0100 on. */
static uint32_t byte_character(uint32_t byte) {
    uint32_t moved = 0;
    for (uint32_t b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte) return printable ? b : 256 + moved;
        if (!printable) moved++;
    }
    return 0;
}

static void write_vocabulary(struct json_writer *w) {
    json_begin_object(w);
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t c = byte_character(byte);
        char utf8[3] = {(char)c, 0, 0};
        if (c >= 0x80) {
            utf8[0] = (char)(0xc0 | c >> 6);
            utf8[1] = (char)(0x80 | (c & 0x3f));
        }
        member_u64(w, utf8, byte);
    }
    json_end_object(w);
}

static void write_byte_level(struct json_writer *w, const char *key) {
    json_key(w, key);
    json_begin_object(w);
    member_text(w, "type", "ByteLevel");
    member_bool(w, "add_prefix_space", false);
    member_bool(w, "trim_offsets", true);
    member_bool(w, "use_regex", false);
    json_end_object(w);
}

/* A byte-level BPE without merges: every byte is its own token, and its number. */
static enum status write_tokenizer(const char *directory, const struct model_config *c, struct error *error) {
    struct buffer text = {0};
    struct json_writer w = json_writer_of(&text, true);
    json_begin_object(&w);
    member_text(&w, "version", "1.0");
    json_key(&w, "added_tokens");
    json_begin_array(&w);
    json_end_array(&w);
    write_byte_level(&w, "pre_tokenizer");
    write_byte_level(&w, "decoder");
    json_key(&w, "model");
    json_begin_object(&w);
    member_text(&w, "type", "BPE");
    json_key(&w, "vocab");
    write_vocabulary(&w);
    json_key(&w, "merges");
    json_begin_array(&w);
    json_end_array(&w);
    json_end_object(&w);
    json_end_object(&w);
    TRY(write_text(directory, "tokenizer.json", &text, error));
    w = json_writer_of(&text, true);
    json_begin_object(&w);
    member_text(&w, "tokenizer_class", "PreTrainedTokenizerFast");
    member_u64(&w, "model_max_length", c->context);
    member_bool(&w, "clean_up_tokenization_spaces", false);
    json_end_object(&w);
    return write_text(directory, "tokenizer_config.json", &text, error);
}

static enum status write_generation(const char *directory, struct error *error) {
    struct buffer text = {0};
    struct json_writer w = json_writer_of(&text, true);
    json_begin_object(&w);
    member_bool(&w, "do_sample", true);
    json_end_object(&w);
    return write_text(directory, "generation_config.json", &text, error);
}

enum status export_model(const char *directory, const struct layout *layout, const float *parameters, int64_t version,
                         bool byte_tokenizer, struct error *error) {
    if (byte_tokenizer && layout->config.vocabulary < 256)
        return error_set(error, INVALID, "a vocabulary of %u has no byte tokenizer", layout->config.vocabulary);
    TRY(file_make_directory(directory, 0755, error));
    char *path = file_join(directory, "model.safetensors");
    enum status status = safetensors_write(path, layout, parameters, version, error);
    free(path);
    TRY(status);
    if (byte_tokenizer) TRY(write_tokenizer(directory, &layout->config, error));
    TRY(write_generation(directory, error));
    return write_config(directory, &layout->config, error);
}
