"""Settings of `dnamamba generate`."""

from dataclasses import dataclass

from dnamamba.errors import UsageError
from dnamamba.inference.generate import BASES, Sampler


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of `dnamamba generate`.

    Raises
    ------
    UsageError
        For a value out of range, or two that do not fit together.
    """

    model: str = ""
    """A model folder, or `owner/name` on the hub."""
    prompt: str | None = None
    """A FASTA whose records are continued; `-` is stdin."""
    with_prompt: bool = False
    """Write the prompt in front of what continues it."""
    sequences: int = 1
    """Of each prompt, or in all where there is none."""
    length: int = 1000
    """Bases of each, the prompt not among them."""
    temperature: float = 1.0
    top_k: int = BASES
    top_p: float = 1.0
    seed: int = 0
    batch: int | None = None
    """Sequences that are made side by side; None is as many as suit the device."""

    def __post_init__(self) -> None:
        if self.with_prompt and not self.prompt:
            raise UsageError("--with-prompt: there is no prompt; give --prompt FASTA")
        Sampler(self.temperature, self.top_k, self.top_p)

    @property
    def sampler(self) -> Sampler:
        """How bases are drawn."""
        return Sampler(self.temperature, self.top_k, self.top_p)
