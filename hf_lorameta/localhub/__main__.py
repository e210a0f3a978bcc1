"""``python -m hf_lorameta.localhub``: serves a hub until Ctrl-C."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from hf_lorameta.localhub import LocalHub, LocalHubError


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hf_lorameta.localhub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free port")
    parser.add_argument("--root", type=Path, help="keep repos and users in this folder")
    parser.add_argument("--user", default="me", help="user to make a token for (default: me)")
    args = parser.parse_args(argv)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    try:
        with LocalHub(args.root, args.port) as hub:
            _explain(hub, args.user)
            stopped.wait()
    except LocalHubError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _explain(hub: LocalHub, user: str) -> None:
    token = hub.add_user(user)
    print(f"A Hub for this machine only: {hub.url}    (Ctrl-C ends it)")
    print("In another terminal:")
    print(f"  export HF_ENDPOINT={hub.url}")
    print(f"  export HF_TOKEN={token}    # you are {user!r}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
