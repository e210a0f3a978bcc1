"""Adapters that PEFT loads by its own rules."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_lorameta.errors import AdapterError, first_line
from hf_lorameta.formats.lora_file import WEIGHTS_FILE


@contextmanager
def attached(model: Any, adapter: Path | None) -> Iterator[None]:
    """Attach an adapter, and restore the model's own modules afterwards, also after errors.

    Args:
        model: a causal LM of transformers.
        adapter: folder of a PEFT adapter; None attaches nothing.

    Raises:
        AdapterError: the adapter is broken, or does not fit the base model.
    """
    if adapter is None:
        yield
        return
    names = _checked_tensor_names(adapter)
    modules = dict(model.named_modules())
    attributes = set(vars(model))
    try:
        _attach(model, adapter, names)
        yield
    finally:
        for name, module in modules.items():
            if name and model.get_submodule(name) is not module:
                model.set_submodule(name, module)
        for added in set(vars(model)) - attributes:
            delattr(model, added)


def _attach(model: Any, folder: Path, names: set[str]) -> None:
    """Attach a PEFT adapter to the model, in place; refuse it if PEFT would ignore some tensors."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mismatches raise an error below
            wrapped = PeftModel.from_pretrained(model, folder)
    except Exception as error:
        problem = first_line(error)[:300]
        raise AdapterError(f"{folder} does not fit the base model: {problem}") from error
    _check_fit(wrapped, folder, names)
    model.eval()


def _checked_tensor_names(folder: Path) -> set[str]:
    """Return the names of an adapter's tensors after a check of their values."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names = set(file.keys())
            broken = [name for name in names if not file.get_tensor(name).isfinite().all()]
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE}: {first_line(error)[:300]}") from None
    if broken:
        raise AdapterError(f"{folder}: {min(broken)} has NaN or infinite values")
    return names


def _check_fit(wrapped: Any, folder: Path, names: set[str]) -> None:
    """Raise `AdapterError` unless a `PeftModel` has exactly the adapter's tensors of these names.

    PEFT only warns of tensors that it ignores, and of those that it makes up.
    """
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    if names != expected:
        raise AdapterError(
            f"{folder} does not fit the base model: {len(names - expected)} of its tensors are "
            f"unexpected and {len(expected - names)} are missing, e.g. {min(names ^ expected)}"
        )
