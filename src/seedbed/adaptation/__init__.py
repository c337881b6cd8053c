"""Adaptation: what acts on a model's attention, or beside it, while a pipeline denoises; without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from torch import nn

from seedbed.adaptation.adaptation import Adaptation as Adaptation
from seedbed.adaptation.adaptation import acting
from seedbed.adaptation.enhancement import Enhance as Enhance
from seedbed.adaptation.guidance import Guide as Guide
from seedbed.attention.kinds import main_tensor, named_arguments
from seedbed.errors import BadInput
from seedbed.pipelines.call import BLOCK
from seedbed.pipelines.compiled import denoisers_of, eager_module
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.interception import Run
from seedbed.pipelines.session import Session
from seedbed.texts import parse

ADAPTATIONS: dict[str, type[Adaptation]] = {kind.name: kind for kind in (Enhance, Guide)}

Adapt = str | Adaptation | Sequence[str | Adaptation] | None
"""One adaptation, or several, as objects or as texts ("enhance:strength=0.2", "guide:perturb=skip")."""

Kind = TypeVar("Kind", bound=Adaptation)


def adaptations_named(adapt: Adapt) -> tuple[Adaptation, ...]:
    """The adaptations that are meant; BadInput where there is no such one, or it refuses an option."""
    several = adapt if isinstance(adapt, (list, tuple)) else [adapt] * (adapt is not None)
    return tuple(
        each if isinstance(each, Adaptation) else parse(ADAPTATIONS, "adaptation", each) for each in several
    )


def adapt(session: Session, adaptations: Sequence[Adaptation]) -> tuple[Adaptation, ...]:
    """Lets adaptations act in every later run of a session; returns them with their layers by name.

    Raises BadInput where a layer does not exist, NotSupported where the pipeline cannot be acted on.
    """
    found = tuple(each.fitted(session) for each in adaptations)
    session.acts += [acting(each, session) for each in found]
    session.extra += [(each.start, each.stop) for each in found if each.evaluates]
    return found


@contextmanager
def _within(
    pipe: Any, adaptation: Kind, prompt: str | None, call: Mapping[str, Any] | None
) -> Iterator[Kind]:
    with ExitStack() as redo:  # a block in another one
        parts = getattr(pipe, "components", {}).values()
        for module in (eager_module(part) for part in parts if isinstance(part, nn.Module)):
            if outer := vars(module).pop(BLOCK, None):
                redo.callback(setattr, module, BLOCK, outer)
        session = Session(pipe, prompt, **(call or {}))
        found = adaptation.fitted(session)
        act = acting(found, session)
        alone = session.alone
    expected = main_tensor(named_arguments(session.denoiser, alone.args, alone.kwargs))

    def check(module: nn.Module, args: Any, kwargs: Any) -> None:
        main = main_tensor(named_arguments(session.denoiser, args, kwargs))
        if expected is not None and main is not None and main.shape[1:] != expected.shape[1:]:
            raise BadInput(
                f"{adaptation.name} was prepared for latents of shape {tuple(expected.shape[1:])}, and this "
                f"call has {tuple(main.shape[1:])}: pass its height, width, num_frames in call={{...}}"
            )

    with ExitStack() as undo:
        denoisers = undo.enter_context(denoisers_of(pipe, session.asked.denoisers, eager=True))
        run: Any = Run(pipe, denoisers, None, {}, undo)  # type: ignore[arg-type]
        run.before_evaluations(check)
        act(run, 1, True)
        for module in session.asked.denoisers.values():
            replace(module, BLOCK, adaptation.name, undo)
        yield found


def enhance(
    pipe: Any, prompt: str = "", *, call: Mapping[str, Any] | None = None, **options: Any
) -> AbstractContextManager[Enhance]:
    """`with seedbed.enhance(pipe, strength=0.2): pipe(...)`: the pipeline's own calls, enhanced.

    Args:
        pipe: any diffusers pipeline; as before once the block ends.
        prompt, call: what the pipeline will be called with, as far as the size of its sequences depends on it
            (height, width, num_frames, num_inference_steps; a prompt where that is not padded).
        options: of `Enhance`.

    Returns:
        A context manager, whose value is the `Enhance` with its layers by name.

    Raises BadInput for an option out of its range or a layer that does not exist, and, in the block, for a
    call of another size.
    """
    return _within(pipe, Enhance(**options), prompt, call)


def guide(
    pipe: Any, prompt: str, *, call: Mapping[str, Any] | None = None, **options: Any
) -> AbstractContextManager[Guide]:
    """`with seedbed.guide(pipe, prompt, perturb="skip"): pipe(prompt, ...)`: guided by a perturbed model too.

    Args:
        prompt: the one that the pipeline will be called with: its rows are told by their text.
        call, options: as for `enhance`, of `Guide`.
    """
    if not isinstance(prompt, str):
        raise BadInput("guide needs the one prompt that the pipeline will be called with, as a text")
    return _within(pipe, Guide(**options), prompt, call)
