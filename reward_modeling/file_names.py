"""Names of what a run leaves in its output folder for people, and of two files in last_checkpoint.

`run_files` says what is in them. (Checkpoints and transformers' log have their names in `checkpoints`.)
"""

REPORT = "report.html"
DATA_REPORT = "data_report.json"
EVALUATION = "evaluation.json"
EVAL_SCORES = "eval_scores.jsonl"
PREFLIGHT = "preflight.txt"
RUN = "run.json"

ARGUMENTS = "script_arguments.json"
VERIFICATION = "verification.json"
