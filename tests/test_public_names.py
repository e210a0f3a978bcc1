"""The public names of `hf_lorameta`."""

import subprocess
import sys

import pytest

import hf_lorameta


@pytest.mark.parametrize("name", hf_lorameta.__all__)
def test_public_names_can_be_imported(name: str) -> None:
    value = getattr(hf_lorameta, name)
    assert value is not None
    assert name in dir(hf_lorameta)
    if isinstance(value, type) or callable(value):
        assert value.__name__ == name
        assert value.__doc__


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from hf_lorameta import *", names)
    assert set(names) - {"__builtins__"} == set(hf_lorameta.__all__)


def test_all_is_complete_and_has_no_duplicates() -> None:
    assert len(set(hf_lorameta.__all__)) == len(hf_lorameta.__all__)
    assert set(hf_lorameta.__all__) - {"LoraMetaError"} == set(hf_lorameta._MODULES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hf_lorameta.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("hf_lorameta", "numpy datasets huggingface_hub torch typer pydantic"),
        ("hf_lorameta.cli.app", "numpy datasets huggingface_hub torch"),
    ],
)
def test_importing_the_package_or_its_options_takes_little(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
