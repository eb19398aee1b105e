"""Does each latent stand for one factor of the data? Published scores of codes (N, D) and known factors (N, F).

codes: floats, such as posterior means, a row an image. factors: integers, each value a class of its own; what is said of a
factor's values uses no order among them. Higher is better for every score, and 1 is the most it can be (SAP: less). All are
estimates from the rows given: compare scores of equal numbers of rows. Each refuses a factor with one value only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaekit.evaluation.likelihood import ACTIVE
from vaekit.state import undisturbed
from vaekit.threads import alone
from vaekit.world import derive_seed

BINS = 20  # of a latent's histogram, as in Locatello et al. 2019
CELLS = 128  # of a latent, at whose borders SAP's thresholds lie
GROUP = 64  # samples of a vote, pairs of a point
VOTES = 2000  # votes, or points, to learn from, and as many to test on
TREES = 10
LEAVES = (5, 20, 80)  # samples in the smallest leaf, to choose from
FLOOR = 0.01  # of a predicted distribution that is spread over all values, so that its log-loss is finite


class Dci(NamedTuple):
    """Scores in [0, 1]. train, test: rows that the forests grew on and that informativeness is of."""

    disentanglement: float
    completeness: float
    informativeness: float
    train: int
    test: int


@undisturbed
def disentanglement(codes, factors, *, seed: int = 0) -> dict:
    """Every score of codes (N, D) and factors (N, F), JSON-able, with `samples`: how many rows, votes or points each is of.

    Factors with one value only say nothing: they are left out and listed, by column, as `constant_factors`. Where rows of one
    value are too few for groups of 64, the FactorVAE score's are smaller, as `samples` says.
    Raises ValueError for codes that are no finite (N, D), factors that are no integers (N, F), and fewer than two factors that
    vary.
    """
    codes, factors = _check_shapes(codes, factors)
    varies = (factors != factors[:1]).any(0)
    codes, factors = _check(codes, factors[:, varies], least=2)
    group = _affordable_group(factors, seed)
    trees = dci(codes, factors, seed=seed)
    return {
        "mig": mig(codes, factors),
        "dci_disentanglement": trees.disentanglement,
        "dci_completeness": trees.completeness,
        "dci_informativeness": trees.informativeness,
        "sap": sap(codes, factors),
        "factorvae_score": factorvae_score(codes, factors, group=group, seed=seed),
        "betavae_score": betavae_score(codes, factors, seed=seed),
        "constant_factors": np.flatnonzero(~varies).tolist(),
        "samples": {
            "mig": {"rows": len(codes)},
            "dci": {"train": trees.train, "test": trees.test},
            "sap": {"rows": len(codes)},
            "factorvae_score": {"train votes": VOTES, "test votes": VOTES, "rows per vote": group},
            "betavae_score": {"train points": VOTES, "test points": VOTES, "pairs per point": GROUP},
        },
    }


# ---- the mutual information gap ------------------------------------------------------------------------------------


@undisturbed
def mig(codes, factors, *, bins: int = BINS) -> float:
    """Mutual information gap (Chen et al. 2018, eq. 6): the mean over factors v of (I(z_a; v) - I(z_b; v)) / H(v), z_a and z_b
    the latents that tell most and second most of v. In [0, 1]; about 0 by chance.

    I is that of counts, a latent cut into `bins` of equal width from its least to its greatest value. So a factor with more
    values than bins can't reach 1: the sprites' factors themselves have 0.90 with 20 bins. It is too large by about
    (bins - 1) (values - 1) / (2 N) nats, for the two latents much alike.
    """
    codes, factors = _check(codes, factors)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    gaps = []
    for v in factors.T:
        information = [0.0, *(_mutual_information(_binned(z, bins), v) for z in codes.T)]
        second, top = sorted(information)[-2:]
        gaps.append((top - second) / _entropy(np.bincount(v) / len(v)))
    return float(np.mean(gaps))


def _binned(z: np.ndarray, bins: int) -> np.ndarray:
    """(N,) the bin of each value, of `bins` equally wide ones from the least value to the greatest."""
    width = z.max() - z.min()
    if width == 0:
        return np.zeros(len(z), np.int64)
    return np.minimum((z - z.min()) / width * bins, bins - 1).astype(np.int64)


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two columns (N,) of small integers, in nats: H(a) + H(b) - H(a, b)."""
    joint = _counts(a, b) / len(a)
    return float(max(_entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint), 0.0))


def _counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(values of a, values of b) how often each pair occurs."""
    rows, columns = a.max() + 1, b.max() + 1
    return np.bincount(a * columns + b, minlength=rows * columns).reshape(rows, columns)


def _entropy(p: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """-sum p log p in nats, 0 log 0 = 0."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis)


# ---- disentanglement, completeness, informativeness ----------------------------------------------------------------


@undisturbed
def dci(codes, factors, *, seed: int = 0) -> Dci:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2), by a random forest a factor.

    disentanglement, completeness: of the importances of latents for factors, see `importance_scores`; near 0 by chance.
    informativeness: share of right predictions on a fifth of the rows held out, the mean over factors; by chance it is the mean
        share of each factor's most frequent value, 0.12 for the sprites.
    Importance is the information gained by splits on a latent. Trees see every latent at every split, and leaves have the size
    among 5, 20 and 80 samples that predicts a held-out tenth best: fully grown trees fit noise with latents that say nothing,
    which makes any noisy code look entangled.
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = _check(codes, factors, least=2)
    if len(codes) < 20:
        raise ValueError(f"DCI needs at least 20 rows to grow trees and to test them, got {len(codes)}")
    order = np.random.default_rng(derive_seed(seed, "dci")).permutation(len(codes))
    train, chooser, test = np.split(order, [7 * len(order) // 10, 8 * len(order) // 10])
    importance, right = [], []
    for v in factors.T:
        forests = [
            RandomForestClassifier(
                TREES,
                criterion="entropy",
                max_features=None,  # pyright: ignore[reportArgumentType]  (its type is read off the default)
                min_samples_leaf=leaf,
                random_state=derive_seed(seed, "forest") % 2**31,
            ).fit(codes[train], v[train])
            for leaf in LEAVES
        ]
        best = min(forests, key=lambda forest: _log_loss(forest, codes[chooser], v[chooser]))
        importance.append(best.feature_importances_)
        right.append(best.score(codes[test], v[test]))
    scores = importance_scores(np.stack(importance, axis=1))
    return Dci(*scores, float(np.mean(right)), len(train), len(test))


@undisturbed
def importance_scores(importance) -> tuple[float, float]:
    """Disentanglement and completeness of an importance matrix R (D latents, F factors), entries >= 0; each in [0, 1].

    D_i = 1 - H_F(R_i. / sum_k R_ik), entropies to the base F, weighted by the latent's share of all importance; a latent of no
    importance has no weight. C_j = 1 - H_D(R_.j / sum_k R_kj), its mean over factors, 0 for a factor that no latent tells of.
    A single latent is complete.
    """
    importance = np.asarray(importance, np.float64)
    if importance.ndim != 2 or 0 in importance.shape or importance.shape[1] < 2 or not (importance >= 0).all():
        raise ValueError(f"importance must be >= 0, of shape (D, F) with F >= 2, got shape {importance.shape}")
    total = importance.sum()
    if total == 0:
        return 0.0, 0.0
    disentangled, complete = _concentration(importance), _concentration(importance.T)
    return float((disentangled * importance.sum(1)).sum() / total), float(complete.mean())


def _concentration(rows: np.ndarray) -> np.ndarray:
    """(n,) 1 - H(row / its sum) / log m for rows (n, m) >= 0: 1 where all is in one entry, 0 where it is even or nothing."""
    sums = rows.sum(1)
    shares = rows / np.where(sums > 0, sums, 1.0)[:, None]
    most = np.log(rows.shape[1]) or 1.0
    return np.where(sums > 0, 1 - _entropy(shares, 1) / most, 0.0)


def _log_loss(forest, codes: np.ndarray, v: np.ndarray) -> float:
    """Mean -log p(v) in nats; values that the forest never saw have the floor's probability."""
    probabilities = np.zeros((len(v), max(v.max(), forest.classes_.max()) + 1))
    probabilities[:, forest.classes_] = forest.predict_proba(codes)
    smoothed = (1 - FLOOR) * probabilities + FLOOR / probabilities.shape[1]
    return float(-np.log(smoothed[np.arange(len(v)), v]).mean())


# ---- separated attribute predictability ----------------------------------------------------------------------------


@undisturbed
def sap(codes, factors) -> float:
    """Separated attribute predictability (Kumar, Sattigeri & Balakrishnan 2018, section 3): the mean over factors of S_a - S_b,
    S being how well one latent alone predicts the factor, a and b the best and second best latent.

    S is the paper's for classes: the best balanced accuracy of thresholds on the latent, here K - 1 for a factor with K values,
    found exactly among the borders of 128 cells of equal count (of every value where there are fewer). As there, it is of the
    rows it was fitted to, which flatters a latent that tells nothing, and lowers the gap by 0.02 for 10,000 rows of sprites.
    Published figures with a linear SVM in its place differ.
    In [0, 1 - mean(1 / K)], since 1 / K is right by chance: at most 0.88 for the sprites. About 0 by chance.
    """
    codes, factors = _check(codes, factors)
    cells = [_cells(z) for z in codes.T]
    gaps = []
    for v in factors.T:
        values = v.max() + 1
        second, top = sorted([1 / values, *(_threshold_accuracy(_counts(cell, v)) for cell in cells)])[-2:]
        gaps.append(top - second)
    return float(np.mean(gaps))


def _cells(z: np.ndarray) -> np.ndarray:
    """(N,) the cell of each value: one a distinct value, or CELLS of about equal count."""
    distinct, index = np.unique(z, return_inverse=True)
    if len(distinct) <= CELLS:
        return index
    borders = np.unique(np.quantile(z, np.arange(1, CELLS) / CELLS, method="higher"))
    return np.searchsorted(borders, z, side="right")


def _threshold_accuracy(counts: np.ndarray) -> float:
    """The best balanced accuracy of K - 1 thresholds between ordered cells, from counts (cells, K values).

    Each interval is given its best value. best[c] is the most that the first c cells give, one interval more at a time.
    """
    n_cells, values = counts.shape
    reached = np.zeros((n_cells + 1, values))
    np.cumsum(counts / (counts.sum(0) * values), axis=0, out=reached[1:])
    gain = np.full((n_cells + 1, n_cells + 1), -np.inf)  # [from, to] of one interval
    for start in range(n_cells):
        gain[start, start + 1 :] = (reached[start + 1 :] - reached[start]).max(1)
    best = gain[0]
    for _ in range(values - 1):
        best = np.maximum(best, (best[:, None] + gain).max(0))
    return float(best[-1])


# ---- scores of groups that share a factor --------------------------------------------------------------------------


@undisturbed
def factorvae_score(
    codes, factors, *, group: int = GROUP, votes: int = VOTES, collapsed: float = ACTIVE, seed: int = 0
) -> float:
    """FactorVAE score (Kim & Mnih 2018, section 4): in [0, 1]; by chance about 1 / F.

    A vote is of `group` rows that share the value of one factor: the latent whose variance among them, over its variance among
    all rows, is least. Rows are drawn from those given, a value as often as it occurs, no row twice in a vote; values of fewer
    rows are passed over. The majority classifier of `votes` votes names the factor of as many new ones; the score is the share
    that is right, where the paper's is of the votes it was learnt from. One half of the rows votes to learn, the other to test:
    where groups are few, the same ones would return, and noise be right by heart.
    collapsed: latents whose variance is at most this are left out. 0.01 suits posterior means under a standard normal prior;
        give 0 for codes on another scale.
    """
    codes, factors = _check(codes, factors, least=2)
    if group < 2 or votes < 1 or collapsed < 0:
        raise ValueError(f"group >= 2, votes >= 1 and collapsed >= 0 are needed, got {group}, {votes} and {collapsed}")
    codes, variance = _centred(codes)
    active = variance > collapsed
    if not active.any():
        return 1 / factors.shape[1]
    codes = codes[:, active] / np.sqrt(variance[active])
    rng = np.random.default_rng(derive_seed(seed, "factorvae"))
    learnt, tested = (_votes(codes[half], factors[half], group, votes, rng) for half in _halves(len(codes), seed))
    ballot = np.zeros((codes.shape[1], factors.shape[1]))
    np.add.at(ballot, learnt, 1)
    latent, factor = tested
    return float((ballot.argmax(1)[latent] == factor).mean())


def _votes(codes, factors, group: int, votes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The latent of least variance (votes,) and the factor (votes,) that was held fixed; factors take turns."""
    latent, fixed = np.empty(votes, np.int64), np.arange(votes) % factors.shape[1]
    for k, v in enumerate(factors.T):
        counts = np.bincount(v)
        often = np.flatnonzero(counts[v] >= group)
        if not len(often):
            raise ValueError(
                f"factor {k} has at most {counts.max()} rows of one value in half of the rows, a group needs {group}: "
                "give more rows or a smaller group"
            )
        members = {value: np.flatnonzero(v == value) for value in np.unique(v[often])}
        for vote in np.flatnonzero(fixed == k):
            rows = rng.choice(members[v[rng.choice(often)]], group, replace=False)
            latent[vote] = codes[rows].var(0).argmin()
    return latent, fixed


def _affordable_group(factors: np.ndarray, seed: int) -> int:
    """GROUP, or fewer where of some factor most rows' values have fewer rows in one of the halves; at least 2."""
    typical = (np.median(np.bincount(v[half])[v[half]]) for v in factors.T for half in _halves(len(factors), seed))
    return max(2, min(GROUP, *(int(count) for count in typical)))


def _halves(n: int, seed: int) -> list[np.ndarray]:
    """Two disjoint random halves of n rows: to learn from, and to test on."""
    return np.array_split(np.random.default_rng(derive_seed(seed, "halves")).permutation(n), 2)


@undisturbed
def betavae_score(codes, factors, *, pairs: int = GROUP, points: int = VOTES, seed: int = 0) -> float:
    """beta-VAE score (Higgins et al. 2017, section 3): in [0, 1]; by chance about 1 / F. Forgiving: a rotated code may reach 1.

    A point is the mean |z - z'| over `pairs` pairs of rows that share the value of one factor, other for each pair. A logistic
    regression on `points` standardised points names the factor of as many new ones; the score is the share that is right. Pairs
    are drawn from one half of the rows to learn from, from the other to test on; the only row of a value is passed over.
    """
    from sklearn.linear_model import LogisticRegression

    codes, factors = _check(codes, factors, least=2)
    if pairs < 1 or points < factors.shape[1]:
        raise ValueError(f"pairs >= 1 and points >= the number of factors are needed, got {pairs} and {points}")
    rng = np.random.default_rng(derive_seed(seed, "betavae"))
    fixed = np.arange(points) % factors.shape[1]
    learnt, tested = (_differences(codes[half], factors[half], fixed, pairs, rng) for half in _halves(len(codes), seed))
    mean, spread = learnt.mean(0), learnt.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    with alone():
        classifier = LogisticRegression(max_iter=1000).fit((learnt - mean) / spread, fixed)
    return float(classifier.score((tested - mean) / spread, fixed))


def _differences(codes, factors, fixed: np.ndarray, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """(points, D) mean |z - z'| over pairs that share the factor `fixed` (points,)."""
    found = np.empty((len(fixed), codes.shape[1]))
    for k, v in enumerate(factors.T):
        mine = fixed == k
        first, second = _pairs(v, mine.sum() * pairs, rng, k)
        for d, z in enumerate(codes.T):
            found[mine, d] = np.abs(z[first] - z[second]).reshape(-1, pairs).mean(1)
    return found


def _pairs(v: np.ndarray, n: int, rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,), as often as their value of v occurs, and for each another row (n,) of the same value."""
    sizes, order = np.bincount(v), np.argsort(v, kind="stable")
    starts = np.cumsum(sizes) - sizes
    place = np.empty_like(order)  # of each row among those of its value
    place[order] = np.arange(len(v)) - starts[v[order]]
    repeated = np.flatnonzero(sizes[v] >= 2)
    if not len(repeated):
        raise ValueError(f"factor {index} has another value in every row of a half, so that no two share one")
    first = rng.choice(repeated, n)
    other = rng.integers(sizes[v[first]] - 1)
    other += other >= place[first]
    return first, order[starts[v[first]] + other]


# ---- what comes in -------------------------------------------------------------------------------------------------


def _centred(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes with the first row taken off, so that a constant latent's variance is 0 and no rounding error; variances (D,)."""
    codes = codes - codes[0]
    return codes, codes.var(0)


def _check(codes, factors, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, D) in float64, and factors (N, F) with values 0, 1, ...; ValueError unless there are `least` and all vary."""
    codes, factors = _check_shapes(codes, factors)
    if factors.shape[1] < least:
        raise ValueError(f"at least {least} factors that vary are needed, got {factors.shape[1]}")
    constant = np.flatnonzero((factors == factors[:1]).all(0))
    if len(constant):
        raise ValueError(f"factors must vary; constant: column {', '.join(map(str, constant))}. Leave such columns out")
    return codes, np.stack([np.unique(column, return_inverse=True)[1] for column in factors.T], axis=1)


def _check_shapes(codes, factors) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = np.asarray(codes), np.asarray(factors)
    if codes.ndim != 2 or 0 in codes.shape or codes.dtype.kind not in "iuf":
        raise ValueError(f"codes must be numbers of shape (N, D), got {codes.dtype} of shape {codes.shape}")
    if factors.ndim != 2 or factors.shape[1] == 0 or factors.dtype.kind not in "iub":
        raise ValueError(f"factors must be integers of shape (N, F), got {factors.dtype} of shape {factors.shape}")
    if len(codes) != len(factors):
        raise ValueError(f"codes and factors must have a row an image each, got {len(codes)} and {len(factors)} rows")
    if not np.isfinite(codes).all():
        raise ValueError("codes must be finite, got NaN or infinity")
    return codes.astype(np.float64), factors
