"""Whom ``felga search`` and ``felga assign`` ask: an index here, at a URL or in Milvus, or a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from felga.cli.locate import VARIABLE, find_index
from felga.corpus.inside import exists
from felga.errors import BadInputError
from felga.files import is_url

if TYPE_CHECKING:
    from felga.cli.outputs import Outputs
    from felga.client import Client
    from felga.engine import Engine

    Asked: TypeAlias = Engine | Client
TOKEN, IN_MILVUS = "FELGA_TOKEN", "milvus:"


@contextmanager
def opened(
    server: str | None,
    index: str | None,
    outputs: Outputs,
    *,
    device: str,
    root: Path | None,
    encoder: str | None,
) -> Iterator[tuple[Asked, Path | str]]:
    """What answers, and what its answers are said to come from.

    Raises:
        BadInputError: options that contradict ``server``.
        FelgaError: it cannot be opened, or does not answer.
    """
    if server is None:
        named = index if index is not None else os.environ.get(VARIABLE, "")
        if named.startswith(IN_MILVUS):
            from felga.milvus.connection import Place
            from felga.milvus.searching import MilvusEngine

            with MilvusEngine.connect(named, device=device, root=root, encoder=encoder) as remote:
                yield remote, str(Place.parse(named))
            return
        folder = find_index(index)
        from felga.engine import Engine

        with Engine.open(folder, device=device, root=root, encoder=encoder) as engine:
            yield engine, named if is_url(named) else folder
        return
    if index is not None or root is not None or encoder is not None:
        raise BadInputError("--server answers from its own index: leave out --index, --root and --encoder")
    if outputs.save_viz or outputs.html or outputs.copy_to or outputs.link_to or outputs.crops_to:
        raise BadInputError(
            "the images are on the server: leave out --server, or the files to be made of them"
        )
    from felga.client import connect

    with connect(server, os.environ.get(TOKEN)) as client:
        yield client, server


def query_image(asked: Asked, image: Path) -> Any:
    """The image file, which may also be named relative to the indexed images, or by its id on a server."""
    if exists(image):
        return image
    if (root := getattr(asked, "root", None)) is not None:
        return indexed if exists(indexed := Path(root) / image) else image
    from felga.client import Indexed

    return Indexed(os.fspath(image))
