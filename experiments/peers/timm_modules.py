"""`Lookahead` and `ModelEmaV3` of the installed timm.

Its modules are taken by their paths: `import timm` imports torchvision and the Hugging Face hub,
and these two need nothing but torch.
"""

from importlib.metadata import files
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

__all__ = ["Lookahead", "ModelEmaV3"]


def module(path: str) -> Any:
    (file,) = (f for f in files("timm") or () if f.as_posix() == path)
    spec = spec_from_file_location(path.replace("/", "_").removesuffix(".py"), str(file.locate()))
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


Lookahead = module("timm/optim/lookahead.py").Lookahead
ModelEmaV3 = module("timm/utils/model_ema.py").ModelEmaV3
