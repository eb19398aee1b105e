"""Training images that are made anew each time: what may become of one, and what does not depend on how it is looked at."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit import VAE, VQVAE, load
from vaekit.cli import main
from vaekit.data.arrays import given_images
from vaekit.data.augment import AUGMENTATIONS, GAMMA, SHIFT, augmented, read_augment
from vaekit.data.batches import Data
from vaekit.ranks import parts_of_batch
from vaekit.training.step import Step
from vaekit.world import drawing

TINY = {"architecture": "mlp", "width": 16, "latent_dim": 3, "epochs": 2, "batch_size": 16, "random_state": 0}


def pictures(n: int, height: int, width: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    """(n, C, H, W) of multiples of 1/255."""
    return torch.randint(256, (n, channels, height, width), generator=torch.Generator().manual_seed(seed)) / 255


@settings(max_examples=20)
@given(height=st.integers(3, 40), width=st.integers(3, 40), channels=st.integers(1, 4))
def test_a_shift_is_by_whole_pixels_up_to_a_sixteenth_and_repeats_the_border(height, width, channels):
    x = pictures(6, height, width, channels)
    down, across = (max(1, side // SHIFT) for side in (height, width))
    found = augmented(x, ("shift",), eight_bit=True).numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (down, down), (across, across)), mode="edge")
    ways = [
        padded[:, :, i : i + height, j : j + width]
        for i, j in itertools.product(range(2 * down + 1), range(2 * across + 1))
    ]
    for number, image in enumerate(found):
        assert any(np.array_equal(image, way[number]) for way in ways)


def test_all_shifts_are_as_likely_and_each_image_has_its_own():
    x = torch.zeros(3000, 1, 16, 16)
    x[:, :, 8, 8] = 1
    torch.manual_seed(0)
    places = augmented(x, ("shift",), eight_bit=False).sum(0)[0]
    assert places[7:10, 7:10].sum() == 3000 and places[7:10, 7:10].numpy() == pytest.approx(3000 / 9, rel=0.25)


def test_every_other_image_is_flipped():
    x = pictures(2000, 4, 5)
    torch.manual_seed(0)
    found = augmented(x, ("flip",), eight_bit=True)
    flipped = (found == x.flip(3)).flatten(1).all(1)
    assert torch.equal(found[~flipped], x[~flipped])
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colours_keep_black_white_alpha_and_their_order(channels):
    x = (torch.arange(256.0) / 255).view(1, 1, 16, 16).expand(400, channels, 16, 16)
    torch.manual_seed(0)
    found = augmented(x, ("colour",), eight_bit=True)
    assert torch.equal(found, found.mul(255).round() / 255), "of 8 bits"
    colours = channels - (channels in (2, 4))
    assert torch.equal(found[:, colours:], x[:, colours:])
    curves = found[:, :colours].flatten(2)
    assert (curves[..., 0] == 0).all() and (curves[..., -1] == 1).all() and (curves.diff(dim=-1) >= 0).all()
    power = augmented(torch.full((400, channels, 1, 1), 0.5), ("colour",), eight_bit=False)[:, :colours].log2().neg()
    assert float(power.log().abs().max()) <= GAMMA and float(power.log().std()) == pytest.approx(
        GAMMA / 3**0.5, rel=0.1
    )
    if colours == 3:
        assert (power[:, 0] != power[:, 1]).all(), "a channel of its own"


def test_parts_of_a_batch_are_made_as_the_whole_is():
    data = Data((pictures(23, 6, 7, 3).movedim(1, 3) * 255).round().byte(), augment=AUGMENTATIONS)
    with drawing(3):
        whole, _ = data.batch(torch.arange(23))
    found = []
    for part in parts_of_batch(23, 4):
        with drawing(3, part):
            found.append(data.batch(torch.arange(part.start, part.stop))[0])
    assert torch.equal(torch.cat(found), whole)
    with drawing(4):
        assert not torch.equal(data.batch(torch.arange(23))[0], whole)


def test_names_are_read_in_any_order_and_others_refused(digits):
    assert read_augment("flip, shift") == ("shift", "flip")
    with pytest.raises(ValueError, match="augment must be of shift, flip, colour, with commas between, got 'colors'"):
        VAE(augment="shift,colors", **TINY).fit(digits[0][:20])
    with pytest.raises(ValueError, match="augment='shift' is for images, and this is a table"):
        VAE(augment="shift").fit(np.zeros((20, 3)))


def test_the_command_says_a_wrong_name_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "vae", "--data", "digits", "--augment", "flop", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and "did you mean 'flip'?" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", [VAE, VQVAE])
def test_a_run_goes_on_as_its_images_were_made(model, digits, tmp_path, monkeypatch):
    x = digits[0][:64]
    fields = {**TINY, "augment": "shift,flip", **({"n_codes": 4, "latent_dim": None} if model is VQVAE else {})}
    whole = model(**fields).fit(x)
    plain = model(**{**fields, "augment": None}).fit(x)
    step = Step.__call__

    def broken(self, batches, number, share):
        if number == 6:  # of 8, in the second epoch
            raise OSError("the machine is on fire")
        return step(self, batches, number, share)

    where = {"images": given_images(x, None), "folder": str(tmp_path / "run")}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="fire"):
        patch.setattr(Step, "__call__", broken)
        model(**fields).fit_images(**where)
    with pytest.raises(ValueError, match="augment"):
        model(**{**fields, "augment": "flip"}).fit_images(**where, resume=True)
    first = model(**fields).fit_images(**where, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["fields"]["augment"] == "shift,flip"
    for name, value in first.model_.state_dict().items():
        assert torch.equal(value, whole.model_.state_dict()[name]), name
    assert any(
        not torch.equal(value, plain.model_.state_dict()[name]) for name, value in whole.model_.state_dict().items()
    )
    assert load(tmp_path / "run").augment == "shift,flip"


def test_what_is_held_out_is_looked_at_as_it_is(digits):
    """Validation by the same weights is the same number, however training images were made."""
    x, how = digits[0][:80], {**TINY, "epochs": 1, "learning_rate": 1e-12, "early_stopping": True}
    how["likelihood"] = "gaussian_fixed"  # whose variance no image moves
    found = [VAE(**how, augment=augment).fit(x).history_[0] for augment in (None, "flip")]
    assert found[0]["validation_objective"] == pytest.approx(found[1]["validation_objective"], rel=1e-5)
    assert found[0]["objective"] != pytest.approx(found[1]["objective"], rel=1e-5)


def test_one_more_pass_is_augmented_too(digits):
    x = digits[0][:64]
    ours, theirs = (VAE(**TINY, augment=augment).partial_fit(x) for augment in ("flip", None))
    assert ours.history_[0]["objective"] != theirs.history_[0]["objective"]


@pytest.mark.slow
def test_few_images_are_not_learned_by_heart(digits):
    """The gap between the ELBO of 100 training images and that of new ones, in nats."""
    x, new = digits[0][:100], digits[0][1000:1400]
    gaps, scores = [], []
    for augment in (None, "shift"):
        model = VAE(architecture="mlp", width=128, epochs=150, batch_size=25, random_state=0, augment=augment).fit(x)
        gaps.append(model.score(x) - model.score(new))
        scores.append(model.score(new))
    assert gaps[1] < 0.6 * gaps[0]
    assert scores[1] > scores[0] + 3
