"""What vaekit is held against: pythae's trainer and a plain loop, on the report's networks, losses and batches."""

import contextlib
import io
import logging
import math
import tempfile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vaekit.data import Images
from vaekit.data.format import Format
from vaekit.estimators.base import Estimator
from vaekit.models.autoencoder import Autoencoder
from vaekit.registry import MODELS

LAMBDA = 0.098  # of the report's loss, 1/2 ||x - decoder(z)||^2 + lambda KL
BATCH, LEARNING_RATE = 100, 0.005


def untrained(name: str, images: Images, seed: int, architecture: str = "wang2023") -> Autoencoder:
    """The module of model `name`, by default the report's, as a training from `seed` finds it, in PyTorch's memory format."""
    model = MODELS[name].estimator()(architecture=architecture, random_state=seed)
    format = Format.of(images, images, scaling="standard", conditional=model.conditional)
    module = model.filled_in(model.resolve(format, len(images))).make_module(format, seed)
    return module.to(memory_format=torch.contiguous_format).train()


def as_floats(images: Images) -> Tensor:
    """(N, C, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(images.x)).permute(0, 3, 1, 2).float().div(255).contiguous()


def loss_of(model: Autoencoder, x: Tensor) -> Tensor:
    """(B,) the report's loss of one draw: 1/2 squared error + lambda KL, or squared error + 1.25 squared distances of codes."""
    trace = model(x)
    error = 2 * LAMBDA * trace.nll[0] - LAMBDA * x[0].numel() * math.log(2 * math.pi * LAMBDA)
    if "commitment" in trace.penalties:
        return error + 1.25 * trace.penalties["commitment"].value
    return 0.5 * error + LAMBDA * trace.kls["z"]


@torch.no_grad()
def test_loss(estimator: Estimator, x: Tensor) -> float:
    """Mean of `loss_of` for a trained model whose likelihood is Gaussian of variance lambda."""
    torch.manual_seed(0)
    return torch.cat([loss_of(estimator.model_, part) for part in x.split(1000)]).mean().item()


class PlainLoop:
    """What one writes by hand: floats in memory, PyTorch's layers, Adam and memory format, the loss read at each step."""

    def __init__(self, module: Autoencoder, x: Tensor):
        self.encoder, self.decoder, self.x = module.encoder, module.decoder, x
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def epoch(self, order: Tensor) -> None:
        total = 0.0
        for index in order.split(BATCH):
            x = self.x[index]
            mean, log_var = self.encoder(x).chunk(2, dim=1)
            out = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean))
            kl = 0.5 * (log_var.exp() + mean.square() - 1 - log_var).sum(1)
            loss = (0.5 * (out - x).square().flatten(1).sum(1) + LAMBDA * kl).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()


class Pythae:
    """pythae's BaseTrainer with the layers and initial weights of `module`, on the batches it is told, with the same loss: its
    BetaVAE with `beta`, or its VQVAE, whose means of squared distances are weighted to be the report's sums.
    """

    def __init__(
        self,
        name: str,
        module: Autoencoder,
        x: Tensor,
        beta: float = LAMBDA,
        batch: int = BATCH,
        learning_rate: float = LEARNING_RATE,
    ):
        from pythae.data.datasets import BaseDataset
        from pythae.models import VQVAE, BetaVAE, BetaVAEConfig, VQVAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        class Encoder(BaseEncoder):
            def __init__(self):
                BaseEncoder.__init__(self)
                self.layers = module.encoder

            def forward(self, x):
                h = self.layers(x)
                if name == "vqvae":
                    return ModelOutput(embedding=h)
                mean, log_var = h.chunk(2, dim=1)
                return ModelOutput(embedding=mean, log_covariance=log_var)

        class Decoder(BaseDecoder):
            def __init__(self):
                BaseDecoder.__init__(self)
                self.layers = module.decoder

            def forward(self, z):
                return ModelOutput(reconstruction=self.layers(z))

        logging.getLogger("pythae").setLevel(logging.ERROR)
        if name == "vqvae":
            distances = module.latent.features * math.prod(module.prior.code_shape)  # of which pythae takes the mean
            config = VQVAEConfig(
                input_dim=tuple(x.shape[1:]),
                latent_dim=module.latent.features,
                num_embeddings=module.latent.n_codes,
                commitment_loss_factor=0.25 * distances,
                quantization_loss_factor=1.0 * distances,
            )
            self.model = VQVAE(config, Encoder(), Decoder())
            self.model.quantizer.embeddings.weight.data.copy_(module.latent.codebook)
        else:
            config = BetaVAEConfig(
                input_dim=tuple(x.shape[1:]),
                latent_dim=module.latent.latent_dim,
                reconstruction_loss="mse",
                beta=beta,
            )
            self.model = BetaVAE(config, Encoder(), Decoder())
        self.folder = tempfile.TemporaryDirectory()
        settings = BaseTrainerConfig(
            output_dir=self.folder.name,
            per_device_train_batch_size=batch,
            learning_rate=learning_rate,
            optimizer_cls="Adam",
            no_cuda=True,
        )
        dataset = BaseDataset(x, torch.zeros(len(x)))
        self.trainer = BaseTrainer(self.model, dataset, training_config=settings)
        self.trainer.prepare_training()
        self.epochs = 0

    def epoch(self, order: Tensor) -> None:
        loader = self.trainer.train_loader
        self.trainer.train_loader = DataLoader(
            loader.dataset,
            batch_size=self.trainer.training_config.per_device_train_batch_size,
            sampler=order.tolist(),
            collate_fn=loader.collate_fn,
        )
        self.epochs += 1
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            self.trainer.train_step(self.epochs)

    @torch.no_grad()
    def test_loss(self, x: Tensor) -> float:
        self.model.eval()
        torch.manual_seed(0)
        losses = [self.model({"data": part}).loss.mean().item() for part in x.split(1000)]
        return float(np.mean(losses))
