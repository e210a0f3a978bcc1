"""Attach a PEFT adapter to a model of transformers, and take it off again."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_lorameta.errors import AdapterError, first_line
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE


@contextmanager
def attached(model: Any, adapter: Path | None, base_model: str = "") -> Iterator[None]:
    """Attach an adapter, and restore the model's own modules afterwards, also after errors.

    Args:
        model: a causal LM of transformers.
        adapter: folder of a PEFT adapter; None attaches nothing.
        base_model: id that the adapter must name as its base model; "" accepts any.

    Raises:
        AdapterError: the adapter is broken, for another base model, or does not fit it.
    """
    if adapter is None:
        yield
        return
    names = checked_tensor_names(adapter, base_model)
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


def checked_tensor_names(folder: Path, base_model: str) -> set[str]:
    """Check an adapter's files and base model id; return the names of its tensors."""
    from safetensors import SafetensorError, safe_open

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} holds no {name}")
    try:
        base = json.loads((folder / CONFIG_FILE).read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise AdapterError(f"{folder / CONFIG_FILE} is not a JSON object") from None
    if base_model and base and str(base).lower() != base_model.lower():
        raise AdapterError(f"the adapter in {folder} is for {base}, expected {base_model}")
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE}: {first_line(error)[:300]}") from None


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
    check_fit(wrapped, folder, names)
    model.eval()


def check_fit(wrapped: Any, folder: Path, names: set[str]) -> None:
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
