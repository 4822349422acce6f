"""Refuses names inside a model that would act as code.

``torch.fx``, and so ``torch.export``, writes every module, parameter and buffer that a graph uses
into Python source as ``getattr(self, "NAME")``, without escaping the name (according to the source
of torch 2.14). A quote in a name therefore turns into code, and even a pickle with only harmless
classes can contain such a name.
"""

from __future__ import annotations

import re

from torch import nn

from deployfold.errors import LoadError

_HARMLESS = re.compile(r"[\w.:/+ -]*")


def is_harmless_name(name: object) -> bool:
    """Whether a name cannot end the quotes around it in Python source."""
    return isinstance(name, str) and _HARMLESS.fullmatch(name) is not None


def check_names(module: nn.Module) -> None:
    """Refuse a model with a name that would act as code.

    Every attribute is checked, because ``torch.export`` also uses tensors in plain attributes.

    Raises:
        LoadError: a module, parameter, buffer or attribute has such a name.
    """
    for owner in module.modules():
        attributes = (vars(owner), owner._modules, owner._parameters, owner._buffers)
        for name in (name for group in attributes for name in group):
            if not is_harmless_name(name):
                raise LoadError(
                    f"The model has a part named {str(name)[:80]!r}, which torch.export would "
                    "write into source code without escaping it.",
                    hint="Rename it to letters, digits and underscores, and save the model again.",
                )
