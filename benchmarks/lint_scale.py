"""The linter at scale: seconds, and the memory of the whole process tree.

Preference sets of the given sizes are generated (three pairs over three answers to a prompt, answers of 50 to 1,500
characters with lists and code among them, a percent of duplicates and contradictions), then data_prep/lint.py runs over
each as a person runs it, twice: reading the file, and with its rows in the cache. Memory is sampled five times a second
over all its processes: anonymous (what the kernel cannot drop) and total, shared pages divided among those who share
them (Pss).

    python benchmarks/lint_scale.py --sizes 528000 1000000 --num_proc 2
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS_BETWEEN_SAMPLES = 0.2


def write_rows(path: Path, num_pairs: int) -> None:
    """JSON lines of standard rows."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(5000)]
    sentences = [" ".join(rng.choices(words, k=rng.randint(5, 20))).capitalize() + "." for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_pairs // 3):
            prompt = [{"role": "user", "content": f"{number} " + " ".join(rng.choices(sentences, k=3))}]
            answers = [{"role": "assistant", "content": answer(rng, sentences)} for _ in range(3)]
            order = ((0, 1), (0, 2), (1, 2)) if number % 100 else ((0, 1), (0, 1), (1, 0))
            for better, worse in order:
                row = {
                    "chosen": [*prompt, answers[better]],
                    "rejected": [*prompt, answers[worse]],
                    "source": f"set {number % 7}",
                    "chosen_score": float(3 - better),
                    "rejected_score": float(3 - worse),
                }
                file.write(json.dumps(row) + "\n")


def answer(rng: random.Random, sentences: list[str]) -> str:
    """Some sentences, a list among them in every third answer, code in every tenth."""
    parts = rng.choices(sentences, k=rng.randint(1, 16))
    if rng.random() < 0.33:
        parts = [f"- {part}" for part in parts]
    if rng.random() < 0.1:
        parts.append("```python\nprint(1)\n```")
    return ("\n" if parts[0].startswith("-") else " ").join(parts[:-1]) + "\n" + parts[-1]


def process_tree(pid: int) -> list[int]:
    """The process and all that came from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [one for child in task.read_text().split() for one in process_tree(int(child))]
        except OSError:  # it has ended
            continue
    return found


def memory_mib(pid: int) -> tuple[float, float]:
    """Anonymous and total memory of the tree."""
    anonymous = total = 0
    for process in process_tree(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        fields = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        anonymous, total = anonymous + fields["Pss_Anon"], total + fields["Pss"]
    return anonymous / 1024, total / 1024


def lint_once(arguments: list[str], cache: Path) -> dict[str, float]:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "data_prep" / "lint.py"), *arguments]
    started, spent = time.perf_counter(), processor_seconds()
    peaks = [0.0, 0.0]
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)
        while run.poll() is None:
            peaks = [max(pair) for pair in zip(peaks, memory_mib(run.pid), strict=True)]
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        if run.returncode:
            output.seek(0)
            raise RuntimeError(output.read()[-3000:])
    seconds, spent = time.perf_counter() - started, processor_seconds() - spent
    memory = {"anonymous_mib": round(peaks[0]), "total_mib": round(peaks[1])}
    return {"seconds": round(seconds, 1), "processor_seconds": round(spent, 1), **memory}


def processor_seconds() -> float:
    """Of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--num_proc", type=int, default=os.cpu_count())
    parser.add_argument("--tokenizer", help="folder: count tokens too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in options.sizes:
            rows = folder / "rows.jsonl"
            write_rows(rows, size)
            arguments = [str(rows), "--num_proc", str(options.num_proc), "--output_path", str(folder / "report")]
            arguments += ["--overwrite"] + (["--tokenizer", options.tokenizer] if options.tokenizer else [])
            megabytes = rows.stat().st_size >> 20
            for state in ("first time", "from cache"):
                found = lint_once(arguments, folder / f"cache-{size}")
                print(f"{size:>9,} pairs, {megabytes:,} MiB, {state}  {found}", flush=True)


if __name__ == "__main__":
    main()
