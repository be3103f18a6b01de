"""The best of several pictures of a prompt, by the judgement of the model that drew them: no outside scorer.

A model that has learnt to describe says how likely a prompt is to be said of a picture; the picture of which it is
likeliest is kept. Pictures of which its own descriptions agree are taken for right, and no more of them drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from model.generate import ImageRequest
from model.reading import description_scores, descriptions

if TYPE_CHECKING:
    from model.drawing import Generation
    from model.pretrained import Pretrained

Effort = Literal["full", "auto"]


def choose(
    plantain: "Pretrained",
    draw: "Callable[[Sequence[ImageRequest], Sequence[str | None]], Generation]",
    requests: Sequence[ImageRequest],
    prompts: Sequence[str | None],
    best_of: int,
    effort: Effort,
) -> "Generation":
    """Draws several samples of each request and keeps one.

    Args:
        plantain: Who judges.
        draw: Draws requests that were made for prompts.
        requests: Each is drawn as samples `best_of` times its own number, and those after it.
        prompts: One for each request.
        best_of: Samples of each request, at least 1.
        effort: `full` draws them all; `auto` two, and the others only where the model describes the two differently.

    Raises:
        ValueError: A prompt is None, an argument is out of range, or the model has not learnt to describe.
    """
    if best_of < 1 or effort not in get_args(Effort):
        raise ValueError(f"best_of is {best_of} and effort {effort!r}: give 1 or more, and full or auto")
    if None in prompts:
        raise ValueError("the best of several pictures is that which fits its prompt best: give a prompt")
    plantain.must_know("describe")
    best: dict[int, tuple[float, Generation, int]] = {}
    undecided, first, num_drawn, seconds = list(range(len(requests))), 0, 0, 0.0
    for last in (best_of,) if effort == "full" else (min(2, best_of), best_of):
        numbers = [number for number in undecided for _ in range(first, last)]
        if not numbers:
            break
        samples = [requests[n].sample * best_of + sample for n in undecided for sample in range(first, last)]
        tried = [replace(requests[n], sample=sample) for n, sample in zip(numbers, samples, strict=True)]
        drawn = draw(tried, [prompts[n] for n in numbers])
        scores = description_scores(plantain, [str(prompt) for prompt in drawn.prompts], drawn.codes)
        for place, (number, score) in enumerate(zip(numbers, scores, strict=True)):
            if number not in best or score > best[number][0]:
                best[number] = score, drawn, place
        num_drawn, seconds = num_drawn + len(tried), seconds + drawn.seconds
        if effort == "auto":
            said: dict[int, set[str]] = {number: set() for number in undecided}
            for number, text in zip(numbers, descriptions(plantain, drawn.codes), strict=True):
                said[number].add(text)
            undecided = [number for number in undecided if len(said[number]) > 1]
        first = last
    chosen = [(drawn, place) for _, drawn, place in (best[number] for number in range(len(requests)))]
    lists = ("images", "codes", "ids", "prompts", "samples")
    kept = {name: [getattr(drawn, name)[place] for drawn, place in chosen] for name in lists}
    return replace(chosen[0][0], **kept, num_drawn=num_drawn, seconds=seconds)
