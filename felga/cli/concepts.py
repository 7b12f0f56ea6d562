"""``felga concepts``: what an index shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import echo, only_ascii, say
from felga.cli.progress import progress
from felga.files import shown


def concepts(
    index: flags.Index = None,
    top: Annotated[int, typer.Option("--top", "-k", help="Number of concepts.")] = 30,
    form: flags.Form = "table",
    save_viz: Annotated[
        Path | None, typer.Option(help="Also draw the best regions of each concept into this image file.")
    ] = None,
    root: flags.Root = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """What is in this collection: regions by name, the concepts first that most images show."""
    flags.go_offline(offline)
    flags.at_least_one(top=top)
    if save_viz is not None:
        from felga.show import sheets

        sheets.check_target(save_viz)
    folder = find_index(index)
    from felga.engine import Engine
    from felga.show.surveys import render_concepts
    from felga.survey import concepts as survey

    with Engine.open(folder, device=device, root=root) as engine, progress() as show:
        if engine.manifest.fenet is None:
            say("names are rough: this index has no FENet to bring regions and words together (felga train)")
        found = survey.concepts(engine, top, progress=show)
    echo(render_concepts(found, form, only_ascii=only_ascii()))
    if save_viz is not None:
        sheets.save(sheets.concept_sheet(found), save_viz)
        say(f"drawn into {shown(save_viz)}")
