"""One page over all reports below a folder: a picture, what each is about, and what came out."""

import os
from dataclasses import dataclass
from pathlib import Path

from mech_grok.errors import UserError
from mech_grok.report.render import environment, resource, write_whole
from mech_grok.report.summary import FILE, PICTURE, Summary, read_summary


@dataclass(frozen=True)
class Exhibit:
    """A report in the gallery.

    Attributes:
        page, picture: relative to the gallery, with `/`.
    """

    summary: Summary
    page: str
    picture: str


def write_gallery(folder: Path) -> Path:
    """Write `index.html` over every report below a folder, by its place; the path.

    Raises:
        UserError: there is no such folder, or no report below it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that has reports below it, such as reports")
    found = exhibits(folder)
    if not found:
        raise UserError(f"{folder}: no reports below it (each has a {FILE} beside its index.html)")
    page = environment().get_template("gallery.html.jinja")
    text = page.render(
        title="Reports",
        description="",
        exhibits=found,
        css=resource("page.css") + resource("gallery.css"),
        theme_script=resource("theme.js"),
        scripts=[],
        data="",
    )
    return write_whole(folder / "index.html", text)


def exhibits(folder: Path) -> list[Exhibit]:
    """Every report below a folder, in the order of their places."""
    summaries = sorted(path for path in folder.rglob(FILE) if (path.parent / "index.html").exists())
    return [
        Exhibit(
            summary=read_summary(path),
            page=_relative(path.parent / "index.html", folder),
            picture=_relative(path.parent / PICTURE, folder),
        )
        for path in summaries
        if path.parent != folder
    ]


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder).replace(os.sep, "/")
