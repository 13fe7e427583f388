"""`score.py --verify_server`: its flags, and the job."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import PATH, at_least, flag, flag_problems, one_of
from reward_modeling.serving.client_connection import SECONDS, Connection
from reward_modeling.serving.clients import CLIENTS
from reward_modeling.serving.keys import check_key, read_key_file
from reward_modeling.serving.verification import verify_server
from reward_modeling.serving.verification_card import write_served
from reward_modeling.serving.verification_kinds import kind_of
from reward_modeling.serving.verification_rows import FLOAT32, read_checkpoint
from reward_modeling.serving.verification_text import report_lines

KEY_VARIABLE = "REWARD_API_KEY"  # as serve.py has it
EQUAL, DIFFERENT = 0, 1  # exit statuses; 2 is a mistake of the user's, or no server


@dataclass
class VerifyFlags:
    """What --verify_server takes beside it."""

    verify_server: str | None = flag(
        None,
        "A running server, such as http://127.0.0.1:8000: compare its rewards with those of the saved model.",
    )
    protocol: Annotated[str | None, one_of(*CLIENTS)] = flag(
        None,
        "How the server is asked: vllm (/classify; /pooling of a process model), openrlhf (/get_reward), or ours "
        "(/v1/rewards of serve.py).",
    )
    reward_name_or_path: Annotated[str | None, PATH] = flag(
        None, "Folder or Hub id of the model, with its verification.json. Of a merged adapter either."
    )
    served_model_name: str | None = flag(None, "The model's name on the server. Unset: the first that it lists.")
    served_dtype: Annotated[str, one_of(FLOAT32, "bfloat16", "float16")] = flag(
        FLOAT32, "What the server computes in: below float32 its rounding, as this model has it, is allowed for."
    )
    load_model: bool = flag(
        True,
        "Load the model here too: compare a row as long as those of the training, messages through the chat template "
        "where the protocol takes them, and the model's files with what was saved.",
    )
    write_card: bool = flag(
        False, "Where it is equal, write so into the model's README.md, and into served.json there."
    )
    api_key_file: Annotated[str | None, PATH] = flag(
        None, f"A file whose first line is the server's key. Unset: the variable {KEY_VARIABLE}, or no key."
    )
    timeout: Annotated[float, at_least(1)] = flag(SECONDS, "Seconds for one answer.")
    trust_remote_code: bool = flag(False, "Run code that the model's folder holds.")


def run_verification() -> None:
    """The job of `score.py --verify_server`; it ends with status 0 if the server is equal and 1 if it is not."""
    try:
        flags, _ = parse_script_arguments(VerifyFlags)
    except UserError as error:
        raise UserError(f"--verify_server: {error}") from error
    _check(flags)
    if os.environ.get("RANK", "0") != "0":  # no work for several processes
        return
    name = flags.reward_name_or_path
    checkpoint = read_checkpoint(name, trust_remote_code=flags.trust_remote_code)
    connection = Connection(flags.verify_server, api_key=_read_key(flags.api_key_file), seconds=flags.timeout)
    kind = kind_of(checkpoint)
    client = kind.client(flags.protocol)(connection, flags.served_model_name)
    report = verify_server(
        checkpoint,
        client,
        load=cache(lambda: kind.probe(name, trust_remote_code=flags.trust_remote_code)),
        dtype=flags.served_dtype,
        load_model=flags.load_model,
    )
    print("\n".join(report_lines(report)), flush=True)
    if flags.write_card and report.equal:
        print(f"Written: {write_served(report)}", flush=True)
    elif flags.write_card:
        print("Not written: the server is not equal.", flush=True)
    sys.exit(EQUAL if report.equal else DIFFERENT)


def _check(flags: VerifyFlags) -> None:
    """
    Raises:
        UserError: a flag is missing or has a value that it does not take.
    """
    problems = list(flag_problems(flags))
    names = ("verify_server", "protocol", "reward_name_or_path")
    if flags.write_card and flags.reward_name_or_path and not Path(flags.reward_name_or_path).is_dir():
        problems.append(f"--write_card true: expected a folder to write to, found the name {flags.reward_name_or_path}")
    if flags.write_card and not flags.load_model:
        problems.append(
            "--write_card true: expected --load_model true, found false. A card is not written before the files in the "
            "folder were seen to be the model that is served"
        )
    if missing := [f"--{name}" for name in names if not getattr(flags, name)]:
        problems.append(f"--verify_server: expected {', '.join(f'--{name}' for name in names)}, found no {missing[0]}")
    if problems:
        raise UserError("\n".join(problems))


def _read_key(path: str | None) -> str | None:
    if path is not None:
        return read_key_file(path)
    key = os.environ.get(KEY_VARIABLE)
    return check_key(key, KEY_VARIABLE) if key else None
