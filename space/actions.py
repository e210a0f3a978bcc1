"""What all actions have in common, and the actions that no visitor triggers."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from bank_loader import BankLoader
from components import Components
from page_text import account_html, bank_html
from planning import PlanResult
from settings import Settings

Updates = dict[Any, Any]
"""New values or properties by component."""


@dataclass(frozen=True)
class Actions:
    """Base class of event handlers.

    Attributes:
        components: widgets to update.
        bank_loader: provides the bank.
        settings: limits and sign-in.
    """

    components: Components
    bank_loader: BankLoader
    settings: Settings


class StatusActions(Actions):
    """Show the account and the state of the bank."""

    def show_account(self, profile: gr.OAuthProfile | None) -> Updates:
        """Show who is signed in."""
        user = profile.username if profile else None
        return {
            self.components.account: account_html(user, self.settings.sign_in),
            self.components.push: push_button(profile, None),
        }

    def show_bank(self) -> Updates:
        """Show the bank's state, and repeat until it is final."""
        final = self.bank_loader.state in ("ready", "failed", "damaged")
        return {
            self.components.bank: bank_html(self.bank_loader, self.settings),
            self.components.bank_timer: gr.Timer(active=not final),
        }


def push_button(profile: gr.OAuthProfile | None, plan_result: PlanResult | None) -> gr.Button:
    """Enable the push button if the visitor is signed in and has a plan."""
    return gr.Button(interactive=profile is not None and plan_result is not None)
