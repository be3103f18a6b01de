"""From a sequence of ids to the next one: the transformer, its cache, the sampler, and `Plantain` around them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.plantain import Plantain as Plantain


def __getattr__(name: str):
    # `from model import Plantain` works, and `import model` stays light.
    if name == "Plantain":
        from model.plantain import Plantain

        return Plantain
    raise AttributeError(f"module 'model' has no attribute {name!r}")
