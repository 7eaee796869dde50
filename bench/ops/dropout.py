"""dropout, with the ReLU before it and alone, against torch's own, eager and compiled.

Least work in float32, by number: forward reads x and writes y, 8 bytes. Backward reads the gradient
of y and writes that of x, 8 bytes, and behind a ReLU reads y too, 12. So 20 in all with the ReLU
and 16 without; nothing is kept but y. One Philox word a number forward, and another backward
without the ReLU, is arithmetic, not bytes: some 0.4 ns with AVX-512, which bounds the small case,
whose numbers stay in the cache.

Draws differ between providers, so each provider's numbers are checked by themselves: every one is
x/(1 − p) or 0, the share that is 0 is p within six standard deviations, and the gradient follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench import harness
from bench.harness import Call, Case, Provider
from kernomics.ops import dropout

P = 0.3
Passes = Literal["forward", "forward + backward"]
Layer = Callable[[Tensor], Tensor]


def ours(rectified: bool) -> Callable[[torch.device], Layer]:
    def on(device: torch.device) -> Layer:
        seed = torch.tensor([1, 2], device=device)
        return lambda x: dropout(x, P, seed, rectified=rectified)

    return on


def eager(rectified: bool) -> Callable[[torch.device], Layer]:
    def layer(x: Tensor) -> Tensor:
        return functional.dropout(x.relu() if rectified else x, P)

    return lambda device: layer


def compiled(rectified: bool) -> Callable[[torch.device], Layer]:
    layer = torch.compile(eager(rectified)(torch.device("cpu")), fullgraph=True, dynamic=False)
    return lambda device: layer


@dataclass(frozen=True)
class Way:
    """A layer, for one or both passes."""

    make: Callable[[torch.device], Layer]
    rectified: bool
    passes: Passes

    def prepare(self, x: Tensor, delta: Tensor) -> Call:
        """Return the call that is timed."""
        layer = self.make(x.device)
        if self.passes == "forward":
            return lambda: layer(x)
        leaf = x.detach().requires_grad_()

        def call() -> tuple[Tensor, ...]:
            y = layer(leaf)
            return y.detach(), *torch.autograd.grad(y, leaf, delta)

        return call

    def check(self, x: Tensor, delta: Tensor) -> None:
        """Raise ``AssertionError`` unless y and the gradient are what some draw makes of x."""
        found = self.prepare(x, delta)()
        y, grad = (found, None) if self.passes == "forward" else found
        value = x.relu() if self.rectified else x
        stayed = y != 0
        torch.testing.assert_close(y, torch.where(stayed, value / (1 - P), 0.0))
        lost = float((~stayed)[value != 0].float().mean())
        n = int((value != 0).sum())
        assert abs(lost - P) < 6 * (P * (1 - P) / n) ** 0.5, f"{lost:.4f} of the numbers are lost"
        if grad is not None:
            torch.testing.assert_close(grad, torch.where(stayed, delta / (1 - P), 0.0))


@dataclass(frozen=True)
class Sizes:
    """Numbers of cells and of what a layer has for each."""

    cells: int
    width: int

    def inputs(self, device: torch.device, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw x and the gradient of y, without zeros in x, of which nothing could be told."""
        shape = (self.cells, self.width)
        x, delta = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
        return torch.where(x == 0, 1.0, x), delta

    def case(self, passes: Passes, rectified: bool) -> Case:
        """Describe a case of these sizes."""
        layer = "ReLU + dropout" if rectified else "dropout"
        backward = 0 if passes == "forward" else 12 if rectified else 8
        ways = {
            name: Way(make, rectified, passes)
            for name, make in (
                ("kernomics", ours(rectified)),
                ("torch, eager", eager(rectified)),
                ("torch.compile", compiled(rectified)),
            )
        }
        return Case(
            f"{passes}, {layer}, B={self.cells} H={self.width}",
            self.inputs,
            [Provider(name, way.prepare, way.check) for name, way in ways.items()],
            (8 + backward) * self.cells * self.width,
            sizes={"B": self.cells, "H": self.width},
        )


def cases(device: torch.device, smoke: bool) -> list[Case]:
    on_cpu = device.type == "cpu"
    if smoke:
        layer = wide = Sizes(32, 64)
    else:  # a layer of YOTO, and one that no cache holds
        layer = Sizes(1024, 128)
        wide = Sizes(16_384, 512) if on_cpu else Sizes(65_536, 1024)
    return [
        layer.case("forward + backward", True),
        *([] if smoke else [wide.case("forward + backward", True)]),
        wide.case("forward + backward", False),
        wide.case("forward", True),
    ]


if __name__ == "__main__":
    harness.main("dropout", cases)
