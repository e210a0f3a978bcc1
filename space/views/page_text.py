"""Text of the page that does not depend on a plan."""

from html import escape

from hf_lorameta.bank.bank import Bank
from settings import Settings
from views.blocks import code_html, note
from work.bank_loader import BankLoader

TITLE = "A LoRA adapter for your dataset"
PAPER = "https://arxiv.org/abs/2507.01806"

HEADER = f"""<header><h1 class="lm-h1">{TITLE}</h1><p class="lm-lead">Get a LoRA adapter for your
dataset in about half a minute. No GPU, no training.
<a href="{PAPER}" target="_blank" rel="noopener">How it works</a></p></header>"""

SIGN_IN_TO_SAVE = """<p class="lm-soft">Sign in at the top to save the adapter to your account. The
page then reads the same dataset again; an uploaded file has to be chosen again.</p>"""

ASK_AGAIN = f"""<div data-announce="Save it anyway?">{
    note(
        "warning",
        "Your test found this adapter no better than the base model",
        ["Other people may use what you save. Save it anyway?"],
    )
}</div>"""

_OWN_COPY = """<div class="lm-prose">
<p><b>Duplicate this Space.</b> With a PRO or Team account it runs on CPU Basic hardware at no
extra cost. A free account can duplicate it to one of its two ZeroGPU Spaces. Your copy contains no
secret: each visitor acts with their own sign-in. It uses the built-in bank until you
set another one in its variables.</p>
<p><b>Call it from a program.</b> It has three endpoints: <code>/plan</code> reads a dataset and
says which adapters fit, <code>/generate</code> returns an adapter, <code>/push</code> saves one to
the Hub. <code>/plan</code> is also a tool for agents (MCP), at <code>/gradio_api/mcp/</code>.</p>
{code}</div>"""

_CLIENT_CODE = """from gradio_client import Client

client = Client("{space}", oauth_token="hf_…")  # private data and /push need the token
plan = client.predict(dataset="user/name", api_name="/plan")
archive, result = client.predict(dataset="user/name", api_name="/generate")
pushed = client.predict(dataset="user/name", api_name="/push")"""


def own_copy_html(space: str) -> str:
    """Return how to duplicate this Space and how to call it from a program."""
    return _OWN_COPY.format(code=code_html(_CLIENT_CODE.format(space=space)))


def account_html(user: str | None, sign_in: str) -> str:
    """Return who is signed in, or what signing in is for."""
    if user:
        return f'<p class="lm-soft">Signed in as <b>{escape(user)}</b>.</p>'
    if sign_in == "none":
        return (
            '<p class="lm-soft">You can make and download adapters without signing in. Signing in '
            "works on the Hub, and on your own machine after <code>hf auth login</code>.</p>"
        )
    return '<p class="lm-soft">Signing in is only needed to save to the Hub.</p>'


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
    return (
        f'<p class="lm-bank lm-{bank_loader.state}"><b>Bank of adapters:</b> {escape(name)} · '
        f"{bank_content_html(bank)} · {escape(state)}</p>"
    )


def bank_content_html(bank: Bank) -> str:
    """Return the number of adapters, the base model, and how much of them a pack retains."""
    packing = bank.index.packing
    packed = f", compressed ({packing.retained_whole:.1%} kept)" if packing else ""
    return f"{len(bank)} adapters for <b>{escape(bank.index.base_model)}</b>{packed}"
