"""A trained model for others: as ONNX files, or on the Hugging Face Hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vaekit.cli.flags import Run


@dataclass(kw_only=True)
class Export:
    """Encoder, decoder, code lookup (VQ-VAE) and fitted prior as ONNX files for any number of samples, each checked against
    PyTorch; export.json describes them and example.py uses them, without torch.
    """

    run_folder: Run
    """The trained run."""
    out: str
    """The folder to make."""

    def run(self) -> None:
        from vaekit.export import check_export, export_onnx
        from vaekit.files import load

        check_export(self.out)
        facts = export_onnx(load(self.run_folder, device="cpu").fitted_, self.out)
        for name, file in facts["files"].items():
            worst = max(file["largest_differences"].values())
            print(f"{name}: {file['does']} (from PyTorch at most {worst:.1g} away)")
        print(f"the files, export.json and example.py are in {self.out}")


@dataclass(kw_only=True)
class Push:
    """Upload a trained model to the Hugging Face Hub, with a model card. RUN/evaluation.json is told in it where it is there;
    of the data's path only the last part leaves this machine.
    """

    run_folder: Run
    """The trained run."""
    repo_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """Where to: user/name; made where there is none, a model that is there already is replaced."""
    private: bool = False
    """Only you see it; an error where it is public already."""
    license: str | None = None
    """The Hub's identifier of the licence you give it, such as mit or cc-by-4.0; by default none is stated."""
    message: str | None = None
    """Of the commit."""
    token_file: str | None = None
    """A file with an access token; by default the one that `hf auth login` or HF_TOKEN left is taken."""

    def run(self) -> None:
        from vaekit.files import load_finished
        from vaekit.hub import check_repo_id, push_to_hub

        check_repo_id(self.repo_id)
        token = None
        if self.token_file is not None:
            if not Path(self.token_file).is_file():
                raise FileNotFoundError(f"no token file at {self.token_file}")
            token = Path(self.token_file).read_text().strip()
        model = load_finished(self.run_folder, "a model that others load").fitted_
        evaluated = (Path(self.run_folder) / "evaluation.json").exists()
        url = push_to_hub(
            model,
            self.repo_id,
            private=self.private,
            license=self.license,
            evaluation=self.run_folder if evaluated else None,
            commit_message=self.message,
            token=token,
        )
        if not evaluated:
            print("vaekit: the card has no held-out results; `vaekit evaluate` finds them", file=sys.stderr)
        print(f"{url}\nread it with vaekit.load('hf://{self.repo_id}')")
