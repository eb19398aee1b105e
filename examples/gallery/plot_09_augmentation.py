"""
More images for a training set
==============================

New images of each class, in a folder with a sub-folder per class: the layout that torchvision's `ImageFolder` reads, so
that they are added to a training set in one line.

Whether they help is another question, which has been measured: with few labels a little, less than moving and turning the
images does. See :doc:`the guide </guides/generate>`.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from vaekit import CVAE, open_data
from vaekit.pictures.sheets import labelled_rows

digits = load_digits()
model = CVAE(architecture="mlp", random_state=0).fit(digits.images / 16, digits.target)
model.fit_prior(digits.images / 16, digits.target)

folder = Path(tempfile.mkdtemp()) / "more"
for label in model.classes_:
    (folder / str(label)).mkdir(parents=True)
    for number, image in enumerate(model.sample(20, label, random_state=int(label))):
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(folder / str(label) / f"{number:03}.png")
print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))[:3])

# %%
# On the command line that is ``vaekit sample RUN --per-class -n 20 --out more``. With torchvision:
#
# .. code-block:: python
#
#    from torch.utils.data import ConcatDataset
#    from torchvision.datasets import ImageFolder
#
#    both = ConcatDataset([ImageFolder("photos"), ImageFolder("more")])
#
# vaekit reads it, too.
more = open_data(folder, "all")
rows = labelled_rows({name: more.x[more.y == index][:12] for index, name in enumerate(more.classes)})
