"""What tests/train_settle_test.sh runs: what a manifest, a federation's file and the command line
say together to atoll-sim train."""
import json
import os
import sys

from script_test import TRAINER, main, run, write

SIM = os.path.join(os.path.dirname(TRAINER), "atoll-sim")
FEDERATION = """duration: 30s
model: {parameters: 10k}
run: {snapshot_interval: 64%s}
sites:
  - {name: a, count: 2, step: 500ms}
  - {name: b, count: 2, step: 600ms}
"""
MANIFEST = """name: tiny
model: {hidden: 32, layers: 1, heads: 2, kv_heads: 1, ffn: 64, context: 32}
inner: {learning_rate: 3e-3, inner_steps: 8}
merge: {quorum: 2, grace: 3s, warmup_steps: 1}
"""


def train(rules, *arguments, manifest=True, code=0):
    write("federation.yaml", FEDERATION % (rules and ", " + rules))
    write("manifest.yaml", MANIFEST)
    write("text.txt", "the quick brown fox jumps over the lazy dog. " * 2000)
    if manifest:
        arguments += ("--manifest", "manifest.yaml")
    return run(SIM, "train", "federation.yaml", "--data", "text.txt", "--windows", 2,
               "--sequences", 2, "--threads", 1, "--json", "out.json", *arguments, code=code)


def outcome():
    with open("out.json", encoding="utf-8") as file:
        return json.load(file)


def test_the_manifest_s_rules_hold_where_the_federation_says_nothing():
    train("")
    rules = outcome()["rules"]
    assert (rules["quorum"], rules["inner_steps"]) == (2, 8), rules


def test_a_federation_that_contradicts_the_manifest_is_refused_and_both_are_named():
    for rule in ("quorum: 3", "inner_steps: 9", "dylu: false", "codec: int8", "grace: 4s",
                 "staleness_cap: 5", "warmup_steps: 4", "warmup_grace: 2s", "away_after: 3s"):
        said = train(rule, code=1)
        assert "run." + rule.split(":")[0] in said and "manifest.yaml" in said, said


def test_a_federation_that_says_the_same_is_taken():
    train("quorum: 2, inner_steps: 8, grace: 3s")


def test_a_codec_of_the_other_mode_is_refused_beside_a_manifest():
    assert "outer:" in train("", "--codec", "int8", code=1)
    train("", "--codec", "int8", "--tokens", 5000, manifest=False)


def test_sync_merges_every_site_in_every_version():
    train("", "--sync")
    out = outcome()
    assert out["versions"] > 3 and out["contributions"] // 4 == out["versions"], out
    assert out["staleness_most"] == 0 and not out["rules"]["overlap"]


def test_what_has_no_effect_is_refused():
    for arguments in (("--one-cluster", "--sync"), ("--sync", "--follow-interval", 2),
                      ("--one-cluster", "--drop", "10%"), ("--hostile-sites", 1)):
        assert "has no effect" in train("", *arguments, code=1)


def test_the_rate_follows_the_sites_unless_somebody_names_one():
    train("", "--tokens", 5000, manifest=False)
    assert outcome()["rules"]["outer_rate_follows_sites"]
    train("", "--tokens", 5000, "--outer-learning-rate", 0.5, manifest=False)
    rules = outcome()["rules"]
    assert not rules["outer_rate_follows_sites"] and rules["outer_learning_rate"] == 0.5


def test_a_rule_changes_on_the_way_and_a_wrong_one_is_refused_before_the_start():
    train("dylu: false", "--duration", "30s", manifest=False)
    before = outcome()["contributions"]
    train("dylu: false", "--duration", "30s", "--rule", "10s inner.inner_steps 2", "--rule",
          "20s merge.grace 5s", manifest=False)
    after = outcome()
    assert after["contributions"] > 2 * before, (before, after["contributions"])
    assert [site["inner_steps"] for site in after["sites"]] == [2] * 4
    for rule, why in (("10s merge.quorom 2", "did you mean merge.quorum"),
                      ("10s model.hidden 64", "holds for the whole run"),
                      ("10s codec.kind topk2-128", "cannot change in train"),
                      ("10 merge.quorum 2", "--rule"), ("10s merge.quorum", "a key and a value")):
        assert why in train("", "--rule", rule, manifest=False, code=1), rule


def test_a_plan_takes_rules_that_change_and_refuses_those_without_effect():
    write("federation.yaml", FEDERATION.replace("30s", "1h") % ", dylu: false, grace: forever")

    def plan(*rules, code=0):
        return run(SIM, "plan", "federation.yaml", "--format", "json",
                   *(word for rule in rules for word in ("--rule", rule)), code=code)

    even, changed = json.loads(plan()), json.loads(plan("0s merge.quorum 4"))
    assert changed["versions"] < even["versions"] / 2, (even["versions"], changed["versions"])
    assert "advice" in even and "advice" not in changed
    for rule, why in (("10s weights tokens", "weights cannot change in a plan"),
                      ("10s merge.quorom 2", "did you mean merge.quorum")):
        assert why in plan(rule, code=2), rule


def test_the_last_version_is_exported():
    train("", "--tokens", 3000, "--export", "model")
    assert os.path.exists("model/config.json")


if __name__ == "__main__":
    sys.exit(main(globals()))
