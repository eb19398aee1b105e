"""From a name, a file or a folder to `Images`: what every model is trained and evaluated on."""

from vaekit.data.cache import cache_dir
from vaekit.data.checks import check_array, check_labels
from vaekit.data.description import describe
from vaekit.data.images import Images
from vaekit.data.opening import open_data, open_whole

__all__ = ["Images", "cache_dir", "check_array", "check_labels", "describe", "open_data", "open_whole"]
