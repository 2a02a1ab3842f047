"""`Lookahead` of the installed timm.

Its one module is taken by its path: `import timm` imports torchvision and the Hugging Face hub, and
this module needs nothing but torch.
"""

from importlib.metadata import files
from importlib.util import module_from_spec, spec_from_file_location

__all__ = ["Lookahead"]

(_path,) = (f for f in files("timm") or () if f.as_posix() == "timm/optim/lookahead.py")
_spec = spec_from_file_location("timm_optim_lookahead", str(_path.locate()))
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)
Lookahead = _module.Lookahead
