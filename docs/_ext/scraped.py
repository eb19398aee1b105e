"""The gallery's pictures: figures that a script leaves in its variables, and files of films that it wrote."""

import shutil
from pathlib import Path

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

from vaekit.pictures.style import save


def scrape(block: tuple, block_vars: dict, gallery_conf: dict) -> str:
    """What sphinx-gallery asks after each block of a script: writes what is new, and says where it is."""
    names, shown = block_vars["example_globals"], block_vars.setdefault("shown", set())
    paths = []
    for value in list(names.values()):
        film = isinstance(value, Path) and value.suffix == ".gif" and value.is_file()
        if id(value) in shown or not (film or isinstance(value, Figure)):
            continue
        if isinstance(value, Figure) and hasattr(value, "number"):  # pyplot's, which are taken by another scraper
            continue
        shown.add(id(value))
        path = Path(next(block_vars["image_path_iterator"]))
        if film:
            path = path.with_suffix(".gif")
            shutil.copy(value, path)
        else:
            save(value, path)
        paths.append(str(path))
    return figure_rst(paths, gallery_conf["src_dir"])
