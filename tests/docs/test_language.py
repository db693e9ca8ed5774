"""Code, pages and test names use the field's words and plain English; each row below is a word and what to write."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INSTEAD = {
    r"pictures?": "image",
    r"anew": "again",
    r"by heart": "overfit, memorize",
    r"shar(e|ed|es|ing) out": "sharded across, distribute",
    r"(?<![Tt]here )is no (?!longer|more|less|need)\w+": "is not a",
    r"(is|are|was|were) none": "no X",
    r"held out": "validation",
    r"heldout": "val",
    r"(second|first) decoders?": "stage-2, stage-1 decoder",
    r"running averages?": "EMA",
    r"(Enters|Leaves):": "one plain sentence",
    r"(is|are|be|easy to|hard to|codes) guess(ed)?|guessed right|guessable": "predict",
    r"(?<!mean )squared error": "MSE",
    r"rivals?": "discriminator",
    r"(a|each) side": "px, image size, grid",
    r"first process|process 0": "rank 0",
    r"mend(s|ed|ing)?": "fix",
    r"bits an image|bits of an image": "bits per image",
    r"judges?|judged|judging": "classifier, feature extractor, evaluate",
    r"that which": "what",
    r"asked for": "requested",
    r"again and again": "repeatedly",
    r"learnt": "learned",
    r"it is told|is told|are told|was told": "is reported",
    r"(draws?|drew|drawn|drawing|redraw\w*) ((an?|the|new|many|some|its|\d+|rows? of) )?(images?|samples?)": "sample",
    r"(images?|samples?|rows?) (is|are|was|were|be|been|being)? ?(drawn|drew)": "sampled, generated",
    r"as \w+(?:'s \w+)? (has|have) (it|them)": "as in X",
}
WORDS = {re.compile(rf"(?<!\w)(?:{word})(?!\w)"): better for word, better in INSTEAD.items()}

# Lines in which such a word is right, each with its reason.
ALLOWED = (
    (r"tests/docs/test_language\.py", r"."),  # the list itself
    (r"src/alitok/data/sources/table\.py", r"_IMAGE_NAMES"),  # columns of data sets of others
    (r"CHANGELOG\.md", r"^\| "),  # old names, beside the new ones
    (r"data/codes/shards\.py", r'"pictures"|"heldout"'),  # keys and values of stores of format 2
    (r"run/classifier\.py", r'"heldout_accuracy"'),  # a key of cached classifiers
)


def texts():
    """Every line that a reader meets, with its file; of tests the names alone."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in {".py", ".md", ".html", ".js", ".css", ".yml"} or not path.is_file():
            continue
        if name.startswith("tests/"):
            names = re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
            yield from ((name, 0, each) for each in [path.stem, *names])
        elif name.startswith(("src/", "docs/", "examples/", "benchmarks/")) or "/" not in name:
            yield from ((name, number, line) for number, line in enumerate(path.read_text("utf-8").splitlines(), 1))


def faults(name, line):
    if any(re.search(where, name) and re.search(what, line) for where, what in ALLOWED):
        return []
    plain = line.replace("_", " ")
    return [f"'{match[0]}' (write: {better})" for word, better in WORDS.items() for match in word.finditer(plain)]


def test_the_words_are_those_of_the_field():
    found = [f"{name}:{number}: {fault}" for name, number, line in texts() for fault in faults(name, line)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "def test_a_picture_is_written():",
        "there is none, so it is made anew",
        "codes are easy to guess",
        "the held-out images, held out",
        "draws new images",
        "MSE is no loss",
    ],
)
def test_a_word_to_avoid_is_found(line):
    assert faults("x.py", line)


@pytest.mark.parametrize("line", ["there is no network", "noise drawn from a seed", "held-out images", "a rivalry"])
def test_plain_english_is_not_found(line):
    assert not faults("x.py", line)
