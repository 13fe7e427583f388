"""What objectives lose of their liking for length before a gate is trained on them, as the flags ask for it.

The debiased rewards are those that the gate is trained on, that every figure is of, and that the saved model gives: its
transform matrix is the one that is found here. (The upstream computes debiased rewards and then trains on the others.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.frozen_backbone.features import Features
from reward_modeling.frozen_backbone.gate_flags import BY_LENGTH, BY_OBJECTIVE, NOT_AT_ALL, GatingFlags
from reward_modeling.frozen_backbone.gate_pairs import GatePairs, Parts
from reward_modeling.frozen_backbone.gated_saving import ObjectiveModel
from reward_modeling.frozen_backbone.ridge import predict
from reward_modeling.frozen_backbone.verbosity import Debiasing, debias

VERBOSITY = "verbosity"


@dataclass(frozen=True)
class Debiased:
    """The transform matrix, and how it was found."""

    kind: str
    matrix: NDArray[np.float64]
    """`(objectives, objectives)`, applied as `rewards @ matrix`."""
    found: Debiasing | None
    reference: str
    answers: int

    def figures(self, names: Sequence[str]) -> dict[str, Any] | None:
        """For evaluation.json."""
        if self.found is None:
            return None
        each = zip(names, self.found.lambdas.tolist(), self.found.before, self.found.after, strict=True)
        return {
            "measured_by": self.kind,
            "subtracted": names[self.found.verbosity],
            "bound": self.found.bound,
            "reference": self.reference,
            "answers": self.answers,
            "objectives": {
                name: {"lambda": value, "before": dict(before), "after": dict(after)}
                for name, value, before, after in each
            },
        }

    def table(self, names: Sequence[str]) -> str:
        head = f"Rank correlation with {self.kind} on {self.answers:,} answers ({self.reference}):"
        return f"{head}\n{self.found.table(names)}"

    def warnings(self, names: Sequence[str]) -> list[str]:
        if self.found is None or not self.found.not_reached:
            return []
        left = ", ".join(names[place] for place in self.found.not_reached)
        return [
            f"no part of {names[self.found.verbosity]} brings the rank correlation of {left} with {self.kind} down to "
            f"{self.found.bound:g}; the part that does most is subtracted"
        ]


def verbosity_place(args: GatingFlags, names: Sequence[str]) -> int | None:
    """Which objective is subtracted; None where nothing is.

    Raises:
        UserError: it is none of the objectives, or there are several or none to choose from.
    """
    if args.debias == NOT_AT_ALL:
        return None
    if args.verbosity_objective is not None:
        if args.verbosity_objective not in names:
            raise UserError(
                f"--verbosity_objective: expected one of {', '.join(names)}, found {args.verbosity_objective}."
            )
        return names.index(args.verbosity_objective)
    found = [place for place, name in enumerate(names) if VERBOSITY in name.lower()]
    if len(found) == 1:
        return found[0]
    if not found and args.debias is None and not args.reference_set_path:
        return None
    raise UserError(
        f"--debias: expected one objective with {VERBOSITY} in its name, found "
        f"{', '.join(names[place] for place in found) or 'none'} among {', '.join(names)}. Name one with "
        f"--verbosity_objective, or pass --debias {NOT_AT_ALL}."
    )


def debias_objectives(
    args: GatingFlags,
    model: ObjectiveModel,
    features: Features,
    outputs: NDArray,
    pairs: GatePairs,
    parts: Parts,
    reference: Features | None,
    place: int | None,
) -> Debiased:
    """On the reference set, or on the answers of the pairs that are trained on; held-out answers have no part in it.

    Args:
        outputs: `(answers, objectives)` of `features`.
        place: from `verbosity_place`.
    """
    if place is None:
        return Debiased(NOT_AT_ALL, np.eye(len(model.names)), None, "", 0)
    kind = args.debias or BY_OBJECTIVE
    if reference is None:
        answers = np.unique(features.pairs[parts.train])
        of, outputs, words = features, outputs[answers], "those that are trained on"
    else:
        of, outputs = reference, predict(reference.blocks(), model.head)
        answers, words = np.arange(len(reference)), "of --reference_set_path"
    lengths = of.completion_tokens[answers] if kind == BY_LENGTH else None
    found = debias(outputs, place, lengths, prompts=of.prompt_of[answers], bound=args.debias_bound)
    return Debiased(kind, found.matrix, found, words, len(answers))
