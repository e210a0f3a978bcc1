"""Attach adapters with PEFT, which loads them by its own rules."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_lorameta.errors import AdapterError, first_line
from hf_lorameta.formats.lora_file import WEIGHTS_FILE


@contextmanager
def attached_by_peft(model: Any, adapter: Path | None) -> Iterator[None]:
    """Attach an adapter, and restore the model's own modules afterwards, even after errors.

    Args:
        model: a causal LM of transformers.
        adapter: folder of a PEFT adapter; None attaches nothing.

    Raises:
        AdapterError: the adapter is broken, or does not fit the base model.
    """
    if adapter is None:
        yield
        return
    modules = dict(model.named_modules())
    attributes = set(vars(model))
    try:
        _attach(model, adapter)
        yield
    finally:
        for name, module in modules.items():
            if name and model.get_submodule(name) is not module:
                model.set_submodule(name, module)
        for added in set(vars(model)) - attributes:
            delattr(model, added)


def _attach(model: Any, folder: Path) -> None:
    """Attach a PEFT adapter to the model, in place.

    Raises if PEFT would ignore some of its tensors or make some up, about which PEFT only warns.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names = set(file.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(model, folder)
    except Exception as error:
        problem = first_line(error)[:300]
        raise AdapterError(
            f"{folder} is broken or does not fit the base model: {problem}",
            code="adapter.does-not-fit",
        ) from error
    tensors = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    if names != tensors.keys():
        raise AdapterError(
            f"{folder} does not fit the base model: {len(names - tensors.keys())} of its tensors "
            f"are unexpected and {len(tensors.keys() - names)} are missing, e.g. "
            f"{min(names ^ tensors.keys())}",
            code="adapter.does-not-fit",
        )
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise AdapterError(
            f"{folder}: {min(broken)} has NaN or infinite values", code="adapter.not-finite"
        )
    model.eval()
