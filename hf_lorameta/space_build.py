"""Build the folder of a Space: its pages, this package, and pinned requirements.

The files of the installed package, editable installs included, lie next to `app.py`, where Python
finds them first. So a Space runs exactly the code that deployed it. The same files as a wheel let
visitors install it.
"""

import base64
import hashlib
import importlib.metadata
import io
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import RepoCard

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.open_bank import embedded_bank, hub_bank, open_bank, refuse_revision
from hf_lorameta.environment import DISTRIBUTION, pip_install
from hf_lorameta.errors import UsageError
from hf_lorameta.files import refuse_other_files, write_atomically, writing
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import check_visibility

DEFAULTS_FILE = "defaults.json"
PAGE = "app.py"
WHEEL = f"hf_lorameta-{__version__}-py3-none-any.whl"
_PACKAGE = Path(__file__).parent
_SHIPPED = "_space"
_CAPPED = {"pydantic": "pydantic>=2.9,<=2.12.5"}
"""Requirements that Gradio's extra ``mcp`` caps, whatever version is installed here."""


class Deployment(NamedTuple):
    """A Space that was published.

    Attributes:
        url: of its page.
        hardware: that a new one was created on; None for one that existed.
        why: reason for the hardware.
    """

    url: str
    hardware: str | None
    why: str | None


def build_space(
    folder: Path,
    *,
    bank: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    hub: Hub | None = None,
    cpu: bool = True,
) -> tuple[str, ...]:
    """Write the folder of a Space; return the names of its files.

    Args:
        folder: new, empty, or written by an earlier call, whose files are replaced; what else is
            in the folders of a build is deleted, and other files are kept.
        bank: dataset repo of the bank or pack that the Space uses; None is the bank in this
            package for `base`.
        base: Hub id of the base model; None is that of the bank, or of the default one.
        revision: branch, tag or commit of that repo; it is pinned to a commit.
        hub: None makes a client with the saved token.
        cpu: whether it takes torch for CPUs, which ZeroGPU cannot use, and which installs sooner.
    """
    pages, package = dict(_pages()), dict(_package_files())
    files = pages | package
    files["requirements.txt"] = _requirements(files["requirements.txt"].decode(), cpu).encode()
    if bank is not None:
        opened = open_bank(hub_bank(bank, revision, hub), base)
        files |= _for_bank(files["README.md"], opened)
    else:
        refuse_revision(revision)
        if base is not None:
            files |= _for_bank(files["README.md"], embedded_bank(base))
    files = {WHEEL: _wheel(pages, package)} | files  # first, since it marks a folder as a build
    with writing(folder, UsageError, "name another folder"):
        _clear(folder, files)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
    return tuple(sorted(files))


def deploy_space(
    repo_id: str,
    *,
    bank: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    private: bool = False,
    hub: Hub | None = None,
) -> Deployment:
    """Publish a Space in one commit, a new one on hardware that the account may use.

    Other arguments are those of `build_space`.

    Args:
        repo_id: ``user/space``; an existing Space gets the new files, and keeps its variables and
            other files; if it is an earlier build, what else is in the folders of a build is
            deleted.
        private: whether a new Space is private; an existing public one is then refused.
    """
    hub = hub or Hub()
    hub.check_token()
    existing = hub.existing(repo_id, "space")
    hardware = why = None
    if existing is not None:
        check_visibility(existing, private or None)
    else:
        hardware, why = hub.space_hardware(repo_id.partition("/")[0])
    with tempfile.TemporaryDirectory(prefix="hf-lorameta-space-") as scratch:
        folder = Path(scratch)
        cpu = hardware is not None and hardware.startswith("cpu")
        files = build_space(folder, bank=bank, base=base, revision=revision, hub=hub, cpu=cpu)
        present = sorted(existing.files) if existing else []
        old = [name for name in present if name not in files and _is_of_build(name, files)]
        url = hub.publish(
            Upload(folder, delete=old if any(map(_is_wheel, present)) else ()),
            repo_id,
            message="The Space of hf-lorameta",
            private=private if existing is None else existing.private,
            parent=existing,
            repo_type="space",
            hardware=hardware,
        )
    return Deployment(url, hardware, why)


# --- the files ----------------------------------------------------------------------------------


def _pages() -> Iterator[tuple[str, bytes]]:
    """Yield the files of ``space/``: next to the package in a checkout, inside it if installed."""
    folders = (_PACKAGE / _SHIPPED, _PACKAGE.parent / "space")
    folder = next((folder for folder in folders if (folder / PAGE).is_file()), None)
    if folder is None:
        raise UsageError(
            "the pages of the Space are not part of this installation",
            code="space.no-pages",
            hint=pip_install("--force-reinstall", DISTRIBUTION),
        )
    yield from _files_in(folder)


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Yield the files of this package, and the metadata that says where it can be had."""
    for name, content in _files_in(_PACKAGE):
        if not name.startswith(f"{_SHIPPED}/"):
            yield f"{_PACKAGE.name}/{name}", content
    yield f"{_PACKAGE.name}-{__version__}.dist-info/METADATA", _metadata("METADATA")


def _metadata(name: str) -> bytes:
    """Return a file of the metadata of the installed package."""
    return (_distribution().read_text(name) or "").encode()


def _wheel(pages: Mapping[str, bytes], package: Mapping[str, bytes]) -> bytes:
    """Return the wheel of this package, which has the pages as well; the same files, same bytes."""
    info = f"{_PACKAGE.name}-{__version__}.dist-info"
    files = {f"{_PACKAGE.name}/{_SHIPPED}/{name}": content for name, content in pages.items()}
    files |= package
    tag = "Wheel-Version: 1.0\nGenerator: hf-lorameta\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/WHEEL"] = tag.encode()
    files[f"{info}/entry_points.txt"] = _metadata("entry_points.txt")
    listed = [f"{name},{_record_hash(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*listed, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in files.items():  # of tensors, a higher level takes off 3 % more
            opened.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)
    return buffer.getvalue()


def _record_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.decode().rstrip('=')}"


def _files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__", "conftest")) for part in inside.parts)
        if path.is_file() and not hidden:
            yield inside.as_posix(), path.read_bytes()


# --- earlier builds -----------------------------------------------------------------------------


def _clear(folder: Path, files: Iterable[str]) -> None:
    """Create the folder, or remove what an earlier build put there.

    Raises:
        UsageError: it holds files, and not those of a build.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(folder.iterdir(), key=lambda path: _is_wheel(path.name))  # wheels last
    if not any(_is_wheel(path.name) for path in present):
        refuse_other_files(folder, (path.name for path in present))
    for path in present:
        if _is_of_build(path.name, files):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_wheel(name: str) -> bool:
    """Whether a file in a folder or a Space says that it is a build."""
    return name.startswith(f"{_PACKAGE.name}-") and name.endswith(".whl")


def _is_of_build(name: str, files: Iterable[str]) -> bool:
    """Whether a name is in a folder of this build, or that of a file only earlier ones have."""
    top = name.partition("/")[0]
    ours = {DEFAULTS_FILE, "files.json", *(file.partition("/")[0] for file in files)}
    return top in ours or top.startswith(f"{_PACKAGE.name}-")


# --- their content ------------------------------------------------------------------------------


def _requirements(text: str, cpu: bool) -> str:
    """Return the pages' requirements and this package's, pinned to the installed versions."""
    left_out = "#" if cpu else ("#", "--")
    own = [line for line in text.splitlines() if line and not line.startswith(left_out)]
    needed = _distribution().requires or ()
    pinned = sorted(_pinned(line) for line in needed if "extra ==" not in line)
    return "\n".join([*own, *pinned]) + "\n"


def _pinned(requirement: str) -> str:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return _CAPPED.get(name) or f"{name}=={importlib.metadata.version(name)}"


def _for_bank(readme: bytes, bank: Bank) -> dict[str, bytes]:
    """Return the files that make a bank the default, and name it in the metadata."""
    base_model = bank.index.base_model
    defaults = {"base_model": base_model}
    card = RepoCard(readme.decode())
    card.data["models"] = [base_model]
    if bank.revision is not None:
        defaults |= {"bank": bank.id, "bank_revision": bank.revision}
        card.data["datasets"] = [bank.id]
    texts = {"README.md": str(card), DEFAULTS_FILE: json.dumps(defaults, indent=1) + "\n"}
    return {name: text.encode() for name, text in texts.items()}


def _distribution() -> importlib.metadata.Distribution:
    """Return the installed package; `UsageError` if only its files are there."""
    try:
        found = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None or found.version != __version__:
        raise UsageError(
            f"{DISTRIBUTION} {__version__} is not installed as a package, so its requirements are "
            "not known",
            code="space.not-installed",
            hint=pip_install("-e", "."),
        )
    return found
