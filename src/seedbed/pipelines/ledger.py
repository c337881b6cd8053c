"""What was spent, in denoiser evaluations: overheads that do not depend on the machine."""

from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Denoiser evaluations by purpose.

    The unit is one full conditional forward of the denoiser for one candidate. A forward stopped after d of L
    attention layers counts d/L; a guided forward counts each of its batch rows.
    """

    entries: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, evaluations: float) -> None:
        """Adds `evaluations` to what was spent for the purpose `what`."""
        self.entries[what] = self.entries.get(what, 0.0) + evaluations

    @property
    def total(self) -> float:
        """All evaluations so far."""
        return sum(self.entries.values())

    def to_dict(self) -> dict[str, float]:
        """A copy of the entries, by purpose, in the order in which they first came."""
        return dict(self.entries)
