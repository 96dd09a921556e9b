"""The page in Gradio: components, who answers which event, and the server around it."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefusion.app import view
from framefusion.app.desk import Desk
from framefusion.app.guard import Guard
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

ABANDONED_SECONDS = 600.0
"""Age of an upload that its page has not taken."""

Tell = Callable[[BaseException], str]
"""An error as a sentence."""


@dataclass(frozen=True)
class Opening:
    """What the page says and offers at first.

    Attributes:
        model: its name.
        cost: where the budget stands; None where the settings say all, and there is nothing to move.
        frames: of a video; None where its playing time decides.
        questions: to choose from.
    """

    model: str
    cost: float | None
    frames: int | None
    questions: tuple[str, ...] = ()


class Page:
    """The page over a desk.

    Args:
        desk: what answers.
        opening: what is there at first.
        tell: makes a sentence of an error.
    """

    def __init__(self, desk: Desk, opening: Opening, tell: Tell) -> None:
        self.desk, self.opening, self.tell = desk, opening, tell

    def blocks(self) -> Any:
        """The components, and what happens when they are used."""
        with gr.Blocks(title="framefusion", analytics_enabled=False, fill_width=True) as made:
            gr.HTML(self._head())
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    upload, example, question, cost, frames, compare, ask = self._asking()
                    status = gr.HTML(view.said("Choose a video and ask."), elem_id="status")
                with gr.Column(scale=3, min_width=320):
                    answers = gr.HTML("", elem_id="answers")
                    player = gr.HTML("", elem_id="player", js_on_load=(HERE / "player.js").read_text(encoding="utf-8"))
                    with gr.Column(visible=False) as behind:
                        command, costs, following, history, follow, talk = self._behind()
            taken = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
            taken |= {"show_progress_on": status}
            shown = [upload, example, status, answers, player, behind, talk]
            upload.upload(self.show_upload, [upload, frames], shown, **taken)
            example.input(self.show_example, [example, frames], shown, **taken)
            told = [status, answers, player, behind, talk, command, costs]
            for event in (ask.click, question.submit):
                event(self.ask, [question, cost, frames, compare, example], told, **taken)
            for event in (follow.click, following.submit):
                event(self.follow, [following, history], [status, talk, following], **taken)
            made.unload(self.leave)
        made.queue(max_size=self.desk.limits.waiting, api_open=False)
        return made

    def _asking(self) -> tuple[Any, ...]:
        """What is asked, and how."""
        limits, opening = self.desk.limits, self.opening
        names = list(self.desk.examples)
        upload = gr.File(
            label=f"Your video or photograph: up to {limits.upload / 2**20:,.0f} MiB and {limits.seconds:,.0f} s",
            elem_id="upload",
            height=170,
        )
        example = gr.Radio(names, value=names[0] if names else None, label="Or a bundled video", elem_id="example")
        question = gr.Textbox(
            label="Question",
            value=opening.questions[0] if opening.questions else "",
            max_length=limits.characters,
            lines=1,
            elem_id="question",
        )
        if opening.questions:
            gr.Examples([[one] for one in opening.questions], [question], label="Questions about the first one")
        cost = gr.Slider(
            minimum=min(0.02, opening.cost or 1),
            maximum=1,
            step=0.01,
            value=opening.cost or 1,
            visible=opening.cost is not None,
            label="Budget: mean share of visual tokens over the layers",
            elem_id="cost",
        )
        frames = gr.Slider(
            minimum=1,
            maximum=limits.frames,
            step=1,
            value=opening.frames or 1,
            visible=opening.frames is not None,
            label="Frames",
            elem_id="frames",
        )
        compare = gr.Checkbox(True, label="Answer with all tokens, too", elem_id="compare")
        ask = gr.Button("Ask", variant="primary", elem_id="ask")
        return upload, example, question, cost, frames, compare, ask

    def _behind(self) -> tuple[Any, ...]:
        """What comes behind an answer."""
        following = gr.Textbox(
            label="Follow-up question",
            info="What was kept is held: only the question is read.",
            max_length=self.desk.limits.characters,
            lines=1,
            elem_id="following",
        )
        history = gr.Checkbox(False, label="It sees the earlier questions and their answers", elem_id="history")
        follow = gr.Button("Ask the follow-up", elem_id="follow")
        talk = gr.HTML("", elem_id="talk")
        costs = gr.HTML("", elem_id="costs")
        command = gr.Textbox(
            label="The same on the command line",
            lines=2,
            interactive=False,
            buttons=["copy"],
            elem_id="command",
        )
        return command, costs, following, history, follow, talk

    def show_upload(self, path: str | None, frames: float | None, request: gr.Request) -> tuple[Any, ...]:
        """A file was dropped."""
        if path is None:
            return (gr.skip(),) * 7

        def show() -> tuple[Any, ...]:
            shown = self.desk.show_upload(_name(request), path, self._frames(frames))
            return None, None, view.told_shown(*shown), "", view.preview(*shown), gr.update(visible=False), ""

        return self._told(show, lambda wrong: (None, gr.skip(), wrong, *(gr.skip(),) * 4))

    def show_example(self, example: str, frames: float | None, request: gr.Request) -> tuple[Any, ...]:
        """A bundled video was chosen."""

        def show() -> tuple[Any, ...]:
            shown = self.desk.show_example(_name(request), example, self._frames(frames))
            return None, example, view.told_shown(*shown), "", view.preview(*shown), gr.update(visible=False), ""

        return self._told(show, lambda wrong: (gr.skip(), gr.skip(), wrong, *(gr.skip(),) * 4))

    def ask(
        self,
        question: str,
        cost: float,
        frames: float | None,
        compare: bool,
        example: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio finds it)
    ) -> tuple[Any, ...]:
        """A question was asked."""

        def ask() -> tuple[Any, ...]:
            outcome = self.desk.ask(
                _name(request),
                question,
                None if self.opening.cost is None else cost,
                self._frames(frames),
                compare=compare,
                example=example,
                progress=lambda step: progress(None, desc=step),
            )
            player, costs = view.player(outcome.data), view.costs(outcome)
            shown = gr.update(visible=True)
            return view.said("Answered."), view.answers(outcome), player, shown, "", outcome.data.command, costs

        return self._told(ask, lambda wrong: (wrong, *(gr.skip(),) * 6))

    def follow(
        self,
        question: str,
        history: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        """A question followed."""

        def follow() -> tuple[Any, ...]:
            turns = self.desk.follow(
                _name(request), question, history=history, progress=lambda step: progress(None, desc=step)
            )
            return view.said("Answered."), view.talk(turns), ""

        return self._told(follow, lambda wrong: (wrong, gr.skip(), gr.skip()))

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.desk.visits.leave(_name(request))

    def _told(self, work: Callable[[], tuple[Any, ...]], instead: Callable[[str], tuple[Any, ...]]) -> tuple[Any, ...]:
        """What some work gives; an error is told on the page, where all else stays."""
        try:
            return work()
        except Exception as error:
            return instead(view.refused(self.tell(error)))

    def _frames(self, given: float | None) -> int | None:
        return None if self.opening.frames is None or given is None else int(given)

    def _head(self) -> str:
        return view.head(self.opening.model)


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
    with tempfile.TemporaryDirectory(prefix="framefusion-uploads-") as uploads, _uploads_in(uploads):
        made = Page(desk, opening, tell).blocks()
        try:
            _, address, public = made.launch(
                server_name=host,
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
def _uploads_in(folder: str) -> Iterator[None]:
    """Let Gradio put uploads into a folder of this server alone, which it takes from the environment only."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def _sweep(desk: Desk, uploads: Path, ended: threading.Event) -> None:
    while not ended.wait(SWEEP_SECONDS):
        desk.visits.sweep()
        delete_abandoned(uploads, time.time() - ABANDONED_SECONDS)


def delete_abandoned(uploads: Path, before: float) -> None:
    """Delete the uploads that came before a time: their pages did not take them."""
    for path in sorted(uploads.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path.stat().st_mtime < before:
                path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # taken meanwhile, or something came into the folder
            continue
