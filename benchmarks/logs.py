"""Templates out of logs: opslib against drain3 with its defaults, on the sixteen public LogHub samples of 2,000 lines.

    git clone https://github.com/logpai/loghub && uv pip install drain3==0.9.11
    python benchmarks/logs.py loghub

The folder holds `<system>/<system>_2k.log_structured.csv`, each with the columns Content and EventId. Both contenders have one setting for
all samples, and take the same Content column. Grouping accuracy is that of the LogHub papers (Zhu et al., 2019): the share of lines whose
group holds all lines of their event, and no other. Rounds alternate, each with a new miner for each sample: the figures are those of a
cold start, in seconds of the processor, which other work on the machine changes less. opslib's rules were made on every other sample
of the alphabet (`tuning`), and on what was wrong in two more (`looked at`); the others (`held out`) are told apart.
A second measure repeats the samples' lines with other numbers in them, as a longer log does. Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from opslib.mining.miner import Miner

LOOKED_AT = ("Linux", "Thunderbird")

Contender = Callable[[Sequence[str]], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the samples are")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of each contender (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=20, help="times that the lines are repeated for the longer log (default: %(default)s)"
    )
    arguments = parser.parse_args()
    samples = read(arguments.folder)
    if not samples:
        parser.error(f"no *_2k.log_structured.csv in {arguments.folder}; see --help")
    contenders: dict[str, Contender] = {"opslib": with_opslib}
    with contextlib.suppress(ImportError):
        import drain3  # type: ignore[import-untyped]  # noqa: F401

        logging.disable(logging.WARNING)
        contenders["drain3"] = with_drain3
    if "drain3" not in contenders:
        print("drain3 is not installed: opslib alone", file=sys.stderr)

    groups = {who: {name: mine(lines) for name, (lines, _) in samples.items()} for who, mine in contenders.items()}
    accuracy = {who: {name: grouping_accuracy(of[name], samples[name][1]) for name in samples} for who, of in groups.items()}
    tuning = sorted(samples)[::2]
    looked_at = [name for name in LOOKED_AT if name in samples]
    held_out = [name for name in sorted(samples)[1::2] if name not in looked_at]
    parts = {title: names for title, names in (("tuning", tuning), ("looked at", looked_at), ("held out", held_out)) if names}
    print(f"{'sample':14}{'events':>8}" + "".join(f"{who:>10}" for who in contenders))
    for title, names in parts.items():
        for name in names:
            print(f"{name:14}{len(set(samples[name][1])):8}" + "".join(f"{accuracy[who][name]:10.3f}" for who in contenders))
        print(f"{title + ', mean':22}" + "".join(f"{mean(accuracy[who], names):10.3f}" for who in contenders))
    print(f"{'all, mean':22}" + "".join(f"{mean(accuracy[who], samples):10.3f}" for who in contenders))

    cold = speed(contenders, [lines for lines, _ in samples.values()], arguments.rounds)
    longer = speed(contenders, [longer_log(lines, arguments.repeat) for lines, _ in samples.values()], max(1, arguments.rounds // 3))
    for title, figures in (("lines a second, cold", cold), (f"... {arguments.repeat} times the lines", longer)):
        print(f"{title:22}" + "".join(f"{figures[who]:10,.0f}" for who in contenders))
    print(
        json.dumps(
            {
                "accuracy": {who: round(mean(accuracy[who], samples), 4) for who in contenders},
                **{
                    f"accuracy_{title.replace(' ', '_')}": {who: round(mean(accuracy[who], names), 4) for who in contenders}
                    for title, names in parts.items()
                },
                "lines_per_second": {who: round(cold[who]) for who in contenders},
                "lines_per_second_longer": {who: round(longer[who]) for who in contenders},
                "ratio": round(cold["opslib"] / cold["drain3"], 2) if "drain3" in cold else None,
                "ratio_longer": round(longer["opslib"] / longer["drain3"], 2) if "drain3" in cold else None,
            }
        )
    )


def read(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Lines and the events that they truly are, by sample."""
    found = {}
    for path in sorted(folder.glob("**/*_2k.log_structured.csv")):
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
        found[path.name.removesuffix("_2k.log_structured.csv")] = ([row["Content"] for row in rows], [row["EventId"] for row in rows])
    return found


def with_opslib(lines: Sequence[str]) -> list[int]:
    miner = Miner()
    numbers = miner.add(lines)
    template = {number: place for place, template in enumerate(miner.templates()) for number in template.numbers}
    return [template[number] for number in numbers]


def with_drain3(lines: Sequence[str]) -> list[int]:
    from drain3 import TemplateMiner

    miner = TemplateMiner()
    return [miner.add_log_message(line)["cluster_id"] for line in lines]


def grouping_accuracy(groups: Sequence[int], events: Sequence[str]) -> float:
    """Share of lines whose group is exactly the lines of one event."""
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    sizes = Counter(events)
    right = 0
    for places in members.values():
        of = {events[place] for place in places}
        right += len(places) if len(of) == 1 and sizes[of.pop()] == len(places) else 0
    return right / len(events)


def longer_log(lines: Sequence[str], times: int) -> list[str]:
    """The lines again and again, each time with other numbers of the same length."""
    others = [str.maketrans("0123456789", "".join(str((digit + shift) % 10) for digit in range(10))) for shift in range(times)]
    return [line.translate(other) for other in others for line in lines]


def speed(contenders: dict[str, Contender], logs: Sequence[Sequence[str]], rounds: int) -> dict[str, float]:
    """Lines a second: the median of the rounds, in which the contenders take turns."""
    lines = sum(len(log) for log in logs)
    seconds: dict[str, list[float]] = {who: [] for who in contenders}
    for _ in range(rounds):
        for who, mine in contenders.items():
            begin = time.process_time()
            for log in logs:
                mine(log)
            seconds[who].append(time.process_time() - begin)
    return {who: lines / statistics.median(taken) for who, taken in seconds.items()}


def mean(values: dict[str, float], names: Sequence[str] | dict[str, tuple[list[str], list[str]]]) -> float:
    return statistics.fmean(values[name] for name in names)


if __name__ == "__main__":
    main()
