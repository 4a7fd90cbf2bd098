/* Every key of the manifest with type, bounds, default and help (fed/manifest_table.h). To change
 * a run's default, change its line here and write docs/manifest.example.yaml anew. */
#include "fed/manifest_table.h"

#include <stddef.h>

#include "base/memory.h"

#define AT(field) offsetof(struct manifest, field)
#define YEAR_MS (UINT64_C(365) * 24 * 3600 * 1000)
#define COUNT_LIMIT (UINT64_C(1) << 60) /* of tokens: leaves room to add */

/* clang-format off */
const struct setting manifest_settings[] = {
    {"name", SETTING_NAME, AT(name), NULL, .help = "The run's name, for people, logs and metrics."},

    {"model.vocabulary", SETTING_U32, AT(model.vocabulary), "256", .min = 2, .max = 1048576, .help = "Number of tokens; the byte tokenizer needs 256."},
    {"model.hidden", SETTING_U32, AT(model.hidden), "128", .min = 2, .max = 65536, .help = "Width of the residual stream; a multiple of heads, with an even width per head."},
    {"model.layers", SETTING_U32, AT(model.layers), "4", .min = 1, .max = 1024, .help = "Transformer blocks."},
    {"model.heads", SETTING_U32, AT(model.heads), "4", .min = 1, .max = 32768, .help = "Query heads."},
    {"model.kv_heads", SETTING_U32, AT(model.kv_heads), "2", .min = 1, .max = 32768, .help = "Key and value heads; divides heads (grouped-query attention)."},
    {"model.ffn", SETTING_U32, AT(model.ffn), "384", .min = 1, .max = 1u << 20, .help = "Inner width of the SwiGLU feed-forward."},
    {"model.context", SETTING_U32, AT(model.context), "128", .min = 1, .max = 1u << 20, .help = "Tokens in the longest sequence."},
    {"model.rope_theta", SETTING_F64, AT(model.rope_theta), "10000", .low = 1, .high = 1e9, .help = "Base of the rotary positions."},
    {"model.norm_epsilon", SETTING_F64, AT(model.norm_epsilon), "1e-05", .low = 1e-12, .high = 1e-2, .help = "Added under RMSNorm's root."},
    {"model.tied", SETTING_BOOL, AT(model.tied), "true", .help = "The head shares the embedding's weights."},

    {"initial.seed", SETTING_U64, AT(initial.seed), "1", .max = UINT64_MAX, .help = "The first parameters are drawn from it, the same on every machine."},
    {"initial.checkpoint_digest", SETTING_DIGEST, AT(initial.checkpoint_digest), "none", .help = "SHA-256 of the safetensors file to start from instead."},

    {"tokenizer", SETTING_CHOICE, AT(tokenizer), "byte", .choices = {"byte", "external"}, .help = "byte: plain text, a token is a byte. external: shards that were tokenised beforehand."},
    {"tokenizer_digest", SETTING_DIGEST, AT(tokenizer_digest), "none", .help = "SHA-256 of the tokenizer.json that all shards must be made with; sites check it in the index of scripts/prepare-data."},

    {"inner.learning_rate", SETTING_F64, AT(inner.learning_rate), "0.001", .low = 1e-12, .high = 10, .help = "AdamW's peak."},
    {"inner.beta1", SETTING_F64, AT(inner.beta1), "0.9", .low = 0, .high = 0.99999, .help = "AdamW."},
    {"inner.beta2", SETTING_F64, AT(inner.beta2), "0.95", .low = 0, .high = 0.99999, .help = "AdamW."},
    {"inner.epsilon", SETTING_F64, AT(inner.epsilon), "1e-08", .low = 1e-16, .high = 1, .help = "AdamW."},
    {"inner.weight_decay", SETTING_F64, AT(inner.weight_decay), "0.1", .low = 0, .high = 10, .help = "AdamW, decoupled."},
    {"inner.clip_norm", SETTING_F64, AT(inner.clip_norm), "1", .low = 0, .high = 1e6, .help = "Gradients longer than this are scaled down to it; 0: off."},
    {"inner.schedule", SETTING_CHOICE, AT(inner.schedule), "constant", .choices = {"constant", "linear", "cosine"}, .help = "How the rate falls, by tokens of the whole run."},
    {"inner.warmup_tokens", SETTING_U64, AT(inner.warmup_tokens), "0", .max = COUNT_LIMIT, .help = "The rate rises from 0 over this many tokens."},
    {"inner.decay_tokens", SETTING_U64, AT(inner.decay_tokens), "0", .max = COUNT_LIMIT, .help = "The decay ends here; 0: at token_budget."},
    {"inner.floor", SETTING_F64, AT(inner.floor), "0.1", .low = 0, .high = 1, .help = "What the decay ends at, as a fraction of learning_rate."},
    {"inner.inner_steps", SETTING_U32, AT(inner.inner_steps), "30", .min = 1, .max = 1000000, .help = "H: inner steps per round at the fastest site."},
    {"inner.dylu", SETTING_BOOL, AT(inner.dylu), "true", .help = "Slower sites do fewer inner steps, H * speed / fastest, at least H / 8, so that rounds take equally long."},

    {"outer.mode", SETTING_CHOICE, AT(outer.mode), "sparse", .choices = {"dense", "sparse"}, .help = "dense: delayed Nesterov over int8, fp4, bf16 or fp32. sparse: SGD over topk2 with error feedback. No mixture of them."},
    {"outer.learning_rate", SETTING_F64, AT(outer.learning_rate), "1", "0.7", .low = 1e-6, .high = 10, .help = "sparse: weight of a step, about 1 at 4 sites and 0.7 at 8. dense: 0.7."},
    {"outer.momentum", SETTING_F64, AT(outer.momentum), "0", "0.9", .low = 0, .high = 0.9999, .help = "dense: 0.9. sparse: 0, because error feedback already acts as momentum."},
    {"outer.period", SETTING_U32, AT(outer.period), "1", "", .min = 1, .max = SITES_LIMIT, .help = "dense: contributions between two moves of the momentum, once or twice the number of sites; must be given. sparse: 1."},

    {"codec.kind", SETTING_CODEC, AT(codec.kind), "topk2-64", "int8", .help = "topk2-64 sends 1.56 % of the values in 0.15 bit per parameter, topk2-128 twice that."},
    {"codec.decay", SETTING_F64, AT(codec.decay), "0.95", "0", .low = 0, .high = 1, .help = "Of the error feedback: 0.95 in sparse mode, 0 (there is none) in dense mode."},

    {"fragments", SETTING_U32, AT(fragments), "1", .min = 1, .max = FRAGMENTS_LIMIT, .help = "Pieces of the parameters that are exchanged one by one."},

    {"merge.quorum", SETTING_U32, AT(merge.quorum), "1", .min = 1, .max = 256, .help = "An outer step starts once this many contributions wait ..."},
    {"merge.grace", SETTING_DURATION, AT(merge.grace_ms), "10s", .max = 30 * YEAR_MS / 365, .may_be_forever = true, .help = "... or this long after the first of them came."},
    {"merge.staleness_cap", SETTING_U32, AT(merge.staleness_cap), "16", .max = STALENESS_LIMIT, .help = "Outer steps that a contribution may have missed; twice the number of sites."},
    {"merge.warmup_steps", SETTING_U32, AT(merge.warmup_steps), "4", .max = 1000000, .help = "The first outer steps wait for every connected site ..."},
    {"merge.warmup_grace", SETTING_DURATION, AT(merge.warmup_grace_ms), "1m", .max = 30 * YEAR_MS / 365, .may_be_forever = true, .help = "... but no longer than this."},
    {"merge.staleness_weight", SETTING_CHOICE, AT(merge.staleness_weight), "none", .choices = {"none", "polynomial"}, .help = "polynomial: a contribution counts (1 + staleness)^-exponent. It does harm in dense mode."},
    {"merge.staleness_exponent", SETTING_F64, AT(merge.staleness_exponent), "0.5", .low = 0.5, .high = 1, .help = "0.5 or 1: both are exact on every machine."},

    {"admission.clip_factor", SETTING_F64, AT(admission.clip_factor), "3", .low = 0, .high = 1000, .help = "Contributions longer than this times the running median norm are scaled down to it; 0: off."},
    {"admission.clip_window", SETTING_U32, AT(admission.clip_window), "64", .min = 1, .max = 4096, .help = "Contributions that the median is taken over."},
    {"admission.clip_minimum", SETTING_U32, AT(admission.clip_minimum), "16", .min = 1, .max = 4096, .help = "Nothing is clipped before this many came; at most clip_window."},
    {"admission.expiry", SETTING_DURATION, AT(admission.expiry_ms), "1d", .max = YEAR_MS, .help = "A contribution is refused this long after it was signed; 0: never."},

    {"token_budget", SETTING_U64, AT(token_budget), "0", .max = COUNT_LIMIT, .help = "The run takes no more contributions after this many tokens; 0: it has no end."},
    {"root_interval", SETTING_U32, AT(root_interval), "1", .min = 1, .max = 1000000, .help = "Every n-th outer step records the digest of the parameters."},
    {"snapshot_interval", SETTING_U32, AT(snapshot_interval), "64", .min = 1, .max = 1000000, .help = "Outer steps between two snapshots."},
};
/* clang-format on */

const size_t manifest_setting_count = COUNT_OF(manifest_settings);
