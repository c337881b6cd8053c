"""Choose the initial noise of a CogVideoX video, then let the pipeline generate from it as always.

    python examples/select_cogvideox.py "a red circle moving left"
    python examples/select_cogvideox.py "a koala plays the piano" --model THUDM/CogVideoX-2b --device cuda

Without --model it runs the embedded model, which is a CogVideoX pipeline too, on the CPU.
"""

import argparse

import torch
from diffusers import CogVideoXPipeline

import seedbed
from seedbed.report.video import write_video

parser = argparse.ArgumentParser(description="Choose the initial noise of a CogVideoX video.")
parser.add_argument("prompt")
parser.add_argument("--model", default=seedbed.zoo.path())
parser.add_argument("--device", default="cpu")
parser.add_argument("--candidates", type=int, default=10)
parser.add_argument("--out", default="video.mp4")
arguments = parser.parse_args()

dtype = torch.float32 if arguments.device == "cpu" else torch.float16
pipe = CogVideoXPipeline.from_pretrained(arguments.model, torch_dtype=dtype).to(arguments.device)

choice = seedbed.select(pipe, arguments.prompt, candidates=arguments.candidates, seed=0)
for candidate in choice.order:
    print(f"candidate {candidate}: {choice.totals[candidate]:.6f}")
print(f"cost: {choice.ledger.total:.1f} full evaluations of the denoiser")

video = pipe(arguments.prompt, latents=choice.noise, output_type="np", **choice.call).frames[0]
write_video(arguments.out, (video * 255).round().astype("uint8"))
choice.save(f"{arguments.out}.json")
