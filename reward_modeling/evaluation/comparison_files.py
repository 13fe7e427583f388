"""`--compare`: what a comparison of earlier evaluations leaves."""

import json
from collections.abc import Sequence
from pathlib import Path

from reward_modeling.common.atomic import write_whole
from reward_modeling.evaluation.comparison import compare
from reward_modeling.evaluation.comparison_report import comparison_tables, write_comparison
from reward_modeling.evaluation.evaluations import read_evaluations
from reward_modeling.evaluation.files import check_folder, check_nothing_is_there, writing_explained

COMPARISON, PAGE = "comparison.json", "comparison.html"


def compare_evaluations(folders: Sequence[str], output: Path, overwrite: bool) -> None:
    """What earlier evaluations have written, side by side: a table, comparison.json and comparison.html."""
    evaluations = read_evaluations(folders)
    check_folder("--output_dir", output)
    check_nothing_is_there(output, (COMPARISON, PAGE), "comparison", overwrite)
    comparison = compare(evaluations)
    print(comparison_tables(comparison), flush=True)
    with writing_explained(output):
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(output / COMPARISON, text + "\n")
        write_comparison(comparison, output / PAGE)
    print(f"\nComparison: {output / PAGE}", flush=True)
