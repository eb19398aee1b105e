"""
New rows for a table
====================

A table of numbers is learned as it is: columns are scaled inside and come back in their own units. New rows are plausible
together, not only column by column.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine

from vaekit import VAE

wine = load_wine(as_frame=True)
table, kind = wine.data, wine.target.to_numpy()
model = VAE(latent_dim=4, random_state=0).fit(table)
model.fit_prior(table, kind)
rows = {label: model.sample(60, label, random_state=int(label), clip=True) for label in range(3)}  # data frames again

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for axes, (across, up) in zip(panels, [("flavanoids", "proline"), ("alcohol", "color_intensity")], strict=True):
    for label, new in rows.items():
        axes.scatter(
            table[across][kind == label], table[up][kind == label], s=14, color=f"C{label}", label=f"kind {label}"
        )
        axes.scatter(new[across], new[up], s=26, color=f"C{label}", marker="x", linewidths=0.8)
    axes.set(xlabel=across, ylabel=up)
panels[0].legend(title="x: new rows")
plt.show()

# %%
# Correlations of the table, and of as many new rows: the largest difference of all pairs of columns.
new = np.concatenate(list(rows.values()))
print(f"{np.abs(np.corrcoef(table.T) - np.corrcoef(new.T)).max():.2f}")
