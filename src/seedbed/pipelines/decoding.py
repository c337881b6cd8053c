"""What decodes previews in place of a model's own decoder: a linear map fitted to it, or another autoencoder.

The pipeline itself unpacks and scales its latents and hands them to `vae.decode`; that one method is stood in
for, after the pause. So packed latents, frames in the batch and every scale are the pipeline's affair.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput, NotSupported, reason, shown
from seedbed.files import read_text
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.evaluation import require_finite
from seedbed.pipelines.loading import silence
from seedbed.pipelines.session import Session

Map = tuple[Tensor, ...]
"""One tensor (latent channels + 1, colours, frames, height, width) for latent frames that are all alike, two
where the first has pixel frames of another number than the others. The last row is the constant."""


class Decoder:
    """Decodes previews in place of the `vae` of a pipeline.

    Attributes:
        described: what decoded previews, for the record; "" until one was decoded.
        step: denoising steps after which what is decoded was predicted; 0 until one is known.

    Raises:
        NotSupported: the pipeline has no such autoencoder.
    """

    described = ""
    step = 0

    def __init__(self, session: Session) -> None:
        self.name = session.asked.name
        self.vae: Any = getattr(session.pipe, "vae", None)
        if not isinstance(self.vae, nn.Module) or not callable(getattr(self.vae, "decode", None)):
            raise NotSupported(
                f"{self.name} has no autoencoder called vae whose decoder another could stand in for: use "
                "decode='exact'"
            )

    def pixels(self, latents: Tensor, exact: Callable[[], Tensor]) -> Tensor:
        """Pixels from -1 to 1, (rows, colours[, frames], height, width).

        Args:
            latents: as the pipeline hands them to `vae.decode`, (rows, channels[, frames], height, width).
            exact: what the autoencoder itself makes of them, of videos of the first one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement pixels")

    def stand_in(self, step: int, paused: Callable[[], bool], undo: ExitStack) -> None:
        """Decode in place of the autoencoder what comes after the pause at `step`, until `undo` is closed."""
        self.step, own = step, self.vae.decode

        def decode(z: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not paused():  # what goes into the denoising is no preview
                return own(z, *args, **kwargs)
            # Of a batch of videos the first alone; the rows of images are the frames of one, or of several.
            given, named = tree_map_only(
                Tensor, lambda t: t[:1] if z.ndim == 5 and t.ndim and len(t) == len(z) else t, (args, kwargs)
            )
            first = z[:1] if z.ndim == 5 else z
            sample = self.pixels(z, lambda: own(first, *given, **named)[0]).to(z)
            return DecoderOutput(sample=sample) if kwargs.get("return_dict", True) else (sample,)

        replace(self.vae, "decode", functools.update_wrapper(decode, own), undo)


class Linear(Decoder):
    """A linear map, with a constant, from the latents of a place to the pixels that they stand for.

    Fitted by least squares to the first preview after a step, which the autoencoder decodes, for all others
    after that step. No map is kept for later sheets: a preview after few steps has little contrast, and the
    map that was fitted to it shows nothing of clearer ones. Where a latent frame stands for several frames,
    each has coefficients of its own, and so has each pixel of a place; the first latent frame of causal
    autoencoders, which stands for a single one, has a map of its own. Nothing is known of neighbours.

    Raises:
        NotSupported: as `Decoder`; later, latents too few to fit to, or pixels whose numbers are no multiples
            of theirs.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._maps: dict[tuple[int, int], Map] = {}  # by the step and the number of latent frames

    def pixels(self, latents: Tensor, exact: Callable[[], Tensor]) -> Tensor:
        """See `Decoder`."""
        if latents.ndim not in (4, 5):
            raise NotSupported(f"{self.name} decodes latents without height and width: use decode='exact'")
        z = latents if latents.ndim == 5 else latents[:, :, None]
        key = self.step, z.shape[2]
        if key not in self._maps:
            sample = exact()
            self._maps[key] = self._fitted(z[: len(sample)], sample)
            self.described = "previews decoded by a linear map"
        parts = self._maps[key]
        pieces = (z,) if len(parts) == 1 else (z[:, :, :1], z[:, :, 1:])
        video = torch.cat([_applied(part, piece) for part, piece in zip(parts, pieces, strict=True)], 2)
        return video if latents.ndim == 5 else video[:, :, 0]

    def _fitted(self, z: Tensor, sample: Tensor) -> Map:
        """The map by which latents (rows, channels, frames, ...) come nearest to their decoded pixels."""
        require_finite(z, f"what {self.name} decodes")
        require_finite(sample, f"what the autoencoder of {self.name} decodes")
        video = (sample if sample.ndim == 5 else sample[:, :, None]).cpu().clamp(-1, 1)  # as they are shown
        frames, all_frames = z.shape[2], video.shape[2]
        # Either all latent frames stand for as many frames, or the first stands for one.
        readings = [(0, all_frames // frames)] if all_frames % frames == 0 else []
        if frames > 1 and all_frames > frames and (all_frames - 1) % (frames - 1) == 0:
            readings.append((1, (all_frames - 1) // (frames - 1)))
        if not readings or any(b % a for a, b in zip(z.shape[3:], video.shape[3:], strict=True)):
            raise NotSupported(
                f"the autoencoder of {self.name} makes {tuple(video.shape[2:])} pixels of "
                f"{tuple(z.shape[2:])} latents, which no map of each place alone can: use decode='exact'"
            )
        fits = []
        for first, times in readings:
            cuts = [(slice(0, first), slice(0, first), 1)] * first
            cuts.append((slice(first, None), slice(first, None), times))
            if (places := z[:, 0, cuts[0][0]].numel()) < 2 * (z.shape[1] + 1):
                raise NotSupported(
                    f"{places} latents of {z.shape[1]} channels are too few to fit a linear map to: make "
                    "larger videos, or use decode='exact'"
                )
            made = [_fit(z[:, :, a].cpu(), video[:, :, b], t) for a, b, t in cuts]
            fits.append((sum(left for _, left in made), tuple(part for part, _ in made)))
        return min(fits, key=lambda fit: fit[0])[1]  # both may divide: 3 latent frames of 9


class Autoencoder(Decoder):
    """Another autoencoder of diffusers, such as AutoencoderTiny, for the same latents.

    Raises:
        BadInput: a folder whose weights do not load, or are for latents of other channels.
    """

    def __init__(self, session: Session, folder: str) -> None:
        super().__init__(session)
        kind = _kind(folder)
        try:
            with silence():
                self.other = kind.from_pretrained(folder, torch_dtype=self.vae.dtype, use_safetensors=True)
        except Exception as error:  # whatever broken files provoke in diffusers
            raise BadInput(f"{folder} does not load as {kind.__name__}: {reason(error)}") from error
        self.other.eval().requires_grad_(False)
        own, others = (_setting(vae, "latent_channels", "z_dim") for vae in (self.vae, self.other))
        if None not in (own, others) and own != others:
            raise BadInput(
                f"{folder} decodes latents of {others} channels, but those of {self.name} have {own}"
            )
        self.folder = folder

    @plain_arithmetic()
    def pixels(self, latents: Tensor, exact: Callable[[], Tensor]) -> Tensor:
        """See `Decoder`; NotSupported where the other autoencoder fails."""
        try:
            # What the denoiser works on, as the two may scale it differently: AutoencoderTiny not at all.
            (mean, scale), (mean_, scale_) = (_scaling(vae, latents) for vae in (self.vae, self.other))
            scaled = ((latents.float() - mean) / scale * scale_ + mean_).to(self.other.dtype)
            sample: Tensor = self.other.to(latents.device).decode(scaled).sample
        except (RuntimeError, TypeError, ValueError) as error:
            raise NotSupported(
                f"the {type(self.other).__name__} of {self.folder} cannot decode latents of shape "
                f"{tuple(latents.shape)}: {reason(error)}"
            ) from error
        self.described = f"previews decoded by the {type(self.other).__name__} of {self.folder}"
        return sample


def decode_named(decode: str | os.PathLike[str]) -> str:
    """What is to decode previews: "exact", "linear", or the folder of an autoencoder of diffusers, absolute.

    Raises:
        BadInput: none of these.
    """
    if decode in ("exact", "linear"):
        return str(decode)
    if not isinstance(decode, (str, os.PathLike)) or not Path(decode, "config.json").is_file():
        raise BadInput(
            f"decode must be exact, linear or the folder of an autoencoder of diffusers, not {shown(decode)}"
        )
    folder = str(Path(decode).resolve())
    _kind(folder)
    return folder


def decoder_of(session: Session, decode: str) -> Decoder | None:
    """The decoder that `decode_named` named, for previews of this session; None for the pipeline's own.

    Raises:
        BadInput, NotSupported: see `Linear` and `Autoencoder`.
    """
    if decode == "exact":
        return None
    return Linear(session) if decode == "linear" else Autoencoder(session, decode)


def _kind(folder: str) -> Any:
    """The class of diffusers that a folder's config names; BadInput where it does not decode."""
    import diffusers

    path = Path(folder, "config.json")
    try:
        name = json.loads(read_text(path, "the autoencoder")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path} is no config of a diffusers model") from error
    kind = getattr(diffusers, str(name), None)
    if not hasattr(kind, "decode") or not hasattr(kind, "from_pretrained"):
        raise BadInput(f"{path} is of {shown(name)}, which is no autoencoder of this diffusers")
    return kind


def _setting(vae: Any, *names: str) -> Any:
    """The first of these that an autoencoder's buffers or config hold."""
    found = (vae._buffers.get(name, vae.config.get(name)) for name in names)
    return next((value for value in found if value is not None), None)


def _scaling(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """(mean, scale): pipelines hand `scale · latents + mean` to an autoencoder."""
    # Of each channel, or of each channel and frame, for more frames than there may be (AutoencoderKLCosmos).
    by_channel = (1, like.shape[1], -1, *[1] * (like.ndim - 3))
    mean, std = (
        default
        if (found := _setting(vae, name)) is None
        else torch.as_tensor(found).to(like.device).float().reshape(by_channel)[:, :, : like.shape[2]]
        for name, default in (("latents_mean", 0.0), ("latents_std", 1.0))
    )
    return mean + (_setting(vae, "shift_factor") or 0.0), std / (_setting(vae, "scaling_factor") or 1.0)


@plain_arithmetic()
def _fit(z: Tensor, video: Tensor, times: int) -> tuple[Tensor, float]:
    """Coefficients (channels + 1, colours, times, height, width), and the squares that they leave.

    Args:
        z: (rows, channels, frames, latent height, latent width).
        video: (rows, colours, times · frames, ...).
    """
    rows, channels, frames, high, wide = z.shape
    each = (video.shape[1], times, video.shape[3] // high, video.shape[4] // wide)
    patches = video.reshape(rows, each[0], frames, times, high, each[2], wide, each[3])
    patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7)
    gram = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
    products = torch.zeros(channels + 1, patches[0, 0, 0, 0].numel(), dtype=torch.float64)
    total = 0.0
    for row in range(rows):  # frame by frame, as float64 of a whole video may not fit
        for frame in range(frames):
            x = nn.functional.pad(z[row, :, frame].double().flatten(1).T, (0, 1), value=1.0)
            y = patches[row, frame].double().flatten(2).flatten(0, 1)
            gram, products, total = gram + x.T @ x, products + x.T @ y, total + float(y.square().sum())
    # Of channels that do not vary, or of fewer places than channels, the smallest coefficients.
    found = torch.linalg.pinv(gram, hermitian=True) @ products
    return found.float().reshape(channels + 1, *each), total - float((found * products).sum())


@plain_arithmetic()
def _applied(part: Tensor, z: Tensor) -> Tensor:
    """Pixels (rows, colours, times · frames, height, width) of latents."""
    rows, _, frames, high, wide = z.shape
    _, colours, times, height, width = part.shape
    table = part.to(z.device).flatten(1)
    values = z.float().permute(0, 2, 3, 4, 1) @ table[:-1] + table[-1]
    patches = values.unflatten(-1, (colours, times, height, width)).permute(0, 4, 1, 5, 2, 6, 3, 7)
    pixels: Tensor = patches.reshape(rows, colours, times * frames, height * high, width * wide)
    return pixels
