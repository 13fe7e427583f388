"""The output of score.py: whole or partial, going on where it was, and what is in its way."""

import gzip
import json
from pathlib import Path

import pytest

from reward_modeling.common.errors import UserError
from reward_modeling.generations.output_file import OutputFile, Progress

RUN = {"input": {"rows": 4}, "model": {"weights": "abc"}, "max_tokens_per_batch": 2048, "threads": 1}
WINDOWS = [['{"a": 1}', '{"b": "ü"}'], ['{"c": 3}'], ['{"d": 4}']]


def write(output, progress, windows, run=RUN):
    with output.writing(progress, run) as writer:
        for number, lines in enumerate(windows):
            writer.append(lines, {"number": number})


def begun(path, windows=WINDOWS[:2], run=RUN):
    """An output that a run has left after these windows."""
    output = OutputFile(path)
    write(output, Progress(), windows, run)
    return output


@pytest.fixture(params=["x.jsonl", "x.jsonl.gz"])
def whole(request, tmp_path):
    """A finished output, and a path for another one."""
    output = begun(tmp_path / "whole" / request.param, WINDOWS)
    output.finish({"what": "rows"})
    return output, tmp_path / "other" / request.param


def test_a_finished_output_stands_alone_with_its_manifest(whole):
    output, _ = whole
    data = output.path.read_bytes()
    text = gzip.decompress(data).decode() if output.path.suffix == ".gz" else data.decode()
    assert text.splitlines() == [line for window in WINDOWS for line in window]
    assert json.loads(output.manifest.read_text()) == {"what": "rows"}
    assert sorted(output.path.parent.iterdir()) == [output.path, output.manifest]


@pytest.mark.parametrize("torn", [b"", b'{"d": ', b'{"d": 4}\n{"e": 5}\n'])
def test_what_goes_on_is_byte_for_byte_what_never_stopped(whole, torn):
    output, path = whole
    partial = begun(path)
    with partial.partial.open("ab") as file:
        file.write(torn)  # a window that did not count yet
    progress = partial.begin(RUN, resume=True)
    assert (progress.rows, progress.counts) == (3, {"number": 1})
    write(partial, progress, WINDOWS[2:])
    partial.finish({"what": "rows"})
    assert partial.path.read_bytes() == output.path.read_bytes()


def test_an_output_in_the_way_is_refused(tmp_path):
    output = begun(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match=r"found x.jsonl.partial, .* --resume true .* or --overwrite_output true"):
        output.check(resume=False, overwrite=False)
    output.check(resume=True, overwrite=False)
    output.check(resume=False, overwrite=True)
    output.finish({})
    with pytest.raises(UserError, match="expected a new file, found one"):
        output.check(resume=False, overwrite=False)
    output.check(resume=True, overwrite=False)  # it may be finished
    output.manifest.unlink()
    with pytest.raises(UserError, match="expected a new file, found one"):
        output.check(resume=True, overwrite=False)
    output.check(resume=False, overwrite=True)
    with pytest.raises(UserError, match=r"named \*.jsonl or \*.jsonl.gz"):
        OutputFile(tmp_path / "x.json").check(resume=False, overwrite=False)
    with pytest.raises(UserError, match="expected a folder, found the file"):
        OutputFile(output.path / "y.jsonl").check(resume=False, overwrite=False)
    with pytest.raises(UserError, match="found it among those of --input"):
        output.check_is_no_input([tmp_path / "." / "x.jsonl"])


def test_a_finished_output_is_that_of_its_run_alone(tmp_path):
    output = begun(tmp_path / "x.jsonl", WINDOWS)
    assert not output.is_finished(RUN)
    output.finish({"run": RUN})
    output.state.write_text("{}")  # killed between the last two steps
    assert output.is_finished(RUN | {"threads": 2})
    assert not output.state.exists()
    with pytest.raises(UserError, match=r"- model, weights: abc then, xyz now\n.*--overwrite_output true"):
        output.is_finished(RUN | {"model": {"weights": "xyz"}})
    output.manifest.write_text("{")
    with pytest.raises(UserError, match="expected a manifest"):
        output.is_finished(RUN)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    folder, link = tmp_path / "disk", tmp_path / "link.jsonl"
    link.symlink_to(folder / "x.jsonl")
    for windows in (WINDOWS, WINDOWS[:1]):
        output = begun(link, windows)
        assert output.partial == folder / "x.jsonl.partial"
        output.finish({})
        assert link.is_symlink()
        assert len(link.read_text().splitlines()) == sum(map(len, windows))
    assert sorted(tmp_path.iterdir()) == [folder, link]


def test_what_stopped_before_its_first_window_begins_anew(tmp_path):
    output = begun(tmp_path / "x.jsonl", [])
    output.partial.write_text('{"torn')
    output.check(resume=False, overwrite=False)
    for resume in (False, True):
        assert output.begin(RUN, resume=resume) == Progress()
    write(output, Progress(), WINDOWS[:1])
    assert output.partial.read_text().splitlines() == WINDOWS[0]


def test_beginning_anew_forgets_what_was_begun(tmp_path):
    output = begun(tmp_path / "x.jsonl")
    write(output, output.begin(RUN, resume=False), [])
    assert (output.partial.read_bytes(), output.state.exists()) == (b"", False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": {"rows": 5}}, "- input, rows: 4 then, 5 now"),
        ({"model": {"weights": "xyz"}}, "- model, weights: abc then, xyz now"),
        ({"flags": {"columns": "a=b"}}, "- flags: None then"),
    ],
)
def test_another_run_is_refused(tmp_path, change, message):
    output = begun(tmp_path / "x.jsonl")
    with pytest.raises(UserError) as caught:
        output.begin(RUN | change, resume=True)
    assert message in str(caught.value)
    assert output.begin(RUN, resume=True).rows == 3


def test_a_run_may_go_on_with_smaller_batches(tmp_path, caplog):
    output = begun(tmp_path / "x.jsonl")
    assert output.begin(RUN | {"max_tokens_per_batch": 512}, resume=True).rows == 3
    assert "max_tokens_per_batch is 512, and was 2048" in caplog.text


def test_a_changed_partial_file_or_state_is_refused(tmp_path):
    output = begun(tmp_path / "x.jsonl")
    output.partial.write_bytes(output.partial.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"at least 30 bytes in .*, found 29: it was changed"):
        output.begin(RUN, resume=True)
    for text in ("{}", "{", '{"run": {}, "progress": {"rows": 1, "else": 2}}'):
        output.state.write_text(text)
        with pytest.raises(UserError, match="expected the state of a run"):
            output.begin(RUN, resume=True)


def test_two_runs_do_not_write_one_file(tmp_path):
    output = OutputFile(tmp_path / "x.jsonl")
    with output.writing(Progress(), RUN) as writer:
        writer.append(WINDOWS[0], {})
        with pytest.raises(UserError, match="found that another run writes it"), output.writing(Progress(), RUN):
            pass
        writer.append(WINDOWS[1], {})
    assert output.begin(RUN, resume=True).rows == 3


def test_a_full_disk_is_one_message(tmp_path):
    output = OutputFile(tmp_path / "x.jsonl")
    message = r"cannot write .* \(No space left on device\)\. Make room, and go on with --resume true"
    with Path("/dev/full").open("r+b", buffering=0) as full, output.writing(Progress(), RUN) as writer:
        writer.file = full
        with pytest.raises(UserError, match=message):
            writer.append(WINDOWS[0], {})
    assert output.begin(RUN, resume=True) == Progress()
