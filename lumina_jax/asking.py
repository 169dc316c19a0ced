"""`sample.py --task`: pictures and words in, answers as PNG files or text out; conversations, line by line."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lumina_jax.dims import pick
from lumina_jax.image_files import check_folder, check_png_path, picture_name
from lumina_jax.paths import as_path, write_bytes
from lumina_jax.sampling.interleaved import Kind
from lumina_jax.unirep.grid import parse_size
from lumina_jax.unirep.tasks import TASKS

if TYPE_CHECKING:
    from lumina_jax.chat import Chat, Reply
    from lumina_jax.generated_image import GeneratedImage
    from lumina_jax.lumina import Lumina

# Every task of a command line: the method of `Lumina` that answers it, and the word that it wants beside pictures.
ASKED = {
    "segmentation": ("segment", None),
    "depth": ("depth", None),
    "normals": ("normals", None),
    "pose": ("pose", None),
    "detection": ("detect", "phrase"),
    "edit": ("edit", "instruction"),
    "image_condition": ("generate_from", "caption"),
    "multi_view": ("views", "caption"),
    "question": ("answer", "question"),
    "describe": ("describe", None),
    "chat": ("chat", None),
}
COMMANDS = ":image FILE, :draw CAPTION, :want image|text|free, :save FILE.png, :quit"


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    task: str
    images: tuple[Path, ...] = ()
    words: tuple[str, ...] = ()  # captions, phrases, instructions or questions
    out: Path | None = (
        None  # a .png for one image, a folder for several, a .txt for text; None: the default
    )
    size: tuple[int, int] | None = None
    seed: int = 0
    views: int | None = None
    settings: dict[str, Any] = field(
        default_factory=dict
    )  # fields of SampleConfig, None where not named


def asked_by(options: Any, task: str, settings: dict[str, Any]) -> Asked:
    """What the options of `sample.py` ask for; ValueError of one line for those that no task reads."""
    alone = ("prompts", "negative_prompt", "outpaint", "inpaint", "mask", "contact_sheet")
    alone += ("resume", "distributed")
    odd = [name for name in alone if getattr(options, name)]
    odd += ["batch"] * (options.batch is not None)
    odd += ["best_of"] * (options.best_of != 1) + ["grammar"] * (options.grammar == "original")
    if odd:
        raise ValueError(f"--{odd[0].replace('_', '-')}: not with --task {task}")
    return Asked(
        task,
        options.image,
        options.prompt,
        options.out,
        None if options.size is None else parse_size(options.size),
        options.seed,
        options.views,
        settings,
    )


def check(asked: Asked) -> None:
    """ValueError or OSError of one line for what cannot be asked; before any model is read."""
    _, word = pick(ASKED, asked.task, "task")
    task = TASKS[asked.task]
    if word is not None and not asked.words:
        raise ValueError(f'task {asked.task!r}: wants its {word}, --{word} "…" (or --prompt)')
    if word is None and asked.words:
        where = "type it as a turn" if asked.task == "chat" else "leave it out"
        raise ValueError(f"task {asked.task!r}: takes no --prompt; {where}")
    if any(not words.strip() for words in asked.words):
        raise ValueError(f'task {asked.task!r}: empty {word}, say it: --{word} "…" (or --prompt)')
    if asked.size is not None and task.answer == "text" and asked.task != "chat":
        raise ValueError(f"task {asked.task!r}: answers in words; leave out --size")
    if asked.out is not None and asked.task == "chat":
        raise ValueError(f"--out {asked.out}: not with --task chat; :save FILE.png keeps a picture")
    if task.num_images and not asked.images and asked.task != "question":
        raise ValueError(f"task {asked.task!r}: wants a picture, --image FILE")
    if asked.task == "multi_view" and asked.images:
        raise ValueError("task 'multi_view': paints from words alone; leave out --image")
    if asked.views is not None and (asked.task != "multi_view" or asked.views < 1):
        raise ValueError(f"--views {asked.views}: a number from 1, for --task multi_view")
    counts = {len(asked.images), len(asked.words)} - {0, 1}
    if asked.task not in ("question", "chat") and len(counts) > 1:
        raise ValueError(
            f"{len(asked.images)} images and {len(asked.words)} {word}s: want one each, or equally many"
        )
    for path in asked.images:
        if not as_path(path).is_file():
            raise FileNotFoundError(f"{path}: no such image file")
    if asked.task != "chat":
        _paths(asked)


def answer_all(model: "Lumina", asked: Asked) -> None:
    """Answer everything; text is printed, images are saved and their files named."""
    method, word = ASKED[asked.task]
    options = {"seed": asked.seed, **asked.settings}
    paths, images, words = _paths(asked), list(asked.images), list(asked.words)
    if TASKS[asked.task].answer == "text":
        if word:
            answers = model.answer(words, [images] * len(words), **options)
        else:
            answers = getattr(model, method)(images, **options)
        print("\n".join(answers))
        if paths:
            write_bytes(as_path(paths[0]), ("\n".join(answers) + "\n").encode())
        return
    given = {"size": asked.size, "progress": True, **options}
    if asked.task == "multi_view":
        several = model.views(words, views=asked.views, **given)
        _save_views(asked, several)
        return
    painted = getattr(model, method)(images, *([words] if word else []), **given)
    for path, image in zip(paths, painted, strict=True):
        print(image.save(path))


def chat_loop(
    model: "Lumina", asked: Asked, lines: Iterable[str], out: TextIO, is_terminal: bool
) -> None:
    """Read turns and commands (COMMANDS), a line each, and print the answers, until :quit or the end.

    On a terminal a wrong line is answered by its error; through a pipe it ends the conversation with it.
    """
    talk = Talk(model.chat(asked.seed, **asked.settings), asked)
    if is_terminal:
        print(f"say something; commands: {COMMANDS}", file=out)
    for line in lines:
        text = line.strip()
        if text == ":quit":
            return
        try:
            if text:
                print(talk.hear(text), file=out, flush=True)
        except (ValueError, OSError) as error:
            if not is_terminal:
                raise
            print(f"error: {' '.join(str(error).splitlines())}", file=out, flush=True)


class Talk:
    """A conversation of lines."""

    def __init__(self, chat: "Chat", asked: Asked):
        """`asked.images` are shown with the first turn, `asked.size` is that of all images."""
        self.chat, self.size = chat, asked.size
        self.shown: list[Path] = list(asked.images)
        self.want: Kind | None = None
        self.newest: GeneratedImage | None = None

    def hear(self, line: str) -> str:
        """What is answered to a line."""
        if not line.startswith(":"):
            reply = self.chat.send(line, self.shown, self.size, self.want)
            self.shown = []
            return self._told(reply)
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        commands = {
            "image": self._show,
            "draw": self._draw,
            "want": self._choose,
            "save": self._save,
        }
        if name not in commands or not rest:
            raise ValueError(f"{line!r}: want one of {COMMANDS}")
        return commands[name](rest)

    def _show(self, path: str) -> str:
        if not as_path(path).is_file():
            raise FileNotFoundError(f"{path}: no such image file")
        self.shown.append(Path(path))
        return f"({path} goes with the next turn)"

    def _draw(self, caption: str) -> str:
        return self._told(self.chat.draw(caption, self.size))

    def _choose(self, kind: str) -> str:
        kinds: dict[str, Kind | None] = {"image": "image", "text": "text", "free": None}
        self.want = pick(kinds, kind, "kind of answer")
        return f"(answers: {kind})"

    def _save(self, path: str) -> str:
        if self.newest is None:
            raise ValueError(f":save {path}: nothing is painted yet")
        return str(self.newest.save(path))

    def _told(self, reply: "Reply") -> str:
        if reply.images:
            self.newest = reply.images[-1]
        marks = [
            "(an image of {}x{} px; :save FILE.png keeps it)".format(*i.size) for i in reply.images
        ]
        cut = [] if reply.is_finished else ["(the conversation has no room for more)"]
        return "\n".join([*([reply.text] if reply.text else []), *marks, *cut])


def run(model: "Lumina", asked: Asked) -> None:
    """Answer what is asked; a chat reads standard input."""
    if asked.task == "chat":
        chat_loop(model, asked, sys.stdin, sys.stdout, sys.stdin.isatty())
    else:
        answer_all(model, asked)


def _paths(asked: Asked) -> list[Path]:
    """Where the answers go; ValueError or OSError of one line where they cannot."""
    out, is_text = asked.out, TASKS[asked.task].answer == "text"
    if is_text:
        if out is None:
            return []
        if out.suffix.lower() != ".txt":
            raise ValueError(f"--out {out}: task {asked.task!r} answers in words; name a .txt file")
        check_folder(as_path(out).parent)
        return [out]
    out = out or Path("sample.png")
    count = max(len(asked.images), len(asked.words))
    several = count > 1 or asked.task == "multi_view"
    if out.suffix.lower() == ".png" and not (several and asked.out is None):
        if several:
            raise ValueError(f"--out {out}: one file for several images; name a folder")
        check_png_path(out)
        return [out]
    folder = out if asked.out is not None else Path("samples")
    if folder.suffix:
        raise ValueError(f"--out {out}: images are written as PNG; name a .png file, or a folder")
    check_folder(folder)
    names = [f"{asked.task} {word}" for word in _labels(asked, count)]
    return [folder / picture_name(*pair) for pair in enumerate(names)]


def _labels(asked: Asked, count: int) -> Sequence[str]:
    labels = asked.words or tuple(as_path(path).stem for path in asked.images)
    return labels * count if len(labels) == 1 else labels


def _save_views(asked: Asked, several: "Sequence[Sequence[GeneratedImage]]") -> None:
    for path, views in zip(_paths(asked), several, strict=True):
        for place, image in enumerate(views, 1):
            print(image.save(path.with_name(f"{path.stem}-view-{place}.png")))
