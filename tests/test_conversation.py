"""Plantain reads pictures as well as it draws them: edits, answers, fills holes, scores and chats."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import Plantain
from model.best import DESCRIPTION_TEMPERATURE, PICTURE_WEIGHT
from model.generate import draw_images
from model.reading import description_scores, write
from model.sampling import SamplingConfig
from model.write import TextRequest, log_likelihoods
from tasks.conversation import describing
from tokenizer.sequence import ImageSegment, TextSegment, pack, unpack
from tokenizer.vocabulary import IMAGE

SHIPPED = Path(__file__).parent.parent / "checkpoints/unified64"


def picture(seed: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def spoken(segments, plantain: Plantain) -> list[str | list]:
    """What a sequence says and shows, in order."""
    decode = plantain.text_tokenizer.decode
    return [decode(s.ids) if isinstance(s, TextSegment) else s.codes.tolist() for s in segments]


def test_an_edit_reads_the_picture_the_instruction_and_the_picture_again_and_draws_one_as_large(tiny: Callable):
    plantain = tiny(max_length=128)
    wide = picture(1, (8, 12))
    drawn = plantain.edit(wide, "make it red", num_images=2, seed=4)
    assert [image.size for image in drawn.images] == [(12, 8)] * 2 and drawn.prompts == ["make it red"] * 2
    for ids, codes in zip(drawn.ids, drawn.codes, strict=True):
        assert spoken(unpack(ids.tolist(), plantain.vocabulary), plantain) == [
            plantain.look(wide).tolist(),
            "make it red\n",
            plantain.look(wide).tolist(),
            codes.tolist(),
        ]
    others = [picture(seed, size) for seed, size in ((2, (8, 8)), (1, (8, 12)))]
    together = plantain.edit(others, ["now", "make it red"], seed=4)
    assert np.array_equal(together.codes[1], drawn.codes[0])  # whatever it is drawn with
    assert plantain.edit(others, "mix them", size=(8, 8)).images[0].size == (8, 8)


def test_the_picture_of_an_edit_has_a_guidance_of_its_own(tiny: Callable):
    plantain = tiny(max_length=128, seed=3)
    arguments = dict(instruction="make it red", num_images=4, guidance=3.0)
    results = {scale: plantain.edit(picture(1), image_guidance=scale, **arguments).codes for scale in (1.0, 2.5)}
    assert not all(np.array_equal(*pair) for pair in zip(*results.values(), strict=True))
    # In full strength on both, what the instruction adds to the picture is pushed away from nothing at all.
    equal = plantain.edit(picture(1), image_guidance=3.0, **arguments).codes
    seen, said = ImageSegment(plantain.look(picture(1)), 0.0), plantain.text_tokenizer.encode("make it red\n")
    segments = [seen, TextSegment(said), seen]
    requests = plantain.requests([None], 4, 0, plantain.sampling(guidance=3.0))
    from dataclasses import replace

    requests = [replace(request, segments=segments) for request in requests]
    *_, by_hand = draw_images(plantain.transformer, plantain.vocabulary, requests)
    assert [codes.flatten().tolist() for codes in equal] == by_hand.codes.tolist()


def test_what_is_insisted_on_counts_wherever_a_picture_is_drawn(tiny: Callable):
    """Words that are left out change nothing where there are none, and the picture where there are."""
    recipe = SamplingConfig(insistence=3.0)
    mask = Image.fromarray(np.full((8, 8), 255, np.uint8))
    drawn = {}
    for words in ("blue ", "red "):
        plantain: Plantain = tiny(max_length=160, seed=3, recipe=recipe)
        plantain.omissions = (((words, ""),),)
        codes = [*plantain.edit(picture(1), "a red circle", num_images=4).codes]
        codes += plantain.inpaint(picture(1), mask, "a red circle", num_images=4).codes
        drawn[words] = [grid.tolist() for grid in codes]
    plain = tiny(max_length=160, seed=3, recipe=SamplingConfig())
    codes = [*plain.edit(picture(1), "a red circle", num_images=4).codes]
    codes += plain.inpaint(picture(1), mask, "a red circle", num_images=4).codes
    assert drawn["blue "] == [grid.tolist() for grid in codes]
    assert all(drawn["red "][part] != drawn["blue "][part] for part in (slice(4), slice(4, 8)))


@pytest.mark.parametrize(("name", "recipe"), [("edit", "editing"), ("inpaint", "inpainting")])
def test_edits_and_filled_holes_follow_recipes_of_their_own(name: str, recipe: str, tiny: Callable, tmp_path: Path):
    plantain, own = tiny(max_length=128, seed=3), SamplingConfig(guidance=5.0, temperature=0.7)
    mask = Image.fromarray(np.full((8, 8), 255, np.uint8))
    calls = {
        "edit": lambda model, **options: model.edit(picture(1), "make it red", num_images=4, **options),
        "inpaint": lambda model, **options: model.inpaint(picture(1), mask, "red", num_images=4, **options),
        "generate": lambda model, **options: model.generate("red", num_images=4, **options),
    }
    asked = calls[name](plantain, guidance=5.0, temperature=0.7)
    plain = {other: calls[other](plantain) for other in calls if other != name}
    setattr(plantain, recipe, own)
    plantain.save_pretrained(tmp_path / "saved")
    for model in (plantain, Plantain.from_pretrained(tmp_path / "saved", "cpu")):
        drawn = calls[name](model)
        assert drawn.sampling == own and all(map(np.array_equal, drawn.codes, asked.codes))
        for other, before in plain.items():
            assert all(map(np.array_equal, calls[other](model).codes, before.codes))


def test_the_best_of_several_follows_a_recipe_of_its_own(tiny: Callable, tmp_path: Path):
    plantain, choosing = tiny(max_length=128, seed=3), SamplingConfig(guidance=2.0, temperature=0.9)
    mask = Image.fromarray(np.full((8, 8), 255, np.uint8))
    calls = {
        "generate": lambda model, **options: model.generate(["red", "blue"], **options),
        "inpaint": lambda model, **options: model.inpaint(picture(1), mask, "red", **options),
    }
    asked = {name: call(plantain, best_of=3, guidance=2.0, temperature=0.9).codes for name, call in calls.items()}
    plain = {name: call(plantain).codes for name, call in calls.items()}
    plantain.choosing = choosing
    plantain.save_pretrained(tmp_path / "saved")
    for model in (plantain, Plantain.from_pretrained(tmp_path / "saved", "cpu")):
        for name, call in calls.items():
            drawn = call(model, best_of=3)
            assert drawn.sampling == choosing and all(map(np.array_equal, drawn.codes, asked[name]))
            assert all(map(np.array_equal, call(model).codes, plain[name]))
            assert call(model, best_of=3, temperature=0.5).sampling == SamplingConfig(2.0, temperature=0.5)


def test_a_negative_prompt_takes_the_place_of_no_prompt(tiny: Callable):
    plantain = tiny(seed=2)
    plain, pushed, itself = (
        plantain.generate("a red circle", num_images=6, negative=negative, guidance=4.0).codes
        for negative in (None, "a blue square", "a red circle")
    )
    unguided = plantain.generate("a red circle", num_images=6, guidance=1.0).codes
    assert not all(map(np.array_equal, plain, pushed))
    assert all(map(np.array_equal, itself, unguided))  # pushed away from itself, nothing moves


def test_what_a_mask_leaves_stays_code_by_code_and_the_rest_is_drawn(tiny: Callable):
    plantain = tiny(max_length=96)
    mask = np.zeros((8, 12), np.uint8)
    mask[0, 5] = 255  # one pixel uncovers its code
    mask[4:, 8:] = 255
    drawn = plantain.inpaint(picture(1, (8, 12)), Image.fromarray(mask), "a red circle", num_images=5)
    known = np.array([[1, 0, 1], [1, 1, 0]], bool)
    assert all((codes[known] == plantain.look(picture(1, (8, 12)))[known]).all() for codes in drawn.codes)
    assert len({codes.tobytes() for codes in drawn.codes}) > 1
    seen, prompt, _ = spoken(unpack(drawn.ids[0].tolist(), plantain.vocabulary), plantain)
    assert prompt == "a red circle\n" and (np.array(seen) == -1).tolist() == (~known).tolist()


@pytest.mark.parametrize(("anchor", "left"), [((0.5, 0.0), 0), ((0.5, 1.0), 1)])
def test_around_a_picture_a_larger_one_is_drawn(anchor: tuple[float, float], left: int, tiny: Callable):
    plantain = tiny(max_length=96)
    drawn = plantain.outpaint(picture(1), "a red circle", (8, 12), anchor, num_images=12)
    for codes, image in zip(drawn.codes, drawn.images, strict=True):
        assert image.size == (12, 8) and (codes[:, left : left + 2] == plantain.look(picture(1))).all()
    assert len({codes.tobytes() for codes in drawn.codes}) > 1


def test_answers_are_lines_of_text_the_same_for_one_or_many(tiny: Callable):
    plantain = tiny(max_length=128, loudness=0.3)
    answers = plantain.ask([picture(1), picture(2, (8, 12))], ["what?", "how many?"])
    assert len(answers) == 2 and not any("\n" in answer for answer in answers)
    assert plantain.ask(picture(2, (8, 12)), "how many?") == answers[1:]
    assert plantain.ask(picture(1), ["what?", "how many?"])[0] == answers[0]
    assert plantain.describe(picture(1)) == plantain.ask(picture(1), "describe the picture")


def test_a_score_is_a_log_probability_either_way(tiny: Callable):
    plantain = tiny(max_length=96)
    near, far = (plantain.score("a red circle", picture(seed)) for seed in (1, 2))
    assert near < 0 and far < 0 and near != far
    codes = plantain.look(picture(1))
    told = pack(
        [TextSegment(plantain.text_tokenizer.encode("a red circle")), ImageSegment(codes)], plantain.vocabulary, "grid"
    )
    ids, positions = (torch.from_numpy(part)[None] for part in told[:2])
    logits = plantain.transformer.logits(plantain.transformer(ids, positions)[0, :-1], plantain.vocabulary.image_block)
    shares = logits.log_softmax(-1)[told.is_image[1:]].gather(1, torch.from_numpy(codes.reshape(-1, 1)))
    assert plantain.score("a red circle", picture(1), of="image") == pytest.approx(float(shares.sum()), rel=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "I;16", "CMYK", "1"])
def test_pictures_of_every_mode_are_read(mode: str, tiny: Callable, tmp_path: Path):
    plain = picture(1).convert("L").convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    else:
        image = plain.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = tiny().look(image)
    if mode in ("RGBA", "L", "LA", "I;16"):
        assert np.array_equal(codes, tiny().look(plain))


def test_a_picture_of_another_size_is_cut_to_the_nearest_shape_and_says_so(tiny: Callable):
    plantain = tiny()
    with pytest.warns(UserWarning, match="300 x 470 pixels .* cut and resized to 8 x 12"):
        assert plantain.look(picture(0, (300, 470))).shape == (2, 3)
    with pytest.warns(UserWarning, match="resized to 8 x 8"):
        assert plantain.look(picture(0, (500, 300))).shape == (2, 2)


def test_exif_is_followed_and_of_an_animation_the_first_frame_is_read(tiny: Callable, tmp_path: Path):
    plantain = tiny()
    turned = picture(1, (12, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = turned.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(plantain.look(tmp_path / "turned.png"), plantain.look(upright))
    first, second = picture(1), picture(2)
    first.save(tmp_path / "two.png", save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match="of the 2 frames of a picture only the first is read"):
        assert np.array_equal(plantain.look(tmp_path / "two.png"), plantain.look(first))


def broken(path: Path) -> Path:
    picture(1, (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda plantain, path: plantain.look(path / "none.png"), "none.png"),
        (lambda plantain, path: plantain.look(broken(path / "cut.png")), "runcated|broken"),
        (lambda plantain, path: plantain.edit([], "make it red"), "no picture to edit"),
        (lambda plantain, path: plantain.edit(picture(), " "), "instruction is empty"),
        (lambda plantain, path: plantain.edit([picture()] * 2, ["a"]), "1 instructions for 2 pictures"),
        (lambda plantain, path: plantain.edit([picture()] * 12, "mix"), "exceed the model's 96 ids"),
        (lambda plantain, path: plantain.edit(picture(), "a", size=(12, 8)), "was never trained"),
        (lambda plantain, path: plantain.inpaint(picture(), picture(0, (8, 12)), "a"), "mask is .12, 8. pixels"),
        (lambda plantain, path: plantain.inpaint(picture(), Image.new("L", (8, 8)), "a"), "leaves nothing to draw"),
        (lambda plantain, path: plantain.inpaint([picture()], [picture()] * 2, "a"), "1 pictures, 2 masks"),
        (lambda plantain, path: plantain.inpaint(picture(), picture(), " "), "prompt is empty"),
        (lambda plantain, path: plantain.outpaint(picture(), "a", (8, 8)), "leaves nothing to draw around it"),
        (
            lambda plantain, path: plantain.outpaint(picture(0, (8, 12)), "a", (8, 8)),
            "leaves nothing to draw around it",
        ),
        (lambda plantain, path: plantain.outpaint(picture(), "a", (8, 12), (0.5, 2.0)), "anchor is .0.5, 2.0."),
        (lambda plantain, path: plantain.edit(picture(), "a", image_guidance=-1.0), "image_guidance is -1.0"),
        (lambda plantain, path: plantain.ask(picture(), ""), "question is empty"),
        (lambda plantain, path: plantain.ask([picture()] * 2, ["a"] * 3), "3 questions about 2 pictures"),
        (lambda plantain, path: plantain.ask(picture(), "why " * 60), "leaves no room"),
        (lambda plantain, path: plantain.score("why " * 60, picture()), "exceed the model's 96"),
        (lambda plantain, path: plantain.chat().say("  "), "nothing said"),
        (lambda plantain, path: plantain.chat(size=(12, 8)), "was never trained"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason(call: Callable, message: str, tiny: Callable, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        call(tiny(max_length=96), tmp_path)


def test_a_decompression_bomb_is_refused(tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    picture(1, (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="decompression bomb"):
        tiny().look(tmp_path / "large.png")


def test_a_chat_grows_by_what_is_said_and_answered_and_survives_what_does_not_fit(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.reading.MOST_WRITTEN", 10)
    plantain = tiny(max_length=220, loudness=0.3)
    chat = plantain.chat(seed=3)
    chat.say("hello", images=[picture(1, (8, 12))])
    (shown, first, *answered) = spoken(chat.segments, plantain)
    assert shown == plantain.look(picture(1, (8, 12))).tolist() and first == "hello\n" and len(answered) in (1, 2, 3)
    if len(answered) > 1:  # a picture, perhaps after a text; then that which was shown is read again before it
        assert answered[-2] == shown
    before = list(chat.segments)
    with pytest.raises(ValueError, match="leaves no room|exceed"):
        chat.say("why " * 120)
    assert chat.segments == before
    chat.say("again")
    assert chat.segments[: len(before)] == before
    assert isinstance(chat.segments[len(before)], TextSegment) and len(chat.segments) >= len(before) + 2
    assert pack(chat.read, plantain.vocabulary, "grid").ids.size <= 220


def favouring(plantain: Plantain, token: int) -> Plantain:
    """Makes a model answer with this id of text whatever is said."""
    with torch.no_grad():
        direction = plantain.transformer.head.weight[token].clone()
        plantain.transformer.head.weight[: plantain.vocabulary.image_start] *= 0.01
        plantain.transformer.head.weight[token] = direction
        plantain.transformer.norm.weight[:] = direction.sign() * plantain.transformer.norm.weight.abs()
    return plantain


def test_the_model_itself_decides_whether_text_or_a_picture_comes_next(tiny: Callable):
    reply = favouring(tiny(max_length=128), IMAGE).chat().say("go on")
    assert reply.text is None and reply.image is not None and reply.image.size == (8, 8)
    plantain = tiny(max_length=128)
    reply = favouring(plantain, plantain.text_tokenizer.encode("a")[0]).chat().say("go on")
    assert reply.text is not None and reply.image is None


def test_a_chat_reads_on_from_the_result_of_an_edit(tiny: Callable, monkeypatch: pytest.MonkeyPatch):
    from model import chat as module

    read, plantain = [], favouring(tiny(max_length=128), IMAGE)

    def spied(model: Plantain, requests, *arguments, **options):
        read.append(spoken(requests[0].segments, plantain))
        return original(model, requests, *arguments, **options)

    original = module.draw_best
    monkeypatch.setattr(module, "draw_best", spied)
    chat = plantain.chat(seed=1)
    for turn in range(3):
        chat.say(f"line {turn}")
    told = spoken(chat.segments, plantain)
    first, second, third = told[1], told[4], told[7]
    assert told == ["line 0\n", first, "line 1\n", first, second, "line 2\n", second, third]
    assert read == [["line 0\n"], ["line 0\n", first, "line 1\n", first], [second, "line 2\n", second]]


def test_a_chat_that_has_filled_the_models_length_reads_on_from_the_last_picture(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.reading.MOST_WRITTEN", 4)
    plantain = tiny(max_length=128)
    chat = favouring(plantain, plantain.text_tokenizer.encode("a")[0]).chat()
    chat.say("hello", images=[picture(1)])
    shown = plantain.look(picture(1)).tolist()
    for turn in range(40):
        chat.say(f"line {turn}")
        assert pack(chat.read, plantain.vocabulary, "grid").ids.size <= 128 and spoken(chat.read, plantain)[0] == shown
    told = spoken(chat.segments, plantain)
    assert [f"line {turn}\n" for turn in range(40)] == [one for one in told if str(one).startswith("line")]


def judgements(plantain: Plantain, prompt: str, codes: list) -> list[float]:
    """Of pictures of a prompt, how good it is as what is said of them, and a little how good they are."""
    each = description_scores(plantain, [prompt] * len(codes), codes)
    return [said + PICTURE_WEIGHT * shown for shown, said in each]


def test_the_best_of_several_is_the_one_that_fits_the_prompt_and_is_likely_itself(tiny: Callable):
    plantain = tiny(max_length=128, seed=3)
    prompts = ["a red circle", "two green rings"]
    every = plantain.generate(prompts, num_images=8, seed=2)
    best = plantain.generate(prompts, num_images=2, seed=2, best_of=4)
    assert best.num_drawn == 16 and best.prompts == [text for text in prompts for _ in range(2)]
    for number, (codes, sample) in enumerate(zip(best.codes, best.samples, strict=True)):
        group = every.codes[4 * number : 4 * number + 4]
        place = int(np.argmax(judgements(plantain, str(best.prompts[number]), group)))
        assert np.array_equal(codes, group[place]) and sample == 4 * (number % 2) + place
        assert best.images[number].tobytes() == every.images[4 * number + place].tobytes()


def test_the_best_of_several_fills_a_hole_too(tiny: Callable):
    plantain = tiny(max_length=160, seed=3)
    whole, hole = picture(1), Image.fromarray(np.uint8([[0] * 8] * 4 + [[255] * 8] * 4))
    every = plantain.inpaint(whole, hole, "a red circle", num_images=4, seed=2)
    best = plantain.inpaint(whole, hole, "a red circle", seed=2, best_of=4)
    place = int(np.argmax(judgements(plantain, "a red circle", every.codes)))
    assert np.array_equal(best.codes[0], every.codes[place]) and best.samples == [place] and best.num_drawn == 4
    assert len({codes.tobytes() for codes in every.codes}) > 1


def test_a_chat_draws_the_best_of_several_of_words_and_an_edit_once(tiny: Callable, monkeypatch: pytest.MonkeyPatch):
    judged = []

    def spied(plantain: Plantain, prompts, codes):
        judged.append(list(prompts))
        return description_scores(plantain, prompts, codes)

    monkeypatch.setattr("model.best.description_scores", spied)
    chat = favouring(tiny(max_length=128), IMAGE).chat(best_of=4)
    assert chat.say("a red circle").image is not None and chat.say("make it blue").image is not None
    assert judged == [["a red circle"] * 4]


def test_auto_effort_draws_one_more_until_its_judgements_of_the_best_two_agree(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    plantain, told = tiny(max_length=128, seed=3), []
    judged = iter([[-9.0, -5.0, -3.0, -3.2], [-9.0], [-4.8]])  # of two prompts, then of the first alone

    def judge(model, prompts, codes):
        told.append(list(prompts))
        return [(0.0, score) for score in next(judged)]

    monkeypatch.setattr("model.best.description_scores", judge)
    prompts = ["a red circle", "two green rings"]
    drawn = plantain.generate(prompts, seed=2, best_of=8, effort="auto")
    assert told == [[prompts[0]] * 2 + [prompts[1]] * 2, [prompts[0]], [prompts[0]]]  # -4.8 agrees with -5
    assert drawn.num_drawn == 6 and drawn.samples == [3, 0]
    every = plantain.generate(prompts, num_images=4, seed=2)
    assert np.array_equal(drawn.codes[0], every.codes[3]) and np.array_equal(drawn.codes[1], every.codes[4])


@pytest.mark.parametrize("most", [1, 2, 5, 8])
def test_auto_effort_draws_as_many_as_allowed_where_no_two_agree(
    most: int, tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    scores = iter([(-5.0 * number, 0.0) for number in range(20)])
    monkeypatch.setattr("model.best.description_scores", lambda model, prompts, codes: [next(scores) for _ in codes])
    result = tiny(max_length=128).generate("a red circle", best_of=most, effort="auto")
    assert result.num_drawn == most and result.samples == [0]


def test_a_picture_that_is_unlikely_itself_is_not_the_best(tiny: Callable, monkeypatch: pytest.MonkeyPatch):
    scores = [(-80.0, -1.4), (-50.0, -1.6), (-30.0, -9.0)]  # broken, right, and of something else
    monkeypatch.setattr("model.best.description_scores", lambda *told: scores)
    assert tiny(max_length=128).generate("a red circle", best_of=3).samples == [1]


def test_the_best_of_several_descriptions_is_the_one_that_fits_the_picture_both_ways(tiny: Callable):
    plantain = tiny(max_length=200, loudness=0.3, seed=3)
    pictures, encode = [picture(i, (8, 8 + i % 2 * 4)) for i in range(6)], plantain.text_tokenizer.encode
    best, model = plantain.describe(pictures, seed=5, best_of=4), (plantain.transformer, plantain.vocabulary)
    places = []
    for shown, text in zip(pictures, best, strict=True):
        settings = [SamplingConfig(temperature=DESCRIPTION_TEMPERATURE * (sample > 0)) for sample in range(4)]
        asked = describing(plantain.look(shown), encode)
        said = write(plantain, [TextRequest(asked, how, 5, sample) for sample, how in enumerate(settings)])
        scores = []
        for one in said:
            words = TextSegment([token for token in one.ids if token not in encode("\n")])
            ways = [*asked, TextSegment(one.ids)], [words, ImageSegment(plantain.look(shown))]
            scores.append(sum(float(each[-1]) for each in log_likelihoods(*model, ways)))
        places.append(int(np.argmax(scores)))
        assert said[0].text == plantain.describe(shown)[0] and text == said[places[-1]].text
    assert set(places) != {0}
    with pytest.raises(ValueError, match="temperature 0.0: give 2 or more, and more than 0"):
        plantain.describe(pictures[0], best_of=2, temperature=0.0)
    with pytest.raises(ValueError, match="best_of is 0"):
        plantain.describe(pictures[0], best_of=0)


def test_an_effort_that_is_none_is_refused(tiny: Callable):
    with pytest.raises(ValueError, match="best_of is 0 .*give 1 or more, and full or auto"):
        tiny().generate("a", best_of=0)
    with pytest.raises(ValueError, match="give a prompt"):
        tiny().generate(None, best_of=2)


def test_a_chat_reads_only_what_is_new_and_says_what_it_would_have_said_reading_everything(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.reading.MOST_WRITTEN", 6)
    plantain = tiny(max_length=256, loudness=0.3, seed=1)
    lengths = []
    plantain.transformer.embedding.register_forward_hook(
        lambda module, given, output: lengths.append(given[0].shape[1])
    )
    keeping, forgetting = plantain.chat(seed=5), plantain.chat(seed=5)
    for turn in range(4):
        lines = f"line {turn}", [picture(turn)] if turn % 2 else []
        lengths.clear()
        kept = keeping.say(*lines)
        longest_kept = max(lengths)
        lengths.clear()
        forgetting._memory.ids = forgetting._memory.ids[:0]
        forgot = forgetting.say(*lines)
        assert kept.text == forgot.text and (kept.image is None) == (forgot.image is None)
        assert turn == 0 or longest_kept < max(lengths) / 2 + 8
    assert spoken(keeping.segments, plantain) == spoken(forgetting.segments, plantain)


@pytest.mark.parametrize(
    "call",
    [
        lambda plantain: plantain.edit(picture(), "a"),
        lambda plantain: plantain.describe(picture()),
        lambda plantain: plantain.ask(picture(), "a"),
        lambda plantain: plantain.inpaint(picture(), picture(), "a"),
        lambda plantain: plantain.score("a", picture()),
        lambda plantain: plantain.generate("a", best_of=2),
        lambda plantain: plantain.chat(),
    ],
)
def test_what_a_model_has_not_learnt_it_is_not_asked_for(call: Callable, tiny: Callable):
    plantain = tiny()
    plantain.abilities = ("text_to_image",)
    with pytest.raises(ValueError, match="has not learnt '.*, only text_to_image: take another checkpoint"):
        call(plantain)


@pytest.mark.slow
def test_the_shipped_model_follows_four_edits_in_one_conversation():
    from data.shapes.edits import check_edit, sample_edit, write_edit
    from metrics.abilities import Cases

    plantain, count, right = Plantain.from_pretrained(SHIPPED, "cpu"), 12, 0
    cases = Cases(plantain, "val", count, "shapes64")
    for number, scene in enumerate(cases.scenes):
        chat, rng, seen = plantain.chat(seed=number), np.random.default_rng(number), [cases.pictures[number]]
        for _ in range(4):
            found = sample_edit(rng, scene, cases.world)
            assert found is not None
            image = chat.say(write_edit(rng, found[0]), seen).image
            seen, verdict = [], None if image is None else check_edit(np.asarray(image), scene, found[0], cases.world)
            if verdict is None or not verdict.ok:
                break
            scene = verdict.scene
        else:
            right += 1
    assert right >= 8  # none, when all that was said before is read
