"""Build the folder of a Space: its pages, this package as a wheel, and pinned requirements.

The wheel is built from the installed package, editable installs included, so that a Space runs
exactly the code that deployed it. `app.py` unpacks the wheel: the Hub installs requirements before
it copies the repo's other files, so a wheel cannot be a requirement.
"""

import base64
import hashlib
import importlib.metadata
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import RepoCard

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.environment import DISTRIBUTION, pip_install
from hf_lorameta.errors import UsageError
from hf_lorameta.files import refuse_other_files, write_atomically
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import check_visibility

DEFAULTS_FILE = "defaults.json"
PAGE = "app.py"
MAX_BANK_BYTES = 2_000_000_000
"""Largest bank of unpacked adapters that a Space accepts: it fetches them at every start."""
_PACKAGE = Path(__file__).parent
_SHIPPED = "_space"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_REPLACED = re.compile(r"hf_lorameta-.*\.whl|" + re.escape(DEFAULTS_FILE))
"""Files of an earlier build that a later one may not have."""
_WHEEL = "Wheel-Version: 1.0\nGenerator: hf-lorameta\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_CAPPED = {"pydantic": "pydantic>=2.9,<=2.12.5"}
"""Requirements that Gradio's extra ``mcp`` caps, whatever version is installed here."""


def build_space(
    folder: Path,
    *,
    bank: str | None = None,
    revision: str | None = None,
    whole_bank: bool = False,
    hub: Hub | None = None,
) -> tuple[str, ...]:
    """Write the folder of a Space; return the names of its files.

    Args:
        folder: new, empty, or written by an earlier call.
        bank: dataset repo of the bank or pack that the Space uses; None is the bank in this
            package.
        revision: branch, tag or commit of that repo; it is pinned to a commit.
        whole_bank: accept a bank that is larger than `MAX_BANK_BYTES` and not a pack.
        hub: None makes a client with the saved token.
    """
    files = dict([*_pages(), package_wheel()])
    files["requirements.txt"] = _requirements(files["requirements.txt"].decode()).encode()
    if bank is not None:
        files |= _for_bank(files["README.md"], bank, revision, whole_bank, hub or Hub())
    _check_folder(folder, set(files))
    for old in folder.iterdir():
        if _REPLACED.fullmatch(old.name):
            old.unlink()
    for path, content in files.items():
        write_atomically(folder / path, content)
    return tuple(sorted(files))


def deploy_space(
    repo_id: str,
    *,
    bank: str | None = None,
    revision: str | None = None,
    whole_bank: bool = False,
    private: bool | None = None,
    hub: Hub | None = None,
) -> str:
    """Publish a Space in one commit; return its URL. Other arguments are those of `build_space`.

    Args:
        repo_id: ``user/space``; an existing Space gets the new files, loses the wheels and the
            default bank of earlier ones, and keeps its variables.
        private: visibility of a new Space; None is public. True refuses an existing public one.
    """
    hub = hub or Hub()
    hub.check_token()
    existing = hub.existing(repo_id, "space")
    if existing is not None:
        check_visibility(existing, private or None)
    with tempfile.TemporaryDirectory(prefix="lorameta-space-") as scratch:
        folder = Path(scratch)
        files = build_space(folder, bank=bank, revision=revision, whole_bank=whole_bank, hub=hub)
        earlier = filter(_REPLACED.fullmatch, existing.files if existing else ())
        return hub.publish(
            Upload(folder, delete=sorted(set(earlier) - set(files))),
            repo_id,
            message="The Space of hf-lorameta",
            private=bool(private) if existing is None else existing.private,
            parent=existing,
            repo_type="space",
        )


# --- the pages ----------------------------------------------------------------------------------


def _pages() -> Iterator[tuple[str, bytes]]:
    """Yield the files of ``space/``: next to the package in a checkout, inside it if installed."""
    folders = (_PACKAGE / _SHIPPED, _PACKAGE.parent / "space")
    folder = next((folder for folder in folders if (folder / PAGE).is_file()), None)
    if folder is None:
        raise UsageError(
            "the pages of the Space are not part of this installation",
            hint=pip_install("--force-reinstall", DISTRIBUTION),
        )
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".whl":
            yield path.name, path.read_bytes()


def _requirements(text: str) -> str:
    """Return the pages' requirements and this package's, pinned to the installed versions."""
    own = [line for line in text.splitlines() if line and not line.startswith(("#", DISTRIBUTION))]
    needed = [_pinned(line) for line in _distribution().requires or () if "extra ==" not in line]
    return "\n".join([*own, *sorted(needed)]) + "\n"


def _pinned(requirement: str) -> str:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return _CAPPED.get(name) or f"{name}=={importlib.metadata.version(name)}"


def _for_bank(
    readme: bytes, bank: str, revision: str | None, whole_bank: bool, hub: Hub
) -> dict[str, bytes]:
    """Return the files that make a pinned bank the default, and name it in the metadata."""
    pinned = hub.resolve(bank, "dataset", revision)
    opened = Bank.from_pretrained(bank, revision=pinned.sha, hub=hub)
    if opened.index.packing is None and opened.size > MAX_BANK_BYTES and not whole_bank:
        pack = f"{bank.rpartition('/')[2]}-pack"
        raise UsageError(
            f"{bank} holds {opened.size / 1e9:.1f} GB of adapters, which a Space would download "
            "at every start and read for every adapter: expected a pack",
            hint=f"hf-lorameta bank pack {bank} -o {pack} --basis 128, then hf-lorameta bank push "
            f"{pack} {bank}-pack, then use --bank {bank}-pack; or add --whole-bank",
        )
    base_model = opened.index.base_model
    defaults = {"bank": bank, "bank_revision": pinned.sha, "base_model": base_model}
    card = RepoCard(readme.decode())
    card.data["models"], card.data["datasets"] = [base_model], [bank]
    texts = {"README.md": str(card), DEFAULTS_FILE: json.dumps(defaults, indent=1) + "\n"}
    return {name: text.encode() for name, text in texts.items()}


def _check_folder(folder: Path, names: set[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}") from None
    others = {path.name for path in folder.iterdir()} - names - {"__pycache__", ".gradio"}
    refuse_other_files(folder, (name for name in others if not _REPLACED.fullmatch(name)))


# --- the wheel ----------------------------------------------------------------------------------


def _distribution() -> importlib.metadata.Distribution:
    try:
        found = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None or found.version != __version__:
        raise UsageError(
            f"{DISTRIBUTION} {__version__} is not installed as a package, so no wheel can be built",
            hint=f"install it first: {pip_install('-e', '.')}",
        )
    return found


def package_wheel() -> tuple[str, bytes]:
    """Return this package as a wheel (file name, content); the same package gives the same bytes.

    Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    found = _distribution()
    stem = f"hf_lorameta-{found.version}"
    files = dict(_package_files())
    for name in ("METADATA", "entry_points.txt"):
        files[f"{stem}.dist-info/{name}"] = (found.read_text(name) or "").encode()
    files[f"{stem}.dist-info/WHEEL"] = _WHEEL.encode()
    record = f"{stem}.dist-info/RECORD"
    listed = [f"{name},{_digest(content)},{len(content)}" for name, content in files.items()]
    files[record] = "".join(f"{line}\n" for line in [*listed, f"{record},,"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=1) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return f"{stem}-py3-none-any.whl", buffer.getvalue()


def _package_files() -> Iterator[tuple[str, bytes]]:
    for path in sorted(_PACKAGE.rglob("*")):
        inside = path.relative_to(_PACKAGE.parent).as_posix()
        hidden = "__pycache__" in path.parts or f"/{_SHIPPED}/" in inside
        if path.is_file() and not hidden:
            yield inside, path.read_bytes()
    for name, content in _pages():
        yield f"{_PACKAGE.name}/{_SHIPPED}/{name}", content


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"
