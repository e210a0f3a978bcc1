"""The commands of ``hf-lorameta space``: build or deploy the Gradio Space."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from hf_lorameta.cli.options import BankBaseOption, Commands, TokenOption
from hf_lorameta.cli.output import emit
from hf_lorameta.quoting import shell_word

logger = logging.getLogger(__name__)

app = Commands(
    help="Build or deploy the web page, a Gradio Space.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
BankOption = Annotated[
    str | None,
    typer.Option(
        help="Hub repo of a bank or a pack. Default: the bank in this package for the base model.",
        show_default=False,
    ),
]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of the bank repo.")]


@app.command(epilog="Example: hf-lorameta space build -o my-space")
def build(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the Space.")],
    bank: BankOption = None,
    base: BankBaseOption = None,
    bank_revision: RevisionOption = None,
    token: TokenOption = None,
) -> None:
    """Write the folder of a Space: its pages, this package, pinned requirements.

    An earlier build there is replaced; any other files in the folders of a build are deleted.
    """
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.space_build import build_space

    logger.info("Copying the pages and this package")
    files = build_space(output, bank=bank, base=base, revision=bank_revision, hub=Hub(token))
    logger.info(
        f"Try it: cd {shell_word(str(output))} && pip install -r requirements.txt && python app.py",
    )
    emit({"folder": str(output), "files": list(files)}, lambda: str(output))


@app.command(epilog="Example: hf-lorameta space deploy --repo user/space")
def deploy(
    repo: Annotated[str, typer.Option(help="The Space, user/name.")],
    bank: BankOption = None,
    base: BankBaseOption = None,
    bank_revision: RevisionOption = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new Space private.")] = False,
    token: TokenOption = None,
) -> None:
    """Publish the Space in one commit; prints its URL.

    An earlier build there is replaced; any other files in the folders of a build are deleted.
    """
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.space_build import deploy_space

    logger.info("Uploading the pages and this package")
    deployed = deploy_space(
        repo, bank=bank, base=base, revision=bank_revision, private=private, hub=Hub(token)
    )
    if deployed.hardware:
        logger.info(f"Hardware: {deployed.hardware}, since {deployed.why}")
    logger.info("The Hub is building the Space, which takes a few minutes; its page shows the log.")
    emit({"repo_id": repo, **deployed._asdict()}, lambda: deployed.url)
