"""Models on the Hugging Face Hub, through ``huggingface_hub``'s own ``ModelHubMixin``.

A repository holds ``model.safetensors``, which is what :func:`sdescore.save` writes and all that
loading reads; ``config.json``, its SDE, convention and network for people; and a model card.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from sdescore import checks
from sdescore.checkpoint.manifest import describe_model, to_json
from sdescore.checkpoint.store import load, save
from sdescore.errors import IncompatibleError
from sdescore.score.model import ScoreModel

WEIGHTS, CONFIG = "model.safetensors", "config.json"

CARD = """---
library_name: sdescore
tags:
- sdescore
- score-based-diffusion
---

# {name}

A score-based diffusion model, made with the Python library `sdescore`.

- **SDE:** `{sde}`
- **Network:** `{net}`, which predicts `{prediction}` and takes `{time_input}` as its time
- **Data:** samples come out with `data_mean={mean}` and `data_std={std}` applied

To sample it:

```python
import sdescore as ss

model = ss.ScoreModel.from_pretrained("{name}")
sampler = ss.PredictorCorrector(model.sde, steps=50)
x = sampler.sample(model, shape=(16, ...))  # the shape of a sample comes after the 16
```

The file `model.safetensors` holds the weights and everything that is needed to build the model.
Loading it runs no code from this repository.
"""


def card(model: ScoreModel, name: str) -> str:
    """The text of a model card."""
    sde, net = repr(model.sde), describe_model(model)["net"]["class"]
    sde = sde if len(sde) < 200 else f"{type(model.sde).__name__}(…)"
    network = {key: model.options[key] for key in ("prediction", "time_input")}
    data = {"mean": model.data_scale.mean, "std": model.data_scale.std}
    return CARD.format(name=name, sde=sde, net=net, **network, **data)


def published(model: ScoreModel, name: str) -> Any:
    """A model, by its name on the model card, with the methods of ``ModelHubMixin``."""
    return published_kind()(model, name)


@cache
def published_kind() -> Any:
    """The class of :func:`published` objects, made when it is first asked for.

    Raises
    ------
    IncompatibleError
        ``huggingface_hub`` is not installed.
    """
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError:
        got = "an environment without it; pip install huggingface_hub"
        checks.refuse("the package huggingface_hub", got, IncompatibleError)

    class Published(hub.ModelHubMixin):  # type: ignore[misc]
        """A model and its repository."""

        def __init__(self, model: ScoreModel, name: str = "") -> None:
            self.model, self.name = model, name

        def generate_model_card(self) -> Any:
            return hub.ModelCard(card(self.model, self.name))

        def _save_pretrained(self, save_directory: Path) -> None:
            save(save_directory / WEIGHTS, self.model)
            config = json.dumps(json.loads(to_json(describe_model(self.model))), indent=2)
            (save_directory / CONFIG).write_text(config, encoding="utf-8")

        @classmethod
        def _from_pretrained(
            cls,
            *,
            model_id: str,
            revision: str | None,
            cache_dir: str | Path | None,
            force_download: bool,
            local_files_only: bool,
            token: str | bool | None,
            device: Any,
            net: Any,
            sde: Any,
        ) -> Published:
            path = Path(model_id) / WEIGHTS
            if not Path(model_id).is_dir():
                where = {"revision": revision, "cache_dir": cache_dir, "token": token}
                how = {"force_download": force_download, "local_files_only": local_files_only}
                path = Path(hub.hf_hub_download(model_id, WEIGHTS, **where, **how))
            return cls(load(path, device=device, net=net, sde=sde))

    return Published
