"""`MixturePrior` in a loop of your own: a mixture of Gaussians fitted by scikit-learn, then trained on by gradient.

python examples/parts/mixture.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import nn

from vaekit.parts import MixturePrior


def train(steps: int = 200) -> list[float]:
    """Nats per sample, step by step."""
    torch.manual_seed(0)
    data, _ = load_digits(return_X_y=True)
    components = PCA(4, random_state=0).fit_transform(data)
    fitted = GaussianMixture(8, random_state=0, tol=1.0).fit(components)
    z = torch.tensor(components, dtype=torch.float32)  # (1797, 4)
    prior = MixturePrior(latent_dim=4, components=8)
    prior.log_weights.copy_(torch.tensor(fitted.weights_).log()[None])
    prior.precision_cholesky.copy_(torch.tensor(fitted.precisions_cholesky_)[None])
    prior.means.copy_(torch.tensor(fitted.means_)[None])
    start = -prior.log_prob(z).mean()

    shift = nn.Parameter(torch.zeros_like(prior.means))  # of the means; the rest stays
    means, optimizer, losses = prior.means.clone(), torch.optim.Adam([shift], lr=0.05), []
    for _ in range(steps):
        prior.means = means + shift
        loss = -prior.log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    prior.means = (means + shift).detach()
    print(f"nats {start:.3f} (scikit-learn: {-fitted.score(components):.3f}) -> {losses[-1]:.3f}")
    print(f"draws: {tuple(prior.sample(5, temperature=0.7).shape)}")
    return losses


if __name__ == "__main__":
    train()
