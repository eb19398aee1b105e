"""Images completed: what is hidden drawn anew by the fitted prior of a model's codes."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.exceptions import NotFittedError

from vaekit.data.format import index_labels
from vaekit.data.given import as_array
from vaekit.fitted import Fitted, check_choices
from vaekit.threads import paced
from vaekit.world import MOST, check_random_state, seeded


def complete(
    fitted: Fitted,
    X,
    known,
    y=None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    random_state=None,
):
    """X with what is not known drawn anew by the fitted prior, in the layout of fit's X: see `VQVAE.complete`."""
    x = fitted.format.check(X, fitted.name)
    known = as_array(known, "known")
    if fitted.format.is_table or known.shape != fitted.format.shape[:2] or known.dtype != bool:
        raise ValueError(
            f"known must be booleans of shape {fitted.format.shape[:2]}, got {known.dtype} of shape {known.shape}"
        )
    if not fitted.codes_have_places:
        raise ValueError(
            f"the codes of an {fitted.fields['architecture']!r} have no place in the image, so that no part of it can be kept: "
            "use 'conv'"
        )
    if not fitted.has_prior:
        raise NotFittedError("completing needs a prior of the codes: call fit_prior first")
    if "given" not in fitted.module.prior.choices:
        raise ValueError(f"completing needs a prior that draws codes one after the other; {fitted.prior_name} does not")
    choices = check_choices(fitted.module.prior, temperature, top_k, top_p)
    # Not a look at what is hidden: it is taken out before encoding, and filled with the average of the given part.
    average = x[:, known].mean(1) if known.any() else np.zeros((len(x), x.shape[-1]))
    codes = torch.from_numpy(fitted.encode(np.where(known[:, :, None], x, average[:, None, None].astype(x.dtype))))
    kept = torch.from_numpy(_whole_cells(known, fitted.code_shape)).to(fitted.device)
    index = index_labels(y, len(x), fitted.sampling_classes())
    drawn = []
    with seeded(check_random_state(random_state)), torch.inference_mode():
        for start in paced(range(0, len(x), MOST)):
            part = codes[start : start + MOST].to(fitted.device)
            labels = None if index is None else index[start : start + MOST].to(fitted.device)
            choices |= {"given": part, "known": kept}
            drawn.append(fitted.module.prior.sample(len(part), labels, temperature, **choices).cpu())
    return fitted.decode(torch.cat(drawn).numpy())


def _whole_cells(known: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """(H, W) -> (h, w): whether all pixels of a cell are known. Networks halve, rounding up: a cell's side is a power of 2."""
    halvings = [
        next(n for n in range(32) if -(-side // 2**n) <= cells) for side, cells in zip(known.shape, grid, strict=True)
    ]
    rows, columns = (np.arange(side) // 2**n for side, n in zip(known.shape, halvings, strict=True))
    whole = np.ones(grid, dtype=bool)
    np.logical_and.at(whole, (rows[:, None], columns[None]), known)
    return whole
