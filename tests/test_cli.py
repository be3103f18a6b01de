"""The two commands answer at once, say what was wrong, keep what led to a picture and overwrite nothing."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
import train

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "numpy", "datasets", "accelerate", "tokenizers", "PIL"}
PROMPT = "a ring, 一つの輪"


@pytest.fixture
def checkpoint(tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Runs a command's main function; returns its exit status, output and errors."""

    def call(module, *arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        status: object = 0
        try:
            module.main()
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize("script", ["sample.py", "train.py"])
def test_help_answers_without_heavy_imports(script: str):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "finally:\n"
        f"    print('heavy:', sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"usage: {script}" in done.stdout and "heavy: []" in done.stdout


def test_a_picture_says_how_it_was_drawn(checkpoint: Path, call: Callable):
    status, printed, _ = call(
        sample, PROMPT, "--checkpoint", checkpoint, "--out", "a.png", "-n", 2, "--seed", 7, "--top-k", 5
    )
    assert status == 0 and printed.startswith("a.png  (2 pictures in ")
    facts = Image.open("a.png").text  # pyright: ignore[reportAttributeAccessIssue]
    assert {name: facts[name] for name in ("prompt", "seed", "num_images", "checkpoint")} == {
        "prompt": PROMPT,
        "seed": "7",
        "num_images": "2",
        "checkpoint": str(checkpoint),
    }
    settings = ("guidance", "guidance_until", "temperature", "top_k", "top_p", "min_p")
    assert [float(facts[name]) for name in settings] == [2.0, 1.0, 1.0, 5.0, 1.0, 0.0]  # the recipe's, but for top_k


def test_the_pixels_written_are_those_drawn(checkpoint: Path, tiny: Callable, call: Callable):
    arguments = (PROMPT, "--checkpoint", checkpoint, "--scale", 3, "--seed", 4, "--size", "8x12")
    assert call(sample, *arguments, "--out", "a.png")[0] == 0
    picture = np.asarray(Image.open("a.png"))
    assert picture.shape == (24, 36, 3)
    drawn = np.asarray(tiny().generate(PROMPT, seed=4, size=(8, 12)).images[0])
    assert np.array_equal(picture[1::3, 1::3], drawn)
    assert np.array_equal(picture, drawn.repeat(3, axis=0).repeat(3, axis=1))


def test_a_film_ends_with_the_picture_that_is_drawn(checkpoint: Path, tiny: Callable, call: Callable):
    arguments = (PROMPT, "--checkpoint", checkpoint, "--scale", 2, "--seed", 4, "--size", "8x12", "--film", "a.gif")
    status, printed, _ = call(sample, *arguments)
    drawn = tiny().generate(PROMPT, seed=4, size=(8, 12)).images[0]
    with Image.open("a.gif") as film:
        rows: int = film.n_frames  # pyright: ignore[reportAttributeAccessIssue]
        assert status == 0 and printed == f"a.gif  ({rows} frames)\n"
        film.seek(rows - 1)
        last = np.asarray(film.convert("RGB")).astype(int)
    assert rows > 1 and film.size == (24, 16)
    assert np.abs(last - np.asarray(drawn).repeat(2, 0).repeat(2, 1)).max() <= 8  # a GIF has 256 colours
    status, _, error = call(sample, *arguments)
    assert status == 2 and "a.gif exists" in error


def test_nothing_is_overwritten_silently(checkpoint: Path, call: Callable):
    Path("a.png").write_text("precious")
    arguments = (PROMPT, "--checkpoint", checkpoint, "--out", "a.png")
    status, _, error = call(sample, *arguments)
    assert status == 2 and "a.png exists: choose another name, or add --overwrite" in error
    assert Path("a.png").read_text() == "precious"
    assert call(sample, *arguments, "--overwrite")[0] == 0
    assert Image.open("a.png").size == (256, 256)


def test_without_a_name_every_picture_gets_a_new_one(checkpoint: Path, call: Callable):
    for _ in range(3):
        assert call(sample, "Two rings!", "--checkpoint", checkpoint)[0] == 0
    assert call(sample, "../一つ", "--checkpoint", checkpoint, "--seed", 5)[0] == 0
    names = ["two-rings-seed0.png", "two-rings-seed0-2.png", "two-rings-seed0-3.png", "picture-seed5.png"]
    assert sorted(path.name for path in Path("outputs").iterdir()) == sorted(names)


@pytest.mark.parametrize("size", ["64", "64x", "8x8x8", "-8x8", "8X8", "8.0x8", "axb", ""])
def test_a_size_that_is_none_is_refused_before_anything_is_loaded(size: str, call: Callable, tmp_path: Path):
    status, _, error = call(sample, PROMPT, f"--size={size}", "--checkpoint", tmp_path / "nothing", "--out", "x.png")
    assert status == 2 and f"--size is {size!r}, but must look like 64x64, height first" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "12x8"], "was never trained: this model draws 8x8, 8x12"),
        (["--out", "a.jpg"], "end its name in .png"),
        (["--film", "a.png"], "end its name in .gif"),
        (["--scale", "0"], "scale is 0"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--guidance", "nan"], "guidance is nan"),
        (["-n", "0"], "num_images is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--checkpoint", "nowhere"], "no checkpoint folder at nowhere"),
        (["--device", "abacus"], "device 'abacus' can't be used here"),
    ],
)
def test_an_error_is_one_line_and_no_traceback(arguments: list[str], message: str, checkpoint: Path, call: Callable):
    status, printed, error = call(sample, PROMPT, "--checkpoint", checkpoint, *arguments)
    (line,) = (line for line in error.splitlines() if line.startswith("sample.py: "))
    assert status == 2 and message in line and "Traceback" not in error and not printed
    assert not list(checkpoint.parent.glob("*.png")) and not list(checkpoint.parent.glob("outputs/*"))


@pytest.fixture
def talker(tiny: Callable, checkpoint: Path) -> Path:
    """A checkpoint with room for several pictures, beside one."""
    tiny(max_length=200, loudness=0.3).save_pretrained(checkpoint.parent / "talker")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save("in.png")
    return checkpoint.parent / "talker"


def test_a_picture_is_edited_described_asked_about_and_filled(talker: Path, tiny: Callable, call: Callable):
    plantain = tiny(max_length=200, loudness=0.3)
    status, printed, _ = call(
        sample, "make it red", "--image", "in.png", "--checkpoint", talker, "--out", "a.png", "--scale", 1
    )
    assert status == 0 and printed.startswith("a.png  (1 pictures")
    expected = plantain.edit("in.png", "make it red").images[0]
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(expected))
    assert Image.open("a.png").text["image"] == "in.png"  # pyright: ignore[reportAttributeAccessIssue]
    assert call(sample, "--image", "in.png", "--checkpoint", talker)[1] == plantain.describe("in.png")[0] + "\n"
    best = call(sample, "--image", "in.png", "--best-of", 3, "--seed", 2, "--checkpoint", talker)
    assert best[1] == plantain.describe("in.png", seed=2, best_of=3)[0] + "\n"
    asked = call(sample, "--image", "in.png", "--ask", "how many?", "--checkpoint", talker)
    assert asked[1] == plantain.ask("in.png", "how many?")[0] + "\n"
    Image.new("L", (12, 8), 255).save("mask.png")
    arguments = ("a ring", "--image", "in.png", "--mask", "mask.png", "--checkpoint", talker, "--out", "b.png")
    assert call(sample, *arguments, "--scale", 1)[0] == 0 and Image.open("b.png").size == (12, 8)


def test_a_chat_answers_each_line_and_goes_on_after_one_that_does_not_fit(
    talker: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.reading.MOST_WRITTEN", 8)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\n" + "why " * 120 + "\nonce more\n"))
    status, printed, _ = call(sample, "--chat", "--image", "in.png", "--checkpoint", talker, "--out", "all.png")
    assert status == 0 and len(re.findall(r"^\((?:a conversation|\d+ ids|a prompt)", printed, re.MULTILINE)) == 1
    assert len(printed.splitlines()) >= 3
    drawn = re.findall(r"outputs/\S+\.png", printed)
    assert all(Path(path).exists() for path in drawn) and Path("all.png").exists() == bool(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "mask.png", "a"], "--mask says where to draw anew"),
        (["--ask", "how many?"], "--ask is about a picture"),
        (["--ask", "how many?", "--image", "in.png", "--best-of", "2"], "--best-of is for what is drawn or described"),
        (["--image", "in.png", "--effort", "auto"], "--effort for what is drawn"),
        (["a", "b", "--image", "in.png"], "2 prompts for --image: give one"),
        (["a", "--image", "in.png", "--best-of", "2"], "--best-of is nothing that `edit` knows"),
        (["a", "--image-guidance", "2"], "--image-guidance is nothing that `generate` knows"),
        (["a", "--image", "none.png"], "none.png"),
        (["a", "b", "--film", "a.gif"], "--film shows one picture"),
        (["a", "--film", "a.gif", "--out", "a.png"], "--film shows one picture"),
        (["a", "--film", "a.gif", "--image-guidance", "2"], "--image-guidance is nothing that `generate` knows"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], message: str, talker: Path, call: Callable):
    status, printed, error = call(sample, *arguments, "--checkpoint", talker)
    assert status == 2 and message in error and not printed and not Path("outputs").exists()


def test_the_demos_pictures_show_what_their_prompts_say():
    from data.shapes.captions import parse_caption
    from data.shapes.checker import check
    from data.shapes.scene import WORLDS
    from model import Plantain

    drawn = Plantain.from_pretrained(sample.SHIPPED, "cpu").generate(sample.DEMO)
    for prompt, image in zip(sample.DEMO, drawn.images, strict=True):
        verdict = check(np.asarray(image), parse_caption(prompt), WORLDS["shapes64"])
        assert verdict.ok, (prompt, verdict)


def test_sampling_without_a_prompt_says_what_to_type(call: Callable):
    status, _, error = call(sample)
    assert status == 2 and 'python sample.py "two red circles"' in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizer.loop.num_stepz=3", "the nearest is 'tokenizer.loop.num_steps'"),
        ("tokenizer.data.image_sise=3", "the nearest is 'tokenizer.data.image_size'"),
        ("model.network.dim=x", "model.network.dim: got 'x', expected int"),
        ("modle.loop.num_steps=3", "the nearest is 'model'"),
        ("tokenizer.loop.num_steps=0", "num_steps is 0, but must be at least 1"),
        ("tokenizer.data.kind=house", "tokenizer.data.kind: got 'house', expected 'shapes' or 'images'"),
    ],
)
def test_a_wrong_training_setting_is_one_line_and_starts_nothing(
    override: str, message: str, call: Callable, tmp_path: Path
):
    out = tmp_path / "run"
    status, _, error = call(train, "--config", ROOT / "configs/debug.yaml", f"tokenizer.loop.out={out}", override)
    assert status == 2 and error.startswith("train.py: ") and message in error and error.count("\n") == 1
    assert not out.exists()


def test_training_without_its_image_tokenizer_says_where_it_was_looked_for(call: Callable, tmp_path: Path):
    arguments = ("tokenizer=null", f"model.loop.out={tmp_path / 'run'}", f"model.tokenizer={tmp_path / 'none'}")
    status, _, error = call(train, "--config", ROOT / "configs/debug.yaml", *arguments)
    assert status == 2 and re.search("train.py: no checkpoint folder at .*none", error)


def test_a_config_without_any_run_says_what_it_needs(call: Callable):
    status, _, error = call(train, "--config", ROOT / "configs/debug.yaml", "tokenizer=null", "model=null")
    assert status == 2 and "needs one of the sections tokenizer, decoder, reading, model, reinforced, twin" in error


def test_a_missing_config_says_which_there_are(call: Callable):
    status, _, error = call(train, "--config", ROOT / "configs/nothing.yaml")
    assert status == 2 and "no config file" in error and "debug.yaml" in error
