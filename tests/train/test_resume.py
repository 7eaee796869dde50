"""A run that was stopped, however roughly, ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

import kernomics.train
from kernomics.errors import CheckpointError, ConfigError
from kernomics.train import History, TrainConfig, fit, load_checkpoint

SEED = int(os.environ.get("KERNOMICS_TEST_SEED", random.SystemRandom().randrange(10**6)))


def program(directory: Path, **orders: Any) -> subprocess.CompletedProcess[str]:
    """Run tiny_run.py as a process of its own."""
    source = str(Path(kernomics.train.__file__).parents[2])
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, tiny_run.__file__, str(directory), json.dumps(orders)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def content(directory: Path) -> dict[str, bytes]:
    """Return every tensor file of the newest checkpoint."""
    checkpoint = load_checkpoint(directory / "checkpoints")
    assert checkpoint is not None
    return {path.name: path.read_bytes() for path in checkpoint.path.glob("*.safetensors")}


def assert_same_run(directory: Path, uninterrupted: Path) -> None:
    files = content(uninterrupted)
    assert set(files) == {f"{p}.safetensors" for p in ("module", "optimizer", "best", "random")}
    assert content(directory) == files
    expected = History.read(uninterrupted / "metrics.jsonl").without_timings()
    assert History.read(directory / "metrics.jsonl").without_timings() == expected


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tiny_run.run(directory)
    torch.set_num_threads(threads)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_run_killed_at_a_step_and_in_a_save_resumes_to_the_same_bits(
    tmp_path: Path, uninterrupted: Path, round_: int
) -> None:
    dice = random.Random(SEED + round_)
    step = dice.randrange(1, tiny_run.STEPS)
    # 5 or 6 files make a save, and one more is written when the history is cut back.
    write = dice.randrange(0, 7 * (tiny_run.STEPS - step))
    print(f"seed {SEED}, killed at step {step}, then at write {write}")

    assert program(tmp_path, signal=signal.SIGKILL, at_step=step).returncode == -signal.SIGKILL
    program(tmp_path, resume=True, at_write=write)
    last = program(tmp_path, resume=True)

    assert last.stdout == "finished\n", last.stderr
    assert_same_run(tmp_path, uninterrupted)
    assert not list((tmp_path / "checkpoints").glob(".*")), "leftovers were not removed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_step_under_way_and_leaves(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals
) -> None:
    stopped = program(tmp_path, signal=number, at_step=7)

    if number == signal.SIGINT:
        assert "KeyboardInterrupt: training was interrupted after step 8" in stopped.stderr
        assert str(tmp_path / "checkpoints" / "step-00000008") in stopped.stderr
    else:
        assert stopped.returncode == 143
        assert stopped.stderr == ""
    assert "finished" not in stopped.stdout
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 8
    tiny_run.run(tmp_path, resume=True)
    assert_same_run(tmp_path, uninterrupted)


def test_run_interrupted_at_every_step_in_turn_ends_the_same(
    tmp_path: Path, uninterrupted: Path
) -> None:
    for step in range(tiny_run.STEPS):
        with pytest.raises(KeyboardInterrupt):
            tiny_run.run(tmp_path, resume=step > 0, before_step=interrupt_at(step))
    tiny_run.run(tmp_path, resume=True)
    assert_same_run(tmp_path, uninterrupted)


def test_signal_during_validation_is_obeyed_after_it(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(tmp_path, in_validation=lambda: os.kill(os.getpid(), signal.SIGINT))
    tiny_run.run(tmp_path, resume=True)
    assert_same_run(tmp_path, uninterrupted)


def test_handlers_are_put_back_after_training_and_after_a_signal(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(tmp_path, before_step=interrupt_at(2))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    tiny_run.run(tmp_path, resume=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    def twice(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal did not interrupt")

    with pytest.raises(KeyboardInterrupt, match="second time"):
        tiny_run.run(tmp_path, before_step=twice)
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 4


def test_where_ctrl_c_is_ignored_sigterm_is_still_obeyed(
    tmp_path: Path, uninterrupted: Path
) -> None:
    """As for a command that a shell runs in the background."""

    def both(step: int) -> None:
        if step in (2, 4):
            os.kill(os.getpid(), signal.SIGINT if step == 2 else signal.SIGTERM)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as left:
            tiny_run.run(tmp_path, before_step=both)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.value.code == 143
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 5, "Ctrl-C was not ignored"
    tiny_run.run(tmp_path, resume=True)
    assert_same_run(tmp_path, uninterrupted)


def test_training_in_another_thread_leaves_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []
    thread = threading.Thread(
        target=tiny_run.run,
        args=(None,),
        kwargs={"before_step": lambda step: seen.append(signal.getsignal(signal.SIGINT))},
    )
    thread.start()
    thread.join()
    assert seen == [before] * tiny_run.STEPS


def test_signal_without_run_directory_still_finishes_the_step() -> None:
    with pytest.raises(KeyboardInterrupt, match="after step 3; there is no checkpoint"):
        tiny_run.run(None, before_step=interrupt_at(2))


def test_records_after_the_checkpoint_are_cut_off_the_history(
    tmp_path: Path, uninterrupted: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(tmp_path, before_step=interrupt_at(8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "epoch": 3, "split": "step", "loss": 1.0}\n{"step": 1')
    tiny_run.run(tmp_path, resume=True)
    assert_same_run(tmp_path, uninterrupted)


def test_lost_history_is_named_and_does_not_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(tmp_path, before_step=interrupt_at(8))
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="holds 0 records, but the checkpoint was saved after 10"):
        _, history = tiny_run.run(tmp_path, resume=True)
    assert [r["step"] for r in history.select("train")] == [12, 15]
    _, again = tiny_run.run(tmp_path, resume=True)
    assert again == history


def test_finished_run_is_not_trained_again_on_resuming(tmp_path: Path) -> None:
    module, history = tiny_run.run(tmp_path)
    again, repeated = tiny_run.run(
        tmp_path, resume=True, before_step=lambda step: pytest.fail(f"trained step {step}")
    )
    assert repeated == history
    assert repeated.best_epoch == history.best_epoch
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_resume_without_checkpoint_begins_the_run(tmp_path: Path, uninterrupted: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "epoch": 0, "split": "step"}\n')
    tiny_run.run(tmp_path, resume=True)
    assert_same_run(tmp_path, uninterrupted)


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    tiny_run.run(tmp_path)
    with pytest.raises(CheckpointError, match="holds 2 checkpoints, the newest step-00000015"):
        tiny_run.run(tmp_path)


def test_resuming_with_other_settings_names_each_of_them(tmp_path: Path) -> None:
    tiny_run.run(tmp_path, max_epochs=2)
    with pytest.raises(ConfigError) as caught:
        tiny_run.run(tmp_path, resume=True, max_epochs=3, learning_rate=0.5, progress=False)
    assert "learning_rate was 0.001 and is now 0.5; max_epochs was 2 and is now 3" in str(
        caught.value
    )


def test_resuming_with_another_number_of_batches_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(max_epochs=1, progress=False)
    fit(
        tiny_run.Linear(),
        tiny_run.Reading(tiny_run.FakeSampler(), tiny_run.cells_of()),
        config,
        run_dir=tmp_path,
    )
    with pytest.raises(ConfigError, match="batches per epoch were 6 and are 11"):
        fit(
            tiny_run.Linear(),
            tiny_run.Reading(tiny_run.FakeSampler(batch_size=4), tiny_run.cells_of()),
            config,
            run_dir=tmp_path,
            resume=True,
        )


def test_resuming_with_another_model_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(max_epochs=1, progress=False)
    args = tiny_run.Reading(tiny_run.FakeSampler(), tiny_run.cells_of()), config
    fit(tiny_run.Linear(), *args, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match="saved from another model or optimizer"):
        fit(tiny_run.Selecting(), *args, run_dir=tmp_path, resume=True)


def interrupt_at(wanted: int) -> Any:
    def before_step(step: int) -> None:
        if step == wanted:
            os.kill(os.getpid(), signal.SIGINT)

    return before_step


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_random_numbers_of_the_device_are_part_of_a_checkpoint(tmp_path: Path, device: str) -> None:
    whole, expected = tiny_run.run(None, device=device)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(tmp_path, device=device, before_step=interrupt_at(7))
    resumed, history = tiny_run.run(tmp_path, device=device, resume=True)
    assert history.without_timings() == expected.without_timings()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
