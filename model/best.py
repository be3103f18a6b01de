"""The best of several pictures of a prompt, or descriptions of a picture, by the judgement of the model that made them:
no outside scorer.

A model that has learnt to describe says how likely a prompt is to be said of a picture, which tells pictures that show
something else. Where a shape is broken, or one too many, a prompt that is silent about it is as likely as ever, but the
picture itself is not: so that counts as well, for less. Where the best two are judged alike, they are taken for right,
and no more are drawn.

A model that has learnt to draw says how likely a picture is to be drawn of a description, which what is said wrong, or
left out, makes less likely. That counts as much as how likely the description is to be said of the picture.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from model.drawing import Generation, draw
from model.reading import description_scores, write
from model.request import ImageRequest
from model.sampling import SamplingConfig
from model.write import TextRequest, log_likelihoods
from tasks.conversation import LINE_BREAK, describing
from tokenizer.sequence import ImageSegment, TextSegment

if TYPE_CHECKING:
    from model.pretrained import Pretrained

Effort = Literal["full", "auto"]
# Chosen on validation prompts: what a nat of a picture's own log probability counts beside one of its prompt's, and up
# to how much two judgements agree.
PICTURE_WEIGHT = 0.1
AGREEMENT = 0.4
# Of descriptions to choose from, but for the first.
DESCRIPTION_TEMPERATURE = 0.7


def draw_best(
    plantain: "Pretrained",
    requests: Sequence[ImageRequest],
    prompts: Sequence[str | None],
    best_of: int,
    effort: Effort,
    **how: Any,
) -> Generation:
    """Draws several samples of each request and keeps one.

    Args:
        plantain: Who draws and judges.
        requests: Each is drawn as samples `best_of` times its own number, and those after it.
        prompts: One for each request.
        best_of: Samples of each request, at least 1, which leaves nothing to judge.
        effort: `full` draws them all; `auto` two, and one more as long as the best two do not agree.
        how: See model.drawing.draw.

    Raises:
        ValueError: A prompt is None, an argument is out of range, or the model has not learnt to describe.
    """
    if best_of < 1 or effort not in get_args(Effort):
        raise ValueError(f"best_of is {best_of} and effort {effort!r}: give 1 or more, and full or auto")
    if best_of == 1:
        return draw(plantain, requests, prompts, **how)
    if None in prompts:
        raise ValueError("the best of several pictures is that which fits its prompt best: give a prompt")
    plantain.must_know("describe")
    tried: dict[int, list[tuple[float, Generation, int]]] = {number: [] for number in range(len(requests))}
    undecided, first, num_drawn, seconds = list(tried), 0, 0, 0.0
    for last in (best_of,) if effort == "full" else range(2, best_of + 1):
        numbers = [number for number in undecided for _ in range(first, last)]
        samples = [requests[n].sample * best_of + sample for n in undecided for sample in range(first, last)]
        wanted = [replace(requests[n], sample=sample) for n, sample in zip(numbers, samples, strict=True)]
        drawn = draw(plantain, wanted, [prompts[n] for n in numbers], **how)
        scores = description_scores(plantain, [str(prompt) for prompt in drawn.prompts], drawn.codes)
        for place, (number, (picture, prompt)) in enumerate(zip(numbers, scores, strict=True)):
            tried[number].append((prompt + PICTURE_WEIGHT * picture, drawn, place))
        num_drawn, seconds, first = num_drawn + len(wanted), seconds + drawn.seconds, last
        if not (undecided := [number for number in undecided if not _agree([score for score, *_ in tried[number]])]):
            break
    chosen = [(drawn, place) for _, drawn, place in (max(some, key=lambda one: one[0]) for some in tried.values())]
    lists = ("images", "codes", "ids", "prompts", "samples")
    kept = {name: [getattr(drawn, name)[place] for drawn, place in chosen] for name in lists}
    return replace(chosen[0][0], **kept, num_drawn=num_drawn, seconds=seconds)


def _agree(scores: Sequence[float]) -> bool:
    """Whether the best two of several judgements, if there are two, are nearly the same."""
    best, *others = sorted(scores, reverse=True)
    return bool(others) and best - others[0] <= AGREEMENT


def describe_best(
    plantain: "Pretrained", pictures: Sequence[Int[np.ndarray, "_ _"]], best_of: int, seed: int, temperature: float
) -> list[str]:
    """Describes each picture several times and keeps the description that it fits best, both ways.

    Args:
        plantain: Who says and judges.
        pictures: Grids of codes.
        best_of: Descriptions of each picture, at least 2; the first says what is likeliest, word by word.
        seed, temperature: How the others are chosen.

    Raises:
        ValueError: An argument is out of range, or the model has not learnt to describe or to draw.
    """
    if best_of < 2 or temperature <= 0:
        raise ValueError(f"best_of is {best_of} and temperature {temperature}: give 2 or more, and more than 0")
    for ability in ("describe", "text_to_image"):
        plantain.must_know(ability)
    encode, settings = plantain.text_tokenizer.encode, [SamplingConfig(temperature=0.0)]
    settings += [SamplingConfig(temperature=temperature)] * (best_of - 1)
    asked = [describing(codes, encode) for codes in pictures]
    requests = [TextRequest(before, how, seed, i) for before in asked for i, how in enumerate(settings)]
    said = write(plantain, requests)
    (end,) = encode(LINE_BREAK)
    prompts = [TextSegment([token for token in one.ids if token != end]) for one in said]
    told = [[*request.segments, TextSegment(one.ids)] for request, one in zip(requests, said, strict=True)]
    drawn = [[prompt, ImageSegment(pictures[place // best_of])] for place, prompt in enumerate(prompts)]
    there, back = (log_likelihoods(plantain.transformer, plantain.vocabulary, way) for way in (told, drawn))
    scores = [float(said_of[-1] + drawn_of[-1]) for said_of, drawn_of in zip(there, back, strict=True)]
    starts = range(0, len(said), best_of)
    return [said[max(range(start, start + best_of), key=scores.__getitem__)].text for start in starts]
