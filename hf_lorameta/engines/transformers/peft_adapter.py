"""Adapters that PEFT loads by its own rules: attached, or as plain factors."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.engines.transformers.packing import check_row_attention
from hf_lorameta.errors import AdapterError, UsageError, first_line
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, open_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE

if TYPE_CHECKING:
    from hf_lorameta.engines.transformers.lora_layer import Factors


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
    names = _checked_tensor_names(adapter, base_model)
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


# --- as factors ---------------------------------------------------------------------------------


def load_in_slots(
    model: Any, folders: Sequence[Path], base_model: str = ""
) -> "dict[str, dict[int, Factors]] | None":
    """Return the factors of adapters by module, each adapter in a slot of its own.

    None if they cannot share passes: one of them is not a plain LoRA of linear layers, or adapts
    the output layer, or rows of the base model cannot share a sequence. Arguments are those of
    `attached`; the scaling is part of B.

    Raises:
        AdapterError: an adapter is broken, for another base model, or does not fit it.
    """
    try:
        check_row_attention(model)
        for folder in folders:
            open_adapter(folder)
    except (AdapterError, UsageError):
        return None
    loaded: dict[str, dict[int, Factors]] = {}
    for slot, folder in enumerate(folders):
        with attached(model, folder, base_model):
            factors = _factors(model)
        if factors is None:
            return None
        for name, pair in factors.items():
            loaded.setdefault(name, {})[slot] = pair
    return loaded


def _factors(model: Any) -> "dict[str, Factors] | None":
    """Return the factors of the adapter that PEFT has attached; None unless all are plain."""
    from peft.tuners.lora import Linear, LoraLayer
    from torch import nn

    factors, head = {}, model.get_output_embeddings()
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if type(layer) is not Linear or type(layer.base_layer) is not nn.Linear:
            return None
        if ".experts." in name or layer is head:  # gets some of the tokens, maybe in another order
            return None
        [adapter] = layer.active_adapters
        A, B = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        factors[name] = A.detach(), B.detach() * layer.scaling[adapter]
    return factors


# --- checks -------------------------------------------------------------------------------------


def _checked_tensor_names(folder: Path, base_model: str) -> set[str]:
    """Check an adapter's files, base model id and values; return the names of its tensors."""
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
            names = set(file.keys())
            broken = [name for name in names if not file.get_tensor(name).isfinite().all()]
    except SafetensorError as error:
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
