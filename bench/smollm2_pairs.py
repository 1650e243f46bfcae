"""Pairs of two public sets as JSON lines, 50 per case and split, subject nouns of train and test apart; LOG.md, "SmolLM2-135M: circuits".

python bench/smollm2_pairs.py nounpp_train.json rc_sfc-errors.jsonl > pairs.jsonl
sfc pairs --model_name MODEL --pairs pairs.jsonl --output fitting.jsonl
python bench/smollm2_pairs.py --first 50 fitting.jsonl > fifty.jsonl
"""

import json
import random
import sys
from collections import Counter


def first_of_each(rows, count):
    """The first `count` rows of each case and split."""
    seen = Counter()
    for row in rows:
        key = (row["case"], row["split"])
        seen[key] += 1
        if seen[key] <= count:
            yield row


def both_forms(row):
    """Singular and plural of the subject noun, the second word."""
    return " ".join(sorted(row[side].split()[1] for side in ("clean_prefix", "patch_prefix")))


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def halved(name, path, rng):
    """All pairs of a set, each once, in random order; half of the subject nouns are train."""
    rows = list({json.dumps(row, sort_keys=True): row for row in read(path)}.values())
    nouns = sorted({both_forms(row) for row in rows})
    rng.shuffle(nouns)
    train = set(nouns[: len(nouns) // 2])
    rng.shuffle(rows)
    for row in rows:
        number = row["case"].split("_")[0]
        split = "train" if both_forms(row) in train else "test"
        kept = {key: row[key] for key in ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")}
        yield {**kept, "case": f"{name}_{number}", "split": split}


if sys.argv[1] == "--first":
    chosen = first_of_each(read(sys.argv[3]), int(sys.argv[2]))
else:
    rng = random.Random(1)
    chosen = [
        row
        for name, path in (("nounpp", sys.argv[1]), ("object_rc", sys.argv[2]))
        for row in first_of_each(halved(name, path, rng), 110)
    ]
for row in chosen:
    print(json.dumps(row))
