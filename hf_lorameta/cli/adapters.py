"""The commands about one adapter: plan, generate, push, evaluate, inspect; and the demo."""

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.options import (
    BaseGgufOption,
    ColumnsOption,
    ConfigOption,
    EngineOption,
    ExportOption,
    JsonFlag,
    QuietFlag,
    Request,
    RevisionOption,
    emit,
    example,
    log,
    open_named,
    printable,
    progress_bar,
    table,
    with_request,
)

if TYPE_CHECKING:
    from hf_lorameta.cards.scores_section import MeasuredScores
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.engines.interfaces import BaseModelRunner
    from hf_lorameta.pipeline.generation import Generation
    from hf_lorameta.pipeline.plan import Plan
    from hf_lorameta.pipeline.publish import Target

from hf_lorameta.cli import engines

AdapterArgument = Annotated[str, typer.Argument(help="Folder or Hub repo of an adapter.")]


@with_request
@example(
    "hf-lorameta plan --dataset user/name",
    "hf-lorameta plan --dataset rows.jsonl --metric kl --json",
)
def plan(request: Request, json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Which bank adapters would be used, how far they are and how much each counts."""
    made = _plan(request, quiet)
    emit(json, made.to_dict(), lambda: _describe(made))


def _plan(request: Request, quiet: bool, dataset: "Dataset | None" = None) -> "Plan":
    from hf_lorameta.data.columns import describe
    from hf_lorameta.pipeline.plan import plan as make_plan

    recipe = request.make_recipe()
    bank = request.open_bank()
    dataset = dataset or request.open_dataset()
    log(quiet, f"Reading {describe(dataset.columns)} of split {dataset.split}")
    log(quiet, f"Bank: {bank.id}, {len(bank)} adapters for {bank.index.base_model}")
    made = make_plan(dataset, bank, recipe)
    for warning in made.warnings:
        log(quiet, f"Warning: {warning}")
    return made


def _describe(made: "Plan") -> str:
    shown = made.neighbors()
    rows = [
        [n.dataset, f"{n.distance:.4g}", f"{100 * n.coefficient:.1f}%", n.license or "unknown"]
        for n in shown[:20]
    ]
    rest = sum(n.coefficient for n in shown[20:])
    lines = [table(["bank dataset", "distance", "coefficient", "license"], rows)]
    if len(shown) > 20:
        lines.append(f"… and {len(shown) - 20} more, together {100 * rest:.1f}%")
    lines += [
        "",
        f"{made.profile.rows} rows; {len(shown)} adapters, "
        f"effectively {made.effective_number:.1f}; nearest at {made.distances.min():.4g}, "
        f"usual inside the bank {made.nearest_in_bank:.4g}",
    ]
    if made.expected:
        mean, spread, count = made.expected
        lines.append(
            f"expected: {mean:.0%} ± {spread:.0%} less loss than the base model, as {count} "
            "datasets of the bank at about this distance, each left out, gained from the others"
        )
    return "\n".join(lines)


def _carry_out(made: "Plan", engine: str, base_gguf: Path | None, quiet: bool) -> "Generation":
    from hf_lorameta.pipeline.generate import generate_from_plan

    with engines.open_runner(made, engine, base_gguf) as scored:
        if made.recipe.refine is not None:
            made = _refined(made, scored, quiet)
        with progress_bar(len(made.bank.layout), "combining", quiet) as bar:
            done = generate_from_plan(made, lambda done, total: bar.update(), scored)
    found = done.plan.check
    if found is not None:
        log(
            quiet,
            f"Checked on {found.rows} other rows: loss of the base model {found.base:.3f}, of this "
            f"adapter {found.end:.3f}",
        )
        _warn(made, done.plan, quiet)
    return done


def _warn(before: "Plan", after: "Plan", quiet: bool) -> None:
    """Warnings that have come up since."""
    for warning in after.warnings:
        if warning not in before.warnings:
            log(quiet, f"Warning: {warning}")


def _refined(made: "Plan", scored: "BaseModelRunner | None", quiet: bool) -> "Plan":
    from hf_lorameta.pipeline.tune import refine_plan

    log(quiet, f"Fitting {len(made.active_indices)} adapters on {made.recipe.refine} rows")
    fitted = refine_plan(
        made,
        scored,
        progress=lambda step, steps, loss: log(
            quiet, f"  step {step:2} of {steps}: loss {loss:.3f}"
        ),
    )
    found = fitted.refinement
    if found is not None:
        log(
            quiet,
            f"Loss of the rows: base model {found.base:.3f}, this adapter {found.end:.3f}; "
            f"about {found.held_out:.3f} on rows held out",
        )
        _warn(made, fitted, quiet)
    return fitted


@with_request
@example(
    "hf-lorameta generate --dataset user/name -o my-adapter",
    "hf-lorameta generate --dataset rows.csv --columns input=q,output=a -o my-adapter",
    "hf-lorameta generate --dataset user/name -o my-adapter --export gguf",
    "hf-lorameta generate --dataset user/name -o my-adapter --refine 16 --engine llama.cpp "
    "--base-gguf base-q4.gguf",
)
def generate(
    request: Request,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an adapter that is there.")] = False,
    engine: EngineOption = "transformers",
    base_gguf: BaseGgufOption = None,
    export: ExportOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make an adapter folder in PEFT's format; prints the folder."""
    from hf_lorameta.pipeline.adapter_folder import check_target

    check_target(output, overwrite)
    request = engines.validate_engine(request, engine, base_gguf)
    _check_export(request, export)
    made = _carry_out(_plan(request, quiet), engine, base_gguf, quiet)
    folder = made.save_pretrained(output, overwrite=overwrite, export=export)
    log(quiet, f"Combined {len(made.plan.active_indices)} adapters in {made.seconds:.1f} s")
    data = {"folder": str(folder), "seconds": made.seconds, "rank": made.rank}
    emit(json, data | {"plan": made.plan.to_dict()}, lambda: str(folder))


def _check_export(request: Request, export: Literal["gguf"] | None) -> None:
    """Before any work: whether the base model's adapters can be exported at all."""
    from hf_lorameta.pipeline.generation import base_config_for

    if export:
        base_config_for(request.open_bank(), export)


@with_request
@example(
    "hf-lorameta push --dataset user/name",
    "hf-lorameta push --dataset user/name --export gguf",
    "hf-lorameta push --dataset rows.jsonl --repo-id user/adapter --public",
    "hf-lorameta push --from FOLDER --repo-id user/adapter",
)
def push(
    request: Request,
    repo_id: Annotated[str | None, typer.Option(help="Target; named after the dataset.")] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Private for private datasets and local files."),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Do all but publish; needs the Hub."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace files without asking.")] = False,
    source: Annotated[
        Path | None, typer.Option("--from", help="Publish this finished folder (resume).")
    ] = None,
    engine: EngineOption = "transformers",
    base_gguf: BaseGgufOption = None,
    export: ExportOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make an adapter and publish it in one commit; prints its URL alone."""
    from hf_lorameta.errors import UsageError
    from hf_lorameta.pipeline.adapter_folder import read_provenance
    from hf_lorameta.pipeline.publish import (
        preserve_on_failure,
        publish_folder,
        resolve_target,
        staging_dir,
        stale_exports,
    )

    if (source is None) == (request.dataset is None):
        raise UsageError(
            f"expected either --dataset or --from, got {'both' if source else 'neither'}",
            hint="leave one out" if source else "add --dataset user/name",
        )
    making = {"--export": export, "--engine": engine != "transformers", "--base-gguf": base_gguf}
    given = [option for option, value in making.items() if value]
    if source is not None and given:
        raise UsageError(
            f"{given[0]} goes with --dataset: a finished folder is published as it is",
            hint=f"leave it out, or make another folder with hf-lorameta generate … {given[0]} …",
        )
    if source is None:
        request = engines.validate_engine(request, engine, base_gguf)
        _check_export(request, export)
        dataset = request.open_dataset()
        hidden = dataset.private
    else:
        hidden = read_provenance(source)["provenance"]["dataset"]["private"]
    if hidden and private is False and repo_id is None:
        raise UsageError(
            "the dataset is private, and a public repo named after it would give its name away",
            hint="add --repo-id user/name",
        )
    name = repo_id or _default_name(request)
    target = resolve_target(name, private=private, dataset_private=hidden, create_pr=create_pr)
    _ask_consent(target, yes)
    folder, seconds = source, None
    if folder is None:
        made = _carry_out(_plan(request, quiet, dataset), engine, base_gguf, quiet)
        folder = made.save_pretrained(staging_dir(name), repo_id=name, export=export)
        seconds = made.seconds
        log(quiet, f"Combined {len(made.plan.active_indices)} adapters in {seconds:.1f} s")
    result: dict[str, Any] = {"repo_id": name, "private": target.private, "seconds": seconds}
    result["deleted"] = gone = list(stale_exports(folder, target))
    if gone:
        log(quiet, f"{', '.join(gone)} of the earlier adapter will go: add --export gguf for new")
    if dry_run:
        word = "private" if target.private else "public"
        log(quiet, f"Dry run: would publish to {name} ({word}) what lies in {folder}")
        emit(json, result | {"url": None, "folder": str(folder)}, lambda: str(folder))
        return
    with preserve_on_failure(folder, target):
        url = publish_folder(folder, target)
    emit(json, result | {"url": url}, lambda: url)


def _default_name(request: Request) -> str:
    from hf_lorameta.errors import UsageError
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.publish import default_repo_id

    if request.dataset is None:
        raise UsageError("--from needs --repo-id", hint="add --repo-id user/name")
    base_model = request.open_bank().index.base_model
    return default_repo_id(Hub().user(), request.dataset, base_model)


def _ask_consent(target: "Target", yes: bool) -> None:
    from hf_lorameta.pipeline.publish import check_no_overwrite

    if yes or not target.replaces or target.create_pr:
        return
    if not sys.stdin.isatty():
        check_no_overwrite(target)
    names = ", ".join(target.replaces)
    typer.confirm(f"{target.repo_id} already holds {names}. Replace?", abort=True, err=True)


@example(
    "hf-lorameta evaluate user/adapter --dataset user/name",
    "hf-lorameta evaluate my-adapter --dataset rows.jsonl --shots 0 --max-rows 50",
    "hf-lorameta evaluate my-adapter -d user/name --engine llama.cpp --base-gguf base.gguf",
    "hf-lorameta evaluate user/adapter --dataset user/name --save-card",
)
def evaluate(
    adapter: AdapterArgument,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Hub id or file.")],
    split: Annotated[str | None, typer.Option(help="Rows to score; test if left out.")] = None,
    config: ConfigOption = None,
    revision: RevisionOption = None,
    columns: ColumnsOption = None,
    reference: Annotated[
        str | None, typer.Option(help="Another adapter to compare, e.g. a trained one.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model.")] = None,
    engine: EngineOption = "transformers",
    base_gguf: BaseGgufOption = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples in the few-shot prompt.")] = 3,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows to score at most.")] = 100,
    answers: Annotated[
        bool, typer.Option("--generate/--no-generate", help="Answer too, or the loss only.")
    ] = True,
    save_card: Annotated[
        bool,
        typer.Option("--save-card", help="Write the scores into the adapter's card (one commit)."),
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="With --save-card: open a pull request.")
    ] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score base, generated, few-shot and reference on held-out rows (extra: eval or gguf)."""
    from hf_lorameta.data.dataset import is_local
    from hf_lorameta.engines.scoring import check_outputs, compare
    from hf_lorameta.errors import EmptyDatasetError, UsageError
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.pipeline.adapter_folder import locate_adapter, read_provenance
    from hf_lorameta.pipeline.publish import resolve_card_repo, save_scores

    if create_pr and not save_card:
        raise UsageError("--create-pr goes with --save-card", hint="add --save-card")
    engines.check_options(engine, base, base_gguf)
    repo = resolve_card_repo(adapter, create_pr=create_pr) if save_card else None
    folder = locate_adapter(adapter, revision=repo.sha if repo else None)
    if save_card:
        read_provenance(folder)
    methods: dict[str, Path | None] = {"base": None, "generated": folder}
    if reference:
        methods["reference"] = locate_adapter(reference)
    base_model = check_adapter(folder)[0].base_model
    local = is_local(Path(dataset))
    scored = open_named(dataset, config, split or (None if local else "test"), revision, columns)
    used = _used(folder, scored)
    if used:
        seen = f"{len(used)} rows that the adapter was fitted or checked on"
        log(quiet, f"{seen}, and any like them, are left out")
    unused = (row for row in scored.rows() if row not in used)
    rows = list(islice(unused, max_rows + (shots if local else 0)))
    if used and not rows:
        raise EmptyDatasetError(
            "the adapter was fitted or checked on every row of this dataset",
            hint="name rows that it has not seen: another file, or --split",
        )
    examples, rows = _shots(scored, rows, shots, local, config, revision, columns)
    check_outputs(rows)
    log(quiet, f"Scoring {len(rows)} rows of split {scored.split} with {base_model}")
    with engines.open_evaluator(
        engine, base_model, base, base_gguf, methods.values(), quiet
    ) as scorer:
        report = compare(
            scorer, rows, methods, shots=examples, generate=answers,
            progress=lambda method, found: log(quiet, f"  {method}: loss {found.loss:.3f}"),
        )  # fmt: skip
    result = report.to_dict()
    try:
        if save_card:
            measured = _measured(scored, len(rows), engine, result["scores"])
            result["card"] = save_scores(folder, measured, repo, create_pr=create_pr)
            log(quiet, f"The scores are on the card: {result['card']}")
    finally:  # scores took long, and are shown whatever became of the card
        emit(json, result, report.table)


def _used(folder: Path, scored: "Dataset") -> list[tuple[str, str]]:
    """What of these rows the adapter has seen; nothing is known of one that others made."""
    from hf_lorameta.errors import AdapterError, RecipeError
    from hf_lorameta.pipeline.adapter_folder import read_provenance
    from hf_lorameta.pipeline.held_out_rows import rows_used

    try:
        return rows_used(read_provenance(folder)["provenance"], scored)
    except (AdapterError, RecipeError):
        return []


def _measured(
    scored: "Dataset", rows: int, engine: str, scores: dict[str, dict[str, float | None]]
) -> "MeasuredScores":
    from hf_lorameta.cards.scores_section import MeasuredScores

    return MeasuredScores(
        dataset_id=scored.id,
        dataset_revision=scored.revision,
        dataset_config=scored.config,
        dataset_split=scored.split,
        dataset_private=scored.private,
        rows=rows,
        engine=engine,
        scores=scores,
    )


def _shots(
    scored: "Dataset",
    rows: list[tuple[str, str]],
    count: int,
    local: bool,
    config: str | None,
    revision: str | None,
    columns: str | None,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Examples for the few-shot prompt, never rows that are scored."""
    from hf_lorameta.errors import DatasetError

    if count == 0:
        return [], rows
    if local or scored.id is None:
        return rows[:count], rows[count:]
    try:
        train = open_named(scored.id, config, "train", revision, columns)
    except DatasetError:
        return rows[:count], rows[count:]
    if train.split == scored.split:
        return rows[:count], rows[count:]
    return train.head(count), rows


@example("hf-lorameta inspect user/adapter", "hf-lorameta inspect my-adapter --json")
def inspect(
    adapter: AdapterArgument,
    revision: Annotated[str | None, typer.Option(help="Revision of a repo.")] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Recipe, coefficients and provenance of a generated adapter."""
    from hf_lorameta.pipeline.adapter_folder import locate_adapter, read_provenance

    facts = read_provenance(locate_adapter(adapter, revision=revision))
    emit(json, facts, lambda: _inspection(facts))


def _inspection(facts: dict[str, Any]) -> str:
    made = facts["provenance"]
    head = [
        ["base model", facts["base_model_name_or_path"]],
        ["rank", facts["rank"]],
        ["modules", facts["modules"]],
        ["dtype", ", ".join(facts["dtypes"])],
        ["made by", made["library"]],
        ["bank", f"{made['bank']['id']} {made['bank']['revision'] or ''}"],
        ["dataset", f"{made['dataset']['id'] or 'private or local'} {made['dataset']['revision']}"],
        *([f"recipe {key}", value] for key, value in made["recipe"].items()),
    ]
    rows = [
        [c["dataset"], c["adapter"], f"{c['distance']:.4g}", f"{c['coefficient']:.4f}"]
        for c in facts["coefficients"]
    ]
    apart = any("by_module" in c for c in facts["coefficients"])
    name = "mean coefficient" if apart else "coefficient"
    listed = table(["dataset", "adapter", "distance", name], rows)
    return "\n".join([table(["field", "value"], head), "", listed])


@example("hf-lorameta demo")
def demo(
    max_rows: Annotated[int, typer.Option(min=1, help="Rows to score at most.")] = 100,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """The whole way, on this machine: a Hub on loopback, the embedded bank, push, evaluate."""
    from tqdm import tqdm

    from hf_lorameta.demo.run import Console, run_demo

    with tqdm(bar_format="{desc}", leave=False, disable=quiet) as line:
        console = Console(
            say=lambda message: tqdm.write(printable(message), file=sys.stderr),
            progress=lambda step, seconds: line.set_description_str(f"{step}: {seconds:.0f} s"),
        )
        report = run_demo(None if quiet else console, max_rows=max_rows)
    emit(json, report, lambda: str(report["summary"]))


COMMANDS: tuple[Any, ...] = (plan, generate, push, evaluate, inspect, demo)
