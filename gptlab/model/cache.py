"""The state of generation, which a model keeps to avoid reading earlier tokens again."""

from typing import Any

from torch import Tensor, nn


class LayerCache:
    """The cache of one layer: `tensors`, empty before the first token.

    A layer makes its own in `new_cache()`. It may return this class, a subclass, or any object that has `n_bytes()`.
    """

    def __init__(self) -> None:
        self.tensors: tuple[Tensor, ...] = ()

    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)


class Cache:
    """The caches of all layers, and the number of tokens that the model has read into them.

    A layer finds its own with `cache.of(self)`. A layer that shares another one's asks for `cache.of(other)`.
    """

    def __init__(self) -> None:
        self.n_read = 0  # tokens; a model counts them after each forward pass
        self._by_layer: dict[nn.Module, Any] = {}

    def of(self, layer: Any) -> Any:
        """Return the layer's cache, which the first call makes with `layer.new_cache()`."""
        if layer not in self._by_layer:
            self._by_layer[layer] = layer.new_cache()
        return self._by_layer[layer]

    def n_bytes(self) -> int:
        return sum(cache.n_bytes() for cache in self._by_layer.values())
