"""A model's three methods for the Hugging Face Hub, by the names of ``huggingface_hub``.

A model knows nothing of files. So :mod:`sdescore.checkpoint.hub`, which does, is loaded by its name
when one of these methods is called.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from sdescore.score.model import ScoreModel
    from sdescore.sde.linear import LinearSDE


class HubMethods:
    """``save_pretrained``, ``push_to_hub`` and ``from_pretrained`` of a score model."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder of the Hub: weights, a configuration and a model card.

        The weights are the file of :func:`sdescore.save`, ``model.safetensors``. A model card,
        ``README.md``, that is already there stays.

        Parameters
        ----------
        folder : path
            It is made if it does not exist.

        Raises
        ------
        IncompatibleError
            The package ``huggingface_hub`` is missing, or the model cannot be saved; see
            :func:`sdescore.save`.
        CheckpointError
            As :func:`sdescore.save`.
        """
        _hub().published(self, Path(folder).name).save_pretrained(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a score model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hub, in one commit.

        Parameters
        ----------
        repo_id : str
            ``"user/name"``; the repository is made if it does not exist.
        commit_message : str
            The commit's message.
        private : bool, optional
            Whether a new repository is private; by default as the account says.
        token : str, optional
            By default that of ``hf auth login``.
        branch : str, optional
            By default ``main``.
        create_pr : bool
            Whether to open a pull request in place of a commit.

        Returns
        -------
        str
            The commit's address.

        Raises
        ------
        IncompatibleError, CheckpointError
            As :meth:`save_pretrained`. Errors of the network are those of ``huggingface_hub``.
        """
        own = _hub().published(self, repo_id)
        options = {"commit_message": commit_message, "private": private, "token": token}
        return str(own.push_to_hub(repo_id, branch=branch, create_pr=create_pr, **options))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: torch.device | str = "cpu",
        net: nn.Module | None = None,
        sde: LinearSDE | None = None,
    ) -> ScoreModel:
        """The model of a folder or of a repository of the Hub, in evaluation mode.

        Nothing of what is downloaded is executed; see :func:`sdescore.load`.

        Parameters
        ----------
        name : path or str
            A folder that :meth:`save_pretrained` wrote, or ``"user/name"``.
        revision : str, optional
            A branch, a tag or a commit; by default ``main``.
        token : str or bool, optional
            By default that of ``hf auth login``; False sends none.
        cache_dir : path, optional
            Where downloads are stored; by default ``huggingface_hub``'s own place.
        force_download, local_files_only : bool
            Download again; download nothing.
        device, net, sde
            As :func:`sdescore.load`.

        Raises
        ------
        IncompatibleError
            The package ``huggingface_hub`` is missing.
        CheckpointError, FileNotFoundError
            As :func:`sdescore.load`. Errors of the network are those of ``huggingface_hub``.

        Examples
        --------
        >>> import tempfile, sdescore as ss
        >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     again = ss.ScoreModel.from_pretrained(folder)
        >>> again.sde == model.sde
        True
        """
        options = {"revision": revision, "token": token, "cache_dir": cache_dir}
        options |= {"force_download": force_download, "local_files_only": local_files_only}
        parts = {"device": device, "net": net, "sde": sde}
        found = _hub().published_kind().from_pretrained(os.fspath(name), **options, **parts)
        return cast("ScoreModel", found.model)


def _hub() -> Any:
    return import_module("sdescore.checkpoint.hub")
