"""A save that crashes loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from tests.helpers.stored import same_weights, small


@pytest.mark.parametrize("function", ["fsync", "link", "replace"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_crash_in_a_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    """The save stops dead at the n-th call of fsync, link or replace, before or after it."""
    path = tmp_path / "m.safetensors"
    for before in (True, False):
        ss.save(path, small(0))
        ss.save(path, small(1))
        real, count = getattr(os, function), 0

        def crash(*args: Any, real: Any = real, before: bool = before) -> Any:
            nonlocal count
            count += 1
            if count == call and before:
                raise SystemExit
            value = real(*args)
            if count == call:
                raise SystemExit
            return value

        with monkeypatch.context() as patch:
            patch.setattr(os, function, crash)
            try:
                ss.save(path, small(2))
                assert count < call
            except SystemExit:
                pass
        now, previous = ss.load(path), ss.load(tmp_path / "m.previous.safetensors")
        assert same_weights(now, small(1)) or same_weights(now, small(2))
        assert same_weights(previous, small(0)) or same_weights(previous, small(1))
        ss.save(path, small(3))
        assert same_weights(ss.load(path), small(3))
        assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.previous.safetensors"}


def test_without_hard_links_the_previous_version_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    for seed in range(3):
        ss.save(tmp_path / "deep" / "er" / "m.safetensors", small(seed))
    folder = tmp_path / "deep" / "er"
    assert same_weights(ss.load(folder / "m.safetensors"), small(2))
    assert same_weights(ss.load(folder / "m.previous.safetensors"), small(1))
    assert len(list(folder.iterdir())) == 2


def test_everything_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (events.append(name), real(*a))[1]
        )
    ss.save(tmp_path / "m.safetensors", small())
    assert events == ["fsync", "replace", "fsync"]  # the file, its name, the directory


@pytest.mark.parametrize("path", ["", "a\0b", "a" * 300, b"a", 5])
@pytest.mark.parametrize("door", ["save", "load", "train", "folder", "interop"])
def test_a_path_that_is_none_is_refused(door: str, path: Any) -> None:
    """Before anything is written, and in the library's own words."""
    score = ss.GaussianScore(torch.zeros(2), 1.0, ss.VPSDE())
    sampler = ss.PredictorCorrector(ss.VPSDE(), steps=2)
    doors: dict[str, Callable[[], object]] = {
        "save": lambda: ss.save(path, small(0)),
        "load": lambda: ss.load(path),
        "train": lambda: ss.train(small(0), torch.ones(9, 2), steps=1, path=path, progress=False),
        "folder": lambda: ss.samplers.sample_to_folder(sampler, score, (2, 2), path),
        "interop": lambda: ss.load_edm(path, {}),
    }
    with pytest.raises(ss.errors.SDEScoreError, match=r"expected (path|out)"):
        doors[door]()


def test_a_folder_that_cannot_be_made_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "model.safetensors"
    with pytest.raises(ss.errors.CheckpointError, match="name another folder"):
        ss.train(small(0), torch.ones(9, 2), steps=1, path=path, progress=False)
