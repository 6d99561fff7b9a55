"""What lies beside `config.json` and the weights in a saved folder for other tools; this package reads none of it.

With `trust_remote_code=True`, `AUTO_MAP` in `config.json` names our classes for transformers, and `modules.json` for
sentence-transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aape.runs.files import write_atomically

CODE_NAME = "modeling_aape.py"
_CLASSES = {
    "AutoConfig": "AaPEConfig",
    "AutoFeatureExtractor": "AaPEFeatureExtractor",
    "AutoModel": "AaPEModel",
    "AutoModelForAudioClassification": "AaPEForAudioClassification",
    "AutoModelForPreTraining": "AaPEForPreTraining",
}
AUTO_MAP = {auto: f"{CODE_NAME.removesuffix('.py')}.{name}" for auto, name in _CLASSES.items()}
# A plain import, which transformers looks for: where it fails, the message is to install the package.
_NAMES = sorted(_CLASSES.values())
_CODE = f'''"""For transformers with trust_remote_code=True: the classes of this model are those of the package aape."""

from aape.huggingface import {", ".join(_NAMES)}

__all__ = [{", ".join(f'"{name}"' for name in _NAMES)}]
'''
_MODULE = "AaPETransformer"
# A file of its own, because whoever uses transformers need not have sentence-transformers.
_MODULE_CODE = f'''"""For sentence-transformers with trust_remote_code=True: the class is that of the package aape."""

from aape.adapters.sentence_transformers import {_MODULE}

__all__ = ["{_MODULE}"]
'''


def to_json(values: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Return what a JSON file of a saved folder holds."""
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


_FILES = {
    CODE_NAME: _CODE.encode(),
    # The front end itself is in config.json alone, so that there is one.
    "preprocessor_config.json": to_json(
        {
            "feature_extractor_type": _CLASSES["AutoFeatureExtractor"],
            "auto_map": {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]},
        }
    ),
    "custom_st.py": _MODULE_CODE.encode(),
    "modules.json": to_json([{"idx": 0, "name": "0", "path": "", "type": f"custom_st.{_MODULE}"}]),
}


def write_companions(folder: str | os.PathLike[str], *names: str) -> None:
    """Write the companions of a model, or those of these names, each whole."""
    for name in names or _FILES:
        write_atomically(Path(folder) / name, _FILES[name])
