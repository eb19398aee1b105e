"""
A model in a pipeline, chosen by grid search
============================================

Models are scikit-learn estimators. Here a VAE makes features for a classifier, and a grid search over the whole pipeline
finds how many latents the classifier wants.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vaekit import VAE

digits = load_digits()
pipeline = make_pipeline(
    VAE(architecture="mlp", epochs=10, random_state=0), StandardScaler(), LogisticRegression(max_iter=2000)
)
search = GridSearchCV(pipeline, {"vae__latent_dim": [2, 4, 8, 16]}, cv=3).fit(digits.images / 16, digits.target)

figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
axes.errorbar(
    search.cv_results_["param_vae__latent_dim"].astype(int),
    search.cv_results_["mean_test_score"],
    search.cv_results_["std_test_score"],
    marker="o",
    capsize=3,
)
axes.set(xlabel="latents", ylabel="accuracy of three folds", title=f"best: {search.best_params_['vae__latent_dim']}")
plt.show()
