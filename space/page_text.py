"""Text of the page that does not depend on a plan."""

from html import escape

from bank_loader import BankLoader
from hf_lorameta import Bank
from html_blocks import note
from settings import Settings

TITLE = "A LoRA adapter for your dataset, without training"
PAPER = "https://arxiv.org/abs/2507.01806"

HEADER = f"""<header><h1 class="lm-h1">{TITLE}</h1><p class="lm-lead">Name a dataset. Within half a
minute you get a LoRA adapter for it, combined on a CPU from adapters that other people trained.
<a href="{PAPER}" target="_blank" rel="noopener">How it works</a></p></header>"""

EMPTY_PLAN = """<div class="lm-empty"><ol>
<li><b>Read.</b> Your dataset becomes a distribution over tokens. Its text is not stored.</li>
<li><b>Compare.</b> Its distance to every dataset of the bank is computed, and you see which ones
are near.</li>
<li><b>Combine.</b> The bank's adapters are added with weights: the nearer the dataset, the larger
the weight. There is no training step.</li>
</ol><p class="lm-soft">The plan appears here when you name a dataset. It tells you if no dataset in
the bank is near yours.</p></div>"""

LOADING_PLAN = (
    '<div class="lm-waiting" aria-hidden="true">'
    + "".join(f'<i style="width:{width}%"></i>' for width in (92, 71, 64, 48, 40, 33))
    + "</div>"
)

OWN_COPY = """<div class="lm-prose">
<p><b>Duplicate this Space.</b> With a PRO or Team account it runs on CPU Basic hardware at no
extra cost. A free account can duplicate it to one of its two ZeroGPU Spaces. Your copy contains no
secret: each visitor acts with their own sign-in. It uses the bank in the package until you
set another one in its variables.</p>
<p><b>Deploy from a terminal.</b> <code>hf-lorameta space deploy --repo user/space</code></p>
<p><b>Call it from a program.</b> It has three endpoints: <code>/plan</code>,
<code>/generate</code> and <code>/push</code>. <code>/plan</code> is also an MCP tool.</p></div>"""

CLIENT_CODE = """from gradio_client import Client

client = Client("{space}", oauth_token="hf_…")  # private data and /push need the token
plan = client.predict(dataset="user/name", api_name="/plan")
pushed = client.predict(dataset="user/name", api_name="/push")"""


def account_html(user: str | None, sign_in: str) -> str:
    """Return who is signed in, or what signing in is for."""
    if user:
        return f'<p class="lm-soft">Signed in as <b>{escape(user)}</b>.</p>'
    if sign_in == "none":
        return (
            '<p class="lm-soft">You can plan, generate and download without signing in. Signing in '
            "works on the Hub, and on your own machine after <code>hf auth login</code>.</p>"
        )
    return '<p class="lm-soft">Only needed to push. Everything else works signed out.</p>'


def bank_html(bank_loader: BankLoader, settings: Settings) -> str:
    """Return the bank's name, content and state."""
    if bank_loader.state == "failed":
        return note("error", "The bank of this Space cannot be used", [bank_loader.problem])
    if not bank_loader.opened:
        return '<p class="lm-bank">Opening the bank …</p>'
    bank = bank_loader.bank
    name = "the bank in the package" if settings.bank is None else bank.id
    state = {
        "ready": "all files verified",
        "damaged": f"damaged: {bank_loader.problem}",
        "checking": f"verifying files: {bank_loader.verified} of {len(bank)}",
    }.get(bank_loader.state, "drawing the map")
    return (
        f'<p class="lm-bank lm-{bank_loader.state}"><b>Bank</b> {escape(name)} · '
        f"{bank_content_html(bank)} · {escape(state)}</p>"
    )


def bank_content_html(bank: Bank) -> str:
    """Return the number of adapters, the base model, and for a pack its retained energy."""
    packing = bank.index.packing
    packed = f", packed: {packing.retained_whole:.1%} of the update energy" if packing else ""
    return f"{len(bank)} adapters for <b>{escape(bank.index.base_model)}</b>{packed}"
