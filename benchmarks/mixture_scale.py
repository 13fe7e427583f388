"""Building mixture 2 at its size and at a million pairs: seconds of each stage, and the memory of all processes.

Local files with the columns of the six sources stand in for those of the Hub, with as many rows as theirs (or some
factor as many) and random words. One process then builds the mixture from them, as a person would, with
decontamination, and this one reads the memory of it and its workers twice a second: anonymous memory (what the kernel
cannot drop) and, beside it, all that is resident, in which pages of memory-mapped files count (which it can drop).

    OMP_NUM_THREADS=1 python benchmarks/mixture_scale.py --factors 1.12 2.12 --num_proc 2
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MIB = 2048
ROWS = {
    "hh_rlhf": 118_263,
    "shp": 348_718,
    "ultrafeedback": 63_967,
    "helpsteer": 35_331,
    "capybara": 7_563,
    "orca": 12_859,
}
PAIRS_OF_A_POST = 9
BENCHMARK_PROMPTS = 3_000


class Words:
    """Passages out of one long text: quick, and all but never the same twice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(self.random.choices(letters, k=self.random.randint(2, 9))) for _ in range(20_000)]
        self._text = " ".join(self.random.choices(words, k=2_000_000))

    def passage(self, characters: int) -> str:
        length = int(characters * self.random.lognormvariate(0, 0.7)) + 10
        start = self.random.randrange(len(self._text) - length)
        return self._text[start : start + length].strip()


def hh_rlhf(words: Words, rows: int) -> Iterator[dict]:
    for _ in range(rows):
        dialogue = f"\n\nHuman: {words.passage(150)}\n\nAssistant: {words.passage(250)}\n\nHuman: {words.passage(80)}"
        yield {side: f"{dialogue}\n\nAssistant: {words.passage(250)}" for side in ("chosen", "rejected")}


def shp(words: Words, rows: int) -> Iterator[dict]:
    for number in range(rows):
        if number % PAIRS_OF_A_POST == 0:
            post = words.passage(900)
        yield {
            "post_id": f"post{number // PAIRS_OF_A_POST}", "domain": "askculinary_train", "upvote_ratio": 0.9,
            "history": post, "human_ref_A": words.passage(400), "human_ref_B": words.passage(400),
            "labels": words.random.randint(0, 1), "seconds_difference": 10.0,
            "score_ratio": words.random.uniform(1, 4.3), "score_A": 5, "score_B": 2,
        }  # fmt: skip


def ultrafeedback(words: Words, rows: int) -> Iterator[dict]:
    for _ in range(rows):
        completions = [
            {
                "model": "model", "response": words.passage(1200), "critique": words.passage(600),
                "custom_system_prompt": words.passage(100), "overall_score": 7.0,
                "fine-grained_score": sum(words.random.choices(range(1, 6), k=4)) / 4,
            }
            for _ in range(4)
        ]  # fmt: skip
        yield {"source": "evol_instruct", "instruction": words.passage(600), "completions": completions}


def helpsteer(words: Words, rows: int) -> Iterator[dict]:
    for number in range(rows):
        if number % 4 == 0:
            prompt = words.passage(1500)
        scores = {name: words.random.randint(0, 4) for name in ("helpfulness", "correctness", "coherence")}
        yield {"prompt": prompt, "response": words.passage(900), **scores, "complexity": 1, "verbosity": 1}


def capybara(words: Words, rows: int) -> Iterator[dict]:
    for _ in range(rows):
        prompt = [{"role": role, "content": words.passage(600)} for role in ("user", "assistant", "user")]
        chosen, rejected = ([*prompt, {"role": "assistant", "content": words.passage(1200)}] for _ in range(2))
        yield {"source": "a", "chosen": chosen, "rejected": rejected, "rating_chosen": 5, "rating_rejected": 3}


def orca(words: Words, rows: int) -> Iterator[dict]:
    for _ in range(rows):
        chosen, rejected = words.passage(900), words.passage(900)
        yield {
            "system": words.passage(100), "input": words.passage(700), "chosen": chosen, "rejected": rejected,
            "generations": [chosen, rejected], "order": ["chosen", "rejected"], "rating": [9.0, 7.0],
            "status": words.random.choice(("tie", "unchanged")), "chosen_score": 9.0, "in_gsm8k_train": False,
        }  # fmt: skip


def write_sources(folder: Path, factor: float) -> dict[str, Path]:
    words, paths = Words(0), {}
    for name, rows in ROWS.items():
        generated = globals()[name](words, int(rows * factor))
        if name == "hh_rlhf":  # as on the Hub: JSON lines
            paths[name] = folder / f"{name}.jsonl"
            with paths[name].open("w") as file:
                file.writelines(json.dumps(row) + "\n" for row in generated)
            continue
        paths[name], writer, batch = folder / f"{name}.parquet", None, []
        for row in generated:
            batch.append(row)
            if len(batch) == 5_000:
                writer = _append(writer, paths[name], batch)
                batch = []
        writer = _append(writer, paths[name], batch) if batch else writer
        writer.close()
    with (folder / "benchmark.jsonl").open("w") as file:
        file.writelines(json.dumps({"prompt": words.passage(400)}) + "\n" for _ in range(BENCHMARK_PROMPTS))
    return paths


def _append(writer: pq.ParquetWriter | None, path: Path, rows: list[dict]) -> pq.ParquetWriter:
    table = pa.Table.from_pylist(rows)
    writer = writer or pq.ParquetWriter(path, table.schema)
    writer.write_table(table)
    return writer


# --- memory ---------------------------------------------------------------------------------------------------


def process_tree(root: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # the name of a command may have spaces: what follows it counts
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    tree = [root]
    for process in tree:
        tree += [child for child, parent in parents.items() if parent == process]
    return tree


def memory_mib(processes: list[int]) -> tuple[float, float]:
    """Anonymous memory, and all resident memory with every shared page counted once."""
    anonymous = resident = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        anonymous += sizes["Pss_Anon"]
        resident += sizes["Pss"]
    return anonymous / 1024, resident / 1024


def build_once(folder: Path, paths: dict[str, Path], num_proc: int) -> dict[str, object]:
    command = [
        sys.executable, str(ROOT / "data_prep" / "build_mixture.py"), "--mixture", "mixture2",
        "--num_proc", str(num_proc), "--output_path", str(folder / "mixture2"),
        "--decontaminate", str(folder / "benchmark.jsonl"),
        "--source_paths", ",".join(f"{name}={path}" for name, path in paths.items()),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    started, peaks = time.perf_counter(), {}
    log = folder / "log.txt"
    with log.open("w") as file, (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=errors)
        while process.poll() is None:
            stage = (re.findall(r"^(.*) \.\.\.$", log.read_text(), re.MULTILINE) or ["starting"])[-1]
            found = memory_mib(process_tree(process.pid))
            peaks[stage] = tuple(map(max, zip(found, peaks.get(stage, (0, 0)), strict=True)))
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError((folder / "errors.txt").read_text()[-3000:])
    seconds = {name: float(value) for name, value in re.findall(r"^(.*): ([\d.]+) s$", log.read_text(), re.MULTILINE)}
    manifest = json.loads((folder / "mixture2" / "manifest.json").read_text())
    output = sum(file.stat().st_size for file in (folder / "mixture2").glob("*.parquet"))
    return {
        "pairs": manifest["pairs"],
        "gib_read": sum(path.stat().st_size for path in paths.values()) / 2**30,
        "gib_written": output / 2**30,
        "seconds": {**seconds, "all, with imports": time.perf_counter() - started},
        "peaks": peaks,
    }


def as_table(found: list[dict]) -> str:
    lines = [
        "| | " + " | ".join(f"{one['pairs']:,} pairs" for one in found) + " |",
        "|---|" + "---|" * len(found),
        "| GiB read, written | "
        + " | ".join(f"{one['gib_read']:.1f}, {one['gib_written']:.1f}" for one in found)
        + " |",
    ]
    for stage in found[0]["seconds"]:
        peaks = (one["peaks"].get(stage, (0, 0)) for one in found)
        cells = [
            f"{one['seconds'][stage]:.0f} s" + (f", {peak[0]:,.0f} MiB" if peak[0] else "")
            for one, peak in zip(found, peaks, strict=True)
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    for number, name in enumerate(("peak of anonymous memory", "peak with mapped file pages")):
        cells = [f"{max(peak[number] for peak in one['peaks'].values()):,.0f} MiB" for one in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--factors", type=float, nargs="+", default=[1.12, 2.12], help="of the published numbers of rows"
    )
    parser.add_argument("--num_proc", type=int, default=os.cpu_count())
    options = parser.parse_args()
    found = []
    for factor in options.factors:
        with tempfile.TemporaryDirectory() as temporary:
            paths = write_sources(Path(temporary), factor)
            print(f"sources of {factor:g} times the size are written", flush=True)
            found.append(build_once(Path(temporary), paths, options.num_proc))
            print(json.dumps(found[-1]), flush=True)
    print(as_table(found))
    too_much = [one for one in found if max(peak[0] for peak in one["peaks"].values()) > LIMIT_MIB]
    sys.exit(f"more than {LIMIT_MIB} MiB of anonymous memory" if too_much else 0)


if __name__ == "__main__":
    main()
