"""The page in Gradio: components, who answers which event, and the server around it."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from framefusion.app import view
from framefusion.app.desk import Desk, Progress, Shown
from framefusion.app.guard import Guard
from framefusion.asking.media import Media
from framefusion.errors import ArgumentError, MissingDependencyError, StateError

try:
    import gradio as gr
except ImportError as error:
    raise MissingDependencyError("the page needs Gradio: pip install 'framefusion[app]'") from error

HERE = Path(__file__).parent

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
"""What the reader's machine has: nothing is fetched."""

SWEEP_SECONDS = 60.0
"""How often visits are ended that nobody uses, and uploads deleted that nobody took."""

Changes = dict[Any, Any]
"""What a component of the page becomes."""

Tell = Callable[[BaseException], str]
"""An error as a sentence."""


@dataclass(frozen=True)
class Opening:
    """What the page says and offers at first.

    Attributes:
        model: its name.
        cost: where the budget stands; None where the settings say all, and there is nothing to move.
        frames: of a video; None where its playing time decides.
        questions: to choose from, about the first bundled video.
        knows: what the model knows, in a sentence; empty to say nothing of it.
    """

    model: str
    cost: float | None
    frames: int | None
    questions: tuple[str, ...] = ()
    knows: str = ""


class Page:
    """The page over a desk; a page of Gradio is made of it once.

    Args:
        desk: what answers.
        opening: what is there at first.
        tell: makes a sentence of an error.
    """

    def __init__(self, desk: Desk, opening: Opening, tell: Tell) -> None:
        self.desk, self.opening, self.tell = desk, opening, tell
        with gr.Blocks(title="framefusion", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(view.head(opening.model, opening.knows))
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._show_controls()
                with gr.Column(scale=3, min_width=320):
                    self._show_results()
            self._connect()
        self.blocks.queue(max_size=desk.limits.waiting, api_open=False)

    def _show_controls(self) -> None:
        """What is asked, and how."""
        limits, opening = self.desk.limits, self.opening
        names = list(self.desk.examples)
        self.upload = gr.File(
            label=f"Your video or photograph: up to {limits.upload / 2**20:,.0f} MiB and {limits.seconds:,.0f} s",
            height=170,
            elem_id="upload",
        )
        self.example = gr.Radio(names, value=names[0], label="Or a bundled video", elem_id="example")
        self.question = gr.Textbox(
            value=next(iter(opening.questions), ""),
            label="Question",
            max_length=limits.characters,
            lines=1,
            elem_id="question",
        )
        # Not gr.Examples, whose choice is a call that the guard does not let in.
        self.questions = gr.Dataset(
            components=[self.question],
            samples=[[one] for one in opening.questions],
            label=f"Questions about {names[0]}",
            visible=bool(opening.questions),
            elem_id="questions",
        )
        self.cost = gr.Slider(
            minimum=min(0.02, opening.cost or 1),
            maximum=1,
            step=0.01,
            value=opening.cost or 1,
            visible=opening.cost is not None,
            label="Budget: mean share of visual tokens over the layers",
            elem_id="cost",
        )
        self.frames = gr.Slider(
            minimum=1,
            maximum=limits.frames,
            step=1,
            value=opening.frames or 1,
            visible=opening.frames is not None,
            label="Frames",
            elem_id="frames",
        )
        self.compare = gr.Checkbox(True, label="Answer with all tokens, too", elem_id="compare")
        self.asks = gr.Button("Ask", variant="primary", elem_id="ask")
        self.status = gr.HTML(view.said("Ask about the chosen video, or drop your own."), elem_id="status")

    def _show_results(self) -> None:
        """What comes of it."""
        self.answers = gr.HTML("", elem_id="answers")
        script = (HERE / "player.js").read_text(encoding="utf-8")
        self.player = gr.HTML("", js_on_load=script, elem_id="player")
        with gr.Column(visible=False) as self.behind:
            self.following = gr.Textbox(
                label="Follow-up question",
                info="What was kept is held: only the question is read.",
                max_length=self.desk.limits.characters,
                lines=1,
                elem_id="following",
            )
            self.history = gr.Checkbox(
                False, label="It sees the earlier questions and their answers", elem_id="history"
            )
            self.follows = gr.Button("Ask the follow-up", elem_id="follow")
            self.talk = gr.HTML("", elem_id="talk")
            self.costs = gr.HTML("", elem_id="costs")
            self.command = gr.Textbox(
                label="The same on the command line",
                lines=2,
                interactive=False,
                buttons=["copy"],
                elem_id="command",
            )

    def _connect(self) -> None:
        """Who answers which event: one at a time, as all share the model."""
        results = [self.status, self.answers, self.player, self.behind, self.talk]
        common: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        common |= {"show_progress_on": self.status}
        shown = [self.upload, self.example, *results]
        self.upload.upload(self.show_upload, [self.upload, self.frames], shown, **common)
        self.example.input(self.show_example, [self.example, self.frames], shown, **common)
        asked = [self.question, self.cost, self.frames, self.compare, self.example]
        self.questions.click(
            lambda sample: sample[0], self.questions, self.question, show_progress="hidden", api_visibility="private"
        )
        for event in (self.asks.click, self.question.submit):
            event(self.ask, asked, [*results, self.command, self.costs], **common)
        for event in (self.follows.click, self.following.submit):
            event(self.follow, [self.following, self.history], [self.status, self.talk, self.following], **common)
        self.blocks.unload(self.leave)

    def show_upload(self, path: str | None, frames: float | None, request: gr.Request) -> Iterator[Changes]:
        """A file was dropped."""

        def show(progress: Progress) -> Changes:
            if path is None:
                return {}
            progress("Looking at the file")
            return {
                self.example: None,
                **self._shown(*self.desk.show_upload(_name(request), path, self._count(frames))),
            }

        for changes in self._told(show):
            # The next file may be dropped at once, whatever became of this one.
            yield {self.upload: None, **changes}

    def show_example(self, example: str, frames: float | None, request: gr.Request) -> Iterator[Changes]:
        """A bundled video was chosen."""

        def show(progress: Progress) -> Changes:
            return self._shown(*self.desk.show_example(_name(request), example, self._count(frames)))

        yield from self._told(show)

    def ask(
        self,
        question: str,
        cost: float,
        frames: float | None,
        compare: bool,
        example: str | None,
        request: gr.Request,
    ) -> Iterator[Changes]:
        """A question was asked."""

        def ask(progress: Progress) -> Changes:
            outcome = self.desk.ask(
                _name(request),
                question,
                None if self.opening.cost is None else cost,
                self._count(frames),
                compare=compare,
                example=example,
                progress=progress,
            )
            return {
                self.status: view.said("Answered."),
                self.answers: view.answers(outcome),
                self.player: view.player(outcome.data),
                self.behind: gr.update(visible=True),
                self.talk: "",
                self.command: outcome.data.command,
                self.costs: view.costs(outcome),
            }

        yield from self._told(ask)

    def follow(self, question: str, history: bool, request: gr.Request) -> Iterator[Changes]:
        """A question followed."""

        def follow(progress: Progress) -> Changes:
            turns = self.desk.follow(_name(request), question, history=history, progress=progress)
            return {self.status: view.said("Answered."), self.talk: view.talk(turns), self.following: ""}

        yield from self._told(follow)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.desk.visits.leave(_name(request))

    def _shown(self, shown: Shown, medium: Media) -> Changes:
        return {
            self.status: view.told_shown(shown, medium),
            self.answers: "",
            self.player: view.preview(shown, medium),
            self.behind: gr.update(visible=False),
            self.talk: "",
        }

    def _told(self, work: Callable[[Progress], Changes]) -> Iterator[Changes]:
        """The steps of some work as they come, then what it changes; an error is told, and all else stays."""
        steps: SimpleQueue[str | None] = SimpleQueue()
        with ThreadPoolExecutor(1) as aside:
            done = aside.submit(work, steps.put)
            done.add_done_callback(lambda _: steps.put(None))
            while (step := steps.get()) is not None:
                yield {self.status: view.said(f"{step} …")}
            try:
                yield done.result()
            except Exception as error:
                yield {self.status: view.refused(self.tell(error))}

    def _count(self, frames: float | None) -> int | None:
        return None if self.opening.frames is None or frames is None else int(frames)


def _name(request: gr.Request) -> str:
    """What Gradio calls an open page."""
    return str(request.session_hash)


@contextmanager
def served(
    desk: Desk, opening: Opening, tell: Tell, *, host: str = "127.0.0.1", port: int = 0, share: bool = False
) -> Iterator[tuple[str, str | None]]:
    """The page at an address, as long as the context lasts; all that visitors left is deleted behind it.

    Args:
        desk: what answers.
        opening: what is there at first.
        tell: makes a sentence of an error.
        host: to listen on.
        port: likewise; 0 for any that is free.
        share: whether Gradio's relay makes it public.

    Returns:
        its address, and the public one.

    Raises:
        ArgumentError: the port cannot be listened on.
        StateError: it could not be shared.
    """
    port = _free(host, port)
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="framefusion-uploads-") as uploads, _told_to_gradio(uploads, host):
        made = Page(desk, opening, tell).blocks
        try:
            _, address, public = made.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                share=share,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
                show_error=False,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                max_file_size=desk.limits.upload,
                theme=_theme(),
                css_paths=[HERE / "page.css", *view.STYLES],
                # As Starlette unpacks its Middleware.
                app_kwargs={"middleware": [(Guard, (), {})]},
            )
            if share and public is None:
                raise StateError("the page could not be shared: Gradio's relay is not reachable; leave out --share")
            sweeper = threading.Thread(target=_sweep, args=(desk, Path(uploads), ended), daemon=True)
            sweeper.start()
            yield address, public
        finally:
            ended.set()
            made.close(verbose=False)
            desk.close()


def _theme() -> Any:
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="gray", font=FONT, font_mono=MONO)
    subdued = {"body_text_color_subdued": "*neutral_600", "block_label_text_color": "*neutral_600"}
    subdued |= {"block_info_text_color": "*neutral_600", "block_title_text_color": "*neutral_600"}
    dark = {f"{name}_dark": "*neutral_300" for name in subdued}
    button = {f"button_primary_background_fill{end}": "*primary_700" for end in ("", "_dark")}
    button |= {f"button_primary_background_fill_hover{end}": "*primary_800" for end in ("", "_dark")}
    button |= {f"button_primary_text_color{end}": "white" for end in ("", "_dark")}
    return theme.set(**subdued, **dark, **button, slider_color="*primary_700", slider_color_dark="*primary_400")


def _free(host: str, port: int) -> int:
    """A port that can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asked.bind((host, port))
            return int(asked.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ArgumentError(f"{host}:{port} cannot be listened on ({reason}); give another --host or --port") from error


@contextmanager
def _told_to_gradio(uploads: str, host: str) -> Iterator[None]:
    """What Gradio takes from the environment only: a folder of this server alone, and that its own first look at the
    page goes through no proxy."""
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), host, "127.0.0.1", "localhost"]
    wanted = {"GRADIO_TEMP_DIR": uploads, "no_proxy": ",".join(filter(None, direct))}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _sweep(desk: Desk, uploads: Path, ended: threading.Event) -> None:
    while not ended.wait(SWEEP_SECONDS):
        desk.visits.sweep()
        delete_abandoned(uploads, time.time() - desk.limits.idle)


def delete_abandoned(uploads: Path, before: float) -> None:
    """Delete the uploads that came before a time: their pages did not take them."""
    for path in sorted(uploads.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path.stat().st_mtime < before:
                path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # taken meanwhile, or something came into the folder
            continue
