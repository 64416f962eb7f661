"""Links, several writers, full disks."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import sdescore as ss
from sdescore import files
from sdescore.checkpoint import container
from tests.helpers import ROOT
from tests.helpers.files import is_model, posix, python, small


@pytest.mark.guards("W05")
@posix
def test_a_planted_link_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the attacker guesses the temporary name: the save refuses."""
    victim, path = tmp_path / "victim", tmp_path / "m.safetensors"
    victim.write_text("mine")
    (tmp_path / ".m.safetensors.new").symlink_to(victim)
    ss.save(path, small())
    assert is_model(path, 0) and not path.is_symlink()
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "guessed")
    planted = tmp_path / ".m.safetensors.guessed.new"
    planted.symlink_to(victim)
    with pytest.raises(ss.errors.CheckpointError, match="FileExistsError"):
        ss.save(path, small(1))
    assert victim.read_text() == "mine" and is_model(path, 0)


@posix
def test_a_link_of_ones_own_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "m.safetensors", tmp_path / "latest.safetensors"
    target.parent.mkdir()
    link.symlink_to(target)
    for seed in (0, 1):  # the link dangles at first
        ss.save(link, small(seed))
        assert link.is_symlink() and not target.is_symlink() and is_model(target, seed)
    assert is_model(tmp_path / "disk" / "m.previous.safetensors", 0)
    assert {p.name for p in tmp_path.iterdir()} == {"disk", "latest.safetensors"}
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(ss.errors.CheckpointError, match=r"disk/m\.previous"):
        ss.load(link)


@posix
def test_a_strangers_link_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, path = tmp_path / "victim", tmp_path / "m.safetensors"
    victim.write_text("mine")
    path.symlink_to(victim)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    ss.save(path, small())
    assert victim.read_text() == "mine" and not path.is_symlink() and is_model(path, 0)


@posix
def test_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Private until whole; then what the umask allows, or what the file before had."""
    path, seen = tmp_path / "m.safetensors", []
    real = container.has_nan

    def look(data: Tensor) -> bool:
        (temporary,) = tmp_path.glob(".*.new")
        seen.append(stat.S_IMODE(temporary.stat().st_mode))
        return real(data)

    monkeypatch.setattr(container, "has_nan", look)
    before = os.umask(0o027)
    try:
        ss.save(path, small())
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        ss.save(path, small(1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        assert os.umask(before) == 0o027
    assert set(seen) == {0o600}


# Two at once, and what fails.


SAVES = """
import sys, torch
torch.set_num_threads(1)
from tests.helpers.files import small
import sdescore as ss
path, seed = sys.argv[1], int(sys.argv[2])
model = small(seed)
for _ in range(30):
    ss.save(path, model)
"""


@pytest.mark.slow
@pytest.mark.guards("W05")
def test_two_processes_save_to_one_path(tmp_path: Path) -> None:
    """No save fails, and whoever reads meanwhile finds one of the two models, whole."""
    path = tmp_path / "m.safetensors"
    ss.save(path, small(0))
    ss.save(path, small(1))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVES, path, str(seed)], stderr=subprocess.PIPE, cwd=ROOT
        )
        for seed in (0, 1)
    ]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        for file in (path, tmp_path / "m.previous.safetensors"):
            assert is_model(file, 0, 1)
            reads += 1
    for writer in writers:
        assert writer.communicate()[1] == b"" and writer.returncode == 0
    assert reads and {p.name for p in tmp_path.iterdir()} == {
        "m.safetensors", "m.previous.safetensors"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.guards("W05")
@posix
def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """Files of this process may have 2,000 bytes: a real error from the system, mid-file."""
    path = tmp_path / "m.safetensors"
    ss.save(path, small(0))
    code = """
import resource, signal, sys, sdescore as ss
from tests.helpers.files import small
model = small(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    ss.save(sys.argv[1], model)
except ss.errors.CheckpointError as error:
    print(type(error.__cause__).__name__, error)
"""
    said = python(code, path)
    assert said.startswith("OSError expected to write") and "untouched" in said
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"] and is_model(path, 0)


@pytest.mark.parametrize("function", ["fsync", "link", "replace"])
def test_an_error_of_the_system_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(path, small(0))

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        patch.setattr(files.shutil, "copy", fail)
        with pytest.raises(ss.errors.CheckpointError, match="No space left") as caught:
            ss.save(path, small(1))
    assert isinstance(caught.value.__cause__, OSError) and is_model(path, 0)
    names = {p.name for p in tmp_path.iterdir()}
    assert names <= {"m.safetensors", "m.previous.safetensors"}


@posix
def test_what_a_killed_save_left_is_swept_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    (tmp_path / ".m.safetensors.0123456789abcdef.new").write_bytes(b"half")
    (tmp_path / ".m.safetensors.0123456789abcdef.link").write_bytes(b"half")
    other = tmp_path / ".n.safetensors.0123456789abcdef.new"
    other.write_bytes(b"another file's")
    with files.replacing(path) as file:  # a save under way while another one begins and ends
        file.write(b"first")
        ss.save(path, small())
        live = set(tmp_path.glob(".m.*"))
        assert len(live) == 1
    assert path.read_bytes() == b"first"
    assert is_model(tmp_path / "m.previous.safetensors", 0)
    assert {p.name for p in tmp_path.glob(".*")} == {other.name}
