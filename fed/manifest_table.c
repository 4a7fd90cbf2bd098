/* Every key of the manifest with kind, default, bounds and help (fed/manifest_table.h). To change
 * a run's default, change its line here and write docs/manifest.example.yaml anew. */
#include "fed/manifest_table.h"

#include <string.h>

#include "base/memory.h"
#include "codec/codec.h"
#include "fed/weight.h"

#define AT(field) SETTING_FIELD(struct manifest, field)
#define TOKENS_LIMIT "1152921504606846976" /* 2^60: leaves room to add */

static const char *const tokenizers[] = {"byte", "external", NULL};
static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const modes[] = {"dense", "sparse", NULL};
static const char *const staleness_weights[] = {"none", "polynomial", NULL};
static const char *const weight_policies[] = {"equal", "tokens", "shares", NULL};

const struct setting manifest_settings[] = {
    {"name", SETTING_CHARS, AT(name), NULL, .check = name_check,
     .form = "1-32 characters from a-z, 0-9 and '-', starting with a letter",
     .help = "The run's name, for people, logs and metrics."},

    {"model.vocabulary", SETTING_COUNT, AT(model.vocabulary), "256", "2", "1048576",
     .help = "Number of tokens; the byte tokenizer needs 256."},
    {"model.hidden", SETTING_COUNT, AT(model.hidden), "128", "2", "65536",
     .help = "Width of the residual stream; a multiple of heads, with an even width per head."},
    {"model.layers", SETTING_COUNT, AT(model.layers), "4", "1", "1024",
     .help = "Transformer blocks."},
    {"model.heads", SETTING_COUNT, AT(model.heads), "4", "1", "32768", .help = "Query heads."},
    {"model.kv_heads", SETTING_COUNT, AT(model.kv_heads), "2", "1", "32768",
     .help = "Key and value heads; divides heads (grouped-query attention)."},
    {"model.ffn", SETTING_COUNT, AT(model.ffn), "384", "1", "1048576",
     .help = "Inner width of the SwiGLU feed-forward."},
    {"model.context", SETTING_COUNT, AT(model.context), "128", "1", "1048576",
     .help = "Tokens in the longest sequence."},
    {"model.rope_theta", SETTING_NUMBER, AT(model.rope_theta), "10000", "1", "1e9",
     .help = "Base of the rotary positions."},
    {"model.norm_epsilon", SETTING_NUMBER, AT(model.norm_epsilon), "1e-05", "1e-12", "1e-2",
     .help = "Added under RMSNorm's root."},
    {"model.tied", SETTING_BOOL, AT(model.tied), "true",
     .help = "The head shares the embedding's weights."},

    {"initial.seed", SETTING_COUNT, AT(initial.seed), "1", "0", "18446744073709551615",
     .help = "The first parameters are drawn from it, the same on every machine."},
    {"initial.root", SETTING_HEX, AT(initial.root), "none",
     .help = "State root of the checkpoint to start from instead. `atollctl run create --from` "
             "writes it; given here, the checkpoint must be that one, however it is cut into "
             "files."},

    {"layout", SETTING_HEX, AT(layout), "none",
     .help = "SHA-256 of the list of the parameters' tensors, which `run create --from` and "
             "`--layout` write; none: the built-in trainer's, by the model's sizes above, which "
             "mean nothing otherwise unless they are those of config.json."},
    {"base", SETTING_HEX, AT(base), "none",
     .help = "Digest of the frozen model that an adapter (LoRA) is trained for; `run create "
             "--base` writes it."},

    {"tokenizer", SETTING_CHOICE, AT(tokenizer), "byte", .choices = tokenizers,
     .help =
         "byte: plain text, a token is a byte. external: shards that were tokenised beforehand."},
    {"tokenizer_digest", SETTING_HEX, AT(tokenizer_digest), "none",
     .help = "SHA-256 of the tokenizer.json that all shards must be made with; sites check it in "
             "the index of scripts/prepare-data."},

    {"inner.learning_rate", SETTING_NUMBER, AT(inner.learning_rate), "0.001", "1e-12", "10",
     .help = "AdamW's peak."},
    {"inner.beta1", SETTING_NUMBER, AT(inner.beta1), "0.9", "0", "0.99999", .help = "AdamW."},
    {"inner.beta2", SETTING_NUMBER, AT(inner.beta2), "0.95", "0", "0.99999", .help = "AdamW."},
    {"inner.epsilon", SETTING_NUMBER, AT(inner.epsilon), "1e-08", "1e-16", "1", .help = "AdamW."},
    {"inner.weight_decay", SETTING_NUMBER, AT(inner.weight_decay), "0.1", "0", "10",
     .help = "AdamW, decoupled."},
    {"inner.clip_norm", SETTING_NUMBER, AT(inner.clip_norm), "1", "0", "1e6",
     .help = "Gradients longer than this are scaled down to it; 0: off."},
    {"inner.schedule", SETTING_CHOICE, AT(inner.schedule), "constant", .choices = schedules,
     .help = "How the rate falls, by tokens of the whole run."},
    {"inner.warmup_tokens", SETTING_COUNT, AT(inner.warmup_tokens), "0", "0", TOKENS_LIMIT,
     .help = "The rate rises from 0 over this many tokens."},
    {"inner.decay_tokens", SETTING_COUNT, AT(inner.decay_tokens), "0", "0", TOKENS_LIMIT,
     .help = "The decay ends here; 0: at token_budget."},
    {"inner.floor", SETTING_NUMBER, AT(inner.floor), "0.1", "0", "1",
     .help = "What the decay ends at, as a fraction of learning_rate."},
    {"inner.inner_steps", SETTING_COUNT, AT(inner.inner_steps), "30", "1", "1000000",
     .help = "H: inner steps per round at the fastest site."},
    {"inner.dylu", SETTING_BOOL, AT(inner.dylu), "true",
     .help = "Slower sites do fewer inner steps, H * speed / fastest, at least H / 8, so that "
             "rounds take equally long."},

    {"outer.mode", SETTING_CHOICE, AT(outer.mode), "sparse", .choices = modes,
     .help = "dense: delayed Nesterov over int8, fp4, bf16 or fp32. sparse: SGD over topk2 with "
             "error feedback. No mixture of them."},
    {"outer.learning_rate", SETTING_NUMBER, AT(outer.learning_rate), "auto", "1e-6", "10",
     .flags = SETTING_AUTO,
     .help = "auto: sparse 1; dense H / 50, at most 0.4, at least 0.1. A number stands for all "
             "steps."},
    {"outer.momentum", SETTING_NUMBER, AT(outer.momentum), "0", "0", "0.9999",
     .help = "dense: 0.9. sparse: 0, because error feedback already acts as momentum."},
    {"outer.period", SETTING_COUNT, AT(outer.period), "auto", "1", "4096", .flags = SETTING_AUTO,
     .help = "Contributions in a round, over which sparse mode takes the mean of each parameter "
             "and after which dense mode moves its momentum; auto: the number of present sites."},

    {"codec.kind", SETTING_CHOICE, AT(codec.kind), "topk2-64", .choices = codec_names,
     .first = CODEC_FP32,
     .help =
         "topk2-64 sends 1.56 % of the values in 0.15 bit per parameter, topk2-128 twice that."},
    {"codec.decay", SETTING_NUMBER, AT(codec.decay), "0.95", "0", "1",
     .help = "Of the error feedback: 0.95 in sparse mode, 0 (there is none) in dense mode."},

    {"fragments", SETTING_COUNT, AT(fragments), "1", "1", "64",
     .help = "Pieces of the parameters that are exchanged one by one."},

    {"merge.quorum", SETTING_COUNT, AT(merge.quorum), "1", "1", "256",
     .help = "An outer step starts once this many contributions wait ..."},
    {"merge.grace", SETTING_DURATION, AT(merge.grace_ms), "10s", "0", "30d",
     .flags = SETTING_ENDLESS, .help = "... or this long after the first of them came."},
    {"merge.staleness_cap", SETTING_COUNT, AT(merge.staleness_cap), "auto", "0", "4096",
     .flags = SETTING_AUTO,
     .help = "Outer steps that a contribution may have missed; auto: twice as many as there were "
             "sites present since its base, at least 16."},
    {"merge.warmup_steps", SETTING_COUNT, AT(merge.warmup_steps), "4", "0", "1000000",
     .help = "The first outer steps wait for every connected site ..."},
    {"merge.warmup_grace", SETTING_DURATION, AT(merge.warmup_grace_ms), "1m", "0", "30d",
     .flags = SETTING_ENDLESS, .help = "... but no longer than this."},
    {"merge.away_after", SETTING_DURATION, AT(merge.away_after_ms), "2m", "1s", "30d",
     .flags = SETTING_ENDLESS,
     .help = "A site that is silent for so long counts as away, and as present again once it is "
             "heard: quorum and warm-up count present sites."},
    {"merge.staleness_weight", SETTING_CHOICE, AT(merge.staleness_weight), "none",
     .choices = staleness_weights,
     .help = "polynomial: a contribution counts (1 + staleness)^-exponent. It does harm in dense "
             "mode."},
    {"merge.staleness_exponent", SETTING_NUMBER, AT(merge.staleness_exponent), "0.5", "0.5", "1",
     .help = "0.5 or 1: both are exact on every machine."},

    {"weights", SETTING_CHOICE, AT(weights), "equal", .choices = weight_policies,
     .help = "What a contribution counts by: equal, all alike; tokens, the tokens it was trained "
             "on, at most twice as much as under equal; shares, its site's share of the data over "
             "its part of the tokens that all train, at most as much as under equal."},
    {"shares", SETTING_CHARS, AT(shares), "none", .check = shares_check,
     .form = "SITE=NUMBER for each site, separated by blanks, or a mapping of them",
     .help = "With weights: shares, what the sites' data should count, relative to each other; a "
             "site that is not named has the mean of those that are. none: all alike."},

    {"admission.clip_factor", SETTING_NUMBER, AT(admission.clip_factor), "1", "0", "1000",
     .help = "Contributions longer than this times the median of the sites' last norms are scaled "
             "down to it; 0: off."},
    {"admission.clip_minimum", SETTING_COUNT, AT(admission.clip_minimum), "16", "1", "4096",
     .help = "There is no median before this many contributions came; until then norm_bound is "
             "the limit."},
    {"admission.norm_bound", SETTING_NUMBER, AT(admission.norm_bound), "0", "0", "1e18",
     .help = "What norms are scaled down to while there is no median; 0: inner.learning_rate * "
             "inner_steps * the root of the number of parameters."},
    {"admission.voice_age", SETTING_DURATION, AT(admission.voice_age_ms), "1d", "1s", "365d",
     .help = "A site's last contribution counts in medians for this long."},
    {"admission.max_step_tokens", SETTING_COUNT, AT(admission.max_step_tokens), "67108864", "1",
     "2147483648",
     .help = "Tokens that a site trains on in an inner step, at most: a site that would train on "
             "more does not start, and a contribution that says more is malformed."},
    {"admission.expiry", SETTING_DURATION, AT(admission.expiry_ms), "1d", "0", "365d",
     .help = "A contribution is refused this long after it was signed; 0: never."},

    {"token_budget", SETTING_COUNT, AT(token_budget), "0", "0", TOKENS_LIMIT,
     .help = "The run pauses for the admin after this many tokens; 0: it has no end."},
    {"root_interval", SETTING_COUNT, AT(root_interval), "1", "1", "1000000",
     .help = "Every n-th outer step records the digest of the parameters."},
    {"snapshot_interval", SETTING_COUNT, AT(snapshot_interval), "64", "1", "1000000",
     .help = "Outer steps between two snapshots."},
    {0}};
_Static_assert(FRAGMENTS_LIMIT == 64 && SITES_LIMIT == 4096 && STALENESS_LIMIT == 4096,
               "the bounds in the table are these");

static const struct {
    const char *key, *text;
} dense_defaults[] = {{"outer.momentum", "0.9"},
                      {"codec.kind", "int8"},
                      {"codec.decay", "0"},
                      {"admission.clip_factor", "1.5"}};

const char *manifest_fallback(const struct setting *setting, enum outer_mode mode) {
    for (size_t i = 0; i < COUNT_OF(dense_defaults) && mode == OUTER_DENSE; i++)
        if (strcmp(dense_defaults[i].key, setting->name) == 0) return dense_defaults[i].text;
    return setting->fallback;
}
