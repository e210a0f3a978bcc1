"""An adapter's weights in memory, so that it runs without PEFT, which loads slowly."""

from pathlib import Path

from hf_lorameta.engines.scoring import Adapter, LoraWeights
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import open_adapter


def adapter_weights(folder: Path) -> Adapter:
    """Return the weights of a plain LoRA; the folder itself of another adapter, for PEFT.

    Raises:
        AdapterError: it is broken.
    """
    try:
        config, file = open_adapter(folder)
    except AdapterError:
        if not (folder / "adapter_config.json").exists():
            raise
        return folder
    pairs = [file.factors(module.name) for module in file.layout]
    return LoraWeights(file.layout, [(A, config.scaling * B) for A, B in pairs])
