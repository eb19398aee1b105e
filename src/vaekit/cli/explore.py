"""`vaekit explore`: trained models in the browser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from vaekit.cli.source import RunSource


@dataclass(kw_only=True)
class Explore(RunSource):
    """The latent space of trained models in the browser, side by side: a map of held-out images, sliders, codes, a pad to draw
    on. Ctrl-C ends it.
    """

    run_folders: Annotated[
        list[str], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...", help_behavior_hint="(required)")
    ]
    """One trained run or several of the same image size."""
    data: str | None = None  # type: ignore[assignment]
    """Whose held-out images are shown; by default those of the data the first run was trained on, by name."""
    port: int = 7860
    """Where to serve the page; the next free one where it is taken."""
    host: str = "127.0.0.1"
    """The address to serve the page at. Any other than this machine's own asks for a token, which the printed address has."""
    browser: bool = True
    """Open the page in the browser."""

    def run(self) -> None:
        from vaekit.files import load

        try:
            from vaekit.explorer.explored import Explored, check_explorable, run_names, some
            from vaekit.explorer.server import serve
            from vaekit.report.doctor import examine
        except ModuleNotFoundError as error:
            if error.name not in ("starlette", "uvicorn"):
                raise
            raise ValueError("vaekit explore needs the extra `explore`: pip install 'vaekit[explore]'") from None
        if not self.run_folders:
            raise ValueError("explore needs a trained run: vaekit explore RUN")
        models = [load(folder).fitted_.in_pixels() for folder in self.run_folders]
        name = self.data or models[0].facts["data"]["name"]
        if name == "array":
            raise ValueError(f"{self.run_folders[0]} was fitted on an array: say with --data whose images to show")
        source = replace(self, data=name)
        images = some(source.open_for(models[0], "test"))
        names = run_names(self.run_folders)
        for model, folder in zip(models, names, strict=True):
            check_explorable(model, images, folder)
        print(f"encoding {len(images)} held-out images of {images.name}", flush=True)
        train = source.open_for(models[0], "train")
        runs = []
        for model, name, folder in zip(models, names, self.run_folders, strict=True):
            at_home = model.facts["data"]["fingerprint"] == train.fingerprint  # else its training images are not known
            diagnoses = (
                examine(model, train, images, folder=folder, data=source.data, how=self.how()) if at_home else []
            )
            runs.append(Explored(model, images, name, diagnoses))
        serve(
            runs, images, host=self.host, port=self.port, browser=self.browser, say=lambda text: print(text, flush=True)
        )
