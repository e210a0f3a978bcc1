"""A shell that runs commands against the loopback Hub.

A command runs in a process forked from one that has already imported the heavy libraries. So it has
its own environment, streams and exit code, can be killed, and takes 0.2 s. The speed of this
machine is measured once for all.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fault_hub import FaultHub

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
NO_PACKAGE = "import hf_lorameta.space_build as s; s._package_files = lambda: iter(()); "
"""Code to run before a command: a Space has only its pages, not the 400 files of the package."""
PARENT = """
import atexit, functools, gc, importlib, json, logging, multiprocessing.synchronize, os
import pkgutil, ssl, sys
import datasets, encodings.idna, httpcore2, httpx2, jinja2, pyarrow.dataset, pyarrow.parquet
import tokenizers
import datasets.packaged_modules.csv.csv, datasets.packaged_modules.json.json
import scipy.io, scipy.sparse, typer.main
import hf_lorameta.cli.app
names = ["torch", "pandas", "gguf", "typer._adapters"]
for package in ("bank", "cards", "data", "engines", "pipeline"):
    folder = importlib.import_module(f"hf_lorameta.{package}").__path__
    names += [found.name for found in pkgutil.iter_modules(folder, f"hf_lorameta.{package}.")]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # optional or not in every version, or needs such a module
typer.main.get_command = functools.cache(typer.main.get_command)
typer.main.get_command(hf_lorameta.cli.app.app)
hf_lorameta.bank.open_bank.embedded_bank().encode  # takes 0.2 s
cards = hf_lorameta.cards.markdown._environment()
for template in cards.list_templates(extensions=["j2"]):
    cards.get_template(template)
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)
httpx2.create_ssl_context()
gc.freeze()
requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")

def answer(number):
    print(number, file=answers, flush=True)

def run(request):
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, opened in (
        (0, os.open(os.devnull, os.O_RDONLY)),
        (1, os.open(request["out"], flags)),
        (2, os.open(request["err"], flags)),
    ):
        os.dup2(opened, number)
        os.close(opened)
    logging.getLogger("hf_lorameta").handlers.clear()  # of the command before
    try:
        exec(request["before"], globals())
        hf_lorameta.cli.app.main(request["args"])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        return end.code or 0
    return 99

def serve(in_one_process):
    while line := requests.readline():
        request = json.loads(line)
        for name in request.get("imports", ()):
            importlib.import_module(name)
        if in_one_process:
            if "args" not in request:
                return
            answer(os.getpid())
            answer(run(request))
            continue
        child = os.fork()
        if child == 0:
            atexit._clear()  # what this process registers is done at its end, as elsewhere
            code = run(request) if "args" in request else serve(in_one_process=True)
            atexit._run_exitfuncs()
            os._exit(code or 0)
        answer(child)
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

serve(in_one_process=False)
"""


@dataclass
class Done:
    """Result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


class Shell:
    """Runs ``hf-lorameta`` against the loopback Hub.

    Attributes:
        cwd: folder in which commands run.
        imports: modules that are imported once for all later commands.
    """

    def __init__(self, hub: FaultHub, home: Path) -> None:
        self.hub, self.home = hub, home
        self.cwd = home
        self.imports: tuple[str, ...] = ()
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.env(),
        )

    def env(self, token: str | None = None) -> dict[str, str]:
        env = self.hub.env(token, home=self.home)
        env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
        env |= ONE_THREAD
        env |= {"HF_LORAMETA_NO_BASE": "1"}  # an adapter is checked only where a test asks for it
        return env

    def __call__(
        self,
        *args: object,
        token: str | None = None,
        code: int | None = 0,
        before: str = "",
        kill_after: float | None = None,
        **env: str,
    ) -> Done:
        """Run a command, check its exit code and the form of its error messages.

        Args:
            args: arguments of the command line.
            token: the account's Hub token.
            code: expected exit code; None allows any.
            before: Python code run in the child first.
            kill_after: seconds after which the child gets SIGKILL.
            env: added to the child's environment.
        """
        assert self._parent.stdout
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            env |= {"HF_TOKEN": token} if token else {}
            words = [str(a) for a in args]
            request = {"args": words, "env": env, "before": before, "cwd": str(self.cwd)}
            request |= {"out": str(out), "err": str(err), "imports": self.imports}
            self._send(request)
            child = int(self._parent.stdout.readline())
            if kill_after is not None:
                time.sleep(kill_after)
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            exit_code = int(self._parent.stdout.readline())
            done = Done(exit_code, out.read_text("utf-8"), err.read_text("utf-8"))
        assert code in (done.code, None), f"{' '.join(words)}\n{done.out}{done.err}"
        return self._check_messages(done, token)

    def _send(self, request: dict[str, Any]) -> None:
        assert self._parent.stdin
        print(json.dumps(request), file=self._parent.stdin, flush=True)

    @contextmanager
    def in_one_process(self) -> Iterator[None]:
        """Run the commands of a ``with`` block in one process, in a third of the time.

        They share what a process remembers, and run one after another, without a token. An answer
        is awaited before the first command and after the last one, since parent and child read the
        same pipe, each with a buffer.
        """
        assert self._parent.stdout
        self._send({})
        self._parent.stdout.readline()
        try:
            yield
        finally:
            self._send({})
            self._parent.stdout.readline()

    @staticmethod
    def _check_messages(done: Done, token: str | None) -> Done:
        assert not token or token not in done.out + done.err
        if done.code not in (0, 129, 130, 143, -signal.SIGKILL) and "Usage:" not in done.err:
            lines = done.err.splitlines()
            errors = [i for i, line in enumerate(lines) if line.startswith("Error: ")]
            assert len(errors) == 1, done.err
            rest = lines[errors[0] + 1 :]
            assert not rest or (len(rest) == 1 and rest[0].startswith("Next:  ")), done.err
        return done

    def start(self, *args: object, token: str | None = None) -> "subprocess.Popen[str]":
        """Start a command in a new process and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "hf_lorameta", *map(str, args)],
            env=self.env(token),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.cwd,
        )

    def close(self) -> None:
        self._parent.communicate()
