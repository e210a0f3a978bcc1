"""The sentences of a generated adapter's card, as Markdown.

A name that others chose is escaped here. The template says where each stands.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from hf_lorameta.bank.index import FAR_RATIO
from hf_lorameta.cards.card_data import Card, WeightedAdapter
from hf_lorameta.cards.markdown import Markdown, code, license_name, link, prose, source
from hf_lorameta.cards.results import CheckResult, Outcome, Training
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.data.prompt import PROMPT, as_option
from hf_lorameta.engines.scoring import MEASURES
from hf_lorameta.method.registries import METRICS
from hf_lorameta.tables import plural

# --- what it is -----------------------------------------------------------------------------------


def introduction(card: Card) -> Iterator[Markdown]:
    """Yield the paragraphs on what the adapter is, and what it was made from."""
    yield _headline(card)
    if not card.has_bank and (training := card.outcome.training):
        yield Markdown(
            f"**Trained on {training.seen_rows} of the dataset.** It starts from the base model "
            "itself: no bank of adapters was used."
        )
        return
    yield _origin(card)
    general = card.general or 0.0
    if round(general, 3) and card.neighbors:
        yield Markdown(
            "Besides these, the bank's general adapter takes part with the coefficient "
            f"{general:.1%}. It was trained on {_general_datasets(card)} together."
        )
    if card.output_prior is not None:
        yield Markdown(
            "An update of the last down-projection, computed from the counts of this dataset's "
            "output tokens, makes these tokens more likely; its coefficient is "
            f"{card.output_prior:.2f}."
        )
    if round(card.scale, 2) != 1:
        what = "All coefficients were" if card.is_conditioned else "It was"
        why = ", since the outputs of this dataset are longer than those of the bank's datasets"
        why *= card.recipe.scale is None
        yield Markdown(f"{what} scaled by {card.scale:.2f}{why}.")


def _headline(card: Card) -> Markdown:
    made = "generated on a CPU" if card.has_bank else "trained on a CPU"
    if card.has_bank and card.outcome.training:
        made = "generated and trained further"
    return Markdown(
        f"A LoRA adapter of rank {card.rank} for {link(card.base_model, card.base_revision)}, "
        f"{made} by hf-lorameta {code(card.library_version)} for {dataset_name(card.dataset)}."
    )


def dataset_name(dataset: DatasetInfo) -> Markdown:
    """Name a dataset, with a link if it may be named.

    Example:
        >>> from hf_lorameta.data.columns.columns import Columns
        >>> own = DatasetInfo(None, "sha256:7", None, "train", Columns(input="a"), True, None)
        >>> dataset_name(own)
        'a local dataset'
    """
    if dataset.id is None:
        return Markdown("a local dataset")
    if dataset.private:
        return Markdown("a private dataset")
    return Markdown(f"the dataset {link(dataset.id, dataset.revision, 'datasets/')}")


def _origin(card: Card) -> Markdown:
    """Say what of a bank it was made from."""
    begin, end = "**No training took place.** This adapter is", ""
    if training := card.outcome.training:
        begin = f"**Trained on {training.seen_rows} of the dataset**, starting from"
    elif card.is_conditioned:
        end = " The adapter is conditioned on this dataset, not trained on it."
    if count := len(card.neighbors):
        return Markdown(
            f"{begin} a weighted combination of {plural(count, 'existing adapter')}, "
            f"{'each ' if count > 1 else ''}trained on its own dataset. The weights (coefficients) "
            f"were computed from the distances between those datasets and this one.{end}"
        )
    times = f", times {card.general:.2f}" if card.general != card.scale else ""
    return Markdown(
        f"{begin} the general adapter of a bank, which was trained on {_general_datasets(card)} "
        f"together and is the same for every dataset{times}.{end}"
    )


def _general_datasets(card: Card) -> str:
    return plural(len(card.general_licenses), "dataset")


def intended_use(dataset: DatasetInfo) -> Markdown:
    """Say which inputs it is for, if all have an instruction; else nothing."""
    instruction = dataset.columns.instruction_text
    if not instruction:
        return Markdown("")
    languages = f", in {prose(', '.join(dataset.languages))}" if dataset.languages else ""
    return Markdown(
        f"**Intended use.** Inputs like those of the dataset{languages}, in the prompt below, "
        f"with the instruction: {prose(instruction)}"
    )


# --- how it is used -------------------------------------------------------------------------------


def prompt_form(columns: Columns) -> Markdown:
    """Say which form the prompt has, and what the model continues it with.

    Example:
        >>> prompt_form(Columns(input="a", output="b", template="Q: {prompt}\\n"))
        'The prompt is complete: `tokenizer.apply_chat_template` would repeat its form. The model \
continues it with the output and the end-of-sequence token.'
    """
    chat, template = columns.chat, columns.template or ""
    form = "The prompt is plain text, without the base model's chat template."
    if PROMPT in template:
        form = "The prompt is complete: `tokenizer.apply_chat_template` would repeat its form."
    if chat:
        form = _chat_form(columns)
    begins = template or columns.instruction_text or columns.names() != [columns.output]
    spaced = begins and not template[-1:].isspace() and not (chat and chat.unspaced)
    turn = "the token that ends a turn, or if the base model does not stop at that, "
    return Markdown(
        f"{form} The model continues it with {'a space, ' if spaced else ''}the output and "
        f"{turn if chat else ''}the end-of-sequence token."
    )


def _chat_form(columns: Columns) -> str:
    chat = columns.chat
    assert chat is not None
    quiet = ", in its mode without thoughts" if chat.thinks_not else ""
    given = []
    if chat.chat_template_kwargs:
        given.append(f'`"chat_template_kwargs": {json.dumps(chat.chat_template_kwargs)}`')
    if chat.system:
        given.append(f"the system text {code(chat.system)}")
    form = (
        f"The prompt is in the base model's chat form{quiet}, as chat requests to a server get it"
    )
    parts = [f"{form} with {' and '.join(given)}." if given else f"{form}."]
    if chat.date:
        made = f"the adapter was made with {prose(chat.date)}"
        parts.append(f"The chat template writes the date: {made}.")
    if chat.closing:
        parts.append(
            f"The prompt ends with {code(as_option(chat.closing))}, after what the chat template "
            "writes. Servers leave that to the model: send them the whole prompt as text instead."
        )
    return " ".join(parts)


# --- the bank -------------------------------------------------------------------------------------


def similarity(card: Card) -> Iterator[Markdown]:
    """Yield sentences on how close the bank's datasets are."""
    nearest = card.nearest
    assert nearest is not None
    named, metric = source(nearest, card.bank_published), prose(METRICS[card.recipe.metric].title)
    closest = f"The closest source dataset is {named}, at a distance of {nearest.distance:.3f}"
    yield Markdown(f"{closest} ({metric}).")
    yield Markdown(_nearness(card, nearest.distance))
    if len(card.neighbors) > 1:
        number = f"{card.effective_number:.1f}"
        yield Markdown(f"The coefficients are spread as if {number} adapters had equal weight.")


def _nearness(card: Card, distance: float) -> str:
    ratio = card.relative_distance
    if ratio is None:
        return "The bank is too small to tell whether that is near or far."
    if distance == 0:
        return (
            "Its tokens have exactly the distribution of this dataset's: it may be the same "
            "dataset."
        )
    times = f"{ratio:.1f} times as large"
    if ratio <= 1:
        comparison = "no larger"
    elif ratio < 1.05:
        comparison = "hardly larger"
    elif ratio <= FAR_RATIO:
        comparison = f"{times}: a loosely related dataset"
    else:
        comparison = f"{times}: no dataset of the bank is close to this one"
        if not (card.outcome.training or card.outcome.check):
            comparison += ". Expect little of this adapter"
    typical = f"{card.nearest_in_bank:.3f}"
    start = f"The median dataset of the bank is {typical} from its nearest neighbor"
    return f"{start}; this distance is {comparison}."


def others(adapters: Sequence[WeightedAdapter]) -> Markdown:
    """Say what the coefficients of the adapters that are not listed sum to; nothing if none is."""
    if not adapters:
        return Markdown("")
    total = sum(adapter.coefficient for adapter in adapters)
    have = f"The other {plural(len(adapters), 'adapter')} have coefficients"
    return Markdown(f"{have} that sum to {total:.1%}.")


def datasets_listed(card: Card) -> Markdown:
    """Say which datasets the metadata lists; nothing if none is of a source adapter."""
    if not card.source_datasets:
        return Markdown("")
    own = ", and the dataset on whose rows it was trained"
    own *= bool(card.outcome.training and card.dataset.public_id)
    listed = "The `datasets` in this card's metadata are those that the source adapters were"
    return Markdown(f"{listed} trained on{own}.")


# --- training -------------------------------------------------------------------------------------


def how_trained(card: Card, training: Training) -> Markdown:
    """Say what was trained, and for how many steps."""
    what, also = "adapter was trained", ""
    if card.has_bank:
        what = f"{'combination' if card.neighbors else 'general adapter'} was trained further"
        known = "existing adapters do" if card.neighbors else "general adapter does"
        also = f", also those that the {known} not change"
    layers = training.layers
    where = f"in the last {'layer' if layers == 1 else plural(layers, 'layer')} " if layers else ""
    return Markdown(
        f"The {what} for {plural(training.steps, 'step')}. "
        f"All projections of attention and MLP {where}were trained{also}."
    )


# --- check ----------------------------------------------------------------------------------------


def what_was_counted(card: Card, check: CheckResult) -> Markdown:
    """Say what was counted in a check, and on which rows."""
    order = graded = counted = ""
    if check.measure:
        order = " and the order of labels" if check.measure == "label_f1" else ""
        graded = f"{MEASURES[check.measure]} of all answers, "
    if card.has_bank:
        counted = " (Their tokens, as those of all rows, were counted for the coefficients.)"
    return Markdown(
        f"Right answers, apart from case{order}, {graded}and loss in nats per token on "
        f"{check.rows} rows of the dataset {rows_checked(card.outcome)}. They are too few for a "
        f"benchmark.{counted}"
    )


def rows_checked(outcome: Outcome) -> str:
    """Say which rows right answers were counted on, after ``of the dataset``.

    Example:
        >>> from hf_lorameta.cards.results import Counted
        >>> check = CheckResult(16, {"generated": Counted(12, 1.0)})
        >>> rows_checked(Outcome(check=check))
        'that were not trained on'
        >>> trained = Training(rows=16, steps=24, seen=16, labeled=16, folds=4)
        >>> rows_checked(Outcome(trained, check))
        'that were answered in folds, each by an adapter that was not trained on them; this one \
was trained on all of them'
        >>> trained = Training(rows=152, steps=96, seen=152, labeled=200)
        >>> rows_checked(Outcome(trained, check))
        'that were not trained on'
    """
    if not outcome.checked_in_folds:
        return "that were not trained on"
    return (
        "that were answered in folds, each by an adapter that was not trained on them; this one "
        "was trained on all of them"
    )


# --- licenses -------------------------------------------------------------------------------------


def licenses_of_bank(card: Card) -> Markdown:
    """List the licenses of what was combined, with their numbers; nothing without a bank."""
    if not card.has_bank:
        return Markdown("")
    what = "Datasets of the general adapter"
    if card.neighbors:
        also = " and datasets of the general adapter" if card.general else ""
        what = f"Source adapters{also}"
    counts = Counter(card.licenses).most_common()
    return Markdown(f"{what}: {', '.join(f'{license_name(n)} ({count:,})' for n, count in counts)}")


def license_of_dataset(card: Card) -> Markdown:
    """Say which license the dataset has, and what of it is in the repo."""
    dataset, relation = card.dataset, "made for"
    if card.outcome.training or card.is_conditioned:
        relation = "trained on" if card.outcome.training else "conditioned on"
    stated = "no license stated" if dataset.public_id else "not public"
    stated = license_name(dataset.license) if dataset.license else stated
    shown = "besides the row above, none" if card.example and dataset.public_id else "none"
    return Markdown(f"Dataset it is {relation}: {stated}; {shown} of its rows are in this repo")


# --- what was not measured ------------------------------------------------------------------------


def unmeasured(card: Card) -> Markdown:
    """Say what is not known of the adapter, and how to find out."""
    check = card.outcome.check
    this = "Beyond the figures above, this" if check else "This"
    closest = card.neighbors and not card.outcome.training
    than = "" if check else "the base model, "
    than += "the nearest source adapter" if closest else "another adapter"
    few_shot = check and any(method.endswith("-shot") for method in check.counted)
    than += "" if few_shot else " or a few-shot prompt"
    name = "" if card.dataset.public_id else ", name a file of rows that it has not seen"
    return Markdown(
        f"{this} adapter was not evaluated, on this dataset or any other. Whether it is better "
        f"than {than} is not known. To find out{name}:"
    )
