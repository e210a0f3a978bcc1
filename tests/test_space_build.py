"""Build and deploy the folder of a Space: pages, package, pinned requirements, default bank."""

import base64
import hashlib
import importlib.metadata
import json
import subprocess
import sys
import venv
import zipfile
from functools import partial
from pathlib import Path

import pytest
import yaml

from hf_lorameta import __version__, space_build
from hf_lorameta.errors import UsageError
from hf_lorameta.space_build import WHEEL, build_space
from tests.conftest import Account, Built, Shell
from tests.support.codes import raises_code
from tests.support.running_space import NO_STUBS, ROOT, SPACE, missing, running_space
from tests.support.shell import NO_PACKAGE

GRADIO = missing("gradio", "gradio_client")
ONE_FILE = """
import hf_lorameta.space_build as s
files = s._package_files()
s._package_files = lambda: (file for file in files if file[0] == "hf_lorameta/errors.py")
"""
"""Code to run before a command: a Space has one of the 400 files of the package."""


def relative_files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


def metadata(readme: str) -> dict[str, object]:
    return dict(yaml.safe_load(readme.split("---\n")[1]))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build_space(folder)
    return folder


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_holds_the_space_files_and_pinned_requirements(built: Path) -> None:
    assert relative_files(SPACE) <= relative_files(built)
    assert {
        "hf_lorameta/embedded/smollm2-135m/bank.json",
        "hf_lorameta/cards/model_card.md.j2",
        "hf_lorameta/bank/manifest_example.yaml",
        "hf_lorameta/space_build.py",
    } <= relative_files(built)
    lines = (built / "requirements.txt").read_text().splitlines()
    lines.remove("--extra-index-url https://download.pytorch.org/whl/cpu")
    open_ended = ("pydantic>=", "torch>=", "gguf>=")
    assert all("==" in line or line.startswith(open_ended) for line in lines), lines
    names = {line.split("=")[0].split(">")[0].split("[")[0] for line in lines}
    needed = importlib.metadata.requires("hf-lorameta") or []
    own = {"gguf", "gradio", "peft", "psutil", "python-calamine", "rouge-score", "torch",
           "transformers"}  # fmt: skip
    assert own < names
    assert len(names) == len(own) + sum("extra ==" not in line for line in needed)
    assert not any("hf-lorameta" in line or "hf_lorameta" in line for line in lines)


def test_the_readme_metadata_configures_the_space() -> None:
    data = metadata((SPACE / "README.md").read_text())
    pinned = (SPACE / "requirements.txt").read_text()
    assert f"gradio[oauth,mcp]=={data['sdk_version']}" in pinned
    assert data["sdk"] == "gradio"
    assert (SPACE / str(data["app_file"])).is_file()
    assert data["hf_oauth"] is True
    assert data["hf_oauth_scopes"] == ["contribute-repos"]
    assert data["suggested_hardware"] == "cpu-basic"
    assert len(str(data["short_description"])) <= 60
    assert data["python_version"] == "3.12"


def test_every_variable_is_documented() -> None:
    from dataclasses import fields

    sys.path.insert(0, str(SPACE))
    try:
        from settings import SpaceSettings
    finally:
        sys.path.remove(str(SPACE))
    text = (SPACE / "README.md").read_text()
    for field in fields(SpaceSettings):
        if field.name not in ("space_id", "sign_in", "reads_private", "own_machine"):
            assert f"`HF_LORAMETA_{field.name.upper()}`" in text
            if isinstance(field.default, int):
                assert f"| {field.default} |" in text


def test_an_earlier_build_is_replaced_with_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [file for file in space_build._package_files() if file[0] == "hf_lorameta/errors.py"]
    monkeypatch.setattr(space_build, "_package_files", lambda: iter(few))
    built, folder = tmp_path / "built", tmp_path / "folder"
    for made in (built, folder):
        build_space(made)
    files = relative_files(folder)
    removed = ("views/removed.py", "hf_lorameta/a/removed.py")
    for name in (*removed, "hf_lorameta-0.0.1-x.whl", "files.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of an earlier version")
    (folder / "thesis.txt").write_text("mine")
    build_space(folder)
    assert relative_files(folder) == files | {"thesis.txt"}
    assert all((folder / name).read_bytes() == (built / name).read_bytes() for name in files)


def test_a_folder_with_a_page_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("mine")
    with raises_code("output.holds-files", match=r".app\.py"):
        build_space(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]


@pytest.mark.parametrize("breaks_at", [1, 3])
def test_a_build_that_breaks_off_can_be_repeated(
    breaks_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_build, "_package_files", lambda: iter(()))
    files = build_space(tmp_path)
    written: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) > breaks_at:
            raise OSError("no space left")
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(space_build, "write_atomically", write)
        with pytest.raises(UsageError, match="no space left"):
            build_space(tmp_path)
    assert relative_files(tmp_path) < set(files)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(UsageError, match="cannot delete"):
            build_space(tmp_path)
    build_space(tmp_path)
    assert relative_files(tmp_path) == set(files)


def fail(path: Path) -> None:
    raise OSError(f"cannot delete {path}")


def test_a_link_in_a_build_is_deleted_and_not_what_it_points_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_build, "_package_files", lambda: iter(()))
    folder, mine = tmp_path / "built", tmp_path / "mine"
    files = build_space(folder)
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (folder / "views").rename(tmp_path / "elsewhere")
    (folder / "views").symlink_to(mine)
    build_space(folder)
    assert relative_files(folder) == set(files)
    assert relative_files(mine) == {"thesis.txt"}


@pytest.mark.parametrize(
    ("name", "version"), [("not-installed-here", __version__), ("hf-lorameta", "0.0")]
)
def test_a_package_that_is_not_installed_is_to_be_installed(
    name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_build, "DISTRIBUTION", name)
    monkeypatch.setattr(space_build, "__version__", version)
    with raises_code("space.not-installed") as caught:
        build_space(tmp_path / "page")
    assert caught.value.hint.endswith("-e .")
    assert not (tmp_path / "page").exists()


# --- the commands -------------------------------------------------------------------------------


def test_deploy_publishes_one_commit_and_can_be_repeated(cli: Shell, user: Account) -> None:
    repo = f"{user.name}/page"
    deploy = partial(cli, "space", "deploy", "--repo", repo, before=ONE_FILE)
    done = deploy("--json", token=user.token)
    assert done.json["url"].endswith(f"/spaces/{repo}")
    assert "Hardware: zero-a10g" in done.err
    files = cli.hub.files(repo, repo_type="space")
    assert {"app.py", "README.md", "requirements.txt", "hf_lorameta/errors.py"} <= set(files)
    view = cli.hub.repo(repo, repo_type="space")
    assert view is not None
    assert (view.private, view.hardware) == (False, "zero-a10g")
    needed = cli.hub.read(repo, "requirements.txt", repo_type="space")
    assert b"whl/cpu" not in needed, "ZeroGPU needs torch for GPUs"
    old = {"hf_lorameta/removed.py": b"", "views/removed.py": b"", "defaults.json": b"{}"}
    cli.hub.commit(repo, old | {"thesis.txt": b"mine"}, repo_type="space")
    commits = len(cli.hub.commits(repo, repo_type="space"))
    assert "Hardware" not in deploy(token=user.token).err
    assert set(cli.hub.files(repo, repo_type="space")) == {*files, "thesis.txt"}
    assert len(cli.hub.commits(repo, repo_type="space")) == commits + 1
    deploy(code=6)  # without a token
    refused = deploy("--private", token=user.token, code=6).err
    assert f"{repo} exists and is public" in refused


def test_deploy_keeps_all_files_of_a_space_that_is_no_build(cli: Shell, user: Account) -> None:
    repo = f"{user.name}/mine"
    cli.hub.create_repo(repo, repo_type="space")
    mine = {"app.py": b"mine", "views/mine.py": b"", "defaults.json": b"{}", "files.json": b"{}"}
    cli.hub.commit(repo, mine, repo_type="space")
    cli("space", "deploy", "--repo", repo, token=user.token, before=ONE_FILE)
    files = set(cli.hub.files(repo, repo_type="space"))
    assert files > {*mine, WHEEL}
    cli("space", "deploy", "--repo", repo, token=user.token, before=ONE_FILE)
    gone = files - set(cli.hub.files(repo, repo_type="space"))
    assert gone == {*mine} - {"app.py"}


def test_a_paid_plan_allows_a_cpu(cli: Shell) -> None:
    token = cli.hub.add_user("pays", orgs=["club"], pro=True)
    expected = {"pays": "pays is a PRO account", "club": "the plan of club is not known"}
    for owner, why in expected.items():
        repo = f"{owner}/page"
        done = cli("space", "deploy", "--repo", repo, "--json", token=token, before=NO_PACKAGE)
        assert (done.json["hardware"], done.json["why"]) == ("cpu-basic", why)
        view = cli.hub.repo(repo, repo_type="space")
        assert view is not None
        assert view.hardware == "cpu-basic"
        assert b"whl/cpu" in cli.hub.read(repo, "requirements.txt", repo_type="space")


def test_bank_sets_a_pinned_default_bank(cli: Shell, bank: Built) -> None:
    out = cli.cwd / "page"
    build = ("space", "build", "-o", out)
    result = cli(*build, "--bank", bank.repo, "--json", before=NO_PACKAGE).json
    assert "defaults.json" in result["files"]
    defaults = json.loads((out / "defaults.json").read_text())
    sha = cli.hub.commits(bank.repo, repo_type="dataset")[0].sha
    assert defaults == {"bank": bank.repo, "bank_revision": sha, "base_model": "base/tiny"}
    readme = metadata((out / "README.md").read_text())
    assert (readme["datasets"], readme["models"]) == ([bank.repo], ["base/tiny"])
    cli(*build, before=NO_PACKAGE)
    assert not (out / "defaults.json").exists()
    adapter = f"{bank.owner.name}/e0"
    cli(*build, "--bank", adapter, code=4)


def test_base_selects_a_bank_in_the_package(cli: Shell, bank: Built) -> None:
    out, base = cli.cwd / "page", "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    build = ("space", "build", "-o", out)
    cli(*build, "--base", base, before=NO_PACKAGE, HF_LORAMETA_BANK=str(bank.folder))
    assert json.loads((out / "defaults.json").read_text()) == {"base_model": base}
    readme = metadata((out / "README.md").read_text())
    assert readme["models"] == [base]
    assert "datasets" not in readme
    error = cli(*build, "--base", "base/tiny", before=NO_PACKAGE, code=4).err
    assert "base/tiny" in error
    assert "bank search --base base/tiny" in error
    wrong = cli("space", "build", "-o", "c", "--bank-revision", "main", code=2).err
    assert "revision main" in wrong


@pytest.mark.slow
@pytest.mark.skipif(bool(GRADIO), reason=GRADIO)
def test_a_space_with_a_pack_runs_without_the_checkout_and_generates_what_the_cli_writes(
    cli: Shell, bank: Built, user: Account, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In an environment that has the requirements but not this package."""
    cli("bank", "pack", bank.folder, "-o", "pack", "--basis", 5, "-q")
    repo = f"{user.name}/pack"
    cli("bank", "push", "pack", repo, token=user.token)
    no_wheel = "import hf_lorameta.space_build as s; s._wheel = lambda *_: b''"
    cli("space", "build", "-o", "page", "--bank", repo, before=no_wheel)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = environment_without_this_package(tmp_path)
    data = f"{bank.owner.name}/e1"
    page = tmp_path / "page"
    with running_space(cli.hub, tmp_path, folder=page, python=str(python)) as space:
        from gradio_client import Client, handle_file

        client = Client(space.url, verbose=False, download_files=str(tmp_path / "got"))
        printed = cli("plan", "-d", data, "--bank", repo, "--json").json
        assert printed.pop("next")  # about generate in a terminal
        planned = client.predict(dataset=data, api_name="/plan")
        assert planned.pop("dataset_words")
        assert planned == printed
        archive, _ = client.predict(dataset=data, api_name="/generate")
        rows = handle_file(ROOT / "hf_lorameta/demo/data/train.jsonl")
        plan = client.predict(dataset="", file=rows, api_name="/plan")
        assert plan["dataset"]["rows"] == 252
    cli("generate", "-d", data, "--bank", repo, "-o", "adapter")
    with zipfile.ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    cli("generate", "-d", data, "--bank", bank.repo, "-o", "unpacked")
    weights = "adapter_model.safetensors"
    assert files[weights] != (tmp_path / "unpacked" / weights).read_bytes(), "the pack was not used"


def environment_without_this_package(folder: Path) -> Path:
    """Create a virtual environment with the installed requirements; return its interpreter."""
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    site_packages = next((folder / "venv").glob("lib/*/site-packages"))
    installed = importlib.metadata.distribution("gradio").locate_file("")
    (site_packages / "no_stubs.py").write_text(NO_STUBS)
    lines = f"{installed}\nimport no_stubs\n"  # without the .pth files of that folder
    (site_packages / "requirements.pth").write_text(lines)
    imported = subprocess.run(
        [python, "-c", "import hf_lorameta.errors"], cwd=folder, capture_output=True
    )
    assert imported.returncode, "the checkout is importable, so the test proves nothing"
    return python


def test_the_wheel_of_a_space_holds_the_package_its_pages_and_a_record(built: Path) -> None:
    with zipfile.ZipFile(built / WHEEL) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    info = WHEEL.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {"hf_lorameta/space_build.py", "hf_lorameta/_space/app.py"} <= files.keys()
    assert b"hf-lorameta" in files[f"{info}/entry_points.txt"]
    recorded = [line.split(b",") for line in files[f"{info}/RECORD"].splitlines()]
    assert {name.decode() for name, _, _ in recorded} == files.keys()
    for name, digest, size in recorded[:-1]:
        content = files[name.decode()]
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
        assert (digest, int(size)) == (b"sha256=" + found, len(content))
