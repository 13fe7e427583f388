"""Names of what a run leaves in its output folder for people, and of files in last_checkpoint and in a data set.

`results/run.py` says what is in them. (Checkpoints and transformers' log have their names in `checkpoints`.)
"""

REPORT = "report.html"
DATA_REPORT = "data_report.json"
EVALUATION = "evaluation.json"
EVAL_SCORES = "eval_scores.jsonl"
PREFLIGHT = "preflight.txt"
RUN = "run.json"

ARGUMENTS = "script_arguments.json"
VERIFICATION = "verification.json"

MANIFEST = "manifest.json"  # beside the rows that data_prep/ writes

CHECKPOINT, LAST_CHECKPOINT, MERGED_CHECKPOINT = "checkpoint-", "last_checkpoint", "merged_checkpoint"
TRAINER_STATE = "trainer_state.json"
OBJECTIVE_STATE = "objective_state.json"  # of a checkpoint: what is learned beside the weights
