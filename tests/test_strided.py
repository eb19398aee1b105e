"""The report's blocks as matrix products compute what PyTorch's layers compute, forwards and backwards."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaekit.parts.networks import make_networks
from vaekit.parts.strided import block, gather, scatter, suits

KINDS = {
    "down": lambda a, b: nn.Conv2d(a, b, 3, stride=2, padding=1),
    "down without bias": lambda a, b: nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False),
    "up by 3": lambda a, b: nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1),
    "up by 2": lambda a, b: nn.ConvTranspose2d(a, b, 2, stride=2, padding=1, output_padding=1),
}


def results(layers: nn.Sequential, x: torch.Tensor, run) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics after one training step."""
    x = x.clone().requires_grad_()
    out = run(x)
    out.backward(torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape))
    found = {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in layers.named_parameters()}}
    return found | {name: buffer.clone() for name, buffer in layers.named_buffers()}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    n=st.integers(2, 5),
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    channels_last=st.booleans(),
)
def test_a_block_is_its_layers(kind, n, channels, outputs, height, width, channels_last):
    torch.manual_seed(n)
    layers = nn.Sequential(KINDS[kind](channels, outputs), nn.BatchNorm2d(outputs), nn.ReLU()).double()
    layers = layers.to(memory_format=torch.channels_last) if channels_last else layers
    other = copy.deepcopy(layers)
    nn.init.normal_(layers[1].weight)
    other.load_state_dict(layers.state_dict())
    x = torch.randn(n, channels, height, width, dtype=torch.float64)
    plain = results(layers, x, layers)
    ours = results(other, x, lambda x: block(x, other[0], other[1]))
    assert plain.keys() == ours.keys()
    for name, value in plain.items():
        if name == "0.bias":  # BatchNorm subtracts it: what is left is rounding
            assert value.abs().max() < 1e-9 and ours[name] is None
        else:
            torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(("spatial", "fitting"), [(False, 8), (True, 1)], ids=["vae", "vqvae"])
def test_blocks_of_few_channels_on_small_maps_are_products(spatial, fitting):
    """All eight of the report's VAE, and of its VQ-VAE the first only: compiled with the others it is slower."""
    sizes = {"features": 20, "latent_dim": 10} if not spatial else {"features": 2, "latent_dim": 2}
    networks = make_networks("wang2023", (1, 28, 28), **sizes, out_channels=1, spatial=spatial)
    found = []

    def look(layer, inputs, output):
        found.append(suits(inputs[0], layer))

    for layer in (*networks.encoder.modules(), *networks.decoder.modules()):
        if getattr(layer, "stride", None) == (2, 2):
            layer.register_forward_hook(look)
    latents = networks.encoder(torch.rand(2, 1, 28, 28))
    networks.decoder(latents if spatial else latents[:, :10])
    assert found == [True] * fitting + [False] * (len(found) - fitting)


@pytest.mark.parametrize("kernel", [2, 3])
def test_scatter_is_the_transpose_of_gather(kernel):
    size, whole = (3, 4), (2 * 3 + kernel - 3, 2 * 4 + kernel - 3)
    torch.manual_seed(0)
    x, taps = torch.randn(2, *whole, 5), torch.randn(2, *size, kernel, kernel, 5)
    there = (gather(x, size, kernel) * taps.view(-1, kernel * kernel * 5)).sum()
    torch.testing.assert_close(there, (x * scatter(taps, whole)).sum())
