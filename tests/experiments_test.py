"""What tests/experiments_test.sh runs: scripts/experiments, short."""
import glob
import os
import sys
import xml.etree.ElementTree

from script_test import ROOT, TRAINER, main, run

SCRIPT = os.path.join(ROOT, "scripts", "experiments")
TEXTS = {"austen": "She was not a woman of many words. ", "bible": "And it came to pass. ",
         "perl": "my $x = shift; print $x; ", "python": "def f(x): return x + 1; "}


def experiments(*arguments):
    os.makedirs("data", exist_ok=True)
    for name, text in TEXTS.items():
        with open(f"data/{name}.txt", "w", encoding="utf-8") as file:
            file.write(text * 3000)
    run(SCRIPT, "--programs", os.path.dirname(TRAINER), "--data", "data", "--work", "work",
        "--output", "out.md", "--tokens", 12000, "--windows", 2, "--evaluations", 6, "--jobs", 2,
        *arguments)
    with open("out.md", encoding="utf-8") as file:
        return file.read()


def lines_of(text):
    return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
            for line in text.splitlines() if line.startswith("|")}


def test_a_table_has_a_line_for_each_arm_with_spread_and_paired_difference():
    lines = lines_of(experiments("--only", "modes", "--seeds", 2))
    cluster, asynchronous = lines["one cluster"], lines["asynchronous, sparse"]
    assert "±" in cluster[0] and "±" in asynchronous[0], lines
    assert float(cluster[0].split()[0]) < 5.4, cluster  # it has learned: ln 256 is 5.55
    assert cluster[1] == "" and asynchronous[1][0] in "+-", lines
    assert len(asynchronous[2].split(" / ")) == 4, asynchronous


def test_curves_over_tokens_and_over_time_name_every_arm():
    experiments("--only", "speeds", "--seeds", 1)
    for axis in ("tokens", "seconds"):
        tree = xml.etree.ElementTree.parse(f"out/speeds-{axis}.svg")
        names = [element.text for element in tree.iter() if element.tag.endswith("text")]
        assert "asynchronous, sparse" in names and "synchronous with DyLU, dense" in names, names


def test_what_was_run_is_kept_and_a_report_runs_nothing():
    first = experiments("--only", "modes", "--seeds", 1)
    kept = {path: os.stat(path).st_mtime_ns for path in glob.glob("work/*.done")}
    assert len(kept) == 8, kept
    assert experiments("--only", "modes", "--seeds", 1) == first
    assert experiments("--only", "modes", "--seeds", 1, "--report") == first
    assert kept == {path: os.stat(path).st_mtime_ns for path in glob.glob("work/*.done")}


if __name__ == "__main__":
    sys.exit(main(globals()))
