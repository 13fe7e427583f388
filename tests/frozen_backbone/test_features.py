"""Features against plain transformers row by row; the same bytes on several processes; what the cache keeps."""

import copy
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from exactness import PAD, build_model, make_group
from runs import write_rows
from transformers import AutoModel

from reward_modeling.common.errors import UserError
from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.gate_position import gate_position, prompt_end
from reward_modeling.data.group_rows import TokenizeOptions
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import GROUP_FEATURES
from reward_modeling.frozen_backbone import feature_cache
from reward_modeling.frozen_backbone.feature_cache import cached_features
from reward_modeling.frozen_backbone.feature_key import feature_key
from reward_modeling.frozen_backbone.feature_pass import FeaturePass
from reward_modeling.frozen_backbone.features import Features
from reward_modeling.frozen_backbone.readers import PairFeatureReader, RatingFeatureReader
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.tokenizer import load_tokenizer

TOLERANCE = 1e-5
FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3")
ATTRIBUTES = ("helpfulness", "verbosity")
UNIT_COLUMNS = ("units", "targets", "weights", "shares", "sources", "where")
LENGTHS = ((40, [5, 30, 1, 17]), (2, [3, 9]), (23, [1, 2, 3, 4, 40]), (12, [6]), (31, [8, 8, 2]), (9, [4, 12]))


def rated_groups(shift: int = 0, tokens: int = 0, *, ratings: float = 0.0, file: str = "row") -> PromptGroups:
    """Six prompts, longer and shorter than every window, with 1 to 5 answers, the first of them rated twice.

    Args:
        shift: of what is read, as a negative control.
        tokens: added to the first token.
        ratings: added to each.
        file: where the rows stand.
    """
    rows = []
    for number, (prefix, answers) in enumerate(LENGTHS):
        group = make_group(prefix, answers, seed=number, pairs=[(0, 0)])
        group["prefix_ids"][0] += tokens
        units = [[0], *([place] for place in range(len(answers)))]
        targets = [[float(number), float("nan")], *([float(place), 2.0 * place] for place in range(len(answers)))]
        gate = prefix - 1 if number % 2 else max(0, prefix - 5)
        reads = [[gate + shift, prefix + length - 1 - shift] for length in answers]
        targets = [[value + ratings for value in of] for of in targets]
        row = _row(group, units, targets, reads, number)
        rows.append(row | {"where": [where.replace("row", file) for where in row["where"]]})
    return PromptGroups(Dataset.from_list(rows, features=GROUP_FEATURES))


def paired_groups() -> PromptGroups:
    """The same prompts, of which the fourth has one answer and so no pair; the first has a list's pairs."""
    rows = []
    for number, (prefix, answers) in enumerate(LENGTHS):
        group = make_group(prefix, answers, seed=number)
        reads = [[prefix - 1, prefix + length - 1] for length in answers]
        rows.append(_row(group, group["units"], group["targets"], reads, number))
    return PromptGroups(Dataset.from_list(rows, features=GROUP_FEATURES))


def _row(group: dict, units: list, targets: list, reads: list, number: int) -> dict:
    nothing = {name: [] for name in GROUP_FEATURES if name.startswith(("dropped", "noted"))}
    return nothing | {
        "prefix_ids": group["prefix_ids"],
        "completion_ids": group["completion_ids"],
        "prefix_length": len(group["prefix_ids"]),
        "completion_lengths": list(map(len, group["completion_ids"])),
        "shared_lengths": [0] * len(group["completion_ids"]),
        "characters": list(map(len, group["completion_ids"])),
        "read_positions": reads,
        "units": units,
        "targets": targets,
        "weights": [1.0] * len(units),
        "shares": [1.0] * len(units),
        "sources": ["set"] * len(units),
        "unfinished": [],
        "where": [f"row {number}.{place}" for place in range(len(units))],
        "truncated_units": 0,
        "unknown_tokens": [0] * len(group["completion_ids"]),
    }


def a_pass(**changes: object) -> FeaturePass:
    return FeaturePass(**({"batching": "shared_prefix", "pad_token_id": PAD, "max_tokens": 48} | changes))


def reference_features(model: torch.nn.Module, groups: PromptGroups) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit's answer and of its prompt what transformers' own class gives the conversation alone."""
    config = copy.deepcopy(model.config)
    plain = AutoModel.from_config(config, attn_implementation="eager").eval()
    plain.load_state_dict(model.model.state_dict())
    answers, prompts = [], []
    with torch.no_grad():
        for group in groups.groups:
            for (number,) in group["units"]:
                ids = group["prefix_ids"] + group["completion_ids"][number]
                hidden = plain(torch.tensor([ids])).last_hidden_state[0]
                gate, last = group["read_positions"][number]
                answers.append(hidden[last].numpy())
                prompts.append(hidden[gate].numpy())
    return np.stack(answers), np.stack(prompts)


def all_answers(features: Features) -> np.ndarray:
    return features.answers(np.arange(len(features)))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def llama():
    return build_model("llama", "shared_prefix")


@pytest.fixture
def forward_calls(llama):
    """Tokens of each forward pass of the model."""
    calls = []
    handle = llama.model.register_forward_pre_hook(lambda _module, args: calls.append(args[0].numel()))
    yield calls
    handle.remove()


# --- exact --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_plain_transformers_row_by_row(family, tmp_path):
    model, groups = build_model(family, "shared_prefix"), rated_groups()
    features = cached_features(groups, model, a_pass(), tmp_path, ATTRIBUTES)
    answers, prompts = reference_features(model, groups)
    assert len(features) == len(answers) == 23
    scale = max(1.0, np.abs(answers).max())
    assert np.abs(all_answers(features) - answers).max() <= TOLERANCE * scale
    assert np.abs(features.prompts[features.prompt_of] - prompts).max() <= TOLERANCE * scale
    assert model.training  # as it was, and with its head
    assert model.score.out_features == 1


def test_features_one_token_further_on_are_others(llama, tmp_path):
    """The negative control of the test above."""
    answers, prompts = reference_features(llama, rated_groups())
    shifted = cached_features(rated_groups(shift=1), llama, a_pass(), tmp_path, ATTRIBUTES)
    assert np.abs(all_answers(shifted) - answers).max() > 0.1
    assert np.abs(shifted.prompts[shifted.prompt_of] - prompts).max() > 0.1


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_other_batches_give_the_same_features(batching, llama, tmp_path):
    expected = cached_features(rated_groups(), llama, a_pass(), tmp_path / "shared", ATTRIBUTES)
    model = llama if batching == "packed" else build_model("llama", "eager")
    found = cached_features(rated_groups(), model, a_pass(batching=batching), tmp_path / batching, ATTRIBUTES)
    assert np.abs(all_answers(found) - all_answers(expected)).max() < 1e-4
    assert np.abs(found.prompts - expected.prompts).max() < 1e-4


def test_each_prompt_is_computed_once_for_all_its_answers(llama, forward_calls, tmp_path):
    cached_features(rated_groups(), llama, a_pass(max_tokens=10_000), tmp_path, ATTRIBUTES)
    assert forward_calls == [sum(prefix + sum(answers) for prefix, answers in LENGTHS)]


# --- what they are of ---------------------------------------------------------------------------------------------


def test_a_rated_row_is_an_answer_with_its_ratings(llama, tmp_path):
    groups = rated_groups()
    features = cached_features(groups, llama, a_pass(), tmp_path, ATTRIBUTES)
    assert features.where == groups.of_units("where")
    assert features.sources == ["set"] * 23
    np.testing.assert_array_equal(features.ratings, groups.targets())
    np.testing.assert_array_equal(all_answers(features)[0], all_answers(features)[1])  # one answer, rated by two people
    assert features.prompt_of.tolist() == groups.sizes.group_of_unit.tolist()
    assert features.pairs.shape == (0, 2)


def test_an_answer_of_several_pairs_stands_once(llama, tmp_path):
    groups = paired_groups()
    features = cached_features(groups, llama, a_pass(), tmp_path)
    used = [number for number, (_, answers) in enumerate(LENGTHS) if len(answers) > 1]
    assert len(features.prompts) == len(used)
    assert len(features) == sum(len(LENGTHS[number][1]) for number in used)
    assert features.pairs[:6].tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert features.where == groups.of_units("where")
    rated = cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    chosen, rejected = features.pairs[6]  # of the second prompt, whose answers are also rated
    np.testing.assert_allclose(all_answers(features)[chosen], all_answers(rated)[6], atol=1e-5)
    np.testing.assert_allclose(all_answers(features)[rejected], all_answers(rated)[7], atol=1e-5)
    assert features.ratings.shape == (len(features), 0)
    assert features.targets[0].tolist() == [1.0, 1.0, 0.0]


def test_blocks_are_the_whole_in_order(llama, tmp_path):
    features = cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    blocks = list(features.blocks(block_bytes=5 * 4 * features.hidden_size))
    assert [len(block) for _, block in blocks] == [5, 5, 5, 5, 3]
    for rows, block in blocks:
        np.testing.assert_array_equal(block, all_answers(features)[rows])


# --- several processes, interruptions -----------------------------------------------------------------------------


def test_two_processes_write_the_bytes_of_one(llama, tmp_path):
    expected = cached_features(rated_groups(), llama, a_pass(max_tokens=2), tmp_path / "one", ATTRIBUTES)
    assert len({run[0] for run in _runs(2)}) > 3
    barrier, results = threading.Barrier(2, timeout=60), {}
    models = [copy.deepcopy(llama) for _ in range(2)]

    def compute(process: int) -> None:
        how = a_pass(max_tokens=2, process=process, num_processes=2, wait=barrier.wait)
        results[process] = cached_features(rated_groups(), models[process], how, tmp_path / "two", ATTRIBUTES)

    threads = [threading.Thread(target=compute, args=(process,)) for process in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0].folder == results[1].folder
    assert results[0].folder.name == expected.folder.name
    assert bytes_of(results[0].folder) == bytes_of(expected.folder)


def _runs(max_tokens: int) -> list[tuple[int, int]]:
    groups = rated_groups()
    layout = feature_cache.Layout.of(groups, rated=True)
    return feature_cache.runs_of(groups, layout, a_pass(max_tokens=max_tokens))


class Killed(BaseException):
    pass


def test_a_pass_that_was_ended_goes_on_and_leaves_nothing_that_looks_whole(llama, forward_calls, tmp_path, caplog):
    whole = cached_features(rated_groups(), llama, a_pass(max_tokens=2), tmp_path / "whole", ATTRIBUTES)
    of_whole = len(forward_calls)
    forward_calls.clear()

    def end(_module, _args):
        if len(forward_calls) > of_whole // 2:
            raise Killed

    handle = llama.model.register_forward_pre_hook(end)
    with pytest.raises(Killed):
        cached_features(rated_groups(), llama, a_pass(max_tokens=2), tmp_path / "ended", ATTRIBUTES)
    handle.remove()
    assert not list((tmp_path / "ended").glob("features-*"))
    assert llama.score.out_features == 1
    forward_calls.clear()
    with caplog.at_level(logging.INFO):
        features = cached_features(rated_groups(), llama, a_pass(max_tokens=2), tmp_path / "ended", ATTRIBUTES)
    assert 0 < len(forward_calls) < of_whole
    assert "of a pass that was interrupted" in caplog.text
    assert bytes_of(features.folder) == bytes_of(whole.folder)
    assert [path.name for path in (tmp_path / "ended").iterdir()] == [features.folder.name]


def test_parts_of_another_size_are_not_taken(llama, tmp_path):
    """Of a pass that was ended, and that goes on with other micro-batches."""
    whole = cached_features(rated_groups(), llama, a_pass(), tmp_path / "whole", ATTRIBUTES)
    parts = tmp_path / "ended" / f"parts-of-{whole.folder.name}"
    parts.mkdir(parents=True)
    np.savez(parts / "0000000000-0000000001.npz", answers=np.zeros((4, 64)), prompts=np.zeros((1, 64)))
    features = cached_features(rated_groups(), llama, a_pass(), tmp_path / "ended", ATTRIBUTES)
    assert bytes_of(features.folder) == bytes_of(whole.folder)


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_second_run_reads_what_the_first_one_kept_and_says_so(llama, forward_calls, tmp_path, caplog):
    first = cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    forward_calls.clear()
    with caplog.at_level(logging.INFO):
        second = cached_features(rated_groups(), llama, a_pass(max_tokens=999), tmp_path, ATTRIBUTES)
    assert forward_calls == []
    assert f"read from {first.folder}" in caplog.text
    assert isinstance(second.completions, np.memmap)


def test_other_ratings_are_those_of_the_rows_on_the_same_hidden_states(llama, forward_calls, tmp_path):
    """Nothing that is known of rows is kept, so nothing of it can be of earlier rows."""
    first = cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    forward_calls.clear()
    other = rated_groups(ratings=0.5, file="another")
    second = cached_features(other, llama, a_pass(), tmp_path, ATTRIBUTES)
    assert forward_calls == [] and second.folder == first.folder
    np.testing.assert_array_equal(second.ratings, first.ratings + 0.5)
    assert second.where == [where.replace("row", "another") for where in first.where] != first.where
    # fewer ratings of the same answers, in another order within their prompts
    rows = [row | {name: row[name][1:][::-1] for name in UNIT_COLUMNS} for row in rated_groups().groups]
    fewer = PromptGroups(Dataset.from_list(rows, features=GROUP_FEATURES))
    third = cached_features(fewer, llama, a_pass(), tmp_path, ATTRIBUTES)
    assert forward_calls == [] and third.folder == first.folder
    place = {where: number for number, where in enumerate(first.where)}
    numbers = np.array([place[where] for where in third.where])
    assert len(third) == len(first) - len(LENGTHS) and (np.diff(numbers) < 0).any()
    for one, all_of in ((all_answers(third), all_answers(first)), (third.ratings, first.ratings)):
        np.testing.assert_array_equal(one, all_of[numbers])
    np.testing.assert_array_equal(third.completion_tokens, first.completion_tokens[numbers])
    np.testing.assert_array_equal(np.concatenate([block for _, block in third.blocks(1)]), all_answers(third))


def test_another_head_needs_no_other_features(llama):
    other = copy.deepcopy(llama)
    torch.nn.init.zeros_(other.score.weight)
    other.config.id2label = {0: "helpfulness"}
    assert feature_key(other, rated_groups(), torch.float32) == feature_key(llama, rated_groups(), torch.float32)


def _one_weight(model):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-3


def _rope(model):
    model.config.rope_parameters["rope_theta"] = 500.0


@pytest.mark.parametrize("change", [_one_weight, _rope])
def test_another_model_has_another_key(change, llama):
    other = copy.deepcopy(llama)
    change(other)
    assert feature_key(other, rated_groups(), torch.float32) != feature_key(llama, rated_groups(), torch.float32)


def test_other_rows_positions_or_types_have_another_key(llama):
    groups = [rated_groups(), rated_groups(shift=1), rated_groups(tokens=1), paired_groups()]
    keys = {feature_key(llama, of, torch.float32) for of in groups}
    keys.add(feature_key(llama, groups[0], torch.bfloat16))
    assert len(keys) == 5


def test_the_key_does_not_depend_on_how_the_rows_lie_on_disk(llama, tmp_path):
    groups = rated_groups()
    groups.groups.save_to_disk(tmp_path / "rows", num_shards=3)
    again = PromptGroups(Dataset.load_from_disk(tmp_path / "rows"))
    assert again.groups.data.column("units").num_chunks == 3
    assert feature_key(llama, again, torch.float32) == feature_key(llama, groups, torch.float32)


def test_a_torn_folder_is_computed_anew(llama, tmp_path):
    whole = cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    expected = bytes_of(whole.folder)
    torn = whole.folder / "completions.npy"
    torn.write_bytes(torn.read_bytes()[:-4])
    with pytest.raises(FileNotFoundError, match=r"completions\.npy"):
        Features.open(whole.folder, rated_groups(), feature_cache.Layout.of(rated_groups(), rated=True))
    assert bytes_of(cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES).folder) == expected


def test_a_folder_without_its_list_is_computed_anew(llama, tmp_path):
    whole = cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    expected = bytes_of(whole.folder)
    (whole.folder / "contents.json").write_text("")
    assert bytes_of(cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES).folder) == expected


@pytest.mark.parametrize("tear", [lambda of: b"", lambda of: of[:-50], lambda of: of[:300] + b"\0" * 9 + of[309:]])
def test_torn_parts_are_computed_anew(tear, llama, forward_calls, tmp_path, monkeypatch):
    """Of a machine that went down while a pass went on."""
    monkeypatch.setattr(feature_cache.shutil, "rmtree", lambda *_args, **_options: None)  # parts stay
    whole = cached_features(rated_groups(), llama, a_pass(max_tokens=2), tmp_path, ATTRIBUTES)
    expected, of_whole = bytes_of(whole.folder), len(forward_calls)
    parts = sorted((tmp_path / f"parts-of-{whole.folder.name}").glob("*.npz"))
    parts[1].write_bytes(tear(parts[1].read_bytes()))
    monkeypatch.undo()
    feature_cache.shutil.rmtree(whole.folder)
    forward_calls.clear()
    again = cached_features(rated_groups(), llama, a_pass(max_tokens=2), tmp_path, ATTRIBUTES)
    assert bytes_of(again.folder) == expected
    assert 0 < len(forward_calls) < of_whole  # of the one part alone


def test_too_little_room_is_said_before_anything_is_computed(llama, forward_calls, tmp_path, monkeypatch):
    usage = feature_cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"GiB of room for the features.*--feature_cache"):
        cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    assert forward_calls == []


def test_two_runs_do_not_compute_the_same_features_together(llama, tmp_path):
    def start_another(_module, _args):
        with pytest.raises(UserError, match="that no other run computes"):
            cached_features(rated_groups(), build_model("llama", "shared_prefix"), a_pass(), tmp_path, ATTRIBUTES)

    handle = llama.model.register_forward_pre_hook(start_another)
    cached_features(rated_groups(), llama, a_pass(), tmp_path, ATTRIBUTES)
    handle.remove()


def test_machines_that_share_no_folder_are_told_so(llama, tmp_path):
    """The other process has written its parts elsewhere."""
    with pytest.raises(UserError, match=r"are missing\. On several machines --feature_cache has to be a folder"):
        cached_features(rated_groups(), llama, a_pass(max_tokens=2, num_processes=2), tmp_path, ATTRIBUTES)


def test_features_that_are_no_numbers_are_refused(tmp_path):
    model = build_model("llama", "shared_prefix")
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(UserError, match=r"features of row 0\.0.*expected finite numbers"):
        cached_features(rated_groups(), model, a_pass(), tmp_path, ATTRIBUTES)


def test_a_model_without_a_linear_head_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--freeze_backbone: expected a decoder.*found Linear"):
        cached_features(rated_groups(), torch.nn.Linear(1, 1), a_pass(), tmp_path, ATTRIBUTES)


# --- from rows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma(gemma_folder):
    tokenizer = load_tokenizer(gemma_folder, None)
    model = load_reward_model(gemma_folder, load_config(gemma_folder), tokenizer, attn_implementation="shared_prefix")
    return model, tokenizer


def _prepared(path: Path, reader, tokenizer, max_length: int, overlong: str = "truncate"):
    options = TokenizeOptions(max_length, overlong)
    return prepare_pairs(str(path), None, tokenizer, reader, options, eval_size=0, seed=0, num_proc=1)


def test_upstream_defect_d_overlong_pairs_are_counted_and_nothing_is_joined_by_position(gemma, tmp_path, own_cache):
    """RLHFlow's stage 2 drops pairs with an overlong side without a count, and joins what is left by position."""
    model, tokenizer = gemma
    long = " ".join(["word"] * 300)
    rows = [
        {
            "prompt": f"question {number}",
            "chosen": long if number in (1, 4) else f"good answer {number}",
            "rejected": long if number == 6 else f"bad answer {number}",
            "source": f"set {number % 3}",
        }
        for number in range(9)
    ]
    data = _prepared(write_rows(tmp_path / "pairs.jsonl", rows), PairFeatureReader(), tokenizer, 64)
    assert data.reports[0].dropped[DropReason.COMPLETION_TOO_LONG].count == 3
    features = cached_features(data.train, model, a_pass(max_tokens=256), tmp_path / "cache")
    kept = [0, 2, 3, 5, 7, 8]
    assert [int(where.rpartition(":")[2]) - 1 for where in features.where] == kept
    assert features.sources == [rows[number]["source"] for number in kept]
    for number, pair in zip(kept, features.pairs, strict=True):  # each row's features are those of the row alone
        alone = write_rows(tmp_path / f"{number}.jsonl", [rows[number]])
        of_row = cached_features(
            _prepared(alone, PairFeatureReader(), tokenizer, 64).train, model, a_pass(), tmp_path / "alone"
        )
        np.testing.assert_allclose(all_answers(features)[pair], all_answers(of_row)[of_row.pairs[0]], atol=1e-5)
        place = features.prompt_of[pair[0]]
        np.testing.assert_allclose(features.prompts[place], of_row.prompts[0], atol=1e-5)
        assert features.prompt_keys[place] == of_row.prompt_keys[0]


def test_answers_are_counted_whole_where_they_begin_alike(gemma, tmp_path, own_cache):
    """The shared prefix of a group is longer than the prompt where its answers begin alike, or where it has one."""
    model, tokenizer = gemma
    answers = {"same question": ["yes yes yes no", "yes yes yes yes"], "another": ["yes yes yes no"]}
    rows = [
        {"prompt": prompt, "response": answer, "helpfulness": 1.0, "verbosity": 2.0}
        for prompt, of in answers.items()
        for answer in of
    ]
    data = _prepared(write_rows(tmp_path / "rated.jsonl", rows), RatingFeatureReader(ATTRIBUTES), tokenizer, 64)
    features = cached_features(data.train, model, a_pass(), tmp_path / "cache", ATTRIBUTES)
    first, second, alone = features.completion_tokens.tolist()
    assert first == second == alone > 4
    header = tokenizer("<start_of_turn>model\n", add_special_tokens=False)["input_ids"]
    gates = [
        (group["prefix_ids"] + group["completion_ids"][0])[: group["read_positions"][0][0] + 1]
        for group in data.train.groups
    ]
    assert all(ids[-len(header) :] == header for ids in gates)


def test_the_gate_reads_the_prompt_that_is_left_where_it_was_cut(gemma, tmp_path, own_cache):
    model, tokenizer = gemma
    row = {"prompt": " ".join(["word"] * 300), "response": "yes", "helpfulness": 1.0, "verbosity": 2.0}
    other = {"prompt": "question", "response": "no", "helpfulness": 0.0, "verbosity": 1.0}
    path = write_rows(tmp_path / "rated.jsonl", [row, other])
    data = _prepared(path, RatingFeatureReader(ATTRIBUTES), tokenizer, 48)
    group = data.train.groups[0]
    ids, (gate, last) = group["prefix_ids"] + group["completion_ids"][0], group["read_positions"][0]
    assert len(ids) <= 48
    assert last == len(ids) - 1
    header = tokenizer("<start_of_turn>model\n", add_special_tokens=False)["input_ids"]
    assert ids[gate + 1 - len(header) : gate + 1] == header
    assert len(cached_features(data.train, model, a_pass(), tmp_path / "cache", ATTRIBUTES)) == 2


# --- the gate's position --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [[128009, 128006, 78191, 128007, 271], [107, 108, 106, 2516, 108]])
def test_the_gate_reads_the_first_token_of_a_published_pattern(pattern):
    """Read off the published modelling code: the start of the last match of the pattern."""
    prompt = [128000, *pattern, 5, 6, 7, *pattern]
    assert gate_position(prompt) == len(prompt) - 5
    assert gate_position(prompt[:-1]) == len(prompt) - 5  # an answer's white space is one token with the line break
    assert prompt_end([*prompt, 9, 9], gate_position(prompt)) == len(prompt)
    assert prompt_end([*prompt[:-1], 9, 9], gate_position(prompt[:-1])) == len(prompt) - 1
    assert gate_position([*prompt, 8]) == len(prompt)
    assert json.dumps(prompt)  # the prompt itself is left alone


def test_the_gate_reads_the_last_token_of_other_prompts():
    assert gate_position([4, 5, 6]) == 2
    assert prompt_end([4, 5, 6, 7], 2) == 3
    assert gate_position([]) == 0  # of plain texts that share nothing
