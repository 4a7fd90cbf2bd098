/* An initial checkpoint's config.json and tokenizer against the run's manifest. */
#include "run/run_checkpoint.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "crypto/digest.h"
#include "fed/manifest.h"
#include "model/beside.h"
#include "run/run_model.h"

/* A line for each difference: what config.json calls it, and what the manifest does. */
static void compare_configs(const struct model_config *checkpoint,
                            const struct model_config *manifest, struct buffer *out) {
    const struct {
        const char *name, *key;
        double there, here;
    } parts[] = {
        {"vocab_size", "vocabulary", checkpoint->vocabulary, manifest->vocabulary},
        {"hidden_size", "hidden", checkpoint->hidden, manifest->hidden},
        {"num_hidden_layers", "layers", checkpoint->layers, manifest->layers},
        {"num_attention_heads", "heads", checkpoint->heads, manifest->heads},
        {"num_key_value_heads", "kv_heads", checkpoint->kv_heads, manifest->kv_heads},
        {"intermediate_size", "ffn", checkpoint->ffn, manifest->ffn},
        {"max_position_embeddings", "context", checkpoint->context, manifest->context},
        {"rope_theta", "rope_theta", (double)checkpoint->rope_theta, (double)manifest->rope_theta},
        {"rms_norm_eps", "norm_epsilon", (double)checkpoint->norm_eps, (double)manifest->norm_eps},
    };
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (parts[i].there != parts[i].here)
            buffer_append_text(out, "%s%s is %.7g, the manifest's model.%s is %.7g",
                               out->size ? "; " : "", parts[i].name, parts[i].there, parts[i].key,
                               parts[i].here);
    if (checkpoint->tied != manifest->tied)
        buffer_append_text(out, "%stie_word_embeddings is %s, the manifest's model.tied is %s",
                           out->size ? "; " : "", checkpoint->tied ? "true" : "false",
                           manifest->tied ? "true" : "false");
}

static enum status check_config(const struct manifest *manifest, const char *checkpoint,
                                struct error *error) {
    struct model_config there, here = run_model_config(manifest);
    struct buffer differences = {0};
    enum status status = beside_config(checkpoint, &there, error);
    char *path = beside_path(checkpoint, "config.json");
    if (status == NOT_FOUND) {
        log_warn("checkpoint_unchecked",
                 "file=\"%s\" message=\"there is no config.json beside it: whether rope_theta, "
                 "epsilon and "
                 "heads agree with the manifest is not known\"",
                 checkpoint);
        status = OK;
    } else if (status == OK) {
        compare_configs(&there, &here, &differences);
        if (differences.size)
            status = error_set(error, INVALID, "%s does not agree with the manifest: %.*s", path,
                               (int)differences.size, (const char *)differences.data);
    }
    buffer_deinit(&differences);
    free(path);
    return status;
}

/* The tokenizer that came with the checkpoint is the one that the run pins. */
static enum status check_digest(const struct manifest *manifest, const char *checkpoint,
                                struct error *error) {
    static const uint8_t none[DIGEST_SIZE];
    if (digest_equal(manifest->tokenizer_digest, none)) return OK;
    struct buffer file = {0};
    char *path = beside_path(checkpoint, "tokenizer.json"), there[HEX32_SIZE], here[HEX32_SIZE];
    uint8_t digest[DIGEST_SIZE];
    enum status status = file_read(path, BESIDE_SIZE_MAX, &file, error);
    if (status == OK) {
        digest_sha256(file.data, file.size, digest);
        if (!digest_equal(digest, manifest->tokenizer_digest))
            status = error_set(error, INVALID,
                               "%s has the SHA-256 %s, and the manifest's tokenizer_digest is %s",
                               path, hex_encode(digest, DIGEST_SIZE, there),
                               hex_encode(manifest->tokenizer_digest, DIGEST_SIZE, here));
    }
    buffer_deinit(&file);
    free(path);
    return status == NOT_FOUND ? OK : status;
}

static enum status check_tokenizer(const struct manifest *manifest, const char *checkpoint,
                                   struct error *error) {
    if (manifest->tokenizer != TOKENIZER_BYTE || beside_tokens(checkpoint) != DATA_TOKENS_EXTERNAL)
        return OK;
    return error_set(error, INVALID,
                     "the checkpoint %s has a tokenizer of its own, and the manifest's `tokenizer: "
                     "byte` trains on bytes: write "
                     "`tokenizer: external`",
                     checkpoint);
}

enum status run_checkpoint_check_tokenizer(const struct manifest *manifest, const char *checkpoint,
                                           struct error *error) {
    return check_digest(manifest, checkpoint, error);
}

enum status run_checkpoint_check(const struct manifest *manifest, const char *checkpoint,
                                 struct error *error) {
    TRY(check_config(manifest, checkpoint, error));
    TRY(check_digest(manifest, checkpoint, error));
    return check_tokenizer(manifest, checkpoint, error);
}
