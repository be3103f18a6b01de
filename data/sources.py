"""From a config's `kind` to the source of examples that it describes."""

from data.example import Source
from data.images import Images, ImagesConfig
from data.shapes.source import Shapes, ShapesConfig

SourceConfig = ShapesConfig | ImagesConfig


def open_source(config: SourceConfig) -> Source:
    """Opens the source that a config describes.

    Raises:
        FileNotFoundError: Its files are missing.
        ValueError: It can't be read as the config says.
    """
    return Shapes(config) if isinstance(config, ShapesConfig) else Images(config)
