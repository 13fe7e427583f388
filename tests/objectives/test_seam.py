"""The seam between kinds of reward model, shown by a kind of the tests' own.

Its units have one to n completions; it reads several tokens of a completion and the end of the prompt.
"""

import json
from dataclasses import dataclass

import datasets
import pytest
import torch
from datasets import Dataset
from exactness import PAD, VOCAB_SIZE, differences, make_group
from other_kind import LABELS, Ranked, RankedFlags, RankedReader
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import LOGGED, OnResume, flags_with
from reward_modeling.common.words import BATCHINGS
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, Chunk, GroupSizes, plan_epoch
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group
from reward_modeling.models.attention import register_shared_prefix_attention
from reward_modeling.models.reward_model import reward_model_class
from reward_modeling.training.trainer import RunningSums

TOLERANCE = 1e-5


OBJECTIVE = Ranked(RankedFlags())


def ranked_group(prompt: int, prefix: int, completions: list[int], seed: int) -> dict:
    """A group whose completions share more than the prompt, in units of one, two and all of them."""
    group = make_group(prefix, completions, seed, pairs=[(0, 0)])
    numbers = list(range(len(completions)))
    units = [numbers, [numbers[-1]], numbers[:2]]
    positions = [[prompt - 1, prefix + length // 2, prefix + length - 1] for length in completions]
    return group | {"units": units, "targets": [[float(len(unit))] for unit in units], "read_positions": positions}


def groups() -> list[dict]:
    return [
        ranked_group(18, 20, [5, 30, 1], seed=1),
        ranked_group(1, 1, [3, 9], seed=2),
        ranked_group(23, 23, [1, 2, 3, 40], seed=3),
        ranked_group(12, 12, [6], seed=4),
        ranked_group(1, 0, [4, 7], seed=5),  # nothing is shared: the end of the prompt stands in each row
    ]


def build(family: str, attention: str):
    config = tiny_config(family, VOCAB_SIZE, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
    config.num_labels = LABELS
    torch.manual_seed(0)
    return reward_model_class(type(config))._from_config(config, attn_implementation=attention).train()


@pytest.fixture(scope="module")
def models():
    register_shared_prefix_attention()

    def get(family: str):
        plain, fast = build(family, "eager"), build(family, SHARED_PREFIX)
        fast.load_state_dict(plain.state_dict())
        return plain, fast

    return get


def collate(batching: str, rows: list[dict]) -> dict:
    chunks = [Chunk(number, 0, len(group["units"]), 0) for number, group in enumerate(rows)]
    return MicroBatchCollator(batching, PAD, OBJECTIVE.collate)(chunks, dict(enumerate(rows)))


def losses_and_gradients(model, batching: str, rows: list[dict], shift: int = 0):
    """Of the collator's batch."""
    model.zero_grad()
    batch = collate(batching, rows)
    inputs = batch["model_inputs"]
    if shift:
        inputs["read_positions"] = inputs["read_positions"] - shift
    losses = OBJECTIVE.loss(model(**inputs).logits.float(), batch["targets"])
    losses.mean().backward()
    return losses.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def written_out(model, rows: list[dict]):
    """Every completion alone in a row of its own, read from the hidden states of the plain model: no code of ours."""
    model.zero_grad()
    losses = []
    for group in rows:
        logits = []
        for ids, positions in zip(group["completion_ids"], group["read_positions"], strict=True):
            hidden = model.model(torch.tensor([group["prefix_ids"] + ids])).last_hidden_state
            logits.append(torch.nn.functional.linear(hidden[0, positions], model.score.weight))
        for unit in group["units"]:
            values = torch.cat([logits[number] for number in unit])
            losses.append(torch.tanh(values).square().sum() / len(unit))
    losses = torch.stack(losses)
    losses.mean().backward()
    return losses.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text", "mistral", "qwen3_moe"])
def test_positions_anywhere_are_exact_in_every_batch(models, family):
    """Against rows alone; the negative control, every read one token earlier, fails by far."""
    plain, fast = models(family)
    reference = written_out(plain, groups())
    assert max(differences(reference, losses_and_gradients(plain, PADDED, groups()))) < TOLERANCE
    for checkpointing in (False, True):
        if checkpointing:
            fast.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for batching in (SHARED_PREFIX, PACKED):
            assert max(differences(reference, losses_and_gradients(fast, batching, groups()))) < TOLERANCE
    fast.gradient_checkpointing_disable()
    moved = [group for group in groups() if len(group["prefix_ids"]) > 1]
    wrong = losses_and_gradients(plain, PADDED, moved, shift=1)
    assert min(differences(written_out(plain, moved), wrong)) > 100 * TOLERANCE


def test_the_end_of_a_shared_prompt_is_read_once():
    (group,) = groups()[2:3]
    batch = collate(SHARED_PREFIX, [group])
    assert batch["model_inputs"]["packed_layout"].read_positions == (22, 23, 25, 27, 28, 49, 68)
    # the first completion has one token, both its middle and its end; the prompt's end is read for all four
    reads = [[0, 1, 1], [0, 2, 2], [0, 3, 4], [0, 5, 6]]
    assert batch["targets"]["reads"].tolist() == [read for of in (*reads, reads[3], *reads[:2]) for read in of]
    assert collate(PACKED, [group])["model_inputs"]["read_positions"].numel() == 10  # nothing is shared there


@pytest.mark.parametrize("batching", BATCHINGS)
def test_steps_are_planned_in_units_and_add_up_on_any_number_of_processes(models, batching):
    """Losses of a step: the same sum, and the same figures in the log, over one process and over three."""
    plain, fast = models("gemma")
    model = plain if batching == PADDED else fast
    rows = groups()
    sizes = GroupSizes.from_rows(rows)
    assert sizes.units_per_group.tolist() == [3] * 5 and sizes.num_units == 15
    plan = plan_epoch(sizes, units_per_step=6, max_tokens=150, batching=batching, seed=0, epoch=0)
    collator = MicroBatchCollator(batching, PAD, OBJECTIVE.collate)
    for step in range(len(plan)):
        totals = []
        for processes in (1, 3):
            sums = RunningSums(OBJECTIVE, torch.device("cpu"))
            for micro_batch in [each for process in plan.micro_batches(step, processes) for each in process]:
                batch = collator(micro_batch, {chunk.group: rows[chunk.group] for chunk in micro_batch})
                with torch.no_grad():
                    sums.count_units(model(**batch["model_inputs"]).logits.float(), batch["targets"])
            totals.append(sums.on_device.tolist())
        assert totals[0][0] == totals[1][0] == plan.step_units(step)
        assert totals[0] == pytest.approx(totals[1], rel=1e-6)


def test_rows_of_any_number_of_answers_become_units(tmp_path, monkeypatch):
    """From rows to tokens: the prompt's end and the last token of each answer, also where the prompt was cut."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = train_tokenizer(["how do I brew green tea", "first heat the water"], 300, **TOKENIZER_STYLES["gemma"])
    prompt = [{"role": "user", "content": "how do I brew green tea " * 3}]
    answers = ["first heat the water", "heat it", "first tea"]
    texts = [json.dumps([{"role": "assistant", "content": answer}]) for answer in answers]
    standard = {
        "where": "a:1",
        "prompt": json.dumps(prompt),
        "prompt_key": 1,
        "is_text": False,
        "source": None,
        "template_options": "",
    }
    rows = Dataset.from_list([standard | {"reason": "", "completions": texts[:count]} for count in (3, 1)])
    whole = [
        tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], return_dict=False)
        for answer in answers
    ]
    header = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
    for cut in (0, 5):
        options = TokenizeOptions(max(map(len, whole)) - cut)
        (group,) = tokenize_and_group(rows, tokenizer, RankedReader(), options).to_list()
        assert group["units"] == [[0, 1, 2], [0]] and group["targets"] == [[3.0], [1.0]]
        assert group["truncated_units"] == (2 if cut else 0)
        for ids, completion, (end_of_prompt, last) in zip(
            whole, group["completion_ids"], group["read_positions"], strict=True
        ):
            tokens = group["prefix_ids"] + completion
            assert (tokens == ids) is (cut == 0) and last == len(tokens) - 1
            assert tokens[end_of_prompt + 1 :] == ids[header:]  # answers are never cut


def test_a_flag_says_itself_what_a_resume_does_with_it():
    assert flags_with(RankedFlags, OnResume.FIXED) == flags_with(RankedFlags, LOGGED) == ["temperature"]


def test_a_script_of_another_kind_has_its_flags_and_its_head(tmp_path, gemma_folder):
    """`class ScriptArguments(RankedFlags, RunArguments)`, and a head of as many labels as the kind has."""
    from reward_modeling.common.arguments import parse_script_arguments
    from reward_modeling.training.arguments import RunArguments
    from reward_modeling.training.setup import load_model, load_setup

    @dataclass
    class ScriptArguments(RankedFlags, RunArguments):
        temperature: float = 2.0  # a default to edit: help and rules are those of the base class
        report_to: None | str | list[str] = "none"  # noqa: RUF036

    flags = ["--model_name", gemma_folder, "--output_path", str(tmp_path / "o"), "--max_length", "64"]
    args, given = parse_script_arguments(ScriptArguments, flags)
    assert args.temperature == 2.0 and "temperature" not in given
    with pytest.raises(UserError, match="--temperature: expected 0 or more, found -1"):
        parse_script_arguments(ScriptArguments, [*flags, "--temperature", "-1"])
    with pytest.raises(UserError, match="unknown flag --label_smoothing"):
        parse_script_arguments(ScriptArguments, [*flags, "--label_smoothing", "0.1"])
    setup = load_setup(args, Ranked(args))
    assert setup.config.num_labels == LABELS and load_model(args, setup).score.weight.shape[0] == LABELS


def test_a_flag_of_another_kind_is_refused(tmp_path):
    import rm
    from reward_modeling.common.arguments import parse_script_arguments
    from reward_modeling.training.arguments import arguments_of

    with pytest.raises(UserError, match="unknown flag --temperature"):
        parse_script_arguments(arguments_of(rm.ScriptArguments), ["--temperature", "2"])
