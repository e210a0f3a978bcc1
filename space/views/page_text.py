"""Text of the page that does not depend on a plan."""

from html import escape

from markupsafe import Markup

from hf_lorameta.bank.bank import Bank
from settings import Settings
from views.blocks import note, render
from work.bank_loader import BankLoader

TITLE = "A LoRA adapter for your dataset"
_CLIENT_CODE = """from gradio_client import Client

client = Client("{space}", oauth_token="hf_…")  # private data and /push need the token
plan = client.predict(dataset="user/name", api_name="/plan")
archive, result = client.predict(dataset="user/name", api_name="/generate")
pushed = client.predict(dataset="user/name", api_name="/push")"""


def own_copy_html(space: str) -> str:
    """Return how to duplicate this Space and how to call it from a program."""
    return render("page.own_copy", example=_CLIENT_CODE.format(space=space))


def account_html(user: str | None, sign_in: str) -> str:
    """Return who is signed in, or what signing in is for."""
    return render("page.account", user=user, sign_in=sign_in)


def bank_html(bank_loader: BankLoader, settings: Settings) -> str:
    """Return the bank's name, content and state."""
    if bank_loader.state == "failed":
        return note("error", "The bank of this Space cannot be used", [bank_loader.problem])
    if not bank_loader.opened:
        return '<p class="lm-bank">Opening the bank …</p>'
    bank = bank_loader.bank
    name = "built in" if settings.bank is None else bank.id
    state = {
        "ready": "all files verified",
        "damaged": f"damaged: {bank_loader.problem}",
        "incomplete": f"not all files were fetched: {bank_loader.problem}",
        "checking": f"verifying files: {bank_loader.verified} of {len(bank)}",
    }.get(bank_loader.state, "drawing the map")
    content = Markup(bank_content_html(bank))
    return render("page.bank", kind=bank_loader.state, name=name, content=content, state=state)


def bank_content_html(bank: Bank) -> str:
    """Return the number of adapters, the base model, and how much of them a pack retains."""
    packing = bank.index.packing
    packed = f", compressed ({packing.retained_whole:.1%} kept)" if packing else ""
    return f"{len(bank)} adapters for <b>{escape(bank.index.base_model)}</b>{packed}"
