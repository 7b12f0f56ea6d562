"""``felga audit``: where captions and images disagree, or what goes wrong in a labelled set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import echo, only_ascii, say
from felga.cli.progress import progress


def audit(
    index: flags.Index = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Instead, the errors by class: COCO instances json of the indexed images."),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", help="Number of findings of each kind.")] = 50,
    form: flags.Form = "table",
    root: flags.Root = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Captions against images: captions of other images, words that nothing supports, things left unsaid."""
    flags.go_offline(offline)
    flags.at_least_one(top=top)
    folder = find_index(index)
    from felga.engine import Engine
    from felga.queries import CALIBRATED, measured
    from felga.show.surveys import render_audit, render_breakdown
    from felga.survey import audit as survey
    from felga.survey.breakdown import breakdown

    if labels is not None:
        from felga.corpus.coco import read_instances

        instances = read_instances(labels)
        with Engine.open(folder, device=device, root=root) as engine, progress() as show:
            errors = breakdown(engine, instances, top, progress=show)
        echo(render_breakdown(errors, form, only_ascii=only_ascii()))
        return
    with Engine.open(folder, device=device, root=root) as engine, progress() as show:
        if not measured(engine.manifest):
            say(f"findings are guesses: the limits were measured for {CALIBRATED[0]} with a FENet")
        found = survey.audit(engine, top, progress=show)
    echo(render_audit(found, form, only_ascii=only_ascii()))
