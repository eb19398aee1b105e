"""From a name, a file or a folder to `Images`: what every model is trained and evaluated on."""

from vaekit.data.builtin import open_data, open_whole
from vaekit.data.cache import cache_dir
from vaekit.data.images import Images, check_array, check_labels, describe

__all__ = ["Images", "cache_dir", "check_array", "check_labels", "describe", "open_data", "open_whole"]
