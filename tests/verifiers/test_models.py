"""Reward and question models by their folders, of tiny random weights: what is asked, what is added up."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForSequenceClassification,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from seedbed import BadInput
from seedbed.lab.calibration import described
from seedbed.verifiers import Combined, name_of, resolve
from seedbed.verifiers.models import Answers, Reward
from tests.pipelines import WORDS
from tests.pipelines.parts import seeded, tokenizer

PROMPT = "a red circle moving left"
SIZES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)


def videos(count, seed=0, frames=3, height=10, width=14):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, height, width, 3), dtype=np.uint8)


def pictures():
    side = {"shortest_edge": 8}
    return CLIPImageProcessor(size=side, crop_size={"height": 8, "width": 8})


def speaking(*more):
    words = ["<pad>", "</s>", "<unk>", "<image>", *more, *WORDS, "Does", "this", "video", "show", "Answer"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = Sequence([WhitespaceSplit(), Split("<image>", "isolated")])
    names = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=model, **names, extra_special_tokens={"image_token": "<image>"}
    )


@pytest.fixture(scope="module")
def like_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    text = dict(SIZES, vocab_size=3 + len(WORDS), max_position_embeddings=12, eos_token_id=1, bos_token_id=2)
    with seeded(0):
        vision = dict(SIZES, image_size=8, patch_size=4)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).save_pretrained(
            folder
        )
    CLIPProcessor(pictures(), tokenizer(12)).save_pretrained(folder)
    return folder


TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}"
    "{{ c.text }}{% endif %} {% endfor %}{% endfor %}{% if add_generation_prompt %}</s>{% endif %}"
)


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    words = speaking("yes", "no")
    vision = CLIPVisionConfig(**SIZES, image_size=8, patch_size=4)
    text = LlamaConfig(**SIZES, vocab_size=len(words), max_position_embeddings=256)
    with seeded(1):
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=3,
            image_token_index=3,
            vision_feature_layer=-1,
        )
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor = LlavaProcessor(
        pictures(), words, patch_size=4, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def test_a_clip_like_reward_is_its_logits_mean_over_frames(like_clip):
    reward = resolve(f"reward:{like_clip}")
    frames = videos(2, frames=2, height=8, width=8)
    prompts = [PROMPT, "a koala and piano"]
    found = reward(frames, prompts)["score"]
    for video, prompt, score in zip(frames, prompts, found, strict=True):
        inputs = reward.processor(
            text=[prompt], images=[Image.fromarray(frame) for frame in video], return_tensors="pt"
        )
        # Without padding: what follows the last word changes nothing.
        assert score.item() == pytest.approx(reward.model(**inputs).logits_per_image.mean().item(), abs=1e-5)
    assert found[0] != found[1] and found.dtype == torch.float64
    assert found.tolist()[0] == reward(frames[:1], prompts[:1])["score"].tolist()[0]


def test_a_model_that_classifies_gives_its_labels_and_their_mean(tmp_path, answering):
    """A Gemma 3 whose head has two labels, before a processor of its own kind of pictures."""
    shutil.copytree(answering, tmp_path / "model")
    words = speaking("yes", "no")
    text = dict(
        SIZES, vocab_size=len(words), head_dim=8, num_key_value_heads=1, layer_types=["full_attention"]
    )
    vision = dict(SIZES, image_size=8, patch_size=4)
    with seeded(2):
        config = Gemma3Config(
            text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_id=3,
            id2label={0: "look", 1: "motion"}, pad_token_id=0,
        )  # fmt: skip
        model = Gemma3ForSequenceClassification(config)
        projection = model.model.multi_modal_projector.mm_input_projection_weight
        torch.nn.init.normal_(projection)  # which is 0 before training
        model.save_pretrained(tmp_path / "model")
    reward = Reward(tmp_path / "model", frames=2)
    found = reward(videos(2, frames=5), [PROMPT, PROMPT])
    assert list(found) == ["look", "motion", "score"]
    torch.testing.assert_close(found["score"], (found["look"] + found["motion"]) / 2)
    assert found["look"][0] != found["look"][1]
    other = reward(videos(1, frames=5), ["a koala and piano"])
    assert other["look"][0] != found["look"][0]
    # Of five frames the first and the last are shown.
    ends = videos(1, frames=5)[:, [0, 4]]
    assert reward(ends, [PROMPT])["score"].tolist() == reward(videos(1, frames=5), [PROMPT])["score"].tolist()


def test_an_answer_is_how_sure_the_next_word_is_yes(answering):
    model = resolve(f"vlm:{answering}")
    video = videos(1, frames=2)
    (found,) = model(video, [PROMPT]).tolist()
    text = f'<image> <image> Does this video show "{PROMPT}"? Answer yes or no. </s>'
    images = [Image.fromarray(frame) for frame in video[0]]
    inputs = model.processor(text=[text], images=[images], return_tensors="pt")
    logits = model.model(**inputs).logits[0, -1].double()
    yes, no = (logits.softmax(0)[model.processor.tokenizer.convert_tokens_to_ids(w)] for w in ("yes", "no"))
    assert found == pytest.approx(float(yes / (yes + no)), abs=1e-6) and 0 < found < 1
    assert model(video, ["a koala"]).item() != found != model(videos(1, 9, frames=2), [PROMPT]).item()


def test_questions_are_made_of_the_prompt_or_given(answering):
    asked = Answers(answering).asked("a red circle moving left and a blue square, moving up")
    parts = [re.search('"(.*)"', question)[1] for question in asked]
    assert parts == ["a red circle moving left and a blue square, moving up", "a red circle moving left",
                     "a blue square", "moving up"]  # fmt: skip
    assert len(Answers(answering).asked(PROMPT)) == 1
    given = ["Does this video show {prompt}", "Answer {prompt} and a piano"]
    both = Answers(answering, given)
    assert both.asked("a koala") == ["Does this video show a koala", "Answer a koala and a piano"]
    one, two = (Answers(answering, [question])(videos(1), [PROMPT]).item() for question in given)
    assert one != two and both(videos(1), [PROMPT]).item() == pytest.approx((one + two) / 2)
    for wrong in ([], "is it?", [""], [3]):
        with pytest.raises(BadInput, match="questions must be a list of texts"):
            Answers(answering, wrong)


def test_what_is_in_the_folder_is_checked(like_clip, answering, tmp_path):
    for name, what in (("reward", "reward model"), ("vlm", "vision-language model")):
        with pytest.raises(BadInput, match=f"there is no {what} in /nowhere"):
            resolve(f"{name}:/nowhere")
    with pytest.raises(BadInput, match="does not load as a vision-language model: ") as caught:
        resolve(f"vlm:{like_clip}")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="which gives no logits of an image and a text"):
        resolve(f"reward:{answering}")
    # A head that would be drawn at random.
    broken = shutil.copytree(like_clip, tmp_path / "broken")
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    lost = weights.pop("visual_projection.weight")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    for name in ("reward", "clip"):
        with pytest.raises(
            BadInput, match=r"1 weights of CLIPModel are not there, visual_projection\.weight"
        ):
            resolve(f"{name}:{broken}")
    save_file({**weights, "visual_projection.weight": lost}, broken / "model.safetensors", {"format": "pt"})
    for text in ("{", "[1]"):
        (broken / "preprocessor_config.json").write_text(text)
        with pytest.raises(BadInput, match=r"cannot read .*preprocessor_config\.json: "):
            resolve(f"clip:{broken}")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BadInput, match="does not load as a CLIP model: ") as caught:
        resolve(f"clip:{broken}")
    assert "\n" not in str(caught.value)
    # A tokenizer that knows neither yes nor no.
    mute = shutil.copytree(answering, tmp_path / "mute")
    speaking("oui", "non").save_pretrained(mute)
    with pytest.raises(BadInput, match="does not tell yes from no"):
        resolve(f"vlm:{mute}")


def test_several_verifiers_add_up_by_their_weights(like_clip):
    text = f"artifacts+clip:{like_clip}*0.5+reward:{like_clip}*-2"
    together = resolve(text)
    assert isinstance(together, Combined) and name_of(together) == text
    frames = videos(2)
    found = together(frames, [PROMPT] * 2)
    marks, clip, reward = (
        resolve(name)(frames, [PROMPT] * 2)
        for name in ("artifacts", f"clip:{like_clip}", f"reward:{like_clip}")
    )
    torch.testing.assert_close(found["score"], marks["score"] + 0.5 * clip - 2 * reward["score"])
    assert found["artifacts.blur"].equal(marks["blur"]) and found["clip.score"].equal(clip)
    assert "clip2.score" in resolve(f"clip:{like_clip}+clip:{like_clip}")(frames, [PROMPT] * 2)
    assert resolve("shapes*2").parts[0][2] == 2


def test_names_that_look_like_a_sum(like_clip, tmp_path):
    folder = shutil.copytree(like_clip, tmp_path / "a+b")
    for inside in ("a+clip", "a*2"):
        name = f"reward:{shutil.copytree(like_clip, tmp_path / inside)}"
        assert name_of(resolve(name)) == name
    assert [part[::2] for part in resolve(f"artifacts+{name}*3").parts] == [("artifacts", 1), ("reward", 3)]
    assert [part[::2] for part in resolve(f"{name}+artifacts").parts] == [("reward", 1), ("artifacts", 1)]
    assert [part[0] for part in resolve(f"clip:{folder}+artifacts").parts] == ["clip", "artifacts"]
    for text, message in (
        ("artifacts*x", "artifacts\\*x: the weight 'x' is no number other than 0"),
        ("artifacts*0", "the weight '0'"),
        ("artifacts+clip*nan", "the weight 'nan'"),
        ("artifacts+eyes", "there is no verifier 'artifacts\\+eyes'"),
        ("artifacts+clip", "there is no verifier 'clip'"),
        ("artifacts:folder", "there is no verifier 'artifacts:folder'"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            resolve(text)
        assert "\n" not in str(caught.value)


def test_models_of_other_folders_frames_or_questions_have_other_names(like_clip, answering, tmp_path):
    """Caches of calibrations tell verifiers by their names."""
    other = shutil.copytree(like_clip, tmp_path / "other")
    made = [
        *(Reward(like_clip), Reward(other), Reward(like_clip, frames=2)),
        *(Answers(answering), Answers(answering, ["Is it {prompt}?"]), Answers(answering, ["Is it good?"])),
    ]
    names = [described(verifier) for verifier in made]
    assert len(set(names)) == len(made) and names[0] == f"reward:{like_clip}" == described(names[0])
    assert name_of(Reward) == "seedbed.verifiers.models.Reward"
    for name in ("shapes", "digits", "artifacts"):
        assert name_of(resolve(name)) == described(resolve(name)) == name


def test_a_text_is_no_longer_than_the_tokenizer_says(like_clip, monkeypatch):
    """RoBERTa has 514 positions for 512 tokens."""
    reward, lengths = Reward(like_clip), []
    most = reward.model.config.text_config.max_position_embeddings
    hook = reward.model.register_forward_pre_hook(
        lambda model, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for length in (10**30, most - 2):
        monkeypatch.setattr(reward.processor.tokenizer, "model_max_length", length)
        reward(videos(1), ["a red circle " * 40])
    hook.remove()
    assert lengths == [most, most - 2]
