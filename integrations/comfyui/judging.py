"""Finished videos judged in ComfyUI by the verifiers of the package, which need diffusers."""

from comfy_api.latest import io

from seedbed.errors import BadInput

from .noises import CATEGORY


def verifier_of(text):
    """The verifier of a text; BadInput for none."""
    from seedbed.verifiers import resolve

    return resolve(text.strip())


def judged(verifier, videos, prompt):
    """A verifier's score of each video, (frames, height, width, 3) in [0, 1]: (videos,) float64."""
    from seedbed.verifiers import judged as judge

    frames = [(video.clamp(0, 1) * 255).round().byte().cpu().numpy() for video in videos]
    return judge(verifier, frames, prompt)["score"]


class SeedbedVerify(io.ComfyNode):
    """A verifier's score of a video."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedVerify",
            display_name="Seedbed Verify",
            category=CATEGORY,
            description="Judges the frames of one video.",
            inputs=[
                io.Image.Input("images"),
                io.String.Input("verifier", default="artifacts", tooltip="artifacts, clip:FOLDER, ..."),
                io.String.Input("prompt", default="", optional=True, tooltip="For verifiers that read it."),
            ],
            outputs=[io.Float.Output("score", display_name="score"), io.String.Output("text")],
        )

    @classmethod
    def execute(cls, images, verifier, prompt=""):
        if not verifier.strip():
            raise BadInput("name a verifier, such as artifacts")
        score = judged(verifier_of(verifier), [images], prompt)[0].item()
        return io.NodeOutput(score, f"{verifier.strip()}: {score:.6g}")
