"""What tiny pipelines are made of: seeded random weights, a tokenizer of a few words, small encoders."""

from contextlib import contextmanager
from typing import Any

import PIL.Image
import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

WORDS = (
    "a the red green blue yellow circle square triangle moving left right up down still and koala piano"
).split()
PROMPT = "a red circle moving left"


@contextmanager
def seeded(seed: int):
    """Random weights that do not depend on, and do not disturb, the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def tokenizer(
    length: int, kind: type[PreTrainedTokenizerFast] = PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: 3 + i for i, word in enumerate(WORDS)}}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return kind(
        tokenizer_object=words,
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        # As those of all text encoders here.
        model_input_names=["input_ids", "attention_mask"],
    )


def t5(config_class: type = T5Config, model_class: type = T5EncoderModel, width: int = 16) -> torch.nn.Module:
    config = config_class(
        vocab_size=3 + len(WORDS), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return model_class(config)


def clip(model_class: type = CLIPTextModel, length: int = 12) -> torch.nn.Module:
    return model_class(
        CLIPTextConfig(
            vocab_size=3 + len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=length,
            projection_dim=16,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
        )
    )


def image_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )


def quiet(pipe: Any) -> Any:
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """Weights in place of the zeros with which networks begin that are trained beside a denoiser."""
    for weight in net.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    return net


def picture(size: int, seed: int = 0) -> PIL.Image.Image:
    """A square image of noise, for pipelines that start from one."""
    pixels = torch.randint(256, (size, size, 3), generator=torch.Generator().manual_seed(seed))
    return PIL.Image.fromarray(pixels.to(torch.uint8).numpy())
