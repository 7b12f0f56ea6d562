"""Where hits go: to stdout in a format, and into files. Checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from felga.cli.output import echo, echo_bytes, only_ascii, say, write_file
from felga.errors import BadInputError
from felga.files import shown

if TYPE_CHECKING:
    from felga.show.text import Answer

Form: TypeAlias = Literal["table", "json", "jsonl", "csv", "coco"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a command was asked to write.

    Attributes:
        form: of stdout.
        paths, null: instead, the paths of the images, one per line or NUL-terminated.
        save_viz, html: files for a sheet and for a page; several queries get a sheet each.
        copy_to, link_to, crops_to: folders for the images of the hits, links to them, and their regions.

    Raises:
        BadInputError: the options contradict each other, or a target cannot be written.
    """

    form: Form = "table"
    paths: bool = False
    null: bool = False
    save_viz: Path | None = None
    html: Path | None = None
    copy_to: Path | None = None
    link_to: Path | None = None
    crops_to: Path | None = None

    def __post_init__(self) -> None:
        check_lists(self.form, self.paths, self.null)
        if self.save_viz is not None:
            from felga.show import sheets

            sheets.check_target(self.save_viz)
        if self.html is not None or self.copy_to or self.link_to or self.crops_to:
            from felga.show import targets

            if self.html is not None:
                targets.check_file(self.html, "hits.html")
            for folder in (self.copy_to, self.link_to, self.crops_to):
                if folder is not None:
                    targets.check_folder(folder)

    def emit(self, answers: Sequence[Answer], *, many: bool = False) -> None:
        """Write the answers: stdout first, then the files, each with a line on stderr."""
        from felga.show.text import paths, render

        if self.paths or self.null:
            echo_bytes(paths(answers, b"\0" if self.null else b"\n"))
        else:
            echo(render(answers, self.form, many=many, only_ascii=only_ascii()))
        if self.save_viz is not None:
            self._draw(answers, self.save_viz)
        if self.html is not None:
            from felga.show.pages import page

            write_file(self.html, page(answers))
            say(f"written into {shown(self.html)}")
        if self.copy_to or self.link_to or self.crops_to:
            from felga.show.hit_files import Way, put_hits

            ways: dict[Way, Path | None] = {
                "copied": self.copy_to,
                "linked": self.link_to,
                "cut out": self.crops_to,
            }
            for way, folder in ways.items():
                if folder is not None:
                    say(put_hits(answers, folder, way))

    def _draw(self, answers: Sequence[Answer], target: Path) -> None:
        from felga.show import sheets

        for number, answer in enumerate(answers, 1):
            own = target if len(answers) == 1 else target.with_stem(f"{target.stem}-{number}")
            sheets.save(sheets.sheet(answer), own)
            say(f"drawn into {shown(own)}")


def check_lists(form: str, paths: bool, null: bool) -> None:
    """Refuse two ways of writing to stdout at once.

    Raises:
        BadInputError: as said.
    """
    if paths + null + (form != "table") > 1:
        raise BadInputError("give one of --paths, --null and --format: stdout holds one of them")
