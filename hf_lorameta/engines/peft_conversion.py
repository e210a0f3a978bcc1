"""Convert adapters of other PEFT types (LoHa, LoKr, VeRA, …) to LoRA, by PEFT itself.

Only the shapes of the base model are needed, which its ``config.json`` states. In place of its
weights there is one NaN for each, so that a type whose update depends on them fails.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_lorameta.engines.peft_adapter import check_fit, checked_tensor_names
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import AdapterError, first_line

_ENERGY = 1 - 1e-6
"""Share of each update's squared norm that a conversion keeps: an error of 0.1 %."""


def convert_to_lora(folder: Path, target: Path, base_config: Mapping[str, Any]) -> None:
    """Write the adapter in a folder as a LoRA adapter, whose ranks may differ by module.

    Args:
        folder: adapter of any type that PEFT converts: one whose update does not depend on the base
            model's weights.
        target: folder that is written.
        base_config: the base model's parsed ``config.json``.

    Raises:
        AdapterError: PEFT cannot load or convert it, or has other tensors for this base model.
        MissingExtraError: torch, transformers or PEFT is not installed.
    """
    require_extra("torch", "transformers", "peft")
    import torch
    from peft import PeftModel
    from peft.tuners.lora import save_as_lora
    from transformers import AutoConfig, AutoModelForCausalLM

    names = checked_tensor_names(folder, "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = {key: value for key, value in base_config.items() if key != "model_type"}
            config = AutoConfig.for_model(base_config["model_type"], **shapes)
            with torch.device("meta"):
                base = AutoModelForCausalLM.from_config(config)
            for module in base.modules():
                for name, weight in list(module.named_parameters(recurse=False)):
                    empty = torch.tensor(torch.nan).expand(weight.shape)
                    setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
            model = PeftModel.from_pretrained(base, folder)
            check_fit(model, folder, names)
            save_as_lora(target, model, rank=_ENERGY)
    except AdapterError:
        raise
    except Exception as error:
        raise AdapterError(
            f"PEFT cannot convert {folder.name} to LoRA: {first_line(error)[:300]}",
            hint="merge adapters whose update does not depend on the base model's weights",
        ) from error
